"""Vision-language models of transformers on this machine: loaded, and asked about images.

Any image-text-to-text model with a chat template (LLaVA, Qwen-VL, InternVL, SmolVLM, ...), from a
folder or a hub name. The judge `local` lets one rank images, the scorer `vqa` reads the probability
of its answers.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from evaluation import devices, hub
from evaluation.errors import EvaluationError, MissingWeights

Turn = tuple[str, Sequence[str | Image.Image]]  # role, parts


class VisionLanguageModel:
    """A model in the precision it is kept in (fp32 on a CPU), and its processor.

    user : who loads it, for messages, e.g. "local". source : a folder in transformers' layout
    (config.json, model.safetensors, the processor's files with a chat template), or a hub name.
    Raises MissingWeights, which says where to put them, or EvaluationError.
    """

    def __init__(self, user: str, source: str):
        import transformers

        transformers.utils.logging.disable_progress_bar()
        from transformers import AutoModelForImageTextToText, AutoProcessor

        if Path(source).is_dir() and not (Path(source) / "config.json").is_file():
            raise MissingWeights(
                f"{user}: {source} has no config.json; put a vision-language model in "
                "transformers' layout there (config.json, model.safetensors, the processor's files)"
            )
        self.device = devices.device()
        dtype = torch.float32 if self.device == "cpu" else "auto"
        local = hub.out_of_reach()
        try:
            how = {"local_files_only": local, "trust_remote_code": False}
            self.processor = AutoProcessor.from_pretrained(source, **how)
            model = AutoModelForImageTextToText.from_pretrained(
                source, dtype=dtype, use_safetensors=True, **how
            )
        except ImportError as error:  # a processor that needs torchvision
            reason = " ".join(str(error).split())[:160]
            raise EvaluationError(
                f"{user}: {source}: its processor cannot run here: {reason}"
            ) from error
        except Exception as error:  # whatever a strange file makes the library raise
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise MissingWeights(
                f"{user}: {source} is not a vision-language model that can be loaded here: "
                f"{reason}; put one in transformers' layout into a folder and give its path"
            ) from error
        if getattr(self.processor, "chat_template", None) is None:
            raise EvaluationError(
                f"{user}: {source} has no chat template; put its chat_template.jinja there"
            )
        self.model = model.eval().requires_grad_(False).to(self.device)

    def inputs(self, conversations: Sequence[Sequence[Turn]]) -> Any:
        """The model's inputs for some conversations, padded on the left where lengths differ."""
        texts, images = [], []
        for turns in conversations:
            pictures: list[Image.Image] = []
            messages = []
            for role, parts in turns:
                content: list[dict[str, str]] = []
                for part in parts:
                    if isinstance(part, str):
                        content.append({"type": "text", "text": part})
                    else:
                        content.append({"type": "image"})
                        pictures.append(part)
                messages.append({"role": role, "content": content})
            texts.append(self.processor.apply_chat_template(messages, add_generation_prompt=True))
            images.append(pictures)
        padding = {"padding": True, "padding_side": "left"} if len(texts) > 1 else {}
        inputs = self.processor(text=texts, images=images, return_tensors="pt", **padding)
        return inputs.to(self.device, self.model.dtype)
