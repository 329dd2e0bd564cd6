"""Nothing counted twice, nothing lost, whatever comes together: the rules of a vote's identity."""

import json
from pathlib import Path
from tempfile import TemporaryDirectory

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from vote_files import adds_up, make_votes, write_as

from arena.votes.identity import with_ids
from arena.votes.read import read_votes
from arena.votes.summary import notes

KINDS = ["csv", "json", "jsonl", "parquet"]


def without(votes, *columns):
    return votes.drop("vote_id", *columns)


def read(folder, kind, *deliveries):
    """Read the deliveries as files of one kind."""
    paths = [write_as(kind, votes, folder / f"{k}.{kind}") for k, votes in enumerate(deliveries)]
    return adds_up(read_votes(paths))


def test_ids_are_the_same_for_ever():
    # Gaps are joined to votes by these: a change here orphans every gap that was written.
    plain = pl.DataFrame(
        {
            "vote_id": [None, None, None],
            "model_a": ["x", "x", "x"],
            "model_b": ["y", "y", "y"],
            "outcome": ["a", "a", "b"],
            "rater": [None, None, "r"],
        },
        schema_overrides={"vote_id": pl.String, "rater": pl.String},
    )
    assert with_ids(plain)["vote_id"].to_list() == [
        "89038c2d64478043",
        "89038c2d64478043.2",
        "1c40320ce2659b62",
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_that_comes_twice_under_any_name_counts_once(kind, tmp_path):
    votes = without(make_votes(), "created_at")
    reading = read(tmp_path, kind, votes, votes)
    assert (reading.accepted, reading.duplicates) == (6, 6)
    assert reading.files[1].repeats == reading.files[0].name
    assert "the same content as" in notes(reading)[0]


def test_a_text_that_excel_or_git_has_written_again_is_the_same_delivery(tmp_path):
    text = "model_a,model_b,outcome\nx,y,a\nx,y,a\n"
    (tmp_path / "1.csv").write_text(text)
    (tmp_path / "2.csv").write_bytes(text.replace("\n", "\r\n").encode("utf-8-sig"))
    reading = adds_up(read_votes([tmp_path]))
    assert (reading.accepted, reading.duplicates) == (2, 2)


@pytest.mark.parametrize("kind", KINDS)
def test_a_daily_export_of_everything_so_far_counts_each_vote_once(kind, tmp_path):
    votes = without(make_votes(30))
    reading = read(tmp_path, kind, votes[:7], votes[:19], votes)
    assert [file.accepted for file in reading.files] == [7, 12, 11]
    assert [file.duplicates for file in reading.files] == [0, 7, 19]
    assert "26 rows equal to an earlier one: counted once" in notes(reading)


@pytest.mark.parametrize("kind", KINDS)
def test_equal_rows_of_different_files_without_id_and_time_are_different_votes(kind, tmp_path):
    votes = without(make_votes(20), "created_at")
    # One file begins as the other does, and is no part of it.
    reading = read(tmp_path, kind, votes[:12], votes)
    assert (reading.accepted, reading.duplicates) == (32, 0)


def test_equal_rows_of_one_file_with_a_time_are_different_votes(tmp_path):
    vote = without(make_votes(1))
    reading = read(tmp_path, "csv", pl.concat([vote] * 3))
    assert (reading.accepted, reading.duplicates) == (3, 0)
    # As many of them as the file with the most has.
    reading = read(tmp_path, "csv", pl.concat([vote] * 3), pl.concat([vote] * 2))
    assert (reading.accepted, reading.duplicates) == (3, 2)


def test_equal_rows_under_one_vote_id_are_one_vote_over_all_files(tmp_path):
    votes = make_votes(8)
    reading = read(tmp_path, "json", votes[:6], votes[3:])
    assert (reading.accepted, reading.duplicates) == (8, 3)


def test_other_rows_under_one_vote_id_are_rejected_in_one_file_and_kept_in_two(tmp_path):
    votes = make_votes(6)
    clash = votes[:1].with_columns(prompt=pl.lit("other"))
    reading = read(tmp_path, "json", pl.concat([votes, clash]))
    assert (reading.accepted, reading.rejected["column"].to_list()) == (6, ["vote_id"])
    # Whose id it is cannot be told from two files: a stranger's must not cost the others theirs.
    reading = read(tmp_path, "json", clash, votes)
    assert (reading.accepted, reading.rejected.height) == (7, 0)
    assert "another file has this vote_id" in reading.doubts["reason"].item()
    assert reading.votes["vote_id"].to_list()[::2] == ["v0", "v1", "v3", "v5"]


def test_two_that_differ_in_the_last_column_only_are_two(tmp_path):
    votes = without(make_votes(1))
    reading = read(tmp_path, "csv", votes, votes.with_columns(rater=pl.lit("another")))
    assert reading.accepted == 2


def test_a_ranking_that_comes_twice_counts_once_and_a_changed_one_is_rejected(tmp_path):
    vote = {"vote_id": "k", "models": ["x", "y", "z"], "ranks": [2, 1, 2]}
    path = tmp_path / "votes.json"
    path.write_text(json.dumps([vote, vote, vote | {"ranks": [1, 2, 3]}]))
    reading = adds_up(read_votes([path]))
    assert (reading.rows, reading.accepted, reading.duplicates) == (3, 1, 1)
    assert reading.rejected["column"].item() == "vote_id"


@pytest.mark.parametrize("kind", KINDS)
def test_neither_a_new_name_nor_a_new_file_nor_another_container_changes_an_id(kind, tmp_path):
    votes = without(make_votes(9)).with_columns(created_at=pl.lit(None, pl.String))
    alone = read(tmp_path, "csv", votes).votes["vote_id"].to_list()
    other = votes.with_columns(rater=pl.lit("another"))
    beside = read(tmp_path, kind, other, votes)
    assert beside.votes["vote_id"].to_list()[9:] == alone
    (tmp_path / f"1.{kind}").rename(tmp_path / "renamed")
    assert read_votes([tmp_path / "renamed"]).votes["vote_id"].to_list() == alone


def test_a_file_that_grew_moves_no_id(tmp_path):
    votes = without(make_votes(30), "created_at")
    before = read(tmp_path, "csv", votes[:20]).votes["vote_id"].to_list()
    assert read(tmp_path, "csv", votes).votes["vote_id"].to_list()[:20] == before


def test_equal_image_names_of_two_folders_are_two_images(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        make_votes(2).with_columns(rater=pl.lit(name)).drop("vote_id").write_csv(
            tmp_path / name / "votes.csv"
        )
    reading = read_votes([tmp_path])
    assert reading.votes["image_a"].to_list() == [
        f"{name}/{i}-a.png" for name in ("one", "two") for i in range(2)
    ]


MODELS = st.sampled_from(["x", "y", "z", "", "NaN"])
ROWS = st.lists(
    st.fixed_dictionaries(
        {"model_a": MODELS, "model_b": MODELS, "outcome": st.sampled_from(["a", "b", "tie", "?"])},
        optional={
            "vote_id": st.sampled_from(["1", "2", "3"]),
            "created_at": st.sampled_from(["2026-01-01", "soon"]),
            "rater": st.sampled_from(["r", "s"]),
            "count": st.sampled_from([0, 1, 3]),
        },
    ),
    min_size=1,
    max_size=6,
)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(KINDS), ROWS), min_size=1, max_size=3))
def test_every_row_of_every_file_is_accounted_for(files):
    with TemporaryDirectory() as folder:
        paths = []
        for k, (kind, rows) in enumerate(files):
            path = Path(folder) / str(k)
            names = ["model_a", "model_b", "outcome", *({n for row in rows for n in row})]
            table = {name: [row.get(name) for row in rows] for name in dict.fromkeys(names)}
            paths.append(write_as(kind, pl.DataFrame(table), path))
        reading = adds_up(read_votes(paths))
        assert reading.rows == sum(len(rows) for _, rows in files)
        assert read_votes(paths).votes.equals(reading.votes)
