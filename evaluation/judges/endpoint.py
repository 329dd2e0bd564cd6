"""A vision-language model behind an OpenAI-compatible endpoint as judge.

OPENAI_BASE_URL names the endpoint (https://api.openai.com/v1 otherwise) and OPENAI_API_KEY the
key, which is sent in the header and written nowhere. Five images are shown in the question's
order and ranked at once. The answer is parsed strictly and asked for again when it is anything
but a ranking; time-outs, broken connections, 429 and 5xx are tried again after a growing pause;
every judgment is kept by the content of its question, so none is paid for twice and an
interrupted evaluation goes on where it stopped.
"""

import base64
import hashlib
import http.client
import json
import os
import random
import re
import sys
import time
import urllib.error
import urllib.request
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
TRIES = 6  # how often a request is sent before the endpoint counts as down
LONGEST_PAUSE = 60.0
KINDS = {".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg"}


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect would carry the key to another host: it is an error instead."""

    def redirect_request(self, *_: Any) -> None:
        return None


class Unusable(Exception):
    """A passing fault of the endpoint: worth another try after a pause of `pause` seconds."""

    def __init__(self, reason: str, pause: float | None = None):
        super().__init__(reason)
        self.pause = pause


def parse_ranking(answer: str) -> list[int] | None:
    """Shown numbers 1-5, best first, of "Image 3, Image 1, ..."; None for anything else."""
    match = RANKING.fullmatch(answer)
    if match is None:
        return None
    order = [int(number) for number in match.groups()]
    return order if sorted(order) == [1, 2, 3, 4, 5] else None


class EndpointJudge:
    """Asks MODEL at an OpenAI-compatible endpoint.

    Parameters
    ----------
    model : the model's name at the endpoint.
    cache : folder where judgments are kept, one file each.
    timeout : seconds without an answer after which a request counts as lost.
    pause : seconds before the second try; doubled for each further one.
    """

    def __init__(self, model: str, cache: Path, *, timeout: float = 120.0, pause: float = 1.0):
        self.model = model
        self.cache = cache
        self.timeout = timeout
        self.pause = pause
        default = "https://api.openai.com/v1"
        self.endpoint = os.environ.get("OPENAI_BASE_URL", default).rstrip("/")
        self.key = os.environ.get("OPENAI_API_KEY", "")
        if not self.endpoint.startswith(("http://", "https://")):
            raise EvaluationError("OPENAI_BASE_URL is not an http or https address")
        if not self.key and self.endpoint == default:
            raise EvaluationError(
                "openai: set OPENAI_API_KEY, or OPENAI_BASE_URL to an endpoint that needs none"
            )
        self.opener = urllib.request.build_opener(_NoRedirect)
        self.cost = {"requests": 0, "kept": 0, "prompt_tokens": 0, "completion_tokens": 0}
        self.places: list[list[int]] = []  # of each judgment: the place of each shown position

    def rank(self, question: Question) -> list[float]:
        """Five ranks in the data set's order, from the cache or from the endpoint."""
        content = self.question(question)
        path = self.cache / f"{self.content_key(content)}.json"
        order = self.kept(path)
        if order is None:
            order, usage = self.judge(question, content)
            record = {
                "instance": question.instance,
                "model": self.model,
                "ranking": order,
                "shown": question.shown,
                "usage": usage,
            }
            write_bytes(path, json.dumps(record).encode())
        else:
            self.cost["kept"] += 1
        places = [order.index(position + 1) for position in range(5)]
        self.places.append(places)
        ranks = [0.0] * 5
        for position, image in enumerate(question.shown):
            ranks[image] = float(places[position])
        return ranks

    def summary(self) -> dict[str, Any]:
        """Name, what this run cost, and the mean place (0 best, 2 fair) of each shown position."""
        count = max(len(self.places), 1)
        bias = [sum(column) / count for column in zip(*self.places, strict=True)]
        return {
            "name": f"openai:{self.model}",
            "endpoint": self.endpoint,
            **self.cost,
            "mean_place_by_position": bias,
        }

    def question(self, question: Question) -> list[dict[str, Any]]:
        """The message's parts: the instruction, then each image under its shown name."""
        text = INSTRUCTION.format(prompt=question.prompt)
        parts: list[dict[str, Any]] = [{"type": "text", "text": text}]
        for number, image in enumerate(question.shown, start=1):
            path = question.images[image]
            encoded = base64.b64encode(path.read_bytes()).decode()
            url = f"data:{KINDS[path.suffix.lower()]};base64,{encoded}"
            parts.append({"type": "text", "text": f"Image {number}:"})
            parts.append({"type": "image_url", "image_url": {"url": url}})
        return parts

    def content_key(self, content: list[dict[str, Any]]) -> str:
        """Digest of everything that decides the answer."""
        text = json.dumps([self.endpoint, self.model, content], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def kept(self, path: Path) -> list[int] | None:
        """The ranking kept in a file, if there is a whole one."""
        try:
            order = json.loads(path.read_text())["ranking"]
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return order if sorted(order) == [1, 2, 3, 4, 5] else None

    def judge(
        self, question: Question, content: list[dict[str, Any]]
    ) -> tuple[list[int], dict[str, int]]:
        """Ask until the answer is a ranking; raises EvaluationError after QUESTIONS answers."""
        messages: list[dict[str, Any]] = [{"role": "user", "content": content}]
        total = {"prompt_tokens": 0, "completion_tokens": 0}
        answer = ""
        for _ in range(QUESTIONS):
            answer, usage = self.ask(messages)
            for name in total:
                total[name] += usage.get(name, 0)
                self.cost[name] += usage.get(name, 0)
            if (order := parse_ranking(answer)) is not None:
                return order, total
            messages = [
                messages[0],
                {"role": "assistant", "content": answer},
                {"role": "user", "content": AGAIN},
            ]
        raise EvaluationError(
            f"openai:{self.model} gave no ranking of {question.instance} in {QUESTIONS} answers; "
            f"the last was {self.without_key(answer)[:120]!r}"
        )

    def ask(self, messages: list[dict[str, Any]]) -> tuple[str, dict[str, int]]:
        """Send one question, again after passing faults; returns the answer and its tokens."""
        pause = self.pause
        reason = ""
        for attempt in range(TRIES):
            try:
                self.cost["requests"] += 1
                return self.send({"model": self.model, "temperature": 0, "messages": messages})
            except Unusable as fault:
                reason = str(fault)
                if attempt == TRIES - 1:
                    break
                wait = min(fault.pause or pause * random.uniform(1, 1.5), LONGEST_PAUSE)
                print(f"  judge: {reason}; again in {wait:.1f} s", file=sys.stderr)
                time.sleep(wait)
                pause *= 2
        raise EvaluationError(
            f"the judge at {self.endpoint} did not answer in {TRIES} tries, last: {reason}; run "
            "the same command again to go on from here"
        )

    def send(self, body: dict[str, Any]) -> tuple[str, dict[str, int]]:
        """One request. Raises Unusable for a passing fault, EvaluationError for a lasting one."""
        headers = {"Content-Type": "application/json"}
        if self.key:
            headers["Authorization"] = f"Bearer {self.key}"
        request = urllib.request.Request(
            f"{self.endpoint}/chat/completions", json.dumps(body).encode(), headers
        )
        try:
            with self.opener.open(request, timeout=self.timeout) as response:
                reply = json.loads(response.read())
        except urllib.error.HTTPError as error:
            text = self.without_key(error.read(500).decode(errors="replace"))
            if error.code in (408, 409, 425, 429) or error.code >= 500:
                raise Unusable(f"HTTP {error.code}", retry_after(error)) from error
            raise EvaluationError(
                f"the judge at {self.endpoint} refused: HTTP {error.code} {text}"
            ) from error
        except (OSError, http.client.HTTPException) as error:
            raise Unusable(f"no answer ({type(error).__name__})") from error
        except ValueError as error:
            raise Unusable("an answer that is not JSON") from error
        try:
            answer = reply["choices"][0]["message"]["content"]
            usage = reply.get("usage") or {}
            tokens = {k: int(v) for k, v in usage.items() if isinstance(v, int)}
        except (KeyError, IndexError, TypeError, AttributeError) as error:
            raise Unusable("an answer without choices[0].message.content") from error
        return answer if isinstance(answer, str) else "", tokens

    def without_key(self, text: str) -> str:
        """The text with the key taken out, should the endpoint have echoed it."""
        return text.replace(self.key, "***") if self.key else text


def retry_after(error: urllib.error.HTTPError) -> float | None:
    """Seconds the endpoint asked to wait, where it did."""
    try:
        return max(0.0, float(error.headers.get("Retry-After", "")))
    except ValueError:
        return None
