"""Votes on the disk: whole after any kill, counted once, taken back for good."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import pytest
from voting_world import make_study, written

from arena.votes.read import read_votes
from voting import ballots as ballots_module
from voting.ballots import Ballots, Refused

HOUSE = Path(__file__).parents[2]


def row(name, rater="r", age=0.0):
    moment = time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime(time.time() - age))
    return {"vote_id": name, "rater": rater, "created_at": moment, "prompt": "p", "items": []}


def test_a_vote_is_on_the_disk_before_it_is_answered(tmp_path, monkeypatch):
    calls = []
    real = os.fsync
    monkeypatch.setattr(ballots_module.os, "fsync", lambda h: (calls.append(h), real(h)))
    Ballots(tmp_path).add("votes", row("1"))
    (path,) = tmp_path.glob("votes-*.jsonl")
    assert json.loads(path.read_text())["vote_id"] == "1"
    assert len(calls) == 2  # the line, and the name of the new file


def test_a_torn_line_goes_and_the_rest_stays(tmp_path):
    ballots = Ballots(tmp_path)
    for name in "12":
        ballots.add("votes", row(name))
    ballots.close()
    (path,) = tmp_path.glob("votes-*.jsonl")
    whole = path.read_bytes()
    for cut in range(1, len(whole) // 2):
        path.write_bytes(whole[:-cut])
        again = Ballots(tmp_path)
        assert list(again.rows) == ["1"]
        assert path.read_bytes() == whole[: len(whole) // 2]
        again.close()


def test_an_undo_that_was_cut_short_is_finished(tmp_path):
    ballots = Ballots(tmp_path)
    for name in "123":
        ballots.add("votes", row(name))
    ballots.close()
    (tmp_path / ".withdrawn").write_text("2\n")  # killed between the note and the file
    again = Ballots(tmp_path)
    assert list(again.rows) == ["1", "3"]
    assert [each["vote_id"] for each in written(tmp_path.parent)] == []
    (path,) = tmp_path.glob("votes-*.jsonl")
    assert [json.loads(line)["vote_id"] for line in path.read_text().splitlines()] == ["1", "3"]
    with pytest.raises(Refused, match="counted before"):
        again.add("votes", row("2"))


def test_a_full_disk_leaves_nothing_of_a_vote(tmp_path, monkeypatch):
    ballots = Ballots(tmp_path)
    ballots.add("votes", row("1"))
    (path,) = tmp_path.glob("votes-*.jsonl")
    before = path.read_bytes()
    real = os.write
    monkeypatch.setattr(ballots_module.os, "write", lambda h, c: real(h, c[:20]))
    with pytest.raises(OSError, match="full"):
        ballots.add("votes", row("2"))
    assert path.read_bytes() == before
    monkeypatch.undo()
    ballots.add("votes", row("2"))
    assert list(ballots.rows) == ["1", "2"]


def test_files_are_rotated_so_that_they_settle(tmp_path, monkeypatch):
    now = [time.time()]
    ballots = Ballots(tmp_path, clock=lambda: now[0])
    monkeypatch.setattr(ballots_module, "MOST_VOTES", 3)
    for k in range(7):
        ballots.add("votes", row(str(k)))
    assert sorted(len(p.read_text().splitlines()) for p in tmp_path.glob("votes-*")) == [1, 3, 3]
    now[0] += ballots_module.MOST_SECONDS + 1
    ballots.add("votes", row("late"))
    assert len(list(tmp_path.glob("votes-*.jsonl"))) == 4


def test_two_pages_do_not_write_into_one_folder(tmp_path):
    first = Ballots(tmp_path)
    with pytest.raises(ValueError, match="another voting page writes into"):
        Ballots(tmp_path)
    first.close()
    Ballots(tmp_path).close()


def test_a_stranger_in_the_folder_is_named(tmp_path):
    (tmp_path / "votes-of-mine.jsonl").write_text('{"model_a": "x"}\n')
    with pytest.raises(ValueError, match=r"votes-of-mine.jsonl: not written by this page"):
        Ballots(tmp_path)


class Server:
    """The real command in a process of its own."""

    def __init__(self, study: Path):
        self.study = study
        self.process: subprocess.Popen[str] | None = None
        self.url = ""

    def start(self) -> None:
        environment = os.environ | {"PYTHONPATH": str(HOUSE), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "voting", str(self.study), "--port", "0"]
        self.process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
        )
        self.url = self.process.stdout.readline().split("vote at ")[1].partition(",")[0]

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        self.process.stdout.close()


def rater(server, stop, answered, undone, seed):
    """Vote, take some votes back, and note what was answered; ask again after a lost answer."""
    cookies, token, kind = httpx.Cookies(), None, "vote"
    n = seed
    while not stop.is_set():
        try:
            with httpx.Client(base_url=server.url, cookies=cookies, timeout=5) as browser:
                while not stop.is_set():
                    n += 1
                    if token is None:
                        token, kind = browser.get("/api/pair").json()["token"], "vote"
                    cookies = browser.cookies
                    said = {"token": token} | ({"outcome": "a"} if kind == "vote" else {})
                    answer = browser.post(f"/api/{kind}", json=said)
                    name = token
                    if kind == "vote":
                        assert answer.status_code in (200, 409), answer.text
                        answered.add(name)  # 409 after a kill: its answer was lost, it counts
                        kind = "undo" if n % 5 == 0 else "vote"
                        token = name if kind == "undo" else None
                    else:
                        if answer.status_code == 200:
                            undone.add(name)
                        else:  # too late, or taken back before its answer was lost: either
                            answered.discard(name)
                        token = None
        except (httpx.TransportError, KeyError, json.JSONDecodeError):
            time.sleep(0.05)


def kill_under_load(tmp_path, kills, raters):
    study = make_study(tmp_path, prompts=120)
    server, stop = Server(study), threading.Event()
    answered: set[str] = set()
    undone: set[str] = set()
    server.start()
    threads = [
        threading.Thread(target=rater, args=(server, stop, answered, undone, k))
        for k in range(raters)
    ]
    for thread in threads:
        thread.start()
    for k in range(kills):
        time.sleep(0.4 + 0.1 * (k % 5))
        server.kill()
        server.start()
    while not (undone and answered - undone):  # on a busy machine the first may take a while
        time.sleep(0.05)
    time.sleep(0.5)
    stop.set()
    for thread in threads:
        thread.join()
    server.kill()
    return answered, undone


def hold_every_answer(tmp_path, answered, undone):
    from voting.guard import Seals, secret_of

    seals = Seals(secret_of(tmp_path / "lake" / "voting"))
    names = {token: seals.opened("token", token)[0] for token in answered | undone}
    Ballots(tmp_path / "landing").close()  # as the next start would leave the files
    rows = [each["vote_id"] for each in written(tmp_path)]
    assert len(rows) == len(set(rows))  # none counts twice
    kept = {names[token] for token in answered - undone}
    assert kept
    assert undone
    assert kept <= set(rows)  # none is lost
    assert not {names[token] for token in undone} & set(rows)
    reading = read_votes(tmp_path / "landing")
    assert reading.rejected.is_empty()
    assert reading.duplicates == 0


@pytest.mark.slow
def test_no_answered_vote_is_lost_or_doubled_by_sigkill(tmp_path):
    hold_every_answer(tmp_path, *kill_under_load(tmp_path, kills=3, raters=4))


@pytest.mark.long
@pytest.mark.timeout(900)
def test_twenty_kills_under_load(tmp_path):
    hold_every_answer(tmp_path, *kill_under_load(tmp_path, kills=20, raters=12))
