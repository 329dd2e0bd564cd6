"""Prompt following by questions to a vision-language model: P("yes"), and P(the right answer).

    without questions   VQAScore (Lin et al. 2024): P("Yes") to "Does this figure show '{prompt}'?"
    with a file of them Soft-TIFA (GenEval 2, Kamath et al. 2025): the geometric mean, over the
                        prompt's questions, of the probability of the right answer; beside it the
                        arithmetic mean (as DPG-Bench has it) and the mean for each skill

The probability is that of the first token of the answer, summed over the ways to begin it ("Yes",
" yes", for a number its digit too), each token once.
"""

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image

from evaluation.scorers.questions import Atom, Questions
from evaluation.vision_language import VisionLanguageModel

HUB = "Qwen/Qwen3-VL-8B-Instruct"
FIGURE = "Does this figure show '{prompt}'? Please answer yes or no."
ONE_WORD = "{question} Answer in one word."
AT_ONCE = 8  # questions that go through the model together
LEAST = 1e-12  # a probability of 0 would make every geometric mean 0


class VqaScorer:
    """A vision-language model's belief that an image shows what was asked for."""

    def __init__(self, model: VisionLanguageModel, questions: Questions | None = None):
        self.model = model
        self.questions = questions
        self.also = ("mean", *questions.skills()) if questions else ()

    def asks(self, prompt: str) -> bool:
        """Whether there is a question for the prompt."""
        return self.questions is None or prompt in self.questions.atoms

    def score(self, prompts: Sequence[str], images: Sequence[Image.Image]) -> np.ndarray:
        """(n,) P("yes"), or with questions (n, 2 + skills): geometric mean, mean, of each skill
        (NaN where no question of the prompt tests it)."""
        atoms = [self.atoms(prompt) for prompt in prompts]
        asked = [(atom, image) for some, image in zip(atoms, images, strict=True) for atom in some]
        found = np.concatenate(
            [self.believed(asked[i : i + AT_ONCE]) for i in range(0, len(asked), AT_ONCE)]
        )
        parts = np.split(found, np.cumsum([len(some) for some in atoms])[:-1])
        if self.questions is None:
            return np.array([part[0] for part in parts])
        rows = []
        for some, part in zip(atoms, parts, strict=True):
            skills = np.array([atom.skill for atom in some])
            means = [
                part[skills == skill].mean() if (skills == skill).any() else np.nan
                for skill in self.also[1:]
            ]
            geometric = np.exp(np.log(np.maximum(part, LEAST)).mean())
            rows.append([geometric, part.mean(), *means])
        return np.array(rows)

    def atoms(self, prompt: str) -> Sequence[Atom]:
        """The questions that are asked about an image of the prompt."""
        if self.questions is None:
            return (Atom(FIGURE.replace("{prompt}", prompt), "yes"),)
        return self.questions.atoms[prompt]

    @torch.inference_mode()
    def believed(self, asked: Sequence[tuple[Atom, Image.Image]]) -> np.ndarray:
        """Probability of the right answer to each question about its image (n,)."""
        form = "{question}" if self.questions is None else ONE_WORD
        inputs = self.model.inputs(
            [
                [("user", [image, form.replace("{question}", atom.question)])]
                for atom, image in asked
            ]
        )
        logits = self.model.model(**inputs).logits[:, -1].float()
        chances = logits.softmax(dim=-1).double().cpu().numpy()
        return np.array(
            [row[self.tokens(atom)].sum() for row, (atom, _) in zip(chances, asked, strict=True)]
        )

    def tokens(self, atom: Atom) -> list[int]:
        """First tokens of the answer's spellings, each once."""
        encode = self.model.processor.tokenizer.encode
        first = [encode(text, add_special_tokens=False)[:1] for text in atom.answers()]
        return sorted({token for one in first for token in one})


def vqa(source: str = HUB, questions: Questions | None = None) -> VqaScorer:
    """Load the model that answers; questions : see `questions.read_questions`."""
    return VqaScorer(VisionLanguageModel("vqa", source), questions)
