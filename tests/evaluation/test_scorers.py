"""Scorers: each equals its formula on a tiny random CLIP, and missing weights are named."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from by_name import load_scorer
from PIL import Image
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

from evaluation.errors import EvaluationError
from evaluation.hub import read_state
from evaluation.scorers.aesthetic import apply_head
from evaluation.scorers.clip_towers import Preparation, cleaned, tokenizer_from_merges
from evaluation.scorers.hps import to_transformers

SHARED = Path(__file__).parents[3] / "shared"
WEIGHTS, GOLDEN = SHARED / "weights", SHARED / "golden"
SIZES = ((1216, 832), (512, 519), (360, 640), (200, 150))
PROMPTS = ["a bold seven", "a thin one leaning left", "a bold seven"]
LETTERS = "abcdefghijklmnopqrstuvwxyz"


@pytest.fixture(scope="module")
def images() -> list[Image.Image]:
    rng = np.random.default_rng(0)
    sizes = [(32, 32), (48, 40), (20, 37)]
    return [
        Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
        for width, height in sizes
    ]


@pytest.fixture(scope="module")
def tokenizer() -> CLIPTokenizer:
    tokens = [*LETTERS, *(f"{letter}</w>" for letter in LETTERS)]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(
        vocab={token: i for i, token in enumerate(tokens)}, merges=[], model_max_length=32
    )


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory, tokenizer) -> Path:
    torch.manual_seed(0)
    shape = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2}
    config = CLIPConfig(
        projection_dim=48,
        text_config={
            **shape,
            "vocab_size": len(tokenizer),
            "num_attention_heads": 1,
            "max_position_embeddings": 32,
            "bos_token_id": len(tokenizer) - 2,
            "eos_token_id": len(tokenizer) - 1,
            "pad_token_id": len(tokenizer) - 1,
            "projection_dim": 48,
            "hidden_act": "gelu",
        },
        vision_config={
            **shape,
            "num_attention_heads": 1,
            "image_size": 32,
            "patch_size": 8,
            "projection_dim": 48,
            "hidden_act": "gelu",
        },
    )
    model = CLIPModel(config)
    model.logit_scale.data.fill_(3.1)
    for parameter in model.parameters():  # so that no embedding is near a constant
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.2)
    folder = tmp_path_factory.mktemp("clip")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def plain_cosines(folder: Path, prompts, images, fit: str) -> np.ndarray:
    """Cosines one image at a time, from CLIPModel's own features."""
    model = CLIPModel.from_pretrained(folder).eval()
    tokenizer = CLIPTokenizer.from_pretrained(folder)
    cosines = []
    for prompt, image in zip(prompts, images, strict=True):
        pixels = Preparation(32, fit=fit)(image)
        tokens = tokenizer([prompt], return_tensors="pt")
        with torch.no_grad():
            out = model(
                input_ids=tokens.input_ids,
                attention_mask=tokens.attention_mask,
                pixel_values=pixels[None],
            )
        text, seen = out.text_embeds[0].numpy(), out.image_embeds[0].numpy()
        cosines.append(text @ seen / np.linalg.norm(text) / np.linalg.norm(seen))
    return np.array(cosines, dtype=np.float64)


def golden_picture(width: int, height: int) -> Image.Image:
    """The integer formula of golden/README.md."""
    x, y = np.arange(width)[None], np.arange(height)[:, None]
    red, green = (7 * x + 3 * y) % 256, (x * x // 97 + 5 * y) % 256
    blue = 255 * ((x // 8 + y // 8) % 2)
    return Image.fromarray(np.stack([red, green, blue], axis=-1).astype(np.uint8))


@pytest.mark.skipif(not GOLDEN.is_dir(), reason="../shared/golden is not here")
@pytest.mark.parametrize(
    ("fit", "key"),
    [
        ("clip", "clip, imagereward"),
        ("processor", "pickscore"),
        ("hps", "hps_v2"),
        ("hps_aliased", "hps_v2 without antialias"),
    ],
)
def test_pixels_are_those_of_the_authors_own_code(fit, key):
    golden = np.load(GOLDEN / "pixels.npz")
    for width, height in SIZES:
        pixels = Preparation(224, fit=fit)(golden_picture(width, height)).numpy()
        expected = golden[f"{key} {width}x{height}"]
        np.testing.assert_allclose(pixels[:, ::9, ::9].ravel(), expected[:-2], atol=1e-4)
        assert pixels.mean() == pytest.approx(expected[-2], abs=1e-5)
        assert np.abs(pixels).sum() == pytest.approx(expected[-1], rel=1e-5)


@pytest.mark.skipif(not GOLDEN.is_dir(), reason="../shared/golden is not here")
def test_hps_tokens_are_those_of_the_authors_own_tokenizer():
    tokenizer = tokenizer_from_merges(WEIGHTS / "clip_bpe" / "bpe_simple_vocab_16e6.txt.gz")
    golden = json.loads((GOLDEN / "tokens.json").read_text())
    for prompt, expected in zip(golden["prompts"], golden["hps_v2"], strict=True):
        ids = tokenizer(cleaned(prompt), truncation=True, max_length=77)["input_ids"]
        assert ids + [0] * (77 - len(ids)) == expected, prompt


def test_clip_is_a_hundred_cosines(clip_folder, images):
    scores = load_scorer(f"clip={clip_folder}").score(PROMPTS, images)
    assert scores.dtype == np.float64
    plain = 100 * plain_cosines(clip_folder, PROMPTS, images, "clip")
    np.testing.assert_allclose(scores, plain, atol=1e-5, rtol=1e-5)
    assert np.ptp(scores) > 0.1  # three different images do not score alike


def test_pickscore_is_the_scaled_cosine(clip_folder, images):
    scores = load_scorer(f"pickscore={clip_folder}").score(PROMPTS, images)
    plain = np.exp(3.1) * plain_cosines(clip_folder, PROMPTS, images, "processor")
    np.testing.assert_allclose(scores, plain, atol=1e-5, rtol=1e-5)


def test_hps_is_the_cosine_of_the_padded_image(clip_folder, images):
    for name, fit in (("hps_v2.1", "hps"), ("hps_v2_aliased", "hps_aliased")):
        scores = load_scorer(f"{name}={clip_folder}").score(PROMPTS, images)
        plain = plain_cosines(clip_folder, PROMPTS, images, fit)
        np.testing.assert_allclose(scores, plain, atol=1e-5)


def to_open_clip(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The inverse mapping, written from open_clip's layout."""
    out = {
        "logit_scale": state["logit_scale"],
        "text_projection": state["text_projection.weight"].T,
        "visual.proj": state["visual_projection.weight"].T,
        "positional_embedding": state["text_model.embeddings.position_embedding.weight"],
        "token_embedding.weight": state["text_model.embeddings.token_embedding.weight"],
        "visual.class_embedding": state["vision_model.embeddings.class_embedding"],
        "visual.positional_embedding": state["vision_model.embeddings.position_embedding.weight"],
        "visual.conv1.weight": state["vision_model.embeddings.patch_embedding.weight"],
        "attn_mask": torch.zeros(32, 32),
    }
    for kind in ("weight", "bias"):
        out[f"ln_final.{kind}"] = state[f"text_model.final_layer_norm.{kind}"]
        out[f"visual.ln_pre.{kind}"] = state[f"vision_model.pre_layrnorm.{kind}"]
        out[f"visual.ln_post.{kind}"] = state[f"vision_model.post_layernorm.{kind}"]
        for tower, prefix in (("text_model", ""), ("vision_model", "visual.")):
            for i in range(2):
                layer, block = f"{tower}.encoder.layers.{i}", f"{prefix}transformer.resblocks.{i}"
                fused = [state[f"{layer}.self_attn.{part}_proj.{kind}"] for part in "qkv"]
                out[f"{block}.attn.in_proj_{kind}"] = torch.cat(fused)
                out[f"{block}.attn.out_proj.{kind}"] = state[f"{layer}.self_attn.out_proj.{kind}"]
                out[f"{block}.ln_1.{kind}"] = state[f"{layer}.layer_norm1.{kind}"]
                out[f"{block}.ln_2.{kind}"] = state[f"{layer}.layer_norm2.{kind}"]
                out[f"{block}.mlp.c_fc.{kind}"] = state[f"{layer}.mlp.fc1.{kind}"]
                out[f"{block}.mlp.c_proj.{kind}"] = state[f"{layer}.mlp.fc2.{kind}"]
    return out


def test_an_open_clip_checkpoint_maps_to_transformers_and_scores_the_same(
    clip_folder, tokenizer, images, tmp_path
):
    state = CLIPModel.from_pretrained(clip_folder).state_dict()
    original = to_open_clip(state)
    mapped = to_transformers({f"module.{key}": value for key, value in original.items()})
    assert mapped.keys() == state.keys()
    for key, value in state.items():
        assert torch.equal(mapped[key], value), key
    torch.save({"state_dict": original, "epoch": 1}, tmp_path / "HPS_v2.1_compressed.pt")
    tokenizer.save_pretrained(tmp_path)
    np.testing.assert_allclose(
        load_scorer(f"hps_v2.1={tmp_path}").score(PROMPTS, images),
        load_scorer(f"hps_v2.1={clip_folder}").score(PROMPTS, images),
        atol=1e-6,
    )


def test_a_checkpoint_of_something_else_is_refused(tmp_path):
    torch.save({"conv.weight": torch.zeros(2)}, tmp_path / "HPS_v2.1_compressed.pt")
    with pytest.raises(EvaluationError, match=r"unknown key 'conv.weight'"):
        load_scorer(f"hps_v2.1={tmp_path}")


def test_the_aesthetic_head_runs_on_the_image_alone(clip_folder, images, tmp_path):
    torch.manual_seed(1)
    head = {"weight": torch.randn(1, 48), "bias": torch.randn(1)}
    torch.save(head, tmp_path / "sac+logos+ava1-l14-linearMSE.pth")
    (tmp_path / "clip").symlink_to(clip_folder)
    scores = load_scorer(f"aesthetic={tmp_path}").score(PROMPTS, images)
    model = CLIPModel.from_pretrained(clip_folder).eval()
    pixels = torch.stack([Preparation(32)(image) for image in images])
    with torch.no_grad():
        features = model.visual_projection(model.vision_model(pixels).pooler_output).numpy()
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    plain = features @ head["weight"][0].numpy() + head["bias"].item()
    np.testing.assert_allclose(scores, plain, atol=1e-5)


@pytest.mark.skipif(not WEIGHTS.is_dir(), reason="../shared/weights is not here")
@pytest.mark.parametrize(
    ("name", "width"),
    [
        ("sac+logos+ava1-l14-linearMSE", 768),
        ("sa_0_4_vit_l_14_linear", 768),
        ("sa_0_4_vit_b_32_linear", 512),
    ],
)
def test_the_real_aesthetic_heads_are_their_layers_one_after_another(name, width):
    state = torch.load(WEIGHTS / "aesthetic" / f"{name}.pth", map_location="cpu", weights_only=True)
    features = np.random.default_rng(0).normal(size=(5, width))
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    plain = features
    prefixes = [""] if "weight" in state else [f"layers.{i}." for i in (0, 2, 4, 6, 7)]
    for prefix in prefixes:
        weight, bias = state[f"{prefix}weight"].double(), state[f"{prefix}bias"].double()
        plain = plain @ weight.numpy().T + bias.numpy()
    ours = apply_head(state, torch.tensor(features, dtype=torch.float32))[:, 0].numpy()
    np.testing.assert_allclose(ours, plain[:, 0], atol=1e-5)
    assert 0 < ours.mean() < 10  # the raters' scale


@pytest.mark.skipif(not WEIGHTS.is_dir(), reason="../shared/weights is not here")
def test_the_real_aesthetic_head_gives_what_the_authors_class_gives():
    """Recorded from MLP(768) of improved-aesthetic-predictor's simple_inference.py (torch 2.13)
    with its weights, for the unit vectors of ((7 j k + j j div 5) mod 256) - 127.5."""
    state = read_state(WEIGHTS / "aesthetic" / "sac+logos+ava1-l14-linearMSE.pth")
    j = np.arange(768)
    for k, golden in ((1, 6.330960), (2, 5.337617), (3, 5.478649)):
        embedding = (7 * j * k + j * j // 5) % 256 - 127.5
        features = torch.tensor(embedding / np.linalg.norm(embedding))[None].float()
        assert float(apply_head(state, features)) == pytest.approx(golden, abs=1e-4)


def test_the_relu_head_is_the_authors_sequential():
    """`ava+logos-l14-reluMSE`: the layers of avaclipmlp_inf_wds-relu.py, LAION's own script."""
    nn = torch.nn
    torch.manual_seed(0)
    layers = nn.Sequential(
        nn.Linear(12, 10), nn.ReLU(), nn.Dropout(0.2), nn.Linear(10, 8), nn.ReLU(),
        nn.Dropout(0.2), nn.Linear(8, 6), nn.ReLU(), nn.Dropout(0.1), nn.Linear(6, 4), nn.ReLU(),
        nn.Linear(4, 1),
    ).eval()  # fmt: skip
    state = {f"layers.{key}": value for key, value in layers.state_dict().items()}
    features = torch.randn(9, 12)
    with torch.no_grad():
        np.testing.assert_allclose(apply_head(state, features), layers(features), atol=1e-6)


@pytest.mark.skipif(not WEIGHTS.is_dir(), reason="../shared/weights is not here")
def test_the_tokenizer_built_from_openais_merges_gives_clips_tokens():
    built = tokenizer_from_merges(WEIGHTS / "clip_bpe" / "bpe_simple_vocab_16e6.txt.gz")
    assert len(built) == 49408
    tokens = built("a photo of a cat")["input_ids"]
    assert tokens == [49406, 320, 1125, 539, 320, 2368, 49407]  # as CLIP's README prints them


def test_scorers_on_one_clip_share_it_and_embed_a_batch_once(clip_folder, images, tmp_path):
    head = {"weight": torch.ones(1, 48), "bias": torch.zeros(1)}
    torch.save(head, tmp_path / "sac+logos+ava1-l14-linearMSE.pth")
    (tmp_path / "clip").symlink_to(clip_folder)
    clip, aesthetic = load_scorer(f"clip={clip_folder}"), load_scorer(f"aesthetic={tmp_path}")
    assert clip.towers is aesthetic.towers
    passes = []
    vision = clip.towers.model.vision_model
    hook = vision.register_forward_hook(lambda *_: passes.append(1))
    first = clip.score(PROMPTS, images)
    aesthetic.score(PROMPTS, images)
    assert len(passes) == 1
    others = [image.copy() for image in images[::-1]]
    second = clip.score(PROMPTS, others)  # another batch is seen anew
    assert len(passes) == 2
    hook.remove()
    assert not np.allclose(first, second)
    padded = load_scorer(f"hps_v2={clip_folder}")  # prepared otherwise, so not shared
    assert padded.towers is not clip.towers
