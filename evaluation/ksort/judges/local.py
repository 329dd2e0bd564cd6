"""A vision-language model on this machine as judge, through transformers.

It answers greedily, so the same question gets the same answer. What is asked, how the answer is
read and where it is kept is in `asked`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from arena.votes.images import decoded
from evaluation import hub
from evaluation.ksort.judges import Asking
from evaluation.ksort.judges.asked import AskedJudge, Message
from evaluation.scorers.vqa import VisionLanguageModel


class LocalJudge(AskedJudge):
    """Asks a model of transformers: a folder, or a hub name; see `VisionLanguageModel`."""

    def __init__(self, source: str, cache: Path, asking: Asking):
        self.weights = hub.identity(source) or source
        super().__init__(f"local:{source}", [self.weights], cache, asking)
        self.language = VisionLanguageModel("local", source)

    def summary(self) -> dict[str, Any]:
        """The judge's summary with the hash of its weights."""
        return {"weights": self.weights, **super().summary()}

    @torch.inference_mode()
    def ask(self, messages: Sequence[Message]) -> tuple[str, dict[str, int]]:
        """Answer one conversation; returns the answer and its tokens."""
        self.count_request()
        turns = [
            (
                message["role"],
                [part if isinstance(part, str) else decoded(part) for part in message["content"]],
            )
            for message in messages
        ]
        inputs = self.language.inputs([turns])
        output = self.language.model.generate(
            **inputs, max_new_tokens=self.asking.max_tokens, do_sample=False
        )
        asked = inputs.input_ids.shape[1]
        said = self.language.processor.batch_decode(output[:, asked:], skip_special_tokens=True)[0]
        return said, {"prompt_tokens": asked, "completion_tokens": output.shape[1] - asked}
