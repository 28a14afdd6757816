"""Weights are read safely, are those that were planned, and are not tested on what they saw."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from training_sweeps import plan_of

from jobs.run import work_through
from toolkit import data
from toolkit.cluster.run_folder import RunFolder
from toolkit.encoding.similarity import array_statistics, compare_representations
from toolkit.features.store import FeatureStore
from toolkit.models import ModelSpec, WeightsChangedError, load_network
from toolkit.plan import Plan, features_id
from toolkit.results import read_scores
from toolkit.task import Task
from toolkit.training import load_trained
from toolkit.yaml_source import ConfigError

DATA = "{kind: synthetic, n_train: 60, n_val: 30, n_neuroids: 5, image_px: 32, n_categories: 3}"
READ_OUT = f"""\
name: tiny
dataset: {DATA}
models: [{{library: LIBRARY, names: NAME, weights: "WEIGHTS", layers: [LAYER]}}]
readouts: [{{kind: ridge, n_components: 5}}]
"""
TRAINING = f"""\
name: tiny
dataset: {DATA}
training:
  small:
    network: {{library: shallow, channels: [4, 8], input_px: 32}}
    objectives: category
    recipe: {{n_epochs: 1, batch_size: 20, validation_share: 0.2}}
"""
USE = f"""\
name: tiny
dataset: {DATA}
models: [{{weights: "WEIGHTS", layers: ["1"]}}]
readouts: [{{kind: ridge, n_components: 5}}]
"""
START = f"""\
name: tiny
dataset: {DATA}
training:
  tuned:
    network: {{library: shallow, channels: [4, 8], input_px: 32, weights: "WEIGHTS"}}
    objectives: category
    recipe: {{n_epochs: 1, batch_size: 20}}
"""
NETWORKS = [("torchvision", "squeezenet1_1", "features.0"), ("timm", "test_resnet", "layer1")]


class Touch:
    """Pickles to a call that creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def reading_out(network: tuple[str, str, str], weights: Path) -> str:
    words = dict(zip(("LIBRARY", "NAME", "LAYER"), network, strict=True), WEIGHTS=str(weights))
    text = READ_OUT
    for word, value in words.items():
        text = text.replace(word, value)
    return text


def refusal(folder: Path, text: str, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        plan_of(folder, text, *overrides)
    message = str(caught.value)
    assert len(message) < 1000
    assert "weights_only" not in message
    return message


def written(plan: Plan, folder: Path) -> RunFolder:
    run = RunFolder(folder)
    run.create()
    run.write_plan(plan.tasks, {"name": plan.name})
    return run


def ran(plan: Plan, folder: Path) -> RunFolder:
    run = written(plan, folder)
    work_through(run, plan.tasks, 1)
    return run


def why_failed(run: RunFolder, task: Task) -> str:
    attempt = run.attempt(task.id)
    assert attempt is not None and attempt.state == "failed" and not run.is_done(task.id)
    return f"{attempt.error_class}: {attempt.error_message}"


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """FOLDER/TASK of a network trained on the training images, as ``run:`` wants it."""
    folder = tmp_path_factory.mktemp("small")
    plan = plan_of(folder, TRAINING)
    run = ran(plan, folder / "run")
    (task,) = plan.train
    assert run.is_done(task.id)
    return run.path / task.id


def file_of(trained: Path) -> Path:
    return trained.parent / "networks" / trained.name / "weights.safetensors"


def copied(trained: Path, folder: Path) -> Path:
    """The network in a folder that a test may change."""
    to = folder / "copy" / trained.name
    file_of(to).parent.mkdir(parents=True)
    shutil.copyfile(file_of(trained), file_of(to))
    return to


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("wrapped", [False, True])
def test_a_pickle_is_refused_in_plan_and_never_run(tmp_path, network, wrapped):
    marker, file = tmp_path / "ran", tmp_path / "a.pth"
    torch.save({"state_dict": Touch(marker)} if wrapped else Touch(marker), file)
    message = refusal(tmp_path, reading_out(network, file))
    assert "holds the Python object" in message and "models[0].weights: " in message
    assert not marker.exists()


@pytest.mark.parametrize("text", [USE, START], ids=["run", "start"])
def test_a_pickle_in_the_place_of_a_trained_network_is_refused_and_never_run(tmp_path, text, small):
    marker, to = tmp_path / "ran", copied(small, tmp_path)
    torch.save(Touch(marker), file_of(to))
    message = refusal(tmp_path, text.replace("WEIGHTS", f"run:{to}"))
    assert "is no network trained here" in message and "weights" in message
    assert not marker.exists()


def test_programs_are_refused(tmp_path):
    file = tmp_path / "a.pth"
    torch.jit.save(torch.jit.script(torch.nn.ReLU()), file)
    assert "TorchScript" in refusal(tmp_path, reading_out(NETWORKS[0], file))


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("name", ["a.pth", "a.safetensors"])
def test_a_cut_off_checkpoint_is_refused_in_plan(tmp_path, network, name):
    file = tmp_path / name
    state = load_network(ModelSpec(*network[:2])).module.state_dict()
    (safetensors.torch.save_file if name.endswith("s") else torch.save)(state, file)
    plan_of(tmp_path, reading_out(network, file))
    file.write_bytes(file.read_bytes()[:-1000])
    assert "damaged, cut off" in refusal(tmp_path, reading_out(network, file))


@pytest.mark.parametrize("network", NETWORKS)
def test_how_near_a_checkpoint_of_another_network_is_is_said_in_plan(tmp_path, network):
    state = load_network(ModelSpec(*network[:2])).module.state_dict()
    first, second, *_ = state
    torch.save({**state, first: torch.zeros(3), second + "x": torch.zeros(3)}, tmp_path / "a.pth")
    message = refusal(tmp_path, reading_out(network, tmp_path / "a.pth"))
    assert f"{len(state) - 1} of its {len(state) + 1} tensors" in message
    assert first in message and second + "x" in message


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("dtype", [torch.int8, torch.complex64, torch.bool])
def test_numbers_of_another_kind_are_refused_in_plan(tmp_path, network, dtype):
    state = load_network(ModelSpec(*network[:2])).module.state_dict()
    key = next(iter(state))
    torch.save({**state, key: state[key].to(dtype)}, tmp_path / "a.pth")
    message = refusal(tmp_path, reading_out(network, tmp_path / "a.pth"))
    name = str(dtype).removeprefix("torch.")
    assert "models[0].weights: " in message
    assert f"'{key}' is {name}, the network's own float32" in message


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_another_precision_are_loaded(tmp_path, network, dtype):
    state = load_network(ModelSpec(*network[:2], seed=5)).module.state_dict()
    state = {key: value.to(dtype) for key, value in state.items()}
    torch.save(state, tmp_path / "a.pth")
    plan_of(tmp_path, reading_out(network, tmp_path / "a.pth"))
    spec = ModelSpec(*network[:2], weights=str(tmp_path / "a.pth"))
    loaded = load_network(spec).module.state_dict()
    assert all(torch.equal(loaded[key], state[key].to(loaded[key].dtype)) for key in state)


@pytest.mark.parametrize("network", NETWORKS)
def test_weights_without_numbers_are_refused_in_plan(tmp_path, network):
    state = load_network(ModelSpec(*network[:2])).module.state_dict()
    key = next(iter(state))
    torch.save({**state, key: state[key].to("meta")}, tmp_path / "a.pth")
    message = refusal(tmp_path, reading_out(network, tmp_path / "a.pth"))
    assert f"holds no numbers for '{key}'" in message


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize(
    "names", [("state_dict", "state_dict_ema"), ("model", "model_ema"), ("model", "teacher")]
)
def test_of_several_sets_of_weights_none_is_taken(tmp_path, network, names):
    state = load_network(ModelSpec(*network[:2])).module.state_dict()
    torch.save({"epoch": 3, **dict.fromkeys(names, state)}, tmp_path / "a.pth")
    message = refusal(tmp_path, reading_out(network, tmp_path / "a.pth"))
    assert f"holds 2 sets of weights: {names[0]!r}, {names[1]!r}. Save the one" in message


@pytest.mark.parametrize("network", NETWORKS)
def test_a_training_state_of_one_set_of_weights_is_loaded(tmp_path, network):
    module = load_network(ModelSpec(*network[:2], seed=5)).module
    for parameter in module.parameters():
        parameter.requires_grad_(True).grad = torch.ones_like(parameter)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.0, momentum=0.9)
    optimizer.step()
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1)
    parts = {"optimizer": optimizer, "lr_scheduler": schedule}
    training = {name: part.state_dict() for name, part in parts.items()}
    torch.save({"model": module.state_dict(), **training, "epoch": 3}, tmp_path / "a.pth")
    spec = ModelSpec(*network[:2], weights=str(tmp_path / "a.pth"))
    loaded = load_network(spec).module.state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in module.state_dict().items())


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("prefix", ["_orig_mod.", "module._orig_mod.", "_orig_mod.module."])
def test_what_compiling_puts_before_names_is_taken_off(tmp_path, network, prefix):
    state = load_network(ModelSpec(*network[:2], seed=5)).module.state_dict()
    torch.save({prefix + key: value for key, value in state.items()}, tmp_path / "a.pth")
    spec = ModelSpec(*network[:2], weights=str(tmp_path / "a.pth"))
    loaded = load_network(spec).module.state_dict()
    assert all(torch.equal(loaded[key], state[key]) for key in state)


ZOO = """\
name: tiny
dataset: DATA
training:
  zoo:
    network: {library: timm, names: NAMES, weights: WEIGHTS, input_px: 32}
    objectives: category
    recipe: {n_epochs: 1}
"""


@pytest.mark.parametrize("where", ["models", "training"])
def test_every_wrong_entry_of_a_list_is_said_at_once(tmp_path, where):
    """What is refused of a list is what is refused of each of its entries alone."""
    good, bad = tmp_path / "good.pth", [tmp_path / f"{i}.pth" for i in range(3)]
    torch.save(load_network(ModelSpec("timm", "test_resnet")).module.state_dict(), good)
    bad[0].write_bytes(b"not a checkpoint")
    torch.save({"some": torch.zeros(3)}, bad[1])
    checkpoints = [str(one) for one in (bad[0], good, *bad[1:])]

    def refused(names: list[str], weights: list[str]) -> list[str]:
        text = READ_OUT.replace("LIBRARY", "timm").replace("LAYER", "layer1")
        text = text.replace("NAME,", "NAMES,").replace('"WEIGHTS"', "WEIGHTS")
        text = text.replace("{library", "{seeds: [1, 2], library")
        text = text if where == "models" else ZOO.replace("DATA", DATA)
        text = text.replace("NAMES", str(names)).replace("WEIGHTS", str(weights))
        with pytest.raises(ConfigError) as caught:
            plan_of(tmp_path, text)
        assert len(str(caught.value)) < 1000
        return [problem.partition(": ")[2].partition(": ")[2] for problem in caught.value.problems]

    one = ["test_resnet"]
    alone = [problem for path in map(str, bad) for problem in refused(one, [path])]
    assert len(alone) == 3
    assert refused(one, ["random", *checkpoints]) == alone
    unknown = ["test_resnett", "test_vitt"]
    alone = [problem for name in unknown for problem in refused([name], ["random"])]
    assert refused([unknown[0], *one, unknown[1]], ["random"]) == alone
    if where == "models":
        with pytest.raises(ConfigError) as caught:
            plan_of(
                tmp_path,
                reading_out(NETWORKS[1], Path("random")).replace("WEIGHTS", "random"),
                f"models.0.weights=[random, {good}, {bad[2]}]",
            )
        assert "models[0].weights[2]: " in str(caught.value)


def test_no_two_tasks_read_the_same(tmp_path):
    """Where a plan or a status names them: whatever their networks and trainings differ in."""
    paths = [tmp_path / name / "best.pth" for name in "ab"]
    for seed, path in enumerate(paths):
        path.parent.mkdir()
        torch.save(
            load_network(ModelSpec("timm", "test_resnet", seed=seed)).module.state_dict(), path
        )
    models = [
        f"{{library: timm, names: test_resnet, weights: {[*map(str, paths)]}, layers: [layer1]}}",
        "{library: timm, names: test_resnet, weights: random, seeds: [1, 2], layers: [layer1]}",
        "{library: timm, names: test_resnet, weights: random, seeds: 1, layers: [layer2, layer3]}",
        "{library: timm, names: resnet18, weights: random, layers: [layer1]}",
        "{library: torchvision, names: resnet18, weights: random, layers: [layer1]}",
        '{weights: "trained:small", layers: ["1"]}',
        '{weights: "trained:twin", layers: ["1"]}',
    ]
    other = TRAINING.partition("training:\n")[2].replace("small", "twin")
    plan = plan_of(
        tmp_path,
        TRAINING + other,
        f"models=[{', '.join(models)}]",
        "readouts=[{kind: ridge}, {kind: linear}]",
        "training.small.seeds=[1, 2]",
        "training.small.objectives=[{category: 1}, {mse: 1}]",
        "training.twin.recipe.optimizer={lr: 0.01}",
    )
    assert len(plan.train) == 5 and len(plan.extract) == 12
    for tasks in (plan.train, plan.extract, plan.encode):
        labels = [task.label for task in tasks]
        assert len(labels) == len(set(labels)), labels
    shown = {task.label for task in plan.extract}
    assert f"synthetic test_resnet checkpoint {paths[1]}" in shown
    assert "synthetic resnet18 random-0 of timm" in shown


def test_both_splits_that_are_not_there_are_said_at_once(tmp_path):
    message = refusal(tmp_path, TRAINING, "protocol={kind: fixed, train: tran, test: tst}")
    assert "no split 'tran'" in message and "no split 'tst'" in message


def test_planning_again_looks_at_the_content_not_at_the_time(tmp_path):
    """As ``cp -p`` and ``rsync -t`` leave it: of the same name, size and time."""
    file, network = tmp_path / "a.pth", NETWORKS[1]
    ids = set()
    for seed in (1, 2):
        torch.save(load_network(ModelSpec(*network[:2], seed=seed)).module.state_dict(), file)
        os.utime(file, ns=(10**18, 10**18))
        ids.add(plan_of(tmp_path, reading_out(network, file)).extract[0].id)
    assert len(ids) == 2


def overwritten(file: Path) -> None:
    """Flip the last bit, keep size and times."""
    before, content = file.stat(), file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("keep", ["full", "gram"])
def test_a_checkpoint_changed_after_planning_is_not_used(tmp_path, network, keep):
    file = tmp_path / "a.pth"
    torch.save(load_network(ModelSpec(*network[:2])).module.state_dict(), file)
    plan = plan_of(tmp_path, reading_out(network, file), f"features.keep={keep}")
    other = load_network(ModelSpec(*network[:2], seed=1)).module.state_dict()
    torch.save(other, file)
    run = ran(plan, tmp_path / "run")
    assert why_failed(run, plan.extract[0]).startswith("data_changed: ")
    assert not any(run.is_done(task.id) for task in plan.tasks)


def test_a_checkpoint_that_training_starts_from_is_the_planned_one(tmp_path):
    file = tmp_path / "a.pth"
    torch.save(load_network(ModelSpec("timm", "test_resnet")).module.state_dict(), file)
    network = f"{{library: timm, names: test_resnet, weights: {file}, input_px: 32}}"
    plan = plan_of(tmp_path, TRAINING, f"training.small.network={network}")
    run = ran(plan, tmp_path / "run")
    assert run.is_done(plan.train[0].id)
    overwritten(file)
    changed = ran(plan, tmp_path / "changed")
    assert why_failed(changed, plan.train[0]).startswith("data_changed: ")


def test_a_library_that_means_other_weights_by_pretrained_is_noticed(tmp_path):
    plan = plan_of(tmp_path, reading_out(NETWORKS[1], Path("pretrained")))
    (task,) = plan.extract
    task.params["weights"] = "pretrained:test_resnet.of_another_version"
    run = written(plan, tmp_path / "run")
    work_through(run, [task], 1)
    assert "data_changed" in why_failed(run, task)


@pytest.mark.parametrize("text", [USE, START], ids=["run", "start"])
def test_a_trained_network_changed_after_planning_is_not_used(tmp_path, text, small):
    to = copied(small, tmp_path)
    plan = plan_of(tmp_path, text.replace("WEIGHTS", f"run:{to}"))
    overwritten(file_of(to))
    run = ran(plan, tmp_path / "run")
    assert why_failed(run, plan.tasks[0]).startswith("data_changed: ")


@pytest.mark.parametrize("text", [USE, START], ids=["run", "start"])
def test_a_trained_network_damaged_before_planning_is_refused(tmp_path, text, small):
    for damage in (overwritten, lambda file: file.write_bytes(file.read_bytes()[:-1000])):
        (folder := tmp_path / damage.__name__).mkdir()
        to = copied(small, folder)
        damage(file_of(to))
        message = refusal(tmp_path, text.replace("WEIGHTS", f"run:{to}"))
        assert str(file_of(to)) in message and "weights: " in message


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> tuple[Plan, Path]:
    """A run that trained two networks of one shape and one of another; none is read yet."""
    folder = tmp_path_factory.mktemp("three")
    _, _, other = TRAINING.partition("training:\n")
    text = TRAINING + other.replace("small", "twin") + other.replace("small", "large")
    models = ", ".join(
        f'{{weights: "trained:{name}", layers: ["1"]}}' for name in ("small", "twin", "large")
    )
    plan = plan_of(
        folder,
        text + START.partition("training:\n")[2].replace("WEIGHTS", "trained:small"),
        f"models=[{models}]",
        "readouts=[{kind: cka}]",
        "training.twin.recipe.optimizer={lr: 0.01}",
        "training.large.network.channels=[4, 6]",
    )
    run = written(plan, folder / "run")
    work_through(run, plan.train[:3], 1)
    assert all(run.is_done(task.id) for task in plan.train[:3])
    return plan, run.path


@pytest.mark.parametrize("text", [USE, START], ids=["run", "start"])
@pytest.mark.parametrize("other", [1, 2], ids=["of one shape", "of another"])
def test_the_network_of_another_training_is_not_taken_for_the_one_named(
    tmp_path, three, text, other
):
    """Nor after its file has been copied over: by no planner and by no task of the run itself."""
    plan, path = three
    shutil.copytree(path, tmp_path / "run")
    run = RunFolder(tmp_path / "run")
    own, theirs = plan.train[0], plan.train[other]
    shutil.copyfile(run.network_path(theirs.id), run.network_path(own.id))
    message = refusal(tmp_path, text.replace("WEIGHTS", f"run:{run.path / own.id}"))
    assert str(run.network_path(own.id)) in message and "weights: " in message
    assert f"is the network of {theirs.id}, not of {own.id}" in message
    assert f"remove {run.result_path(own.id)} and run" in message
    readers = [task for task in plan.tasks if own.id in task.inputs]
    assert {task.kind for task in readers} == {"extract", "train"}
    work_through(run, readers, 1)
    for task in readers:
        assert "train it anew" in why_failed(run, task)


def test_a_network_is_that_of_its_own_task_whatever_the_result_says(three):
    """As a file that was copied over before its hash was taken."""
    _, path = three
    files = sorted(path.glob("networks/*/weights.safetensors"))
    for file in files:
        for task_id in (one.parent.name for one in files):
            if task_id == file.parent.name:
                assert load_trained(file, task=task_id).task == task_id
            else:
                with pytest.raises(WeightsChangedError, match=f"not of {task_id}"):
                    load_trained(file, task=task_id)


@pytest.mark.parametrize("change", [overwritten, Path.unlink], ids=["overwritten", "gone"])
def test_a_network_of_this_sweep_changed_after_its_training_is_not_used(tmp_path, change):
    plan = plan_of(
        tmp_path,
        TRAINING,
        'models=[{weights: "trained:small", layers: ["1"]}]',
        "readouts=[{kind: cka}]",
    )
    run = written(plan, tmp_path / "run")
    work_through(run, plan.train, 1)
    change(run.network_path(plan.train[0].id))
    work_through(run, plan.extract, 1)
    message = why_failed(run, plan.extract[0])
    assert message.startswith("data_changed: ") and "train it anew" in message


def test_the_images_travel_with_the_weights(tmp_path, small):
    plan = plan_of(tmp_path, START.replace("WEIGHTS", f"run:{small}"))
    run = ran(plan, tmp_path / "run")
    dataset = data.load(**plan.train[0].options["dataset"])
    digests = dataset.stimuli.image_digests()
    assert len(set(digests)) == len(digests) == 90
    trained_on = {digests[row] for row in dataset.splits["train"]}
    assert set(load_trained(file_of(small)).images) == trained_on
    assert set(load_trained(run.network_path(plan.train[0].id)).images) == trained_on


SWAPPED = "protocol={kind: fixed, train: val, test: train}"


@pytest.mark.parametrize(
    "protocol",
    ["protocol={kind: kfold, n_splits: 3}", "protocol={kind: leave_one_object_out}", SWAPPED],
)
@pytest.mark.parametrize(
    "names", [DATA, DATA.replace("synthetic", "synthetic, name: synthetic-b").replace("5", "7")]
)
def test_a_network_is_not_tested_on_images_it_was_trained_on(tmp_path, small, protocol, names):
    """Neither by a read-out nor after a training that starts from it, whatever the data set."""
    use, start = (
        text.replace("WEIGHTS", f"run:{small}").replace(DATA, names) for text in (USE, START)
    )
    n_tested = 60 if protocol == SWAPPED else 90
    message = refusal(tmp_path, use, protocol)
    assert f"{small.name} was trained on 60 of the {n_tested} images" in message
    assert "models[0].weights: " in message and "train-00000" in message
    message = refusal(tmp_path, start, protocol)
    assert "was trained on" in message and "network.weights: " in message
    plan_of(tmp_path, use)
    plan_of(tmp_path, start)


def test_a_fold_does_not_start_from_another_fold_s_training(tmp_path):
    later = START.partition("training:\n")[2].replace("WEIGHTS", "trained:small")
    text, protocol = TRAINING + later, "protocol={kind: kfold, n_splits: 3}"
    plan_of(tmp_path, text, protocol, "training.small.folds=[1]", "training.tuned.folds=[1]")
    message = refusal(
        tmp_path, text, protocol, "training.small.folds=[0]", "training.tuned.folds=[1]"
    )
    assert "trained:small was trained on 30 of the images" in message and "fold 1" in message


def test_other_images_of_the_same_names_are_not_taken_for_those_seen(tmp_path, small):
    text = USE.replace("WEIGHTS", f"run:{small}")
    plan_of(tmp_path, text, "protocol={kind: kfold, n_splits: 3}", "dataset.seed=9")


@pytest.mark.parametrize("text", [USE, START], ids=["run", "start"])
@pytest.mark.parametrize("said", ["images", "network", "task"])
def test_a_network_whose_file_says_something_else_than_was_written_is_refused(
    tmp_path, small, text, said
):
    to = copied(small, tmp_path)
    content = file_of(to).read_bytes()
    edited = content.replace(b'\\"%s\\"' % said.encode(), b'\\"%s\\"' % (said[:-1] + "z").encode())
    assert edited != content
    file_of(to).write_bytes(edited)
    message = refusal(tmp_path, text.replace("WEIGHTS", f"run:{to}"))
    assert "is not as it was written" in message and "train it again" in message


@pytest.mark.parametrize("readout", ["{kind: cka}", "{kind: rdm, level: object}", "{kind: rdm}"])
def test_similarities_of_a_trained_network_are_of_the_images_it_has_not_seen(
    tmp_path, small, readout
):
    plan = plan_of(tmp_path, USE.replace("WEIGHTS", f"run:{small}"), f"readouts=[{readout}]")
    run = ran(plan, tmp_path / "run")
    (task,) = plan.encode
    _, said = read_scores(run.result_path(task.id))
    assert said["n_test"] == 30
    dataset = data.load(**task.options["dataset"])
    test = dataset.splits["val"]
    features = FeatureStore.open(run.features_path(features_id(task))).array("1")[:]
    expected = compare_representations(
        array_statistics(features[test]),
        dataset.responses[test],
        task.params["readout"],
        object_names=[dataset.object_names[row] for row in test],
    )
    assert np.isclose(said["similarity"], expected, rtol=1e-4, atol=1e-4)
    assert any("30 test images" in note for one in plan.datasets for note in one.notes)


def test_similarities_of_other_networks_are_of_all_images_whatever_the_protocol(tmp_path):
    ids = {
        plan_of(
            tmp_path, reading_out(NETWORKS[1], Path("random")), "readouts=[{kind: cka}]", protocol
        )
        .encode[0]
        .id
        for protocol in ("protocol={kind: kfold, n_splits: 3}", SWAPPED)
    }
    assert len(ids) == 1


def test_similarities_of_too_few_unseen_images_are_refused(tmp_path):
    text = TRAINING.replace("n_val: 30", "n_val: 3")
    message = refusal(
        tmp_path,
        text,
        'models=[{weights: "trained:small", layers: ["1"]}]',
        "readouts=[{kind: cka}]",
    )
    assert "leaves 3 of 'synthetic'" in message and "at least 4" in message
