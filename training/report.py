"""Where a job's progress goes beside the terminal and metrics.jsonl: an MLflow run, while it lasts.

MLflow is optional where training runs, slow to import and may sit behind a network, so a thread of
its own imports it and sends the lines; the loop never waits for it, and a server that fails is
reported once and costs no training.
"""

import contextlib
import importlib.util
import os
import queue
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

Line = dict[str, float]


class LiveMetrics:
    """Sends metric lines to the MLflow run named by MLFLOW_RUN_ID; a context manager.

    It logs through the client alone: the run belongs to the process that opened it, which also
    decides how it ends. Without MLFLOW_RUN_ID or without mlflow it does nothing.
    """

    def __init__(self) -> None:
        self._run_id = os.environ.get("MLFLOW_RUN_ID")
        self._lines: queue.Queue[tuple[int, Line] | None] = queue.Queue()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> "LiveMetrics":
        if self._run_id and importlib.util.find_spec("mlflow"):
            self._thread = threading.Thread(target=self._send, daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._thread is not None:
            self._lines.put(None)
            self._thread.join(timeout=60)

    def __call__(self, line: Line) -> None:
        """Queue one line of metrics.jsonl."""
        if self._thread is not None:
            self._lines.put((int(time.time() * 1000), line))

    def _send(self) -> None:
        try:
            from mlflow import MlflowClient
            from mlflow.entities import Metric

            client = MlflowClient()
            while (item := self._lines.get()) is not None:
                at, line = item
                step = int(line["step"])
                metrics = [Metric(k, v, at, step) for k, v in line.items() if k != "step"]
                client.log_batch(self._run_id, metrics=metrics)
        except Exception as error:
            print(f"no live metrics in MLflow: {type(error).__name__}: {error}", file=sys.stderr)


class Trackers:
    """TensorBoard or Weights & Biases, through accelerate; a context manager over none or more."""

    def __init__(self, names: tuple[str, ...], run: str, folder: Path) -> None:
        self._names, self._run, self._folder = names, run, folder
        self._open: list[Any] = []

    def __enter__(self) -> "Trackers":
        from accelerate import tracking

        for name in self._names:
            kind = tracking.LOGGER_TYPE_TO_CLASS[name]
            where = {"logging_dir": self._folder} if kind.requires_logging_directory else {}
            tracker = kind(self._run, **where)
            if hasattr(tracker, "start"):
                tracker.start()
            self._open.append(tracker)
        return self

    def __exit__(self, *_: object) -> None:
        for tracker in self._open:
            tracker.finish()

    def __call__(self, line: Line) -> None:
        """Log one line of metrics.jsonl."""
        for tracker in self._open:
            tracker.log({k: v for k, v in line.items() if k != "step"}, step=int(line["step"]))


@contextlib.contextmanager
def progress(what: str, total: int, *, silent: bool = False) -> Iterator[Any]:
    """Yield a progress bar on stderr, where a person looks at it."""
    from tqdm import tqdm

    with tqdm(total=total, desc=what, disable=silent or None, leave=False) as bar:
        yield bar
