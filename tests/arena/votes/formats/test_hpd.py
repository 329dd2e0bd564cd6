"""HPD v2 and v3.

Layouts: the card of ymhao/HPDv2 (train.json: human_preference [int], prompt, file_path [str];
test.json: prompt, image_path [str], rank [int], raw_annotations [{rank, user_hash}]) and of
MizzenAI/HPDv3 (prompt, path1, path2, confidence, choice_dist, model1, model2).
"""

import pytest

from arena.schema import UNNAMED

PAIR = {
    "prompt": "a cat",
    "path1": "images/uuid1.jpg",
    "path2": "images/uuid2.jpg",
    "model1": "sdxl",
    "model2": "kolors",
    "confidence": 0.9,
    "choice_dist": [12, 7],
}


def test_v3_prefers_path1_and_keeps_what_tells_the_arena_nothing(read_records):
    same = PAIR | {"model1": "midjourney", "model2": "midjourney", "confidence": None}
    uncounted = PAIR | {"choice_dist": None}
    reading = read_records(PAIR, same, uncounted, PAIR | {"choice_dist": [3, 9]})
    assert reading.votes["outcome"].to_list() == ["a", "a", "a", "b"]
    assert reading.votes["votes_a"].to_list() == [12, 12, None, 3]
    assert reading.votes["model_a"][1] == reading.votes["model_b"][1] == "midjourney"


@pytest.mark.parametrize("counts", ["[12, 7]", "[12  7]", "(12, 7)", "[12.0, 7.0]"])
def test_counts_in_a_csv_as_json_python_and_numpy_show_them(counts, read_text):
    text = f'path1,path2,model1,model2,choice_dist\n1.jpg,2.jpg,m,n,"{counts}"\n'
    assert read_text(text).votes.select("votes_a", "votes_b").rows() == [(12, 7)]


# tgxs002/align_sd, README.md: human_preference int, prompt, id, file_path list[str], user_hash.
def test_v1_s_choice_of_several_is_a_vote_against_each_of_the_others(read_records):
    chosen = {"prompt": "p", "id": 3, "file_path": ["0.jpg", "1.jpg", "2.jpg"], "user_hash": "u"}
    reading = read_records(chosen | {"human_preference": 1}, chosen | {"human_preference": 3})
    assert reading.votes.select("image_a", "image_b", "outcome", "rater").rows() == [
        ("1.jpg", "0.jpg", "a", "u"),
        ("1.jpg", "2.jpg", "a", "u"),
    ]
    assert reading.rejected["column"].to_list() == ["human_preference"]


@pytest.mark.parametrize("counts", [[12], ["many", 7], "12 to 7", {"a": 1}])
def test_counts_of_another_form_cost_no_vote(counts, read_records):
    reading = read_records(PAIR, PAIR | {"choice_dist": counts})
    assert reading.accepted == 2


def test_v2_s_pairs_have_no_models_and_say_so_in_one_name(read_records):
    pair = {"prompt": "a cat", "file_path": ["0.jpg", "1.jpg"], "human_preference": [0, 1]}
    wrong = [
        pair | {"human_preference": [1]},
        pair | {"human_preference": [2, 0]},
        pair | {"file_path": ["0.jpg"]},
    ]
    reading = read_records(pair, pair | {"human_preference": [0.5, 0.5]}, *wrong)
    assert reading.votes["outcome"].to_list() == ["b", "tie"]
    assert set(reading.votes["model_a"]) == set(reading.votes["model_b"]) == {UNNAMED}
    assert reading.rejected["row"].to_list() == [3, 4, 5]


@pytest.mark.parametrize("key", ["raw_annotations", "raw_annotation"])
def test_v2_s_test_has_a_ranking_for_each_annotator(key, read_records):
    ranked = {"prompt": "a cat", "image_path": ["0.jpg", "1.jpg"], "rank": [1, 2]}
    told = [{"rank": [2, 1], "user_hash": "u"}, {"rank": [1], "user_hash": "v"}, None]
    reading = read_records(ranked | {key: told})
    assert reading.rankings.select("ranks", "rater").rows() == [([2, 1], "u")]
    assert (reading.rows, reading.rejected.height) == (3, 2)


def test_v2_s_merged_rank_counts_where_it_stands_alone(read_records):
    ranked = {
        "prompt": "a cat",
        "image_path": [f"{i}.jpg" for i in range(9)],
        "rank": [3, 1, 2, 9, 8, 7, 6, 5, 4],
    }
    reading = read_records(ranked, ranked | {"rank": [1, 2]})
    assert reading.rankings["ranks"].to_list() == [ranked["rank"]]
    assert (reading.votes.height, reading.rejected.height) == (36, 1)
