"""The local judge: a real, tiny vision-language model from its folder, asked and kept."""

import itertools
from pathlib import Path

import numpy as np
import pytest
from ksort_worlds import write_dataset, write_new_images
from PIL import Image
from tiny_vlm import save_tiny_vlm

from evaluation.__main__ import main
from evaluation.errors import EvaluationError, MissingWeights
from evaluation.ksort.judges import Asking, Question, Refused, load_judge
from evaluation.ksort.judges.asked import AskedJudge, shown_image
from evaluation.ksort.judges.local import LocalJudge

ANSWER = "Image 2, Image 1, Image 3, Image 5, Image 4"


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return save_tiny_vlm(tmp_path_factory.mktemp("vlm") / "model", ANSWER)


@pytest.fixture
def question(tmp_path) -> Question:
    rng = np.random.default_rng(1)
    paths = []
    for k in range(5):
        paths.append(tmp_path / f"{k}.png")
        pixels = rng.integers(0, 256, (40, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(paths[-1])
    return Question("sample", "a bold seven", tuple(paths), (4, 0, 1, 2, 3))


def test_a_local_model_ranks_and_is_asked_once(model, question, tmp_path):
    judge = load_judge(f"local:{model}", tmp_path / "judgments")
    # shown: 1 -> image 4, 2 -> 0, 3 -> 1, 4 -> 2, 5 -> 3; best first: 0, 4, 1, 3, 2
    assert judge.rank(question) == [0, 2, 4, 3, 1]
    summary = judge.summary()
    assert summary["requests"] == 1
    assert summary["completion_tokens"] == 15  # five names of two words, four commas, the end
    again = LocalJudge(str(model), tmp_path / "judgments", Asking())
    assert again.rank(question) == [0, 2, 4, 3, 1]
    assert (again.cost["requests"], again.cost["kept"]) == (0, 1)
    assert again.spent_before["completion_tokens"] == 15


def test_the_model_sees_all_five_images(model, question, tmp_path):
    judge = LocalJudge(str(model), tmp_path / "judgments", Asking())
    seen = {}
    generate = judge.language.model.generate

    def spy(**inputs):
        seen.update(inputs)
        return generate(**inputs)

    judge.language.model.generate = spy
    jpegs = [shown_image(question.images[image], 512) for image in question.shown]
    judge.ask(judge.conversation(question, jpegs))
    assert seen["pixel_values"].shape == (5, 3, 28, 28)
    token = judge.language.model.config.image_token_id
    assert int((seen["input_ids"] == token).sum()) == 5 * 4  # 2 x 2 patches each


@pytest.mark.parametrize("orders", [3, 5])
def test_equal_sums_of_places_tie_whatever_the_number_of_orders(question, tmp_path, orders):
    """All 120 judges that look at the position only: sums of places are whole numbers."""
    for order in itertools.permutations(range(1, 6)):

        class PositionOnly(AskedJudge):
            def ask(self, messages, order=order):
                return ", ".join(f"Image {n}" for n in order), {}

        judge = PositionOnly("place", [str(order)], tmp_path / "judgments", Asking(orders=orders))
        ranks = judge.rank(question)
        places = [order.index(position + 1) for position in range(5)]
        sums = {
            image: sum(places[(question.shown.index(image) - turn) % 5] for turn in range(orders))
            for image in range(5)
        }
        for a, b in itertools.combinations(range(5), 2):
            assert (ranks[a] == ranks[b]) == (sums[a] == sums[b])
        if orders == 5:
            assert ranks == [2.0] * 5


def test_over_five_orders_a_judge_that_looks_at_places_ranks_nothing(model, question, tmp_path):
    judge = LocalJudge(str(model), tmp_path / "judgments", Asking(orders=5))
    assert judge.rank(question) == pytest.approx([2.0] * 5)
    assert judge.cost["requests"] == 5
    assert judge.summary()["mean_place_by_position"] == [1, 0, 2, 4, 3]
    assert judge.summary()["mean_place_error"] == pytest.approx((2 / 5) ** 0.5)


def test_a_model_that_has_learned_nothing_is_one_clear_error(question, tmp_path):
    folder = save_tiny_vlm(tmp_path / "untrained", ANSWER, steps=0)
    judge = LocalJudge(str(folder), tmp_path / "judgments", Asking(max_tokens=64))
    with pytest.raises(Refused, match=r"untrained gave no ranking of sample in 3 answers"):
        judge.rank(question)
    assert judge.cost["requests"] == 3
    assert judge.cost["completion_tokens"] > 3


def test_the_command_rates_with_a_local_judge(model, tmp_path, capsys):
    write_dataset(tmp_path / "world", np.random.default_rng(0), instances=3)
    images = write_new_images(tmp_path / "new", tmp_path / "world")
    arguments = ["ksort", "--dataset", tmp_path / "world", "--images", images]
    arguments += ["--judge", f"local:{model}", "--orders", 2, "--out", tmp_path / "result.json"]
    assert main([str(argument) for argument in arguments]) == 0
    said = capsys.readouterr().out
    assert "after 3 rounds" in said
    assert "judge: 6 requests" in said
    assert "position 2 got mean place 0.00" in said
    assert len(list((tmp_path / "judgments").iterdir())) == 6


def test_missing_weights_say_where_to_put_them(tmp_path, monkeypatch):
    with pytest.raises(MissingWeights, match=r"has no config\.json; put a vision-language model"):
        load_judge(f"local:{tmp_path}", tmp_path / "judgments")
    monkeypatch.setattr("evaluation.hub.out_of_reach", lambda: True)
    with pytest.raises(MissingWeights, match=r"nobody/nothing is not .* give its path"):
        load_judge("local:nobody/nothing", tmp_path / "judgments")


def test_orders_are_for_judges_that_see_positions(tmp_path):
    with pytest.raises(EvaluationError, match="--orders is for openai and local"):
        load_judge("recorded:x.jsonl", tmp_path, Asking(orders=5))
    with pytest.raises(EvaluationError, match="1 to 5 rotations, not 6 orders"):
        load_judge("local:x", tmp_path, Asking(orders=6))
