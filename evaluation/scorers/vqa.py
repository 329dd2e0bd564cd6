"""Prompt following by questions to a vision-language model: P("yes"), and P(the right answer).

    without questions   VQAScore (Lin et al. 2024): P("Yes") to "Does this figure show '{prompt}'?"
    with a file of them Soft-TIFA (GenEval 2, Kamath et al. 2025): the geometric mean, over the
                        prompt's questions, of the probability of the right answer; beside it the
                        arithmetic mean (as DPG-Bench has it) and the mean for each skill

The probability is that of the first token of the answer, summed over the ways to begin it ("Yes",
" yes", for a number its digit too), each token once.

Questions stand in a file, with the answers that a right image gives:

    GenEval 2   .jsonl: {"prompt", "vqa_list": [[question, answer], ...], "skills": [...]}
    own         .jsonl: the same with "questions" for "vqa_list"; skills may be left out
    DPG-Bench   .csv: text, question_natural_language, category_broad (the skill); every answer is
                yes

"How many ...?" is answered by a number, in words or digits; every other question by its answer.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from evaluation import devices, hub
from evaluation.errors import EvaluationError, MissingWeights, first_line
from evaluation.tables import read_jsonl, read_table

Turn = tuple[str, Sequence[str | Image.Image]]  # role, parts
FIGURE = "Does this figure show '{prompt}'? Please answer yes or no."
ONE_WORD = "{question} Answer in one word."
AT_ONCE = 8  # questions that go through the model together
LEAST = 1e-12  # a probability of 0 would make every geometric mean 0
NUMBERS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]


@dataclass(frozen=True)
class Atom:
    """One question about an image, its right answer, and the skill that it tests."""

    question: str
    answer: str
    skill: str | None = None

    def answers(self) -> list[str]:
        """The ways in which a model may begin to say the answer."""
        words = [self.answer.lower(), self.answer.capitalize()]
        if self.answer.lower() in NUMBERS:
            words.append(str(NUMBERS.index(self.answer.lower()) + 1))
        return [f"{blank}{word}" for word in dict.fromkeys(words) for blank in ("", " ")]


@dataclass(frozen=True)
class Questions:
    """Prompt -> its questions. content : a digest of the file, which scores depend on."""

    atoms: Mapping[str, tuple[Atom, ...]]
    content: str

    def skills(self) -> list[str]:
        """Every skill that a question tests, in order of first appearance."""
        found = (atom.skill for atoms in self.atoms.values() for atom in atoms)
        return list(dict.fromkeys(skill for skill in found if skill is not None))


def read_questions(path: Path) -> Questions:
    """Read a file of questions; raises EvaluationError naming the row that is none."""
    found: dict[str, list[Atom]] = {}
    if path.suffix.lower() == ".csv":  # DPG-Bench: a question a row
        table = read_table(path, ("text", "question_natural_language")).to_pydict()
        skills = table.get("category_broad", [None] * len(table["text"]))
        rows = zip(table["text"], table["question_natural_language"], skills, strict=True)
        for text, question, skill in rows:
            found.setdefault(text, []).append(Atom(question, "yes", skill))
    else:  # GenEval 2: a prompt a row
        for number, row in read_jsonl(path):
            try:
                pairs = row["vqa_list"] if "vqa_list" in row else row["questions"]
                skills = row.get("skills") or [None] * len(pairs)
                atoms = [
                    Atom(str(question), str(answer), None if skill is None else str(skill))
                    for (question, answer), skill in zip(pairs, skills, strict=True)
                ]
                found.setdefault(str(row["prompt"]), []).extend(atoms)
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise EvaluationError(
                    f'{path}: line {number}: expected {{"prompt", "vqa_list": [[question, answer], '
                    f'...], "skills": [one for each]}}: {error}'
                ) from error
    if not any(found.values()):
        raise EvaluationError(f"{path}: holds no question")
    known = hashlib.sha256(path.read_bytes()).hexdigest()
    return Questions({text: tuple(atoms) for text, atoms in found.items() if atoms}, known)


class VisionLanguageModel:
    """An image-text-to-text model with a chat template (LLaVA, Qwen-VL, InternVL, SmolVLM, ...).

    In the precision it is kept in (fp32 on a CPU), with its processor. The judge `local` lets one
    rank images, the scorer `vqa` reads the probability of its answers.

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
            raise MissingWeights(
                f"{user}: {source} is not a vision-language model that can be loaded here: "
                f"{first_line(error)}; put one in transformers' layout into a folder and give its "
                "path"
            ) from error
        if getattr(self.processor, "chat_template", None) is None:
            raise EvaluationError(
                f"{user}: {source} has no chat template; put its chat_template.jinja there"
            )
        self.model = model.eval().requires_grad_(False).to(self.device)

    def inputs(self, conversations: Sequence[Sequence[Turn]]) -> Any:
        """The model's inputs for some conversations, padded on the left where lengths differ."""
        messages = [
            [
                {
                    "role": role,
                    "content": [
                        {"type": "text", "text": part}
                        if isinstance(part, str)
                        else {"type": "image", "image": part}
                        for part in parts
                    ],
                }
                for role, parts in turns
            ]
            for turns in conversations
        ]
        padding = {"padding": True, "padding_side": "left"} if len(messages) > 1 else {}
        inputs = self.processor.apply_chat_template(
            messages,
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            processor_kwargs=padding,
        )
        return inputs.to(self.device, self.model.dtype)


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


def vqa(source: str, questions: Questions | None = None) -> VqaScorer:
    """Load the model that answers; questions : see `read_questions`."""
    return VqaScorer(VisionLanguageModel("vqa", source), questions)
