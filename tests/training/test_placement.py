"""A second device without a GPU: torch's `meta` device.

A tensor left on the CPU, `.item()` and every other hidden wait for the device raise there. The
denoisers have their published widths and a small depth.
"""

import numpy as np
import pytest
import tiny_pipelines
import torch
from real_sizes import MODELS, save_configurations

from training.config import PolicyConfig
from training.families import Family, Texts, open_family
from training.learner import Batch, Learner
from training.plan import cost_of_an_image, cost_of_encoding, meta_texts
from training.processes import Processes

META = torch.device("meta")
# Its transformer asks its mask for the prompts' lengths at every call, and so waits by itself.
STEPS = sorted(set(MODELS) - {"Lumina2Pipeline"})


def config(**changes):
    keys = {"name": "x", "objective": "arenapo", "base": "", "resolution": 256, **changes}
    return PolicyConfig(**keys)


def a_batch(family, n, reference):
    """A batch of n pairs without values, all of it on the device."""
    one, shape = meta_texts(family, torch.float32), family.latent_shape(256, 256)
    latents = torch.zeros(n, *shape, device=META)
    times = torch.zeros(n, device=META)
    discrete = family.trained == "unet"
    sizes = torch.zeros(n, 2, 6, device=META) if family.told_sizes else None
    return Batch(
        latents, latents, one.repeated(n), times, times, latents,
        times.long() if discrete else times, sizes,
        torch.zeros(n, 2, device=META) if reference else None,
    )  # fmt: skip


@pytest.mark.parametrize("pipeline", STEPS)
def test_a_step_and_a_validation_stay_on_the_device(pipeline, tmp_path, monkeypatch):
    family = open_family(str(save_configurations(pipeline, tmp_path, shallow=True)))
    empty = lambda self, *_: self.empty(self.trained, torch.float32)  # noqa: E731
    monkeypatch.setattr(Family, "denoiser", empty)
    learner = Learner(config(gradient_checkpointing=True), family, Processes(0, 1, META))
    parts = [a_batch(family, 2, reference=False), a_batch(family, 1, reference=True)]
    found = learner.step(0, parts)
    assert found["loss"].shape == (3,)
    assert {value.device for value in found.values()} == {META}
    assert {p.device for p in learner.model.policy.parameters()} == {META}
    assert learner.evaluate(a_batch(family, 2, reference=False))["drift"].device == META
    assert learner.reference_errors(a_batch(family, 2, reference=False)).shape == (2, 2)


@pytest.mark.parametrize("pipeline", MODELS)
def test_images_are_encoded_on_the_device(pipeline, tmp_path):
    """Each VAE at its published size: its normalisation too must be there."""
    family = open_family(str(save_configurations(pipeline, tmp_path)))
    vae = family.empty("vae", torch.float32)
    latents = family.encoded(vae, torch.zeros(1, 3, 256, 256, device=META))
    assert latents.device == META
    assert tuple(latents.shape[1:]) == family.latent_shape(256, 256)


@pytest.mark.parametrize("name", ["xl", "sd3", "flux"])
def test_prompts_are_encoded_on_the_device(name, tmp_path):
    """The others' pipelines and language models ask their masks for numbers by themselves."""
    family = open_family(str(getattr(tiny_pipelines, f"save_{name}")(tmp_path)))
    rows = family.prompt_encoder(META).encode(["a bright square", "b"])
    assert len(rows) == 2
    assert {tensor.device for row in rows for tensor in row} == {META}


@pytest.mark.parametrize("pipeline", ["ZImagePipeline", "SanaPipeline"])
def test_a_family_is_counted_at_its_published_size(pipeline, tmp_path):
    """Weights as the model's card or paper states them."""
    family = open_family(str(save_configurations(pipeline, tmp_path)))
    cost = cost_of_an_image(family, config(precision="bf16", gradient_checkpointing=True))
    assert (cost.weights - cost.trained) / 1e9 == pytest.approx(MODELS[pipeline][-1], rel=0.01)
    assert 4 < cost_of_encoding(family, 256).memory / 2**30 < 10
    assert np.isfinite(cost.kept)


def test_texts_are_repeated_with_their_lengths():
    mask = torch.tensor([[True, True], [True, False]])
    texts = Texts((torch.arange(4.0).view(2, 2, 1),), mask, (2, 1))
    twice = texts.repeated(2)
    assert twice.lengths == (2, 1, 2, 1)
    assert torch.equal(twice.mask, torch.cat([mask, mask]))
