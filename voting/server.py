"""The voting page over HTTP: the interface, the page's own files, and who may ask.

    GET  /api/pair         -> {token, prompt, image_a, image_b}
    POST /api/vote         {token, outcome: a | b | tie | both_bad} -> {votes, models}
    GET  /api/ranking      -> {token, prompt, images: [4]}
    POST /api/ranking      {token, ranks: [4]} -> {votes, models}
    POST /api/undo         {token} -> {votes, token, prompt, ...}: the same images again
    GET  /api/leaderboard  -> {leaderboard: [{model, mu, sigma, votes}]}
    GET  /api/raters       for the study's owner

A refusal is {"detail": "a sentence"} with 400 (not as agreed), 401 (nobody), 404 (nothing there),
409 (the vote does not count), 413 (too large), 429 (too fast), 507 (the disk).
"""

import secrets
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Annotated, Literal

from fastapi import Depends, FastAPI, HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, RedirectResponse
from pydantic import BaseModel, ConfigDict, Field

from arena.votes.images import ImageFault
from voting.asking import Asking, NothingLeft
from voting.ballots import Refused
from voting.gate import Gate, is_loopback
from voting.guard import COOKIE_SECONDS, Rates
from voting.raters import agreements

PAGE = Path(__file__).parent / "page"
FILES = {"/": "page.html", "/page.css": "page.css", "/page.js": "page.js"}
FILES |= {"/raters": "raters.html", "/raters.js": "raters.js"}
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}
MOST_BYTES = 16_384  # of a request
RATER, OWNER = "arenapo_rater", "arenapo_owner"
# No person votes faster for long. An address may be a whole office's.
EACH_RATER, EACH_ADDRESS = (10.0, 300.0), (50.0, 1500.0)
Token = Annotated[str, Field(max_length=2000)]


class Body(BaseModel):
    """A request's JSON: no key that nobody knows."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Vote(Body):
    """A vote about a pair: a is the image that was called image_a."""

    token: Token
    outcome: Literal["a", "b", "tie", "both_bad"]


class Ranking(Body):
    """A vote about four: ranks from 1 = best, in the order of the images; equal ranks tie."""

    token: Token
    ranks: Annotated[list[Annotated[int, Field(ge=1, le=4)]], Field(min_length=4, max_length=4)]


class Undo(Body):
    """The token of the vote that is to be taken back."""

    token: Token


def build_app(asking: Asking, hosts: Collection[str] | None, invited: bool = False) -> Gate:
    """Return the application over one study.

    hosts: see `Gate`. invited: only those with a link may vote (`links`).
    """
    app = FastAPI(max_body_size=MOST_BYTES, docs_url=None, redoc_url=None, openapi_url=None)
    by_rater, by_address = Rates(*EACH_RATER), Rates(*EACH_ADDRESS)

    def rater(request: Request, response: Response) -> str:
        """Return who asks, by the signed cookie; without invitations anybody gets one."""
        address = request.client.host if request.client else ""
        if not is_loopback(address) and not by_address.allows(address):
            raise HTTPException(429, "too many requests from your address; wait a moment")
        try:
            (name,) = asking.seals.opened("cookie", request.cookies.get(RATER, ""))
        except ValueError:
            if invited:
                raise HTTPException(401, "open the link of your invitation first") from None
            name = new_rater()
            _keep(request, response, RATER, asking.seals.seal("cookie", [name]))
        if not by_rater.allows(name):
            raise HTTPException(429, "nobody looks at images that fast; wait a moment")
        return name

    def owner(request: Request) -> None:
        try:
            told = asking.seals.opened("cookie", request.cookies.get(OWNER, ""))
        except ValueError:
            told = []
        if told != [OWNER]:
            raise HTTPException(401, "open the owner's link that the command printed first")

    Rater = Annotated[str, Depends(rater)]

    @app.get("/api/pair")
    def pair(name: Rater) -> dict[str, object]:
        return asking.ask(name, 2)

    @app.get("/api/ranking")
    def ranking(name: Rater) -> dict[str, object]:
        return asking.ask(name, 4)

    @app.post("/api/vote")
    def vote(said: Vote, name: Rater) -> dict[str, object]:
        return asking.vote(name, said.token, 2, {"outcome": said.outcome})

    @app.post("/api/ranking")
    def rank(said: Ranking, name: Rater) -> dict[str, object]:
        return asking.vote(name, said.token, 4, {"ranks": said.ranks})

    @app.post("/api/undo")
    def undo(said: Undo, name: Rater) -> dict[str, object]:
        return asking.withdraw(name, said.token)

    @app.get("/api/leaderboard")
    def leaderboard(_: Rater) -> dict[str, object]:
        table = asking.ratings().table.select("model", "mu", "sigma", "votes")
        return {"leaderboard": table.to_dicts()}

    @app.get("/api/raters", dependencies=[Depends(owner)])
    def raters() -> dict[str, object]:
        return {"raters": agreements(list(asking.ballots.rows.values()), asking.ratings())}

    @app.get("/images/{name}")
    def image(name: str, _: Rater) -> Response:
        item = asking.catalogue.items.get(name)
        if item is None:
            raise HTTPException(404, "there is no such image")
        try:
            content = asking.pictures.png(item)
        except ImageFault:
            raise HTTPException(404, "this image is no longer there") from None
        kept = {"Cache-Control": "private, max-age=3600"}
        return Response(content, media_type="image/png", headers=kept)

    @app.get("/invitation/{token}")
    def invitation(token: str, request: Request) -> Response:
        try:
            kind, name = asking.seals.opened("invitation", token)
        except ValueError as error:
            raise HTTPException(401, f"{error}; ask for another link") from None
        response = RedirectResponse("/raters" if kind == OWNER else "/", 303)
        _keep(request, response, kind, asking.seals.seal("cookie", [name]))
        return response

    for path, file in FILES.items():
        app.get(path)(_page(PAGE / file))

    _refusals(app)
    return Gate(app, hosts, HEADERS, MOST_BYTES)


def links(asking: Asking, url: str, names: Collection[str]) -> tuple[str, dict[str, str]]:
    """Return the owner's link and the invitation of each name, which votes under it."""

    def link(kind: str, name: str) -> str:
        return f"{url}/invitation/{asking.seals.seal('invitation', [kind, name])}"

    return link(OWNER, OWNER), {name: link(RATER, name) for name in names}


def new_rater() -> str:
    """Return a name that nobody has."""
    return f"rater-{secrets.token_hex(6)}"


def _page(path: Path) -> Callable[[], FileResponse]:
    def page() -> FileResponse:
        return FileResponse(path, headers={"Cache-Control": "no-cache"})

    return page


def _keep(request: Request, response: Response, name: str, value: str) -> None:
    """Set a cookie that no script reads and no other site sends."""
    response.set_cookie(
        name,
        value,
        max_age=COOKIE_SECONDS,
        httponly=True,
        samesite="lax",
        secure=request.url.scheme == "https",
    )


def _refusals(app: FastAPI) -> None:
    """Answer what is refused with one sentence."""

    def said(status: int) -> object:
        def answer(_: Request, error: Exception) -> JSONResponse:
            return JSONResponse({"detail": str(error)}, status)

        return answer

    def not_agreed(_: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"][1:]) or "the request"
        return JSONResponse({"detail": f"{place}: {first['msg']}"}, 400)

    def no_room(_: Request, error: OSError) -> JSONResponse:
        return JSONResponse({"detail": f"the vote could not be kept: {error.strerror}"}, 507)

    app.add_exception_handler(Refused, said(409))  # type: ignore[arg-type]
    app.add_exception_handler(NothingLeft, said(404))  # type: ignore[arg-type]
    app.add_exception_handler(OSError, no_room)  # type: ignore[arg-type]
    app.add_exception_handler(RequestValidationError, not_agreed)  # type: ignore[arg-type]
