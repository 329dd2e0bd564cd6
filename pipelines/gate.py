"""What stands before Dagster's web server: only the operator's own browser gets through.

Dagster's server itself answers any Host, takes mutations by GET and accepts websockets from any
page, so a web site that the operator visits could start runs on a server that listens on loopback
only. Refused here, with 403 and one sentence:

- a Host that is no name of this machine: a foreign name that was bound to 127.0.0.1 (rebinding);
- an Origin other than the page's own, for every method and for websockets;
- whatever a browser says that another page asked for, unless a person followed a link;
- a query in the address of /graphql, which is where a GET, a HEAD or a form would put a mutation.
  The page's own requests carry only a label there, `?op=NAME`, which the server does not read.
"""

from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl, urlsplit

LOOPBACK = "127.0.0.1"
LOOPBACK_NAMES = (LOOPBACK, "localhost", "::1")
OF_THIS_PAGE = ("same-origin", "none")  # Sec-Fetch-Site: the page itself, or a person's address bar
# No other page may show this one in a frame and have it clicked.
FRAME = (b"x-frame-options", b"SAMEORIGIN")


class Gate:
    """An ASGI application before another one; app: what answers the requests that get through."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Mapping[str, Any], receive: Any, send: Any) -> None:
        """Refuse a request, or hand it on."""
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
        elif (said := refusal(scope)) is None:

            async def framed(message: dict[str, Any]) -> None:
                if message["type"] == "http.response.start":
                    message["headers"] = [*message.get("headers", ()), FRAME]
                await send(message)

            await self.app(scope, receive, framed)
        elif scope["type"] == "websocket":
            await receive()  # websocket.connect, which must come before the answer
            await send({"type": "websocket.close", "code": 1008, "reason": said})
        else:
            headers = [(b"content-type", b"text/plain; charset=utf-8")]
            await send({"type": "http.response.start", "status": 403, "headers": headers})
            await send({"type": "http.response.body", "body": f"{said}\n".encode()})


def refusal(scope: Mapping[str, Any]) -> str | None:
    """Return in one sentence why a request is refused, None where it is not."""
    headers: dict[str, list[str]] = {}
    for key, value in scope["headers"]:
        headers.setdefault(key.decode("latin-1").lower(), []).append(value.decode("latin-1"))
    hosts = headers.get("host", [])
    if len(hosts) != 1 or _name(f"//{hosts[0]}") not in LOOPBACK_NAMES:
        return "these pages are served to this machine only: ask for 127.0.0.1 or localhost"
    origins = headers.get("origin", [])
    if any(urlsplit(each).netloc.lower() != hosts[0].lower() for each in origins):
        return "another page may not ask this one"
    sites, modes = headers.get("sec-fetch-site", []), headers.get("sec-fetch-mode", [])
    followed = modes == ["navigate"] and scope.get("method") == "GET"
    if any(each not in OF_THIS_PAGE for each in sites) and not followed:
        return "another page may not ask this one"
    asked = parse_qsl(scope.get("query_string", b"").decode("latin-1"), keep_blank_values=True)
    if "graphql" in scope["path"].lower() and {key for key, _ in asked} - {"op"}:
        return "GraphQL is asked by POST, its query in the body"
    return None


def _name(url: str) -> str | None:
    try:
        return urlsplit(url).hostname
    except ValueError:
        return None
