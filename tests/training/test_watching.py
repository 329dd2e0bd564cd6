"""What a run shows: quantiles, validation, stopping early, samples, and the policy's card."""

import json
import re

import numpy as np
import pytest

from training.config import ConfigError
from training.loop import train
from training.pairs import open_pairs
from training.study_file import data_config, policy_config, read_study
from training.watching import Patience

FULL = ["train.adaptation=full", "train.learning_rate=0.003", "train.batch_size=8"]


def run(study, out, policy="arenapo", overrides=(), **options):
    data = data_config(read_study(study, overrides))
    config = policy_config(study, policy, overrides)
    return train(config, data, open_pairs(data.pairs), out, **options)


def lines(out):
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


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
    result = run(toy.study, tmp_path, overrides=[*FULL, "train.validate_every=3", "train.steps=6"])
    found = {line["step"]: line for line in lines(tmp_path) if "held_out_loss" in line}
    assert list(found) == [3, 6]
    assert found[6]["held_out_accuracy"] == result["held_out_accuracy"]
    assert found[6]["held_out_winner_error"] < found[6]["held_out_loser_error"]
    assert found[6]["held_out_loss"] < found[3]["held_out_loss"]


def test_a_run_stops_after_validations_without_a_new_least_loss(toy, tmp_path, monkeypatch):
    losses = iter([3.0, 2.0, 2.5, 2.0, 9.0])
    monkeypatch.setattr("training.loop.validate", lambda *_: {"held_out_loss": next(losses)})
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
    assert Patience(2, metrics).is_over(3.0)
    assert not Patience(2, tmp_path / "none").is_over(3.0)
    assert not Patience(0, metrics).is_over(3.0)


def test_patience_without_validations_is_refused(toy):
    with pytest.raises(ConfigError, match=r"set train.validate_every too"):
        policy_config(toy.study, "dpo", ["train.patience=3"])


@pytest.mark.parametrize("name", ["sd", "sd3", "flux"])
def test_samples_show_the_same_prompts_as_the_policy_moves(name, toy, tiny_pipeline, tmp_path):
    import tiny_pipelines
    from PIL import Image

    base = tiny_pipeline
    if name != "sd":
        base = getattr(tiny_pipelines, f"save_{name}")(tmp_path / "base")
    study = toy.write_study(
        tmp_path / "study.toml", base, sample_every=2, learning_rate=0.03, adaptation="full"
    )
    run(study, tmp_path / "out")
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
    assert "lora" in fields["tags"]
    assert "`arenapo`" in text
    assert "2605.06070" in text
    assert "| gamma | 0.75 |" in text
    assert f"accuracy {result['held_out_accuracy']:.4g}" in text
    assert f"{result['pairs']} training pairs and {result['held_out_pairs']} held-out" in text
    assert 'load_lora_weights("FOLDER")' in text
    assert str(tmp_path) not in card
