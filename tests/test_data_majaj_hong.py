"""Assemblies of the exact public layout, against averages written out by hand."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from PIL import Image
from recordings import SyntheticAssembly

from toolkit.data import DataError, load, size_of
from toolkit.metrics import split_half_ceiling

ASSEMBLY = "assy_dicarlo_MajajHong2015_public.nc"
TABLE = "stimulus_hvm-public.csv"
ARCHIVE = "stimulus_hvm-public.zip"


@pytest.fixture(scope="module")
def assembly() -> SyntheticAssembly:
    return SyntheticAssembly()


@pytest.fixture
def folder(assembly: SyntheticAssembly, tmp_path: Path) -> Path:
    return assembly.write(tmp_path / "synthetic")


def by_hand(folder: Path, region: str) -> tuple[list[str], np.ndarray]:
    """Sorted stimulus ids, and the mean over each one's presentations, with xarray."""
    with xr.open_dataset(folder / ASSEMBLY, engine="h5netcdf") as file:
        [name] = file.data_vars
        array = file[name].load().isel(time_bin=0).transpose("presentation", "neuroid")
    array = array.isel(neuroid=np.flatnonzero(array.region == region))
    mean = array.astype(float).groupby("image_id").mean("presentation")
    return list(mean.image_id.values), mean.values


def test_responses_are_the_mean_over_presentations_sorted_by_stimulus(folder: Path) -> None:
    for region, n in (("IT", 6), ("V4", 3)):
        dataset = load("majaj_hong", path=folder, regions=[region])
        ids, mean = by_hand(folder, region)
        assert list(dataset.stimuli.ids) == ids
        np.testing.assert_allclose(dataset.responses, mean, rtol=1e-7)
        assert dataset.regions == (region,) * n
        assert size_of("majaj_hong", path=folder, regions=[region]).n_neuroids == n


def test_every_presentation_is_kept_at_its_repetition(
    folder: Path, assembly: SyntheticAssembly
) -> None:
    dataset = load("majaj_hong", path=folder, regions=["IT", "V4"])
    assert dataset.repetitions.shape == (40, 9, 6)
    assert dataset.repetitions.dtype == np.float32
    shown = assembly.presentations.reset_index()
    for row in (0, 17, len(shown) - 1):
        stimulus = dataset.stimuli.ids.index(shown.stimulus_id[row])
        found = dataset.repetitions[stimulus, :, shown.repetition[row]]
        np.testing.assert_array_equal(found, assembly.values[row])
    assert np.sum(~np.isnan(dataset.repetitions)) == assembly.values.size
    never_shown = np.isnan(dataset.repetitions).all(axis=1)
    expected = (dataset.metadata["variation"] == 0)[:, None] & (np.arange(6) >= 4)
    np.testing.assert_array_equal(never_shown, expected)
    assert split_half_ceiling(dataset.repetitions).shape == (10, 9)


def test_encoded_responses_are_decoded(folder: Path) -> None:
    plain = load("majaj_hong", path=folder)
    with xr.open_dataset(folder / ASSEMBLY, engine="h5netcdf") as file:
        assembly = file.load()
    [name] = assembly.data_vars
    assembly[name].attrs["units"] = "ms"  # of which old xarray makes a time
    encoding = {"dtype": "int16", "scale_factor": 0.001, "_FillValue": -32768}
    assembly.to_netcdf(folder / ASSEMBLY, engine="h5netcdf", encoding={name: encoding})
    encoded = load("majaj_hong", path=folder)
    np.testing.assert_allclose(encoded.repetitions, plain.repetitions, atol=6e-4)


@pytest.mark.parametrize(
    "dims", [("neuroid", "presentation", "time_bin"), ("time_bin", "presentation", "neuroid")]
)
@pytest.mark.parametrize("id_name", ["image_id", "stimulus_id"])
def test_any_order_of_dimensions_and_either_id(tmp_path: Path, dims, id_name) -> None:
    folder = SyntheticAssembly(dims=dims, id_name=id_name).write(tmp_path / "other")
    same = SyntheticAssembly().write(tmp_path / "usual")
    found, expected = load("majaj_hong", path=folder), load("majaj_hong", path=same)
    assert found.responses_digest() == expected.responses_digest()
    assert found.stimuli.digest() == expected.stimuli.digest()


def test_labels_and_pose_belong_to_their_images(folder: Path, assembly: SyntheticAssembly) -> None:
    dataset = load("majaj_hong", path=folder / ASSEMBLY)
    images = assembly.images.set_index("stimulus_id").loc[list(dataset.stimuli.ids)]
    assert dataset.object_names == tuple(images.object_name)
    assert dataset.category_names == tuple(images.category_name)
    for column in ("variation", "s", "ty", "rxy", "background_id"):
        assert dataset.metadata[column].tolist() == images[column].tolist()
    assert not {"repetition", "filename", "object_name"} & set(dataset.metadata)
    assert dataset.visual_degrees == 8
    assert dataset.stimuli.framed
    first = dataset.stimuli.ids[0]
    row = assembly.images.index[assembly.images.stimulus_id == first][0]
    np.testing.assert_array_equal(np.asarray(dataset.stimuli[0]), assembly.pixels(row))


def test_animals_and_variations_are_chosen(folder: Path, assembly: SyntheticAssembly) -> None:
    dataset = load("majaj_hong", path=folder, animals=["Tito"], variations=[3])
    whole = load("majaj_hong", path=folder)
    of_tito = set(assembly.neuroids.neuroid_id[assembly.neuroids.animal == "Tito"])
    columns = [i for i, neuroid in enumerate(whole.neuroid_ids) if neuroid in of_tito]
    rows = np.flatnonzero(whole.metadata["variation"] == 3)
    np.testing.assert_array_equal(dataset.responses, whole.responses[np.ix_(rows, columns)])
    assert set(dataset.metadata["variation"]) == {3}


def test_a_variation_held_out_is_the_split_val(folder: Path) -> None:
    dataset = load("majaj_hong", path=folder, val_variation=3)
    assert set(dataset.metadata["variation"][dataset.splits["val"]]) == {3}
    assert set(dataset.metadata["variation"][dataset.splits["train"]]) == {0}
    sizes = size_of("majaj_hong", path=folder, val_variation=3)
    assert sizes.split_sizes == {k: len(v) for k, v in dataset.splits.items()}
    assert sum(sizes.split_sizes.values()) == sizes.n_stimuli == 40


@pytest.mark.parametrize(("field_deg", "side"), [(8, 16), (12, 24), (4, 8), (10, 20)])
def test_images_of_8_degrees_in_a_field_of_another_width(folder: Path, field_deg, side) -> None:
    plain = load("majaj_hong", path=folder).stimuli
    placed = load(
        "majaj_hong", path=folder, field_of_view_deg=field_deg, background=[9, 8, 7]
    ).stimuli
    image = placed[3]
    assert isinstance(image, Image.Image)
    assert image.size == (side, side)
    edge = (side - 16) // 2
    inner = np.asarray(plain[3])[
        max(0, -edge) : 16 + min(0, edge), max(0, -edge) : 16 + min(0, edge)
    ]
    low = max(0, edge)
    np.testing.assert_array_equal(
        np.asarray(image)[low : low + len(inner), low : low + len(inner)], inner
    )
    if edge > 0:
        assert image.getpixel((0, 0)) == (9, 8, 7)
    assert placed.digest() != plain.digest()


def refused(folder: Path, **params) -> str:
    for function in (load, size_of):
        with pytest.raises(DataError) as caught:
            function("majaj_hong", path=folder, **params)
    return str(caught.value)


def test_choices_that_do_not_exist_list_those_that_do(folder: Path) -> None:
    assert re.search(r"region 'TE' asked for; it has 'IT', 'V4'", refused(folder, regions=["TE"]))
    assert "it has 'Chabo', 'Tito'" in refused(folder, animals=["Nano"])
    assert "variation 6 asked for; it has 0, 3" in refused(folder, variations=[6])
    assert "val_variation is 6" in refused(folder, val_variation=6)
    assert "val_variation is 3" in refused(folder, val_variation=3, variations=[3])


def test_files_that_are_missing_double_or_damaged(folder: Path, tmp_path: Path) -> None:
    (folder / TABLE).rename(folder / "table.txt")
    assert "0 files *.csv for the stimulus table" in refused(folder)
    (folder / "table.txt").rename(folder / TABLE)
    shutil.copy(folder / ARCHIVE, folder / "again.zip")
    assert "2 files *.zip for the images" in refused(folder)
    (folder / "again.zip").unlink()
    (folder / ASSEMBLY).write_bytes(b"CDF\x01 not really")
    assert "not a readable NetCDF-4 file" in refused(folder)


def edit_table(folder: Path, change) -> None:
    table = pd.read_csv(folder / TABLE, dtype=str)
    change(table).to_csv(folder / TABLE, index=False)


def test_tables_that_do_not_belong_to_the_assembly(folder: Path) -> None:
    original = (folder / TABLE).read_bytes()
    edit_table(folder, lambda t: t.iloc[1:])
    assert "no row for stimulus_id" in refused(folder)
    (folder / TABLE).write_bytes(original)
    edit_table(folder, lambda t: t.assign(object_name=t.object_name.to_numpy()[::-1]))
    assert "different versions" in refused(folder)
    (folder / TABLE).write_bytes(original)
    edit_table(folder, lambda t: pd.concat([t, t.iloc[:1]]))
    assert "used more than once" in refused(folder)
    (folder / TABLE).write_bytes(original)
    edit_table(folder, lambda t: t.assign(filename="absent.png"))
    with pytest.raises(DataError, match="names 40 images that are not in"):
        load("majaj_hong", path=folder)


def test_an_assembly_with_two_presentations_in_one_place(tmp_path: Path) -> None:
    assembly = SyntheticAssembly()
    assembly.presentations["repetition"] = 0
    assert "stimulus and repetition of another" in refused(assembly.write(tmp_path / "doubled"))


def test_an_assembly_of_several_time_bins(tmp_path: Path) -> None:
    folder = SyntheticAssembly().write(tmp_path / "temporal")
    with xr.open_dataset(folder / ASSEMBLY, engine="h5netcdf") as file:
        twice = xr.concat([file.load()] * 2, "time_bin")
    twice.to_netcdf(folder / ASSEMBLY, engine="h5netcdf")
    assert "expected one time bin" in refused(folder)


FULL_SIZE = """
import sys
from pathlib import Path
import toolkit.data

def peak_bytes():
    status = Path("/proc/self/status").read_text().split()
    return int(status[status.index("VmHWM:") + 1]) * 1024

Path("/proc/self/clear_refs").write_text("5")  # sets the peak back to what is in use now
before_bytes = peak_bytes()
dataset = toolkit.data.load("majaj_hong", path=Path(sys.argv[1]))
print(*dataset.responses.shape, *dataset.repetitions.shape, peak_bytes() - before_bytes)
"""


@pytest.mark.slow
def test_the_public_size_gives_3200_by_168_in_bounded_memory(tmp_path: Path) -> None:
    assembly = SyntheticAssembly(n_objects=64, n_per_object=50, n_repetitions=1, n_it=168, n_v4=88)
    images = assembly.images.assign(variation=np.where(np.arange(3200) % 50 < 10, 0, 3))
    assembly.images = images
    n_shown = np.where(images.variation == 0, 28, 51)  # 148,480 presentations
    shown = images.loc[np.repeat(np.arange(3200), n_shown)]
    shown = shown.assign(repetition=np.concatenate([np.arange(n) for n in n_shown]))
    assembly.presentations = shown.sample(frac=1, random_state=0)
    rng = np.random.default_rng(0)
    assembly.values = rng.standard_normal((len(shown), 256), dtype=np.float32)
    folder = assembly.write(tmp_path / "full")
    done = subprocess.run(
        [sys.executable, "-c", FULL_SIZE, str(folder)], capture_output=True, text=True, check=True
    )
    *shape, grown_bytes = map(int, done.stdout.split())
    assert shape == [3200, 168, 3200, 168, 51]
    # The repetitions are 110 MB, the file's array 152 MB; a copy of that in float64 304 MB.
    assert grown_bytes < 450e6


def test_bounded_by_blocks_not_by_the_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = load("majaj_hong", path=folder)
    monkeypatch.setattr("toolkit.data.assembly._BLOCK_BYTES", 7 * 9 * 4)
    assert load("majaj_hong", path=folder).responses_digest() == whole.responses_digest()
