"""What a judge in words is asked, how its answer is read, and that none is paid for twice."""

import io
import json
import subprocess
import sys
import threading
import time
from dataclasses import asdict

import numpy as np
import pytest
from bad_endpoint import GOOD, KEY, hangs, judge_of, says, status
from ksort_worlds import write_dataset, write_new_images
from PIL import Image

from evaluation.__main__ import main
from evaluation.errors import EvaluationError
from evaluation.ksort.dataset import read_dataset
from evaluation.ksort.judges import BudgetSpent, Question, Refused
from evaluation.ksort.judges.asked import parse_ranking, shown_image
from evaluation.ksort.rating import evaluate


def test_no_judgment_is_paid_for_twice(serve, question, tmp_path):
    server, judge = serve(says(GOOD), status(500))
    first = judge.rank(question)
    again = judge_of(tmp_path)
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
    second = judge_of(tmp_path)
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


def test_a_judge_that_never_ranks_is_one_clear_error(serve, question):
    server, judge = serve(says("As a language model I cannot rank."))
    with pytest.raises(Refused, match=r"no ranking of sample in 3 answers.*language model"):
        judge.rank(question)
    assert len(server.bodies) == 3


def test_an_interrupted_evaluation_goes_on_where_it_stopped(serve, tmp_path, capsys):
    write_dataset(tmp_path / "world", np.random.default_rng(0), instances=6)
    images = write_new_images(tmp_path / "new", tmp_path / "world")
    server, judge = serve(says(GOOD), says(GOOD), says(GOOD), status(401))
    with pytest.raises(EvaluationError, match="refused"):
        evaluate(read_dataset(tmp_path / "world"), images, judge)
    server.script = [says(GOOD)]
    resumed = judge_of(tmp_path)
    result = evaluate(read_dataset(tmp_path / "world"), images, resumed)
    assert len(result.rounds) == 6
    assert len(server.bodies) == 4 + 3
    assert result.judge["kept"] == 3
    assert result.judge["mean_place_by_position"] == pytest.approx([1, 0, 2, 4, 3])
    kept = "".join(path.read_text() for path in (tmp_path / "judgments").iterdir())
    assert KEY not in kept + json.dumps(asdict(result)) + str(capsys.readouterr())


def test_answers_that_do_not_parse_are_paid_for_and_counted(serve, question):
    server, judge = serve(says("I like the second."), says(GOOD))
    judge.rank(question)
    assert (judge.cost["requests"], judge.cost["completion_tokens"]) == (2, 14)
    said = server.bodies[1]["messages"]
    assert [message["role"] for message in said] == ["user", "assistant", "user"]
    assert said[1]["content"] == "I like the second."


def test_five_orders_average_the_places_out_and_each_is_kept(serve, question, tmp_path):
    server, _ = serve(says(GOOD))  # looks at the position alone
    judge = judge_of(tmp_path, orders=5)
    assert judge.rank(question) == pytest.approx([2.0] * 5)
    shown = set()
    for body in server.bodies:
        parts = body["messages"][0]["content"]
        shown.add(tuple(p["image_url"]["url"] for p in parts if p["type"] == "image_url"))
    assert len(shown) == 5
    for place in range(5):  # every image has stood in every place once
        assert len({images[place] for images in shown}) == 5
    again = judge_of(tmp_path, orders=5)
    assert again.rank(question) == pytest.approx([2.0] * 5)
    assert len(server.bodies) == 5
    assert again.summary()["spent_before"] == {"prompt_tokens": 500, "completion_tokens": 35}


@pytest.mark.parametrize(
    "refusal",
    [
        says(None),
        lambda handler: handler.reply(
            400, b'{"error": {"code": "content_policy_violation", "message": "no"}}'
        ),
        lambda handler: handler.reply(
            200, b'{"choices": [{"message": {"refusal": "I will not", "content": null}}]}'
        ),
    ],
)
def test_a_refused_question_is_noted_and_the_evaluation_goes_on(serve, tmp_path, refusal):
    write_dataset(tmp_path / "world", np.random.default_rng(0), instances=6)
    images = write_new_images(tmp_path / "new", tmp_path / "world")
    server, judge = serve(says(GOOD), refusal, says(GOOD))
    result = evaluate(read_dataset(tmp_path / "world"), images, judge)
    assert (len(result.rounds), result.stopped) == (5, "instances")
    (left,) = result.skipped
    assert left["instance"] not in {one.instance for one in result.rounds}
    assert "seer refused" in left["reason"]
    assert result.judge["refused"] == 1
    server.script = [refusal]
    other = judge_of(tmp_path, question="unified")
    again = evaluate(read_dataset(tmp_path / "world"), images, other, most_refusals=2)
    assert (again.stopped, len(again.skipped), len(again.rounds)) == ("refusals", 2, 0)


def test_an_evaluation_stops_at_its_budget_and_goes_on_from_there(serve, tmp_path, capsys):
    write_dataset(tmp_path / "world", np.random.default_rng(0), instances=6)
    images = write_new_images(tmp_path / "new", tmp_path / "world")
    server, _ = serve(says(GOOD))
    arguments = ["ksort", "--judge", "openai:seer", "--dataset", str(tmp_path / "world")]
    arguments += ["--images", str(images), "--out", str(tmp_path / "result.json")]
    assert main([*arguments, "--max-requests", "4", "--max-tokens", "50"]) == 0
    said = capsys.readouterr()
    assert "judge: at most 4 requests, about 5,900 tokens in" in said.err
    assert "after 4 rounds, stopped by --max-requests" in said.out
    assert len(server.bodies) == 4
    assert server.bodies[0]["max_tokens"] == 50
    assert main(arguments) == 0
    result = json.loads((tmp_path / "result.json").read_text())
    assert (len(result["rounds"]), len(server.bodies)) == (6, 6)
    judge = judge_of(tmp_path, max_requests=1)
    paths = tuple(sorted(images.iterdir())[:5])
    judge.rank(Question("sample", "one", paths, (0, 1, 2, 3, 4)))
    with pytest.raises(BudgetSpent):
        judge.rank(Question("sample", "two", paths, (0, 1, 2, 3, 4)))


def test_all_five_images_are_shown_alike(serve, question, tmp_path):
    """A large PNG among small JPEGs would tell which one is new."""
    Image.new("RGB", (1024, 768), (9, 9, 9)).save(question.images[4])
    with Image.open(io.BytesIO(shown_image(question.images[4], 512))) as shown:
        assert (shown.format, shown.size) == ("JPEG", (512, 384))
    server, judge = serve(says(GOOD))
    judge.rank(question)
    parts = server.bodies[0]["messages"][0]["content"]
    urls = [part["image_url"]["url"] for part in parts if part["type"] == "image_url"]
    assert all(url.startswith("data:image/jpeg;base64,") for url in urls)


@pytest.mark.parametrize("question_name", ["published", "unified"])
def test_the_ready_questions(serve, question, tmp_path, question_name):
    server, _ = serve(says(GOOD))
    judge = judge_of(tmp_path, question=question_name)
    judge.rank(question)
    said = server.bodies[0]["messages"][0]["content"][0]["text"]
    words = {
        "published": ("photorealism (30%)", "artifacts (10%)", "entity matching (30%)"),
        "unified": ("semantic alignment", "visual", "style and aesthetics"),
    }
    assert all(word in said for word in (*words[question_name], "a red square"))
    assert judge.summary()["question"] == question_name


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

    def waits(handler):
        waiting.set()
        hangs(handler)

    server, _ = serve(says(GOOD), says(GOOD), waits)
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


@pytest.mark.parametrize(
    ("answer", "order"),
    [
        (GOOD, [2, 1, 3, 5, 4]),
        ("image 5, image 4, image 3, image 2, image 1.\n", [5, 4, 3, 2, 1]),
        ('["Image 2", "Image 1", "Image 3", "Image 5", "Image 4"]', [2, 1, 3, 5, 4]),
        ("3 > 1 > 2 > 5 > 4", [3, 1, 2, 5, 4]),
        (
            f"<think>Image 1, Image 2, Image 3, Image 4, Image 5?\nNo.</think>\n{GOOD}",
            [2, 1, 3, 5, 4],
        ),
        (f"The second is sharpest.\n\n**Final ranking:** {GOOD}", [2, 1, 3, 5, 4]),
        (f"{GOOD}\n\nBecause it is the sharpest.", [2, 1, 3, 5, 4]),
        (f"```\n{GOOD}\n```", [2, 1, 3, 5, 4]),
        ('```json\n{"ranking": [2, 1, 3, 5, 4]}\n```', [2, 1, 3, 5, 4]),
        ('{\n "why": "light",\n "ranking": [\n  2, 1,\n  3, 5, 4\n ]\n}', [2, 1, 3, 5, 4]),
        ("<think>I never come to an end: Image 2, Image 1, Image 3, Image 5, Image 4", None),
        ("2, 1, 3, 5, 5", None),
        ("Image 2 Image 1 Image 3 Image 5 Image 4", None),
        ("21354", None),
        ("", None),
    ],
)
def test_only_a_permutation_parses(answer, order):
    assert parse_ranking(answer) == order
