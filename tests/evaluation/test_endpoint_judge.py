"""The openai judge against a real small HTTP server that behaves badly in every way."""

import json

import pytest
from bad_endpoint import GOOD, KEY, breaks_off, drips, hangs, hangs_up, judge_of, says, status
from PIL import Image

from evaluation.errors import EvaluationError


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
        hangs_up,
        breaks_off,
        lambda handler: handler.reply(200, b'{"choices": [{"mess'),
        lambda handler: handler.reply(200, b'{"choices": []}'),
        lambda handler: handler.reply(200, b'["hello"]'),
        lambda handler: handler.reply(200, b"[" * 200_000),
        says("I would say that the second image is the best, then Image 1."),
        says("Image 1, Image 2, Image 3, Image 4"),
        says("Image 1, Image 2, Image 3, Image 4, Image 4"),
        says("Image 1, Image 2, Image 3, Image 4, Image 6"),
        says("图片2, 图片1, 图片3, 图片5, 图片4"),
        says(f"{GOOD}\nor rather\nImage 1, Image 2, Image 3, Image 5, Image 4"),
    ],
)
def test_after_a_fault_the_right_judgment(serve, question, fault):
    server, judge = serve(fault, fault, says(GOOD))
    assert judge.rank(question) == [0, 2, 4, 3, 1]
    assert len(server.bodies) == 3


@pytest.mark.parametrize("stalls", [hangs, drips])
def test_the_deadline_is_for_the_whole_answer(serve, question, monkeypatch, stalls):
    """The server stalls for as long as the deadline is short, and it is long after the pause."""
    _, judge = serve(lambda handler: stalls(handler) if judge.deadline < 1 else says(GOOD)(handler))
    judge.deadline = 0.1
    pauses = []

    def sleep(seconds: float):
        pauses.append(seconds)
        judge.deadline = 60.0

    monkeypatch.setattr("evaluation.ksort.judges.endpoint.pause_for", sleep)
    assert judge.rank(question) == [0, 2, 4, 3, 1]
    assert len(pauses) == 1


def test_an_endpoint_that_stays_down_is_one_clear_error(serve, question):
    server, judge = serve(status(502))
    with pytest.raises(EvaluationError, match=r"did not answer in 6 tries, last: HTTP 502"):
        judge.rank(question)
    assert len(server.bodies) == 6


@pytest.mark.parametrize("code", [400, 401, 404, 302])
def test_a_refusal_is_not_tried_again_and_never_shows_the_key(serve, question, code):
    server, judge = serve(status(code, Location="http://127.0.0.1:9/elsewhere"))
    with pytest.raises(EvaluationError, match=rf"refused: HTTP {code} bad key \*\*\*") as error:
        judge.rank(question)
    assert KEY not in str(error.value)
    assert len(server.bodies) == 1


def test_a_model_that_takes_no_temperature_is_asked_without(serve, question):
    def fussy(handler):
        if "temperature" in handler.server.bodies[-1]:
            handler.reply(400, b'{"error": "Unsupported value: temperature"}')
        else:
            says(GOOD)(handler)

    server, judge = serve(fussy)
    assert judge.rank(question) == [0, 2, 4, 3, 1]
    assert ["temperature" in body for body in server.bodies] == [True, False]


def test_an_empty_account_is_one_sentence_at_once(serve, question):
    server, judge = serve(
        lambda handler: handler.reply(429, b'{"error": {"code": "insufficient_quota"}}')
    )
    with pytest.raises(EvaluationError, match="the account is empty"):
        judge.rank(question)
    assert len(server.bodies) == 1


def test_an_answer_in_content_parts_is_read(serve, question):
    parts = [{"type": "reasoning", "text": None}, {"type": "text", "text": GOOD}]
    _, judge = serve(says(parts))
    assert judge.rank(question) == [0, 2, 4, 3, 1]


def test_the_answers_form_is_asked_for_where_the_endpoint_takes_it(serve, question):
    def strict(handler):
        body = handler.server.bodies[-1]
        if body.get("response_format", {}).get("type") == "json_schema":
            says('{"ranking": [2, 1, 3, 5, 4]}')(handler)

    server, judge = serve(strict)
    assert judge.rank(question) == [0, 2, 4, 3, 1]

    def fussy(handler):
        body = handler.server.bodies[-1]
        for name, said in (
            ("response_format", b"response_format json_schema is not supported"),
            ("max_tokens", b"use max_completion_tokens instead of max_tokens"),
        ):
            if name in body:
                handler.reply(400, said)
                return
        says(GOOD)(handler)

    server, judge = serve(fussy)
    judge.identity = ["another"]
    assert judge.rank(question) == [0, 2, 4, 3, 1]
    assert [*server.bodies[-1]] == ["model", "temperature", "max_completion_tokens", "messages"]


@pytest.mark.parametrize(
    ("base", "key", "said"),
    [
        ("http://user:secret@127.0.0.1/v1", "", "carries more than an address"),
        ("http://127.0.0.1/v1?api-key=secret", "", "carries more than an address"),
        ("ftp://127.0.0.1", "", "not an http or https address"),
        ("http://127.0.0.1/v1", "sk-secret\nX-Evil: 1", "OPENAI_API_KEY holds a line break"),
    ],
)
def test_bad_settings_are_one_sentence_at_once(monkeypatch, tmp_path, base, key, said):
    monkeypatch.setenv("OPENAI_BASE_URL", base)
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with pytest.raises(EvaluationError, match=said) as error:
        judge_of(tmp_path)
    assert "secret" not in str(error.value)


def test_a_secret_in_the_address_is_in_no_result(serve, question, monkeypatch, tmp_path):
    server, _ = serve(says(GOOD), status(401))
    base = f"http://127.0.0.1:{server.server_port}/gateway/sk-in-the-path/v1"
    monkeypatch.setenv("OPENAI_BASE_URL", base)
    judge = judge_of(tmp_path)
    judge.rank(question)
    kept = "".join(path.read_text() for path in (tmp_path / "judgments").iterdir())
    assert "sk-in-the-path" not in json.dumps(judge.summary()) + kept
    Image.new("RGB", (4, 4), (1, 2, 3)).save(question.images[4])
    with pytest.raises(EvaluationError, match="HTTP 401") as error:
        judge.rank(question)
    assert "sk-in-the-path" not in str(error.value)


def test_without_a_key_nothing_waits(monkeypatch, tmp_path):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    with pytest.raises(EvaluationError, match="set OPENAI_API_KEY"):
        judge_of(tmp_path)
