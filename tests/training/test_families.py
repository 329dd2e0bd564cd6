"""Every family, from a tiny pipeline in its real layout to a policy that plain diffusers loads."""

import io
import json
from pathlib import Path

import diffusers
import numpy as np
import pyarrow.parquet as pq
import pytest
import tiny_pipelines
import torch
from safetensors.torch import load_file
from slow_trainer import SlowFlux, SlowSD3, SlowXL, assert_steps_equal

from training.families import ModelError, StableDiffusionXL, open_family
from training.loop import train
from training.pairs import open_pairs
from training.study_file import data_config, policy_config, read_study

CPU = torch.device("cpu")
SAVE = {
    "xl": tiny_pipelines.save_xl,
    "sd3": tiny_pipelines.save_sd3,
    "flux": tiny_pipelines.save_flux,
}
SLOW = {"xl": SlowXL, "sd3": SlowSD3, "flux": SlowFlux}
# What in an untrained model bears on brightness, which is what the toy's votes are about.
TARGETS = {
    "xl": ["conv1", "conv2", "conv_in", "conv_out"],
    "sd3": ["to_v", "to_out.0", "net.2", "proj_out"],
    "flux": ["to_v", "to_out.0", "net.2", "proj_out", "x_embedder"],
}


@pytest.fixture(scope="session")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("families")
    return {name: save(folder / name) for name, save in SAVE.items()}


def run(study, out, overrides=(), policy="arenapo"):
    data = data_config(read_study(study, overrides))
    config = policy_config(study, policy, overrides)
    return train(config, data, open_pairs(data.pairs), out)


def image(pipeline):
    pipeline.set_progress_bar_config(disable=True)
    return pipeline(
        "a bright square 3", num_inference_steps=3, height=32, width=32, output_type="np",
        generator=torch.Generator().manual_seed(0),
    ).images[0]  # fmt: skip


@pytest.mark.parametrize("adaptation", ["lora", "full"])
@pytest.mark.parametrize("name", SAVE)
def test_steps_equal_the_plain_slow_ones(name, adaptation, bases, toy, tmp_path):
    assert_steps_equal(SLOW[name], bases[name], toy, tmp_path, "arenapo", adaptation=adaptation)


@pytest.mark.parametrize("adaptation", ["lora", "full"])
@pytest.mark.parametrize("name", SAVE)
def test_it_learns_the_votes_and_diffusers_draws_with_it(name, adaptation, bases, toy, tmp_path):
    changes = {"adaptation": adaptation, "steps": 25, "batch_size": 8, "learning_rate": 0.005}
    if adaptation == "lora":
        changes |= {"targets": TARGETS[name], "learning_rate": 0.01}
    study = toy.write_study(tmp_path / "study.toml", bases[name], **changes)
    result = run(study, tmp_path / "out")
    assert result["held_out_accuracy"] > 0.8

    kind = getattr(diffusers, open_family(str(bases[name])).pipeline)
    before = image(kind.from_pretrained(bases[name]))
    if adaptation == "full":
        after = image(kind.from_pretrained(tmp_path / "out" / "policy"))
    else:
        pipeline = kind.from_pretrained(bases[name])
        pipeline.load_lora_weights(tmp_path / "out" / "policy")
        after = image(pipeline)
        pipeline.unload_lora_weights()
        np.testing.assert_array_equal(image(pipeline), before)
    assert np.abs(after - before).max() > 1e-3


@pytest.mark.parametrize("name", SAVE)
def test_diffusers_loads_every_addition_and_no_other(name, bases, toy, tmp_path):
    """An addition that is named wrongly is skipped in silence: compare each with the checkpoint."""
    study = toy.write_study(tmp_path / "study.toml", bases[name], learning_rate=0.01)
    run(study, tmp_path / "out")
    state = load_file(tmp_path / "out/checkpoints/step-00000004.safetensors")
    trained = {k.removeprefix("weights."): v for k, v in state.items() if k.startswith("weights.")}
    family = open_family(str(bases[name]))
    pipeline = getattr(diffusers, family.pipeline).from_pretrained(bases[name])
    pipeline.load_lora_weights(tmp_path / "out" / "policy", adapter_name="default")
    parameters = dict(getattr(pipeline, family.trained).named_parameters())
    found = {key: value for key, value in parameters.items() if "lora_" in key}
    assert found.keys() == trained.keys()
    for key, value in trained.items():
        assert torch.equal(found[key], value), key


def test_a_unets_lora_in_kohyas_layout_draws_the_same(bases, toy, tmp_path):
    study = toy.write_study(tmp_path / "study.toml", bases["xl"], learning_rate=0.05)
    run(study, tmp_path / "out")
    images = []
    for folder, file in ((".", "pytorch_lora_weights"), ("kohya", "lora")):
        pipeline = diffusers.StableDiffusionXLPipeline.from_pretrained(bases["xl"])
        policy = tmp_path / "out" / "policy" / folder
        pipeline.load_lora_weights(policy, weight_name=f"{file}.safetensors")
        images.append(image(pipeline))
    np.testing.assert_allclose(images[1], images[0], atol=1e-5)
    from safetensors import safe_open

    with safe_open(tmp_path / "out/policy/kohya/lora.safetensors", "pt") as found:
        keys = set(found.keys())
    layer = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q"
    assert {f"{layer}.lora_down.weight", f"{layer}.lora_up.weight", f"{layer}.alpha"} <= keys


def test_sd3_trains_without_its_t5(toy, tmp_path):
    base = tiny_pipelines.save_sd3(tmp_path / "base", with_t5=False)
    pipeline = diffusers.StableDiffusion3Pipeline.from_pretrained(
        base, text_encoder_3=None, tokenizer_3=None
    )
    with torch.no_grad():
        hidden, _, pooled, _ = pipeline.encode_prompt(
            "a dog", None, None, do_classifier_free_guidance=False
        )
    ours = open_family(str(base)).prompt_encoder(CPU)(["a dog"])
    torch.testing.assert_close(ours, (hidden, pooled), atol=1e-5, rtol=1e-5)
    study = toy.write_study(tmp_path / "study.toml", base, steps=1)
    assert run(study, tmp_path / "out")["steps"] == 1


def test_a_flows_times_are_shifted_logit_normals(bases):
    family = open_family(str(bases["sd3"]))
    times = family.draw_times((20000, 16, 8, 8), torch.Generator().manual_seed(0), CPU)
    assert times.min() > 0
    assert times.max() < 1
    u = times / (3 - 2 * times)  # the shift undone
    normal = torch.logit(u)
    assert normal.mean().abs() < 0.03
    assert normal.std().item() == pytest.approx(1, abs=0.03)
    flux = open_family(str(bases["flux"]))
    assert flux.shift((1, 16, 128, 128)) == pytest.approx(np.exp(1.15))  # 4096 patches


def test_a_resolution_that_is_no_multiple_is_refused(bases):
    with pytest.raises(ModelError, match=r"model.resolution = 36: .* needs a multiple of 8"):
        open_family(str(bases["flux"])).check_resolution(36)
    open_family(str(bases["xl"])).check_resolution(36)


def test_a_flow_model_with_another_scheduler_is_refused(bases, tmp_path):
    import shutil

    shutil.copytree(bases["sd3"], tmp_path / "base")
    path = tmp_path / "base" / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "_class_name": "DDIMScheduler"}))
    with pytest.raises(ModelError, match="samples with DDIMScheduler"):
        open_family(str(tmp_path / "base"))


def test_turns_show_crops_and_xl_is_told_their_corners(bases, toy, tmp_path, monkeypatch):
    """Wide images in two crops, mirrored too: four views, each told to the UNet in its ids."""
    from PIL import Image

    table = pq.read_table(toy.images)
    wide = []
    for content in table["bytes"].to_pylist():
        picture = Image.open(io.BytesIO(content)).resize((64, 32))
        picture.save(file := io.BytesIO(), "png")
        wide.append(file.getvalue())
    pq.write_table(table.set_column(1, "bytes", [wide]), tmp_path / "wide.parquet")
    told = []
    predict = StableDiffusionXL.predict

    def noted(self, denoiser, noisy, times, texts, corners=None):
        def call(noisy, times, hidden, *, added_cond_kwargs, **options):
            told.append(added_cond_kwargs["time_ids"].clone())
            return denoiser(noisy, times, hidden, added_cond_kwargs=added_cond_kwargs, **options)

        return predict(self, call, noisy, times, texts, corners)

    monkeypatch.setattr(StableDiffusionXL, "predict", noted)
    changes = {"crops": 2, "mirror": True, "steps": 28, "batch_size": 6, "reference_draws": 4}
    study = toy.write_study(tmp_path / "study.toml", bases["xl"], **changes)
    run(study, tmp_path / "out", [f"votes.images={tmp_path / 'wide.parquet'}"])
    ids = torch.cat(told)
    assert (ids[:, [0, 1, 4, 5]] == 32).all()
    assert (ids[:, 2] == 0).all()
    assert ids[:, 3].min() >= 0
    assert ids[:, 3].max() <= 32
    assert len(ids[:, 3].unique()) > 8  # the middle one is 16
