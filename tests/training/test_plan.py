"""The plan counts what a run will take without weights, data or a GPU."""

import json
import re
from pathlib import Path

import pytest
import torch

from training.families import open_family
from training.plan import CARDS, SHARE, cost_of_an_image, plan
from training.study_file import data_config, policy_config, policy_names, read_study

STUDIES = sorted((Path(__file__).parents[2] / "experiments").glob("*.toml"))


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_every_study_that_ships_is_valid(path):
    from assets.study import read_study as read_whole

    study = read_whole(path)
    assert study.baseline == "base"
    for name in policy_names(path)[1:]:
        assert policy_config(path, name).base == study.base


@pytest.mark.parametrize("adaptation", ["lora", "full"])
def test_what_is_counted_is_what_the_model_has_and_does(adaptation, toy, tiny_pipeline):
    from torch.utils.flop_counter import FlopCounterMode

    config = policy_config(toy.study, "dpo", [f"train.adaptation={adaptation}"])
    family = open_family(str(tiny_pipeline))
    cost = cost_of_an_image(family, config)
    model = family.denoiser(torch.device("cpu"))
    assert cost.weights - (cost.trained if adaptation == "lora" else 0) == sum(
        p.numel() for p in model.parameters()
    )
    if adaptation == "lora":
        family.add_adapter(model, config)
    else:
        model.requires_grad_(True)
    assert cost.trained == sum(p.numel() for p in model.parameters() if p.requires_grad)
    kept, operations = {}, FlopCounterMode(display=False)
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}

    def keep(tensor):
        where = tensor.untyped_storage().data_ptr()
        if where not in weights:
            kept[where] = tensor
        return tensor

    texts = tuple(torch.zeros(1, *shape) for shape in family.text_shapes())
    given = (model, torch.zeros(1, 4, 8, 8), torch.zeros(1), texts)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = family.predict(*given)
    # The counter does not know the processor's fused attention.
    with operations, torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        family.predict(*given)
    size = sum(tensor.numel() * tensor.element_size() for tensor in kept.values())
    assert cost.kept == pytest.approx(size, rel=0.1)
    assert cost.operations == operations.get_total_flops() > 0
    assert output.shape == (1, 4, 8, 8)


def test_a_plan_needs_configurations_alone_and_knows_stable_diffusions_size(toy, tmp_path):
    base = tmp_path / "sd15"
    configs = {
        "model_index.json": {"_class_name": "StableDiffusionPipeline"},
        "scheduler/scheduler_config.json": {"num_train_timesteps": 1000},
        "vae/config.json": {"latent_channels": 4, "block_out_channels": [1, 1, 1, 1]},
        "text_encoder/config.json": {"max_position_embeddings": 77},
        "unet/config.json": {
            "_class_name": "UNet2DConditionModel", "sample_size": 64, "in_channels": 4,
            "out_channels": 4, "cross_attention_dim": 768,
        },
    }  # fmt: skip
    for name, config in configs.items():
        (base / name).parent.mkdir(parents=True, exist_ok=True)
        (base / name).write_text(json.dumps(config))

    def page(**changes):
        keys = {"precision": "bf16", "steps": 100, "batch_size": 64, "accumulation": 8, **changes}
        study = toy.write_study(tmp_path / "study.toml", base, **keys)
        study.write_text(study.read_text().replace("resolution = 32", "resolution = 512"))
        config = policy_config(study, "arenapo")
        return plan(config, data_config(read_study(study)), tmp_path / "out")

    def number(pattern, text):
        return float(re.search(rf"([\d.]+) {pattern}", text).group(1))

    lora, full = page(), page(adaptation="full")
    assert "0.86" in lora.split(" billion")[0]  # as published: 860 million
    assert "frozen reference" not in lora
    assert "frozen reference" in full
    assert "frozen reference" not in page(adaptation="full", reference_draws=4)
    assert "shared out" not in full
    # Eight processes would hold an eighth of: value, gradient, moments and the frozen copy's 2.
    shared = number("GiB  of it is shared out", page(adaptation="full", shard=True))
    assert shared == pytest.approx(0.8595e9 * 18 / 2**30, 0.01)
    # 16 bytes a weight: value, gradient, two moments; and the frozen copy's 2.
    assert number("GiB  gradients and optimiser", full) == pytest.approx(
        0.8595e9 * 12 / 2**30, 0.01
    )
    activations = "GiB  activations, 8 pairs"
    assert number(activations, page(gradient_checkpointing=True)) < number(activations, lora) / 2
    # 804 GFLOP a forward pass at 64 x 64 (0.4 TMAC), six passes a pair.
    hours = number("h   one A100", lora)
    teraflop = number("TFLOP an image forward", lora)
    assert teraflop == pytest.approx(0.80, rel=0.05)
    expected = 6 * teraflop * 64 * 100 / (CARDS["A100"] / 1e12 * SHARE) / 3600
    assert hours == pytest.approx(expected, rel=0.05, abs=0.01)
    assert not (tmp_path / "out").exists()
