"""Text encoders of the families: CLIP, with or without its projection, and T5."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from training.families.pipeline import loaded


def clip(
    folder: Path, tokenizer: str, encoder: str, device: torch.device, *, projected: bool = False
) -> Callable[[Sequence[str]], Any]:
    """Load a CLIP text tower; return n prompts -> its output, with all hidden states.

    `projected` is CLIPTextModelWithProjection, whose `text_embeds` (n, width) is the pooled text.
    """
    from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    tokens = CLIPTokenizer.from_pretrained(folder / tokenizer)
    kind = CLIPTextModelWithProjection if projected else CLIPTextModel
    model = loaded(kind, folder / encoder).to(device).eval()

    @torch.no_grad()
    def encode(prompts: Sequence[str]) -> Any:
        ids = tokens(list(prompts), padding="max_length", truncation=True, return_tensors="pt")
        return model(ids.input_ids.to(device), output_hidden_states=True)

    return encode


def t5(
    folder: Path, tokenizer: str, encoder: str, length: int, device: torch.device
) -> Callable[[Sequence[str]], Tensor]:
    """Load a T5 encoder; return n prompts -> hidden states (n, length, width), padding included.

    In bf16 on a GPU: XXL's 4.8 billion weights would take 19 GB in fp32, and fp16 overflows.
    """
    from transformers import T5EncoderModel, T5TokenizerFast
    from transformers.utils import logging

    logging.disable_progress_bar()
    tokens = T5TokenizerFast.from_pretrained(folder / tokenizer)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    model = loaded(T5EncoderModel, folder / encoder, dtype).to(device).eval()

    @torch.no_grad()
    def encode(prompts: Sequence[str]) -> Tensor:
        ids = tokens(
            list(prompts),
            padding="max_length",
            max_length=length,
            truncation=True,
            return_tensors="pt",
        )
        return model(ids.input_ids.to(device)).last_hidden_state

    return encode
