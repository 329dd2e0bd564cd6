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
from in_process import run
from slow_trainer import (
    SlowChroma,
    SlowFlux,
    SlowFlux2,
    SlowKlein,
    SlowLumina,
    SlowQwen,
    SlowSana,
    SlowSD3,
    SlowXL,
    SlowZImage,
    assert_steps_equal,
)

from training.config import PolicyConfig
from training.families import ModelError, StableDiffusionXL, Texts, open_family
from training.families.adapter import ADAPTER_FILE, fuse_adapter, refuse_missing
from training.learner import Learner
from training.model import Model
from training.processes import Processes

CPU, ALL = torch.device("cpu"), 512
SLOW = {
    "xl": SlowXL, "sd3": SlowSD3, "flux": SlowFlux, "chroma": SlowChroma, "flux2": SlowFlux2,
    "klein": SlowKlein, "qwen": SlowQwen, "zimage": SlowZImage, "sana": SlowSana,
    "lumina": SlowLumina,
}  # fmt: skip
# What in an untrained model bears on brightness, which is what the toy's votes are about.
TARGETS = {
    "xl": ["conv1", "conv2", "conv_in", "conv_out"],
    "sd3": ["to_v", "to_out.0", "net.2", "proj_out"],
    "flux": ["to_v", "to_out.0", "net.2", "proj_out", "x_embedder"],
    "chroma": ["to_v", "to_out.0", "net.2", "proj_out", "x_embedder"],
    "flux2": ["to_v", "to_out.0", "linear_out", "proj_out", "x_embedder"],
    "klein": ["to_v", "to_out.0", "linear_out", "proj_out", "x_embedder"],
    "qwen": ["to_v", "to_out.0", "net.2", "proj_out", "img_in"],
    "zimage": ["to_v", "to_out.0", "w2"],
    "sana": ["to_v", "to_out.0", "proj_out"],
    "lumina": ["to_v", "to_out.0", "linear_2"],
}


@pytest.fixture(scope="session")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("families")
    return {name: getattr(tiny_pipelines, f"save_{name}")(folder / name) for name in SLOW}


def image(pipeline):
    pipeline.set_progress_bar_config(disable=True)
    return pipeline(
        prompt="a bright square 3", num_inference_steps=2, height=32, width=32, output_type="np",
        generator=torch.Generator().manual_seed(0),
    ).images[0]  # fmt: skip


# In full, one family of each forward process and encoder; the others run with --long.
CASES = [
    *((name, "lora") for name in SLOW),
    *(
        pytest.param(name, "full", marks=() if name in ("xl", "sd3", "flux") else pytest.mark.long)
        for name in SLOW
    ),
]


@pytest.mark.parametrize(("name", "adaptation"), CASES)
def test_steps_equal_the_plain_slow_ones(name, adaptation, bases, toy, tmp_path):
    assert_steps_equal(SLOW[name], bases[name], toy, tmp_path, "arenapo", adaptation=adaptation)


@pytest.mark.parametrize(("name", "adaptation"), CASES)
def test_it_learns_the_votes_and_diffusers_draws_with_it(name, adaptation, bases, toy, tmp_path):
    changes = {"adaptation": adaptation, "steps": 16, "batch_size": 8, "learning_rate": 0.0006}
    if adaptation == "lora":
        changes |= {"targets": TARGETS[name], "learning_rate": 0.003}
    study = toy.write_study(tmp_path / "study.toml", bases[name], **changes)
    result = run(study, tmp_path / "out", judges=ALL)
    assert result["held_out_accuracy"] > 0.8

    kind = getattr(diffusers, open_family(str(bases[name])).pipeline)
    pipeline = kind.from_pretrained(bases[name])
    before = image(pipeline)
    if adaptation == "full":
        after = image(kind.from_pretrained(tmp_path / "out" / "policy"))
    else:
        pipeline.load_lora_weights(tmp_path / "out" / "policy")
        after = image(pipeline)
        pipeline.unload_lora_weights()
        np.testing.assert_array_equal(image(pipeline), before)
    assert np.abs(after - before).max() > 1e-3


WIDE = {  # attention, feed-forward, input projections, convolutions, times: what the family has
    "xl": ["to_q", "to_k", "to_v", "to_out.0", "net.0.proj", "net.2", "proj_in", "proj_out",
           "conv1", "conv2", "conv_shortcut", "time_emb_proj", "linear_1"],
    "sd3": ["to_q", "to_v", "add_k_proj", "net.0.proj", "net.2", "linear", "proj"],
    "flux": ["to_q", "add_k_proj", "net.2", "proj_mlp", "proj_out", "linear_1", "x_embedder"],
    "chroma": ["to_q", "add_k_proj", "net.2", "proj_mlp", "proj_out", "x_embedder"],
    "flux2": ["to_q", "add_k_proj", "to_qkv_mlp_proj", "linear_in", "linear_out", "x_embedder"],
    "klein": ["to_q", "add_k_proj", "to_qkv_mlp_proj", "linear_in", "linear_out", "x_embedder"],
    "qwen": ["to_q", "add_k_proj", "net.2", "img_in", "txt_in", "linear_1", "img_mod.1"],
    "zimage": ["to_q", "to_out.0", "w1", "w2", "w3", "adaLN_modulation.1"],
    "sana": ["to_q", "to_out.0", "linear_1", "conv_inverted", "conv_point", "proj_out"],
    "lumina": ["to_q", "to_out.0", "linear_1", "linear_2", "x_embedder"],
}  # fmt: skip


def trained_and_saved(base, folder, **changes):
    """A policy whose additions are all some numbers, saved; returns it and its family."""
    keys = {"name": "x", "objective": "dpo", "base": str(base), "rank": 3, **changes}
    family = open_family(str(base))
    model = Model(PolicyConfig(**keys), family, Processes(0, 1, CPU))
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.trained.values():
            parameter += 0.1 * torch.randn(parameter.shape, generator=random)
    folder.mkdir(parents=True, exist_ok=True)
    model.save(folder / "policy", {})
    return model, family


def output(family, denoiser):
    """What a denoiser of a family gives for some input."""
    random = torch.Generator().manual_seed(1)
    noisy = torch.randn(2, *family.latent_shape(32, 32), generator=random)
    shapes = family.text_shapes()
    texts = Texts(tuple(torch.randn(2, *shape, generator=random) for shape in shapes))
    if family.ragged:
        lengths = (shapes[0][0], 5)
        mask = torch.arange(shapes[0][0])[None] < torch.tensor(lengths)[:, None]
        texts = Texts(texts.embeds, mask, lengths)
    with torch.no_grad():
        return family.predict(denoiser, noisy, torch.tensor([0.3, 0.7]), texts)


@pytest.mark.parametrize("name", SLOW)
def test_what_diffusers_loads_is_what_was_trained(name, bases, tmp_path):
    """Additions on layers of every kind: none is skipped, and each has its scale."""
    changes = {"targets": tuple(WIDE[name]), "lora_alpha": 7.0}
    model, family = trained_and_saved(bases[name], tmp_path, **changes)
    pipeline = getattr(diffusers, family.pipeline).from_pretrained(bases[name])
    pipeline.load_lora_weights(tmp_path / "policy", adapter_name="default")
    loaded = getattr(pipeline, family.trained)
    found = {key: value for key, value in loaded.named_parameters() if "lora_" in key}
    assert found.keys() == model.trained.keys()
    for key, value in model.trained.items():
        assert torch.equal(found[key], value), key
    for target in WIDE[name]:
        assert any(f".{target}.lora_A" in f".{key}" for key in found), target
    expected = output(family, model.policy)
    torch.testing.assert_close(output(family, loaded), expected, atol=1e-6, rtol=1e-6)
    refuse_missing(loaded, tmp_path / "policy" / ADAPTER_FILE, "default")


def test_dora_is_loaded_with_its_magnitudes(bases, tmp_path):
    model, family = trained_and_saved(bases["flux"], tmp_path, dora=True)
    assert any("magnitude" in name for name in model.trained)
    pipeline = diffusers.FluxPipeline.from_pretrained(bases["flux"])
    pipeline.load_lora_weights(tmp_path / "policy")
    found, expected = output(family, pipeline.transformer), output(family, model.policy)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("layout", ["policy", "policy/kohya/lora.safetensors"])
def test_a_run_starts_from_an_earlier_lora(layout, bases, tmp_path):
    """In diffusers' layout or kohya's: fused into the policy, so into its reference too."""
    # Of kohya's layout diffusers reads no layer of add_embedding; refuse_missing would say so.
    changes = {"targets": tuple(t for t in WIDE["xl"] if t != "linear_1"), "lora_alpha": 6.0}
    model, family = trained_and_saved(bases["xl"], tmp_path, **changes)
    keys = {"name": "y", "objective": "dpo", "base": str(bases["xl"]), "rank": 2}
    again = Model(PolicyConfig(adapter=str(tmp_path / layout), **keys), family, model.processes)
    expected = output(family, model.policy)
    with again.as_reference() as reference:
        torch.testing.assert_close(output(family, reference), expected, atol=2e-5, rtol=1e-4)
    assert all(2 in parameter.shape for parameter in again.trained.values())


def test_a_lora_of_another_model_is_refused(bases, tmp_path):
    trained_and_saved(bases["xl"], tmp_path, targets=("to_q",))
    other = tiny_pipelines.save_sd3(tmp_path / "sd3")
    family = open_family(str(other))
    with pytest.raises(ModelError, match=r"layers 0 were placed|is no LoRA for StableDiffusion3"):
        fuse_adapter(family, family.denoiser(CPU), str(tmp_path / "policy"))
    with pytest.raises(ModelError, match=r"model.adapter: there is no file or folder"):
        fuse_adapter(family, family.denoiser(CPU), str(tmp_path / "nowhere"))


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
    (ours,) = open_family(str(base)).prompt_encoder(CPU).encode(["a dog"])
    torch.testing.assert_close(ours, (hidden[0], pooled[0]), atol=1e-5, rtol=1e-5)
    study = toy.write_study(tmp_path / "study.toml", base, steps=1)
    assert run(study, tmp_path / "out")["steps"] == 1


def test_a_flows_times_are_shifted_logit_normals(bases):
    family = open_family(str(bases["sd3"]))
    times = family.process.draw([16] * 20000, torch.Generator().manual_seed(0), CPU)
    assert times.min() > 0
    assert times.max() < 1
    u = times / (3 - 2 * times)  # the shift undone
    normal = torch.logit(u)
    assert normal.mean().abs() < 0.03
    assert normal.std().item() == pytest.approx(1, abs=0.03)
    flux = open_family(str(bases["flux"]))
    assert flux.process.shift(4096) == pytest.approx(np.exp(1.15))
    sana = open_family(str(bases["sana"]))
    assert sana.process.shift(1024) == 3.0  # DPMSolver's flow_shift
    flux2 = open_family(str(bases["flux2"]))
    assert np.log(flux2.process.shift(4096)) == pytest.approx(1.97, abs=0.1)  # of 50 steps


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


@pytest.mark.parametrize("kind", ["EDMEulerScheduler", "FlowMatchEulerDiscreteScheduler"])
def test_a_unet_whose_scheduler_states_no_betas_is_refused(kind, bases, tmp_path):
    import shutil

    shutil.copytree(bases["xl"], tmp_path / "base")
    path = tmp_path / "base" / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps({"_class_name": kind, "num_train_timesteps": 1000}))
    with pytest.raises(ModelError, match=f"samples with {kind}, which states no schedule of betas"):
        open_family(str(tmp_path / "base"))


def test_a_schedule_rescaled_to_zero_signal_is_trained_so(tiny_velocity_pipeline, tmp_path):
    """rescale_betas_zero_snr: at the last step nothing is left of the image (2305.08891)."""
    import shutil

    shutil.copytree(tiny_velocity_pipeline, tmp_path / "base")
    path = tmp_path / "base" / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "rescale_betas_zero_snr": True}))
    last, noise = torch.tensor([999]), torch.randn(1, 4, 8, 8)
    for folder, left in ((tmp_path / "base", 0.0), (tiny_velocity_pipeline, 0.068)):
        process = open_family(str(folder)).process
        noisy = process.noisy(torch.ones_like(noise), noise, last)
        signal = (noisy - process.noisy(torch.zeros_like(noise), noise, last)).mean().item()
        assert signal == pytest.approx(left, abs=1e-3)


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

    def noted(self, denoiser, noisy, times, texts):
        told.append(texts.sizes.clone())
        return predict(self, denoiser, noisy, times, texts)

    monkeypatch.setattr(StableDiffusionXL, "predict", noted)
    changes = {"crops": 2, "mirror": True, "steps": 28, "batch_size": 6, "reference_draws": 4}
    study = toy.write_study(tmp_path / "study.toml", bases["xl"], **changes)
    said: list[str] = []
    run(
        study,
        tmp_path / "out",
        overrides=[f"votes.images={tmp_path / 'wide.parquet'}"],
        say=said.append,
    )
    assert any("squares: 50% of their area is cut off" in text for text in said)
    ids = torch.cat(told)
    assert (ids[:, [0, 4, 5]] == 32).all()
    assert (ids[:, 1] == 64).all()  # the original's width
    assert (ids[:, 2] == 0).all()
    assert ids[:, 3].min() >= 0
    assert ids[:, 3].max() <= 32
    assert len(ids[:, 3].unique()) > 8  # the middle one is 16


@pytest.mark.parametrize("name", ["xl", "flux", "qwen"])
def test_buckets_keep_shapes_and_their_pairs_apart(name, bases, toy, tmp_path, monkeypatch):
    """Half of the images wide, half tall: each part of a batch has one shape."""
    from PIL import Image

    table = pq.read_table(toy.images)
    contents = []
    for image, content in zip(*(table[key].to_pylist() for key in ("image", "bytes")), strict=True):
        wide = int(image[1:]) % 2 == 0
        picture = Image.open(io.BytesIO(content)).resize((128, 64) if wide else (64, 128))
        picture.save(file := io.BytesIO(), "png")
        contents.append(file.getvalue())
    pq.write_table(table.set_column(1, "bytes", [contents]), tmp_path / "mixed.parquet")
    seen = []
    measure = Learner._measure

    def noted(self, batch, **options):
        seen.append((tuple(batch.winner.shape), len(batch), batch.sizes))
        return measure(self, batch, **options)

    monkeypatch.setattr(Learner, "_measure", noted)
    study = toy.write_study(tmp_path / "study.toml", bases[name], pairs_at_once=3, batch_size=8)
    bucketed = study.read_text().replace("resolution = 32", "resolution = 64\nbuckets = true")
    study.write_text(bucketed)
    result = run(study, tmp_path / "out", overrides=[f"votes.images={tmp_path / 'mixed.parquet'}"])
    assert result["steps"] == 4
    family = open_family(str(bases[name]))
    ratios = {shape[3] / shape[2] for shape, _, _ in seen}
    assert len(ratios) == 2
    assert min(ratios) == pytest.approx(0.5, rel=0.1)
    assert max(ratios) == pytest.approx(2.0, rel=0.1)
    assert max(n for _, n, _ in seen) <= 3
    if family.told_sizes:
        told = torch.cat([sizes.flatten(0, 1) for _, _, sizes in seen])
        assert set(map(tuple, told[:, :2].tolist())) == {(64, 128), (128, 64)}
