"""The openai judge against a real small HTTP server that behaves badly in every way."""

import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from ksort_worlds import write_dataset, write_new_images
from PIL import Image

from evaluation.__main__ import main
from evaluation.errors import EvaluationError
from evaluation.judges import Question
from evaluation.judges.asked import parse_ranking
from evaluation.judges.endpoint import EndpointJudge
from evaluation.ksort import evaluate
from evaluation.ksort_dataset import read_dataset

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


def slow(handler: Handler):
    time.sleep(1.0)
    says(GOOD)(handler)


def hangs_up(handler: Handler):
    handler.connection.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def serve(monkeypatch, tmp_path):
    servers = []

    def start(*script: Callable) -> tuple[Endpoint, EndpointJudge]:
        server = Endpoint(list(script))
        servers.append(server)
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        monkeypatch.setenv("OPENAI_BASE_URL", f"http://127.0.0.1:{server.server_port}/v1")
        monkeypatch.setenv("OPENAI_API_KEY", KEY)
        return server, EndpointJudge("seer", tmp_path / "judgments", timeout=0.4, pause=0.01)

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


def test_the_answer_is_mapped_back_to_the_data_sets_order(serve, question):
    server, judge = serve(says(GOOD))
    # shown: 1 -> image 4, 2 -> 0, 3 -> 1, 4 -> 2, 5 -> 3; best first: 0, 4, 1, 3, 2
    assert judge.rank(question) == [0, 2, 4, 3, 1]
    parts = server.bodies[0]["messages"][0]["content"]
    assert sum(part["type"] == "image_url" for part in parts) == 5
    assert "a red square" in parts[0]["text"]
    assert server.keys == [f"Bearer {KEY}"]


@pytest.mark.parametrize(
    "fault",
    [
        status(429),
        status(429, Retry_After="0.01"),
        status(500),
        status(503),
        slow,
        hangs_up,
        lambda handler: handler.reply(200, b'{"choices": [{"mess'),
        lambda handler: handler.reply(200, b'{"choices": []}'),
        lambda handler: handler.reply(200, b'["hello"]'),
        says(None),
        says("I would say that the second image is the best, then Image 1."),
        says("Image 1, Image 2, Image 3, Image 4"),
        says("Image 1, Image 2, Image 3, Image 4, Image 4"),
        says("Image 1, Image 2, Image 3, Image 4, Image 6"),
        says("图片2, 图片1, 图片3, 图片5, 图片4"),
        says(f"{GOOD}\n\nBecause it is the sharpest."),
    ],
)
def test_after_a_fault_the_right_judgment(serve, question, fault):
    server, judge = serve(fault, fault, says(GOOD))
    assert judge.rank(question) == [0, 2, 4, 3, 1]
    assert len(server.bodies) == 3


def test_no_judgment_is_paid_for_twice(serve, question, tmp_path):
    server, judge = serve(says(GOOD), status(500))
    first = judge.rank(question)
    again = EndpointJudge("seer", tmp_path / "judgments", timeout=0.4, pause=0.01)
    assert again.rank(question) == first
    assert len(server.bodies) == 1
    assert (judge.cost["requests"], again.cost["requests"], again.cost["kept"]) == (1, 0, 1)
    assert judge.summary()["prompt_tokens"] == 100
    Image.new("RGB", (4, 4), (1, 2, 3)).save(question.images[4])  # another image: ask anew
    with pytest.raises(EvaluationError, match="HTTP 500"):
        again.rank(question)


def test_two_evaluations_at_once_pay_for_a_judgment_once(serve, question, tmp_path):
    def deliberates(handler):
        time.sleep(0.2)
        says(GOOD)(handler)

    server, first = serve(deliberates)
    second = EndpointJudge("seer", tmp_path / "judgments", timeout=2.0)
    found = []
    threads = [
        threading.Thread(target=lambda judge=judge: found.append(judge.rank(question)))
        for judge in (first, second)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [[0, 2, 4, 3, 1]] * 2
    assert len(server.bodies) == 1
    assert first.cost["requests"] + second.cost["requests"] == 1
    assert [path.suffix for path in (tmp_path / "judgments").iterdir()] == [".json"]


def test_an_endpoint_that_stays_down_is_one_clear_error(serve, question):
    server, judge = serve(status(502))
    with pytest.raises(EvaluationError, match=r"did not answer in 6 tries, last: HTTP 502"):
        judge.rank(question)
    assert len(server.bodies) == 6


def test_a_judge_that_never_ranks_is_one_clear_error(serve, question):
    server, judge = serve(says("As a language model I cannot rank."))
    with pytest.raises(EvaluationError, match=r"no ranking of sample in 3 answers.*language model"):
        judge.rank(question)
    assert len(server.bodies) == 3


@pytest.mark.parametrize("code", [400, 401, 404, 302])
def test_a_refusal_is_not_tried_again_and_never_shows_the_key(serve, question, code):
    server, judge = serve(status(code, Location="http://127.0.0.1:9/elsewhere"))
    with pytest.raises(EvaluationError, match=rf"refused: HTTP {code} bad key \*\*\*") as error:
        judge.rank(question)
    assert KEY not in str(error.value)
    assert len(server.bodies) == 1


def test_an_interrupted_evaluation_goes_on_where_it_stopped(serve, tmp_path, capsys):
    write_dataset(tmp_path / "world", np.random.default_rng(0), instances=6)
    images = write_new_images(tmp_path / "new", tmp_path / "world")
    server, judge = serve(says(GOOD), says(GOOD), says(GOOD), status(401))
    with pytest.raises(EvaluationError, match="refused"):
        evaluate(read_dataset(tmp_path / "world"), images, judge)
    server.script = [says(GOOD)]
    resumed = EndpointJudge("seer", tmp_path / "judgments", timeout=0.4, pause=0.01)
    result = evaluate(read_dataset(tmp_path / "world"), images, resumed)
    assert len(result.rounds) == 6
    assert len(server.bodies) == 4 + 3
    assert result.judge["kept"] == 3
    assert result.judge["mean_place_by_position"] == pytest.approx([1, 0, 2, 4, 3])
    kept = "".join(path.read_text() for path in (tmp_path / "judgments").iterdir())
    assert KEY not in kept + json.dumps(result.as_dict()) + str(capsys.readouterr())


def test_answers_that_do_not_parse_are_paid_for_and_counted(serve, question):
    server, judge = serve(says("I like the second."), says(GOOD))
    judge.rank(question)
    assert (judge.cost["requests"], judge.cost["completion_tokens"]) == (2, 14)
    said = server.bodies[1]["messages"]
    assert [message["role"] for message in said] == ["user", "assistant", "user"]
    assert said[1]["content"] == "I like the second."


def test_five_orders_average_the_places_out_and_each_is_kept(serve, question, tmp_path):
    server, judge = serve(says(GOOD))  # looks at the position alone
    judge.orders = 5
    assert judge.rank(question) == pytest.approx([2.0] * 5)
    shown = set()
    for body in server.bodies:
        parts = body["messages"][0]["content"]
        shown.add(tuple(p["image_url"]["url"] for p in parts if p["type"] == "image_url"))
    assert len(shown) == 5
    for place in range(5):  # every image has stood in every place once
        assert len({images[place] for images in shown}) == 5
    again = EndpointJudge("seer", tmp_path / "judgments", orders=5)
    assert again.rank(question) == pytest.approx([2.0] * 5)
    assert len(server.bodies) == 5
    assert again.summary()["spent_before"] == {"prompt_tokens": 500, "completion_tokens": 35}


def test_a_model_that_takes_no_temperature_is_asked_without(serve, question):
    def fussy(handler):
        if "temperature" in handler.server.bodies[-1]:
            handler.reply(400, b'{"error": "Unsupported value: temperature"}')
        else:
            says(GOOD)(handler)

    server, judge = serve(fussy)
    assert judge.rank(question) == [0, 2, 4, 3, 1]
    assert ["temperature" in body for body in server.bodies] == [True, False]


def test_a_judge_that_looks_at_positions_is_found_out(serve, tmp_path, capsys):
    write_dataset(tmp_path / "world", np.random.default_rng(0), instances=20)
    images = write_new_images(tmp_path / "new", tmp_path / "world")
    serve(says(GOOD))
    arguments = ["ksort", "--judge", "openai:seer", "--dataset", str(tmp_path / "world")]
    arguments += ["--images", str(images), "--out", str(tmp_path / "result.json")]
    assert main(arguments) == 0
    said = capsys.readouterr().out
    assert "judge: 20 requests, 2,000 tokens in, 140 out" in said
    assert "position 2 got mean place 0.00" in said
    assert "position 3" not in said


@pytest.mark.slow
def test_a_killed_evaluation_pays_only_for_the_question_it_was_killed_in(serve, tmp_path):
    write_dataset(tmp_path / "world", np.random.default_rng(0), instances=5)
    images = write_new_images(tmp_path / "new", tmp_path / "world")
    waiting = threading.Event()

    def hangs(handler):
        waiting.set()
        time.sleep(30)

    server, _ = serve(says(GOOD), says(GOOD), hangs)
    command = [sys.executable, "-m", "evaluation", "ksort", "--judge", "openai:seer"]
    command += ["--dataset", str(tmp_path / "world"), "--images", str(images)]
    command += ["--out", str(tmp_path / "result.json")]
    process = subprocess.Popen(command)
    assert waiting.wait(60)
    process.kill()
    process.wait()
    server.script = [says(GOOD)]
    assert main(command[3:]) == 0
    assert len(server.bodies) == 3 + 3
    result = json.loads((tmp_path / "result.json").read_text())
    assert len(result["rounds"]) == 5
    assert (result["judge"]["kept"], result["judge"]["requests"]) == (2, 3)


def test_without_a_key_nothing_waits(monkeypatch, tmp_path):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    with pytest.raises(EvaluationError, match="set OPENAI_API_KEY"):
        EndpointJudge("seer", Path(tmp_path))


@pytest.mark.parametrize(
    ("answer", "order"),
    [
        (GOOD, [2, 1, 3, 5, 4]),
        ("image 5, image 4, image 3, image 2, image 1.\n", [5, 4, 3, 2, 1]),
        ('["Image 2", "Image 1", "Image 3", "Image 5", "Image 4"]', [2, 1, 3, 5, 4]),
        ("3 > 1 > 2 > 5 > 4", [3, 1, 2, 5, 4]),
        ("Image 2 Image 1 Image 3 Image 5 Image 4", None),
        ("21354", None),
        ("", None),
    ],
)
def test_only_a_permutation_parses(answer, order):
    assert parse_ranking(answer) == order
