"""A whole run in this process: it learns, stops, resumes to the bit, and diffusers loads it."""

import json
import math
import shutil
import signal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from in_process import lines, run
from safetensors.torch import load_file

from training.checkpoint import CheckpointError
from training.families import ModelError, open_family
from training.loop import Interrupted
from training.optimizer import ExactSums
from training.processes import Processes
from training.watching import Diverged


def image(pipeline, seed=0):
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(seed)
    return pipeline(
        "a bright square 3", num_inference_steps=4, generator=generator, output_type="np"
    ).images[0]


MACHINE = {"pairs_per_second", "seconds_left", "peak_memory_gib"}


FULL = ["train.adaptation=full", "train.learning_rate=0.0015"]
# In an untrained UNet attention says little of brightness; its convolutions do.
CONVOLUTIONS = [
    'train.targets=["conv1", "conv2", "conv_in", "conv_out"]',
    "train.learning_rate=0.01",
]


@pytest.mark.parametrize(("policy", "how"), [("dpo", FULL), ("arenapo", CONVOLUTIONS)])
def test_implicit_accuracy_rises_where_winners_look_different(policy, how, toy, tmp_path):
    overrides = ["train.steps=16", "train.batch_size=8", "train.log_every=4", *how]
    result = run(toy.study, tmp_path, policy, overrides, judges=512)
    logged = lines(tmp_path)
    assert [line["step"] for line in logged] == list(range(4, 17, 4))
    assert logged[-1]["implicit_accuracy"] > 0.85 > logged[0]["implicit_accuracy"]
    assert result["held_out_accuracy"] > 0.85
    assert logged[-1]["loss"] < logged[0]["loss"]
    assert logged[-1]["winner_error"] < logged[-1]["loser_error"]
    assert result["implicit_accuracy"] == logged[-1]["implicit_accuracy"]


def test_sft_lowers_the_error_of_the_winners(toy, tmp_path):
    run(toy.study, tmp_path, "sft", overrides=["train.steps=30", "train.batch_size=8", *FULL])
    logged = lines(tmp_path)
    assert np.mean([line["loss"] for line in logged[-3:]]) < 0.9 * logged[0]["loss"]
    assert set(logged[0]) == {"step", "loss", "grad_norm", "learning_rate", *MACHINE}


def test_diffusers_loads_the_adapter_and_its_images_change(toy, tiny_pipeline, tmp_path):
    from diffusers import StableDiffusionPipeline

    run(toy.study, tmp_path, overrides=["train.learning_rate=0.01"])
    pipeline = StableDiffusionPipeline.from_pretrained(tiny_pipeline)
    before = image(pipeline)
    pipeline.load_lora_weights(tmp_path / "policy")
    assert np.abs(image(pipeline) - before).max() > 1e-3
    pipeline.unload_lora_weights()
    np.testing.assert_array_equal(image(pipeline), before)
    card = json.loads((tmp_path / "policy" / "policy.json").read_text())
    assert (card["name"], card["objective"], card["adaptation"]) == ("arenapo", "arenapo", "lora")


def test_diffusers_loads_the_full_pipeline_and_its_images_change(toy, tiny_pipeline, tmp_path):
    from diffusers import StableDiffusionPipeline

    run(toy.study, tmp_path, overrides=["train.adaptation=full"])
    pipeline = StableDiffusionPipeline.from_pretrained(tmp_path / "policy")
    base = StableDiffusionPipeline.from_pretrained(tiny_pipeline)
    assert np.abs(image(pipeline) - image(base)).max() > 1e-3


@pytest.mark.parametrize("adaptation", ["lora", "full"])
def test_a_stopped_run_resumes_to_the_bit(adaptation, toy, tmp_path):
    overrides = [f"train.adaptation={adaptation}", "train.log_every=1"]
    whole = run(toy.study, tmp_path / "whole", overrides=overrides)

    def stop_at_three(line):
        if line["step"] == 3:
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(Interrupted, match="after step 3"):
        run(toy.study, tmp_path / "parts", overrides=overrides, watch=stop_at_three)
    assert len(list((tmp_path / "parts" / "checkpoints").iterdir())) == 2
    parts = run(toy.study, tmp_path / "parts", overrides=overrides, resume=True)
    assert parts["data_version"] == whole["data_version"]
    timeless = [
        [{k: v for k, v in line.items() if k not in MACHINE} for line in lines(out)]
        for out in (tmp_path / "whole", tmp_path / "parts")
    ]
    assert timeless[0] == timeless[1]


def test_the_seed_fixes_the_weights(toy, tmp_path):
    short = ["train.steps=2"]
    first = run(toy.study, tmp_path / "a", overrides=short)
    again = run(toy.study, tmp_path / "b", overrides=short)
    assert again["data_version"] == first["data_version"]
    other = run(toy.study, tmp_path / "c", overrides=[*short, "train.seed=1"])
    assert other["data_version"] != first["data_version"]


def test_a_folder_that_holds_a_run_is_continued_or_given_up_only_when_asked(toy, tmp_path):
    first = run(toy.study, tmp_path)
    with pytest.raises(CheckpointError, match="holds this run of policy 'arenapo' already"):
        run(toy.study, tmp_path)
    steps: list[dict] = []
    assert run(toy.study, tmp_path, resume=True, watch=steps.append) == first
    assert not steps  # a finished run is not trained again

    gamma = ["train.gamma=2.0"]
    with pytest.raises(CheckpointError, match=r"differs in gamma \(0.5 there, 2.0 here\)"):
        run(toy.study, tmp_path, overrides=gamma, resume=True)
    other = tmp_path / "pairs.parquet"
    pq.write_table(pq.read_table(toy.pairs).slice(1), other)
    with pytest.raises(CheckpointError, match="differs in the pairs"):
        run(toy.study, tmp_path, pairs=other, resume=True)

    assert run(toy.study, tmp_path, resume=True, overwrite=True) == first
    (tmp_path / "mine.txt").write_text("not the run's")
    second = run(toy.study, tmp_path, overrides=gamma, resume=True, overwrite=True)
    assert second["data_version"] != first["data_version"]
    assert (tmp_path / "mine.txt").exists()
    assert lines(tmp_path)[0]["step"] == 2


def test_more_steps_continue_a_finished_run(toy, tmp_path):
    run(toy.study, tmp_path / "a", overrides=["train.steps=2"])
    longer = run(toy.study, tmp_path / "a", resume=True)
    assert longer["data_version"] == run(toy.study, tmp_path / "b")["data_version"]
    with pytest.raises(CheckpointError, match=r"is past train.steps = 3"):
        run(toy.study, tmp_path / "a", overrides=["train.steps=3"], resume=True)


def test_a_loss_that_is_no_number_stops_with_its_votes_and_keeps_the_checkpoint(toy, tmp_path):
    table = pq.read_table(toy.pairs)
    row = table["split"].to_pylist().index("train")
    gap = table["gap"].to_numpy().copy()
    gap[row] = 1e300  # the other pairs' share of the mean, and so their margin, becomes nothing
    bad = tmp_path / "pairs.parquet"
    pq.write_table(table.set_column(6, "gap", pa.array(gap)), bad)
    vote = table["vote_id"][row].as_py()
    overrides = ["train.steps=6", "train.gamma=1e38", "train.checkpoint_every=1"]
    with pytest.raises(Diverged, match=rf"step \d+ is not a finite number, for votes .*\b{vote}\b"):
        run(toy.study, tmp_path / "out", pairs=bad, overrides=overrides)
    for path in (tmp_path / "out").glob("checkpoints/*"):
        assert all(value.isfinite().all() for value in load_file(path).values())
    assert not (tmp_path / "out" / "policy").exists()


def test_bf16_trains_close_to_fp32(toy, tmp_path):
    table = pq.read_table(toy.pairs)
    one = tmp_path / "one.parquet"  # a processor without bf16 is very slow at it
    row = table["split"].to_pylist().index("train")
    pq.write_table(table.slice(row, 1), one)
    overrides = ["train.steps=1", "train.batch_size=1", "train.checkpoint_every=1"]
    full = run(toy.study, tmp_path / "a", pairs=one, overrides=overrides)
    overrides.append("train.precision=bf16")
    half = run(toy.study, tmp_path / "b", pairs=one, overrides=overrides)
    assert half["loss"] == pytest.approx(full["loss"], rel=0.05)
    assert half["data_version"] != full["data_version"]


def test_a_model_that_cannot_be_used_is_named(tiny_pipeline, tmp_path):
    with pytest.raises(ModelError, match="there is no folder"):
        open_family(str(tmp_path / "nowhere"))
    with pytest.raises(ModelError, match="is not a diffusers pipeline"):
        open_family(str(tmp_path))
    broken = tmp_path / "broken"
    shutil.copytree(tiny_pipeline, broken)
    index = json.loads((broken / "model_index.json").read_text())
    index["_class_name"] = "PixArtSigmaPipeline"
    (broken / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match="is a PixArtSigmaPipeline; supported: Stable"):
        open_family(str(broken))
    index["_class_name"] = "StableDiffusionPipeline"
    (broken / "model_index.json").write_text(json.dumps(index))
    (broken / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(ModelError, match="unet does not load as UNet2DConditionModel"):
        open_family(str(broken)).denoiser(torch.device("cpu"))


def test_layers_that_are_not_there_are_named(toy, tmp_path):
    with pytest.raises(ModelError, match=r"train.targets: no such layer"):
        run(toy.study, tmp_path, overrides=['train.targets=["to_nowhere"]'])


def test_checkpoints_of_an_unknown_run_are_not_continued(toy, tmp_path):
    run(toy.study, tmp_path, overrides=["train.steps=2"])
    (tmp_path / "run.json").unlink()
    for resume in (False, True):
        with pytest.raises(CheckpointError, match=r"checkpoints, but no .*run.json says whose"):
            run(toy.study, tmp_path, resume=resume)
    (tmp_path / "samples").mkdir()
    (tmp_path / "samples" / "00000002-0.png").write_bytes(b"of the other run")
    assert run(toy.study, tmp_path, overwrite=True)["steps"] == 4
    assert not (tmp_path / "samples").exists()


def test_a_resume_with_another_part_size_elsewhere_gives_the_uninterrupted_run(
    toy, tiny_pipeline, tmp_path
):
    """What leaves the step the same may change: memory, validations, where the base lies."""
    whole = run(toy.study, tmp_path / "whole", overrides=["train.beta_dpo=8.0"])
    run(toy.study, tmp_path / "parts", overrides=["train.beta_dpo=8.0", "train.steps=2"])
    shutil.copytree(tiny_pipeline, tmp_path / "base")
    changes = ["train.pairs_at_once=1", "train.gradient_checkpointing=true", "train.patience=9"]
    changes += ["train.validate_every=1", f"model.base={tmp_path / 'base'}", "train.beta_dpo=8.0"]
    parts = run(toy.study, tmp_path / "parts", overrides=changes, resume=True)
    assert parts["held_out_loss"] == pytest.approx(whole["held_out_loss"], rel=1e-5)
    files = [tmp_path / out / "checkpoints/step-00000004.safetensors" for out in ("whole", "parts")]
    one, two = (load_file(file) for file in files)
    for name in (name for name in one if name.startswith("weights.")):
        torch.testing.assert_close(two[name], one[name], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("adaptation", ["lora", "full"])
def test_exact_sums_give_the_bits_of_the_uninterrupted_run_by_other_parts(
    adaptation, toy, tmp_path
):
    overrides = [f"train.adaptation={adaptation}", "train.exact_sums=true"]
    whole = run(toy.study, tmp_path / "whole", overrides=overrides)
    run(toy.study, tmp_path / "parts", overrides=[*overrides, "train.steps=2"])
    changes = [*overrides, "train.pairs_at_once=1", "train.gradient_checkpointing=true"]
    parts = run(toy.study, tmp_path / "parts", overrides=changes, resume=True)
    assert parts["data_version"] == whole["data_version"]
    plain = run(toy.study, tmp_path / "plain", overrides=overrides[:1])
    assert plain["held_out_loss"] == pytest.approx(whole["held_out_loss"], rel=1e-3)


def test_a_sum_of_gradients_is_exact_in_any_order_and_keeps_what_is_no_number():
    random = np.random.default_rng(0)
    weight = torch.nn.Parameter(torch.zeros(200))
    sums = ExactSums([weight])
    parts = torch.from_numpy(random.normal(size=(64, 200)) * 10.0 ** random.uniform(-6, 3, 200))
    found = []
    for order in (np.arange(64), random.permutation(64)):
        for part in parts[order].float():
            (weight * part).sum().backward()
        sums.into_gradients(Processes(0, 1, torch.device("cpu")))
        found.append(weight.grad.clone())
        weight.grad = None
    assert torch.equal(*found)
    exact = [math.fsum(column) for column in parts.float().double().T.tolist()]
    exact = torch.tensor(exact, dtype=torch.float64)
    torch.testing.assert_close(found[0].double(), exact, rtol=1e-6, atol=1e-12)
    (weight * torch.full((200,), torch.nan)).sum().backward()
    sums.into_gradients(Processes(0, 1, torch.device("cpu")))
    assert weight.grad.isnan().all()


def test_a_ruined_run_ends_with_a_sentence_and_not_with_a_policy(toy, tmp_path):
    """The policy's outputs are further from the reference's than the target varies."""
    overrides = ["train.adaptation=full", "train.learning_rate=0.1", "train.steps=30"]
    with pytest.raises(Diverged, match=r"ruined by step \d+: .* lower train.learning_rate"):
        run(toy.study, tmp_path, overrides=overrides)
    assert not (tmp_path / "result.json").exists()
    known = [*overrides, "train.reference_draws=1"]
    with pytest.raises(Diverged, match=r"ruined|not a finite number"):
        run(toy.study, tmp_path / "known", overrides=known)


def test_policy_and_live_reference_agree_to_the_bit_until_the_first_step_in_bf16(toy, tmp_path):
    """Norms and biases of a frozen copy stay fp32, as autocast leaves them in the policy."""
    overrides = ["train.adaptation=full", "train.precision=bf16", "train.steps=1"]
    overrides += ["train.batch_size=2", "train.log_every=1", "training_set.held_out=0"]
    run(toy.study, tmp_path, overrides=overrides)
    (line,) = lines(tmp_path)
    assert line["inside_p10"] == line["inside_p90"] == line["drift"] == 0
