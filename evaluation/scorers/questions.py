"""Questions about what a prompt asks for, with the answers that a right image gives.

    GenEval 2   .jsonl: {"prompt", "vqa_list": [[question, answer], ...], "skills": [...]}
    own         .jsonl: the same with "questions" for "vqa_list"; skills may be left out
    DPG-Bench   .csv: text, question_natural_language, category_broad (the skill); every answer is
                yes

"How many ...?" is answered by a number, in words or digits; every other question by its answer.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from evaluation.errors import EvaluationError
from evaluation.tables import read_jsonl, read_table

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
