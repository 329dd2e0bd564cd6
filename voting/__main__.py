"""Serve the voting page of a study.

    python -m voting experiments/miniature.toml
    python -m voting study.toml --url https://vote.example.org --invite 20    (behind a proxy)
    python -m voting study.toml --host 0.0.0.0 --invite anna,ben

On loopback anybody may vote. Elsewhere only those who have a link: --invite makes these.
"""

import argparse
import contextlib
import socket
import sys
from pathlib import Path
from urllib.parse import urlsplit

from voting.gate import LOOPBACK_NAMES, is_loopback
from voting.study import open_study


def main(arguments: list[str] | None = None) -> int:
    """Serve until an interrupt and return 0; 1 with one sentence where that cannot be."""
    told = parser().parse_args(arguments)
    try:
        return serve(told)
    except (ValueError, OSError) as error:
        print(f"voting: {error}", file=sys.stderr)
        return 1


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    made = argparse.ArgumentParser(
        prog="python -m voting",
        description="Serve the page on which people vote, blind, about a study's images.",
        epilog="example: python -m voting experiments/miniature.toml",
    )
    made.add_argument("study", type=Path, metavar="STUDY.toml")
    made.add_argument("--port", type=int, default=8000, help="default: 8000")
    made.add_argument("--host", default="127.0.0.1", help="default: 127.0.0.1, this machine only")
    made.add_argument("--url", help="where raters reach the page, if a proxy stands before it")
    made.add_argument(
        "--invite",
        metavar="N|NAME,NAME...",
        help="only raters with a link may vote; print N new links, or one for each name "
        "(0: those of before go on)",
    )
    return made


def serve(told: argparse.Namespace) -> int:
    """Open the study and serve it. Raises ValueError and OSError with the reason why not."""
    here = is_loopback(told.host)
    if told.invite is None and not (here and told.url is None):
        raise ValueError(
            f"{told.url or told.host} can be reached by others, so raters need invitations: "
            "add --invite N, which prints N links, or --invite NAME,NAME (--invite 0 keeps those "
            "of before)"
        )
    study = open_study(told.study)
    import uvicorn

    from voting.asking import Asking
    from voting.ballots import Ballots
    from voting.guard import secret_of
    from voting.server import build_app, links, new_rater

    listener = socket.create_server(
        (told.host, told.port), family=socket.AF_INET6 if ":" in told.host else socket.AF_INET
    )
    port = listener.getsockname()[1]
    ballots = Ballots(study.landing)
    asking = Asking(study, secret_of(study.state), ballots)
    url = (told.url or f"http://{shown(told.host)}:{port}").rstrip("/")
    asked = told.invite or "0"
    names = [each.strip() for each in asked.split(",") if each.strip()]
    if asked.isdecimal():
        names = [new_rater() for _ in range(int(asked))]
    owner, invited = links(asking, url, names)
    print(f"{study.name}: vote at {url}, raters at {owner}", flush=True)
    for name, link in invited.items():
        print(f"{name}: {link}", flush=True)
    print(f"votes are written to {study.landing}", file=sys.stderr)
    if not study.listed:
        print(
            f'no source of [votes] is a folder: add "{study.landing}/*.jsonl" to votes.sources '
            "for the pipeline to take these votes in",
            file=sys.stderr,
        )
    app = build_app(asking, hosts_of(told.host, url), told.invite is not None)
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", server_header=False))
    with contextlib.suppress(KeyboardInterrupt):
        server.run(sockets=[listener])
    return 0


def shown(host: str) -> str:
    """Return a host as an address names it; for all addresses the machine's name."""
    if host in ("0.0.0.0", "::"):
        return socket.gethostname()
    return f"[{host}]" if ":" in host else host


def hosts_of(host: str, url: str) -> list[str] | None:
    """Return the names that a browser may call the page by; None where they cannot be known."""
    if host in ("0.0.0.0", "::"):
        return None
    own = LOOPBACK_NAMES if is_loopback(host) else (host.lower(),)
    return [*own, urlsplit(url).hostname or ""]


if __name__ == "__main__":
    sys.exit(main())
