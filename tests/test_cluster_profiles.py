"""Site profiles: what is refused, what a stage inherits, what sbatch is told."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from toolkit.cluster.arrays import plan_arrays
from toolkit.cluster.batches import Batch
from toolkit.cluster.dispatch import SlurmSettings
from toolkit.cluster.limits import ArrayLimits, ask_limits
from toolkit.cluster.profiles import (
    PROFILES_FOLDER,
    JobRequest,
    SiteProfile,
    load_profile,
    submitit_parameters,
    worker_directives,
)
from toolkit.encoding.slurm_jobs import MEMORY_OPTION
from toolkit.forecast.splits import describe_arrays
from toolkit.task import TaskKind
from toolkit.yaml_source import ConfigError

if TYPE_CHECKING:
    from fake_slurm import FakeSlurm

pytest_plugins = ("fake_slurm",)

REQUEST = JobRequest(n_cpus=4, n_gpus=2, memory_gb=0.5, timeout_min=60, exclude=("n7", "n9"))


def profile_of(folder: Path, text: str) -> SiteProfile:
    (folder / "site.yaml").write_text(text)
    return load_profile(str(folder / "site.yaml"))


@pytest.mark.parametrize("name", sorted(path.stem for path in PROFILES_FOLDER.glob("*.yaml")))
def test_the_examples_are_valid_and_submitit_takes_them(name: str) -> None:
    from submitit.slurm.slurm import _make_sbatch_string

    profile = load_profile(name)
    for kind in TaskKind:
        parameters = submitit_parameters(profile, kind, REQUEST)
        script = _make_sbatch_string(command="true", folder="/logs", **parameters)
        assert "#SBATCH --gres=gpu:2\n" in script
        assert "wckey" not in script


def test_the_examples_cover_the_usual_sites() -> None:
    assert {"gpu", "cpu", "preemptible", "devcluster"} <= {
        path.stem for path in PROFILES_FOLDER.glob("*.yaml")
    }


def test_a_stage_takes_from_default_what_it_does_not_say(tmp_path: Path) -> None:
    profile = profile_of(
        tmp_path,
        "default: {account: a, partition: cpu, exclude: [n1], requeue: false}\n"
        "extract: {partition: gpu, exclude: []}\n",
    )
    extract, encode = profile.stage(TaskKind.EXTRACT), profile.stage(TaskKind.ENCODE)
    assert (extract.account, extract.partition, extract.exclude) == ("a", "gpu", ())
    assert (encode.account, encode.partition, encode.exclude) == ("a", "cpu", ("n1",))
    assert not extract.requeue


def test_profiles_extend_each_other(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("default: {account: a, qos: low}\nmax_submit: 7\n")
    profile = profile_of(tmp_path, "extends: base.yaml\ndefault: {qos: high}\n")
    assert profile.max_submit == 7
    assert (profile.default.account, profile.default.qos) == ("a", "high")


def test_what_sbatch_is_told(tmp_path: Path) -> None:
    profile = profile_of(
        tmp_path,
        "signal_delay_s: 30\n"
        "default: {gres: 'gpu:a100:{n}', exclude: [n1, n7], scratch: /scratch/$USER,\n"
        "          setup: [module load cuda], requeue: false}\n",
    )
    told = submitit_parameters(profile, TaskKind.EXTRACT, REQUEST)
    assert told["gres"] == "gpu:a100:2"
    assert told["exclude"] == "n1,n7,n9"
    assert told["mem"] == "512MB"
    assert (told["time"], told["cpus_per_task"], told["signal_delay_s"]) == (60, 4, 30)
    assert told["additional_parameters"] == {"no-requeue": True, "kill-on-invalid-dep": "yes"}
    assert told["setup"][0] == "module load cuda"
    assert 'export TMPDIR="/scratch/$USER/toolkit-$SLURM_JOB_ID"' in told["setup"]


def test_what_some_sites_forbid_or_want(tmp_path: Path) -> None:
    from submitit.slurm.slurm import _make_sbatch_string

    profile = profile_of(
        tmp_path,
        "default: {memory: false, reservation: course, licenses: 'scratch:1,matlab', qos: long,\n"
        "          constraint: 'a100&ib', gpus_per_node: 'a100:{n}', mail_user: me@site.org,\n"
        "          mail_type: 'END,FAIL', exclude: [n1, n2]}\n",
    )
    told = submitit_parameters(profile, TaskKind.EXTRACT, REQUEST)
    script = _make_sbatch_string(command="true", folder="/logs", **told)
    options = {word for word in shlex.split(script) if word.startswith("--")}
    assert {
        "--reservation=course",
        "--licenses=scratch:1,matlab",
        "--qos=long",
        "--constraint=a100&ib",
        "--gpus-per-node=a100:2",
        "--mail-user=me@site.org",
        "--mail-type=END,FAIL",
        "--exclude=n1,n2,n7,n9",
    } <= options
    assert not any("--mem" in option or "--gres" in option for option in options)
    assert "--reservation=course" in worker_directives(profile, TaskKind.ENCODE)


@pytest.mark.parametrize("asks_memory", [True, False])
def test_workers_ask_for_memory_where_that_is_allowed(asks_memory: bool) -> None:
    from dask_jobqueue.slurm import SLURMJob

    job = SLURMJob(
        scheduler="tcp://127.0.0.1:1",
        name="worker",
        cores=1,
        memory="1GB",
        job_mem="1024M",
        job_directives_skip=[] if asks_memory else [MEMORY_OPTION],
    )
    assert ("#SBATCH --mem=1024M" in job.job_script()) == asks_memory


def test_no_gpus_are_asked_for_where_none_are_needed() -> None:
    request = JobRequest(n_cpus=1, n_gpus=0, memory_gb=1, timeout_min=1)
    assert submitit_parameters(SiteProfile(), TaskKind.ENCODE, request)["gres"] is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("defualt: {}", "site.yaml:1: defualt: unknown key; did you mean 'default'?"),
        (
            "extract:\n  partitoin: gpu",
            "site.yaml:2: extract.partitoin: unknown key; did you mean 'partition'?",
        ),
        ("default: {gres: gpu}", "default.gres: String should match pattern"),
        ("max_submit: many", "max_submit: Input should be a valid integer"),
        ("encode: {tasks_per_job: 0}", "encode.tasks_per_job: Input should be greater than 0"),
        ("retries: {timout: 3}", "retries.timout: unknown key; did you mean 'timeout'?"),
        ("retries: {stop_family: [x]}", "retries.stop_family[0]: Input should be "),
        ("retries: {memory_factor: .inf}", "retries.memory_factor: Input should be a valid number"),
        ("default: {requeue: no}", "default.requeue: Input should be a valid boolean, not 'no'; "),
        ("default: {cpus: '4'}", "default.cpus: Input should be a valid integer, not '4'; write 4"),
        ("default: {cpus: {a: {b: 1}}}", "default.cpus: Input should be a valid integer"),
        ("default: 3", "site.yaml:1: default: Input should be a mapping"),
        ("default: {setup: module load}", "default.setup: Input should be a list"),
        ("- default", "site.yaml:1: a config is a mapping of keys, not ['default']"),
    ],
)
def test_mistakes_are_named_with_their_place(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        profile_of(tmp_path, text)
    assert said in str(caught.value)


def test_accounts_and_partitions_are_texts_as_written(tmp_path: Path) -> None:
    profile = profile_of(tmp_path, "default: {account: 012345, partition: 1e3, exclude: [7, no]}")
    assert (profile.default.account, profile.default.partition) == ("012345", "1e3")
    assert profile.default.exclude == ("7", "no")


@pytest.mark.parametrize(
    "name", ["null", "~", "[x", "a: b", "ä 🐒", "012", "x" * 3000, "~nobody.yaml"]
)
def test_the_name_of_a_profile_is_a_text(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    from toolkit import sweep

    text = "name: x\ndataset: {kind: synthetic, n_train: 9, n_val: 3, n_neuroids: 2}\n"
    text += "models: {library: pixels}\nreadouts: {kind: linear}\n"
    (tmp_path / "c.yaml").write_text(text)
    words = ["--out", str(tmp_path / "run"), "--executor", "slurm", "--profile", name]
    assert sweep.main(["plan", str(tmp_path / "c.yaml"), *words]) == 2
    said = capsys.readouterr().err
    assert "no such profile" in said or "cannot read the config" in said
    assert len(said) < 1000


def test_an_unknown_profile_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'preemptible'"):
        load_profile("premptible")


def test_limits_of_the_profile_need_no_accounting(fake_slurm: FakeSlurm) -> None:
    fake_slurm.answers("scontrol", from_file="scontrol_show_config.txt")
    fake_slurm.answers(
        "squeue", "CLUSTER: one\n1_0|a b|\n1_1|a b|\n2_0|c|\n3|run.keeper|\nwelcome to one\n"
    )
    assert ask_limits(SiteProfile(max_submit=50)) == ArrayLimits(20001, 50, n_queued=3)
    assert ask_limits(SiteProfile(max_array_size=9)) == ArrayLimits(9)


def test_limits_of_accounts_count_where_slurm_enforces_them(fake_slurm: FakeSlurm) -> None:
    fake_slurm.answers(
        "scontrol",
        "AccountingStorageEnforce = associations,limits\nMaxArraySize = 1001\nMaxJobCount = 500\n",
    )
    fake_slurm.answers("squeue", "")
    fake_slurm.answers_by_word(
        "sacctmgr", {"assoc": "mine|long|800\nother||10\n", "qos": "normal|5||\nlong|700||900\n"}
    )
    profile = SiteProfile.model_validate({"default": {"account": "mine"}})
    assert ask_limits(profile) == ArrayLimits(500, 700)


@pytest.mark.parametrize(
    ("said", "size"),
    [
        ("", None),
        ("slurm.conf\n\x00\nMaxArraySize\n=\n", None),
        ("MaxArraySize = N/A\nMaxJobCount = INFINITE\n", None),
        ("MaxArraySize = (null)\nMaxJobCount = 10000\n", 10000),
        ("MaxArraySize = 0\nMaxJobCount = 10000\n", 1),
    ],
)
def test_a_limit_that_slurm_does_not_say_is_not_known(
    fake_slurm: FakeSlurm, said: str, size: int | None
) -> None:
    fake_slurm.answers("scontrol", said)
    limits = ask_limits(SiteProfile())
    assert limits == ArrayLimits(size)
    batches = [Batch(str(i), TaskKind.EXTRACT, (str(i),)) for i in range(3)]
    arrays = plan_arrays(batches, limits, lambda _: REQUEST)
    assert len(arrays.arrays) == (3 if size == 1 else 1)
    assert f"(MaxArraySize {size or 'not known'})" in describe_arrays(arrays, limits)[0]


def test_limits_of_accounts_that_cannot_be_read_are_no_limits(fake_slurm: FakeSlurm) -> None:
    fake_slurm.answers("scontrol", "AccountingStorageEnforce = limits\nMaxArraySize = 9\n")
    fake_slurm.answers("squeue", "")
    fake_slurm.answers_by_word(
        "sacctmgr",
        {"assoc": "mine|\n||||||\nmine|long|UNLIMITED\n", "qos": "long|||INFINITE\nlong|0|7|\n"},
    )
    assert ask_limits(SiteProfile()) == ArrayLimits(9, 7)


def test_the_run_folder_remembers_what_stages_leave_out() -> None:
    profile = SiteProfile.model_validate({"default": {"partition": "gpu"}, "encode": {"cpus": 2}})
    settings = SlurmSettings(profile, {}, None, "")
    raw = json.loads(json.dumps(settings.to_dict()))
    again = SiteProfile.model_validate(raw["profile"])
    assert [again.stage(kind) for kind in TaskKind] == [profile.stage(kind) for kind in TaskKind]
    assert again.stage(TaskKind.ENCODE).partition == "gpu"
