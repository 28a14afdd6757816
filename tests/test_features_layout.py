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


@given(st.integers(1, 1000))
def test_batches_align_with_row_blocks(batch_size):
    aligned = layout.aligned_batch_size(batch_size)
    assert aligned <= batch_size
    assert layout.BLOCK_ROWS % aligned == 0 or aligned % layout.BLOCK_ROWS == 0
    assert layout.aligned_batch_size(aligned) == aligned
    assert 2 * aligned > batch_size


def test_a_batch_has_an_image():
    with pytest.raises(ValueError, match="batch_size is 0"):
        layout.aligned_batch_size(0)


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
    chunks = [path for layer in layers for path in (store.path / layer.name / "c").rglob("*")]
    chunk_bytes = sum(path.stat().st_size for path in chunks if path.is_file())
    assert layout.predicted_files(layers, n_stimuli) == len(files)
    most = layout.predicted_bytes(layers, n_stimuli)
    filled = n_stimuli / (layout.n_blocks(n_stimuli) * layout.BLOCK_ROWS)
    assert 0.7 * filled * most < chunk_bytes <= most


def test_planning_imports_neither_torch_nor_zarr():
    code = (
        "import sys; from toolkit.features import layout; from toolkit.models import LayerInfo; "
        "layout.predicted_bytes([LayerInfo('a', (3,), 0)], 9); "
        "print([name for name in ('torch', 'zarr') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
