"""A rater is forgotten: no table, cache or history holds them, and their votes do not come back."""

import sqlite3
from pathlib import Path

import duckdb
import polars as pl
import pytest

from assets.forgotten import as_stored, forget, leave_out, left_out, list_version
from assets.lake import Lake
from assets.tracking import Tracking
from pipelines.chain import RATE, chain_of, of_job
from pipelines.forget import forget_rater
from pipelines.launch import Launcher
from pipelines.planning import UP_TO_DATE, steps_of

pytestmark = pytest.mark.slow
NAME = "rater 3"


def quiet(line):
    del line


def holders(study, instance, word):
    """Return everything written for a study that holds a word: tables, databases, other files."""
    found = []
    stores = (study.lake, instance.root_directory, Tracking.of(study).folder)
    for path in [file for store in stores for file in Path(store).rglob("*")]:
        if path.suffix == ".parquet":
            texts = pl.read_parquet(path).select(pl.col(pl.String)).get_columns()
            found += [path] if any((word in text.to_list()) for text in texts) else []
        elif path.suffix == ".duckdb":
            with duckdb.connect(str(path), read_only=True) as database:
                rows = database.execute("SELECT rater FROM votes").fetchall()
            found += [path] if (word,) in rows else []
        elif path.suffix == ".db" and path.stat().st_size:
            with sqlite3.connect(path) as database:
                found += [path] if word in "\n".join(database.iterdump()) else []
        elif path.is_file() and word.encode() in path.read_bytes():
            found.append(path)
    return found


def test_a_rater_leaves_every_table_and_does_not_come_back(
    write_chain, instance, votes_table, tmp_path
):
    study = write_chain()
    launcher = Launcher(study, instance, quiet)
    launcher.rate()
    lake, votes = launcher.lake, votes_table(600)
    own = votes.filter(pl.col("rater") == NAME).height
    before = {name: lake.version(name) for name in ("votes", "ratings", "gaps", "training_set")}
    assert {path.name for path in holders(study, instance, NAME)} == {
        "votes.parquet",
        "warehouse.duckdb",
    }
    for folder in ("cache/ksort/x", "policies/dpo/unfinished", "policies/given_up/1"):
        (lake.root / folder).mkdir(parents=True)
        votes.write_parquet(lake.root / folder / "training_set.parquet")

    with pytest.raises(ValueError, match="no vote of rater 'rater 33'"):
        forget_rater(study, instance, "rater 33", quiet)
    said = forget_rater(study, instance, NAME, quiet)
    assert said.startswith(f"{own} votes of that rater left small; made anew: votes, ratings, gaps")
    assert holders(study, instance, NAME) == []
    left = lake.read("votes")
    assert left.height == 600 - own == lake.read("gaps").height
    assert set(left["rater"]) == set(votes["rater"]) - {NAME}
    for name, version in before.items():  # each stage follows
        assert lake.version(name) != version, name
    steps = steps_of(study, chain_of(study), instance)
    verdicts = {step.stage: step.verdict for step in steps if step.policy is None}
    assert {verdicts[name] for name in of_job(chain_of(study), RATE)} == {UP_TO_DATE}
    assert launcher.rate() == []

    # New files with new votes of theirs: none is taken, and none is unaccounted for.
    votes_table(700, seed=1).write_parquet(study.votes.sources[0])
    launcher.rate()  # no_vote_lost blocks otherwise
    assert NAME not in set(lake.read("votes")["rater"])
    assert left_out(lake) == votes_table(700, seed=1).filter(pl.col("rater") == NAME).height
    with pytest.raises(ValueError, match="whoever is forgotten already is none of them"):
        forget_rater(study, instance, NAME, quiet)


def test_a_ranking_leaves_with_its_pairs_and_another_rater_is_left_alone(tmp_path):
    lake = Lake(tmp_path)
    votes = pl.DataFrame(
        {"rater": ["a", "a", "b", None, "a"], "ranking": ["r", "r", None, None, None]}
    )
    lake.write("votes", votes)
    lake.write("rankings", pl.DataFrame({"rater": ["a", "b"], "rows": [2, 3]}))
    assert leave_out(lake) == 0
    assert list_version(lake) == ""
    assert leave_out(lake, {"nobody"}) == 0
    assert leave_out(lake, {"b"}) == left_out(lake) == 4  # whom the study's TOML leaves out
    assert lake.read("votes")["rater"].to_list() == ["a", "a", None, "a"]
    lake.write("votes", votes)
    lake.write("rankings", pl.DataFrame({"rater": ["a", "b"], "rows": [2, 3]}))
    forget(lake, "a")
    assert leave_out(lake) == left_out(lake) == 3  # one pair, and the two rows of a ranking
    assert lake.read("votes")["rater"].to_list() == ["b", None]
    assert lake.read("rankings")["rater"].to_list() == ["b"]
    listed = (tmp_path / "forgotten.json").read_text()
    assert '"a"' not in listed
    assert (tmp_path / "forgotten.json").stat().st_mode & 0o077 == 0
    forget(lake, "b")
    lake.write("votes", votes.filter(pl.col("rater") == "b"))
    with pytest.raises(ValueError, match="every rater is forgotten"):
        leave_out(lake)


def test_a_rater_is_found_by_name_where_the_lake_holds_hashes():
    from arena.votes.options import hashed_raters

    stored = hashed_raters(pl.DataFrame({"rater": ["Anna"]}), "salt")["rater"][0]
    assert as_stored("salt", "Anna") == ["Anna", stored]
    assert as_stored(None, "Anna") == ["Anna"]
