"""What a config refuses, and that every refusal says where, what and what instead."""

import os
from pathlib import Path

import pytest

from toolkit.config import load_config
from toolkit.config.readouts import AUTO_ALPHAS
from toolkit.yaml_source import ConfigError, Source

GOOD = """\
name: tiny
dataset: {kind: synthetic, n_train: 40, n_val: 20}
models:
  - {library: torchvision, names: resnet18}
readouts:
  - {kind: ridge, n_components: 10}
"""


def write(folder: Path, text: str, name: str = "sweep.yaml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def refusal(path: Path, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(path, overrides)
    return str(caught.value)


def test_scalars_stand_for_lists_of_one(tmp_path: Path) -> None:
    config, _ = load_config(write(tmp_path, GOOD))
    assert config.models[0].names == ("resnet18",)
    assert config.readouts[0].n_components == (10,)
    assert config.dataset[0].name == "synthetic"
    assert config.readouts[0].alphas == "auto"
    assert config.readouts[0].alpha_values == AUTO_ALPHAS
    assert AUTO_ALPHAS[0] == 1e-6
    assert AUTO_ALPHAS[-1] == 1e4


@pytest.mark.parametrize(
    ("line", "instead", "at", "says"),
    [
        (2, "dataset: {kind: synthetic, n_trian: 40}", "dataset.n_trian", "did you mean 'n_train'"),
        (2, "dataset: {kind: sinthetic}", "dataset.kind", "did you mean 'synthetic'"),
        (2, "dataset: {kind: nx414}", "dataset.path", "required"),
        (2, "dataset: {n_train: 3}", "dataset.kind", "required"),
        (2, "dataset: {kind: synthetic, n_train: many}", "dataset.n_train", "valid integer"),
        (4, "  - {library: torchvison, names: resnet18}", "models[0].library", "torchvision"),
        (4, "  - {library: timm}", "models[0]", "names is missing"),
        (4, "  - {library: timm, names: a, wieghts: random}", "models[0].wieghts", "'weights'"),
        (6, "  - {kind: ridge, alphas: [1, -1]}", "readouts[0].alphas[1]", "greater than 0"),
        (6, "  - {kind: ridge, alphas: []}", "readouts[0].alphas", "at least 1 item"),
        (6, "  - {kind: ridge, alphas: atuo}", "readouts[0].alphas", "did you mean 'auto'"),
        (6, "  - {kind: ridge, alphas: {min: 9, max: 1, n: 3}}", "readouts[0].alphas", "above max"),
        (6, "  - {kind: ridge, folds: 1}", "readouts[0].folds", "greater than or equal to 2"),
        (6, "  - {kind: lasso}", "readouts[0].kind", "'lasso' is not one of ridge"),
        (1, "name: ../escape", "name", "match pattern"),
    ],
)
def test_refusals_name_file_line_key_and_remedy(
    tmp_path: Path, line: int, instead: str, at: str, says: str
) -> None:
    lines = GOOD.splitlines()
    lines[line - 1] = instead
    path = write(tmp_path, "\n".join(lines))
    message = refusal(path)
    assert f"{path}:{line}: {at}: " in message
    assert says in message


def test_penalties_are_a_list_or_a_grid(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD)
    config, _ = load_config(path, ["readouts.0.alphas={min: 1, max: 100, n: 3}"])
    assert config.readouts[0].alpha_values == pytest.approx((1, 10, 100))
    config, _ = load_config(path, ["readouts.0.alphas=[10, 1, 10]"])
    assert config.readouts[0].alpha_values == (1, 10)
    assert len(refusal(path, "readouts.0.alphas=[1, -1]").splitlines()) == 1
    assert "readouts[0].alphas.max: this key" in refusal(path, "readouts.0.alphas={min: 1, n: 2}")


def test_every_problem_is_reported_at_once(tmp_path: Path) -> None:
    bad = GOOD.replace("kind: ridge", "kind: rigde").replace("kind: synthetic", "kind: synth")
    assert len(refusal(write(tmp_path, bad)).splitlines()) == 2


def test_a_key_given_twice_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD + "name: other\n")
    assert f"{path}:7: name: this key is given twice" in refusal(path)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("name: [", "not valid YAML"),
        ("- a\n- b\n", "a config is a mapping"),
        ("", "name: this key is required"),
    ],
)
def test_files_that_are_no_config(tmp_path: Path, text: str, says: str) -> None:
    path = write(tmp_path, text)
    assert says in refusal(path)
    assert str(path) in refusal(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    assert "No such file" in refusal(tmp_path / "nothing.yaml")


def test_extends_merges_mappings_and_replaces_lists(tmp_path: Path) -> None:
    write(tmp_path, GOOD, "base.yaml")
    path = write(
        tmp_path,
        "extends: base.yaml\nname: child\ndataset: {n_val: 30}\nreadouts: [{kind: linear}]\n",
    )
    config, source = load_config(path)
    assert config.name == "child"
    assert config.dataset[0].model_dump()["n_train"] == 40
    assert config.dataset[0].model_dump()["n_val"] == 30
    assert [readout.kind for readout in config.readouts] == ["linear"]
    assert str(source.place(("dataset", "n_train"))) == f"{tmp_path / 'base.yaml'}:2"
    assert str(source.place(("dataset", "n_val"))) == f"{path}:3"


def test_a_problem_in_a_base_names_the_base(tmp_path: Path) -> None:
    base = write(tmp_path, GOOD.replace("n_val: 20", "n_vall: 20"), "base.yaml")
    assert f"{base}:2: dataset.n_vall" in refusal(write(tmp_path, "extends: base.yaml\n"))


def test_configs_cannot_extend_each_other(tmp_path: Path) -> None:
    write(tmp_path, "extends: b.yaml\n", "a.yaml")
    write(tmp_path, "extends: a.yaml\n", "b.yaml")
    assert "cannot extend itself" in refusal(tmp_path / "a.yaml")


def test_a_missing_base_is_named_with_its_line(tmp_path: Path) -> None:
    path = write(tmp_path, "name: x\nextends: nowhere.yaml\n")
    assert f"{path}:2: extends: no file" in refusal(path)


def test_overrides_reach_into_lists(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD)
    config, _ = load_config(
        path, ["models.0.weights=[random, pretrained]", "dataset.n_train=50", "seed=3"]
    )
    assert config.models[0].weights == ("random", "pretrained")
    assert config.dataset[0].model_dump()["n_train"] == 50
    assert config.seed == 3


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("seed", "write it as key=value"),
        ("models.3.weights=random", "there is no models[3] to set: it has 1 entries"),
        ("name.x=1", "name is a single value"),
        ("seed=q", "--set seed=q: seed: Input should be a valid integer"),
        ("sed=1", "--set sed=1: sed: unknown key; did you mean 'seed'?"),
        ("seed=[", "--set seed=[: not valid YAML"),
    ],
)
def test_bad_overrides_name_themselves(tmp_path: Path, override: str, says: str) -> None:
    assert says in refusal(write(tmp_path, GOOD), override)


def test_paths_are_absolute_and_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAB", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    path = write(tmp_path, GOOD)
    for given in ("$LAB/IT.h5", "IT.h5"):
        config, _ = load_config(path, [f"dataset={{kind: nx414, path: {given}}}"])
        assert config.dataset[0].model_dump()["path"] == str(tmp_path / "IT.h5")
    for given in ("$LAB/a/b.json", "a/b.json"):
        config, _ = load_config(
            path,
            [
                f"dask.workers={given}",
                f"exclude=[{{weights: {given}}}]",
                f"models.0.weights={given}",
            ],
        )
        expanded = str(tmp_path / "a/b.json")
        assert config.dask.workers == config.exclude[0].weights == expanded
        assert config.models[0].weights == (expanded,)
    for given in ("threads", "jobqueue", "tcp://host:8786"):
        config, _ = load_config(path, [f"dask.workers={given}", "exclude=[{weights: '*/b.pt'}]"])
        assert (config.dask.workers, config.exclude[0].weights) == (given, "*/b.pt")


def test_every_key_is_described() -> None:
    from toolkit.config import Section

    sections = [Section]
    for section in sections:
        sections += section.__subclasses__()
        for name, field in section.model_fields.items():
            assert field.description, f"{section.__name__}.{name}"


def test_places_survive_a_replaced_mapping(tmp_path: Path) -> None:
    source = Source.read(write(tmp_path, GOOD), ["dataset={kind: synthetic}"])
    assert str(source.place(("dataset", "n_train"))).startswith("--set dataset=")


@pytest.mark.parametrize(
    ("written", "minutes"),
    [
        ("90", 90),
        ("90min", 90),
        ("4h", 240),
        ("1h30min", 90),
        ("1h 30min", 90),
        ("2d", 2880),
        ("4:00:00", 240),
        ("0:30:01", 31),
        ("1-00:00:00", 1440),
        ("1-12", 2160),
        ("1-12:30", 2190),
    ],
)
def test_time_limits_are_minutes_or_times(tmp_path: Path, written: str, minutes: int) -> None:
    path = write(tmp_path, GOOD + f"resources: {{encode: {{timeout_min: {written}}}}}\n")
    assert load_config(path)[0].resources.encode.timeout_min == minutes
    again, _ = load_config(write(tmp_path, GOOD), [f"resources.encode.timeout_min={written}"])
    assert again.resources.encode.timeout_min == minutes


@pytest.mark.parametrize("written", ["4:00", "90m", "1.5h", "1.5", "012", "0", "-3", "''", "true"])
def test_times_of_two_meanings_are_refused(tmp_path: Path, written: str) -> None:
    path = write(tmp_path, GOOD + f"resources: {{encode: {{timeout_min: {written}}}}}\n")
    assert f"{path}:7: resources.encode.timeout_min: " in refusal(path)


@pytest.mark.parametrize(
    "written",
    ["012345", "1e3", "no", "on", "4:00", "1_000", "0x1F", "2024-13-45", "5", "true", "="],
)
def test_a_text_is_what_was_written(tmp_path: Path, written: str) -> None:
    dataset = f"{{kind: synthetic, name: {written}}}"
    lines = [GOOD.splitlines()[0], f"dataset: {dataset}", *GOOD.splitlines()[2:]]
    models = f"models: [{{library: timm, names: {written}, layers: [{written}, b]}}]"
    for config, _ in (
        load_config(write(tmp_path, "\n".join(lines)), [models.replace(": ", "=", 1)]),
        load_config(write(tmp_path, GOOD), [f"dataset={dataset}", models.replace(": ", "=", 1)]),
    ):
        assert config.dataset[0].name == written
        assert config.models[0].names == (written,)
        assert config.models[0].layers == (written, "b")


@pytest.mark.parametrize(
    ("key", "written", "says"),
    [
        ("seed", "012", "write 12 without quotes"),
        ("seed", "'5'", "write 5 without quotes"),
        ("seed", "1e3", "write 1000"),
        ("seed", "1_000", "write 1000"),
        ("seed", "3.7", "valid integer"),
        ("seed", "true", "valid integer"),
        ("seed", "4:00", "valid integer"),
        ("seed", "99999999999999999999", "valid integer"),
        ("readouts.0.alphas", "[.inf]", "valid number"),
        ("readouts.0.alphas", "[.nan]", "valid number"),
        ("readouts.0.alphas", "[1e999]", "valid number"),
        ("readouts.0.alphas", "[yes]", "valid number"),
        ("extraction.compile", "no", "write true or false"),
        ("extraction.compile", "0", "write true or false"),
        ("dataset.name", "null", "valid string"),
        ("models.0.names", "[null]", "valid string"),
    ],
)
def test_numbers_and_truth_values_are_not_guessed(
    tmp_path: Path, key: str, written: str, says: str
) -> None:
    message = refusal(write(tmp_path, GOOD), f"{key}={written}")
    assert message.startswith(f"--set {key}={written}: ")
    assert says in message


def test_a_merged_mapping_can_be_overridden(tmp_path: Path) -> None:
    base = "{kind: ridge, n_components: 10, folds: 3}"
    merged = "[*one, {<<: *one, name: two, n_components: 5}]"
    path = write(tmp_path, GOOD.split("readouts")[0] + f"readouts: {merged}\n".replace(
        "*one, {", f"&one {base}, {{"
    ))  # fmt: skip
    config, _ = load_config(path)
    assert [readout.model_dump()["n_components"] for readout in config.readouts] == [(10,), (5,)]
    assert [readout.model_dump()["folds"] for readout in config.readouts] == [3, 3]
    twice = write(tmp_path, path.read_text().replace("name: two", "name: two, name: three"))
    assert "readouts[1].name: this key is given twice" in refusal(twice)


_DEEP = "a: " + "[" * 3000
_LAUGHS = "a0: &a0 [x, x]\n" + "".join(
    f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]\n" for i in range(1, 30)
)
_MERGED = "a0: &a0 {x: 1}\n" + "".join(
    f"a{i}: &a{i} {{<<: [*a{i - 1}, *a{i - 1}]}}\n" for i in range(1, 30)
)


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (b"a: &x [*x]", ":1: not valid YAML: *x stands inside what it names"),
        (b"a: *x", ":1: not valid YAML: found undefined alias"),
        (_DEEP.encode(), ":1: not valid YAML: nested more than"),
        (_LAUGHS.encode(), "it unfolds to more than"),
        (_MERGED.encode(), "it unfolds to more than"),
        (b"name: x\nseed: \x07", ":2: not valid YAML: the character U+0007"),
        (b'name: x\nseed: "\\e[1m"', ":2: not valid YAML: the character U+001B"),
        (b'name: x\nseed: "\\ud800"', ":2: not valid YAML: the character U+D800"),
        (b"name: x\nregion: sch\xf6n", ":2: the byte 0xf6 is not UTF-8"),
        (b"\x89PNG\r\n\x1a\n", "is not UTF-8"),
        (b"name: x\ndataset:\n\tseed: 1", ":3: not valid YAML"),
        (b"name: x\n---\nname: y", ":2: not valid YAML: a second document"),
        (
            b"a: !!python/object/apply:os.system [x]",
            "!!python/object/apply:os.system means nothing",
        ),
        (b"a: !!int x", "'x' is no !!int"),
        (b"? [a, b]\n: 1", "a key is a name"),
        (b"<<: 3", "<< merges a mapping"),
        (b"just words", "a config is a mapping of keys, not 'just words'"),
        (b"x" * 3_000_000, "too many for a config"),
    ],
)
def test_files_that_only_look_like_configs(tmp_path: Path, raw: bytes, says: str) -> None:
    path = tmp_path / "sweep.yaml"
    path.write_bytes(raw)
    message = refusal(path)
    assert str(path) in message
    assert says in message
    assert len(message) < 1000


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_encodings_that_say_what_they_are(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "sweep.yaml"
    path.write_text(GOOD.replace("synthetic,", "synthetic, name: gesicht_ä,"), encoding=encoding)
    assert load_config(path)[0].dataset[0].name == "gesicht_ä"


def test_what_is_no_file_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert "this is a folder" in refusal(tmp_path)
    assert "no regular file" in refusal(tmp_path / "pipe")
    assert "File name too long" in refusal(tmp_path / ("x" * 300))
    assert "cannot read" in refusal(tmp_path / "\0")


@pytest.mark.parametrize("given", ["3", "{a: b}", "[3]", "null", "true", ".", "x" * 300, "[[a]]"])
def test_extends_names_files(tmp_path: Path, given: str) -> None:
    path = write(tmp_path, f"name: x\nextends: {given}\n")
    message = refusal(path)
    assert message.startswith(f"{path}:2: extends: ")
    assert "\n" not in message


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("a..b=1", "write it as key=value"),
        ("=1", "write it as key=value"),
        (".=1", "write it as key=value"),
        ("models.-1.names=x", "there is no models.-1 to set"),
        ("models.99.names=x", "there is no models[99] to set"),
        ("models.²=x", "there is no models.² to set"),
        (f"models.{'9' * 5000}=x", "to set"),
        (f"{'x' * 5000}=1", "unknown key"),
        (f"seed={'x' * 5000}", "valid integer"),
        ("seed=\ud800", "the character U+D800"),
        ("extends=x.yaml", "unknown key"),
    ],
)
def test_odd_overrides_are_refused_in_few_words(tmp_path: Path, override: str, says: str) -> None:
    message = refusal(write(tmp_path, GOOD), override)
    assert says in message
    assert len(message) < 1000


def test_many_problems_are_counted(tmp_path: Path) -> None:
    entries = "\n".join(f"  - {{kind: ridge, folds: {'x' * 500}}}" for _ in range(200))
    message = refusal(write(tmp_path, GOOD.split("  - {kind")[0] + entries))
    assert len(message) < 1000
    assert "more problems" in message
    assert "readouts[0].folds" in message


@pytest.mark.parametrize(
    ("key", "written", "says"),
    [
        ("seed", "-1", "greater than or equal to 0"),
        ("seed", "4294967296", "less than or equal to 4294967295"),
        ("dataset.n_train", "2000000", "a million stimuli"),
        ("dataset.n_repetitions", "999999999", "1000 million responses"),
        ("readouts.0.alphas", "{min: 1, max: 2, n: 100000}", "less than or equal to 10000"),
    ],
)
def test_numbers_that_no_machine_takes_are_refused(
    tmp_path: Path, key: str, written: str, says: str
) -> None:
    assert says in refusal(write(tmp_path, GOOD), f"{key}={written}")


@pytest.mark.parametrize(
    "search",
    [
        f"{{over: {{a: &a [{', '.join(map(str, range(30)))}], b: *a, c: *a}}}}",
        "{kind: random, n_trials: 1000000, over: {a: {min: 0, max: 1}}}",
    ],
)
def test_searches_without_end_are_refused(tmp_path: Path, search: str) -> None:
    network = "{library: shallow, channels: [2]}"
    training = f"training={{x: {{network: {network}, recipe: {{n_epochs: 1}}, search: {search}}}}}"
    assert "a search has at most 10000" in refusal(write(tmp_path, GOOD), training)


@pytest.mark.parametrize("long", ["x" * 300, "ä" * 200, "x/" * 3000])
def test_paths_longer_than_any_are_refused(tmp_path: Path, long: str) -> None:
    path = write(tmp_path, GOOD)
    for override in (
        f"models.0.weights={long}",
        f"models.0.weights=run:{long}",
        f"dataset={{kind: nx414, path: {long}}}",
    ):
        message = refusal(path, override)
        assert "no file system has paths or names of this length" in message
        assert len(message) < 1000


def test_the_home_of_nobody_is_a_folder_like_any_other(tmp_path: Path) -> None:
    config, _ = load_config(write(tmp_path, GOOD), ["models.0.weights=~nobody-here/a.pt"])
    assert config.models[0].weights[0].endswith("/~nobody-here/a.pt")
