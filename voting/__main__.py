"""Serve the voting page of a study.

    python -m voting experiments/miniature.toml
    python -m voting study.toml --url https://vote.example.org --invite 20    (behind a proxy)
    python -m voting study.toml --host 0.0.0.0 --invite 20

On loopback anybody may vote. Elsewhere only those who have a link: --invite N makes N links.
"""

import argparse
import contextlib
import ipaddress
import socket
import sys
from pathlib import Path
from urllib.parse import urlsplit

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
        type=int,
        metavar="N",
        help="only raters with a link may vote; print N new links (0: those of before go on)",
    )
    return made


def serve(told: argparse.Namespace) -> int:
    """Open the study and serve it. Raises ValueError and OSError with the reason why not."""
    here = is_loopback(told.host)
    if told.invite is None and not (here and told.url is None):
        raise ValueError(
            f"{told.url or told.host} can be reached by others, so raters need invitations: "
            "add --invite N, which prints N links (--invite 0 keeps those of before)"
        )
    study = open_study(told.study)
    import uvicorn

    from voting.asking import Asking
    from voting.ballots import Ballots
    from voting.guard import secret_of
    from voting.server import Doors, build_app, links

    listener = socket.create_server(
        (told.host, told.port), family=socket.AF_INET6 if ":" in told.host else socket.AF_INET
    )
    port = listener.getsockname()[1]
    ballots = Ballots(study.landing)
    asking = Asking(study, secret_of(study.state), ballots)
    url = (told.url or f"http://{shown(told.host)}:{port}").rstrip("/")
    owner, invited = links(asking, url, told.invite or 0)
    print(f"{study.name}: vote at {url}, raters at {owner}", flush=True)
    for link in invited:
        print(link, flush=True)
    print(f"votes are written to {study.landing}", file=sys.stderr)
    if not study.listed:
        print(
            f'no source of [votes] is a folder: add "{study.landing}/*.jsonl" to votes.sources '
            "for the pipeline to take these votes in",
            file=sys.stderr,
        )
    app = build_app(asking, Doors(hosts_of(told.host, port, url), told.invite is not None))
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", server_header=False))
    with contextlib.suppress(KeyboardInterrupt):
        server.run(sockets=[listener])
    return 0


def is_loopback(host: str) -> bool:
    """Tell whether only this machine reaches a host's address."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def shown(host: str) -> str:
    """Return a host as an address names it; for all addresses the machine's name."""
    if host in ("0.0.0.0", "::"):
        return socket.gethostname()
    return f"[{host}]" if ":" in host else host


def hosts_of(host: str, port: int, url: str) -> frozenset[str] | None:
    """Return the names that a browser may call the page by; None where they cannot be known."""
    if host in ("0.0.0.0", "::"):
        return None
    names = {shown(host)} | ({"127.0.0.1", "localhost", "[::1]"} if is_loopback(host) else set())
    own = {f"{name}:{port}" for name in names} | (names if port == 80 else set())
    return frozenset({each.lower() for each in own} | {urlsplit(url).netloc.lower()})


if __name__ == "__main__":
    sys.exit(main())
