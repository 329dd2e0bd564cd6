"""A tiny LLaVA in transformers' own layout that has learned to give one answer, for the tests."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from evaluation.ksort.judges.asked import AGAIN, QUESTIONS

INSTRUCTION = QUESTIONS["house"]

SIDE, PATCH, WIDTH = 28, 14, 48
TEMPLATE = (
    "{% for m in messages %}{{ m['role'] }} : {% for part in m['content'] %}"
    "{% if part['type'] == 'image' %}<image> {% else %}{{ part['text'] }} {% endif %}"
    "{% endfor %}{% endfor %}{% if add_generation_prompt %}assistant :{% endif %}"
)


def build_tokenizer() -> PreTrainedTokenizerFast:
    split = pre_tokenizers.Sequence([pre_tokenizers.Whitespace()])
    words = [w for w, _ in split.pre_tokenize_str(f"user assistant {INSTRUCTION} {AGAIN} I cannot")]
    tokens = ["<pad>", "<s>", "</s>", "<unk>", "<image>", *dict.fromkeys(words)]
    core = Tokenizer(models.WordLevel({t: i for i, t in enumerate(tokens)}, unk_token="<unk>"))
    core.pre_tokenizer = split
    core.add_special_tokens(["<image>"])
    return PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", bos_token="<s>", eos_token="</s>",
        unk_token="<unk>",
    )  # fmt: skip


def save_tiny_vlm(folder: Path, answer: str, steps: int = 120) -> Path:
    """Save a LLaVA of 100 kB that, asked to rank five images, says `answer`."""
    torch.manual_seed(0)
    tokenizer = build_tokenizer()
    processor = LlavaProcessor(
        image_processor=CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size=SIDE),
        tokenizer=tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        chat_template=TEMPLATE,
        num_additional_image_tokens=1,
    )
    shape = {"hidden_size": WIDTH, "intermediate_size": 64, "num_attention_heads": 2}
    model = LlavaForConditionalGeneration(
        LlavaConfig(
            vision_config=CLIPVisionConfig(
                **shape, num_hidden_layers=2, image_size=SIDE, patch_size=PATCH
            ),
            text_config=LlamaConfig(
                **shape, num_hidden_layers=2, num_key_value_heads=2, vocab_size=len(tokenizer),
                bos_token_id=1, eos_token_id=2, pad_token_id=0,
            ),
            image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        )
    )  # fmt: skip
    said = len(tokenizer(f" {answer}</s>").input_ids)
    rng = np.random.default_rng(0)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    for step in range(steps):
        inputs = processor(
            text=[f"{asked(processor, 'a ' * (step % 6))} {answer}</s>"],
            images=[[noise(rng) for _ in range(5)]],
            return_tensors="pt",
        )
        labels = inputs.input_ids.clone()
        labels[:, :-said] = -100
        optimizer.zero_grad()
        model(**inputs, labels=labels).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def asked(processor: LlavaProcessor, prompt: str) -> str:
    content = [{"type": "text", "text": INSTRUCTION.format(prompt=prompt)}]
    for number in range(1, 6):
        content += [{"type": "text", "text": f"Image {number}:"}, {"type": "image"}]
    messages = [{"role": "user", "content": content}]
    return processor.apply_chat_template(messages, add_generation_prompt=True)


def noise(rng: np.random.Generator) -> Image.Image:
    low, high = sorted(rng.integers(0, 256, 2))
    pixels = rng.integers(low, high + 1, (SIDE, SIDE, 3)).astype(np.uint8)
    return Image.fromarray(pixels)
