"""Why each task would run, told from what an earlier run recorded."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from forecast_runs import planned, recorded

from toolkit.cluster.run_folder import RunFolder
from toolkit.forecast import former_tasks, last_outcomes, why_to_run
from toolkit.task import RESULT_VERSION, Task, TaskKind, TaskState

EXTRACT, ENCODE = TaskKind.EXTRACT, TaskKind.ENCODE


def why(run: RunFolder, tasks: Sequence[Task]) -> dict[str, str]:
    """Reasons by label."""
    by_id = {task.id: task for task in tasks}
    reasons = why_to_run(by_id, former_tasks(run), run.done_ids(), last_outcomes(run))
    return {by_id[task_id].label: reason for task_id, reason in reasons.items()}


def changed(tmp_path: Path, *overrides: str) -> dict[str, str]:
    """Reasons after the tiny config was planned and then changed."""
    run = recorded(tmp_path / "run", planned(tmp_path))
    return why(run, planned(tmp_path, *overrides))


def test_everything_is_new_in_a_folder_that_does_not_exist(tmp_path: Path) -> None:
    tasks = planned(tmp_path)
    run = RunFolder(tmp_path / "absent")
    reasons = why_to_run({t.id: t for t in tasks}, former_tasks(run), set(), last_outcomes(run))
    assert list(reasons) == [task.id for task in tasks]
    assert set(reasons.values()) == {"new"}
    assert not run.path.exists()


def test_another_network_or_readout_is_new(tmp_path: Path) -> None:
    reasons = changed(tmp_path, "models.0.names=[test_resnet, test_vit]", "models.0.layers=auto")
    assert {r for label, r in reasons.items() if "test_vit" in label} == {"new"}
    more = changed(tmp_path, "readouts=[{kind: ridge, n_components: [10, 20]}, {kind: cka}]")
    layer = "synthetic test_resnet random-0 layer1"
    assert more[f"{layer} pca10-ridge"] == "result missing: not run yet"
    assert more[f"{layer} pca20-ridge"] == more[f"{layer} cka"] == "new"


@pytest.mark.parametrize(
    ("override", "stage", "reason"),
    [
        (
            "readouts.0.n_components=12",
            ENCODE,
            "parameter readout.n_components changed (10 → 12)",
        ),
        ("readouts.0.folds=3", ENCODE, "parameter readout.n_folds changed (5 → 3)"),
        (
            "protocol={kind: kfold, n_splits: 4}",
            ENCODE,
            "parameter protocol.kind changed (fixed → kfold) and 5 more",
        ),
        ("statistics={bootstrap: 50}", ENCODE, "parameter bootstrap changed (none → 50)"),
        ("models.0.seeds=3", EXTRACT, "parameter seed changed (0 → 3)"),
        ("models.0.seeds=3", ENCODE, "parameter features.seed changed (0 → 3)"),
        (
            "models.0.features=average",
            EXTRACT,
            "parameter form.kind changed (full → average)",
        ),
        ("extraction={parts: 2}", EXTRACT, "parameter part changed (none → [0, 2])"),
    ],
)
def test_a_changed_parameter_is_named_with_both_values(
    tmp_path: Path, override: str, stage: TaskKind, reason: str
) -> None:
    run = recorded(tmp_path / "run", planned(tmp_path))
    tasks = planned(tmp_path, override)
    labels = {task.label for task in tasks if task.kind is stage}
    reasons = why(run, tasks)
    assert reason in {reasons[label] for label in labels}, reasons


def test_changed_images_are_named_for_the_extraction_and_for_what_reads_it(tmp_path: Path) -> None:
    reasons = list(changed(tmp_path, "dataset.seed=5").values())
    assert reasons[0].startswith("parameter stimuli changed (")
    assert all(reason.startswith("parameter features.stimuli ch") for reason in reasons[1:])


def test_a_layer_more_is_named(tmp_path: Path) -> None:
    reasons = changed(tmp_path, "models.0.layers=[layer1, layer2, layer3]")
    network = "synthetic test_resnet random-0"
    assert reasons[network] == "parameter layers changed (+layer2)"
    assert reasons[f"{network} layer1 pca10-ridge"] == "result missing: not run yet"
    assert reasons[f"{network} layer2 pca10-ridge"] == "new"


def test_a_task_beside_one_that_stays_is_new_however_much_alike_they_are(tmp_path: Path) -> None:
    reasons = changed(tmp_path, "models.0.seeds=[0, 1]")
    assert {r for label, r in reasons.items() if "random-1" in label} == {"new"}
    assert {r for label, r in reasons.items() if "random-0" in label} == {
        "result missing: not run yet"
    }


def test_a_former_task_that_stands_changed_under_its_name_became_no_other(tmp_path: Path) -> None:
    reasons = changed(tmp_path, "models.0.seeds=[0, 1]", "models.0.layers=[layer1]")
    network = "synthetic test_resnet"
    assert reasons[f"{network} random-0"] == "parameter layers changed (-layer3)"
    assert {r for label, r in reasons.items() if "random-1" in label} == {"new"}


def test_another_version_of_the_results_is_told_from_a_changed_parameter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = recorded(tmp_path / "run", planned(tmp_path))
    monkeypatch.setitem(RESULT_VERSION, "extract", 99)
    reasons = why(run, planned(tmp_path))
    assert set(reasons.values()) == {"the version of the code's results changed"}
    assert len(reasons) == 5


def test_what_became_of_the_last_attempt_is_said(tmp_path: Path) -> None:
    tasks = planned(tmp_path)
    run = recorded(tmp_path / "run", tasks)
    done, failed, interrupted, removed, untouched = tasks
    run.result_path(done.id).write_text("{}")
    run.start_attempt(failed.id)
    run.record_end(failed.id, TaskState.FAILED, "bad_data", "image 7 is broken")
    run.record(replace(run.start_attempt(interrupted.id), process_started_s=1.0))
    run.log_path(removed.id).write_text("start")
    assert why(run, tasks) == {
        failed.label: "result missing: failed: bad_data",
        interrupted.label: "result missing: interrupted",
        removed.label: "result missing: it was removed",
        untouched.label: "result missing: not run yet",
    }


def test_a_damaged_plan_counts_as_none(tmp_path: Path) -> None:
    run = recorded(tmp_path / "run", planned(tmp_path))
    text = run.plan_path.read_text()
    run.plan_path.write_text(text[:-100])
    assert former_tasks(run) == {}
    run.plan_path.write_text(json.dumps({"tasks": [{"id": "encode-0"}]}))
    assert former_tasks(run) == {}
