import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolkit.features import layout
from toolkit.features.store import FeatureStore
from toolkit.models import LayerInfo


@given(st.integers(1, 4_000_000))
def test_chunks_are_bounded_and_hardly_padded(n_features):
    width = layout.chunk_features(n_features)
    n_chunks = layout.chunks_across(n_features)
    assert 1 <= width <= layout.MAX_CHUNK_FEATURES
    assert (n_chunks - 1) * width < n_features <= n_chunks * width
    assert n_chunks * width - n_features < n_chunks
    assert n_chunks <= 2 * -(-n_features // layout.MAX_CHUNK_FEATURES)


@pytest.mark.parametrize("n_features", [802_816, 401_408, 200_704, 100_352, 2048, 150_528])
def test_layers_of_common_networks_are_not_padded(n_features):
    assert n_features % layout.chunk_features(n_features) == 0


@given(st.integers(1, 1000), st.sampled_from([1, 4, 32]))
def test_batches_align_with_row_blocks(batch_size, block_rows):
    aligned = layout.aligned_batch_size(batch_size, block_rows)
    assert aligned <= batch_size
    assert block_rows % aligned == 0 or aligned % block_rows == 0
    assert layout.aligned_batch_size(aligned, block_rows) == aligned
    assert 2 * aligned > batch_size


def test_a_batch_has_an_image():
    with pytest.raises(ValueError, match="batch_size is 0"):
        layout.aligned_batch_size(0, 32)


@pytest.mark.parametrize("n_stimuli", [1, 32, 70])
def test_predictions_are_what_a_finished_store_takes(tmp_path, n_stimuli):
    layers = [LayerInfo("a", (3, 5), 0), LayerInfo("b.c", (16411,), 1), LayerInfo("d", (20480,), 2)]
    store = FeatureStore.create(
        tmp_path / "s.zarr",
        layers=layers,
        stimulus_ids=[f"image {i}" for i in range(n_stimuli)],
        provenance={},
    )
    rng = np.random.default_rng(0)
    for block in store.missing_blocks():
        rows = store.rows(block)
        shape = rows.stop - rows.start
        store.write_block(
            block,
            {x.name: rng.standard_normal((shape, x.n_features), np.float32) for x in layers},
        )
    files = [path for path in store.path.rglob("*") if path.is_file()]
    shards = [path for layer in layers for path in (store.path / layer.name).glob("c.*")]
    shard_bytes = sum(path.stat().st_size for path in shards)
    assert layout.predicted_files(layers, n_stimuli) == len(files)
    most = layout.predicted_bytes(layers, n_stimuli)
    filled = n_stimuli / (store.n_blocks * store.block_rows)
    assert 0.7 * filled * most < shard_bytes <= most


@given(
    st.lists(st.integers(1, 10**8), min_size=1, max_size=5), st.sampled_from(["float32", "float16"])
)
def test_a_row_block_is_bounded_and_never_empty(widths, dtype):
    layers = [LayerInfo(str(i), (width,), i) for i, width in enumerate(widths)]
    rows = layout.block_rows(layers, dtype)
    row_bytes = sum(widths) * np.dtype(dtype).itemsize
    assert rows == 1 or rows * row_bytes <= layout.MAX_BLOCK_BYTES
    assert rows == layout.MAX_BLOCK_ROWS or 2 * rows * row_bytes > layout.MAX_BLOCK_BYTES
    assert layout.MAX_BLOCK_ROWS % rows == 0


def test_a_wide_layer_is_tens_of_files():
    wide = [LayerInfo("conv1", (64, 112, 112), 0)]
    assert layout.predicted_files(wide, 3000) == 3 + 1 + 94


@given(st.integers(1, 9), st.integers(0, 200))
def test_parts_share_the_row_blocks(n_parts, n_blocks):
    shares = [layout.part_of(part, n_parts, n_blocks) for part in range(n_parts)]
    assert [block for share in shares for block in share] == list(range(n_blocks))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_planning_imports_neither_torch_nor_zarr():
    code = (
        "import sys; from toolkit.features import layout; from toolkit.models import LayerInfo; "
        "layout.predicted_bytes([LayerInfo('a', (3,), 0)], 9); "
        "print([name for name in ('torch', 'zarr') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
