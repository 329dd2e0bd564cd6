"""Dagster's web server behind the gate, on loopback: `python -m pipelines.webserver PORT`.

`python -m pipelines ui` starts it, beside the daemon.
"""

import sys

import uvicorn

from assets.dagster_internals import web_app
from pipelines import homes
from voting.gate import LOOPBACK, Gate


def main() -> None:
    """Serve the home's studies until an interrupt."""
    home = homes.enter()
    with web_app(homes.opened(home), "pipelines.definitions") as app:
        uvicorn.run(Gate(app), host=LOOPBACK, port=int(sys.argv[1]), log_level="warning")


if __name__ == "__main__":
    main()
