"""Weights that two processes share out: the steps of one process, with half of the weights each."""

import json
import re

import pytest
import tiny_pipelines
import torch
from in_process import lines, run
from safetensors.torch import load_file

from training.config import ConfigError
from training.machine import refuse_what_cannot_be_shared
from training.processes import Processes
from training.study_file import policy_config

MACHINE = {"pairs_per_second", "seconds_left", "peak_memory_gib"}
LAST = "checkpoints/step-00000004.safetensors"


def assert_same_run(one, two):
    """Equal to rounding: every line, and every tensor of the last checkpoint."""
    for mine, theirs in zip(lines(one), lines(two), strict=True):
        # implicit_accuracy is the sign of `inside`, and near step 0 that is rounding.
        for key in set(mine) - MACHINE - {"implicit_accuracy", "held_out_accuracy"}:
            assert theirs[key] == pytest.approx(mine[key], rel=1e-4, abs=1e-5), key
    whole, shared = load_file(one / LAST), load_file(two / LAST)
    assert shared.keys() == whole.keys()
    for name, value in whole.items():
        if name.startswith("optimizer.exp_avg"):  # AdamW moves a weight by its sign as well
            assert (shared[name] - value).norm() <= 1e-3 * value.norm() + 1e-12, name
        else:
            torch.testing.assert_close(shared[name], value, atol=1e-5, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("adaptation", ["lora", "full"])
def test_shared_weights_take_the_steps_of_whole_ones(
    adaptation, toy, tiny_pipeline, tmp_path, train_in_two
):
    # As in test_loop_options: beta_dpo multiplies rounding, and AdamW a gradient that is rounding.
    # An odd number of pairs at once and samples: where one process has less to do than the other,
    # both must still gather weights equally often.
    options = {
        "log_every": 1, "validate_every": 2, "sample_every": 4, "beta_dpo": 8.0,
        "learning_rate": 1e-4, "pairs_at_once": 1, "ema_decay": 0.9, "shard": True,
        "adaptation": adaptation, "gradient_checkpointing": adaptation == "full",
    }  # fmt: skip
    study = toy.write_study(tmp_path / "study.toml", tiny_pipeline, **options)
    whole = run(study, tmp_path / "one", judges=512)
    said = train_in_two(study, tmp_path / "two")
    assert "2 x cpu" in said
    mine, every = re.search(r"([\d,]+) of ([\d,]+) weights are kept", said).groups()
    assert 0.45 < int(mine.replace(",", "")) / int(every.replace(",", "")) < 0.6
    assert_same_run(tmp_path / "one", tmp_path / "two")
    result = json.loads((tmp_path / "two" / "result.json").read_text())
    assert result["held_out_loss"] == pytest.approx(whole["held_out_loss"], rel=1e-5)
    assert sorted(p.name for p in (tmp_path / "two/samples").iterdir()) == sorted(
        p.name for p in (tmp_path / "one/samples").iterdir()
    )
    weights = "policy/unet/*.safetensors" if adaptation == "full" else "policy/*.safetensors"
    (one,), (two,) = (list((tmp_path / out).glob(weights)) for out in ("one", "two"))
    for name, value in load_file(one).items():
        torch.testing.assert_close(load_file(two)[name], value, atol=1e-5, rtol=1e-4)
    if adaptation == "lora":
        return  # its checkpoint is that of two processes without shared weights
    # Two go on where two stopped, and one where two did: a checkpoint is whole.
    longer = ["--set", "train.steps=6", "--resume"]
    train_in_two(study, tmp_path / "two", *longer)
    run(study, tmp_path / "one", overrides=["train.steps=6"], judges=512, resume=True)
    (tmp_path / "two/checkpoints/step-00000006.safetensors").unlink()
    (tmp_path / "two/result.json").unlink()
    alone = ["train.steps=6", "train.shard=false"]
    run(study, tmp_path / "two", overrides=alone, judges=512, resume=True)
    assert_same_run(tmp_path / "one", tmp_path / "two")


@pytest.mark.slow
def test_transformers_share_their_weights_too(toy, tmp_path, train_in_two):
    base = tiny_pipelines.save_flux(tmp_path / "base")
    options = {"log_every": 1, "beta_dpo": 8.0, "learning_rate": 1e-4, "shard": True}
    # Known errors: computed by both, an odd number of them, and then no frozen copy is held.
    options |= {"adaptation": "full", "reference_draws": 1, "batch_size": 2}
    study = toy.write_study(tmp_path / "study.toml", base, **options)
    run(study, tmp_path / "one", judges=512)
    cache = f"cache.root={tmp_path / 'cache'}"
    train_in_two(study, tmp_path / "two", "--set", cache)
    assert_same_run(tmp_path / "one", tmp_path / "two")


def test_what_cannot_be_shared_out_is_refused(toy, tiny_pipeline, tmp_path):
    two, alone = (Processes(0, count, torch.device("cpu")) for count in (2, 1))
    for changes, found in (
        ({"adaptation": "full", "precision": "fp16"}, 'train.precision = "fp16"'),
        ({"adaptation": "full", "optimizer": "adamw_8bit"}, 'train.optimizer = "adamw_8bit"'),
        ({"compile": True}, "train.compile = true"),
    ):
        study = toy.write_study(tmp_path / "study.toml", tiny_pipeline, shard=True, **changes)
        config = policy_config(study, "arenapo")
        with pytest.raises(ConfigError, match=f"train.shard = true and {found}"):
            refuse_what_cannot_be_shared(config, two)
        refuse_what_cannot_be_shared(config, alone)
    # A LoRA is whole everywhere, so its optimiser and its scaled loss are as ever.
    study = toy.write_study(
        tmp_path / "study.toml", tiny_pipeline, shard=True, precision="fp16", optimizer="adamw_8bit"
    )
    refuse_what_cannot_be_shared(policy_config(study, "arenapo"), two)
