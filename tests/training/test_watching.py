"""What a run shows: quantiles, validation, stopping early, samples, and the policy's card."""

import dataclasses
import json
import re
from types import SimpleNamespace

import numpy as np
import pytest
import tiny_pipelines
import torch
from in_process import lines, run
from safetensors.torch import load_file

from training.card import write_card
from training.checkpoint import RunFolder
from training.config import ConfigError
from training.pairs import open_pairs
from training.study_file import policy_config
from training.watching import Patience

FULL = ["train.adaptation=full", "train.learning_rate=0.0015", "train.batch_size=8"]


def test_a_line_tells_quantiles_drift_and_the_time_left(toy, tmp_path):
    run(toy.study, tmp_path, overrides=[*FULL, "train.steps=8"])
    first, *_, last = lines(tmp_path)
    for name in ("inside", "margin"):
        assert last[f"{name}_p10"] < last[f"{name}_p50"] < last[f"{name}_p90"]
    assert last["drift"] > first["drift"] >= 0
    assert first["seconds_left"] > 0 == last["seconds_left"]
    assert last["peak_memory_gib"] > 0.1
    train_gaps = open_pairs(toy.pairs).train.gap * 0.5  # gamma
    assert train_gaps.min() <= first["margin_p10"] <= first["margin_p90"] <= train_gaps.max()


def test_validations_come_with_their_lines_and_agree_with_the_result(toy, tmp_path):
    overrides = [*FULL, "train.validate_every=3", "train.steps=6"]
    result = run(toy.study, tmp_path, overrides=overrides, judges=512)
    found = {line["step"]: line for line in lines(tmp_path) if "held_out_loss" in line}
    assert list(found) == [3, 6]
    assert found[6]["held_out_accuracy"] == result["held_out_accuracy"]
    assert found[6]["held_out_winner_error"] < found[6]["held_out_loser_error"]
    assert found[6]["held_out_loss"] < found[3]["held_out_loss"]


def test_a_run_stops_after_validations_without_a_new_least_loss(toy, tmp_path, monkeypatch):
    losses = iter([3.0, 2.0, 2.5, 2.0, 9.0])
    held_out = lambda *_: {"held_out_loss": next(losses)}  # noqa: E731
    monkeypatch.setattr("training.watching.Validation.__call__", held_out)
    options = ["train.validate_every=2", "train.patience=2", "train.steps=20"]
    said: list[str] = []
    result = run(toy.study, tmp_path, overrides=options, say=said.append)
    assert (result["steps"], result["stopped_early"]) == (8, True)
    assert "stopped after step 8: 2 validations without a new least held-out loss" in said
    assert run(toy.study, tmp_path, overrides=options, resume=True) == result  # it is finished
    (tmp_path / "result.json").unlink()  # as if killed between the last checkpoint and the end
    losses = iter([2.0])
    again = run(toy.study, tmp_path, overrides=options, resume=True)
    assert (again["steps"], again["data_version"]) == (8, result["data_version"])


def test_patience_is_remembered_by_the_run_that_continues(tmp_path):
    metrics = tmp_path / "metrics.jsonl"
    found = [{"step": 1, "held_out_loss": 1.0}, {"step": 2}, {"step": 3, "held_out_loss": 2.0}]
    metrics.write_text("".join(json.dumps(line) + "\n" for line in found))
    none = tmp_path / "none"
    for limit, file, over in ((2, metrics, True), (2, none, False), (0, metrics, False)):
        patience = Patience(limit, file)
        assert patience.improved_by({"held_out_loss": 3.0}) == (file != metrics)
        assert patience.over == over


def test_patience_without_validations_is_refused(toy):
    with pytest.raises(ConfigError, match=r"set train.validate_every too"):
        policy_config(toy.study, "dpo", ["train.patience=3"])


@pytest.mark.parametrize("name", ["sd", "sd3", "flux"])
def test_samples_show_the_same_prompts_as_the_policy_moves(name, toy, tiny_pipeline, tmp_path):
    from PIL import Image

    base = tiny_pipeline
    if name != "sd":
        base = getattr(tiny_pipelines, f"save_{name}")(tmp_path / "base")
    study = toy.write_study(
        tmp_path / "study.toml", base, sample_every=2, learning_rate=0.003, adaptation="full"
    )
    run(study, tmp_path / "out", judges=512)
    found = sorted(path.name for path in (tmp_path / "out" / "samples").iterdir())
    shown = len(set(open_pairs(toy.pairs).held_out.prompt.tolist()))
    assert found == [f"{step:08d}-{i}.png" for step in (2, 4) for i in range(min(4, shown))]
    images = [np.array(Image.open(tmp_path / "out/samples" / f)) for f in found]
    assert images[0].shape == (32, 32, 3)
    assert (images[0] != images[len(images) // 2]).any()


def test_the_card_states_data_objective_parameters_and_scores(toy, tmp_path):
    result = run(toy.study, tmp_path, overrides=["train.gamma=0.75"])
    card = (tmp_path / "policy" / "README.md").read_text()
    header, text = card.removeprefix("---\n").split("---\n", 1)
    fields = dict(re.findall(r"^(\w+): (.+)$", header, re.MULTILINE))
    assert fields["library_name"] == "diffusers"
    assert fields["license"] == "other"
    assert "- lora\n" in header
    assert "`arenapo`" in text
    assert "2605.06070" in text
    assert "| gamma | 0.75 |" in text
    assert f"accuracy {result['held_out_accuracy']:.4g}" in text
    assert f"{result['pairs']} training pairs and {result['held_out_pairs']} held-out" in text
    assert 'load_lora_weights("FOLDER")' in text
    assert str(tmp_path) not in card


def test_a_sample_that_fails_is_said_and_kills_nothing(toy, tmp_path, monkeypatch):
    def fails(self, policy):
        raise RuntimeError("Expected all tensors to be on the same device\nbut ...")

    monkeypatch.setattr("training.samples.Sampler.draw", fails)
    said: list[str] = []
    result = run(toy.study, tmp_path, overrides=["train.sample_every=3"], say=said.append)
    assert result["steps"] == 4
    expected = "no samples at step {}: RuntimeError: Expected all tensors to be on the same device"
    assert [text for text in said if "no samples" in text] == [expected.format(n) for n in (3, 4)]


def test_a_checkpoint_is_written_before_a_sample_is_drawn(toy, tmp_path, monkeypatch):
    there = []
    checkpoints = tmp_path / "checkpoints"
    monkeypatch.setattr(
        "training.samples.Sampler.draw",
        lambda *_: there.append(sorted(path.name for path in checkpoints.iterdir())) or [],
    )
    overrides = ["train.sample_every=1", "train.steps=2", "train.checkpoint_every=100"]
    run(toy.study, tmp_path, overrides=overrides)
    assert [names[-1] for names in there] == [f"step-{n:08d}.safetensors" for n in (1, 2)]


def test_samples_are_drawn_as_the_study_draws_and_without_its_safety_checker(
    toy, tiny_pipeline, tmp_path, monkeypatch
):
    """A checker in the folder would make the CPU the pipeline's device."""
    import diffusers

    base = tiny_pipelines.with_safety_checker(tiny_pipeline, tmp_path / "base")
    asked = []
    call = diffusers.StableDiffusionPipeline.__call__

    def noted(self, **options):
        asked.append((self.safety_checker, self.vae.use_slicing, options))
        return call(self, **options)

    monkeypatch.setattr(diffusers.StableDiffusionPipeline, "__call__", noted)
    study = toy.write_study(tmp_path / "study.toml", base, sample_every=4)
    drawn = "[generation]\nsteps = 3\nguidance = 2.5\nseed = 7\n"
    study.write_text(study.read_text().replace("[generation]\nsteps = 2\n", drawn))
    run(study, tmp_path / "out")
    ((checker, sliced, options),) = asked
    assert checker is None
    assert sliced
    assert (options["num_inference_steps"], options["guidance_scale"]) == (3, 2.5)
    assert options["generator"].initial_seed() == 7
    assert len(list((tmp_path / "out/samples").iterdir())) == len(options["prompt_embeds"])


def test_early_stopping_keeps_the_best_weights_and_not_the_last(toy, tmp_path, monkeypatch):
    losses = iter([3.0, 1.0, 2.0, 2.5])
    held_out = lambda *_: {"held_out_loss": next(losses)}  # noqa: E731
    monkeypatch.setattr("training.watching.Validation.__call__", held_out)
    options = ["train.validate_every=1", "train.patience=2", "train.steps=9"]
    options += ["train.checkpoint_every=1"]
    kept: dict[str, dict] = {}
    save = RunFolder.save_best
    monkeypatch.setattr(
        RunFolder, "save_best", lambda self, weights: (kept.update(weights), save(self, weights))
    )
    result = run(toy.study, tmp_path, overrides=options)
    assert (result["steps"], result["held_out_loss"]) == (4, 1.0)
    saved = load_file(tmp_path / "policy/pytorch_lora_weights.safetensors")
    last = load_file(tmp_path / "checkpoints/step-00000004.safetensors")
    name = next(name for name in kept if "lora_B" in name)
    (layer,) = (v for k, v in saved.items() if k == f"unet.{name.replace('.default', '')}")
    assert torch.equal(layer, kept[name])
    assert not torch.equal(layer, last[f"weights.{name}"])


def test_the_card_names_a_base_on_the_hub_as_the_hub_does(toy, tmp_path):
    config = dataclasses.replace(policy_config(toy.study, "dpo"), base="owner/model")
    origin = {"pairs": "0", "images": {"digest": "0"}, "base model": "0"}
    result = {"pairs": 1, "held_out_pairs": 0, "steps": 1, "stopped_early": False}
    write_card(tmp_path, config, SimpleNamespace(pipeline="FluxPipeline"), origin, result)
    card = (tmp_path / "README.md").read_text()
    assert 'FluxPipeline.from_pretrained("owner/model")' in card
    assert "base_model: owner/model" in card
