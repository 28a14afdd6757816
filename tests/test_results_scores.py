import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolkit.results import ResultError, describe, read_scores, summarise, write_scores
from toolkit.results.columns import AGGREGATE_COLUMNS, SCORE_COLUMNS, UNCERTAINTY_COLUMNS, names

MEASURES = ["alpha", "alpha_at_edge", "ev", "r", "r2", "mse", "ceiling"]


def synthetic_neurons(n_neurons: int, seed: int = 0) -> pd.DataFrame:
    random = np.random.default_rng(seed)
    scores = {name: random.uniform(0.1, 0.9, n_neurons) for name in MEASURES}
    ids = [f"synthetic-{index}" for index in range(n_neurons)]
    return pd.DataFrame(
        {"neuron_id": ids, "region": ["IT"] * n_neurons, "n_splits_scored": 1, **scores},
        columns=names(SCORE_COLUMNS),
    )


def synthetic_summary(neurons: pd.DataFrame) -> dict:
    return {
        **summarise(neurons),
        "n_components": None,
        "solver": "gram",
        "ceiling_images": None,
        "similarity": None,
        **dict.fromkeys(names(UNCERTAINTY_COLUMNS)),
        "n_train": 80,
        "n_test": 20,
        "n_splits": 1,
        "seconds": 1.5,
        "peak_memory_bytes": 2**31,
        "device": "cpu",
        "config_hash": "c0ffee",
        "git_sha": "",
        "versions": {"python": "3.11"},
        "created": datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
    }


@pytest.fixture
def neurons() -> pd.DataFrame:
    return synthetic_neurons(5)


def test_round_trip_keeps_every_value(tmp_path: Path, neurons: pd.DataFrame) -> None:
    neurons.loc[1, MEASURES] = np.nan
    neurons.loc[2, "neuron_id"] = "Chabo_L_M_5_9 — ニューロン 🧠"
    summary = synthetic_summary(neurons) | {"device": "Grafikkarte »ä«", "extra": [1, 2]}
    write_scores(tmp_path / "a.parquet", neurons, summary)

    read, read_summary = read_scores(tmp_path / "a.parquet")

    pd.testing.assert_frame_equal(read, neurons, check_dtype=False)
    assert read_summary == summary | {"created": "2026-01-02T03:04:05+00:00"}


def test_columns_may_come_in_any_order(tmp_path: Path, neurons: pd.DataFrame) -> None:
    write_scores(tmp_path / "a.parquet", neurons[neurons.columns[::-1]], synthetic_summary(neurons))
    read, _ = read_scores(tmp_path / "a.parquet")
    assert tuple(read.columns) == names(SCORE_COLUMNS)


def test_zero_neurons(tmp_path: Path) -> None:
    empty = synthetic_neurons(0)
    write_scores(tmp_path / "a.parquet", empty, synthetic_summary(empty))
    read, summary = read_scores(tmp_path / "a.parquet")
    assert len(read) == 0
    assert list(read.columns) == list(empty.columns)
    assert summary["n_neurons"] == 0
    assert summary["ev_mean"] is None


def test_missing_scores_are_nulls_for_other_readers(tmp_path: Path, neurons: pd.DataFrame) -> None:
    neurons.loc[3, "ev"] = np.nan
    write_scores(tmp_path / "a.parquet", neurons, synthetic_summary(neurons))
    assert pq.read_table(tmp_path / "a.parquet").column("ev").null_count == 1


def test_numpy_values_in_the_summary(tmp_path: Path, neurons: pd.DataFrame) -> None:
    summary = synthetic_summary(neurons) | {"n_train": np.int64(7), "seconds": np.float32(0.5)}
    write_scores(tmp_path / "a.parquet", neurons, summary)
    _, read = read_scores(tmp_path / "a.parquet")
    assert (read["n_train"], read["seconds"]) == (7, 0.5)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"n_train": "eighty"}, "n_train"),
        ({"n_components": 2.5}, "n_components"),
        ({"created": "2026-01-02T03:04:05"}, "time zone"),
        ({"created": "yesterday"}, "ISO time"),
        ({"seconds": float("inf")}, "not JSON"),
        ({"device": Path("cpu")}, "not JSON"),
        ({"device": "half of a pair: \ud800"}, "device"),
        ({"n_train": True}, "n_train"),
        ({"n_train": 2**63}, "n_train"),
        ({"seconds": 2**60 + 1}, "seconds"),
        ({"versions": ["3.11"]}, "versions"),
        ({"created": "0001-01-01T00:00:00+14:00"}, "created"),
    ],
)
def test_a_wrong_summary_is_refused_before_anything_is_written(
    tmp_path: Path, neurons: pd.DataFrame, change: dict, named: str
) -> None:
    with pytest.raises(ResultError, match=named):
        write_scores(tmp_path / "a.parquet", neurons, synthetic_summary(neurons) | change)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_key_is_named(tmp_path: Path, neurons: pd.DataFrame) -> None:
    summary = synthetic_summary(neurons)
    del summary["git_sha"]
    with pytest.raises(ResultError, match="lacks git_sha"):
        write_scores(tmp_path / "a.parquet", neurons, summary)


def test_wrong_columns_are_named(tmp_path: Path, neurons: pd.DataFrame) -> None:
    summary = synthetic_summary(neurons)
    with pytest.raises(ResultError, match=r"lack \['ev'\].*unknown \['EV'\]"):
        write_scores(tmp_path / "a.parquet", neurons.rename(columns={"ev": "EV"}), summary)


def test_wrong_values_are_refused(tmp_path: Path, neurons: pd.DataFrame) -> None:
    summary = synthetic_summary(neurons)
    with pytest.raises(ResultError, match="schema"):
        write_scores(tmp_path / "a.parquet", neurons.assign(ev="good"), summary)


@pytest.mark.parametrize("kept", [0, 3, 0.3, 0.9, 0.999])
def test_a_truncated_file_is_named(tmp_path: Path, neurons: pd.DataFrame, kept: float) -> None:
    path = tmp_path / "encode-0123456789ab.parquet"
    write_scores(path, neurons, synthetic_summary(neurons))
    whole = path.read_bytes()
    path.write_bytes(whole[: kept if isinstance(kept, int) else int(kept * len(whole))])
    with pytest.raises(ResultError, match=r"encode-0123456789ab\.parquet") as caught:
        read_scores(path)
    assert caught.value.error_class == "bad_result"


def test_a_flipped_byte_in_the_scores_is_noticed(tmp_path: Path) -> None:
    neurons = synthetic_neurons(200)
    path = tmp_path / "a.parquet"
    write_scores(path, neurons, synthetic_summary(neurons))
    column = pq.ParquetFile(path).metadata.row_group(0).column(4)
    damaged = bytearray(path.read_bytes())
    damaged[column.data_page_offset + column.total_compressed_size // 2] ^= 0xFF
    path.write_bytes(damaged)
    with pytest.raises(ResultError, match=r"a\.parquet"):
        read_scores(path)


def test_no_flipped_byte_changes_what_is_read(tmp_path: Path, neurons: pd.DataFrame) -> None:
    """Scores, summary, names of columns, lengths: a file is read as it was written, or refused."""
    neurons.loc[2, "ev"] = np.nan
    path = tmp_path / "encode-0123456789ab.parquet"
    write_scores(path, neurons, synthetic_summary(neurons))
    whole, (scores, summary) = path.read_bytes(), read_scores(path)
    n_refused = 0
    for place in {*range(0, len(whole), 13), whole.rindex(b"neuron_id")}:
        damaged = bytearray(whole)
        damaged[place] ^= 0xFF if place % 2 else 1
        path.write_bytes(damaged)
        try:
            read, read_summary = read_scores(path)
        except ResultError:
            n_refused += 1
        else:
            pd.testing.assert_frame_equal(read, scores, check_exact=True)
            assert read_summary == summary
    assert n_refused > 100


def test_foreign_files_are_named(tmp_path: Path, neurons: pd.DataFrame) -> None:
    (tmp_path / "text.parquet").write_text("no parquet at all")
    neurons.to_parquet(tmp_path / "foreign.parquet")
    other = pa.table({"x": [1]}).replace_schema_metadata({"toolkit.encode.summary": "{}"})
    pq.write_table(other, tmp_path / "columns.parquet")
    for name in ("text", "foreign", "columns", "absent"):
        with pytest.raises(ResultError, match=rf"{name}\.parquet"):
            read_scores(tmp_path / f"{name}.parquet")


def test_every_column_is_described(tmp_path: Path, neurons: pd.DataFrame) -> None:
    write_scores(tmp_path / "a.parquet", neurons, synthetic_summary(neurons))
    assert describe(tmp_path / "a.parquet") == {c.name: c.description for c in SCORE_COLUMNS}


def test_describe_refuses_a_foreign_file(tmp_path: Path, neurons: pd.DataFrame) -> None:
    neurons.to_parquet(tmp_path / "foreign.parquet")
    with pytest.raises(ResultError, match=r"foreign\.parquet"):
        describe(tmp_path / "foreign.parquet")


WRITER = """
import os, sys, time
sys.path.insert(0, {tests!r})
from test_results_scores import synthetic_neurons, synthetic_summary
from toolkit.results import write_scores

def stop(descriptor):
    print(os.fstat(descriptor).st_size, flush=True)
    time.sleep(600)

os.fsync = stop
neurons = synthetic_neurons({n_neurons})
write_scores({path!r}, neurons, synthetic_summary(neurons))
"""


@pytest.mark.parametrize("n_before", [None, 3])
def test_a_killed_writer_leaves_no_half_file(tmp_path: Path, n_before: int | None) -> None:
    path = tmp_path / "a.parquet"
    if n_before is not None:
        before = synthetic_neurons(n_before)
        write_scores(path, before, synthetic_summary(before))
    script = WRITER.format(tests=str(Path(__file__).parent), n_neurons=9, path=str(path))
    command = [sys.executable, "-c", script]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        n_bytes = int(writer.stdout.readline())
        writer.kill()
    assert n_bytes > 0
    assert [found.stat().st_size for found in tmp_path.glob(".a.parquet.*.tmp")] == [n_bytes]
    n_after = len(read_scores(path)[0]) if path.exists() else None
    assert n_after == n_before


def test_a_failed_write_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, neurons: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.parquet"
    write_scores(path, neurons, synthetic_summary(neurons))
    before = path.read_bytes()

    def disk_full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", disk_full)
    with pytest.raises(OSError, match="No space left"):
        write_scores(path, synthetic_neurons(9), synthetic_summary(neurons))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


SYNTHETIC_SCORE = st.integers(-10_000, 10_000).map(lambda n: n / 1000) | st.just(float("nan"))


@given(st.lists(st.tuples(*[SYNTHETIC_SCORE] * len(MEASURES)), max_size=20))
def test_summarise_against_plain_numpy(rows: list[tuple[float, ...]]) -> None:
    values = np.array(rows, dtype=float).reshape(-1, len(MEASURES))
    summary = summarise(pd.DataFrame(values, columns=MEASURES))
    alpha, edge, ev, r, r2, mse, ceiling = values.T

    def present(column: np.ndarray) -> np.ndarray:
        return column[~np.isnan(column)]

    def mean(column: np.ndarray) -> float:
        return present(column).mean() if present(column).size else np.nan

    def median(column: np.ndarray) -> float:
        return np.median(present(column)) if present(column).size else np.nan

    assert tuple(summary) == names(AGGREGATE_COLUMNS)
    c = median(ceiling) if median(ceiling) > 0 else np.nan
    expected = {
        "alpha_median": median(alpha),
        "alpha_at_edge": mean(edge),
        "ev_mean": mean(ev),
        "ev_median": median(ev),
        "r_mean": mean(r),
        "r_median": median(r),
        "r2_mean": mean(r2),
        "mse_mean": mean(mse),
        "ceiling_median": median(ceiling),
        "ceiled_median_2026": median(r) * median(r) / c,
        "ceiled_median_2018": (median(r) / c) * (median(r) / c),
        "n_neurons": len(rows),
        "n_neurons_scored": sum(not np.isnan(row[2] + row[3]) for row in rows),
    }
    for name, value in expected.items():
        np.testing.assert_allclose(summary[name], value, rtol=1e-10, atol=1e-13, err_msg=name)


def test_summary_of_neurons_without_repetitions_has_no_ceiling() -> None:
    summary = summarise(synthetic_neurons(4).assign(ceiling=np.nan))
    assert np.isnan(summary["ceiling_median"])
    assert np.isnan(summary["ceiled_median_2026"])
    assert np.isnan(summary["ceiled_median_2018"])
    assert json.dumps(summary["n_neurons_scored"]) == "4"
