import pickle
import shutil
import warnings
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import numpy as np
import pytest
import zarr

from toolkit.features.errors import DamagedChunkError, FeatureError, FeatureStorageError
from toolkit.features.store import FeatureStore
from toolkit.models import LayerInfo

LAYERS = (LayerInfo("conv", (5, 61, 67), 2), LayerInfo("block.0.pool", (7,), 4))
IDS = tuple(f"synthetic/bild-{i:03d} ü" for i in range(70))
PROVENANCE = {"model": "stand-in", "seed": 3, "input_px": (16, 16)}


def create(path, layers=LAYERS, ids=IDS, provenance=PROVENANCE, dtype="float32"):
    return FeatureStore.create(
        path, layers=layers, stimulus_ids=ids, provenance=provenance, dtype=dtype
    )


@pytest.fixture
def features():
    rng = np.random.default_rng(0)
    return {x.name: rng.standard_normal((70, x.n_features), np.float32) for x in LAYERS}


def write(store, block, features):
    store.write_block(block, {name: values[store.rows(block)] for name, values in features.items()})


@pytest.fixture
def finished(tmp_path, features):
    store = create(tmp_path / "extract-1.zarr")
    for block in store.missing_blocks():
        write(store, block, features)
    return store


def test_blocks_are_recorded_one_by_one(tmp_path, features):
    store = create(tmp_path / "new" / "s.zarr")
    assert store.missing_blocks() == [0, 1, 2]
    write(store, 2, features)
    assert store.missing_blocks() == [0, 1]
    assert store.n_rows([2]) == 6
    write(store, 0, features)
    again = create(tmp_path / "new" / "s.zarr")
    assert again.missing_blocks() == FeatureStore.open(store.path).missing_blocks() == [1]
    with pytest.raises(DamagedChunkError, match=r"row blocks \[1\], columns 0:5: missing"):
        again.read("conv", slice(0, 5))
    write(again, 1, features)
    assert store.missing_blocks() == []
    for name, values in features.items():
        np.testing.assert_array_equal(again.read(name, slice(None)), values)


@pytest.mark.parametrize("columns", [(0, 1), (10_000, 20_435), (10_217, 10_219), (20_434, 20_435)])
def test_any_columns_can_be_read(finished, features, columns):
    found = finished.read("conv", slice(*columns))
    np.testing.assert_array_equal(found, features["conv"][:, slice(*columns)])


@pytest.mark.parametrize("max_bytes", [1, 5_000_000, 10**9])
def test_column_blocks_cover_a_layer_within_their_bytes(finished, features, max_bytes):
    slices = finished.column_blocks("conv", max_bytes)
    parts = [finished.read("conv", columns) for columns in slices]
    np.testing.assert_array_equal(np.hstack(parts), features["conv"])
    width = finished.array("conv").chunks[1]
    assert all(columns.start % width == 0 for columns in slices)
    assert all(part.base.nbytes <= max(max_bytes, 96 * width * 4) for part in parts)
    assert len(slices) == (1 if max_bytes == 10**9 else 2)


def test_plain_zarr_reads_it(finished, features):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        group = zarr.open_group(finished.path, mode="r")
        members = dict(group.members())
    assert set(members) == {"conv", "block.0.pool", "stimulus"}
    assert group.attrs["provenance"]["seed"] == 3
    assert tuple(group["stimulus"][:]) == IDS
    array = members["conv"]
    assert array.metadata.zarr_format == 3
    assert sorted(path.name for path in (finished.path / "conv").iterdir()) == [
        "c.0.0",
        "c.1.0",
        "c.2.0",
        "zarr.json",
    ]
    assert array.metadata.dimension_names == ("stimulus", "conv.feature")
    assert (array.attrs["layer_shape"], array.attrs["layer_index"]) == ([5, 61, 67], 2)
    np.testing.assert_array_equal(array[:], features["conv"])
    np.testing.assert_array_equal(
        finished.array("block.0.pool")[40:], features["block.0.pool"][40:]
    )


def test_xarray_reads_it(finished, features):
    xarray = pytest.importorskip("xarray")
    dataset = xarray.open_zarr(finished.path)
    one = dataset["conv"].sel(stimulus=IDS[33])
    np.testing.assert_array_equal(one.values, features["conv"][33])


def test_reopened_and_pickled_stores_know_everything(finished, features):
    for store in (FeatureStore.open(finished.path), pickle.loads(pickle.dumps(finished))):
        assert store.layers == LAYERS
        assert store.layer_names == ("conv", "block.0.pool")
        assert store.stimulus_ids == IDS
        assert store.n_stimuli == 70
        assert store.provenance == {"model": "stand-in", "seed": 3, "input_px": [16, 16]}
        np.testing.assert_array_equal(store.read("conv", slice(3, 9)), features["conv"][:, 3:9])


def test_threads_read_at_once(finished, features):
    starts = range(0, 20_000, 500)
    with ThreadPoolExecutor(8) as pool:
        parts = pool.map(lambda start: finished.read("conv", slice(start, start + 500)), starts)
        np.testing.assert_array_equal(np.hstack(list(parts)), features["conv"][:, :20_000])


def damage(path, how, chunk=0):
    """Damage a shard of two chunks: as a whole, or one bit of one of its chunks."""
    content = path.read_bytes()
    if how == "missing":
        path.unlink()
    elif how == "one bit":
        offset, length = np.frombuffer(content[-36:-4], "<u8").reshape(2, 2)[chunk].tolist()
        place = offset + length // 2
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
    elif how == "index":
        path.write_bytes(content[:-9] + bytes([content[-9] ^ 1]) + content[-8:])
    elif how == "zeros":
        path.write_bytes(bytes(len(content)))
    else:
        path.write_bytes(content[: {"cut": 4000, "empty": 0}[how]])


# (2, 1) is padded both ways, so that reading it covers the chunk only partly.
@pytest.mark.parametrize("chunk", [(0, 0), (1, 1), (2, 0), (2, 1)])
@pytest.mark.parametrize("how", ["missing", "one bit", "index", "zeros", "cut", "empty"])
def test_a_damaged_chunk_is_named_and_can_be_rebuilt(finished, features, chunk, how):
    path = finished.path / "conv" / f"c.{chunk[0]}.0"
    damage(path, how, chunk[1])
    store = FeatureStore.open(finished.path)
    with pytest.raises(DamagedChunkError) as caught:
        store.read("conv", slice(None))
    error = pickle.loads(pickle.dumps(caught.value))
    assert error.error_class == "damaged_features"
    assert (error.layer, error.blocks, error.paths) == ("conv", (chunk[0],), (path,))
    assert str(path) in str(error)

    if how == "one bit":
        width = store.array("conv").chunks[1]
        sound = slice((1 - chunk[1]) * width, min((2 - chunk[1]) * width, 20_435))
        np.testing.assert_array_equal(store.read("conv", sound), features["conv"][:, sound])

    store.forget_block(chunk[0])
    assert store.missing_blocks() == [chunk[0]]
    write(store, chunk[0], features)
    np.testing.assert_array_equal(store.read("conv", slice(None)), features["conv"])


def test_every_damaged_row_block_is_named(finished):
    damage(finished.path / "conv/c.0.0", "one bit", 1)
    damage(finished.path / "conv/c.2.0", "cut")
    with pytest.raises(DamagedChunkError) as caught:
        finished.read("conv", slice(None))
    assert caught.value.blocks == (0, 2)


def test_plain_zarr_never_reads_a_missing_chunk_as_zero(finished):
    damage(finished.path / "conv/c.1.0", "missing")
    values = finished.array("conv")[:]
    assert np.isnan(values[32:64]).all()
    assert not (values == 0).any()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused(tmp_path, features, bad):
    store = create(tmp_path / "s.zarr")
    features["block.0.pool"][[33, 40], 3] = bad
    with pytest.raises(FeatureError, match=r"'block\.0\.pool' gave NaN or infinity") as caught:
        write(store, 1, features)
    assert IDS[33] in str(caught.value) and IDS[40] in str(caught.value)
    assert IDS[34] not in str(caught.value)
    assert store.missing_blocks() == [0, 1, 2]


def test_what_overflows_float16_is_refused(tmp_path):
    store = create(tmp_path / "s.zarr", layers=LAYERS[1:], dtype="float16")
    values = np.ones((32, 7), np.float32)
    values[5, 2] = 65520
    with np.errstate(over="ignore"), pytest.raises(FeatureError, match="beyond 65504") as caught:
        store.write_block(0, {"block.0.pool": values.astype(np.float16)})
    assert IDS[5] in str(caught.value)


def test_half_precision_takes_half_the_bytes(tmp_path, features):
    sizes = {}
    for dtype in ("float32", "float16"):
        store = create(tmp_path / dtype, dtype=dtype)
        for block in store.missing_blocks():
            write(store, block, {name: x.astype(dtype) for name, x in features.items()})
        np.testing.assert_array_equal(
            store.read("conv", slice(3, 9)), features["conv"][:, 3:9].astype(dtype)
        )
        assert zarr.open_group(store.path)["conv"].dtype == dtype
        sizes[dtype] = sum(path.stat().st_size for path in store.path.rglob("c.*"))
    assert sizes["float16"] < 0.55 * sizes["float32"]


def test_large_finite_values_are_kept(tmp_path, features):
    features["conv"][:] = np.finfo(np.float32).max
    store = create(tmp_path / "s.zarr")
    write(store, 0, features)
    assert store.missing_blocks() == [1, 2]


def test_blocks_must_fit(tmp_path, features):
    store = create(tmp_path / "s.zarr")
    with pytest.raises(
        FeatureError, match=r"'conv': features must be of shape and dtype \(32, 20435, 'float32'"
    ):
        store.write_block(0, {**features, "conv": features["conv"][:31]})
    with pytest.raises(FeatureError, match="float64"):
        store.write_block(0, {name: values[:32].astype(float) for name, values in features.items()})
    with pytest.raises(FeatureError, match=r"'block.0.pool'.*not None"):
        store.write_block(0, {"conv": features["conv"][:32]})
    with pytest.raises(FeatureError, match="row blocks 0 to 2, not 3"):
        store.forget_block(3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layers": LAYERS[:1]}, "also has layers block.0.pool"),
        ({"layers": (*LAYERS, LayerInfo("fc", (3,), 9))}, "has no layers fc"),
        ({"layers": (LAYERS[0], LayerInfo("block.0.pool", (8,), 4))}, r"shape \(7,\) at index 4"),
        ({"ids": IDS[:-1]}, "has 70 stimuli, not 69"),
        ({"ids": (*IDS[:-1], "other")}, "stimulus 69 is .*, not 'other'"),
        ({"provenance": {**PROVENANCE, "seed": 4}}, "provenance 'seed' is 3, not 4"),
        ({"provenance": {**PROVENANCE, "torch": "9"}}, "provenance 'torch' is None, not '9'"),
        ({"dtype": "float16"}, "dtype is float32, not float16"),
    ],
)
def test_other_content_is_refused_and_the_difference_named(finished, change, message):
    with pytest.raises(FeatureError, match=message):
        create(finished.path, **change)
    assert create(finished.path).missing_blocks() == []


def test_names_are_unique_and_there(tmp_path):
    with pytest.raises(FeatureError, match="stimulus id repeats: a"):
        create(tmp_path / "s.zarr", ids=("a", "b", "a"))
    with pytest.raises(FeatureError, match="layer repeats: conv"):
        create(tmp_path / "s.zarr", layers=(LAYERS[0], LAYERS[0]))
    with pytest.raises(FeatureError, match="at least one layer"):
        create(tmp_path / "s.zarr", layers=())
    assert list(tmp_path.iterdir()) == []


def test_a_creation_that_was_stopped_leaves_no_store(tmp_path):
    (tmp_path / "s.zarr.1.partial" / "conv").mkdir(parents=True)
    with pytest.raises(FeatureError, match=r"no feature store at .*s\.zarr"):
        FeatureStore.open(tmp_path / "s.zarr")
    assert create(tmp_path / "s.zarr").missing_blocks() == [0, 1, 2]


def test_processes_that_create_a_store_at_once_share_it(tmp_path):
    with ProcessPoolExecutor(4) as pool:
        stores = list(pool.map(create, [tmp_path / "s.zarr"] * 8))
    assert {store.path for store in stores} == {tmp_path / "s.zarr"}
    assert [path.name for path in tmp_path.iterdir()] == ["s.zarr"]


def test_what_a_killed_writer_left_is_removed(finished):
    left = finished.path / "conv" / ".c.1.0.0123.tmp"
    left.write_bytes(b"half")
    assert finished.missing_blocks() == []
    finished.remove_leftovers([0, 2])
    assert left.exists()
    finished.remove_leftovers([1])
    assert not left.exists()


def test_unknown_layers_and_steps(finished):
    with pytest.raises(FeatureError, match=r"no layer 'fc'; its layers are conv, block\.0\.pool"):
        finished.read("fc", slice(0, 1))
    with pytest.raises(FeatureError, match="steps of 1"):
        finished.read("conv", slice(0, 10, 2))


def test_room_is_asked_for_before_it_is_taken(tmp_path):
    store = create(tmp_path / "s.zarr", layers=(LayerInfo("huge", (10**14,), 0),))
    with pytest.raises(FeatureStorageError) as caught:
        store.require_space(store.missing_blocks())
    free_gb = shutil.disk_usage(tmp_path).free / 1e9
    words = str(caught.value).split()
    assert float(words[words.index("take") + 1]) == pytest.approx(70 * 4e14 / 1e9, rel=1e-3)
    assert float(words[words.index("and") + 1]) == pytest.approx(free_gb, rel=0.05)


@pytest.mark.parametrize(
    "name", ["a/b", "..", "stimulus", "zarr.json", "__a", "x" * 201, "ü" * 101]
)
def test_a_layer_whose_name_is_that_of_no_file_is_refused(tmp_path, name):
    with pytest.raises(FeatureError, match=r"cannot be called so|more than 200 bytes"):
        create(tmp_path / "s.zarr", layers=(LayerInfo(name, (3,), 0),))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["x" * 200, "a b", "[v2]*?", "%j", "-", "ü", "a'\"$", "c", ".a"])
def test_a_layer_may_have_any_other_name(tmp_path, name):
    layers = (LayerInfo(name, (3,), 0), LayerInfo("other", (2,), 1))
    store = create(tmp_path / "s.zarr", layers=layers)
    rows = store.rows(0)
    n_rows = rows.stop - rows.start
    values = {name: np.ones((n_rows, 3), np.float32), "other": np.zeros((n_rows, 2), np.float32)}
    store.write_block(0, values)
    again = FeatureStore.open(tmp_path / "s.zarr")
    assert again.layer_names == (name, "other")
    assert 0 not in again.missing_blocks()
    assert (again.array(name)[rows] == 1).all()
