"""The reference cache: exact, filled once, shared by the policies of a study."""

import json
import shutil

import in_process
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from training.encoding import Source, embeddings, prompt_name
from training.families import open_family
from training.inputs import Inputs
from training.learner import Learner
from training.model import Model
from training.order import Turns, rows_of_step
from training.pairs import open_pairs
from training.processes import Processes
from training.reference import ReferenceErrors
from training.study_file import data_config, policy_config, read_study
from training.watching import HELD_OUT_DRAWS

ALONE = Processes(0, 1, torch.device("cpu"))
DRAWS = ["train.reference_draws=2"]


def run(study, out, policy="arenapo", overrides=(), **options):
    return in_process.run(study, out, policy, [*DRAWS, *overrides], **options)


@pytest.fixture
def study(toy, tiny_pipeline, tmp_path):
    path = toy.write_study(tmp_path / "study.toml", tiny_pipeline, log_every=1)
    own = (tmp_path / "cache").as_posix()  # not the toy's: what is in it is what is tested
    shared = str(toy.folder / "cache")
    path.write_text(path.read_text().replace(shared, own))
    return path


def everything(pairs):
    """All of a training set's pairs, as what a run shows."""
    return [(each, np.arange(len(each))) for each in (pairs.train, pairs.held_out)]


@pytest.mark.parametrize("adaptation", ["lora", "full"])
def test_known_errors_are_those_of_the_live_reference(adaptation, study, tmp_path):
    overrides = [*DRAWS, f"train.adaptation={adaptation}", "train.beta_dpo=8.0"]
    data, config = data_config(read_study(study)), policy_config(study, "arenapo", overrides)
    pairs, family = open_pairs(data.pairs), open_family(config.base)
    source = Source(family, data.images, data.cache, ALONE, print)
    inputs = Inputs(config, source, pairs.images, pairs.prompts, everything(pairs))
    learner = Learner(config, family, ALONE)
    given = {"draws": 2, "views": 1, "seed": config.seed}
    errors = ReferenceErrors(data.cache, ["x"], pairs.train, inputs, **given)
    rows, draws = np.array([3, 0, 7, 3]), np.array([0, 1, 1, 1])
    turns = Turns.plain(draws)
    errors.compute(learner, rows, turns, print)
    assert learner.model._frozen is None
    for step in range(3):  # the policy moves away, the reference does not
        fixed = inputs.fixed_draws(pairs.train, rows, draws, config.seed)
        ((_, live),) = inputs.parts(pairs.train, rows, fixed, turns)
        known_errors = errors.at(rows, turns)
        ((_, known),) = inputs.parts(pairs.train, rows, fixed, turns, known_errors)
        one, two = learner.evaluate(live), learner.evaluate(known)
        for name in set(two) - {"drift"}:
            torch.testing.assert_close(two[name], one[name], atol=1e-5, rtol=1e-5)
        assert (two["drift"] <= one["drift"] + 1e-6).all()  # of known errors the least it can be
        learner.step(step, [live])
    again = ReferenceErrors(data.cache, ["x"], pairs.train, inputs, **given)
    assert torch.equal(again.at(rows, turns), errors.at(rows, turns))
    assert again.at(np.array([1]), turns.rows(slice(0, 1))).isnan().all()


def test_the_policies_of_a_study_pay_for_the_reference_once(study, tmp_path, monkeypatch):
    computed = []
    reference_errors = Learner.reference_errors

    def counting(self, batch):
        computed.append(len(batch))
        return reference_errors(self, batch)

    monkeypatch.setattr(Learner, "reference_errors", counting)
    held_out = HELD_OUT_DRAWS  # of the one pair that judges
    run(study, tmp_path / "arenapo")
    assert sum(computed) == held_out + 16  # four steps of four pairs, all different
    run(study, tmp_path / "dpo", "dpo")
    run(study, tmp_path / "sft", "sft")
    assert sum(computed) == held_out + 16
    run(study, tmp_path / "longer", "cdpo", ["train.steps=5"])
    assert sum(computed) == held_out + 20
    run(study, tmp_path / "seed", "dpo", ["train.seed=1"])
    assert sum(computed) == held_out + 36


@pytest.mark.parametrize("policy", ["arenapo", "sft"])
def test_a_full_run_with_known_errors_never_holds_a_frozen_copy(
    policy, study, tmp_path, monkeypatch
):
    """Nor does it while it computes them, validates, or is resumed after a change of images."""
    monkeypatch.setattr(Model, "_frozen_copy", lambda self: pytest.fail("a frozen copy was made"))
    overrides = ["train.adaptation=full", "train.validate_every=1", "train.steps=2"]
    first = run(study, tmp_path / "out", policy, overrides)
    assert {"held_out_loss", "held_out_accuracy"} <= first.keys()
    longer = [*overrides, "train.steps=3"]
    assert run(study, tmp_path / "out", policy, longer, resume=True)["steps"] == 3


def test_an_image_that_changed_has_its_errors_computed_again(study, tmp_path, monkeypatch):
    """The others of the study's errors stay: which images each is of is kept beside them."""
    computed = []
    whole = Learner.reference_errors
    monkeypatch.setattr(
        Learner, "reference_errors", lambda self, b: (computed.append(len(b)), whole(self, b))[1]
    )
    run(study, tmp_path / "first", overrides=["training_set.held_out=0"])
    table = pq.read_table(data_config(read_study(study)).images)
    other = tmp_path / "images.parquet"
    contents = table["bytes"].to_pylist()
    pairs = open_pairs(data_config(read_study(study)).pairs)
    shown = rows_of_step(0, 0, 4, len(pairs.train))[0]
    at = table["image"].to_pylist().index(pairs.images[pairs.train.winner[shown]])
    contents[at] = contents[at - 1]
    pq.write_table(table.set_column(1, "bytes", [contents]), other)
    before = sum(computed)
    run(study, tmp_path / "second", overrides=[f"votes.images={other}"])
    assert sum(computed) - before == 1


def test_it_learns_and_resumes_to_the_bit(study, tmp_path):
    overrides = ["train.adaptation=full", "train.learning_rate=0.0015", "train.steps=20"]
    overrides += ["train.batch_size=8"]
    whole = run(study, tmp_path / "whole", overrides=overrides, judges=512)
    assert whole["held_out_accuracy"] > 0.8
    shutil.copytree(tmp_path / "whole", tmp_path / "parts")  # as it was two steps before its end
    (tmp_path / "parts/checkpoints/step-00000020.safetensors").unlink()
    (tmp_path / "parts/result.json").unlink()
    parts = run(study, tmp_path / "parts", overrides=overrides, judges=512, resume=True)
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
            batches = given[-1] if isinstance(given[-1], list) else [given[-1]]
            seen.extend(batch.texts.embeds[0].clone() for batch in batches)
            return whole(self, *given)

        monkeypatch.setattr(Learner, name, noting)
    overrides = ["train.drop_prompts=0.25", "train.steps=20", f"train.reference_draws={draws}"]
    # Nothing is learnt, so that known and live errors can be compared.
    overrides += ["train.learning_rate=1e-9", "train.batch_size=8"]
    run(study, tmp_path / "out", overrides=overrides)
    data, config = data_config(read_study(study)), policy_config(study, "arenapo")
    source = Source(open_family(config.base), data.images, data.cache, ALONE, print)
    (store,) = embeddings(source, [""])
    empty = store[prompt_name("")]

    def share(batches):
        texts = torch.cat(batches)
        return (texts == empty).flatten(1).all(1).float().mean().item()

    assert share(shown["step"]) == pytest.approx(0.25, abs=0.08)
    assert share(shown["evaluate"]) == 0
    if draws:
        asked = torch.cat(shown["reference_errors"])[:-HELD_OUT_DRAWS]  # these are all prompted
        assert 0.2 < share([asked]) < 0.5  # of the states met, not of the turns
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
