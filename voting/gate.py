"""What stands before Dagster's and the voting page: only a browser that a person sent gets through.

Dagster's server itself answers any Host, takes mutations by GET and accepts websockets from any
page, so a web site that the operator visits could start runs on a server that listens on loopback
only. Refused here, with 403 and one sentence:

- a Host that is no name of this page: a foreign name that was bound to 127.0.0.1 (rebinding);
- an Origin other than the page's own, for every method and for websockets;
- whatever a browser says that another page asked for, unless a person followed a link;
- a query in the address of /graphql, which is where a GET, a HEAD or a form would put a mutation.
  Dagster's own requests carry only a label there, `?op=NAME`, which the server does not read.
"""

from collections.abc import Collection, Mapping
from ipaddress import ip_address
from math import inf
from urllib.parse import parse_qsl, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOOPBACK = "127.0.0.1"
LOOPBACK_NAMES = (LOOPBACK, "localhost", "::1")
OF_THIS_PAGE = ("same-origin", "none")  # Sec-Fetch-Site: the page itself, or a person's address bar
# No other page may show this one in a frame and have it clicked.
FRAME = {"X-Frame-Options": "SAMEORIGIN"}


class Gate:
    """An ASGI application before another one.

    app: what answers the requests that get through. hosts: the names under which the page is
    reached, without a port; None takes any. headers: added to every answer. most_bytes: of a body
    whose length is stated.
    """

    def __init__(
        self,
        app: ASGIApp,
        hosts: Collection[str] | None = LOOPBACK_NAMES,
        headers: Mapping[str, str] = FRAME,
        most_bytes: float = inf,
    ) -> None:
        self.app, self.hosts, self.headers, self.most_bytes = app, hosts, headers, most_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse a request, or hand it on."""

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(self.headers)
            await send(message)

        known, status = scope["type"] in ("http", "websocket"), 403
        said = refusal(scope, self.hosts) if known else None
        length = Headers(scope=scope).get("content-length", "0") if known else "0"
        if said is None and not (length.isdecimal() and float(length[:20]) <= self.most_bytes):
            said, status = f"a request has at most {self.most_bytes:,} bytes", 413
        if said is None:
            await self.app(scope, receive, send_with_headers if known else send)
        elif scope["type"] == "websocket":
            await receive()  # websocket.connect, which must come before the answer
            await send({"type": "websocket.close", "code": 1008, "reason": said})
        else:
            await JSONResponse({"detail": said}, status)(scope, receive, send_with_headers)


def refusal(scope: Scope, names: Collection[str] | None) -> str | None:
    """Return in one sentence why a request is refused, None where it is not."""
    headers = Headers(scope=scope)
    hosts, origins = headers.getlist("host"), headers.getlist("origin")
    if len(hosts) != 1 or not (names is None or _name(f"//{hosts[0]}") in names):
        return f"this page is served under these names only: {', '.join(names or ())}"
    if any(urlsplit(each).netloc.lower() != hosts[0].lower() for each in origins):
        return "another page may not ask this one"
    sites, modes = headers.getlist("sec-fetch-site"), headers.getlist("sec-fetch-mode")
    followed = modes == ["navigate"] and scope.get("method") == "GET"
    if any(each not in OF_THIS_PAGE for each in sites) and not followed:
        return "another page may not ask this one"
    asked = parse_qsl(scope.get("query_string", b"").decode("latin-1"), keep_blank_values=True)
    if "graphql" in scope["path"].lower() and {key for key, _ in asked} - {"op"}:
        return "GraphQL is asked by POST, its query in the body"
    return None


def is_loopback(host: str) -> bool:
    """Tell whether only this machine reaches a host's address."""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def _name(url: str) -> str | None:
    try:
        return urlsplit(url).hostname
    except ValueError:
        return None
