"""A vision-language model on this machine as judge, through transformers.

Any image-text-to-text model with a chat template that takes several images (LLaVA, Qwen-VL,
InternVL, SmolVLM, ...), from a folder or a hub name. It answers greedily, so the same question
gets the same answer. What is asked, how the answer is read and where it is kept is in `asked`.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from evaluation import hub
from evaluation.errors import EvaluationError, MissingWeights
from evaluation.judges import open_image
from evaluation.judges.asked import AskedJudge, Message
from evaluation.tables import digest

LONGEST_ANSWER = 64  # tokens; a ranking takes about 20


class LocalJudge(AskedJudge):
    """Asks a model of transformers.

    Parameters
    ----------
    source : folder in transformers' layout (config.json, model.safetensors, the processor's files
        with a chat template), or a hub name.
    cache, orders : see `AskedJudge`.

    Raises MissingWeights, which says where to put them, or EvaluationError.
    """

    def __init__(self, source: str, cache: Path, *, orders: int = 1):
        super().__init__(f"local:{source}", [identity_of(source)], cache, orders)
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.model, self.processor = load(source, self.device)

    @torch.inference_mode()
    def ask(self, messages: Sequence[Message]) -> tuple[str, dict[str, int]]:
        """Answer one conversation; returns the answer and its tokens."""
        self.cost["requests"] += 1
        images: list[Image.Image] = []
        turns = []
        for message in messages:
            parts: list[dict[str, Any]] = []
            for part in message["content"]:
                if isinstance(part, str):
                    parts.append({"type": "text", "text": part})
                else:
                    parts.append({"type": "image"})
                    images.append(open_image(part))
            turns.append({"role": message["role"], "content": parts})
        text = self.processor.apply_chat_template(turns, add_generation_prompt=True)
        inputs = self.processor(text=[text], images=[images], return_tensors="pt")
        inputs = inputs.to(self.device, self.model.dtype)
        output = self.model.generate(**inputs, max_new_tokens=LONGEST_ANSWER, do_sample=False)
        asked = inputs.input_ids.shape[1]
        answer = self.processor.batch_decode(output[:, asked:], skip_special_tokens=True)[0]
        return answer, {"prompt_tokens": asked, "completion_tokens": output.shape[1] - asked}


def identity_of(source: str) -> str:
    """What a model is known by: the digest of its folder, or its hub name."""
    folder = Path(source)
    if not folder.is_dir():
        return source
    return digest((path for path in folder.rglob("*") if path.is_file()), folder)


def load(source: str, device: str) -> tuple[Any, Any]:
    """The model, in the precision it is kept in (fp32 on a CPU), and its processor."""
    import transformers

    transformers.utils.logging.disable_progress_bar()
    from transformers import AutoModelForImageTextToText, AutoProcessor

    if Path(source).is_dir() and not (Path(source) / "config.json").is_file():
        raise MissingWeights(
            f"local: {source} has no config.json; put a vision-language model in transformers' "
            "layout there (config.json, model.safetensors, the processor's files)"
        )
    local = hub.out_of_reach()
    try:
        processor = AutoProcessor.from_pretrained(source, local_files_only=local)
        model = AutoModelForImageTextToText.from_pretrained(
            source, dtype="auto" if device != "cpu" else torch.float32, local_files_only=local
        )
    except ImportError as error:  # a processor that needs torchvision
        reason = " ".join(str(error).split())[:160]
        raise EvaluationError(
            f"local: {source}: its processor cannot run here: {reason}"
        ) from error
    except (OSError, ValueError, KeyError, json.JSONDecodeError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise MissingWeights(
            f"local: {source} is not a vision-language model that can be loaded here: {reason}; "
            "put one in transformers' layout into a folder and give local:FOLDER"
        ) from error
    if getattr(processor, "chat_template", None) is None:
        raise EvaluationError(
            f"local: {source} has no chat template; put its chat_template.jinja there"
        )
    return model.eval().requires_grad_(False).to(device), processor
