"""Free-viewing sessions: responses against a loop over presentations, and every fault there is."""

from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from recordings import SyntheticSession

from toolkit.data import DataError, NeuralDataset, load, size_of
from toolkit.data.nwb import Display
from toolkit.data.patches import px_of_image_per_deg


def test_units_and_images_in_utf8(tmp_path: Path) -> None:
    session = SyntheticSession()
    session.image_names = tuple(f"gesicht_ä{i}.png" for i in range(len(session.image_names)))
    session.unit_names = tuple(f"{i}µ" for i in range(1, 6))
    path = session.write(tmp_path / "sessions")
    dataset = load("xiao2024", sessions=path, images=session.write_images(tmp_path / "images"))
    assert set(dataset.metadata["file"]) == set(session.image_names)
    assert dataset.neuroid_ids == tuple(f"{session.name}/{unit}" for unit in session.unit_names)


@pytest.mark.parametrize(
    ("file", "key", "attribute", "value"),
    [
        ("", "processing/ecephys/rasters/data", "conversion", 0.001),
        ("", "processing/ecephys/rasters/data", "offset", -2.0),
        ("_image", "stimulus/presentation/presentations/timestamps", "conversion", 1e-3),
        ("_image", "processing/behavior/fixations/x", "scale_factor", 0.1),
        ("_image", "intervals/presentations/position", "conversion", 57.3),
    ],
)
def test_values_that_nwb_says_to_convert_are_refused(
    session, tmp_path, file, key, attribute, value
) -> None:
    path = session.write(tmp_path / "sessions")
    images = session.write_images(tmp_path / "images")
    changed = path.with_name(f"{path.stem}{file}.nwb")
    with h5py.File(changed, "r+") as opened:
        opened[key].attrs.update({"conversion": 1.0, "resolution": -1.0, "offset": 0.0})
    load("xiao2024", sessions=path, images=images)
    with h5py.File(changed, "r+") as opened:
        opened[key].attrs[attribute] = value
    with pytest.raises(DataError, match=f"{key} has {attribute} {value:g}"):
        load("xiao2024", sessions=path, images=images)


@pytest.fixture
def session() -> SyntheticSession:
    return SyntheticSession()


def loaded(session: SyntheticSession, folder: Path, **params) -> NeuralDataset:
    return load("xiao2024", sessions=session.write(folder / "sessions"), **params)


def rate_hz(session: SyntheticSession, time_s: float, window_ms=(70, 170)) -> np.ndarray:
    """Mean rate of every unit in a window after a time, bin by bin."""
    start = round((time_s + window_ms[0] / 1000) / 0.001)
    stop = start + window_ms[1] - window_ms[0]
    return session.raster[start:stop].sum(axis=0) / ((window_ms[1] - window_ms[0]) / 1000)


def by_loop(session: SyntheticSession, window_ms=(70, 170)) -> np.ndarray:
    """Mean over presentations of each image, in the order of image names."""
    return np.array(
        [
            np.mean(
                [
                    rate_hz(session, onset, window_ms)
                    for onset, shown in zip(session.onset_s, session.image, strict=True)
                    if shown == image
                ],
                axis=0,
            )
            for image in np.argsort(session.image_names)
        ]
    )


@pytest.mark.parametrize("window_ms", [(70, 170), (-100, 0), (0, 50)])
@pytest.mark.parametrize("chunks", [None, (1000, 1)])
def test_responses_equal_a_loop_over_presentations(session, tmp_path, window_ms, chunks) -> None:
    dataset = loaded(replace(session, chunks=chunks), tmp_path, window_ms=window_ms, region="V1")
    np.testing.assert_allclose(dataset.responses, by_loop(session, window_ms), rtol=1e-6)
    assert dataset.stimuli.ids == tuple(f"image{i:03d}" for i in range(12))
    assert dataset.neuroid_ids == tuple(f"{session.name}/{i}" for i in range(1, 6))
    assert dataset.regions == ("V1",) * 5
    assert dataset.dropped == {}
    assert not dataset.masks_missing
    assert dataset.visual_degrees == pytest.approx(10, abs=0.01)


def test_repetitions_are_the_presentations_in_the_order_of_time(session, tmp_path) -> None:
    repetitions = loaded(session, tmp_path).repetitions
    counts = np.bincount(session.image, minlength=12)
    assert repetitions.shape == (12, 5, counts.max())
    np.testing.assert_array_equal(np.sum(~np.isnan(repetitions[:, 0]), axis=1), counts)
    for image in (0, 11):
        onsets = session.onset_s[session.image == image]
        for number, onset in enumerate(onsets):
            np.testing.assert_allclose(repetitions[image, :, number], rate_hz(session, onset))


def test_either_file_a_folder_or_a_list_name_the_session(session, tmp_path) -> None:
    path = session.write(tmp_path / "a" / "b")
    digests = {
        load("xiao2024", sessions=given).responses_digest()
        for given in (path, path.with_name(f"{session.name}_image.nwb"), tmp_path, [tmp_path / "a"])
    }
    assert len(digests) == 1


def test_aborted_error_and_overhanging_presentations_are_dropped_and_counted(
    session, tmp_path
) -> None:
    session.error_code[[3, 7]] = 3
    session.offset_s[[7, 12, 13, 20]] = session.onset_s[[7, 12, 13, 20]] + 0.1
    session.offset_s[21] = np.nan
    session.raster = session.raster[: round(session.onset_s[38] / 0.001) + 100]
    session.onset_s[0] = 0.01
    dataset = loaded(session, tmp_path, baseline_ms=(-100, 0))
    assert dataset.dropped == {
        "error code": 2,
        "aborted (shown for less than 170 ms)": 4,
        "before the recording began": 1,
        "over the recording's end": 2,
    }
    kept = np.setdiff1d(np.arange(40), [0, 3, 7, 12, 13, 20, 21, 38, 39])
    session.image, session.onset_s = session.image[kept], session.onset_s[kept]
    expected = by_loop(session) - by_loop(session, (-100, 0))
    np.testing.assert_allclose(dataset.responses, expected, rtol=1e-5, atol=1e-5)
    [timeline] = dataset.timelines
    np.testing.assert_array_equal(timeline.time_s, session.onset_s)


def test_a_presentation_that_outlasts_the_recording_is_dropped(session, tmp_path) -> None:
    last_s = session.onset_s[-1]
    session.raster = session.raster[: round((last_s + 0.5) / 0.001)]
    assert session.offset_s[-1] > last_s + 0.5 > last_s + 0.17
    assert loaded(session, tmp_path).dropped == {"over the recording's end": 1}


def test_a_trial_that_is_not_in_the_file_counts_as_an_error(session, tmp_path) -> None:
    path = session.write(tmp_path)
    with h5py.File(path.with_name(f"{session.name}_image.nwb"), "a") as file:
        file["intervals/presentations/trial_id"][5] = 9999
    assert load("xiao2024", sessions=path).dropped == {"error code": 1}


def test_baseline_variance_and_z_scores_are_as_defined(session, tmp_path) -> None:
    window, before = (70, 170), (-200, 0)
    counts = np.array([rate_hz(session, t, window) * 0.1 for t in session.onset_s])
    baseline = np.array([rate_hz(session, t, before) * 0.2 for t in session.onset_s]) / 2
    expected = {
        (): counts / 0.1,
        (("baseline_ms", before),): (counts - baseline) / 0.1,
        (("stabilise", "sqrt"),): np.sqrt(counts),
        (("stabilise", "anscombe"),): 2 * np.sqrt(counts + 0.375),
        (("stabilise", "sqrt"), ("baseline_ms", before)): np.sqrt(counts) - np.sqrt(baseline),
        (("zscore", True),): (counts - counts.mean(0)) / counts.std(0),
    }
    for params, values in expected.items():
        [timeline] = loaded(session, tmp_path, **dict(params)).timelines
        np.testing.assert_allclose(timeline.responses, values, rtol=1e-5, atol=1e-6)


def test_a_silent_unit_stays_at_zero_when_standardised(session, tmp_path) -> None:
    session.raster[:, 2] = 0
    dataset = loaded(session, tmp_path, zscore=True)
    np.testing.assert_array_equal(dataset.responses[:, 2], 0)


# Several sessions


def test_sessions_are_joined_by_image_and_what_was_not_shown_is_masked(session, tmp_path) -> None:
    names = [f"image{i:03d}.png" for i in (10, 11, 12, 13)]
    other = SyntheticSession(
        name="sub-Bf_ses-20211114T152023", n_images=4, n_units=3, seed=1, image_names=names
    )
    other.write(tmp_path / "sessions")
    dataset = loaded(session, tmp_path, window_ms=(70, 170))
    both = load("xiao2024", sessions=tmp_path / "sessions")
    assert both.stimuli.ids == tuple(f"image{i:03d}" for i in range(14))
    assert both.masks_missing
    np.testing.assert_array_equal(both.responses[:12, :5], dataset.responses)
    np.testing.assert_allclose(both.responses[10:14, 5:], by_loop(other), rtol=1e-6)
    assert np.isnan(both.responses[12:, :5]).all()
    assert np.isnan(both.responses[:10, 5:]).all()
    assert len(both.timelines) == 2
    assert both.timelines[1].neuroids.tolist() == [5, 6, 7]
    assert size_of("xiao2024", sessions=tmp_path / "sessions").n_neuroids == 8


TABLE = "Session,Bank,Array ID,Hemisphere,Region\n"


def test_units_lie_where_the_session_table_says(session, tmp_path) -> None:
    units = ["1", "32", "33a", "64b", "65"]
    session = replace(session, unit_names=units, n_units=5)
    table = tmp_path / "table.csv"
    rows = "An220105,0,1,L,V1\nAn220105,1,2,L,V4\nAn220105,2,0,R,AIT\nAn220106,0,1,L,V2\n"
    table.write_text(TABLE + rows)
    dataset = loaded(session, tmp_path, session_table=table)
    assert dataset.regions == ("V1", "V1", "V4", "V4", "AIT")
    some = loaded(session, tmp_path, session_table=table, regions=["V4", "AIT"])
    assert some.neuroid_ids == tuple(f"{session.name}/{u}" for u in ("33a", "64b", "65"))
    np.testing.assert_array_equal(some.responses, dataset.responses[:, 2:])
    with pytest.raises(DataError, match="nothing left of 1 sessions: no unit in PIT"):
        loaded(session, tmp_path, session_table=table, regions=["PIT"])


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ("An220106,0,1,L,V1\n", "no row for session sub-An_ses-20220105T173929; call it so or An2"),
        ("An220105,1,1,L,V1\n", "no row for bank 0 of session"),
        ("An220105,0,1,L,V1\nAn220105,0,2,L,V4\n", "bank 0 of session An220105 has two regions"),
        ("An220105_1,0,1,L,V1\nAn220105_2,0,1,L,V4\n", "cannot be told"),
        ("An220105,zero,1,L,V1\n", "expected a number"),
    ],
)
def test_session_tables_that_do_not_tell(session, tmp_path, rows: str, words: str) -> None:
    (tmp_path / "table.csv").write_text(TABLE + rows)
    with pytest.raises(DataError, match=words):
        loaded(session, tmp_path, session_table=tmp_path / "table.csv")


def test_session_tables_with_other_spellings(session, tmp_path) -> None:
    table = tmp_path / "table.csv"
    for text in (
        "session,bank,array,hemisphere,region\nsub-An_ses-20220105T173929,0,1,L,V1\n",
        TABLE + "An220105_1,0,1,L,V1\nAn220105_2,0,1,L,V1\n",
    ):
        table.write_text(text)
        assert set(loaded(session, tmp_path, session_table=table).regions) == {"V1"}
    table.write_text("Session,Bank,Region\nAn220105,0,V1\n")
    with pytest.raises(DataError, match="no column array, hemisphere"):
        loaded(session, tmp_path, session_table=table)
    with pytest.raises(DataError, match="leave one out"):
        loaded(session, tmp_path, session_table=table, region="V1")


# Labels and images


def labels(path: Path, **columns) -> Path:
    pd.DataFrame(columns).to_csv(path, index=False)
    return path


def test_labels_join_by_file_name_and_select(session, tmp_path) -> None:
    table = labels(
        tmp_path / "labels.csv",
        filename=["elsewhere/image003.png", "image001.png", "image000.png", "never_shown.png"],
        label=["face", "pareidolia", "non-face", "face"],
        split=["train", "val", "train", "val"],
    )
    dataset = loaded(session, tmp_path, label_table=table)
    assert dataset.stimuli.ids == ("image000", "image001", "image003")
    assert dataset.category_names == ("non-face", "pareidolia", "face")
    assert dataset.object_names is None
    assert {k: v.tolist() for k, v in dataset.splits.items()} == {"train": [0, 2], "val": [1]}
    np.testing.assert_allclose(dataset.responses, by_loop(session)[[0, 1, 3]], rtol=1e-6)
    n_others = int(np.sum(~np.isin(session.image, [0, 1, 3])))
    assert dataset.dropped == {"image without a label": n_others}
    sizes = size_of("xiao2024", sessions=tmp_path / "sessions", label_table=table)
    assert sizes.split_sizes == {"train": 2, "val": 1}


def test_labels_of_no_image_shown(session, tmp_path) -> None:
    table = labels(tmp_path / "labels.csv", filename=["x.png"], label=["face"])
    with pytest.raises(DataError, match="nothing left of 1 sessions: 40 image without a label"):
        loaded(session, tmp_path, label_table=table)


def test_images_are_found_by_name_at_any_depth(session, tmp_path) -> None:
    session.write_images(tmp_path / "images" / "Stimuli" / "deep")
    dataset = loaded(session, tmp_path, images=tmp_path / "images")
    assert not dataset.stimuli.framed
    with Image.open(tmp_path / "images/Stimuli/deep/image004.png") as image:
        np.testing.assert_array_equal(np.asarray(dataset.stimuli[4]), np.asarray(image))
    frame = {"mode": "pad", "size_px": 100, "background": [1, 2, 3]}
    framed = loaded(session, tmp_path, images=tmp_path / "images", frame=frame)
    assert framed.stimuli.framed
    assert framed.stimuli[4].size == (100, 100)
    (tmp_path / "images/Stimuli/deep/image004.png").unlink()
    with pytest.raises(DataError, match=r"lacks 1 of 12 images shown: 'image004\.png'"):
        loaded(session, tmp_path, images=tmp_path / "images")


def test_without_images_the_responses_are_there_and_the_images_say_so(session, tmp_path) -> None:
    dataset = loaded(session, tmp_path)
    with pytest.raises(DataError, match="'image003': the data set was loaded without images"):
        dataset.stimuli[3]


# Fixations


def test_fixation_responses_equal_a_loop_over_fixations(session, tmp_path) -> None:
    session.write_images(tmp_path / "images")
    dataset = loaded(session, tmp_path, images=tmp_path / "images", align="fixation")
    # Per presentation: under way at onset, +150, +350 ms good, +750 ms too late, +900 ms no image.
    assert dataset.dropped["no image when it began"] == 2 * 40
    assert dataset.dropped["image gone within 170 ms"] == 40
    starts = session.fixations["start_time"].reshape(40, 5)[:, 1:3].ravel()
    assert len(dataset.stimuli) == 80
    expected = np.array([rate_hz(session, start) for start in starts])
    np.testing.assert_allclose(dataset.responses, expected, rtol=1e-6)
    assert dataset.repetitions is None
    shown = [session.image_names[i].removesuffix(".png") for i in np.repeat(session.image, 2)]
    assert dataset.object_names == tuple(shown)
    assert dataset.visual_degrees == 4
    assert size_of("xiao2024", sessions=tmp_path / "sessions", align="fixation").n_stimuli == 80


def test_the_patch_is_what_lies_around_the_gaze(session, tmp_path) -> None:
    session.fixations["x"][:], session.fixations["y"][:] = 1.5, -2.0
    folder = session.write_images(tmp_path / "images")
    dataset = loaded(session, tmp_path, images=folder, align="fixation", patch_deg=2)
    px_per_deg = 80 / 10
    with Image.open(folder / dataset.metadata["file"][7]) as image:
        left = round(40 + 1.5 * px_per_deg - 8)
        top = round(30 + 2.0 * px_per_deg - 8)
        expected = np.asarray(image.crop((left, top, left + 16, top + 16)))
    np.testing.assert_array_equal(np.asarray(dataset.stimuli[7]), expected)
    assert dataset.stimuli.framed


def test_beyond_the_edge_of_the_image_is_grey(session, tmp_path) -> None:
    session.fixations["x"][:], session.fixations["y"][:] = -5.0, 3.75
    folder = session.write_images(tmp_path / "images")
    dataset = loaded(session, tmp_path, images=folder, align="fixation", patch_deg=4)
    patch = np.asarray(dataset.stimuli[0])
    assert patch.shape == (32, 32, 3)
    assert (patch[:16] == 128).all()
    assert (patch[:, :16] == 128).all()
    assert (patch[16:, 16:] != 128).any()


def test_gaze_beside_the_image_and_a_late_eye_tracker(session, tmp_path) -> None:
    session.fixations["x"][1::5] = 5.1  # the image ends at 5 degrees
    dataset = loaded(session, tmp_path, align="fixation")
    assert dataset.dropped["gaze not on the image"] == 40
    late = loaded(session, tmp_path, align="fixation", gaze_latency_ms=20)
    expected = [rate_hz(session, t - 0.02) for t in session.fixations["start_time"][2::5]]
    np.testing.assert_allclose(late.responses, expected, rtol=1e-6)


def test_fixations_of_faulty_presentations_are_dropped(session, tmp_path) -> None:
    session.error_code[:10] = 3
    dataset = loaded(session, tmp_path, align="fixation")
    assert dataset.dropped["error code"] == 3 * 10  # the one past its end has no image any more
    assert len(dataset.stimuli) == 60


def test_patches_of_two_sessions_never_share_a_neuron(session, tmp_path) -> None:
    other = SyntheticSession(name="sub-Bf_ses-20211114T152023", n_units=3, seed=1)
    other.write(tmp_path / "sessions")
    session.write(tmp_path / "sessions")
    dataset = load("xiao2024", sessions=tmp_path / "sessions", align="fixation")
    own = np.zeros(dataset.responses.shape, dtype=bool)
    own[:80, :5], own[80:, 5:] = True, True
    np.testing.assert_array_equal(~np.isnan(dataset.responses), own)
    assert len(set(dataset.stimuli.ids)) == 160


def test_patches_of_an_image_are_all_in_its_split(session, tmp_path) -> None:
    splits = ["train", "val"] * 6
    table = labels(tmp_path / "labels.csv", filename=session.image_names, split=splits)
    dataset = loaded(session, tmp_path, align="fixation", label_table=table)
    of_split = {k: {dataset.object_names[i] for i in v} for k, v in dataset.splits.items()}
    assert of_split == {
        split: {f"image{i:03d}" for i in range(first, 12, 2)}
        for first, split in enumerate(("train", "val"))
    }


def test_patches_have_digests_of_their_own(session, tmp_path) -> None:
    folder = session.write_images(tmp_path / "images")
    params = {"images": folder, "align": "fixation"}
    digests = [loaded(session, tmp_path, **params, patch_deg=d).stimuli.digest() for d in (4, 4, 5)]
    assert digests[0] == digests[1] != digests[2]
    assert loaded(session, tmp_path, **params).stimuli.duplicates() == []


@pytest.mark.parametrize(
    ("image", "expected"), [((80, 60), 8.0), ((160, 120), 16.0), ((80, 80), 8.0), ((40, 300), 8.0)]
)
def test_images_of_the_shape_shown_are_scaled_others_are_not(image, expected) -> None:
    display = Display((80, 60), px_per_deg=8.0)
    assert px_of_image_per_deg(image, display) == pytest.approx(expected)


def test_what_fixations_need(session, tmp_path) -> None:
    path = session.write(tmp_path)
    image_path = path.with_name(f"{session.name}_image.nwb")
    with h5py.File(image_path, "a") as file:
        del file["stimulus/templates/stimuli/distance"]
    with pytest.raises(DataError, match="does not say how large images were shown"):
        load("xiao2024", sessions=path, align="fixation")
    with h5py.File(image_path, "a") as file:
        del file["processing/behavior/fixations"]
    with pytest.raises(DataError, match="no fixations"):
        load("xiao2024", sessions=path, align="fixation")
    assert load("xiao2024", sessions=path).visual_degrees is None
    with pytest.raises(DataError, match="square already"):
        load("xiao2024", sessions=path, align="fixation", frame={"mode": "pad"})


# Damage


def damaged(session: SyntheticSession, folder: Path, change, image: bool = True) -> str:
    path = session.write(folder)
    target = path.with_name(f"{session.name}_image.nwb") if image else path
    with h5py.File(target, "a") as file:
        change(file)
    with pytest.raises(DataError) as caught:
        load("xiao2024", sessions=path)
    assert str(target) in str(caught.value)
    return str(caught.value)


def replaced(key: str, values):
    def change(file: h5py.File) -> None:
        del file[key]
        if values is not None:
            file[key] = values

    return change


@pytest.mark.parametrize(
    ("key", "values", "words"),
    [
        ("stimulus/presentation/presentations/data", None, "no data set stimulus/presentation"),
        ("stimulus/presentation/presentations/data", [0] * 39, "39 presented images, 40 times"),
        ("stimulus/presentation/presentations/data", [12] * 40, "image 12 was presented, but"),
        ("stimulus/presentation/presentations/timestamps", [0.0] * 40, "are not the start times"),
        ("intervals/presentations/stop_time", [0.0] * 3, "differ in length"),
        ("intervals/trials/error_code", None, "no data set intervals/trials/error_code"),
        ("stimulus/templates/stimuli/external_file", ["a.png"] * 12, "of one file name: a.png"),
    ],
)
def test_damaged_image_files_name_the_key(session, tmp_path, key, values, words) -> None:
    assert words in damaged(session, tmp_path, replaced(key, values))


@pytest.mark.parametrize(
    ("key", "values", "words"),
    [
        ("processing/ecephys/rasters/data", None, "no data set processing/ecephys/rasters/data"),
        ("processing/ecephys/rasters/data", np.zeros((9, 4), "u1"), "(time bins, 5 units)"),
        ("processing/ecephys/rasters/data", np.zeros((9, 5)), "expected whole numbers"),
        ("processing/ecephys/rasters/starting_time", 0.0, "no attribute rate"),
        ("processing/ecephys/unit_names/unit_name", None, "no data set processing/ecephys/unit"),
    ],
)
def test_damaged_raster_files_name_the_key(session, tmp_path, key, values, words) -> None:
    assert words in damaged(session, tmp_path, replaced(key, values), image=False)


def test_files_that_are_missing_or_not_hdf5(session, tmp_path) -> None:
    path = session.write(tmp_path)
    path.write_bytes(b"not HDF5")
    with pytest.raises(DataError, match="not a readable HDF5 file"):
        load("xiao2024", sessions=path)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=f"{session.name}.nwb: no such file"):
        load("xiao2024", sessions=path)
    with pytest.raises(DataError, match="no session in it"):
        (tmp_path / "empty").mkdir()
        load("xiao2024", sessions=tmp_path / "empty")


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"align": "saccade"}, "write one of image, fixation"),
        ({"window_ms": (170, 70)}, r"window_ms is \[170, 70\]"),
        ({"baseline_ms": (0, 0)}, "baseline_ms"),
        ({"window_ms": (70, 70.5)}, "not a whole number of its bins"),
        ({"stabilise": "log"}, "write one of sqrt, anscombe"),
    ],
)
def test_parameters_that_make_no_sense(session, tmp_path, params, words) -> None:
    with pytest.raises(DataError, match=words):
        loaded(session, tmp_path, **params)
