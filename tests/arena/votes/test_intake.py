"""Taking votes in: every row of every file accounted for, and nothing twice."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest
from polars.testing import assert_frame_equal

from arena.ratings.trueskill import TrueSkill
from arena.schema import RANKINGS, REJECTED, VOTES
from arena.votes.faults import VotesError
from arena.votes.intake import FILES, TooManyRejected, arrivals, take_in
from arena.votes.read import Options, read_votes
from arena.votes.stream import read_comparisons


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


def test_the_tables_are_those_that_reading_gives(lake, votes_of, write_votes, write_json):
    first = write_votes("csv", votes_of(9).drop("vote_id").with_columns(source=None))
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
    streamed, _ = read_comparisons([first, second])
    assert len(streamed) == 6


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
@pytest.mark.parametrize("cut", [0.3, 0.5, 0.9])
def test_a_half_written_copy_adds_nothing_to_the_whole_file(kind, cut, lake, votes_of, write_votes):
    whole = write_votes(kind, votes_of(40).drop("vote_id"), "whole.x")
    half = whole.with_name("half.x")
    half.write_bytes(whole.read_bytes()[: int(cut * whole.stat().st_size)])
    _, once = lake(whole)
    files, both = lake(half, whole)
    assert both["votes"].drop("vote_id").equals(once["votes"].drop("vote_id"))
    assert files["repeats"].to_list() == [str(whole), None]


def test_a_half_written_parquet_is_named_alone_and_forgotten_beside_the_whole(
    lake, votes_of, write_votes
):
    whole = write_votes("parquet", votes_of(40), "whole.parquet")
    half = whole.with_name("half.parquet")
    half.write_bytes(whole.read_bytes()[:-50])
    with pytest.raises(VotesError, match=r"half\.parquet: .*cut off: deliver it again"):
        lake(half)
    files, tables = lake(half, whole)
    assert tables["votes"].height == 40
    assert files["rows"].to_list() == [0, 40]


def test_a_file_that_grew_adds_its_new_rows_and_moves_no_id(lake, votes_of, write_votes):
    votes = votes_of(30).drop("vote_id")
    path = write_votes("csv", votes[:20])
    other = write_votes("parquet", votes[:7].with_columns(rater=pl.lit("other")), "z.parquet")
    _, before = lake(path, other)
    write_votes("csv", votes)
    _, after = lake(path, other)
    grown = set(after["votes"]["vote_id"]) - set(before["votes"]["vote_id"])
    assert (after["votes"].height, len(grown)) == (37, 10)
    assert set(before["votes"]["vote_id"]) < set(after["votes"]["vote_id"])


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet", "json"])
def test_a_daily_export_of_everything_so_far_counts_each_vote_once(
    kind, lake, votes_of, write_votes, write_json
):
    votes = votes_of(30).drop("vote_id")
    days = []
    for day, n in enumerate((7, 19, 30)):
        if kind == "json":
            rows = [
                {"model_a": "m", "model_b": "n", "winner": "tie", "tstamp": k} for k in range(n)
            ]
            days.append(write_json(rows, f"day-{day}.json"))
        else:
            days.append(write_votes(kind, votes[:n], f"day-{day}.{kind}"))
    files, tables = lake(*days)
    assert tables["votes"].height == 30
    assert files["repeats"].to_list() == [str(days[2]), str(days[2]), None]
    assert files["duplicates"].to_list() == [7, 19, 0]
    _, last = lake(days[2])
    assert last["votes"].drop("vote_id").equals(tables["votes"].drop("vote_id"))
    assert len(read_comparisons(days)[0]) == 30


def test_batches_that_only_begin_alike_are_all_kept(lake, votes_of, write_votes):
    votes = votes_of(20).drop("vote_id")
    other = pl.concat([votes[:5], votes[6:]])
    paths = [write_votes("parquet", each, f"{i}.parquet") for i, each in enumerate((votes, other))]
    assert lake(*paths)[0]["accepted"].to_list() == [20, 19]


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


def test_one_vote_id_names_one_vote_over_all_files(lake, votes_of, write_votes):
    first = write_votes("csv", votes_of(6), "1.csv")
    mixed = pl.concat([votes_of(8)[3:], votes_of(1).with_columns(outcome=pl.lit("tie"))])
    second = write_votes("jsonl", mixed, "2.jsonl")
    files, tables = lake(first, second)
    reading = read_votes([first, second])
    assert_frame_equal(tables["votes"], reading.votes)
    assert tables["votes"]["vote_id"].to_list() == [f"v{i}" for i in range(8)]
    assert files.select("accepted", "rejected", "duplicates").rows() == [(6, 0, 0), (2, 1, 3)]
    assert tables["rejected"].select("file", "row", "column").rows() == [
        (str(second), 6, "vote_id")
    ]


def test_too_many_rejections_stop_with_the_three_commonest_reasons_and_change_nothing(
    lake, votes_of, write_votes
):
    good = write_votes("csv", votes_of(6), "good.csv")
    lake(good)
    before = [path.read_bytes() for path in lake.paths]
    outcome = ["?"] * 4 + ["a"] * 6
    confidence = ["0.5"] * 4 + ["2"] * 3 + ["0.5"] * 3
    model = ["x"] * 7 + [""] * 2 + ["x"]
    bad = votes_of(10).with_columns(
        pl.Series("outcome", outcome),
        pl.Series("confidence", confidence),
        pl.Series("model_a", model),
    )
    path = write_votes("csv", bad, "bad.csv")
    with pytest.raises(TooManyRejected) as caught:
        lake(good, path)
    said = str(caught.value)
    assert "bad.csv: 9 of 10 rows cannot be used, more than 20%" in said
    assert said.index("4 x outcome not a, b or tie (first in row 1)") < said.index("3 x confidence")
    assert "2 x model_a empty (first in row 8)" in said
    assert [path.read_bytes() for path in lake.paths] == before
    assert lake(good, path, most_rejected=0.9)[0]["rejected"].to_list() == [0, 9]


def test_raters_are_hashed_under_the_salt_before_anything_is_written(lake, votes_of, write_votes):
    path = write_votes("csv", votes_of(6).drop("vote_id"))
    path.write_text(path.read_text() + "r0,is,broken\n")
    _, plain = lake(path)
    _, hashed = lake(path, options=Options(salt="secret"))
    _, other = lake(path, options=Options(salt="other"))
    assert hashed["votes"]["rater"].n_unique() == plain["votes"]["rater"].n_unique() == 2
    names = set(plain["votes"]["rater"])
    lake(path, options=Options(salt="secret"))
    for table in lake.paths:
        assert not any(f'"{name}' in pl.read_parquet(table).write_json() for name in names)
    assert set(hashed["votes"]["rater"]).isdisjoint(other["votes"]["rater"])
    # An id that hashed the rater's name could be guessed back to it.
    assert set(hashed["votes"]["vote_id"]).isdisjoint(plain["votes"]["vote_id"])


def test_arrivals_say_what_each_file_is_to_the_time_before(lake, votes_of, write_votes):
    votes = votes_of(20)
    paths = [write_votes("csv", votes[4 * i : 4 * i + 4], f"{i}.csv") for i in range(4)]
    before, _ = lake(*paths)
    assert set(arrivals(before, None)["arrival"]) == {"new"}
    renamed = paths[1].rename(paths[1].with_name("moved.csv"))
    write_votes("csv", votes[8:15], "2.csv")
    again = write_votes("csv", votes[:4], "again.csv")
    new = write_votes("csv", votes[16:], "new.csv")
    after, _ = lake(paths[0], renamed, paths[2], again, new)
    said = dict(arrivals(after, before).select("file", "arrival").iter_rows())
    assert {Path(name).name: arrival for name, arrival in said.items()} == {
        "0.csv": "unchanged",
        "moved.csv": "renamed",
        "2.csv": "changed",
        "again.csv": "repeated",
        "new.csv": "new",
        "3.csv": "gone",
    }


def test_a_thousand_batches_in_any_order_with_a_third_twice_rate_as_one_delivery(
    lake, votes_of, write_votes, tmp_path
):
    random = np.random.default_rng(0)
    votes = (
        votes_of(4000)
        .drop("vote_id")
        .with_columns(
            model_a=pl.Series(random.choice(["x", "y", "z", "w"], 4000)),
            outcome=pl.Series(random.choice(["a", "b", "tie"], 4000)),
        )
    )
    whole = write_votes("jsonl", votes, "whole.jsonl")
    once = TrueSkill().fit(lake(whole)[1]["votes"]).table
    lines = whole.read_text().splitlines(keepends=True)
    batches = ["".join(lines[i : i + 4]) for i in range(0, 4000, 4)]
    folder = tmp_path / "deliveries"
    folder.mkdir()
    order = [*random.permutation(1000), *random.permutation(1000)[:333]]
    for number, batch in enumerate(random.permutation(order)):
        (folder / f"{number:04}.jsonl").write_text(batches[batch])
    files, tables = lake(folder)
    assert (files.height, files["rows"].sum()) == (1333, 4000 + 4 * 333)
    assert files["duplicates"].sum() == 4 * 333
    assert_frame_equal(TrueSkill().fit(tables["votes"]).table, once, check_exact=True)


def test_the_same_sources_give_the_same_bytes(lake, votes_of, write_votes):
    path = write_votes("jsonl", votes_of(50).drop("vote_id"))
    lake(path)
    first = [table.read_bytes() for table in lake.paths]
    lake(path)
    assert [table.read_bytes() for table in lake.paths] == first
    assert pq.read_metadata(lake.paths[0]).num_rows == 50


def test_json_that_is_delivered_anew_with_other_spaces_is_another_file(lake, write_json, tmp_path):
    battle = {"model_a": "m", "model_b": "n", "winner": "tie", "tstamp": 1.5}
    path = write_json([battle])
    spaced = tmp_path / "spaced.json"
    spaced.write_text(json.dumps([battle], indent=1))
    # Without a vote_id nothing says that these are one vote, so both are kept.
    assert lake(path, spaced)[0]["accepted"].to_list() == [1, 1]
