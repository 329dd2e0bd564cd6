"""What the loaders ask for is what the published checkpoints hold, name by name, at full size."""

from math import prod

import pytest
import torch

from evaluation import devices
from evaluation.scorers.hps import config_of, to_transformers
from evaluation.scorers.hps_v3 import split_state
from evaluation.scorers.imagereward import ImageReward
from examples.rehearsal import checkpoints as published


def state(table: str) -> dict[str, torch.Tensor]:
    shapes = published.tensors(table)
    return {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}


@pytest.mark.parametrize(
    ("table", "billions", "said"),  # said: half of the last figure
    [
        # open_clip's docs/model_profile.csv: 986.11 M in ViT-H-14.
        (published.HPS, 0.98611, 5e-6),
        # The hub's ImageReward.pt: 1.79 GB of fp32.
        (published.IMAGEREWARD, 1.79 / 4, 0.00125),
        # Qwen2-VL-7B-Instruct's model.safetensors.index.json: 16,582,751,232 bytes in bf16, less
        # 406 words' rows in and out, more the head.
        (published.HPS_V3, 16_582_751_232 / 2e9 - 2 * 406 * 3584 / 1e9 + 0.0036875, 1e-7),
    ],
    ids=["hps", "imagereward", "hps_v3"],
)
def test_the_tables_have_the_published_number_of_weights(table, billions, said):
    weights = sum(map(prod, published.tensors(table).values()))
    assert weights / 1e9 == pytest.approx(billions, abs=said)


def test_hps_fills_every_weight_of_a_clip_h14_and_leaves_none():
    from transformers import CLIPModel

    mapped = to_transformers(state(published.HPS))
    config = config_of(mapped)
    assert (config.vision_config.num_attention_heads, config.text_config.num_attention_heads) == (
        16, 16,
    )  # fmt: skip
    with torch.device("meta"):
        model = CLIPModel(config)
    assert shapes(model.state_dict()) == shapes(mapped)


def test_imagereward_fills_every_weight_of_blip_large(monkeypatch):
    monkeypatch.setattr(devices, "device", lambda: "meta")
    with torch.device("meta"):
        scorer = ImageReward(state(published.IMAGEREWARD), None)
    assert (scorer.vision.config.num_hidden_layers, scorer.vision.config.image_size) == (24, 224)
    assert (scorer.text.config.num_hidden_layers, scorer.text.config.vocab_size) == (12, 30524)


def test_hps_v3_fills_every_weight_of_qwen2_vl_7b():
    from transformers import Qwen2VLConfig, Qwen2VLModel

    backbone, head = split_state(state(published.HPS_V3))
    assert set(head) == {f"{i}.{kind}" for i in (0, 3, 5) for kind in ("weight", "bias")}
    # Qwen/Qwen2-VL-7B-Instruct, config.json.
    config = Qwen2VLConfig(
        text_config={
            "vocab_size": len(backbone["language_model.embed_tokens.weight"]),
            "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28,
            "num_attention_heads": 28, "num_key_value_heads": 4,
        },
        vision_config={"depth": 32, "embed_dim": 1280, "hidden_size": 3584, "num_heads": 16},
    )  # fmt: skip
    with torch.device("meta"):
        model = Qwen2VLModel(config)
    assert shapes(model.state_dict()) == shapes(backbone)


def shapes(held: dict[str, torch.Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in held.items()}
