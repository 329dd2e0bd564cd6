"""What every judge that is asked in words has in common: question, strict answer, kept judgments.

A vision-language model is shown five images under the names Image 1 to Image 5 and answers with
the names, best first. An answer that is anything but a ranking is asked for again. Each ranking is
kept in a file named by the content of its question (instruction, prompt, pixels, order, model), so
none is paid for twice, by two evaluations at once either, and an interrupted one goes on where it
stopped. How the model is reached is told in `endpoint` and `local`.

Such models favour places. Each question is therefore shown in a drawn order, the mean place that
each position got is reported, and with `orders` above 1 the question is asked again with the images
moved on by one position each time, and the ranks are averaged: with 5, every image has stood
everywhere once, and a judge that looks at the position alone ends with five equal ranks.
"""

import fcntl
import hashlib
import json
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import sqrt
from pathlib import Path
from typing import Any

from evaluation.errors import EvaluationError
from evaluation.judges import Question
from evaluation.tables import write_bytes

INSTRUCTION = """You compare five images made for one description, and rank them from best to worst.
Judge half by looks (photographic or artistic quality, light, no flaws or distortions) and half by
fidelity (everything that is described is there, in the style that is asked for).
Description: {prompt}
Answer with the five names only, best first, on one line, in exactly this form:
Image 3, Image 1, Image 5, Image 2, Image 4"""
AGAIN = (
    "That was not a ranking of the five images. Answer with one line only, in exactly this form: "
    "Image 3, Image 1, Image 5, Image 2, Image 4"
)
NAME = r'"?\s*(?:[Ii]mage\s*)?([1-5])\s*"?'
RANKING = re.compile(rf"\s*\[?\s*{NAME}" + rf"\s*[,>]\s*{NAME}" * 4 + r"\s*\]?\s*\.?\s*")
QUESTIONS = 3  # how often a judge is asked for an answer that parses
TOKENS = ("prompt_tokens", "completion_tokens")

Message = dict[str, Any]  # {"role": ..., "content": [text str or image Path, ...]}


def parse_ranking(answer: str) -> list[int] | None:
    """Shown numbers 1-5, best first, of "Image 3, Image 1, ..."; None for anything else."""
    match = RANKING.fullmatch(answer)
    if match is None:
        return None
    order = [int(number) for number in match.groups()]
    return order if sorted(order) == [1, 2, 3, 4, 5] else None


class AskedJudge(ABC):
    """A judge that answers questions in words.

    Parameters
    ----------
    name : as on the command line, for messages and the result.
    identity : what decides the answer besides the question: the model, and where it is.
    cache : folder where judgments are kept, one file each.
    orders : in how many orders each question is asked, 1 to 5.
    """

    def __init__(self, name: str, identity: Sequence[str], cache: Path, orders: int = 1):
        if not 1 <= orders <= 5:
            raise EvaluationError(f"{name}: five images have 1 to 5 rotations, not {orders} orders")
        self.name = name
        self.identity = list(identity)
        self.cache = cache
        self.orders = orders
        self.cost = {"requests": 0, "kept": 0, **dict.fromkeys(TOKENS, 0)}
        self.spent_before = dict.fromkeys(TOKENS, 0)  # on the judgments that were kept
        self.places: list[list[int]] = []  # of each judgment: the place of each shown position

    @abstractmethod
    def ask(self, messages: Sequence[Message]) -> tuple[str, dict[str, int]]:
        """Send one conversation; returns the answer and the tokens that it took."""

    def rank(self, question: Question) -> list[float]:
        """Five ranks in the data set's order, averaged over the orders asked."""
        ranks = [0.0] * 5
        for turn in range(self.orders):
            shown = (*question.shown[turn:], *question.shown[:turn])
            order = self.ranking(question, shown)
            places = [order.index(position + 1) for position in range(5)]
            self.places.append(places)
            for position, image in enumerate(shown):
                ranks[image] += places[position] / self.orders
        return ranks

    def summary(self) -> dict[str, Any]:
        """Name, what this run cost, what the kept answers had cost, and the position bias.

        mean_place_by_position: 0 best, 4 worst; 2 each where position does not matter, give or
        take mean_place_error (one standard error, as the order shown is drawn).
        """
        count = max(len(self.places), 1)
        bias = [sum(column) / count for column in zip(*self.places, strict=True)]
        return {
            "name": self.name,
            "orders": self.orders,
            **self.cost,
            "spent_before": self.spent_before,
            "mean_place_by_position": bias,
            "mean_place_error": sqrt(2 / count),
        }

    def ranking(self, question: Question, shown: Sequence[int]) -> list[int]:
        """Shown numbers, best first: kept from before, or asked for now and kept."""
        messages = conversation(question, shown)
        path = self.cache / f"{self.content_key(messages)}.json"
        with only_one(path):
            if (kept := read_kept(path)) is not None:
                self.cost["kept"] += 1
                for name in TOKENS:
                    self.spent_before[name] += kept["usage"].get(name, 0)
                return kept["ranking"]
            order, usage = self.judge(question, messages)
            record = {
                "instance": question.instance,
                "judge": self.name,
                "ranking": order,
                "shown": shown,
                "usage": usage,
            }
            write_bytes(path, json.dumps(record).encode())
        return order

    def judge(
        self, question: Question, messages: list[Message]
    ) -> tuple[list[int], dict[str, int]]:
        """Ask until the answer is a ranking; raises EvaluationError after QUESTIONS answers."""
        first, total, answer = messages[0], dict.fromkeys(TOKENS, 0), ""
        for _ in range(QUESTIONS):
            answer, usage = self.ask(messages)
            for name in TOKENS:
                total[name] += usage.get(name, 0)
                self.cost[name] += usage.get(name, 0)
            if (order := parse_ranking(answer)) is not None:
                return order, total
            said = {"role": "assistant", "content": [answer]}
            messages = [first, said, {"role": "user", "content": [AGAIN]}]
        raise EvaluationError(
            f"{self.name} gave no ranking of {question.instance} in {QUESTIONS} answers; "
            f"the last was {answer[:120]!r}"
        )

    def content_key(self, messages: Sequence[Message]) -> str:
        """Digest of everything that decides the answer."""
        parts = [
            part if isinstance(part, str) else hashlib.sha256(part.read_bytes()).hexdigest()
            for message in messages
            for part in message["content"]
        ]
        return hashlib.sha256(json.dumps([self.identity, parts]).encode()).hexdigest()


def conversation(question: Question, shown: Sequence[int]) -> list[Message]:
    """The one message that asks: the instruction, then each image under its shown name."""
    content: list[str | Path] = [INSTRUCTION.format(prompt=question.prompt)]
    for number, image in enumerate(shown, start=1):
        content += [f"Image {number}:", question.images[image]]
    return [{"role": "user", "content": content}]


@contextmanager
def only_one(path: Path) -> Iterator[None]:
    """Keep every other evaluation from asking for the judgment in `path` meanwhile.

    The kernel lets go when the process ends, however it ends. The lock's file goes once the
    judgment is there: whoever still waits for it then finds the judgment.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = path.with_suffix(".lock")
    with lock.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
        lock.unlink(missing_ok=True)


def read_kept(path: Path) -> dict[str, Any] | None:
    """The judgment kept in a file, if there is a whole one."""
    try:
        record = json.loads(path.read_text())
        whole = sorted(record["ranking"]) == [1, 2, 3, 4, 5] and isinstance(record["usage"], dict)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return record if whole else None
