"""The plan counts what a run will take without weights, data or a GPU."""

import json
import re
from pathlib import Path

import pytest
import torch
from real_sizes import save_configurations

from training import TrainingError
from training.families import Texts, open_family
from training.families.adapter import add_adapter
from training.plan import CARDS, SHARE, Cost, cost_of_an_image, plan
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
        add_adapter(family, model, config)
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

    texts = Texts(tuple(torch.zeros(1, *shape) for shape in family.text_shapes()))
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


def test_a_plan_needs_configurations_alone_and_knows_stable_diffusions_size(
    toy, tmp_path, monkeypatch
):
    base = tmp_path / "sd15"
    configs = {
        "model_index.json": {
            "_class_name": "StableDiffusionPipeline", "unet": ["diffusers", "UNet2DConditionModel"],
            "vae": ["diffusers", "AutoencoderKL"],
            "text_encoder": ["transformers", "CLIPTextModel"],
        },
        "scheduler/scheduler_config.json": {"beta_schedule": "linear"},
        "vae/config.json": {
            "latent_channels": 4, "block_out_channels": [128, 256, 512, 512],
            "down_block_types": ["DownEncoderBlock2D"] * 4, "layers_per_block": 2,
            "up_block_types": ["UpDecoderBlock2D"] * 4,
        },
        "text_encoder/config.json": {
            "model_type": "clip_text_model", "max_position_embeddings": 77, "hidden_size": 768,
            "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12,
        },
        "unet/config.json": {
            "_class_name": "UNet2DConditionModel", "sample_size": 64, "in_channels": 4,
            "out_channels": 4, "cross_attention_dim": 768,
        },
    }  # fmt: skip
    for name, config in configs.items():
        (base / name).parent.mkdir(parents=True, exist_ok=True)
        (base / name).write_text(json.dumps(config))

    # An image's cost depends on no number of processes: it is counted once for each adaptation.
    costs = {}

    def counted(family, config):
        key = (config.adaptation, config.gradient_checkpointing)
        if key not in costs:
            costs[key] = cost_of_an_image(family, config)
        return costs[key]

    monkeypatch.setattr("training.plan.cost_of_an_image", counted)

    def page(processes=1, **changes):
        keys = {"precision": "bf16", "steps": 100, "batch_size": 64, "pairs_at_once": 8, **changes}
        study = toy.write_study(tmp_path / "study.toml", base, **keys)
        study.write_text(study.read_text().replace("resolution = 32", "resolution = 512"))
        config = policy_config(study, "arenapo")
        return plan(config, data_config(read_study(study)), tmp_path / "out", processes)

    def number(pattern, text):
        return float(re.search(rf"([\d.]+) {pattern}", text).group(1))

    lora, full = page(), page(adaptation="full")
    assert "0.86" in lora.split(" billion")[0]  # as published: 860 million
    size = 0.8595e9 / 2**30
    assert "GiB  reference" not in lora
    assert number("GiB  reference", full) == pytest.approx(2 * size, 0.01)
    assert "GiB  reference" not in page(adaptation="full", reference_draws=4)
    assert number("GiB  autocast's copies", full) == pytest.approx(2 * size, 0.01)
    assert "gradients on their way" not in full
    eight = page(8, adaptation="full")
    assert number("GiB  gradients on their way", eight) == pytest.approx(4 * size, 0.01)
    assert "8 processes of 8 pairs a step, 8 at once" in eight
    shared = page(8, adaptation="full", shard=True)  # each holds an eighth of all of it
    for name in ("weights", "gradients and optimiser", "reference", "autocast's copies"):
        whole = number(f"GiB  {name}", eight)
        assert number(f"GiB  {name}", shared) == pytest.approx(whole / 8, abs=0.01)
    # The VAE's encoder has 34 million weights, CLIP's text tower 123 million: 4 bytes each.
    assert number("GiB  before that, while encoding", lora) == pytest.approx(0.46, abs=0.02)
    assert "24 GB: yes, 48 GB: yes" in lora
    # 16 bytes a weight: value, gradient, two moments; and the frozen copy's 2.
    assert number("GiB  gradients and optimiser", full) == pytest.approx(12 * size, 0.01)
    activations = "GiB  activations, 8 pairs"
    assert number(activations, page(gradient_checkpointing=True)) < number(activations, lora) / 2
    # 804 GFLOP a forward pass at 64 x 64 (0.4 TMAC), six passes a pair.
    hours = number("h   1 x A100", lora)
    teraflop = number("TFLOP an image forward", lora)
    assert teraflop == pytest.approx(0.80, rel=0.05)
    expected = 6 * teraflop * 64 * 100 / (CARDS["A100"] / 1e12 * SHARE) / 3600
    share = float(re.search(r"(\d+)%     training", lora).group(1)) / 100
    assert hours * share == pytest.approx(expected, rel=0.05, abs=0.01)
    assert number("h   8 x A100", eight) < hours
    assert not (tmp_path / "out").exists()


BASES = {
    "miniature": "StableDiffusionPipeline",
    "own_votes": "StableDiffusionPipeline",
    "sd15_pickapic": "StableDiffusionPipeline",
    "sdxl_pickapic": "StableDiffusionXLPipeline",
    "sd3_hpdv3": "StableDiffusion3Pipeline",
    "flux_hpdv3": "FluxPipeline",
    "zimage_hpdv3": "ZImagePipeline",
    "qwenimage_hpdv3": "QwenImagePipeline",
}


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_every_study_that_ships_is_planned_for_one_to_eight_gpus(path, tmp_path, monkeypatch):
    """With the configurations of its base; what it costs is of no matter here."""
    base = save_configurations(BASES[path.stem], tmp_path / "base")
    counted = Cost(weights=10**9, trained=10**7, kept=10**9, operations=10**12)
    monkeypatch.setattr("training.plan.cost_of_an_image", lambda *_: counted)
    for processes in (1, 2, 4, 8):
        config = policy_config(path, "arenapo", [f"model.base={base}"])
        page = plan(config, data_config(read_study(path)), tmp_path / "out", processes)
        share = config.batch_size // processes
        at_once = min(share, config.pairs_at_once)
        assert f"{processes} processes of {share} pairs a step, {at_once} at once" in page


def test_a_batch_that_cannot_be_shared_is_refused(toy):
    config = policy_config(toy.study, "dpo", ["train.batch_size=20"])
    with pytest.raises(TrainingError, match=r"cannot be shared by 8 processes: .*4, 5, 10, 20"):
        plan(config, data_config(read_study(toy.study)), toy.folder, 8)
