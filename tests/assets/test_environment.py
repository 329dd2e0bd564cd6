"""What a job is told of the operator's environment: what it needs, and no secret of others."""

import json
import os
import sys

from assets.environment import short
from assets.job_process import JobProcess
from assets.jobs import told_to, travels

HERE = {
    "PATH": "/bin",
    "HOME": "/root",
    "LC_ALL": "C",
    "https_proxy": "http://proxy",
    "CUDA_VISIBLE_DEVICES": "0",
    "HF_TOKEN": "of the hub",
    "SLURM_JOB_ID": "7",
    "OPENAI_API_KEY": "of the judge",
    "RATER_SALT": "s3cret",
    "ALERTS_TO": "https://hooks/s3cret",
    "AWS_SECRET_ACCESS_KEY": "s3cret",
    "DATABASE_URL": "s3cret",
    "MODULEPATH": "/modules",
}


def test_a_job_sees_no_secret_and_only_the_judge_its_key(write_study):
    study = write_study(lambda text: f'{text}\n[jobs]\nenvironment = ["MODULE*"]\n')
    training = short(HERE, told_to(study, ["training", "small.toml"]))
    judge = short(HERE, told_to(study, ["evaluation", "ksort", "--dataset", "x"]))
    drawing = short(HERE, told_to(study, ["evaluation", "generate"]))
    hidden = {"RATER_SALT", "ALERTS_TO", "AWS_SECRET_ACCESS_KEY", "DATABASE_URL"}
    assert set(judge) == set(HERE) - hidden
    assert set(training) == set(drawing) == set(judge) - {"OPENAI_API_KEY"}


def test_what_travels_to_another_machine_is_no_fact_of_this_one(write_study, monkeypatch):
    study = write_study(lambda text: f'{text}\n[jobs]\nenvironment = ["MODULE*"]\n')
    for name in list(os.environ):
        monkeypatch.delenv(name)
    for name, value in HERE.items():
        monkeypatch.setenv(name, value)
    assert set(travels(study, ["training"])) == {"HF_TOKEN", "MODULEPATH"}


def test_a_job_gets_what_it_is_told_and_nothing_else(tmp_path, monkeypatch):
    monkeypatch.setenv("RATER_SALT", "s3cret")
    code = "import json, os; json.dump(dict(os.environ), open('seen.json', 'w'))"
    job = JobProcess(tmp_path / "job", "", 1)
    job.folder.mkdir()
    job.prepare(tmp_path, {}, {})
    job.start([sys.executable, "-c", code], {"PATH": "/bin"})
    assert job.follow() == 0
    assert set(json.loads((tmp_path / "seen.json").read_text())) <= {"PATH", "LC_CTYPE"}
    assert (job.folder / "job.json").stat().st_mode & 0o077 == 0
