"""Taking votes in: every row of every file accounted for, nothing twice, a bad file left out."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from arena.ratings.trueskill import TrueSkill
from arena.schema import RANKINGS, REJECTED, VOTES
from arena.votes.faults import VotesError
from arena.votes.intake import FILES, arrivals, take_in
from arena.votes.options import Options
from arena.votes.read import read_votes


@pytest.fixture
def lake(tmp_path):
    """Return a function that takes sources in and reads the three tables back."""
    names = ("votes", "rankings", "rejected")
    paths = [tmp_path / "lake" / f"{name}.parquet" for name in names]

    def take(*sources, **more):
        files = take_in(sources, *paths, **more)
        tables = {name: pl.read_parquet(path) for name, path in zip(names, paths, strict=True)}
        summed = pl.sum_horizontal("accepted", "rejected", "duplicates")
        assert files.filter(pl.col("rows") != summed).is_empty()
        assert tables["rejected"].height == files["rejected"].sum()
        return files, tables

    take.paths = paths
    return take


def bad(votes_of, share):
    """Return ten votes of which this many cannot be used."""
    outcome = pl.when(pl.int_range(10) < share).then(pl.lit("?")).otherwise("outcome")
    return votes_of(10).with_columns(outcome=outcome)


def test_the_tables_are_those_that_reading_gives(lake, votes_of, write_votes, write_json):
    first = write_votes("csv", votes_of(9).drop("vote_id", "source"))
    second = write_json([{"models": ["x", "y", "z"], "ranks": [1, 2, 2]}] * 2)
    third = write_votes("parquet", votes_of(4).with_columns(outcome=pl.lit("?")))
    reading = read_votes([first, second, third])
    files, tables = lake(first, second, third, most_rejected=1.0)
    assert_frame_equal(tables["votes"], reading.votes)
    assert_frame_equal(tables["rankings"], reading.rankings)
    assert_frame_equal(tables["rejected"], reading.rejected)
    for name, schema in (("votes", VOTES), ("rankings", RANKINGS), ("rejected", REJECTED)):
        assert dict(tables[name].schema) == schema
    assert dict(files.schema) == FILES
    assert files["rows"].sum() == reading.rows == 15
    assert files["accepted"].sum() == reading.accepted == 11


def test_the_real_files_add_up(lake, shared):
    names = ("genai_arena/clean_battle_20240220.json", "genai_bench/genai_image.json")
    names += ("tifa160/tifa160-likert-anns.csv", "imagereward/test.json")
    files, _ = lake(*(shared(name) for name in names))
    assert files["rows"].to_list() == files["accepted"].to_list() == [2061, 9486, 3995, 466]


def test_a_file_that_cannot_be_read_is_left_out_and_says_why(lake, votes_of, write_votes, tmp_path):
    good = write_votes("csv", votes_of(6))
    torn = write_votes("parquet", votes_of(40), "torn.parquet")
    torn.write_bytes(torn.read_bytes()[:-50])
    page = tmp_path / "page.csv"
    page.write_text("<html>")
    files, tables = lake(torn, good, page)
    assert tables["votes"].height == 6
    assert files["rows"].to_list() == [0, 6, 0]
    assert files["fault"][0].endswith("it may be cut off: deliver it again")
    assert "a web page" in files["fault"][2]
    assert files["fault"][1] is None


def test_a_file_that_is_mostly_rejected_is_left_out_with_the_commonest_reasons(
    lake, votes_of, write_votes
):
    good = write_votes("csv", votes_of(6), "good.csv")
    path = write_votes("csv", bad(votes_of, 3), "bad.csv")
    files, tables = lake(good, path)
    assert tables["votes"].height == 6
    assert tables["rejected"].is_empty()
    assert files["fault"][1] == (
        "3 of 10 rows cannot be used, more than 20%: 3 x outcome not a, b or tie (first in row 1)"
    )
    files, tables = lake(good, path, most_rejected=0.5)
    assert files["rejected"].to_list() == [0, 3]
    assert files["fault"].to_list() == [None, None]


def test_a_few_rejections_leave_no_file_out(lake, votes_of, write_votes):
    assert lake(write_votes("csv", bad(votes_of, 2)))[0]["accepted"].to_list() == [8]


def test_a_file_that_was_accepted_before_and_cannot_be_read_now_stops(lake, votes_of, write_votes):
    good = write_votes("csv", votes_of(6), "good.csv")
    other = write_votes("json", votes_of(9), "other.json")
    before, _ = lake(good, other)
    tables = [path.read_bytes() for path in lake.paths]
    other.write_text("[{")
    with pytest.raises(VotesError, match=r"other\.json: was accepted before and cannot be now"):
        lake(good, other, before=before)
    assert [path.read_bytes() for path in lake.paths] == tables
    files, _ = lake(good, other)
    assert files["fault"].null_count() == 1


def test_one_that_never_was_accepted_stops_nothing(lake, votes_of, write_votes, tmp_path):
    good = write_votes("csv", votes_of(6), "good.csv")
    (tmp_path / "page.csv").write_text("<html>")
    before, _ = lake(good, tmp_path / "page.csv")
    files, _ = lake(good, tmp_path / "page.csv", before=before)
    assert files["accepted"].to_list() == [6, 0]


def test_no_vote_at_all_stops_and_changes_nothing(lake, votes_of, write_votes):
    good = write_votes("csv", votes_of(6), "good.csv")
    lake(good)
    tables = [path.read_bytes() for path in lake.paths]
    path = write_votes("csv", bad(votes_of, 10), "bad.csv")
    with pytest.raises(VotesError, match=r"no vote can be used .*bad\.csv: 10 of 10 rows cannot"):
        lake(path)
    assert [path.read_bytes() for path in lake.paths] == tables


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
@pytest.mark.parametrize("ids", [True, False])
def test_a_file_delivered_twice_under_any_name_counts_once(kind, ids, lake, votes_of, write_votes):
    votes = votes_of(6) if ids else votes_of(6).drop("vote_id")
    first = write_votes(kind, votes, "b.x")
    _, once = lake(first)
    second = write_votes(kind, votes, "a.x")
    files, twice = lake(first, second)
    assert_frame_equal(twice["votes"], once["votes"])
    assert files["duplicates"].to_list() == [0, 6]
    assert files["repeats"].to_list() == [None, str(first)]


def test_a_corrected_batch_replaces_the_old_one_by_name(lake, votes_of, write_votes):
    old = write_votes("csv", votes_of(6), "march.csv")
    corrected = votes_of(6).with_columns(outcome=pl.lit("tie"))
    new = write_votes("csv", corrected, "march-corrected.csv")
    files, tables = lake(old, new, replaces={"march-corrected.csv": "march.csv"})
    assert files["file"].to_list() == [str(new)]
    assert tables["votes"]["outcome"].unique().to_list() == ["tie"]
    write_votes("csv", corrected, "march.csv")
    assert lake(old)[1]["votes"]["outcome"].unique().to_list() == ["tie"]
    with pytest.raises(VotesError, match=r"votes\.replaces: no source has the file april\.csv"):
        lake(old, replaces={"april.csv": "march.csv"})


def test_raters_are_hashed_under_the_salt_before_anything_is_written(lake, votes_of, write_votes):
    path = write_votes("csv", votes_of(6).drop("vote_id"))
    path.write_text(path.read_text() + "r0,is,broken\n")
    lake(path, options=Options(salt="secret"))
    for table in lake.paths:
        assert not any(f'"{name}' in pl.read_parquet(table).write_json() for name in ("r0", "r1"))


def test_arrivals_say_what_each_file_is_to_the_time_before(lake, votes_of, write_votes):
    votes = votes_of(20)
    paths = [write_votes("csv", votes[4 * i : 4 * i + 4], f"{i}.csv") for i in range(4)]
    before, _ = lake(*paths)
    assert set(arrivals(before, None)["arrival"]) == {"new"}
    renamed = paths[1].rename(paths[1].with_name("moved.csv"))
    write_votes("csv", votes[8:15], "2.csv")
    again = write_votes("csv", votes[:4], "again.csv")
    new = write_votes("csv", votes[16:], "new.csv")
    torn = new.with_name("torn.csv")
    torn.write_text("<html>")
    after, _ = lake(paths[0], renamed, paths[2], again, new, torn)
    said = dict(arrivals(after, before).select("file", "arrival").iter_rows())
    assert {Path(name).name: arrival for name, arrival in said.items()} == {
        "0.csv": "unchanged",
        "moved.csv": "renamed",
        "2.csv": "changed",
        "again.csv": "repeated",
        "new.csv": "new",
        "torn.csv": "left out",
        "3.csv": "gone",
    }


def test_sixty_batches_in_any_order_with_a_third_twice_rate_as_one_delivery(
    lake, votes_of, write_votes, tmp_path
):
    random = np.random.default_rng(0)
    votes = votes_of(240).select("prompt", "created_at", "rater", "model_b")
    votes = votes.with_columns(
        model_a=pl.Series(random.choice(["x", "y", "z", "w"], 240)),
        outcome=pl.Series(random.choice(["a", "b", "tie"], 240)),
    )
    whole = write_votes("jsonl", votes, "whole.jsonl")
    once = TrueSkill().fit(lake(whole)[1]["votes"]).table
    lines = whole.read_text().splitlines(keepends=True)
    batches = ["".join(lines[i : i + 4]) for i in range(0, 240, 4)]
    folder = tmp_path / "deliveries"
    folder.mkdir()
    order = [*random.permutation(60), *random.permutation(60)[:20]]
    for number, batch in enumerate(random.permutation(order)):
        (folder / f"{number:04}.jsonl").write_text(batches[batch])
    files, tables = lake(folder)
    assert (files.height, files["rows"].sum()) == (80, 240 + 4 * 20)
    assert files["duplicates"].sum() == 4 * 20
    assert_frame_equal(TrueSkill().fit(tables["votes"]).table, once, check_exact=True)


def test_the_same_sources_give_the_same_bytes(lake, votes_of, write_votes):
    path = write_votes("jsonl", votes_of(50).drop("vote_id"))
    lake(path)
    first = [table.read_bytes() for table in lake.paths]
    lake(path)
    assert [table.read_bytes() for table in lake.paths] == first


def test_json_that_is_delivered_anew_with_other_spaces_is_another_file(lake, write_json, tmp_path):
    timed = {"model_a": "m", "model_b": "n", "winner": "tie", "tstamp": 1.5}
    spaced = tmp_path / "spaced.json"
    spaced.write_text(json.dumps([timed], indent=1))
    # Its votes carry a time, so they are the same votes all the same.
    assert lake(write_json([timed]), spaced)[0]["accepted"].to_list() == [1, 0]
    untimed = {name: timed[name] for name in ("model_a", "model_b", "winner")}
    spaced.write_text(json.dumps([untimed], indent=1))
    assert lake(write_json([untimed]), spaced)[0]["accepted"].to_list() == [1, 1]
