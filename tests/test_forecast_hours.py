"""Hours, bytes and arrays that a run would take, from what was measured here and beside it."""

from __future__ import annotations

import cProfile
import json
import shutil
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from forecast_runs import JOBS, Job, finished, of_kind, planned, recorded
from hypothesis import given
from hypothesis import strategies as st

from jobs.run import run_tasks
from toolkit.cluster.arrays import plan_arrays
from toolkit.cluster.batches import make_batches
from toolkit.cluster.limits import ArrayLimits
from toolkit.cluster.profiles import JobRequest
from toolkit.cluster.run_folder import RunFolder
from toolkit.features.store import FeatureStore
from toolkit.forecast import Forecast, describe_arrays, forecast, hours_text, render
from toolkit.forecast.durations import NOTHING_LIKE_IT, Measurements, Span, predict
from toolkit.forecast.measurements import Measured, measured_in
from toolkit.plan import features_id
from toolkit.results import PlannedRow, collect, read_scores
from toolkit.task import Task, TaskKind
from toolkit.terminal import make_console

EXTRACT, ENCODE = TaskKind.EXTRACT, TaskKind.ENCODE


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> list[Task]:
    return planned(tmp_path_factory.mktemp("config"))


@pytest.fixture(scope="module")
def undisturbed(tasks: list[Task], tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A finished run that no test changes."""
    return finished(tmp_path_factory.mktemp("runs") / "undisturbed", tasks)


def shown(found: Forecast) -> str:
    console = make_console(file=StringIO(), width=200)
    for part in render(found):
        console.print(part)
    return console.file.getvalue()  # type: ignore[attr-defined]


def stage(found: Forecast, kind: TaskKind) -> Any:
    return next(stage for stage in found.stages if stage.kind is kind)


def seconds_of(run: RunFolder, task: Task) -> float:
    path = run.result_path(task.id)
    if task.kind is EXTRACT:
        return float(json.loads(path.read_text())["seconds"])
    return float(read_scores(path)[1]["seconds"])


def collected(run: RunFolder) -> None:
    rows = [PlannedRow(t.id, "done", t.columns) for t in of_kind(run.tasks(), ENCODE)]
    collect(rows, run.results_folder, run.path)


def test_nothing_measured_is_unknown_and_never_invented(tasks: list[Task], tmp_path: Path) -> None:
    found = forecast(RunFolder(tmp_path / "runs" / "new"), tasks, JOBS)
    for kind, n_tasks in ((EXTRACT, 1), (ENCODE, 4)):
        part = stage(found, kind)
        assert (part.n_tasks, part.n_done, part.n_to_run) == (n_tasks, 0, n_tasks)
        assert part.cpu_hours is None
        assert part.gpu_hours == Span(0.0, 0.0)
        assert part.basis == NOTHING_LIKE_IT
    assert stage(found, ENCODE).n_blocked == 4
    assert "Hours to encode: unknown: nothing like it has run yet here" in shown(found)
    assert not (tmp_path / "runs").exists()


def test_a_finished_run_has_nothing_left(tasks: list[Task], undisturbed: RunFolder) -> None:
    found = forecast(undisturbed, tasks, JOBS)
    assert [part.n_to_run for part in found.stages] == [0, 0]
    assert {part.cpu_hours for part in found.stages} == {Span(0.0, 0.0)}
    assert found.reasons == {}
    assert (found.space.feature_bytes, found.space.gram_bytes, found.space.n_files) == (0, 0, 0)
    assert "To write" not in shown(found)


def test_features_that_stand_are_as_many_as_said(tasks: list[Task], undisturbed: RunFolder) -> None:
    part = stage(forecast(undisturbed, tasks, JOBS), EXTRACT)
    files = [p for p in (undisturbed.path / "features").rglob("*") if p.is_file()]
    assert part.kept_files == len(files)
    assert part.kept_bytes >= sum(p.stat().st_size for p in files if p.name.startswith("c."))


@pytest.mark.parametrize("is_collected", [False, True])
def test_read_outs_done_here_tell_what_those_to_run_take(
    tasks: list[Task], undisturbed: RunFolder, tmp_path: Path, is_collected: bool
) -> None:
    run = RunFolder(shutil.copytree(undisturbed.path, tmp_path / "run"))
    if is_collected:
        collected(run)
    of_layer = {(t.params["layer"], t.columns["readout"]): t for t in of_kind(tasks, ENCODE)}
    took_s = {key: seconds_of(run, task) for key, task in of_layer.items()}
    sibling = next(t for key, t in of_layer.items() if key == ("layer3", "pca10-ridge"))
    again = replace(sibling, params={**sibling.params, "bootstrap": 7})
    found = forecast(run, [*tasks, again], {**JOBS, ENCODE: Job(n_cpus=3)})
    part = stage(found, ENCODE)
    expected = took_s["layer3", "pca10-ridge"] * 3 / 3600
    assert part.cpu_hours == Span(pytest.approx(expected), pytest.approx(expected))
    assert part.basis == "1 of them from 2 measured here (same read-out and data set)"
    assert found.reasons == {again.id: "new"}


def test_an_extraction_is_predicted_per_image_of_its_own_part(
    undisturbed: RunFolder, tmp_path: Path
) -> None:
    larger = planned(tmp_path, "dataset.n_train=100", "extraction={parts: 2}")
    run = recorded(undisturbed.path.parent / "larger", larger)
    extraction = of_kind(undisturbed.tasks(), EXTRACT)[0]
    run.result_path(larger[0].id).write_text("{}")
    part = stage(forecast(run, larger, {**JOBS, EXTRACT: Job(n_cpus=4)}), EXTRACT)
    shutil.rmtree(run.path)
    assert (part.n_tasks, part.n_to_run) == (2, 1)
    expected_s = seconds_of(undisturbed, extraction) / 60 * 120 / 2
    assert part.cpu_hours.low == pytest.approx(expected_s * 4 / 3600)
    assert part.basis == "1 of them from 1 measured in runs beside (same network and form)"


def test_an_extraction_that_was_continued_is_measured_by_what_was_left(
    tasks: list[Task], undisturbed: RunFolder, tmp_path: Path
) -> None:
    (extraction,) = of_kind(tasks, EXTRACT)
    shutil.copytree(undisturbed.path, tmp_path / "run")
    run = RunFolder(tmp_path / "run")
    for n_forgotten, share in ((1, 0.5), (0, 0.0)):
        run.result_path(extraction.id).unlink()
        store = FeatureStore.open(run.features_path(extraction.id))
        assert store.n_blocks == 2
        for block in range(n_forgotten):
            store.forget_block(block)
        run_tasks(str(run.path), [extraction.id], 1)
        assert json.loads(run.result_path(extraction.id).read_text())["share"] == share
        measured = measured_in(run, {extraction.id: extraction}, lambda task: True)
        assert [m.size for m in measured if m.kind is EXTRACT] == [30.0] * n_forgotten


def test_parts_without_a_row_block_of_their_own_have_nothing_to_do(tmp_path: Path) -> None:
    parts = of_kind(planned(tmp_path, "extraction={parts: 4}"), EXTRACT)  # of two row blocks
    run = finished(tmp_path / "run", parts)
    shares = [json.loads(run.result_path(part.id).read_text())["share"] for part in parts]
    assert sorted(shares) == [0, 0, 1, 1]
    assert not FeatureStore.open(run.features_path(features_id(parts[0]))).missing_blocks()
    measured = measured_in(run, {part.id: part for part in parts}, lambda task: True)
    assert len(measured) == 2


def test_another_network_is_predicted_from_all_and_says_so(
    undisturbed: RunFolder, tmp_path: Path
) -> None:
    other = planned(tmp_path, "models=[{library: timm, names: test_vit, layers: [blocks.0]}]")
    found = forecast(RunFolder(undisturbed.path.parent / "other"), other, JOBS)
    assert "1 measured in runs beside (other networks: a wide range)" in shown(found)


def test_seconds_on_a_cpu_say_nothing_of_a_gpu(tasks: list[Task], undisturbed: RunFolder) -> None:
    folder = RunFolder(undisturbed.path.parent / "on-gpus")
    part = stage(forecast(folder, tasks, {**JOBS, EXTRACT: Job(n_gpus=1)}), EXTRACT)
    assert part.cpu_hours is part.gpu_hours is None
    assert part.basis == NOTHING_LIKE_IT


def test_results_that_cannot_be_read_are_left_out(
    tasks: list[Task], undisturbed: RunFolder, tmp_path: Path
) -> None:
    run = RunFolder(shutil.copytree(undisturbed.path, tmp_path / "run"))
    (run.path / "results.parquet").write_bytes(b"not a table")
    for task in tasks[:-1]:
        run.result_path(task.id).write_bytes(b"PAR1 and no more")
    run.result_path(tasks[-2].id).unlink()
    part = stage(forecast(run, tasks, JOBS), ENCODE)
    assert part.basis == "1 of them from 1 measured here (other read-outs: a wide range)"


def test_readers_of_an_extraction_that_is_to_run_are_blocked(
    tasks: list[Task], undisturbed: RunFolder, tmp_path: Path
) -> None:
    run = RunFolder(shutil.copytree(undisturbed.path, tmp_path / "run"))
    run.result_path(tasks[0].id).unlink()
    run.result_path(tasks[1].id).unlink()
    part = stage(forecast(run, tasks, JOBS), ENCODE)
    assert (part.n_done, part.n_to_run, part.n_blocked) == (3, 1, 1)


# The ranges


def read_out(n_features: int, readout: str = "ridge", dataset: str = "it") -> Task:
    columns = {"n_features": n_features, "readout": readout, "dataset": dataset}
    return Task(ENCODE, {"layer": str(n_features)}, columns=columns)


def measured(n_features: float, seconds: float, readout: str = "ridge") -> Measured:
    return Measured(ENCODE, ("cpu", readout, "it"), n_features, seconds)


def seconds_for(n_features: int, here: list[Measured], readout: str = "ridge") -> Span:
    prediction = predict([read_out(n_features, readout)], "cpu", Measurements(here, list))
    assert prediction.seconds is not None
    return prediction.seconds


def test_a_size_between_two_measured_ones_takes_what_both_took() -> None:
    here = [measured(100, 2.0), measured(100, 3.0), measured(1000, 9.0), measured(5000, 40.0)]
    assert seconds_for(300, here) == Span(2.0, 9.0)
    assert seconds_for(100, here) == Span(2.0, 3.0)


def test_beyond_the_measured_sizes_a_range_grows_with_the_features() -> None:
    here = [measured(100, 2.0), measured(1000, 9.0)]
    assert seconds_for(4000, here) == Span(9.0, 36.0)
    assert seconds_for(50, here) == Span(1.0, 2.0)


def test_eight_alike_give_quartiles_and_unlike_ones_never_do() -> None:
    took_s = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 100.0]
    here = [measured(100, seconds) for seconds in took_s]
    low, high = np.percentile(took_s, (25, 75))
    assert seconds_for(100, here) == Span(low, high)
    assert seconds_for(100, here[1:]) == Span(2.0, 100.0)
    assert seconds_for(100, here, readout="pls") == Span(1.0, 100.0)


def test_what_is_most_alike_counts_before_where_it_was_measured() -> None:
    here = Measurements([measured(100, 2.0, "pls")], lambda: [measured(100, 5.0)])
    alike = predict([read_out(100)], "cpu", here)
    assert alike.seconds == Span(5.0, 5.0)
    assert alike.basis == "1 of them from 1 measured in runs beside (same read-out and data set)"
    both = predict([read_out(100), read_out(100, "pls"), read_out(7, "rdm")], "cpu", here)
    assert both.seconds == Span(7.0 + 2.0 * 7 / 100, 7.0 + 2.0)
    assert [part.split()[0] for part in both.basis.split("; ")] == ["1", "1", "1"]


def test_runs_beside_are_not_read_where_this_one_suffices() -> None:
    def unread() -> list[Measured]:
        raise AssertionError("read without need")

    assert predict([read_out(5)], "cpu", Measurements([measured(100, 1.0)], unread)).seconds


@given(
    st.lists(st.tuples(st.integers(1, 10**6), st.floats(1e-3, 1e5)), min_size=1, max_size=30),
    st.lists(st.integers(1, 10**6), min_size=1, max_size=5),
)
def test_every_range_is_a_range_and_sums_add_up(
    samples: list[tuple[int, float]], sizes: list[int]
) -> None:
    here = [measured(n_features, seconds) for n_features, seconds in samples]
    single = [seconds_for(size, here) for size in sizes]
    assert all(0 < span.low <= span.high for span in single)
    together = predict([read_out(size) for size in sizes], "cpu", Measurements(here, list)).seconds
    assert together is not None
    assert together.low == pytest.approx(sum(span.low for span in single))
    assert together.high == pytest.approx(sum(span.high for span in single))


@pytest.mark.parametrize(
    ("low", "high", "text"),
    [
        (0, 0, "0"),
        (0.001, 0.002, "< 0.01"),
        (0.001, 0.5, "0-0.5"),
        (1.234, 1.239, "1.2"),
        (0.5, 2512.3, "0.5-2,512"),
    ],
)
def test_hours_are_short(low: float, high: float, text: str) -> None:
    assert hours_text(Span(low, high)) == text


# Space


def test_bytes_to_write_are_the_features_and_their_gram_matrices(tmp_path: Path) -> None:
    found = forecast(RunFolder(tmp_path / "run"), planned(tmp_path), JOBS).space
    assert found.gram_bytes == 2 * 60 * 60 * 8
    halves = planned(tmp_path, "extraction={parts: 2}")
    run = recorded(tmp_path / "run", halves)
    run.result_path(halves[0].id).write_text("{}")
    half = forecast(run, halves, JOBS).space
    assert half.feature_bytes == found.feature_bytes / 2
    only_gram = planned(tmp_path, "models.0.features=gram")
    gram = forecast(RunFolder(tmp_path / "gram"), only_gram, JOBS).space
    assert (gram.feature_bytes, gram.gram_bytes) == (found.gram_bytes, 0)
    assert gram.n_files == 2 + 2 * len(only_gram)


def test_a_gram_matrix_that_a_done_read_out_left_is_not_written_again(
    tasks: list[Task], undisturbed: RunFolder, tmp_path: Path
) -> None:
    run = RunFolder(shutil.copytree(undisturbed.path, tmp_path / "run"))
    run.result_path(tasks[-1].id).unlink()
    assert forecast(run, tasks, JOBS).space.gram_bytes == 0


def test_what_does_not_fit_is_warned_of(tmp_path: Path) -> None:
    found = forecast(RunFolder(tmp_path / "run"), planned(tmp_path), JOBS)
    assert "Warning" not in shown(found)
    tight = replace(found.space, free_bytes=found.space.feature_bytes, free_files=3)
    text = shown(replace(found, space=tight))
    assert "Warning: up to" in text
    assert "has room for 3 more" in text
    unbounded = replace(found.space, free_files=None)
    assert unbounded.warnings == []


# Arrays


def test_arrays_are_told_with_the_limits_that_split_them(tmp_path: Path) -> None:
    tasks = planned(tmp_path, "models.0.seeds=[0, 1, 2, 3, 4, 5, 6, 7]")
    request = JobRequest(n_cpus=1, n_gpus=0, memory_gb=1, timeout_min=10)
    limits = ArrayLimits(max_array_size=3, max_submit=10, n_queued=4)
    plan = plan_arrays(make_batches(tasks), limits, lambda _: request)
    sizes = [len(array.elements) for array in plan.arrays if array.kind is EXTRACT]
    assert describe_arrays(plan, limits) == [
        f"{kind}: {len(sizes)} arrays of up to {max(sizes)} jobs (MaxArraySize 3), "
        f"{len(plan.waves)} waves (at most 10 of your jobs may be queued, 4 are)"
        for kind in (EXTRACT, ENCODE)
    ]
    free = ArrayLimits(max_array_size=1001)
    one = plan_arrays(make_batches(tasks), free, lambda _: request, canary_above=2)
    found = forecast(RunFolder(tmp_path / "run"), tasks, JOBS, arrays=one, limits=free)
    assert found.arrays[0] == (
        "extract: 2 arrays of up to 7 jobs (MaxArraySize 1001), 1 of them a canary"
    )
    assert found.arrays[0] in shown(found)


# Size


def test_forecasting_grows_with_the_number_of_tasks(tmp_path: Path) -> None:
    """A search through all tasks for each would grow with its square."""
    extraction, *readouts = planned(tmp_path)
    done = finished(tmp_path / "other", [extraction, *readouts])
    collected(done)
    n_calls = []
    for n_networks in (5, 20):
        many, former = [], []
        for network in range(n_networks):
            parent = replace(
                extraction,
                params={**extraction.params, "model": f"net{network}"},
                label=f"net{network}",
            )
            many.append(parent)
            former.append(parent)
            for layer in range(99):
                columns = {**readouts[0].columns, "n_features": 100 + network * 99 + layer}
                params = {**readouts[0].params, "layer": f"layer{layer}", "features": parent.id}
                child = replace(
                    readouts[0],
                    params=params,
                    columns=columns,
                    inputs=(parent.id,),
                    label=f"net{network} layer{layer}",
                )
                many.append(child)
                former.append(replace(child, params={**params, "bootstrap": 7}))
        run = recorded(tmp_path / f"run{n_networks}", former)
        profile = cProfile.Profile()
        found = profile.runcall(forecast, run, many, JOBS)
        shutil.rmtree(run.path)
        n_calls.append(sum(entry.callcount for entry in profile.getstats()))
        assert len(found.reasons) == n_networks * 100
        said = list(found.reasons.values())
        assert said.count("parameter bootstrap changed (7 → none)") == n_networks * 99
        assert stage(found, ENCODE).cpu_hours.high > 0
    assert n_calls[1] < 6 * n_calls[0]
