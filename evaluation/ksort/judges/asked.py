"""What every judge that is asked in words has in common: question, strict answer, kept judgments.

A vision-language model is shown five images under the names Image 1 to Image 5 and answers with
the names, best first. All five are shown as JPEG of one size, as K-Sort Eval's authors do, so that
nothing but the picture tells which one is new. The answer may think aloud, stand in a code fence or
be JSON, but it must hold exactly one ranking; else it is asked for again. Each ranking is kept in a
file named by the content of its question (instruction, prompt, images, order, model), so none is
paid for twice, by two evaluations at once either, and an interrupted one goes on where it stopped.

Such models favour places. Each question is therefore shown in a drawn order, the mean place that
each position got is reported, and with `orders` above 1 the question is asked again with the images
moved on by one position each time, and the ranks are averaged: with 5, every image has stood
everywhere once, and a judge that looks at the position alone ends with five equal ranks.
"""

import fcntl
import hashlib
import io
import json
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import sqrt
from pathlib import Path
from typing import Any

from PIL import Image

from evaluation.errors import EvaluationError
from evaluation.ksort.judges import Asking, BudgetSpent, Question, Refused, seen
from evaluation.tables import write

FORM = """Answer with the five names only, best first, on one line, in exactly this form:
Image 3, Image 1, Image 5, Image 2, Image 4"""
QUESTIONS = {
    "house": """You compare five images made for one description, and rank them from best to worst.
Judge half by looks (photographic or artistic quality, light, no flaws or distortions) and half by
fidelity (everything that is described is there, in the style that is asked for).
Description: {prompt}
"""
    + FORM,
    # The weights that K-Sort Eval's authors state (arXiv 2602.09411 and its code).
    "published": """You are given five images. Rank them from best to worst by visual aesthetics
(50%) and by alignment with the description (50%): {prompt}
Aesthetics is photorealism (30%), light and shadow (10%) and absence of artifacts (10%); alignment
is entity matching (30%) and style matching (20%). A ranking must always be given.
"""
    + FORM,
    # The dimensions of UnifiedReward (arXiv 2503.05236), judged one after the other before ranking.
    "unified": """You compare five images made for one caption. For each image judge, step by step:
semantic alignment (objects, attributes, numbers, actions and places of the caption), visual
coherence (anatomy, geometry, text, no artifacts), and style and aesthetics. Give each image a mark
from 1 to 10 in each of the three, and add the marks up.
Caption: {prompt}
Then, as the last line of your answer, rank the images by their sums, best first, exactly so:
Image 3, Image 1, Image 5, Image 2, Image 4""",
}
AGAIN = (
    "That was not a ranking of the five images. Answer with one line only, in exactly this form: "
    "Image 3, Image 1, Image 5, Image 2, Image 4"
)
SCHEMA = {
    "type": "object",
    "properties": {"ranking": {"type": "array", "items": {"type": "integer"}}},
    "required": ["ranking"],
    "additionalProperties": False,
}  # of an answer, for endpoints that hold their models to one
NAME = r'"?\s*(?:[Ii]mage\s*)?([1-5])\s*"?'
RANKING = re.compile(rf"\s*\[?\s*{NAME}" + rf"\s*[,>]\s*{NAME}" * 4 + r"\s*\]?\s*\.?\s*")
THOUGHT = re.compile(r"<(think|thinking|reasoning)>.*?(</\1>|\Z)", re.DOTALL | re.IGNORECASE)
TRIES = 3  # how often a judge is asked for an answer that parses
TOKENS = ("prompt_tokens", "completion_tokens")

Message = dict[str, Any]  # {"role": ..., "content": [text str or JPEG bytes, ...]}


def parse_ranking(answer: str) -> list[int] | None:
    """Shown numbers 1-5, best first, of an answer; None unless it holds one ranking only.

    A ranking stands alone on a line ("Image 3, Image 1, ...") or is {"ranking": [3, 1, ...]}.
    """
    said = THOUGHT.sub("", answer)
    lines = [re.sub(r"^\W*(final )?(ranking|answer)\W*:\s*|[*`]", "", line, flags=re.IGNORECASE)
             for line in said.split("\n")]  # fmt: skip
    lists = re.findall(r'"ranking"\s*:\s*(\[[^\]]*\])', said)
    found = [RANKING.fullmatch(line) for line in [*lines, *(" ".join(x.split()) for x in lists)]]
    orders = {tuple(int(number) for number in match.groups()) for match in found if match}
    if len(orders) != 1:
        return None
    order = list(orders.pop())
    return order if sorted(order) == [1, 2, 3, 4, 5] else None


def shown_image(path: Path, size: int) -> bytes:
    """An image as the judge reads it: JPEG, the longer side at most `size` pixels."""
    image = seen(path)
    image.thumbnail((size, size), Image.Resampling.LANCZOS)
    sink = io.BytesIO()
    image.save(sink, format="JPEG", quality=95, subsampling=0)
    return sink.getvalue()


class AskedJudge(ABC):
    """A judge that answers questions in words.

    Parameters
    ----------
    name : as on the command line, for messages and the result.
    identity : what decides the answer besides the question: the model, and where it is.
    cache : folder where judgments are kept, one file each.
    asking : how it is asked.
    """

    def __init__(self, name: str, identity: Sequence[str], cache: Path, asking: Asking):
        if not 1 <= asking.orders <= 5:
            raise EvaluationError(
                f"{name}: five images have 1 to 5 rotations, not {asking.orders} orders"
            )
        self.name = name
        self.identity = list(identity)
        self.cache = cache
        self.asking = asking
        self.cost = {"requests": 0, "kept": 0, "refused": 0, **dict.fromkeys(TOKENS, 0)}
        self.spent_before = dict.fromkeys(TOKENS, 0)  # on the judgments that were kept
        self.places: list[list[int]] = []  # of each judgment: the place of each shown position

    @abstractmethod
    def ask(self, messages: Sequence[Message]) -> tuple[str, dict[str, int]]:
        """Send one conversation; returns the answer and the tokens that it took."""

    def rank(self, question: Question) -> list[float]:
        """Five ranks in the data set's order, averaged over the orders asked."""
        jpegs = [shown_image(path, self.asking.size) for path in question.images]
        totals = [0] * 5  # whole numbers, so that equal sums stay equal
        for turn in range(self.asking.orders):
            shown = (*question.shown[turn:], *question.shown[:turn])
            order = self.ranking(question, shown, jpegs)
            places = [order.index(position + 1) for position in range(5)]
            self.places.append(places)
            for position, image in enumerate(shown):
                totals[image] += places[position]
        return [total / self.asking.orders for total in totals]

    def summary(self) -> dict[str, Any]:
        """Name, what this run cost, what the kept answers had cost, and the position bias.

        mean_place_by_position: 0 best, 4 worst; 2 each where position does not matter, give or
        take mean_place_error (one standard error, as the order shown is drawn).
        """
        count = max(len(self.places), 1)
        bias = [sum(column) / count for column in zip(*self.places, strict=True)]
        return {
            "name": self.name,
            "orders": self.asking.orders,
            "question": self.asking.question,
            "size": self.asking.size,
            **self.cost,
            "spent_before": self.spent_before,
            "mean_place_by_position": bias,
            "mean_place_error": sqrt(2 / count),
        }

    def estimate(self, rounds: int) -> str:
        """One sentence: at most how many requests and tokens so many rounds will take.

        Of images the usual count of hosted models is taken: 85 tokens and 170 for each tile of 512
        pixels; the rest is the words of the question and a short answer.
        """
        tiles = max(1, -(-self.asking.size // 512)) ** 2
        requests = rounds * self.asking.orders
        if self.asking.max_requests is not None:
            requests = min(requests, self.asking.max_requests)
        tokens = requests * (5 * (85 + 170 * tiles) + 200)
        return (
            f"judge: at most {requests} requests, about {tokens:,} tokens in and "
            f"{20 * requests:,} out (more where it thinks aloud)"
        )

    def ranking(self, question: Question, shown: Sequence[int], jpegs: list[bytes]) -> list[int]:
        """Shown numbers, best first: kept from before, or asked for now and kept."""
        messages = self.conversation(question, [jpegs[image] for image in shown])
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
            write(path, json.dumps(record).encode())
        return order

    def conversation(self, question: Question, jpegs: Sequence[bytes]) -> list[Message]:
        """The one message that asks: the instruction, then each image under its shown name."""
        content: list[str | bytes] = [
            QUESTIONS[self.asking.question].replace("{prompt}", question.prompt)
        ]
        for number, jpeg in enumerate(jpegs, start=1):
            content += [f"Image {number}:", jpeg]
        return [{"role": "user", "content": content}]

    def judge(
        self, question: Question, messages: list[Message]
    ) -> tuple[list[int], dict[str, int]]:
        """Ask until the answer is a ranking; raises Refused after TRIES answers."""
        first, total, answer = messages[0], dict.fromkeys(TOKENS, 0), ""
        for _ in range(TRIES):
            answer, usage = self.ask(messages)
            for name in TOKENS:
                total[name] += usage.get(name, 0)
                self.cost[name] += usage.get(name, 0)
            if (order := parse_ranking(answer)) is not None:
                return order, total
            said = {"role": "assistant", "content": [answer]}
            messages = [first, said, {"role": "user", "content": [AGAIN]}]
        self.cost["refused"] += 1
        raise Refused(
            f"{self.name} gave no ranking of {question.instance} in {TRIES} answers; "
            f"the last was {answer[:120]!r}"
        )

    def count_request(self) -> None:
        """Note one more request; raises BudgetSpent where none is left."""
        if self.cost["requests"] == self.asking.max_requests:
            raise BudgetSpent
        self.cost["requests"] += 1

    def content_key(self, messages: Sequence[Message]) -> str:
        """Digest of everything that decides the answer."""
        parts = [
            part if isinstance(part, str) else hashlib.sha256(part).hexdigest()
            for message in messages
            for part in message["content"]
        ]
        return hashlib.sha256(json.dumps([self.identity, parts]).encode()).hexdigest()


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
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return record if whole else None
