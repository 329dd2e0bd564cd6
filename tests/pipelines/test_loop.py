"""The loop: people vote, the votes rate, a policy trains, and its own images are voted about.

The short form has jobs that take milliseconds. The long one is the miniature's own: the page as a
process, voters who see what a browser sees, training and drawing as they are.
"""

import io
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import httpx
import polars as pl
import pytest
from PIL import Image
from voting_world import client, page

from arena.ratings.table import Ratings
from assets.lake import Lake
from assets.lineage import told
from assets.model_registry import champion_of, model_id_of, version_called
from assets.study import read_study
from assets.tracking import Tracking
from pipelines.launch import Launcher
from pipelines.outcome import outcome

HOUSE = Path(__file__).parents[2]
BY_VOTES = '\n[champion]\nby = "votes"\nvotes = 20\n'


def rated_in_mlflow(study, version):
    """Return the metrics of its rating by votes that stand on a version's model."""
    found = Tracking.of(study).client().get_logged_model(model_id_of(version)).metrics
    kept = {metric.key: metric.value for metric in found}
    return {key.partition(".")[2]: kept[key] for key in kept if key.startswith("votes.")}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_policy_that_people_prefer_becomes_champion_by_their_votes(finished, instance):
    (finished.path.parent / "landing").mkdir()
    text = finished.path.read_text().replace('["votes.parquet"]', '["votes.parquet", "landing"]')
    finished.path.write_text(text + BY_VOTES)
    study = read_study(finished.path)
    launcher, lake = Launcher(study, instance, lambda line: None), Lake(study.lake)
    registry = Tracking.of(study).client()
    assert champion_of(registry, study.name).tags["policy"] == "arenapo"  # by its scores
    dpo, arenapo = (version_called(registry, study.name, name) for name in ("dpo", "arenapo"))
    names = {"dpo": f"dpo@{dpo.version}", "arenapo": f"arenapo@{arenapo.version}"}
    asking, app = page(study.path)
    best_first = ["dpo", "arenapo", "base"]
    asked = set()
    for _ in range(2):  # two raters, who see the same in the images
        browser = client(app)
        for _ in range(30):
            pair = browser.get("/api/pair").json()
            rater = asking.seals.opened("token", pair["token"])[1]
            items = asking.read(rater, pair["token"])[1]
            places = [best_first.index(item.model.partition("@")[0]) for item in items]
            said = {"token": pair["token"], "outcome": "a" if places[0] < places[1] else "b"}
            asked |= set(browser.post("/api/vote", json=said).json()["models"])
    (base,) = asked - {*names.values()}
    assert base.startswith("base@")  # which was not trained, so it has no version in MLflow

    launcher.rate()
    launcher.update("write_report")
    standing = champion_of(registry, study.name)
    assert standing.version == dpo.version
    champion = told(instance, study, "champion", None)
    assert champion["decision"].startswith("dpo is champion: by ")
    assert f"above {names['arenapo']}" in champion["decision"]
    # One name and one rating: in the lake, the report, on the page and in MLflow.
    ratings = {row["model"]: row for row in Ratings.read(lake.table("ratings")).table.to_dicts()}
    report = {row["policy"]: row for row in lake.read("report").to_dicts()}
    asking._looked -= 60
    board = {row["model"]: row for row in client(app).get("/api/leaderboard").json()["leaderboard"]}
    for policy, name in {**names, "base": base}.items():
        own = ratings[name]
        assert own["votes"] >= 20
        assert report[policy]["votes"] == own["votes"] == board[name]["votes"]
        assert report[policy]["votes_mu"] == own["mu"] == board[name]["mu"]
        assert report[policy]["mean_score"] is not None
    assert {name: row["verdict"] for name, row in report.items()} == {
        "base": "the baseline", "dpo": "better", "arenapo": "better"
    }  # fmt: skip
    told_mlflow = rated_in_mlflow(study, dpo)
    own = ratings[names["dpo"]]
    assert told_mlflow == {"mu": own["mu"], "sigma": own["sigma"], "count": own["votes"]}
    assert "dpo is champion" in (lake.root / "reports" / "summary.md").read_text()
    assert "by people's votes, Holm-corrected" in outcome(study, instance)
    # What people vote about is what the policies drew, and nothing is trained on these prompts.
    drawn = lake.read("evaluation_prompts")["prompt"]
    about = lake.read("training_set").filter(pl.col("prompt").is_in(drawn.implode()))
    assert about.height == 60
    assert set(about["split"]) == {"held_out"}

    # Trained again, a policy is another version, which nobody voted about: it is not crowned, and
    # the page asks about it; the champion is still one of those that are asked about.
    assert "policy[dpo]" in launcher.chain()
    newer = version_called(registry, study.name, "dpo")
    assert int(newer.version) > int(arenapo.version)
    assert champion_of(registry, study.name).version == dpo.version
    assert "too few votes" in told(instance, study, "champion", None)["decision"]
    assert {row["policy"]: row["votes"] for row in lake.read("report").to_dicts()}["dpo"] == 0
    asking._looked -= 60
    token = client(app).get("/api/pair").json()["token"]
    rater = asking.seals.opened("token", token)[1]
    assert any(item.model not in ratings for item in asking.read(rater, token)[1])
    assert asking.catalogue.standing == names["dpo"]
    asking.ballots.close()


SMALLER = {
    "../examples": f"{HOUSE}/examples",
    "../lake/miniature": "lake",
    "steps = 120": "steps = 40",
    "warmup_steps = 20": "warmup_steps = 5",
    "checkpoint_every = 60": "checkpoint_every = 40",
    "images_per_prompt = 2\nsteps = 10": "images_per_prompt = 1\nsteps = 6",
    f"{HOUSE}/examples/miniature/world/evaluation_prompts.parquet": "prompts.parquet",
}


def small_miniature(folder: Path) -> Path:
    """Write the miniature's study with two trained policies and what takes minutes cut short."""
    text = (HOUSE / "experiments" / "miniature.toml").read_text()
    for old, new in SMALLER.items():
        assert old in text
        text = text.replace(old, new)
    policies = (
        '\n[[policy]]\nname = "base"\n\n[[policy]]\nname = "arenapo"\nobjective = "arenapo"\n\n'
    )
    first, last = text.index("\n[[policy]]\n"), text.index("\n[generation]\n")
    ksort, after = text.index("\n[ksort]\n"), text.index("\n[automation]")
    text = text[:first] + policies + text[last:ksort] + text[after:]
    (folder / "loop.toml").write_text(text.replace('"miniature"', '"loop"', 1) + BY_VOTES)
    world = HOUSE / "examples" / "miniature" / "world"
    pl.read_parquet(world / "evaluation_prompts.parquet").head(40).write_parquet(
        folder / "prompts.parquet"
    )
    return folder / "loop.toml"


@contextmanager
def served(study: Path):
    """Serve the page as a process of its own, as a person would, and yield its address."""
    command = [sys.executable, "-m", "voting", str(study), "--port", "0"]
    environment = os.environ | {"PYTHONPATH": str(HOUSE)}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        line = process.stdout.readline()
        assert "vote at " in line, line
        yield line.split("vote at ")[1].split(",")[0]
        process.send_signal(signal.SIGINT)


class Voter:
    """Somebody at a browser: sees two images and a prompt, and prefers what fits the prompt."""

    def __init__(self, url: str, scorer):
        self.scorer = scorer
        self.browser = httpx.Client(base_url=url, timeout=60)

    def votes(self, count: int) -> list[frozenset[str]]:
        """Vote, and return which models each vote was about, as the page tells afterwards."""
        return [self.vote() for _ in range(count)]

    def vote(self) -> frozenset[str]:
        pair = self.browser.get("/api/pair").json()
        images = [
            Image.open(io.BytesIO(self.browser.get(pair[f"image_{side}"]).content)) for side in "ab"
        ]
        a, b = self.scorer.score([pair["prompt"]] * 2, images)
        outcome = "tie" if abs(a - b) < 0.02 else "a" if a > b else "b"
        said = {"token": pair["token"], "outcome": outcome}
        return frozenset(self.browser.post("/api/vote", json=said).json()["models"])


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_the_loop_closes_on_the_miniature(tmp_path, instance):
    """Votes, ratings, a trained policy, votes about its images, and its rating beside its scores.

    With the page as it is served, and voters who see what a browser sees.
    """
    from examples.miniature.scorer import MiniatureScorer

    path = small_miniature(tmp_path)
    scorer = MiniatureScorer(str(HOUSE / "examples" / "miniature" / "world" / "scorer"))
    study = read_study(path)
    launcher, lake = Launcher(study, instance, print), Lake(study.lake)
    registry = Tracking.of(study).client()
    with served(path) as url:
        voters = [Voter(url, scorer) for _ in range(3)]
        first = [models for voter in voters for models in voter.votes(10)]
        assert not any("@" in model for models in first for model in models)
        launcher.chain()
        assert lake.read("votes")["rater"].n_unique() >= 3
        (trained,) = [version_called(registry, study.name, "arenapo")]
        name = f"arenapo@{trained.version}"

        def ask_until_about(wanted: str) -> None:
            """Let people vote until the page has seen the new images, as it does by itself."""
            for _ in range(60):
                if any(wanted in voter.vote() for voter in voters):
                    return
            raise AssertionError(f"nobody was asked about {wanted}")

        time.sleep(31)  # the page looks for new images every 30 seconds
        ask_until_about(name)
        for voter in voters:
            voter.votes(12)
        launcher.rate()
        launcher.update("write_report")
        row = lake.read("report").row(by_predicate=pl.col("policy") == "arenapo", named=True)
        rated = Ratings.read(lake.table("ratings")).table
        own = rated.row(by_predicate=pl.col("model") == name, named=True)
        assert row["votes"] == own["votes"] >= 20
        assert (row["votes_mu"], row["votes_sigma"]) == (own["mu"], own["sigma"])
        assert row["mean_score"] > 0
        assert row["verdict"] in ("better", "worse", "not told apart")
        assert rated_in_mlflow(study, trained)["mu"] == own["mu"]
        print(outcome(study, instance))

        # Once more round: the votes moved the training set, the policy trains on it, and the next
        # version is another model for the raters.
        launcher.chain()
        newer = version_called(registry, study.name, "arenapo")
        assert int(newer.version) > int(trained.version)
        time.sleep(31)
        ask_until_about(f"arenapo@{newer.version}")
