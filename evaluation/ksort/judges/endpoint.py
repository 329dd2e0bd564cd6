"""A vision-language model behind an OpenAI-compatible endpoint as judge.

OPENAI_BASE_URL names the endpoint (https://api.openai.com/v1 otherwise; Azure's is
https://NAME.openai.azure.com/openai/v1) and OPENAI_API_KEY the key, which is sent in the header
and written nowhere; of the address only scheme and host are shown. A request has a deadline for
the whole answer. Time-outs, broken connections, 429 and 5xx are tried again after a growing pause;
what will not get better (a wrong key, an empty account) ends at once in one sentence, and a
question that is refused for its content is left out. What is asked, how the answer is read and
where it is kept is in `asked`.

httpx comes with huggingface_hub; the openai package would add 12 MB for what is 60 lines here, and
its time-out, too, is one for each read, which a server that drips never meets.
"""

import asyncio
import base64
import hashlib
import json
import os
import random
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from time import sleep as pause_for
from typing import Any
from urllib.parse import urlsplit

import httpx

from evaluation.errors import EvaluationError
from evaluation.ksort.judges import Asking, Refused
from evaluation.ksort.judges.asked import SCHEMA, AskedJudge, Message

TRIES = 6  # how often a request is sent before the endpoint counts as down
LONGEST_PAUSE = 60.0
LONGEST_ANSWER = 1 << 22  # bytes
OPENAI = "https://api.openai.com/v1"
PASSING = (408, 409, 425, 429)
CONTENT = ("content_policy", "content_filter", "content policy", "safety", "moderation")
FORMAT = {
    "type": "json_schema",
    "json_schema": {"name": "ranking", "strict": True, "schema": SCHEMA},
}


class Unusable(Exception):
    """A passing fault of the endpoint: worth another try after a pause of `pause` seconds."""

    def __init__(self, reason: str, pause: float | None = None):
        super().__init__(reason)
        self.pause = pause


class EndpointJudge(AskedJudge):
    """Asks MODEL at an OpenAI-compatible endpoint.

    Parameters
    ----------
    model : the model's name at the endpoint.
    cache, asking : see `AskedJudge`.
    deadline : seconds in which the whole answer must be there.
    pause : seconds before the second try; doubled for each further one.
    """

    def __init__(
        self,
        model: str,
        cache: Path,
        asking: Asking,
        *,
        deadline: float = 180.0,
        pause: float = 1.0,
    ):
        base, self.key = read_settings()
        self.url = f"{base}/chat/completions"
        self.place = f"{urlsplit(base).scheme}://{urlsplit(base).netloc}"
        # Read once: that takes longer than a request.
        self.certificates = base.startswith("https") and httpx.create_ssl_context()
        known = hashlib.sha256(base.encode()).hexdigest()
        super().__init__(f"openai:{model}", [known, model], cache, asking)
        self.settings: dict[str, Any] = {"model": model, "temperature": 0}
        self.settings |= {"max_tokens": asking.max_tokens, "response_format": FORMAT}
        self.deadline = deadline
        self.pause = pause

    def summary(self) -> dict[str, Any]:
        """The judge's summary with the endpoint's scheme and host."""
        return {"endpoint": self.place, **super().summary()}

    def ask(self, messages: Sequence[Message]) -> tuple[str, dict[str, int]]:
        """Send one question, again after passing faults; returns the answer and its tokens."""
        body = [{**message, "content": as_parts(message["content"])} for message in messages]
        pause, reason = self.pause, ""
        for attempt in range(TRIES):
            self.count_request()
            try:
                return self.read(*self.send({**self.settings, "messages": body}))
            except Unusable as fault:
                reason = str(fault)
                if attempt == TRIES - 1:
                    break
                wait = pause * random.uniform(1, 1.5) if fault.pause is None else fault.pause
                wait = min(wait, LONGEST_PAUSE)
                print(f"  judge: {reason}; again in {wait:.1f} s", file=sys.stderr)
                pause_for(wait)
                pause *= 2
        raise EvaluationError(
            f"the judge at {self.place} did not answer in {TRIES} tries, last: {reason}; run "
            "the same command again to go on from here"
        )

    def send(self, body: dict[str, Any]) -> tuple[int, httpx.Headers, bytes]:
        """One request: status, headers and body, all within the deadline; else Unusable."""
        headers = {"Authorization": f"Bearer {self.key}"} if self.key else {}

        async def whole() -> tuple[int, httpx.Headers, bytes]:
            async with (
                asyncio.timeout(self.deadline),
                httpx.AsyncClient(timeout=self.deadline, verify=self.certificates) as client,
                client.stream("POST", self.url, json=body, headers=headers) as response,
            ):
                content = b""
                async for chunk in response.aiter_bytes():
                    content += chunk
                    if len(content) > LONGEST_ANSWER:
                        raise Unusable("an answer without end")
                return response.status_code, response.headers, content

        try:
            return asyncio.run(whole())
        except (TimeoutError, httpx.HTTPError) as error:
            raise Unusable(f"no answer ({type(error).__name__})") from error
        except (ValueError, httpx.InvalidURL) as error:
            raise EvaluationError(f"the judge at {self.place}: {self.hidden(str(error))}") from None

    def read(
        self, status: int, headers: httpx.Headers, content: bytes
    ) -> tuple[str, dict[str, int]]:
        """The answer and its tokens.

        Raises Unusable for a passing fault, Refused for the question's content, EvaluationError for
        a lasting one.
        """
        text = self.hidden(content[:500].decode(errors="replace"))
        if status != 200:
            self.refuse(status, headers, text)
        try:
            reply = json.loads(content)
            choice = reply["choices"][0]
            answer = choice["message"].get("content")
            usage = reply.get("usage") or {}
            tokens = {k: v for k, v in usage.items() if isinstance(v, int)}
        except (ValueError, RecursionError) as error:
            raise Unusable("an answer that is not JSON") from error
        except (KeyError, IndexError, TypeError, AttributeError) as error:
            raise Unusable("an answer without choices[0].message") from error
        if isinstance(answer, list):  # content parts
            parts = [part.get("text") for part in answer if isinstance(part, dict)]
            answer = "\n".join(part for part in parts if isinstance(part, str))
        said = choice["message"].get("refusal")
        if said or choice.get("finish_reason") == "content_filter" or answer is None:
            self.cost["refused"] += 1
            reason = said or choice.get("finish_reason") or "no content"
            raise Refused(f"{self.name} refused: {self.hidden(str(reason))[:200]}")
        return self.hidden(str(answer)), tokens

    def refuse(self, status: int, headers: httpx.Headers, text: str) -> None:
        """Raise what an HTTP status means."""
        low = text.lower()
        if status == 429 and "insufficient_quota" in low:
            raise EvaluationError(f"the judge at {self.place}: the account is empty: {text}")
        if status in PASSING or status >= 500:
            after = headers.get("Retry-After", "")  # seconds, or a date, which is not waited for
            said = re.fullmatch(r"\d+(\.\d+)?", after.strip())
            raise Unusable(f"HTTP {status}", float(after) if said else None)
        if status in (400, 403) and any(word in low for word in CONTENT):
            self.cost["refused"] += 1
            raise Refused(f"{self.name} refused: HTTP {status} {text[:200]}")
        if status in (400, 422):
            if "max_completion_tokens" in low and "max_tokens" in self.settings:
                self.settings["max_completion_tokens"] = self.settings.pop("max_tokens")
                raise Unusable("this model counts its thoughts as well", 0.0)
            for name in ("temperature", "response_format", "max_tokens"):
                if name in self.settings and name in low:
                    del self.settings[name]
                    raise Unusable(f"this model takes no {name}", 0.0)
            if "json_schema" in low and self.settings.pop("response_format", None):
                raise Unusable("this model takes no json_schema", 0.0)
        raise EvaluationError(f"the judge at {self.place} refused: HTTP {status} {text}")

    def hidden(self, text: str) -> str:
        """The text with the key taken out, should the endpoint have echoed it."""
        return text.replace(self.key, "***") if self.key else text


def read_settings() -> tuple[str, str]:
    """(address, key) from the environment; raises EvaluationError where they cannot serve."""
    base = os.environ.get("OPENAI_BASE_URL", OPENAI).strip().rstrip("/")
    key = os.environ.get("OPENAI_API_KEY", "").strip()
    parts = urlsplit(base)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise EvaluationError("OPENAI_BASE_URL is not an http or https address")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise EvaluationError(
            "OPENAI_BASE_URL carries more than an address (a user, a password or a query); give "
            "the address alone, and the key in OPENAI_API_KEY"
        )
    if not key and base == OPENAI:
        raise EvaluationError(
            "openai: set OPENAI_API_KEY, or OPENAI_BASE_URL to an endpoint that needs none"
        )
    if not key.isascii() or not key.isprintable() or " " in key:
        raise EvaluationError(
            "OPENAI_API_KEY holds a line break or another character that no key has; set it again"
        )
    return base, key


def as_parts(content: Sequence[str | bytes]) -> str | list[dict[str, Any]]:
    """A message's content as the protocol wants it: text, or parts with images as data URLs."""
    if len(content) == 1 and isinstance(content[0], str):
        return content[0]
    parts: list[dict[str, Any]] = []
    for part in content:
        if isinstance(part, str):
            parts.append({"type": "text", "text": part})
        else:
            url = f"data:image/jpeg;base64,{base64.b64encode(part).decode()}"
            parts.append({"type": "image_url", "image_url": {"url": url}})
    return parts
