"""The report finds what was planted in the data, and says it the same way in text and in HTML."""

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from recordings import SyntheticAssembly, SyntheticSession

from toolkit.data import DataError, load
from toolkit.data.quality import assess
from toolkit.data.report import as_text, write_page
from toolkit.data.sources import before_onset_at, dataset_at
from toolkit.metrics import split_half_ceiling


@pytest.fixture
def session(tmp_path: Path) -> SyntheticSession:
    """Unit 2 is silent, unit 3 fires only in the second half, images 4 and 9 are the same."""
    session = SyntheticSession(n_presentations=48)
    session.raster[:, 1] = 0
    half = len(session.raster) // 2
    session.raster[:half, 2] //= 4
    session.raster[half:, 2] *= 2
    session.write(tmp_path / "sessions")
    session.write_images(tmp_path / "images")
    (tmp_path / "images/image009.png").write_bytes((tmp_path / "images/image004.png").read_bytes())
    pd.DataFrame(
        {
            "filename": session.image_names,
            "label": ["face"] * 3 + ["non-face"] * 9,
            "split": ["train"] * 6 + ["val"] * 6,
        }
    ).to_csv(tmp_path / "labels.csv", index=False)
    return session


def quality_of(folder: Path, **params):
    return assess(
        load(
            "xiao2024",
            sessions=folder / "sessions",
            images=folder / "images",
            label_table=folder / "labels.csv",
            region="V1",
            **params,
        )
    )


def test_what_was_planted_is_found(session, tmp_path) -> None:
    quality = quality_of(tmp_path)
    assert quality.is_silent.tolist() == [False, True, False, False, False]
    assert not quality.is_constant.any()
    assert quality.drift_over == "time"
    assert quality.drift[2] > 0.5 > np.nanmax(np.abs(quality.drift[[0, 3, 4]]))
    assert np.isnan(quality.drift[1])
    assert quality.duplicates == (("image004", "image009"),)
    assert quality.leaks == ("image004", "image009")
    assert quality.classes == {"category": {"non-face": 9, "face": 3}}
    halvings = split_half_ceiling(quality.dataset.repetitions)
    assert np.isnan(halvings[:, 1]).all()
    for unit in (0, 2, 3, 4):
        assert quality.ceilings[unit] == pytest.approx(np.nanmean(halvings[:, unit]))


def test_the_same_pixels_in_other_files_are_duplicates(session, tmp_path) -> None:
    with Image.open(tmp_path / "images/image004.png") as image:
        image.save(tmp_path / "images/image009.png", compress_level=0)
    assert quality_of(tmp_path).leaks == ("image004", "image009")
    Image.new("RGB", (80, 60)).save(tmp_path / "images/image009.png")
    assert quality_of(tmp_path).duplicates == ()


def test_chance_is_that_of_shuffled_labels(tmp_path) -> None:
    session = SyntheticSession(n_images=100, n_presentations=400)
    session.raster[:, 1] = 0
    quality = assess(load("xiao2024", sessions=session.write(tmp_path)))
    assert quality.chance.shape == (10, 5)
    assert np.isnan(quality.chance[:, 1]).all()
    others = [0, 2, 3, 4]
    assert np.abs(quality.chance[:, others].mean(axis=0)).max() < 0.2
    assert quality.ceilings[others].min() > 0.8
    assert quality.is_above_chance.tolist() == [True, False, True, True, True]


def test_before_onset_is_the_window_of_equal_length_that_ends_then(session, tmp_path) -> None:
    source, overrides = str(tmp_path / "sessions"), ["window_ms=[50, 250]", "baseline_ms=[-50, 0]"]
    before = before_onset_at(source, overrides)
    same = load("xiao2024", sessions=source, window_ms=(-200, 0))
    np.testing.assert_array_equal(before.responses, same.responses)
    quality = assess(dataset_at(source, overrides), before)
    halvings = split_half_ceiling(same.repetitions)
    assert quality.before_onset[0] == pytest.approx(halvings[:, 0].mean())
    assert np.nanmedian(quality.before_onset) < 0.5 < np.nanmedian(quality.ceilings)
    assert before_onset_at(source, ["align=fixation"]) is None
    assert before_onset_at(str(SyntheticAssembly().write(tmp_path / "assembly"))) is None


def test_constant_units_are_not_silent(tmp_path) -> None:
    session = SyntheticSession()
    session.raster[:, 0] = 1
    [found] = [assess(load("xiao2024", sessions=session.write(tmp_path)))]
    assert found.is_constant.tolist() == [True, False, False, False, False]
    assert not found.is_silent.any()


def test_drift_over_repetitions_compares_each_stimulus_with_itself(tmp_path) -> None:
    assembly = SyntheticAssembly(n_repetitions=20)
    late = assembly.presentations.repetition.to_numpy() >= 9
    assembly.values[late, 0] += 3
    quality = assess(load("majaj_hong", path=assembly.write(tmp_path), regions=["IT", "V4"]))
    assert quality.drift_over == "repetitions"
    assert quality.drift[0] > 0.5 > np.abs(quality.drift[1:]).max()


def test_the_text_says_it_all(session, tmp_path) -> None:
    quality = quality_of(tmp_path)
    text = as_text(replace(quality, before_onset=quality.chance[0]))
    for words in (
        r"stimuli +12\n",
        r"neuroids +5\n",
        r"sessions +1, 48 responses",
        r"left out +0 of 48\n",
        r"V1 +5 +\d\.\d+",
        r"above shuffled\n +V1 .* 4\n",
        r"before onset +shuffled labels",
        r"sub-An_ses-20220105T173929/2 +V1 +– .* silent\n",
        r"sub-An_ses-20220105T173929/3 +V1 +0\.\d{3} ",
        r"silent +1: sub-An_ses-20220105T173929/2\n",
        r"drift above 0\.5 SD +1: sub-An_ses-20220105T173929/3\n",
        r"splits +train 6, val 6",
        r"duplicates +1 set: image004 = image009",
        r"in two splits +2: image004, image009",
        r"non-face +9 +75\.0%",
        r"face +3 +25\.0%",
        r"visual angle +10",
    ):
        assert re.search(words, text), words


def test_the_page_needs_nothing_but_itself(session, tmp_path) -> None:
    quality = quality_of(tmp_path)
    write_page(tmp_path / "report.html", quality)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert page.count("<svg") == page.count("</svg>") == page.count("<figure>") == 6
    assert not re.search(r"(?:src|href)=\"(?!#)", page)
    assert not re.search(r"url\((?!#)", page)
    for words in ("sub-An_ses-20220105T173929/3", "image004 = image009", "non-face"):
        assert words in page
    text = as_text(quality)
    for number in re.findall(r"\d+\.\d{3}", text):
        assert number in page


def test_many_units_are_listed_on_the_page_only(tmp_path) -> None:
    session = SyntheticSession(n_units=60)
    quality = assess(load("xiao2024", sessions=session.write(tmp_path)))
    assert "Each unit" not in as_text(quality)
    write_page(tmp_path / "report.html", quality)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert page.count(f"<td>{session.name}/") == 60


def test_names_from_files_cannot_break_the_page(tmp_path) -> None:
    names = ["<b>&.png", *[f"i{i}.png" for i in range(11)]]
    session = SyntheticSession(image_names=names)
    (tmp_path / "l.csv").write_text(
        "filename,label\n" + "".join(f"{n},<script>alert(1)</script>\n" for n in names)
    )
    dataset = load("xiao2024", sessions=session.write(tmp_path), label_table=tmp_path / "l.csv")
    write_page(tmp_path / "report.html", assess(dataset))
    assert "<script>" not in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_sources_without_repetitions_images_or_labels(tmp_path) -> None:
    (tmp_path / "images").mkdir()
    for i in range(4):
        Image.new("RGB", (8, 8), (i, 0, 0)).save(tmp_path / "images" / f"{i}.png")
    np.save(tmp_path / "r.npy", np.random.default_rng(0).random((4, 3)))
    (tmp_path / "sweep.yaml").write_text(
        f"dataset: {{kind: files, name: mine, images: {tmp_path}/images, "
        f"responses: {tmp_path}/r.npy, region: IT}}\n"
    )
    quality = assess(dataset_at(str(tmp_path / "sweep.yaml")))
    text = as_text(quality)
    assert "none in the source, so no ceiling" in text
    assert "unknown: neither times nor repetitions" in text
    assert re.search(r"IT +3 +– +– +– +3", text)
    assert "no splits to compare" in text
    write_page(tmp_path / "report.html", quality)
    session = SyntheticSession().write(tmp_path / "s")
    assert "not checked: loaded without images" in as_text(assess(dataset_at(str(session))))


def test_a_single_repetition_has_no_ceiling(tmp_path) -> None:
    session = SyntheticSession(n_presentations=12).write(tmp_path)
    assert np.isnan(assess(dataset_at(str(session))).ceilings).all()


def test_what_can_be_described(tmp_path, monkeypatch) -> None:
    session = SyntheticSession().write(tmp_path / "sessions")
    assembly = SyntheticAssembly().write(tmp_path / "assembly")
    for source in (session, tmp_path / "sessions"):
        assert dataset_at(str(source)).name == "xiao2024"
    for source in (assembly, next(assembly.glob("*.nc"))):
        assert dataset_at(str(source)).name == "majaj_hong"
    assert set(dataset_at(str(assembly), ["regions=[V4]"]).regions) == {"V4"}
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=r"toolkit\.data fetch majaj_hong"):
        dataset_at("majaj_hong")
    assembly.rename(tmp_path / "moved")
    (tmp_path / "data").mkdir()
    (tmp_path / "moved").rename(tmp_path / "data" / "majaj_hong")
    assert dataset_at("majaj_hong").name == "majaj_hong"


def test_a_config_that_extends_another_is_described(session, tmp_path) -> None:
    base = f"dataset: {{kind: xiao2024, sessions: {tmp_path}/sessions, images: {tmp_path}/images}}"
    (tmp_path / "base.yaml").write_text(base)
    (tmp_path / "c.yaml").write_text("extends: base.yaml\ndataset: {region: V4}\n")
    assert set(dataset_at(str(tmp_path / "c.yaml")).regions) == {"V4"}


def test_configs_may_write_lists_of_one_and_places_short(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("ASSEMBLY", str(SyntheticAssembly().write(tmp_path / "assembly")))
    config = Path(__file__).resolve().parents[1] / "configs" / "majaj_hong_it_pls.yaml"
    dataset = dataset_at(str(config), ["path=$ASSEMBLY", "variations=3"])
    assert set(dataset.regions) == {"IT"}
    assert set(dataset.metadata["variation"]) == {3}
    monkeypatch.setenv("HOME", str(tmp_path))
    assert set(dataset_at("~/assembly", ["regions=V4"]).regions) == {"V4"}
    assert dataset_at("~/assembly", ["name=012"]).name == "012"
    with pytest.raises(ValueError, match=r"--set nam=x: nam: majaj_hong has no key nam.*'name'"):
        dataset_at("~/assembly", ["nam=x"])
    with pytest.raises(ValueError, match="--set path"):
        dataset_at("~/assembly", ["path"])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "dataset: {kind: xiao2024, sessions: a, window_ms: 5}",
            "1: window_ms: Input should be a list",
        ),
        ("dataset: {kind: xiao2024, sessions: a, zscore: 1}", "1: zscore: .* write true or false"),
        ("dataset: {kind: nx414, path: [1, 2]}", "1: path: "),
        ("dataset: {kind: xiao2024}", "needs sessions"),
        ("dataset: {kind: nwb}", "no dataset with a kind"),
        ("extends: other.yaml", "no file .*other.yaml"),
        ("dataset: {kind: nx414, paht: x}", "nx414 has no key paht; it has path"),
        ("a: [", "not valid YAML"),
    ],
)
def test_configs_that_describe_no_data(tmp_path, text, words) -> None:
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(ValueError, match=words):
        dataset_at(str(tmp_path / "c.yaml"))


def test_paths_that_are_no_recording(tmp_path) -> None:
    (tmp_path / "x.txt").write_text("x")
    for source, words in (
        (tmp_path / "x.txt", "not known as a recording"),
        (tmp_path, "not known"),
    ):
        with pytest.raises(DataError, match=words):
            dataset_at(str(source))
    with pytest.raises(DataError, match="no such file or folder, and none of majaj_hong"):
        dataset_at(str(tmp_path / "absent"))


def run(*words: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "toolkit.data", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True)


def test_describe_as_a_command(session, tmp_path) -> None:
    page = tmp_path / "page.html"
    done = run("describe", tmp_path / "sessions", "--html", page, "--set", "region=V1")
    assert done.returncode == 0, done.stderr
    assert "V1" in done.stdout
    assert done.stdout.rstrip().endswith(str(page))
    assert page.is_file()
    wrong = run("describe", tmp_path / "sessions", "--set", "regoin=V1")
    assert wrong.returncode == 2
    assert "has no key regoin" in wrong.stderr
    assert "Traceback" not in wrong.stderr
