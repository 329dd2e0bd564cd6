"""How an alert reaches people: a program of the study's, and an address that JSON is posted to."""

import http.client
import json
import os
import subprocess
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import urlsplit

from assets.environment import short
from assets.study import Study

SECONDS = 10
Fields = dict[str, str]


def undelivered(
    study: Study, event: Fields, to: Sequence[str], say: Callable[[str], object]
) -> list[str]:
    """Give an event to each of `to` that the study names; return those that it did not reach."""
    left = []
    for name, send in (("command", _run_command), ("webhook", _post)):
        if name in to and getattr(study.alerts, name):
            try:
                send(study, event)
            except (OSError, ValueError, subprocess.SubprocessError) as error:
                said = f"it took longer than {SECONDS} s" if _is_timeout(error) else str(error)
                say(f"alerts.{name} could not be told of {event['id']} yet: {said}")
                left.append(name)
    return left


def _run_command(study: Study, event: Fields) -> None:
    named = {f"ARENAPO_ALERT_{key.upper()}": value for key, value in event.items()}
    done = subprocess.run(
        study.alerts.command,
        cwd=study.path.parent,
        input=json.dumps(event),
        env=short(os.environ, study.jobs.environment) | named,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=SECONDS,
        check=False,
    )
    if done.returncode:
        words = done.stderr.strip().splitlines()
        raise ValueError(f"exit status {done.returncode}{f': {words[-1]}' if words else ''}")


def _post(study: Study, event: Fields) -> None:
    address = study.alerts.webhook or ""
    if address.startswith("$"):
        named = os.environ.get(address[1:], "")
        if not named.startswith(("http://", "https://")):
            raise ValueError(f"the environment variable {address[1:]} holds no http(s) address")
        address = named
    headers = {"Content-Type": "application/json", "User-Agent": "arenapo"}
    # The address may be a secret and errors repeat it: only its host and what went wrong are said.
    try:
        body = json.dumps(event).encode()
        request = urllib.request.Request(address, body, headers, method="POST")
        urllib.request.build_opener(NoRedirect).open(request, timeout=SECONDS).close()
    except urllib.error.HTTPError as error:
        raise ValueError(f"{urlsplit(address).hostname}: it answered {error.code}") from None
    except (OSError, ValueError, http.client.HTTPException) as error:
        cause = getattr(error, "reason", error)
        number = getattr(cause, "errno", None)
        said = os.strerror(number) if number else type(cause).__name__
        raise ValueError(f"{urlsplit(address).hostname}: {said}") from None


class NoRedirect(urllib.request.HTTPRedirectHandler):
    """Leaves a redirect as the error it is: an event goes to the address that the study names."""

    def redirect_request(self, *_: Any) -> None:
        """Return no request to go on with."""


def _is_timeout(error: Exception) -> bool:
    return isinstance(error, subprocess.TimeoutExpired)
