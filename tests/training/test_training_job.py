"""The command itself: what it writes, says and survives.

It runs in a process of its own where that is what is tested, else in this one, which has torch.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from training.__main__ import main

ROOT = Path(__file__).parents[2]


def words(study: Path, policy: str, out: Path, *options: str) -> list[str]:
    return [str(study), "--policy", policy, "--out", str(out), *options]


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "training", *words(*arguments)]  # type: ignore[arg-type]


def job(
    *arguments: object, python: Sequence[str] = (sys.executable,), **environment: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*python, "-m", "training", *words(*arguments)],  # type: ignore[arg-type]
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=200,
        env=os.environ | environment,
    )


@pytest.fixture
def here(capsys):
    """Run the command in this process; return what `job` returns."""
    terminate = signal.getsignal(signal.SIGTERM)

    def run(study, policy, out, *options):
        arguments = words(study, policy, out, *options)
        code = main(arguments)
        said = capsys.readouterr()
        return subprocess.CompletedProcess(arguments, code, said.out, said.err)

    yield run
    signal.signal(signal.SIGTERM, terminate)


@pytest.mark.slow
def test_a_killed_job_resumes_to_the_bit_and_reports_to_dagster(toy, tmp_path, warm_python):
    from dagster_pipes import encode_param

    study = toy.write_study(tmp_path / "study.toml", _base(toy), steps=30, checkpoint_every=3)
    killed = subprocess.Popen(
        command(study, "arenapo", tmp_path / "killed"), cwd=ROOT, stderr=subprocess.DEVNULL
    )
    checkpoints = tmp_path / "killed" / "checkpoints"
    while len(list(checkpoints.glob("step-*.safetensors"))) < 2:
        assert killed.poll() is None, "the job ended before it could be killed"
        time.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert not (tmp_path / "killed" / "result.json").exists()

    context = {
        "asset_keys": ["policy"], "code_version_by_asset_key": {"policy": None},
        "provenance_by_asset_key": {"policy": None}, "partition_key": "arenapo",
        "partition_key_range": None, "partition_time_window": None, "run_id": "r", "job_name": "j",
        "retry_number": 0, "extras": {},
    }  # fmt: skip
    (tmp_path / "context.json").write_text(json.dumps(context))
    pipes = {
        "DAGSTER_PIPES_CONTEXT": encode_param({"path": str(tmp_path / "context.json")}),
        "DAGSTER_PIPES_MESSAGES": encode_param({"path": str(tmp_path / "messages")}),
    }
    resumed = job(study, "arenapo", tmp_path / "killed", "--resume", python=warm_python, **pipes)
    assert resumed.returncode == 0, resumed.stderr
    assert "continuing after step" in resumed.stderr
    messages = [json.loads(line) for line in (tmp_path / "messages").read_text().splitlines()]
    (report,) = [m["params"] for m in messages if m["method"] == "report_asset_materialization"]
    assert report["metadata"]["steps"]["raw_value"] == 30
    assert {"loss", "held_out_accuracy", "pairs_per_second"} <= report["metadata"].keys()

    whole = job(study, "arenapo", tmp_path / "whole", python=warm_python)
    assert whole.returncode == 0, whole.stderr
    results = [json.loads((tmp_path / d / "result.json").read_text()) for d in ("killed", "whole")]
    assert results[0]["data_version"] == results[1]["data_version"] == report["data_version"]
    assert whole.stdout.startswith("arenapo: 30 steps, loss ")
    assert whole.stdout.splitlines()[-1] == str(tmp_path / "whole" / "policy")
    assert "arenapo 4/30" in whole.stderr
    assert "Traceback" not in whole.stderr


@pytest.mark.slow
def test_the_full_adaptation_is_saved_and_a_signal_leaves_a_checkpoint(toy, tmp_path, here):
    out = tmp_path / "out"
    options = ["--set", "train.adaptation=full", "--set", "train.steps=100000"]
    options += ["--set", "train.checkpoint_every=100000", "--set", "train.log_every=1"]
    running = subprocess.Popen(
        command(toy.study, "dpo", out, *options), cwd=ROOT, stderr=subprocess.PIPE, text=True
    )
    while not (out / "metrics.jsonl").exists():
        assert running.poll() is None, "the job ended before its first step"
        time.sleep(0.01)
    running.send_signal(signal.SIGINT)
    _, said = running.communicate(timeout=60)
    assert running.returncode == 130
    assert "stopped by a signal after step" in said
    assert "Traceback" not in said
    (checkpoint,) = (out / "checkpoints").iterdir()
    steps = int(checkpoint.stem.removeprefix("step-")) + 1
    options = ["--resume", "--set", "train.adaptation=full", "--set", f"train.steps={steps}"]
    finished = here(toy.study, "dpo", out, *options)
    assert finished.returncode == 0, finished.stderr
    assert (out / "policy" / "unet" / "diffusion_pytorch_model.safetensors").exists()
    assert (out / "policy" / "model_index.json").exists()


def _base(toy) -> Path:
    import tomllib

    return Path(tomllib.loads(toy.study.read_text())["model"]["base"])


@pytest.mark.parametrize(
    ("policy", "options", "message"),
    [
        ("nobody", [], "no policy named 'nobody'; it has base, sft, dpo"),
        ("base", [], "policy 'base' has no objective"),
        ("dpo", ["--set", "train.step=1"], "unknown key 'step'; allowed:"),
        ("dpo", ["--set", "training_set.pairs=gone.parquet"], "there is no file"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_1(policy, options, message, toy, tmp_path):
    result = job(toy.study, policy, tmp_path / "out", *options)
    assert result.returncode == 1
    assert result.stderr.startswith("error: ")
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
    assert result.stdout == ""


def test_a_plan_is_printed_and_nothing_is_done(toy, tmp_path, here):
    result = here(toy.study, "arenapo", tmp_path / "out", "--plan")
    assert result.returncode == 0, result.stderr
    for part in ("GiB  activations, 4 pairs at once", "embeddings of 12 prompts", "1 x A100"):
        assert part in result.stdout
    assert not (tmp_path / "out").exists()
    gone = ["--plan", "--set", f"model.base={tmp_path}/gone"]
    missing = here(toy.study, "arenapo", tmp_path / "out", *gone)
    assert missing.returncode == 1
    assert missing.stderr.startswith("error: model.base: there is no folder")


def test_a_job_without_the_pipeline_builds_its_pairs_from_the_votes(toy, tmp_path, here):
    import pyarrow as pa
    import pyarrow.parquet as pq

    sides = [(f"w{i}", f"l{i}", "good", "bad", "a") for i in range(48)]
    names = ("image_a", "image_b", "model_a", "model_b", "outcome")
    votes = dict(zip(names, map(list, zip(*sides, strict=True)), strict=True))
    votes["prompt"] = [f"a bright square {i % 12}" for i in range(48)]
    pq.write_table(pa.table(votes), tmp_path / "votes.parquet")
    study = toy.write_study(tmp_path / "study.toml", _base(toy), steps=1)
    study.write_text(study.read_text().replace(f'pairs = "{toy.pairs}"', ""))
    trained = here(study, "arenapo", tmp_path / "out")
    assert trained.returncode == 0, trained.stderr
    assert "is not there yet: building the pairs from the votes" in trained.stderr
    built = pq.read_table(tmp_path / "out" / "training_set.parquet")
    assert built.num_rows == 48
    assert (built["gap"].to_numpy() > 0).all()
    (tmp_path / "votes.parquet").write_bytes(b"no votes")
    broken = here(study, "arenapo", tmp_path / "other")
    assert broken.returncode == 1
    assert broken.stderr.splitlines()[-1].startswith("error: the pairs cannot be built from the")


def test_help_loads_no_torch_and_has_an_example():
    result = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "training", "--help"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "python -m training experiments/miniature.toml --policy arenapo" in result.stdout
    assert not {"torch", "diffusers"} & {
        line.split("|")[-1].strip() for line in result.stderr.splitlines()
    }


@pytest.mark.slow
def test_a_full_disk_is_one_sentence_and_the_run_goes_on_when_there_is_room(toy, tmp_path, here):
    study = toy.write_study(tmp_path / "study.toml", _base(toy), steps=4, checkpoint_every=2)
    out = tmp_path / "out"
    assert here(study, "dpo", out, "--set", "train.steps=2").returncode == 0
    (checkpoint,) = (out / "checkpoints").iterdir()
    # No file may grow past 20 kB, which a checkpoint does and what leads up to it does not.
    limited = ["bash", "-c", 'ulimit -f 20; exec "$@"', "-"]
    full = subprocess.run(
        [*limited, *command(study, "dpo", out, "--resume")],
        cwd=ROOT, capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    assert full.returncode == 1, full.stderr
    assert "error: the disk is full" in full.stderr
    assert "--resume" in full.stderr
    assert "Traceback" not in full.stderr
    assert list((out / "checkpoints").iterdir()) == [checkpoint]
    finished = here(study, "dpo", out, "--resume")
    assert finished.returncode == 0, finished.stderr
    assert "continuing after step 2" in finished.stderr
