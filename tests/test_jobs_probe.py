"""Tasks that only say where they run, and what the start of a job may cost."""

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from jobs.run import run_tasks
from toolkit.cluster.profiles import SiteProfile, StageProfile
from toolkit.cluster.run_folder import RunFolder, RunFolderError
from toolkit.config import StageResources
from toolkit.results import collect_run
from toolkit.task import Task, TaskKind, TaskState

PROBES = [Task(TaskKind.PROBE, {"number": i}, label=f"probe {i}") for i in range(3)]


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    folder = RunFolder(tmp_path / "run")
    folder.create()
    folder.write_plan(PROBES, {"name": "probes"})
    return folder


def test_a_probe_says_where_it_ran(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "4711")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    run_tasks(str(run.path), [PROBES[1].id], n_cpus=1)
    said = json.loads(run.result_path(PROBES[1].id).read_text())
    assert said["host"] == platform.node()
    assert said["pid"] == os.getpid()
    assert said["job"] == "4711_3"
    assert said["python"] == sys.executable
    assert said["versions"]["python"] == platform.python_version()
    assert run.done_ids() == {PROBES[1].id}
    assert run.attempts() == {}


def test_probes_have_no_rows_in_the_tables(run: RunFolder) -> None:
    run_tasks(str(run.path), [task.id for task in PROBES], n_cpus=1)
    views, table = collect_run(run)
    assert [view.state for view in views] == [TaskState.DONE] * 3
    assert len(table) == 0


def test_a_stage_without_a_section_is_like_the_default() -> None:
    profile = SiteProfile(default=StageProfile(partition="cpu", tasks_per_job=7))
    assert profile.stage(TaskKind.PROBE) == profile.default
    assert profile.tasks_per_job[TaskKind.PROBE] == 7
    assert getattr(StageResources(), TaskKind.PROBE).gpus is None
    assert "probe" not in StageResources.model_fields


def test_the_start_of_a_job_imports_nothing_heavy() -> None:
    heavy = {"torch", "pandas", "numpy", "pydantic", "pyarrow", "sklearn", "dask", "submitit"}
    code = f"import sys, jobs.element, jobs.probe; print(*{heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_a_job_finds_its_tasks_among_others(run: RunFolder) -> None:
    first, last = PROBES[0], PROBES[-1]
    assert run.find_tasks([last.id, "probe-0123456789ab", first.id]) == [last, first]
    assert run.find_tasks([first.id[:-1]]) == []


def test_what_a_label_holds_does_not_lead_astray(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    run.create()
    wanted = Task(TaskKind.PROBE, {"number": 1}, label="of interest")
    other = Task(
        TaskKind.PROBE, {"text": f'\n{{"id":"{wanted.id}"'}, (wanted.id,), f'"id":"{wanted.id}"\n,'
    )
    run.write_plan([other, wanted], {"name": f'{{"id":"{wanted.id}"', "tasks_of": [1, [2]]})
    assert run.find_tasks([wanted.id, other.id]) == [wanted, other]
    assert run.tasks() == [other, wanted]
    assert run.read_summary() == {"name": f'{{"id":"{wanted.id}"', "tasks_of": [1, [2]]}


def test_a_plan_of_another_form_is_refused(run: RunFolder) -> None:
    run.plan_path.write_text(json.dumps(json.loads(run.plan_path.read_text())))
    with pytest.raises(RunFolderError, match="another version; run the sweep again"):
        run.read_summary()


def test_a_plan_without_tasks_is_read_back(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    run.create()
    run.write_plan([], {"name": "nothing"})
    assert run.tasks() == []
    assert run.read_summary() == {"name": "nothing"}
