"""The page's interface: what is shown, what a vote becomes, and who may ask."""

import hashlib
import hmac
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import polars as pl
import pytest
from PIL import Image
from voting_world import HERE, MODELS, client, draw, make_study, page, written

from arena.ratings.table import as_ratings
from arena.votes.read import read_votes
from voting import asking as asking_module
from voting.raters import agreements
from voting.server import links
from voting.study import open_study

HOUSE = Path(__file__).parents[2]


@pytest.fixture
def study(tmp_path):
    return make_study(tmp_path)


@pytest.fixture
def served(study):
    asking, app = page(study)
    yield asking, app
    asking.ballots.close()


def vote(browser, outcome="a"):
    pair = browser.get("/api/pair").json()
    answer = browser.post("/api/vote", json={"token": pair["token"], "outcome": outcome})
    assert answer.status_code == 200, answer.text
    return pair, answer.json()


def test_a_vote_is_a_row_that_the_arena_reads_as_it_was_meant(served, study, tmp_path):
    browser = client(served[1])
    pair = browser.get("/api/pair").json()
    assert set(pair) == {"token", "prompt", "image_a", "image_b"}
    answer = browser.post("/api/vote", json={"token": pair["token"], "outcome": "b"}).json()
    assert answer["votes"] == 1
    (row,) = written(tmp_path)
    assert row["outcome"] == "b"
    assert row["side"] == "right"
    assert [row["model_a"], row["model_b"]] == answer["models"]
    reading = read_votes(tmp_path / "landing", open_study(study).options)
    assert reading.rejected.is_empty()
    assert reading.doubts.is_empty()
    (mine,) = reading.votes.filter(pl.col("vote_id") == row["vote_id"]).to_dicts()
    assert mine["prompt"] == pair["prompt"]
    assert mine["outcome"] == "b"
    assert mine["anonymous"] is True
    assert mine["rater"] == row["rater"]
    # The same images as in the arena's own votes: paths from the study's folder.
    assert mine["image_a"] == f"images/{mine['model_a']}-{mine['prompt'].split()[-1]}.png"
    assert (tmp_path / mine["image_b"]).is_file()


@pytest.mark.parametrize(
    ("outcome", "read"), [("a", "a"), ("b", "b"), ("tie", "tie"), ("both_bad", "tie")]
)
def test_every_answer_keeps_its_meaning(served, tmp_path, outcome, read):
    vote(client(served[1]), outcome)
    assert [row["outcome"] for row in written(tmp_path)] == [outcome]
    votes = read_votes(sorted((tmp_path / "landing").glob("votes-*.jsonl"))).votes
    assert votes["outcome"].to_list() == [read]


def test_a_ranking_is_one_free_for_all_vote(served, tmp_path):
    browser = client(served[1])
    shown = browser.get("/api/ranking").json()
    assert set(shown) == {"token", "prompt", "images"}
    said = {"token": shown["token"], "ranks": [2, 1, 4, 3]}
    answer = browser.post("/api/ranking", json=said).json()
    assert answer["votes"] == 1
    assert len(set(answer["models"])) == 4
    reading = read_votes(sorted((tmp_path / "landing").glob("rankings-*.jsonl")))
    (row,) = reading.rankings.to_dicts()
    assert row["models"] == answer["models"]
    assert row["ranks"] == [2, 1, 4, 3]
    assert row["prompt"] == shown["prompt"]
    assert reading.votes.height == 6


def test_nothing_names_a_model_before_the_vote(served):
    browser = client(served[1])
    for path in ("/api/pair", "/api/ranking"):
        answer = browser.get(path)
        shown = answer.json()
        images = shown.get("images") or [shown["image_a"], shown["image_b"]]
        for image in images:
            assert re.fullmatch(r"/images/[0-9a-f]{32}", image)
            content = browser.get(image)
            assert content.headers["content-type"] == "image/png"
            picture = Image.open(io.BytesIO(content.content))
            assert picture.info == {}
            assert b"secret" not in content.content
            assert not {model for model in MODELS if model in str(content.headers)}
        assert not {model for model in MODELS if model in answer.text}


def test_an_image_is_shown_as_the_houses_reader_sees_it(served, tmp_path):
    browser = client(served[1])
    pair, answer = vote(browser)
    shown = Image.open(io.BytesIO(browser.get(pair["image_a"]).content))
    own = tmp_path / "images" / f"{answer['models'][0]}-{pair['prompt'].split()[-1]}.png"
    assert shown.tobytes() == Image.open(own).convert("RGB").tobytes()


def test_a_broken_image_is_never_shown(study, tmp_path):
    for path in (tmp_path / "images").glob("flux-*.png"):
        path.write_bytes(b"no picture")
    asking, app = page(study)
    browser = client(app)
    for _ in range(20):
        assert "flux" not in vote(browser)[1]["models"]
    asking.ballots.close()


def test_sides_are_drawn_at_random(served):
    browser = client(served[1])
    first = Counter(vote(browser)[1]["models"][0] < "l" for _ in range(60))
    # 2 of 5 models, 60 votes: either side has some of each with all but certainty.
    assert min(first.values()) > 5


def test_no_pair_comes_twice_to_one_rater_but_repeats_do(served, monkeypatch, tmp_path):
    browser, other = client(served[1]), client(served[1])
    monkeypatch.setattr(asking_module, "REPEATS", 0.0)
    monkeypatch.setattr(asking_module, "KNOWN", 0.5)
    for _ in range(80):  # 8 prompts x 10 pairs of models: all there are
        vote(browser)
    shown = [frozenset(row["items"]) for row in written(tmp_path)]
    assert len(set(shown)) == 80
    answer = browser.get("/api/pair")
    assert answer.status_code == 404
    assert answer.json() == {"detail": "you have seen every pair there is; thank you"}
    vote(other)
    monkeypatch.setattr(asking_module, "REPEATS", 1.0)
    vote(browser)
    assert frozenset(written(tmp_path)[-1]["items"]) in shown


def test_repeats_measure_a_rater(served, monkeypatch):
    asking, app = served
    monkeypatch.setattr(asking_module, "REPEATS", 1.0)
    names = {}
    for who in ("careful", "random"):
        browser = client(app)
        for n in range(50):  # 20 new pairs, then repeats
            token = browser.get("/api/pair").json()["token"]
            names[who] = asking.seals.opened("token", token)[1]
            items = asking.read(names[who], token)[1]
            left = MODELS.index(items[0].model) < MODELS.index(items[1].model)
            left = left if who == "careful" else n % 2 == 0
            said = {"token": token, "outcome": "a" if left else "b"}
            assert browser.post("/api/vote", json=said).status_code == 200
    head = client(app)
    head.get(links(asking, HERE, [])[0].removeprefix(HERE))
    found = {one["rater"]: one for one in head.get("/api/raters").json()["raters"]}
    careful, random = (found[names[who]] for who in ("careful", "random"))
    assert careful["votes"] == random["votes"] == 50
    assert careful["repeats"] == [30, 30]
    assert random["repeats"][1] == 30
    assert random["repeats"][0] < 30  # by chance once in 10^9
    assert random["left"] == 0.5
    assert careful["arena"][0] > random["arena"][0]


def test_a_raters_agreements_are_counted_by_hand():
    def vote(outcome, items, models=("good", "bad")):
        own = dict(zip(("model_a", "model_b"), models, strict=True))
        return own | {
            "rater": "r", "outcome": outcome, "items": items, "seconds": 2.0, "created_at": "t"
        }  # fmt: skip

    ratings = as_ratings(
        pl.DataFrame({"model": ["good", "bad", "near"], "mu": [40.0, 10.0, 39.0], "sigma": 0.5})
    )
    votes = [
        vote("a", ["1", "2"]),
        vote("b", ["2", "1"], ("bad", "good")),  # the same answer with the sides changed
        vote("b", ["1", "2"]),  # another answer, against a sure favourite
        vote("tie", ["1", "2"]),  # neither agrees nor disagrees
        vote("a", ["1", "3"], ("good", "near")),  # the favourite, but not a sure one
    ]
    (found,) = agreements(votes, ratings)
    assert found["repeats"] == [1, 2]
    assert found["known"] == [2, 3]
    assert found["arena"] == [3, 4]
    assert (found["left"], found["ties"], found["seconds"]) == (0.4, 0.2, 2.0)


def test_the_owners_page_needs_the_owners_link(served):
    browser = client(served[1])
    vote(browser)
    assert browser.get("/api/raters").status_code == 401
    browser.cookies.set("arenapo_owner", browser.cookies["arenapo_rater"])
    assert browser.get("/api/raters").status_code == 401
    assert browser.get("/raters").status_code == 200  # the empty frame


def test_an_undone_vote_leaves_no_trace_and_its_pair_comes_again(served, tmp_path):
    browser = client(served[1])
    vote(browser)
    pair, _ = vote(browser)
    answer = browser.post("/api/undo", json={"token": pair["token"]}).json()
    assert answer["votes"] == 1
    assert [answer[key] for key in ("prompt", "image_a", "image_b")] == [
        pair[key] for key in ("prompt", "image_a", "image_b")
    ]
    assert len(written(tmp_path)) == 1
    old = browser.post("/api/vote", json={"token": pair["token"], "outcome": "a"})
    assert old.status_code == 409
    new = browser.post("/api/vote", json={"token": answer["token"], "outcome": "b"})
    assert new.json()["votes"] == 2
    assert [row["outcome"] for row in written(tmp_path)] == ["a", "b"]


def test_a_vote_is_taken_back_within_ten_seconds_only(served, tmp_path):
    browser = client(served[1])
    pair, _ = vote(browser)
    served[0].ballots.clock = lambda: time.time() + 10.5
    answer = browser.post("/api/undo", json={"token": pair["token"]})
    assert answer.status_code == 409
    assert answer.json()["detail"] == "a vote can be taken back for 10 seconds only"
    assert len(written(tmp_path)) == 1


def test_the_leaderboard_moves_with_the_votes(served):
    _, app = served
    browser = client(app)
    before = {r["model"]: r for r in browser.get("/api/leaderboard").json()["leaderboard"]}
    pair, answer = vote(browser, "a")
    after = {r["model"]: r for r in browser.get("/api/leaderboard").json()["leaderboard"]}
    winner, loser = answer["models"]
    assert after[winner]["mu"] > before[winner]["mu"]
    assert after[loser]["mu"] < before[loser]["mu"]
    assert after[winner]["votes"] == before[winner]["votes"] + 1
    browser.post("/api/undo", json={"token": pair["token"]})
    undone = {r["model"]: r for r in browser.get("/api/leaderboard").json()["leaderboard"]}
    assert undone == before


def test_votes_that_the_lake_has_rated_are_not_rated_again(served, study, tmp_path):
    asking, app = served
    browser = client(app)
    for _ in range(5):
        vote(browser)
    before = browser.get("/api/leaderboard").json()["leaderboard"]
    (tmp_path / "lake" / "votes").mkdir()
    votes = read_votes(tmp_path / "landing", open_study(study).options).votes
    votes.write_parquet(tmp_path / "lake" / "votes" / "votes.parquet")
    asking._looked -= 60
    vote(browser)
    told = browser.get("/api/leaderboard").json()["leaderboard"]
    assert sum(r["votes"] for r in told) == sum(r["votes"] for r in before) + 2


def test_votes_of_a_rater_whom_the_lake_forgets_count_for_nothing_here_either(
    served, study, tmp_path
):
    asking, app = served
    before = client(app).get("/api/leaderboard").json()["leaderboard"]
    forgotten, browser = client(app), client(app)
    for _ in range(3):
        vote(forgotten)
        vote(browser)
    (tmp_path / "lake" / "votes").mkdir()
    votes = read_votes(tmp_path / "landing", open_study(study).options).votes
    gone = written(tmp_path)[0]["rater"]
    kept = votes.filter(pl.col("rater").ne_missing(gone))
    assert votes.height - kept.height == 3
    kept.write_parquet(tmp_path / "lake" / "votes" / "votes.parquet")
    asking._looked -= 60
    told = client(app).get("/api/leaderboard").json()["leaderboard"]
    assert sum(row["votes"] for row in told) == sum(row["votes"] for row in before) + 2 * 3


def test_each_version_of_a_policy_is_a_model_of_its_own(study, tmp_path):
    draw(tmp_path, "base@3fa9c2d1", 100)
    first = draw(tmp_path, "arenapo@2", 200)
    asking, app = page(study)
    browser = client(app)
    # New policies against the baseline come first.
    assert set(vote(browser)[1]["models"]) == {"base@3fa9c2d1", "arenapo@2"}
    on_screen, late = (browser.get("/api/pair").json()["token"] for _ in range(2))
    draw(tmp_path, "arenapo@5", 300)
    shutil.rmtree(first)
    answer = browser.post("/api/vote", json={"token": on_screen, "outcome": "a"})
    assert set(answer.json()["models"]) == {"base@3fa9c2d1", "arenapo@2"}
    asking._looked -= 60
    assert set(vote(browser)[1]["models"]) == {"base@3fa9c2d1", "arenapo@5"}
    answer = browser.post("/api/vote", json={"token": late, "outcome": "a"})
    assert answer.json()["detail"].startswith("these images are no longer asked about")
    # The images of the first version were deleted by the pipeline, not the ones voted about.
    reading = read_votes(tmp_path / "landing", open_study(study).options)
    about_policies = reading.votes.filter(pl.col("model_a").str.contains("@"))
    assert about_policies.height == 3
    for row in about_policies.to_dicts():
        assert (tmp_path / row["image_a"]).is_file()
        assert row["image_a"].startswith("landing/images/")
    # The champion is asked about first, as long as it is one: from the copies that were kept.
    champion = tmp_path / "lake" / "champion" / "champion.parquet"
    champion.parent.mkdir()
    pl.DataFrame({"model": ["arenapo@2"]}).write_parquet(champion)
    asking._looked -= 60
    browser.cookies.clear()
    assert "arenapo@2" in vote(browser)[1]["models"]
    asking.ballots.close()


def test_the_votes_of_a_rater_whom_the_study_leaves_out_count_for_nothing(study, tmp_path):
    asking, app = page(study)
    _, invited = links(asking, HERE, ["anna", "ben"])
    before = client(app).get("/api/leaderboard").json()
    for name, link in invited.items():
        guest = client(app)
        guest.get(link.removeprefix(HERE))
        for _ in range(3):
            vote(guest)
        assert {row["rater"] for row in written(tmp_path)} >= {name}
    asking.ballots.close()
    own = 'sources = ["landing"]\nwithout = ["anna", "ben"]'
    study.write_text(study.read_text().replace('sources = ["landing"]', own))
    again, app = page(study)
    # The lake has taken nothing in yet, so the page reads the sources; without the two.
    assert client(app).get("/api/leaderboard").json() == before
    again.ballots.close()


def test_a_salted_study_hashes_a_rater_once(tmp_path, monkeypatch):
    study = make_study(
        tmp_path, change=lambda t: t.replace('["landing"]', '["landing"]\nrater_salt = "SALT"')
    )
    asking, app = page(study)
    vote(client(app))
    monkeypatch.setenv("SALT", "pepper")
    (row,) = written(tmp_path)
    read = read_votes(sorted((tmp_path / "landing").glob("votes-*.jsonl")), salt="pepper").votes
    once = hmac.new(b"pepper", row["rater"].encode(), hashlib.sha256).hexdigest()[:16]
    assert read["rater"].to_list() == [once]
    asking.ballots.close()


@pytest.mark.parametrize(
    ("votes", "said"),
    [
        ('sources = ["landing"]\nformat = "battles"', "would misread the page's votes"),
        ('sources = ["landing"]\noutcomes = {a = "b", b = "a"}', "would misread the page's votes"),
    ],
)
def test_a_study_that_would_misread_the_votes_is_refused(tmp_path, votes, said):
    study = make_study(tmp_path, change=lambda t: t.replace('sources = ["landing"]', votes))
    with pytest.raises(ValueError, match=said):
        open_study(study)


def test_names_of_the_studys_own_are_written_too(tmp_path):
    own = 'sources = ["landing/v*.jsonl"]\ncolumns = {model_a = "left_model"}'
    study = make_study(tmp_path, change=lambda t: t.replace('sources = ["landing"]', own))
    opened = open_study(study)
    assert opened.landing == tmp_path / "landing"
    assert opened.row({"model_a": "flux"}) == {"model_a": "flux", "left_model": "flux"}


def test_the_command_serves_on_loopback_and_refuses_the_rest(study, tmp_path):
    environment = os.environ | {"PYTHONPATH": str(HOUSE)}
    command = [sys.executable, "-m", "voting", str(study)]

    def run(*more):
        return subprocess.run(
            [*command, *more], env=environment, capture_output=True, text=True, timeout=120
        )

    open_to_all = run("--host", "0.0.0.0")
    assert open_to_all.returncode == 1
    assert "so raters need invitations: add --invite N" in open_to_all.stderr
    behind = run("--url", "https://vote.example.org")
    assert behind.returncode == 1
    assert "--invite" in behind.stderr
    missing = subprocess.run(
        [sys.executable, "-m", "voting", "none.toml"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert missing.returncode == 1
    assert missing.stderr == (
        "voting: none.toml: there is no such study; give the path of its TOML\n"
    )
    assert "example: python -m voting" in run("--help").stdout


def test_json_is_what_the_files_hold_whatever_the_prompt(served, tmp_path):
    vote(client(served[1]))
    (row,) = written(tmp_path)
    assert row["prompt"].startswith("<b>drawing</b>")
    assert json.loads(json.dumps(row)) == row


def test_a_study_without_votes_asks_about_its_policies(tmp_path):
    study = make_study(tmp_path)
    shutil.rmtree(tmp_path / "landing")
    (tmp_path / "landing").mkdir()
    with pytest.raises(ValueError, match="there is no image to vote about"):
        page(study)
    draw(tmp_path, "base@3fa9c2d1", 100)
    draw(tmp_path, "arenapo@2", 200)
    asking, app = page(study)
    assert set(vote(client(app))[1]["models"]) == {"base@3fa9c2d1", "arenapo@2"}
    asking.ballots.close()


def test_an_interrupt_ends_the_command_in_peace(study):
    environment = os.environ | {"PYTHONPATH": str(HOUSE)}
    command = [sys.executable, "-m", "voting", str(study), "--port", "0"]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert "vote at http://127.0.0.1:" in process.stdout.readline()
        time.sleep(1.0)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "Traceback" not in said
