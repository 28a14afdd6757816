"""Job arrays on a real Slurm: submitted, refused, found again."""

from __future__ import annotations

import getpass
import os
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from slurm_arrays import (
    REQUEST,
    all_over,
    arrays_of,
    elements_of_tasks,
    results,
    submission_of_a_task,
    tasks,
    watch,
    words,
)
from slurm_cluster import Rules

from slurm.devcluster import DevCluster
from toolkit.cluster.arrays import plan_arrays
from toolkit.cluster.limits import ArrayLimits, ask_limits
from toolkit.cluster.manifests import manifest_path, read_submissions
from toolkit.cluster.profiles import SiteProfile
from toolkit.cluster.run_folder import RunFolder
from toolkit.cluster.submission import SubmissionError, recover_submissions, submit_arrays
from toolkit.task import TaskKind

pytest_plugins = ("slurm_arrays",)
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("slurm_installed")]


# Submitted


def test_a_failed_parent_blocks_its_own_child_only(
    slurm_cluster: DevCluster, run: RunFolder, code: Path, profile: SiteProfile
) -> None:
    batches = tasks("extract-a", "extract-fail", "extract-c")
    for name in ("a", "fail", "c"):
        batches += tasks(f"encode-{name}.1", waits_for=[f"extract-{name}"])
    submissions = submit_arrays(run, arrays_of(batches), profile, code)
    report = watch(run, submissions, all_over(submissions))

    assert results(run) == {"extract-a", "extract-c", "encode-a.1", "encode-c.1"}
    element = elements_of_tasks(submissions)
    assert report.views[element["extract-fail"]].state == "FAILED"
    assert report.views[element["encode-fail.1"]].is_blocked
    assert report.views[element["encode-c.1"]].state == "COMPLETED"
    assert "it fails" in words(run, element["extract-fail"])
    assert report.failure is None
    assert not list(run.path.rglob("*.pkl"))
    assert read_submissions(run) == submissions


def test_canaries_and_named_elements_hold_others_back(
    slurm_cluster: DevCluster, run: RunFolder, code: Path, profile: SiteProfile
) -> None:
    batches = tasks("extract-fail", "extract-b", "extract-c", "extract-d")
    plan = plan_arrays(batches, ArrayLimits(1000), lambda _: REQUEST, canary_above=1)
    submissions = submit_arrays(run, plan.arrays, profile, code)
    report = watch(run, submissions, all_over(submissions))
    assert [submission.is_canary for submission in submissions] == [True, False]
    assert all(report.views[element].is_blocked for element in submissions[1].element_ids)

    batches = tasks("extract-x", "extract-y", "extract-z")
    batches += tasks("encode-xz", waits_for=["extract-x", "extract-z"])
    submissions = submit_arrays(run, arrays_of(batches), profile, code)
    watch(run, submissions, all_over(submissions))
    assert results(run) == {"extract-x", "extract-y", "extract-z", "encode-xz"}


def test_small_tasks_share_an_element_and_its_resources(
    slurm_cluster: DevCluster, run: RunFolder, code: Path, profile: SiteProfile
) -> None:
    batches = tasks(*(f"extract-{i}" for i in range(5)))
    request = replace(REQUEST, n_cpus=2, n_gpus=1)
    plan = plan_arrays(
        batches, ArrayLimits(1000), lambda _: request, tasks_per_job={TaskKind.EXTRACT: 2}
    )
    submissions = submit_arrays(run, plan.arrays, profile, code)
    watch(run, submissions, all_over(submissions))
    assert [len(element) for element in submissions[0].elements] == [2, 2, 1]
    assert (run.results_folder / "extract-4").read_text().split()[1] == "2"
    asked = ["sacct", "-nP", f"--jobs={submissions[0].array_id}", "--format=JobID,AllocTRES"]
    steps: list[str] = []
    while len(steps) < 3:  # accounting comes later
        time.sleep(0.2)
        lines = slurm_cluster.run(asked).stdout.splitlines()
        steps = [line for line in lines if line.partition("|")[0].endswith(".0") and "cpu" in line]
    assert all("cpu=2" in step and "gres/gpu=1" in step for step in steps)


def test_jobs_run_the_code_that_was_submitted(
    slurm_cluster: DevCluster, run: RunFolder, code: Path, profile: SiteProfile
) -> None:
    submissions = submit_arrays(run, arrays_of(tasks("extract-wait")), profile, code)
    (code.parents[1] / "checkout" / "jobs" / "element.py").write_text("raise SystemExit(1)")
    (run.path / "jobs").mkdir()
    (run.path / "jobs" / "element.py").write_text("raise SystemExit(1)")
    (run.path / "jobs" / "__init__.py").touch()
    (run.path / "go").touch()
    watch(run, submissions, all_over(submissions))
    where = (run.results_folder / "extract-wait").read_text().split(maxsplit=2)[2]
    assert where.strip() == str(code / "jobs" / "element.py")
    assert submissions[0].code == code.name


def test_an_array_larger_than_the_cluster_takes_is_split(
    slurm_rules: Rules, run: RunFolder, code: Path, profile: SiteProfile
) -> None:
    slurm_rules(MaxArraySize=5)
    batches = tasks(*(f"extract-{i}" for i in range(6)))
    with pytest.raises(SubmissionError, match=r"array of 6: .*; look at max_array_size"):
        submit_arrays(run, arrays_of(batches), profile, code)

    limits = ask_limits(profile)
    assert limits == ArrayLimits(5)
    submissions = submit_arrays(run, arrays_of(batches, limits=limits), profile, code)
    assert [len(submission.elements) for submission in submissions] == [5, 1]
    watch(run, submissions, all_over(submissions))
    assert len(results(run)) == 6


def test_what_slurm_refuses_is_explained(
    slurm_cluster: DevCluster, run: RunFolder, code: Path
) -> None:
    profile = SiteProfile.model_validate({"encode": {"partition": "gpus"}})
    with pytest.raises(SubmissionError) as caught:
        submit_arrays(run, arrays_of(tasks("encode-a")), profile, code)
    assert "invalid partition specified: gpus" in str(caught.value)
    assert "look at partition of the profile, for stage encode" in str(caught.value)
    assert recover_submissions(run) == []
    assert read_submissions(run) == []


def test_the_limit_of_the_user_is_asked_for_and_kept(
    slurm_cluster: DevCluster,
    slurm_rules: Rules,
    run: RunFolder,
    code: Path,
    profile: SiteProfile,
    request: pytest.FixtureRequest,
) -> None:
    def allow(n_jobs: int) -> None:
        user = ["user", getpass.getuser()]
        slurm_cluster.run(["sacctmgr", "-i", "modify", *user, "set", f"MaxSubmitJobs={n_jobs}"])

    slurm_rules(AccountingStorageEnforce="limits")
    request.addfinalizer(lambda: allow(-1))
    allow(4)
    batches = tasks(*(f"extract-wait.{i}" for i in range(3)))
    for i in range(3):
        batches += tasks(f"encode-wait.{i}", waits_for=[f"extract-wait.{i}"])
    with pytest.raises(SubmissionError, match="look at max_submit"):
        submit_arrays(run, arrays_of(batches), profile, code)
    slurm_cluster.run(["scancel", "--me"])
    while ask_limits(profile).n_queued:
        time.sleep(0.2)

    plan = plan_arrays(batches, ask_limits(profile), lambda _: REQUEST)
    assert [len(wave) for wave in plan.waves] == [2, 2]
    submissions = submit_arrays(run, plan.waves[0], profile, code)
    assert ask_limits(profile) == ArrayLimits(20001, 4, n_queued=4)
    (run.path / "go").touch()
    watch(run, submissions, all_over(submissions))
    rest = [batch for batch in batches if not results(run).issuperset(batch.task_ids)]
    plan = plan_arrays(rest, ask_limits(profile), lambda _: REQUEST)
    submissions = submit_arrays(run, plan.waves[0], profile, code)
    watch(run, submissions, all_over(submissions))
    assert len(results(run)) == 6


def test_a_job_can_submit_jobs(
    slurm_cluster: DevCluster, run: RunFolder, code: Path, tmp_path: Path
) -> None:
    script = tmp_path / "submit.py"
    script.write_text(submission_of_a_task(run, code))
    outer = ["sbatch", "--parsable", "--gres=gpu:1", "--mem=1000", f"--output={tmp_path}/outer.out"]
    slurm_cluster.run([*outer, f"--wrap=srun {sys.executable} {script}"])
    limit_s = time.monotonic() + 60
    while not (run.results_folder / "extract-a").exists():
        assert time.monotonic() < limit_s, (tmp_path / "outer.out").read_text()
        time.sleep(0.2)


# Found again


def sbatch_that(folder: Path, then: str) -> None:
    """An ``sbatch`` that submits, and then something happens to it."""
    folder.mkdir()
    path = folder / "sbatch"
    path.write_text(f'#!/bin/sh\n{shutil.which("sbatch")} "$@" >&2\n{then}\n')
    path.chmod(0o755)


def test_a_submission_without_an_answer_is_found_by_its_name(
    slurm_cluster: DevCluster,
    run: RunFolder,
    code: Path,
    profile: SiteProfile,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sbatch_that(
        tmp_path / "bin",
        'echo "sbatch: error: Batch job submission failed: Socket timed out" >&2; exit 1',
    )
    with monkeypatch.context() as patch:
        patch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
        with pytest.raises(SubmissionError, match="Socket timed out"):
            submit_arrays(run, arrays_of(tasks("extract-a", "extract-b")), profile, code)
    (lost,) = read_submissions(run)
    assert lost.array_id == ""
    assert lost.element_ids == []
    assert elements_of_tasks([lost]) == {}

    (found,) = recover_submissions(run)
    assert read_submissions(run) == [found]
    watch(run, [found], all_over([found]))
    assert results(run) == {"extract-a", "extract-b"}
    assert recover_submissions(run) == []


def test_a_submission_whose_process_was_killed_is_found(
    slurm_cluster: DevCluster, slurm_rules: Rules, run: RunFolder, code: Path, tmp_path: Path
) -> None:
    """Also when the queue has forgotten it: accounting has not."""
    slurm_rules(MinJobAge=2)
    sbatch_that(tmp_path / "bin", "kill -KILL $PPID")
    done = subprocess.run(
        [sys.executable, "-c", submission_of_a_task(run, code)],
        env={**os.environ, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"},
        capture_output=True,
    )
    assert done.returncode == -9, done.stderr
    manifest = manifest_path(run, read_submissions(run)[0].name)
    (found,) = recover_submissions(run)
    watch(run, [found], all_over([found]))

    manifest.with_suffix(".id").unlink()
    while slurm_cluster.run(["squeue", "-h", "--states=all"]).stdout:
        time.sleep(0.2)
    while found.array_id not in slurm_cluster.run(["sacct", "-n", "-X", "-o", "jobid"]).stdout:
        time.sleep(0.2)
    assert recover_submissions(run) == [found]


def test_a_submission_that_never_happened_is_forgotten(
    slurm_cluster: DevCluster,
    run: RunFolder,
    code: Path,
    profile: SiteProfile,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "sbatch").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "bin" / "sbatch").chmod(0o755)
    with monkeypatch.context() as patch:
        patch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
        with pytest.raises(SubmissionError):
            submit_arrays(run, arrays_of(tasks("extract-a")), profile, code)
    assert len(read_submissions(run)) == 1
    assert recover_submissions(run) == []
    assert read_submissions(run) == []
