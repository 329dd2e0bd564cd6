import json

import polars as pl
import pytest

from arena.ratings.trueskill import TrueSkill
from arena.schema import UNNAMED
from arena.votes.read import read_votes

PAIR = {
    "prompt": "a cat",
    "path1": "images/uuid1.jpg",
    "path2": "images/uuid2.jpg",
    "model1": "sdxl",
    "model2": "kolors",
    "confidence": 0.9,
    "choice_dist": [12, 7],
}


def test_hpd_v3_prefers_path1_and_keeps_what_tells_the_arena_nothing(write_json):
    same = PAIR | {"model1": "midjourney", "model2": "midjourney", "confidence": None}
    reading = read_votes([write_json([PAIR, same, PAIR | {"path2": ""}, PAIR | {"confidence": 7}])])
    assert list(reading.formats.values()) == ["hpd_v3"]
    votes = reading.votes
    assert votes["outcome"].to_list() == ["a", "a"]
    assert votes.select("model_a", "model_b").rows()[1] == ("midjourney", "midjourney")
    assert votes["image_a"][0] == "images/uuid1.jpg"
    assert votes["confidence"].to_list() == [0.9, None]
    assert reading.rejected.select("row", "column").rows() == [(3, "path2"), (4, "confidence")]
    seen = TrueSkill().fit(votes).table.filter(pl.col("votes") > 0)
    assert sorted(seen["model"]) == ["kolors", "sdxl"]


def test_hpd_v2_has_no_model_names_and_says_so_in_one_name(write_json):
    pair = {"prompt": "a cat", "image_path": ["0.jpg", "1.jpg"], "human_preference": [0, 1]}
    wrong = [
        pair | {"human_preference": [1]},
        pair | {"human_preference": [2, 0]},
        pair | {"image_path": ["0.jpg"]},
    ]
    tied = pair | {"human_preference": [0.5, 0.5]}
    reading = read_votes([write_json([pair, tied, *wrong])])
    assert list(reading.formats.values()) == ["hpd_v2"]
    assert reading.votes["outcome"].to_list() == ["b", "tie"]
    assert set(reading.votes["model_a"]) | set(reading.votes["model_b"]) == {UNNAMED}
    assert (reading.rows, reading.accepted) == (5, 2)
    assert sorted(reading.rejected["column"]) == [
        "human_preference",
        "human_preference",
        "image_path",
    ]


def test_hpd_v2_s_test_file_ranks_nine_images(write_json):
    ranked = {
        "prompt": "a cat",
        "image_path": [f"{i}.jpg" for i in range(9)],
        "rank": [3, 1, 2, 9, 8, 7, 6, 5, 4],
    }
    reading = read_votes([write_json([ranked, ranked | {"rank": [1, 2]}])])
    assert reading.rankings["ranks"].to_list() == [ranked["rank"]]
    assert reading.votes.height == 36
    assert (reading.rows, reading.accepted, reading.rejected.height) == (2, 1, 1)
    assert reading.rejected["column"].item() in ("image_path", "rank")


@pytest.mark.parametrize("pretty", [True, False])
def test_one_object_a_line_is_read_too(pretty, tmp_path):
    path = tmp_path / "hpd.jsonl"
    path.write_text("\n".join(json.dumps(PAIR) for _ in range(3)) + "\n" * pretty)
    reading = read_votes([path])
    assert list(reading.formats.values()) == ["hpd_v3"]
    assert reading.votes.height == 3
