"""HPS v3 on a tiny Qwen2-VL in the authors' layout equals the formula computed plainly."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from by_name import load_scorer
from PIL import Image
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen2VLConfig, Qwen2VLForConditionalGeneration
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from evaluation.errors import EvaluationError, MissingWeights
from evaluation.scorers import hps_v3 as room

SPECIAL = ("<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>")
PROMPTS = ["a bold seven", "seven", "a thin <|Reward|> one"]
PATCH, WIDTH = 28, 32


def build_tokenizer() -> PreTrainedTokenizerFast:
    split = pre_tokenizers.Whitespace()
    words = [w for w, _ in split.pre_tokenize_str(room.INSTRUCTION + room.QUESTION + room.CHAT)]
    words += ["a", "bold", "seven", "thin", "one"]
    tokens = ["<unk>", "<|endoftext|>", *SPECIAL, *dict.fromkeys(words)]
    core = Tokenizer(models.WordLevel({t: i for i, t in enumerate(tokens)}, unk_token="<unk>"))
    core.pre_tokenizer = split
    core.add_special_tokens(list(SPECIAL))
    return PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<|endoftext|>")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """config.json, tokenizer and HPSv3.safetensors with the keys of transformers 4.45."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("hps_v3")
    tokenizer = build_tokenizer()
    config = Qwen2VLConfig(
        text_config={
            "vocab_size": len(tokenizer) + 1, "hidden_size": WIDTH, "intermediate_size": 48,
            "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1,
            "max_position_embeddings": 4096, "bos_token_id": None, "eos_token_id": 1,
            "pad_token_id": 1,
            "rope_parameters": {
                "rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]
            },
        },
        vision_config={
            "depth": 2, "embed_dim": 32, "hidden_size": WIDTH, "num_heads": 2,
            "patch_size": PATCH, "mlp_ratio": 2,
        },
        image_token_id=tokenizer.convert_tokens_to_ids("<|image_pad|>"),
    )  # fmt: skip
    model = Qwen2VLForConditionalGeneration(config)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.2)
    state = {}
    for key, value in model.state_dict().items():
        old = key.replace("model.language_model.", "model.").replace("model.visual.", "visual.")
        state[old] = value.clone()
    for number, (out, into) in {0: (24, WIDTH), 3: (16, 24), 5: (2, 16)}.items():
        state[f"rm_head.{number}.weight"] = 0.3 * torch.randn(out, into)
        state[f"rm_head.{number}.bias"] = 0.3 * torch.randn(out)
    save_file(state, folder / "HPSv3.safetensors")
    config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def images() -> list[Image.Image]:
    rng = np.random.default_rng(0)
    sizes = [(500, 300), (64, 64), (200, 700)]
    return [
        Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
        for width, height in sizes
    ]


def plain_score(folder: Path, prompt: str, image: Image.Image) -> tuple[float, float]:
    """One image: transformers' own preparation, whole model, positions in a row, the head."""
    state = load_file(folder / "HPSv3.safetensors")
    model = Qwen2VLForConditionalGeneration(Qwen2VLConfig.from_pretrained(folder)).eval()
    for key, value in model.state_dict().items():
        old = key.replace("model.language_model.", "model.").replace("model.visual.", "visual.")
        value.copy_(state[old])
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|Reward|>"]})
    size = {"shortest_edge": 256 * 28 * 28, "longest_edge": 256 * 28 * 28}
    processor = Qwen2VLImageProcessorPil(patch_size=PATCH, size=size)
    seen = processor(images=[image], return_tensors="pt")
    places = int(seen.image_grid_thw.prod()) // 4
    text = room.INSTRUCTION.replace("{prompt}", prompt) + room.QUESTION
    text = room.CHAT.replace("{image}", "<|image_pad|>" * places).replace("{text}", text)
    ids = tokenizer([text], return_tensors="pt").input_ids
    with torch.no_grad():
        x = model.model(
            input_ids=ids,
            pixel_values=seen.pixel_values,
            image_grid_thw=seen.image_grid_thw,
            position_ids=torch.arange(ids.shape[1])[None, None].expand(3, 1, -1),
        ).last_hidden_state[0]
    x = x[(ids[0] == tokenizer.convert_tokens_to_ids("<|Reward|>")).nonzero()[-1, 0]]
    for number in (0, 3, 5):
        x = state[f"rm_head.{number}.weight"] @ x + state[f"rm_head.{number}.bias"]
        x = x.relu() if number < 5 else x
    return x[0].item(), x[1].exp().item()  # mu and, as in the authors' loss, exp(log sigma)


def test_the_score_is_the_authors_formula(folder, images):
    scorer = load_scorer(f"hps_v3={folder}")
    scores = scorer.score(PROMPTS, images)
    assert scores.dtype == np.float64
    assert scorer.also == ("sigma",)
    plain = [plain_score(folder, prompt, i) for prompt, i in zip(PROMPTS, images, strict=True)]
    np.testing.assert_allclose(scores, plain, atol=1e-5)
    assert np.ptp(scores[:, 0]) > 1e-3
    assert (scores[:, 1] > 0).all()


def plain_patches(image: Image.Image, step: int, pixels: int) -> np.ndarray:
    """Qwen2-VL's preparation written out: fitted to about `pixels`, cut into patches of 14, the
    four of each merged square together, every patch twice as a film of two equal frames."""
    fitted = [max(step, round(side / step) * step) for side in image.size]
    scale = (image.width * image.height / pixels) ** 0.5
    if fitted[0] * fitted[1] > pixels:
        fitted = [max(step, int(side / scale / step) * step) for side in image.size]
    elif fitted[0] * fitted[1] < pixels:
        fitted = [-int(-side / scale // step) * step for side in image.size]
    values = np.asarray(image.resize(fitted, Image.BICUBIC), dtype=np.float64) / 255
    values = (values - (0.48145466, 0.4578275, 0.40821073)) / (0.26862954, 0.26130258, 0.27577711)
    rows = []
    for top in range(0, fitted[1], step):
        for left in range(0, fitted[0], step):
            for y in (top, top + 14):
                for x in (left, left + 14):
                    patch = values[y : y + 14, x : x + 14].transpose(2, 0, 1)
                    rows.append(np.repeat(patch[:, None], 2, axis=1).ravel())
    return np.array(rows)


# What the authors' way gives for the pictures of golden/README.md: qwen_vl_utils 0.0.11's
# fetch_image(min_pixels = max_pixels = 256 * 28 * 28), as HPS v3's prepare_batch calls it, then
# Qwen2-VL-7B-Instruct's image processor (3,136 to 12,845,056 pixels) of transformers 5.24.
# (width, height): grid, mean, sum of absolute values, every 97th patch's every 131st value.
GOLDEN = {
    (1216, 832): ([1, 26, 38], 0.18604525, 1184436.672, [
        -1.690073, 0.382903, 1.025234, -1.707074, -0.131258, -0.92667,
        -1.48022, -1.366459, -1.48022, -0.288625, 1.740557, -1.310514,
    ]),
    (512, 519): ([1, 32, 30], 0.18693597, 1288597.606, [
        -1.777664, -0.69738, -0.33242, -1.752097, -0.956685, -1.361895,
        -1.48022, -1.48022, 2.145897, -0.843365, 0.22232, 0.587281,
    ]),
    (360, 640): ([1, 42, 24], 0.18639379, 1366650.390, [
        -1.792263, -0.799569, -0.507601, -1.752097, -1.016716, -1.406918,
        -1.48022, 0.183528, 2.145897, -1.325113, -0.347018, -0.040451,
    ]),
    (200, 150): ([1, 28, 38], 0.18953206, 1455471.198, [
        -1.792263, -1.500294, -1.383507, -1.752097, -1.511973, -1.66205,
        -1.48022, -1.48022, -1.48022, 0.806257, 1.15662, 1.258809,
    ]),
}  # fmt: skip


@pytest.mark.parametrize("shape", GOLDEN)
def test_patches_of_odd_pictures_are_those_of_the_authors_and_of_the_formula(shape):
    grid, mean, total, some = GOLDEN[shape]
    x, y = np.arange(shape[0])[None], np.arange(shape[1])[:, None]
    planes = (7 * x + 3 * y) % 256, (x * x // 97 + 5 * y) % 256, 255 * ((x // 8 + y // 8) % 2)
    image = Image.fromarray(np.stack(planes, axis=-1).astype(np.uint8))
    seen = room.preparation(Qwen2VLConfig().vision_config)(images=[image], return_tensors="pt")
    found = seen.pixel_values.double().numpy()
    assert seen.image_grid_thw.tolist() == [grid]
    np.testing.assert_allclose(found[::97, ::131].ravel()[:12], some, atol=1e-4)
    assert found.mean() == pytest.approx(mean, abs=1e-6)
    assert np.abs(found).sum() == pytest.approx(total, rel=1e-6)
    np.testing.assert_allclose(found, plain_patches(image, 28, room.PIXELS), atol=1e-4)


def test_newer_keys_and_more_images_than_fit_at_once_score_the_same(folder, images, tmp_path):
    state = load_file(folder / "HPSv3.safetensors")
    newer = {}
    for key, value in state.items():
        if key.startswith("visual."):
            key = f"model.{key}"
        elif key.startswith("model."):
            key = key.replace("model.", "model.language_model.", 1)
        newer[key] = value
    save_file(newer, tmp_path / "HPSv3.safetensors")
    for path in folder.glob("*.json"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    many = load_scorer(f"hps_v3={tmp_path}").score(PROMPTS * 6, images * 6)
    few = load_scorer(f"hps_v3={folder}").score(PROMPTS, images)
    np.testing.assert_allclose(many, np.tile(few, (6, 1)), atol=1e-5)


def test_the_instruction_is_the_one_it_was_trained_with():
    assert room.INSTRUCTION.startswith("\nYou are tasked with evaluating a generated image")
    assert "best. \n\n**Visual Quality:**  \nEvaluate" in room.INSTRUCTION
    assert "possible. \n\n**Text Alignment:**  \nAssess" in room.INSTRUCTION
    assert room.INSTRUCTION.endswith("Textual prompt - {prompt}\n\n\n")
    digest = hashlib.sha256(room.INSTRUCTION.encode()).hexdigest()
    assert digest.startswith(
        "f0af73142f70b8fc"
    )  # of the published text, {text_prompt} being {prompt}


def test_what_is_missing_or_wrong_is_named(folder, tmp_path, monkeypatch):
    with pytest.raises(MissingWeights, match=r"hps_v3: .* holds no HPSv3\.safetensors; put it"):
        load_scorer(f"hps_v3={tmp_path}")
    monkeypatch.setattr("evaluation.hub.out_of_reach", lambda: True)
    state = load_file(folder / "HPSv3.safetensors")
    save_file(state, tmp_path / "HPSv3.safetensors")
    with pytest.raises(MissingWeights, match=r"not Qwen/Qwen2-VL-7B-Instruct.* put config\.json"):
        load_scorer(f"hps_v3={tmp_path}")
    for path in folder.glob("*.json"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    del state["model.norm.weight"]
    save_file(state, tmp_path / "HPSv3.safetensors")
    with pytest.raises(EvaluationError, match=r"not HPS v3's checkpoint: .*norm\.weight"):
        load_scorer(f"hps_v3={tmp_path}")
    save_file(state | {"odd": torch.zeros(1)}, tmp_path / "HPSv3.safetensors")
    with pytest.raises(EvaluationError, match="unknown key 'odd'"):
        load_scorer(f"hps_v3={tmp_path}")
    assert json.loads((folder / "config.json").read_text())["model_type"] == "qwen2_vl"
