"""ImageReward equals the authors' formula, written plainly, on a tiny random checkpoint."""

import math

import numpy as np
import pytest
import torch
from by_name import load_scorer
from PIL import Image
from torch.nn import functional as F

from evaluation.errors import EvaluationError, MissingWeights
from examples.rehearsal.scorers import imagereward_state

VISION, TEXT, PATCH, SIDE, LAYERS = 128, 64, 8, 32, 2
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "bold", "thin", "seven", "left"]


def random_state() -> dict[str, torch.Tensor]:
    """A checkpoint with ImageReward's own keys, small."""
    torch.manual_seed(0)
    return imagereward_state(len(WORDS))


def attend(q, k, v, heads: int):
    """Multi-head attention of (n, width) states of one example."""
    split = [x.reshape(len(x), heads, -1).transpose(0, 1) for x in (q, k, v)]
    weights = (split[0] @ split[1].transpose(1, 2) / math.sqrt(split[0].shape[-1])).softmax(-1)
    return (weights @ split[2]).transpose(0, 1).reshape(len(q), -1)


def plain_reward(state, tokens: list[int], image: Image.Image) -> float:
    """One image and one prompt, in double precision, step by step."""
    p = {key: value.double() for key, value in state.items() if "position_ids" not in key}

    def linear(name, x):
        return x @ p[f"{name}.weight"].T + p[f"{name}.bias"]

    def norm(name, x, eps):
        return F.layer_norm(x, x.shape[-1:], p[f"{name}.weight"], p[f"{name}.bias"], eps)

    pixels = torch.tensor(np.asarray(image), dtype=torch.double) / 255
    pixels = pixels - torch.tensor([0.48145466, 0.4578275, 0.40821073])
    pixels = (pixels / torch.tensor([0.26862954, 0.26130258, 0.27577711])).permute(2, 0, 1)
    v = "blip.visual_encoder"
    weight, bias = p[f"{v}.patch_embed.proj.weight"], p[f"{v}.patch_embed.proj.bias"]
    patches = F.conv2d(pixels[None], weight, bias, stride=PATCH).flatten(2)[0].T
    x = torch.cat([p[f"{v}.cls_token"][0], patches]) + p[f"{v}.pos_embed"][0]
    for i in range(LAYERS):
        b = f"{v}.blocks.{i}"
        q, k, w = linear(f"{b}.attn.qkv", norm(f"{b}.norm1", x, 1e-6)).chunk(3, dim=-1)
        x = x + linear(f"{b}.attn.proj", attend(q, k, w, VISION // 64))
        hidden = F.gelu(linear(f"{b}.mlp.fc1", norm(f"{b}.norm2", x, 1e-6)))
        x = x + linear(f"{b}.mlp.fc2", hidden)
    seen = norm(f"{v}.norm", x, 1e-6)

    t = "blip.text_encoder"
    embeddings = p[f"{t}.embeddings.word_embeddings.weight"][tokens]
    positions = p[f"{t}.embeddings.position_embeddings.weight"][: len(tokens)]
    x = norm(f"{t}.embeddings.LayerNorm", embeddings + positions, 1e-12)
    for i in range(LAYERS):
        layer = f"{t}.encoder.layer.{i}"
        for kind, context in (("attention", None), ("crossattention", seen)):
            a = f"{layer}.{kind}"
            source = x if context is None else context
            q, k, w = (
                linear(f"{a}.self.{name}", states)
                for name, states in (("query", x), ("key", source), ("value", source))
            )
            out = linear(f"{a}.output.dense", attend(q, k, w, TEXT // 64))
            x = norm(f"{a}.output.LayerNorm", out + x, 1e-12)
        hidden = F.gelu(linear(f"{layer}.intermediate.dense", x))
        x = norm(f"{layer}.output.LayerNorm", linear(f"{layer}.output.dense", hidden) + x, 1e-12)
    reward = x[0]
    for number in (0, 2, 4, 6, 7):
        reward = linear(f"mlp.layers.{number}", reward)
    return (reward.item() - 0.16717362830052426) / 1.0333394966054072


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("imagereward")
    torch.save(random_state(), path / "ImageReward.pt")
    (path / "vocab.txt").write_text("\n".join(WORDS))
    return path


def test_the_reward_is_the_authors_formula(folder):
    rng = np.random.default_rng(0)
    images = [Image.fromarray(rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)) for _ in "abc"]
    prompts = ["a bold seven", "a thin seven left", "a bold seven"]  # unequal: padding is masked
    tokens = [[2, *(WORDS.index(word) for word in prompt.split()), 3] for prompt in prompts]
    scores = load_scorer(f"imagereward={folder}").score(prompts, images)
    plain = [plain_reward(random_state(), t, i) for t, i in zip(tokens, images, strict=True)]
    np.testing.assert_allclose(scores, plain, atol=1e-5)
    assert np.ptp(scores) > 1e-3


def test_a_wrong_or_missing_checkpoint_is_named(folder, tmp_path):
    with pytest.raises(MissingWeights, match=r"imagereward: .* holds no ImageReward\.pt"):
        load_scorer(f"imagereward={tmp_path}")
    state = random_state()
    del state["blip.visual_encoder.norm.bias"]
    torch.save(state, tmp_path / "ImageReward.pt")
    (tmp_path / "vocab.txt").write_text("\n".join(WORDS))
    with pytest.raises(EvaluationError, match="not ImageReward's checkpoint"):
        load_scorer(f"imagereward={tmp_path}")
    (tmp_path / "ImageReward.pt").write_bytes(b"garbage")
    with pytest.raises(EvaluationError, match="not a checkpoint of tensors"):
        load_scorer(f"imagereward={tmp_path}")
