"""What only a GPU shows; skipped without one: `pytest -n 0 tests/training/test_gpu.py`.

Its authors had no GPU: none of these tests has ever run. Throughput and model FLOP utilisation are
`python benchmarks/training.py --width 1 --resolution 512`.
"""

import json

import pytest
import tiny_pipelines
import torch
from in_process import lines, run

from training import TrainingError
from training.families import open_family

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@pytest.mark.parametrize("adaptation", ["lora", "full"])
@pytest.mark.parametrize("name", ["xl", "sd3", "flux", "qwen", "zimage", "sana"])
def test_a_bf16_step_starts_where_its_reference_is(name, adaptation, toy, tmp_path):
    base = getattr(tiny_pipelines, f"save_{name}")(tmp_path / "base")
    options = {"precision": "bf16", "adaptation": adaptation, "log_every": 1, "sample_every": 2}
    study = toy.write_study(tmp_path / "study.toml", base, steps=2, **options)
    result = run(study, tmp_path / "out", overrides=[f"cache.root={tmp_path / 'cache'}"])
    assert lines(tmp_path / "out")[0]["inside_p90"] == 0
    assert result["peak_memory_gib"] < 4
    assert list((tmp_path / "out" / "samples").iterdir())


def test_a_sample_is_drawn_beside_a_safety_checker(toy, tiny_pipeline, tmp_path):
    """As in Stable Diffusion 1.5's folder; it must not decide where the pipeline computes."""
    base = tiny_pipelines.with_safety_checker(tiny_pipeline, tmp_path / "base")
    study = toy.write_study(tmp_path / "study.toml", base, sample_every=2, precision="bf16")
    said: list[str] = []
    run(study, tmp_path / "out", say=said.append)
    assert not [text for text in said if "no samples" in text]
    assert list((tmp_path / "out" / "samples").iterdir())


def test_offloaded_encoders_give_the_same_embeddings(tmp_path):
    family = open_family(str(tiny_pipelines.save_sd3(tmp_path / "base")))
    whole, layers = (
        family.prompt_encoder(torch.device("cuda"), offload=offload).encode(["a bright square"])
        for offload in (False, True)
    )
    torch.testing.assert_close(layers, whole, atol=1e-3, rtol=1e-3)


def test_an_attention_backend_gives_the_same_step(toy, tmp_path):
    base = tiny_pipelines.save_flux(tmp_path / "base")
    options = {"precision": "bf16", "steps": 1, "log_every": 1, "beta_dpo": 8.0}
    study = toy.write_study(tmp_path / "study.toml", base, **options)
    for backend in ("native", "_native_efficient"):
        run(study, tmp_path / backend, overrides=[f"train.attention={backend}"])
    one, two = (lines(tmp_path / backend)[0] for backend in ("native", "_native_efficient"))
    assert two["grad_norm"] == pytest.approx(one["grad_norm"], rel=0.05)


def test_the_8_bit_optimiser_takes_steps_and_resumes_to_the_bit(toy, tmp_path):
    pytest.importorskip("bitsandbytes")
    overrides = ["train.optimizer=adamw_8bit", "train.adaptation=full"]
    whole = run(toy.study, tmp_path / "whole", overrides=overrides)
    run(toy.study, tmp_path / "parts", overrides=[*overrides, "train.steps=2"])
    parts = run(toy.study, tmp_path / "parts", overrides=overrides, resume=True)
    assert parts["held_out_loss"] == pytest.approx(whole["held_out_loss"], rel=1e-4)


def test_a_base_in_4_bits_trains(toy, tmp_path):
    pytest.importorskip("bitsandbytes")
    base = tiny_pipelines.save_flux(tmp_path / "base")
    options = {"quantization": "nf4", "precision": "bf16"}
    study = toy.write_study(tmp_path / "study.toml", base, **options)
    assert run(study, tmp_path / "out")["steps"] == 4


def test_compiled_steps_are_the_uncompiled_ones(toy, tmp_path):
    base = tiny_pipelines.save_flux(tmp_path / "base")
    study = toy.write_study(tmp_path / "study.toml", base, steps=2, log_every=1, beta_dpo=8.0)
    for on in ("false", "true"):
        run(study, tmp_path / on, overrides=[f"train.compile={on}"])
    for plain, compiled in zip(lines(tmp_path / "false"), lines(tmp_path / "true"), strict=True):
        assert compiled["loss"] == pytest.approx(plain["loss"], rel=1e-4)
        assert compiled["grad_norm"] == pytest.approx(plain["grad_norm"], rel=1e-2)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_two_gpus_share_the_weights_of_one(toy, tiny_pipeline, tmp_path, train_in_two):
    options = {"adaptation": "full", "shard": True, "beta_dpo": 8.0, "learning_rate": 1e-4}
    study = toy.write_study(tmp_path / "study.toml", tiny_pipeline, **options)
    one = run(study, tmp_path / "one")
    assert "2 x cuda" in train_in_two(study, tmp_path / "two")
    two = json.loads((tmp_path / "two" / "result.json").read_text())
    assert two["held_out_loss"] == pytest.approx(one["held_out_loss"], rel=1e-3)


def test_a_full_gpu_says_what_to_change(toy, tmp_path):
    """Eight megabytes for this process: the toy's model fits, 36 of its pairs do not."""
    whole = torch.cuda.get_device_properties(0).total_memory
    overrides = ["train.batch_size=36", "train.pairs_at_once=36", "train.adaptation=full"]
    try:
        torch.cuda.empty_cache()
        torch.cuda.set_per_process_memory_fraction(2**23 / whole)
        with pytest.raises(TrainingError, match="out of GPU memory while"):
            run(toy.study, tmp_path, overrides=overrides)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
