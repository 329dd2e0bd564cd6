"""Fixtures of the judges' tests: an endpoint by a script of behaviours, and a question."""

import threading
from collections.abc import Callable

import pytest
from bad_endpoint import KEY, Endpoint, judge_of
from PIL import Image

from evaluation.ksort.judges import Question
from evaluation.ksort.judges.endpoint import EndpointJudge


@pytest.fixture
def serve(monkeypatch, tmp_path):
    servers = []

    def start(*script: Callable) -> tuple[Endpoint, EndpointJudge]:
        server = Endpoint(list(script))
        servers.append(server)
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        monkeypatch.setenv("OPENAI_BASE_URL", f"http://127.0.0.1:{server.server_port}/v1")
        monkeypatch.setenv("OPENAI_API_KEY", KEY)
        return server, judge_of(tmp_path)

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def question(tmp_path) -> Question:
    paths = []
    for k in range(5):
        paths.append(tmp_path / f"{k}.png")
        Image.new("RGB", (4, 4), (50 * k, 0, 0)).save(paths[-1])
    return Question("sample", "a red square", tuple(paths), (4, 0, 1, 2, 3))
