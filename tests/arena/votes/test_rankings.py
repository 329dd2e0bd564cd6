"""K-wise votes: the sibling table, the published rankings, tables of scores, and their pairs."""

import json
from itertools import combinations

import polars as pl
import pytest

from arena.schema import RANKINGS, UNNAMED, VOTES
from arena.votes.faults import VotesError
from arena.votes.rankings import pairs_of, ranks_of_scores
from arena.votes.read import read_votes

VOTE = {"vote_id": "k1", "prompt": "a cat", "models": ["x", "y", "z"], "ranks": [2, 1, 2]}


def test_imagereward_s_real_rankings(shared):
    reading = read_votes([shared("imagereward/test.json")])
    rankings = reading.rankings
    assert (reading.rows, reading.accepted, reading.rejected.height) == (466, 466, 0)
    assert rankings.height == 466
    sizes = rankings["ranks"].list.len()
    assert (sizes.min(), sizes.max()) == (4, 9)
    assert (rankings["ranks"].list.n_unique() < sizes).sum() == 349
    assert set(rankings["models"].explode()) == {UNNAMED}
    assert reading.votes.height == int((sizes * (sizes - 1) // 2).sum())
    assert reading.votes["vote_id"].n_unique() == reading.votes.height


def test_genai_bench_s_real_scores_tie_as_often_as_stated(shared):
    reading = read_votes([shared("genai_bench/genai_image.json")])
    assert reading.files[0].format == "likert"
    assert (reading.rows, reading.accepted, reading.rejected.height) == (9486, 9486, 0)
    assert reading.rankings.height == 527 * 3
    assert reading.votes.height == 23715
    assert (reading.votes["outcome"] == "tie").sum() == 10112
    assert reading.rankings["rater"].n_unique() == 3
    assert reading.votes["model_a"].n_unique() <= 6


def test_tifa160_s_real_scores(shared):
    path = shared("tifa160/tifa160-likert-anns.csv")
    reading = read_votes([path])
    assert reading.files[0].format == "likert"
    assert (reading.rows, reading.accepted) == (3995, 3995)
    assert reading.rankings.height == 800
    assert reading.rankings["rater"].n_unique() == 5
    assert reading.rankings["prompt_id"].n_unique() == 160
    assert int(reading.rankings["rows"].sum()) == 3995


@pytest.mark.parametrize("kind", ["jsonl", "parquet", "json"])
def test_the_sibling_table_in_its_formats(kind, tmp_path):
    path = tmp_path / f"rankings.{kind}"
    votes = [VOTE, VOTE | {"vote_id": "k2", "images": ["1.png", "2.png", "3.png"]}]
    if kind == "parquet":
        pl.DataFrame(votes).write_parquet(path)
    elif kind == "json":
        path.write_text(json.dumps(votes))
    else:
        path.write_text("\n".join(map(json.dumps, votes)))
    reading = read_votes([path])
    assert reading.files[0].format == "rankings"
    assert dict(reading.rankings.schema) == RANKINGS
    assert reading.rankings["vote_id"].to_list() == ["k1", "k2"]
    assert reading.rankings["ranks"].to_list() == [[2, 1, 2]] * 2
    assert reading.votes.filter(pl.col("vote_id").str.starts_with("k2"))["image_b"].to_list() == [
        "2.png",
        "3.png",
        "3.png",
    ]


def test_every_pair_names_its_ranking_and_says_what_the_ranks_say(write_json):
    reading = read_votes([write_json([VOTE | {"rater": "r"}])])
    assert reading.votes.columns == list(VOTES)
    assert reading.votes.select("vote_id", "model_a", "model_b", "outcome").rows() == [
        ("k1#0-1", "x", "y", "b"),
        ("k1#0-2", "x", "z", "tie"),
        ("k1#1-2", "y", "z", "a"),
    ]
    assert reading.votes["rater"].unique().to_list() == ["r"]
    assert reading.votes["ranking"].to_list() == ["k1"] * 3


def test_pairs_of_rankings_of_different_sizes_keep_the_order(write_json):
    sizes = [4, 2, 3, 4]
    votes = [{"models": [f"m{i}" for i in range(k)], "ranks": list(range(1, k + 1))} for k in sizes]
    reading = read_votes([write_json(votes)])
    expected = [(f"m{i}", f"m{j}") for k in sizes for i, j in combinations(range(k), 2)]
    assert reading.votes.select("model_a", "model_b").rows() == expected
    assert set(reading.votes["outcome"]) == {"a"}
    assert pairs_of(reading.rankings[:0]).height == 0


@pytest.mark.parametrize(
    ("change", "column"),
    [
        ({"ranks": None}, "ranks"),
        ({"ranks": [1]}, "ranks"),
        ({"ranks": [1, "two", 3]}, "ranks"),
        ({"ranks": [1, float("nan"), 3]}, "ranks"),
        ({"ranks": [1, True, 3]}, "ranks"),
        ({"models": ["x", "y"]}, "models"),
        ({"models": ["x", "y", ""]}, "models"),
        ({"models": ["x", "y", "z\n"]}, "models"),
        ({"models": "xyz"}, "models"),
        ({"models": None}, "images"),
        ({"images": ["1.png"]}, "images"),
    ],
)
def test_a_ranking_that_cannot_be_used_is_rejected_with_its_column(change, column, write_json):
    reading = read_votes([write_json([VOTE, VOTE | {"vote_id": "k2"} | change])])
    assert (reading.rows, reading.accepted) == (2, 1)
    assert reading.rejected.select("row", "column").rows() == [(2, column)]


def test_a_time_that_is_none_costs_no_ranking(write_json):
    reading = read_votes([write_json([VOTE | {"created_at": "soon"}])])
    assert (reading.accepted, reading.doubts["column"].to_list()) == (1, ["created_at"])


def test_ksort_s_instances_in_a_folder(write_json, tmp_path):
    for i, best in enumerate(("LCM", "SDXL")):
        content = {
            "prompt": ["a cat"],
            "img_rank": [0, 1, 1, 3],
            "models_name": [f"0_{best}", "1_Dreamshaper-xl-turbo_x", "2_FLUX", "3_SD1.5"],
        }
        write_json(content, f"Image/{i}/result.json")
    (tmp_path / "Image" / "1" / "3.jpg").write_bytes(b"")
    reading = read_votes([tmp_path / "Image"])
    assert {file.format for file in reading.files} == {"ksort"}
    assert reading.rankings["models"][0].to_list() == [
        "LCM-v1.5",
        "Dreamshaper-xl",
        "FLUX",
        "SD1.5",
    ]
    assert reading.rankings["ranks"][0].to_list() == [1, 2, 2, 3]
    assert reading.rankings["images"][0].to_list() == ["0/0.jpg", "0/1.jpg", "0/2.jpg", "0/3.jpg"]
    whole = read_votes([tmp_path / "Image"], images="resolved").rankings
    assert whole["images"][1][3] == str((tmp_path / "Image/1/3.jpg").resolve())
    assert reading.votes.height == 12


def test_scores_become_ranks_the_highest_first():
    assert ranks_of_scores([3, 5, 5, 1]) == [2, 1, 1, 3]


def test_a_table_of_scores_loses_no_row(tmp_path):
    path = tmp_path / "scores.csv"
    path.write_text(
        "model,prompt_id,rater,score\n"
        "x,p,r,5\ny,p,r,3\n"
        "x,p,r,5\n"  # said twice
        "y,p,r,4\n"  # said otherwise before
        "x,p,s,2\n"  # the only one of s
        "z,p,r,good\n,p,r,1\nz,p,r\n"
    )
    reading = read_votes([path])
    assert (reading.rows, reading.accepted, reading.duplicates) == (8, 2, 1)
    assert reading.rejected["row"].to_list() == [4, 5, 6, 7, 8]
    assert reading.votes.select("model_a", "model_b", "outcome").rows() == [("x", "y", "a")]


def test_a_table_of_ranks_and_one_of_scores_say_the_same(tmp_path):
    path = tmp_path / "one.csv"
    for table in (
        "prompt,user,model,rank\np,u,x,2\np,u,y,1\np,u,z,2\n",
        "prompt,user,model_name,rating\np,u,x,3\np,u,y,5\np,u,z,3\n",
    ):
        path.write_text(table)
        ranking = read_votes([path]).rankings.row(0, named=True)
        assert (ranking["models"], ranking["ranks"]) == (["x", "y", "z"], [2, 1, 2])


def test_a_file_without_ranks_has_no_ranking(write_json):
    reading = read_votes([write_json([{"models": ["x", "y"]}])], format="rankings")
    assert reading.rejected["column"].to_list() == ["ranks"]
    with pytest.raises(VotesError, match="no vote can be used: 1 x ranks not a list of numbers"):
        reading.require()
