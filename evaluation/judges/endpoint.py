"""A vision-language model behind an OpenAI-compatible endpoint as judge.

OPENAI_BASE_URL names the endpoint (https://api.openai.com/v1 otherwise) and OPENAI_API_KEY the
key, which is sent in the header and written nowhere. Time-outs, broken connections, 429 and 5xx
are tried again after a growing pause; a refusal is one clear error. What is asked, how the answer
is read and where it is kept is in `asked`.
"""

import base64
import http.client
import json
import os
import random
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from evaluation.errors import EvaluationError
from evaluation.judges.asked import AskedJudge, Message

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


class EndpointJudge(AskedJudge):
    """Asks MODEL at an OpenAI-compatible endpoint.

    Parameters
    ----------
    model : the model's name at the endpoint.
    cache, orders : see `AskedJudge`.
    timeout : seconds without an answer after which a request counts as lost.
    pause : seconds before the second try; doubled for each further one.
    """

    def __init__(
        self,
        model: str,
        cache: Path,
        *,
        orders: int = 1,
        timeout: float = 120.0,
        pause: float = 1.0,
    ):
        default = "https://api.openai.com/v1"
        self.endpoint = os.environ.get("OPENAI_BASE_URL", default).rstrip("/")
        self.key = os.environ.get("OPENAI_API_KEY", "")
        if not self.endpoint.startswith(("http://", "https://")):
            raise EvaluationError("OPENAI_BASE_URL is not an http or https address")
        if not self.key and self.endpoint == default:
            raise EvaluationError(
                "openai: set OPENAI_API_KEY, or OPENAI_BASE_URL to an endpoint that needs none"
            )
        super().__init__(f"openai:{model}", [self.endpoint, model], cache, orders)
        self.settings: dict[str, Any] = {"model": model, "temperature": 0}
        self.timeout = timeout
        self.pause = pause
        self.opener = urllib.request.build_opener(_NoRedirect)

    def summary(self) -> dict[str, Any]:
        """The judge's summary with the endpoint's address."""
        return {"endpoint": self.endpoint, **super().summary()}

    def ask(self, messages: Sequence[Message]) -> tuple[str, dict[str, int]]:
        """Send one question, again after passing faults; returns the answer and its tokens."""
        body = [{**message, "content": as_parts(message["content"])} for message in messages]
        pause = self.pause
        reason = ""
        for attempt in range(TRIES):
            try:
                self.cost["requests"] += 1
                answer, usage = self.send({**self.settings, "messages": body})
                return self.without_key(answer), usage
            except Unusable as fault:
                reason = str(fault)
                if attempt == TRIES - 1:
                    break
                wait = pause * random.uniform(1, 1.5) if fault.pause is None else fault.pause
                wait = min(wait, LONGEST_PAUSE)
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
            raise self.refusal(error) from error
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

    def refusal(self, error: urllib.error.HTTPError) -> Exception:
        """What an HTTP status means: worth another try, or the end with the endpoint's words."""
        text = self.without_key(error.read(500).decode(errors="replace"))
        if error.code in (408, 409, 425, 429) or error.code >= 500:
            return Unusable(f"HTTP {error.code}", retry_after(error))
        if error.code == 400 and "temperature" in text and self.settings.pop("temperature", 1) == 0:
            return Unusable("this model takes no temperature", 0.0)  # as reasoning models do
        return EvaluationError(f"the judge at {self.endpoint} refused: HTTP {error.code} {text}")

    def without_key(self, text: str) -> str:
        """The text with the key taken out, should the endpoint have echoed it."""
        return text.replace(self.key, "***") if self.key else text


def as_parts(content: Sequence[str | Path]) -> str | list[dict[str, Any]]:
    """A message's content as the protocol wants it: text, or parts with images as data URLs."""
    if len(content) == 1 and isinstance(content[0], str):
        return content[0]
    parts: list[dict[str, Any]] = []
    for part in content:
        if isinstance(part, str):
            parts.append({"type": "text", "text": part})
        else:
            encoded = base64.b64encode(part.read_bytes()).decode()
            url = f"data:{KINDS[part.suffix.lower()]};base64,{encoded}"
            parts.append({"type": "image_url", "image_url": {"url": url}})
    return parts


def retry_after(error: urllib.error.HTTPError) -> float | None:
    """Seconds the endpoint asked to wait, where it did."""
    try:
        return max(0.0, float(error.headers.get("Retry-After", "")))
    except ValueError:
        return None
