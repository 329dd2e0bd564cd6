"""A team's first month with its own arena: four deliveries, and what people ask of each."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import polars as pl
import pytest

from assets.lake import Lake
from assets.study import read_study
from examples.rehearsal.study import rehearse
from examples.rehearsal.votes import VOTES, world, write_table

ROOT = Path(__file__).parents[2]
STUDY = ROOT / "experiments" / "own_votes.toml"
SAID = tomllib.loads(STUDY.read_text())["votes"]


class Month:
    """The team's study on its stand-ins, in a home of its own."""

    def __init__(self, folder: Path):
        self.path = rehearse(STUDY, folder, policies=("base", "arenapo"))
        text = self.path.read_text()
        salted = text.replace("most_rejected = 0.05", 'most_rejected = 0.05\nrater_salt = "SALT"')
        self.path.write_text(salted)
        self.deliveries = folder / "data" / "own_votes"
        self.home = folder / "home"
        self.home.mkdir()
        self.lake = Lake(read_study(self.path).lake)

    def run(self) -> list[str]:
        """Run the study; return the lines that name a stage that was made."""
        done = subprocess.run(
            [sys.executable, "-m", "pipelines", "run", self.path],
            cwd=ROOT, capture_output=True, text=True, check=False,
            env=os.environ | {"DAGSTER_HOME": str(self.home), "SALT": "a secret of the team"},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
        return (done.stdout + done.stderr).splitlines()

    def deliver(self, name: str, table: pl.DataFrame) -> None:
        table.write_csv(self.deliveries / name)

    def everything_written(self) -> list[Path]:
        """Every file that the study wrote: the lake, MLflow's store, Dagster's home."""
        made = [path for path in self.path.parent.rglob("*") if path.is_file()]
        return [path for path in made if self.path.parent / "data" not in path.parents]


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_from_a_csv_to_a_policy_and_through_the_month_s_deliveries(tmp_path):
    month = Month(tmp_path)

    # The first week: one csv with the team's own column names and words, raters by their address.
    month.run()
    first = month.lake.read("votes")
    assert first.height == VOTES
    assert set(month.lake.read("ratings")["model"]) == {f"model-{i}" for i in range(6)}
    policy = month.lake.current("policies", "arenapo").resolve() / "policy"
    assert list(policy.glob("*.safetensors"))
    report = month.lake.read("report")
    assert report.filter(policy="arenapo")["mean_score"].is_not_null().all()
    assert (month.lake.root / "reports" / "comparison.html").is_file()
    assert first["rater"].n_unique() == 7

    # The second: a new file, one row of which nobody can read.
    write_table(
        world(offset=VOTES, votes=40),
        month.deliveries / "0002.csv", SAID["columns"], SAID["outcomes"],
    )  # fmt: skip
    second = pl.read_csv(month.deliveries / "0002.csv", infer_schema=False).with_row_index()
    choice = pl.when(pl.col("index") == 6).then(pl.lit("the left one, perhaps"))
    second = second.with_columns(choice=choice.otherwise("choice")).drop("index")
    month.deliver("0002.csv", second)
    month.run()
    assert month.lake.read("votes").height == VOTES + 39
    rejected = month.lake.read("rejected").filter(pl.col("file").str.ends_with("0002.csv"))
    assert rejected.select("row", "column").rows() == [(7, "choice")]

    # The third: an export of everything so far, in another order. Each vote counts once.
    both = pl.concat(pl.read_csv(path, infer_schema=False)
                     for path in sorted(month.deliveries.glob("000?.csv")))  # fmt: skip
    month.deliver("0003.csv", both.sample(fraction=1, shuffle=True, seed=0))
    before = month.lake.current("policies", "arenapo").resolve()
    month.run()
    assert month.lake.read("votes").height == VOTES + 39
    assert month.lake.current("policies", "arenapo").resolve() == before

    # The fourth: another set of prompts. What was drawn is drawn anew; nothing is trained.
    (month.path.parent / "prompts.txt").write_text("a lighthouse in fog\na tin robot\n")
    text = month.path.read_text()
    month.path.write_text(text.replace("[generation]", '[generation]\nprompts = "prompts.txt"'))
    month.run()
    assert month.lake.current("policies", "arenapo").resolve() == before
    scores = pl.read_parquet(month.lake.scores("arenapo"))
    assert set(scores["prompt"]) == {"a lighthouse in fog", "a tin robot"}
    assert "nothing had changed; nothing was recomputed" in "\n".join(month.run())

    # Nobody's address is anywhere but in what was delivered.
    assert [
        path for path in month.everything_written() if b"@example.org" in path.read_bytes()
    ] == []
