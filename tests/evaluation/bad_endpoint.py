"""A real small HTTP server that behaves as an endpoint of models does, badly where it is told."""

import contextlib
import json
import socket
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from evaluation.ksort.judges import Asking
from evaluation.ksort.judges.endpoint import EndpointJudge

KEY = "sk-secret-of-the-test"
GOOD = "Image 2, Image 1, Image 3, Image 5, Image 4"


class Endpoint(ThreadingHTTPServer):
    """Answers requests by a script of behaviours, the last one for ever."""

    daemon_threads = True

    def __init__(self, script: list[Callable]):
        super().__init__(("127.0.0.1", 0), Handler)
        self.script = script
        self.bodies: list[dict] = []
        self.keys: list[str] = []


class Handler(BaseHTTPRequestHandler):
    server: Endpoint

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.bodies.append(body)
        self.server.keys.append(self.headers.get("Authorization", ""))
        step = min(len(self.server.bodies), len(self.server.script)) - 1
        self.server.script[step](self)

    def reply(self, status: int, content: bytes, **headers: str):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        pass


def says(answer: object) -> Callable:
    reply = {
        "choices": [{"message": {"content": answer}}],
        "usage": {"prompt_tokens": 100, "completion_tokens": 7},
    }
    return lambda handler: handler.reply(200, json.dumps(reply).encode())


def status(code: int, **headers: str) -> Callable:
    return lambda handler: handler.reply(code, f"bad key {KEY}".encode(), **headers)


def hangs_up(handler: Handler):
    handler.connection.shutdown(socket.SHUT_RDWR)


def hangs(handler: Handler):
    """Nothing, until whoever asked has gone."""
    handler.connection.recv(1)


def drips(handler: Handler):
    """A byte now and then, so that no single read is ever late, until whoever asked has gone."""
    handler.send_response(200)
    handler.send_header("Content-Length", "1000000")
    handler.end_headers()
    with contextlib.suppress(OSError):
        while True:
            handler.wfile.write(b" ")
            time.sleep(0.01)


def breaks_off(handler: Handler):
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b'{"choices"')


def judge_of(tmp_path: Path, deadline: float = 60.0, **asking) -> EndpointJudge:
    return EndpointJudge(
        "seer", tmp_path / "judgments", Asking(**asking), deadline=deadline, pause=0.01
    )
