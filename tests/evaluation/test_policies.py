"""Policies of every form, on tiny pipelines of every family, and the releases by name."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from PIL import Image

from evaluation.__main__ import main
from evaluation.errors import EvaluationError
from evaluation.generate import Artist, Settings, generate, prompt_targets
from evaluation.hub import explained
from evaluation.policies import (
    RELEASES,
    SDXL,
    Policy,
    Release,
    find_policy,
    load_pipeline,
    native_side,
)
from examples.rehearsal.bases import save_flux, save_sd3, save_xl, save_zimage

FAMILIES = {"sdxl": save_xl, "sd3": save_sd3, "flux": save_flux}
ROOT = Path(__file__).parents[2]
PROMPTS = [("p1", "a bold seven"), ("p2", "a thin one")]


def images(policy: Policy, folder: Path, side: int | None = 32, **options) -> np.ndarray:
    settings = Settings(2, 2.0, 0, side)
    generate(Artist(policy, settings, **options), prompt_targets(PROMPTS, 1, 0, folder))
    return np.stack([np.asarray(Image.open(p)).astype(int) for p in sorted(folder.glob("*.png"))])


@pytest.fixture(scope="module", params=FAMILIES)
def family(request, tmp_path_factory) -> Path:
    return FAMILIES[request.param](tmp_path_factory.mktemp(request.param) / "base")


def test_every_family_draws_the_same_whatever_the_batch_size(family, tmp_path):
    policy = find_policy(str(family), None)
    one = images(policy, tmp_path / "one", batch_size=1)
    two = images(policy, tmp_path / "two", batch_size=2)
    assert one.shape == (2, 32, 32, 3)
    assert np.abs(one - two).max() <= 1
    assert np.abs(one[0] - one[1]).max() > 10


def test_every_family_takes_a_lora_and_a_denoiser(family, tmp_path):
    base = images(find_policy(str(family), None), tmp_path / "base")
    pipeline = DiffusionPipeline.from_pretrained(family)
    name = "unet" if hasattr(pipeline, "unet") else "transformer"
    denoiser = getattr(pipeline, name)
    denoiser.add_adapter(LoraConfig(r=2, lora_alpha=2, target_modules=["to_q", "to_v"]))
    for key, parameter in denoiser.named_parameters():
        if "lora_B" in key:
            torch.nn.init.normal_(parameter, std=5)
    layers = {f"{name}_lora_layers": get_peft_model_state_dict(denoiser)}
    type(pipeline).save_lora_weights(tmp_path / "lora", **layers)
    lora = images(find_policy(str(family), str(tmp_path / "lora")), tmp_path / "with_lora")
    assert np.abs(lora - base).max() > 1

    other = DiffusionPipeline.from_pretrained(family)
    with torch.no_grad():
        for parameter in getattr(other, name).parameters():
            parameter.mul_(0.8)
    getattr(other, name).save_pretrained(tmp_path / "denoiser" / name)
    swapped = images(find_policy(str(family), str(tmp_path / "denoiser")), tmp_path / "swapped")
    assert np.abs(swapped - base).max() > 1
    other.save_pretrained(tmp_path / "whole")
    whole = images(find_policy(None, str(tmp_path / "whole")), tmp_path / "from_whole")
    assert np.abs(swapped - whole).max() <= 1


def test_the_native_side_is_the_familys(tmp_path):
    for name, side in {"sdxl": 32, "sd3": 32, "flux": 512}.items():
        pipeline = load_pipeline(Policy(str(FAMILIES[name](tmp_path / name))), "cpu")
        assert native_side(pipeline) == side  # 8 latents of 4 pixels; FLUX's pipeline says 128
    pipeline = DiffusionPipeline.from_pretrained(save_zimage(tmp_path / "zimage"))
    assert native_side(pipeline) == 1024  # diffusers' pipeline_z_image.py: height or 1024


def test_a_release_is_loaded_in_the_form_it_was_published_in(tiny_pipeline, tmp_path, monkeypatch):
    """Local folders in the four layouts stand for the hub's repositories."""
    pipeline = DiffusionPipeline.from_pretrained(tiny_pipeline)
    with torch.no_grad():
        for parameter in pipeline.unet.parameters():
            parameter.mul_(0.8)
    hub = tmp_path / "hub"
    pipeline.save_pretrained(hub / "whole")
    pipeline.unet.save_pretrained(hub / "part" / "unet")
    pipeline.unet.save_pretrained(hub / "root")
    (hub / "state" / "sd1.5").mkdir(parents=True)
    torch.save(pipeline.unet.state_dict(), hub / "state" / "sd1.5" / "unet.pth")
    base = str(tiny_pipeline)
    table = {
        "whole": Release(str(hub / "whole"), base, "pipeline"),
        "part": Release(str(hub / "part"), base, "denoiser", "unet"),
        "root": Release(str(hub / "root"), base, "denoiser"),
        "state": Release(str(hub / "state"), base, "state", "sd1.5/unet.pth"),
    }
    monkeypatch.setattr("evaluation.policies.RELEASES", table)
    drawn = {name: images(find_policy(None, name), tmp_path / name) for name in table}
    for name in table:
        assert np.abs(drawn[name] - drawn["whole"]).max() <= 1, name
    plain = images(find_policy(base, None), tmp_path / "plain")
    assert np.abs(drawn["whole"] - plain).max() > 1


def test_the_table_of_releases_has_every_objective():
    for objective in ("dpo", "kto", "spo", "mapo", "inpo", "smpo", "sdpo"):
        assert any(name.startswith(objective) for name in RELEASES), objective
    assert find_policy(None, "mapo-sdxl") == Policy(SDXL, "mapo-t2i/mapo-beta", "denoiser")
    assert find_policy("mine", "dpo-sdxl").base == "mine"
    for release in RELEASES.values():
        assert release.hub.count("/") == 1


def in_cache(cache: Path, name: str, content: Path) -> None:
    """Put a folder into the hub's cache, as if it had been fetched."""
    repository = cache / f"models--{name.replace('/', '--')}"
    shutil.copytree(content, repository / "snapshots" / "0123")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0123")


@pytest.mark.slow
def test_hub_names_are_drawn_from_what_was_fetched_before(tiny_pipeline, tmp_path):
    pipeline = DiffusionPipeline.from_pretrained(tiny_pipeline)
    pipeline.unet.add_adapter(LoraConfig(r=2, lora_alpha=2, target_modules=["to_q", "to_v"]))
    for key, parameter in pipeline.unet.named_parameters():
        if "lora_B" in key:
            torch.nn.init.normal_(parameter, std=5)
    layers = get_peft_model_state_dict(pipeline.unet)
    type(pipeline).save_lora_weights(tmp_path / "lora", unet_lora_layers=layers)
    in_cache(tmp_path / "cache", "somebody/base", tiny_pipeline)
    in_cache(tmp_path / "cache", "somebody/lora", tmp_path / "lora")
    (tmp_path / "prompts.txt").write_text("a bold seven\n")
    command = [sys.executable, "-m", "evaluation", "generate", "--base", "somebody/base"]
    command += ["--policy", "somebody/lora", "--name", "lora", "--steps", "2"]
    command += ["--prompts", str(tmp_path / "prompts.txt"), "--out", str(tmp_path / "hub")]
    offline = {"HF_HUB_CACHE": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1"}
    subprocess.run(command, check=True, env={**os.environ, **offline}, cwd=ROOT)
    (drawn,) = (tmp_path / "hub" / "images").glob("*.png")
    command[5:8:2] = [str(tiny_pipeline), str(tmp_path / "lora")]
    command[-1] = str(tmp_path / "local")
    assert main(command[3:]) == 0
    local = np.asarray(Image.open(tmp_path / "local" / "images" / drawn.name)).astype(int)
    assert np.abs(np.asarray(Image.open(drawn)).astype(int) - local).max() <= 1


def test_nonsense_is_one_sentence(tmp_path, monkeypatch):
    with pytest.raises(EvaluationError, match=r"dop-sd1\.5: no such folder.*releases: dpo-sd1\.5"):
        find_policy(None, "dop-sd1.5")
    with pytest.raises(EvaluationError, match="give --base"):
        find_policy(None, None)
    (tmp_path / "unet").mkdir()
    (tmp_path / "unet" / "config.json").write_text("{}")
    with pytest.raises(EvaluationError, match="changes a base; give --base as well"):
        find_policy(None, str(tmp_path))
    monkeypatch.setattr("evaluation.hub.out_of_reach", lambda: True)
    with pytest.raises(EvaluationError, match=r"somebody/model: neither .* is not a policy"):
        find_policy(None, "somebody/model")
    with pytest.raises(EvaluationError, match=r"somebody/model: no such folder here, and the hub"):
        load_pipeline(Policy("somebody/model"), "cpu")
    with pytest.raises(EvaluationError, match="cannot be loaded"):
        load_pipeline(Policy(str(tmp_path)), "cpu")


def test_weights_are_read_in_the_precision_that_they_run_in(tiny_pipeline, tmp_path, monkeypatch):
    """On a GPU fp16 for a UNet, bf16 for a transformer; nothing is read in fp32 first."""
    asked = []
    monkeypatch.setattr(
        DiffusionPipeline, "from_pretrained",
        lambda source, **more: asked.append(more["dtype"]) or exit_with(),
    )  # fmt: skip
    flux = save_flux(tmp_path / "flux")
    for source, device in ((tiny_pipeline, "cuda"), (flux, "cuda"), (flux, "cpu")):
        with pytest.raises(EvaluationError, match="cannot be loaded: seen"):
            load_pipeline(Policy(str(source)), device)
    assert asked == [torch.float16, torch.bfloat16, torch.float32]


def exit_with():
    raise ValueError("seen")


def test_what_the_hub_refuses_is_said_with_its_mend(tmp_path):
    import httpx
    from huggingface_hub import errors

    def answer(code: int) -> httpx.Response:
        return httpx.Response(code, request=httpx.Request("GET", "https://huggingface.co/x/y"))

    for error, said in (
        (errors.GatedRepoError("gated", response=answer(403)), "accept its licence"),
        (errors.RepositoryNotFoundError("none", response=answer(404)), "check the spelling"),
        (errors.HfHubHTTPError("429 too many", response=answer(429)), "limits how often"),
    ):
        wrapped = OSError("cannot load")
        wrapped.__cause__ = error
        assert said in explained("x/y", wrapped)
    single = tmp_path / "model.safetensors"
    single.write_bytes(b"")
    assert "from_single_file" in explained(str(single), OSError("no folder"))
    (tmp_path / "half" / "unet").mkdir(parents=True)
    (tmp_path / "half" / "unet" / "diffusion_pytorch_model.fp16.safetensors").write_bytes(b"")
    assert 'variant="fp16"' in explained(str(tmp_path / "half"), OSError("no file named"))
    (tmp_path / "half" / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"")
    assert explained(str(tmp_path / "half"), OSError("something else")) is None


def test_another_policy_or_form_has_another_digest(tiny_pipeline, tmp_path):
    shutil.copytree(tiny_pipeline, tmp_path / "copy")
    base, copy = str(tiny_pipeline), str(tmp_path / "copy")
    assert Policy(base).digest() == Policy(copy).digest()
    others = {
        Policy(base, copy).digest(),
        Policy(base, copy, "denoiser", "unet").digest(),
        Policy(base, "somebody/model").digest(),
        Policy(base).digest(),
    }
    assert len(others) == 4
