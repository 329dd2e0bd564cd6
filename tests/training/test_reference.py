"""The reference cache: exact, filled once, shared by the policies of a study."""

import json

import numpy as np
import pytest
import torch

from training import cache
from training.batches import Inputs
from training.families import open_family
from training.learner import Learner
from training.loop import train
from training.pairs import open_pairs
from training.processes import Processes
from training.reference import ReferenceErrors
from training.study_file import data_config, policy_config, read_study

ALONE = Processes(0, 1, torch.device("cpu"))
DRAWS = ["train.reference_draws=2"]


def run(study, out, policy="arenapo", overrides=(), **options):
    overrides = [*DRAWS, *overrides]
    data = data_config(read_study(study, overrides))
    config = policy_config(study, policy, overrides)
    return train(config, data, open_pairs(data.pairs), out, **options)


@pytest.fixture
def study(toy, tiny_pipeline, tmp_path):
    path = toy.write_study(tmp_path / "study.toml", tiny_pipeline, log_every=1)
    own = (tmp_path / "cache").as_posix()  # not the toy's: what is in it is what is tested
    shared = str(toy.folder / "cache")
    path.write_text(path.read_text().replace(shared, own))
    return path


@pytest.mark.parametrize("adaptation", ["lora", "full"])
def test_known_errors_are_those_of_the_live_reference(adaptation, study, tmp_path):
    overrides = [*DRAWS, f"train.adaptation={adaptation}", "train.beta_dpo=8.0"]
    data, config = data_config(read_study(study)), policy_config(study, "arenapo", overrides)
    pairs, family = open_pairs(data.pairs), open_family(config.base)
    kept = (torch.float32, ALONE.device, print)
    latents = cache.latents(family, pairs.images, data.images, data.cache, 32, *kept)
    texts = cache.prompt_embeddings(family, pairs.prompts, data.cache, *kept)
    inputs, learner = Inputs(family, [latents], texts, ALONE.device), Learner(config, family, ALONE)
    errors = ReferenceErrors(data.cache, config, ["x"], pairs.train, inputs)
    rows, draws = np.array([3, 0, 7, 3]), np.array([0, 1, 1, 1])
    errors.compute(learner, rows, draws, ALONE, print)
    for step in range(3):  # the policy moves away, the reference does not
        fixed = inputs.fixed_draws(pairs.train.vote_id[rows], draws, config.seed)
        live = inputs.batch(pairs.train, rows, fixed)
        known = inputs.batch(pairs.train, rows, fixed, errors.at(rows, draws))
        one, two = learner.evaluate(live), learner.evaluate(known)
        for name in two:
            torch.testing.assert_close(two[name], one[name], atol=1e-5, rtol=1e-5)
        learner.step(step, live)
    again = ReferenceErrors(data.cache, config, ["x"], pairs.train, inputs)
    assert torch.equal(again.at(rows, draws), errors.at(rows, draws))
    assert again.at(np.array([1]), np.array([0])).isnan().all()


def test_the_policies_of_a_study_pay_for_the_reference_once(study, tmp_path, monkeypatch):
    computed = []
    reference_errors = Learner.reference_errors

    def counting(self, batch):
        computed.append(len(batch.gap))
        return reference_errors(self, batch)

    monkeypatch.setattr(Learner, "reference_errors", counting)
    run(study, tmp_path / "arenapo")
    assert sum(computed) == 16  # four steps of four pairs, all different
    run(study, tmp_path / "dpo", "dpo")
    run(study, tmp_path / "sft", "sft")
    assert sum(computed) == 16
    run(study, tmp_path / "longer", "cdpo", ["train.steps=5"])
    assert sum(computed) == 20
    run(study, tmp_path / "seed", "dpo", ["train.seed=1"])
    assert sum(computed) == 36


def test_a_full_run_with_known_errors_holds_no_frozen_copy(study, tmp_path, monkeypatch):
    held = []
    monkeypatch.setattr(Learner, "tensors", lambda self: held.append(self._frozen) or {})
    overrides = ["train.adaptation=full", "train.steps=1", "training_set.held_out=0.25"]
    run(study, tmp_path / "first", overrides=overrides)  # it computes them
    monkeypatch.setattr("training.loop.validate", lambda *_: {"held_out_loss": 0.0})
    run(study, tmp_path / "second", "dpo", overrides)
    assert held[1] is None


def test_it_learns_and_resumes_to_the_bit(study, tmp_path):
    overrides = ["train.adaptation=full", "train.learning_rate=0.003", "train.steps=20"]
    overrides += ["train.batch_size=8"]
    whole = run(study, tmp_path / "whole", overrides=overrides)
    assert whole["held_out_accuracy"] > 0.8
    run(study, tmp_path / "parts", overrides=[*overrides, "train.steps=7"])
    parts = run(study, tmp_path / "parts", overrides=overrides, resume=True)
    assert parts["data_version"] == whole["data_version"]
    logged = [json.loads(x) for x in (tmp_path / "whole/metrics.jsonl").read_text().splitlines()]
    assert logged[-1]["winner_error"] < logged[-1]["loser_error"]


@pytest.mark.parametrize("draws", [0, 4])
def test_prompts_are_dropped_at_their_share_of_turns_and_never_in_validation(
    draws, study, tmp_path, monkeypatch
):
    """Every pair of every batch has its own prompt's embedding or the empty prompt's."""
    shown = {"step": [], "evaluate": [], "reference_errors": []}
    for name, seen in shown.items():
        whole = getattr(Learner, name)

        def noting(self, *given, whole=whole, seen=seen):
            seen.append(given[-1].texts[0].clone())
            return whole(self, *given)

        monkeypatch.setattr(Learner, name, noting)
    overrides = ["train.drop_prompts=0.25", "train.steps=40", f"train.reference_draws={draws}"]
    # Nothing is learnt, so that known and live errors can be compared.
    overrides += ["train.learning_rate=1e-9", "train.batch_size=8"]
    run(study, tmp_path / "out", overrides=overrides)
    data, config = data_config(read_study(study)), policy_config(study, "arenapo")
    family, kept = open_family(config.base), (torch.float32, ALONE.device, print)
    empty = cache.prompt_embeddings(family, [""], data.cache, *kept)[0].take(np.zeros(1, int))[0]

    def share(batches):
        texts = torch.cat(batches)
        return (texts == empty).flatten(1).all(1).float().mean().item()

    assert share(shown["step"]) == pytest.approx(0.25, abs=0.08)
    assert share(shown["evaluate"]) == 0
    if draws:
        assert share(shown["reference_errors"]) == pytest.approx(0.25, abs=0.08)
        lines = (tmp_path / "out/metrics.jsonl").read_text().splitlines()
        # The reference was shown the same prompts as the policy, or these would differ.
        assert max(abs(json.loads(line)["winner_error"]) for line in lines) < 1e-5


@pytest.mark.parametrize("mirror", ["true", "false"])
def test_mirrored_turns_are_the_same_live_and_known(mirror, study, tmp_path):
    """Two epochs of nine steps: the second shows every pair mirrored, where that is asked for."""
    overrides = [f"train.mirror={mirror}", "train.steps=18", "train.learning_rate=1e-9"]
    run(study, tmp_path / "known", overrides=[*overrides, "train.ema_decay=0.5"])
    logged = [json.loads(x) for x in (tmp_path / "known/metrics.jsonl").read_text().splitlines()]
    # The policy is the reference still, so its errors differ from the known ones by rounding alone,
    # unless one was shown mirrored and the other not.
    assert max(abs(line["winner_error"]) for line in logged) < 1e-5
    assert len(logged) == 18
