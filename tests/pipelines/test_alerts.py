"""Who is told what: a real web server and a real program get every event once."""

import http.server
import json
import os
import sys
import threading
import uuid

import dagster as dg
import pytest

from assets.lineage import DATA_VERSION
from pipelines.alerts import tell
from pipelines.chain import chain_of
from pipelines.definitions import build_definitions
from pipelines.delivery import undelivered
from pipelines.launch import Launcher, StageFailed

KEEP = """
import os, sys
with open("told.jsonl", "a") as file:
    file.write(sys.stdin.read() + "\\n")
with open("names.txt", "a") as file:
    file.write(os.environ["ARENAPO_ALERT_EVENT"] + " " + os.environ["ARENAPO_ALERT_CHECK"] + "\\n")
"""


@pytest.fixture
def posted(monkeypatch):
    """The events that a web server on loopback was posted; its address is in $ALERTS_TO."""
    got, status = [], [200]

    class Keep(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            assert self.headers["Content-Type"] == "application/json"
            got.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(status[0])
            if status[0] in (302, 307):
                self.send_header("Location", "/elsewhere")
            self.end_headers()

        def do_GET(self):
            got.append(f"followed to {self.path}")

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Keep)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setenv("ALERTS_TO", f"http://127.0.0.1:{server.server_port}/secret-path")
    yield got, status
    server.shutdown()
    server.server_close()
    thread.join()


def with_alerts(text):
    command = json.dumps([sys.executable, "keep.py"])
    return f'{text}\n[alerts]\ncommand = {command}\nwebhook = "$ALERTS_TO"\n'


@pytest.fixture
def launcher(write_study, instance, tmp_path):
    (tmp_path / "keep.py").write_text(KEEP)
    said = []
    made = Launcher(write_study(with_alerts), instance, said.append)
    made.said = said
    return made


def evaluated(instance, name, passed, asset="votes", blocking=False, partition=None):
    """Record what a check found in a run of its own."""
    found = dg.AssetCheckEvaluation(
        asset_key=dg.AssetKey(["small", asset]),
        check_name=name,
        passed=passed,
        severity=dg.AssetCheckSeverity.ERROR if blocking else dg.AssetCheckSeverity.WARN,
        blocking=blocking,
        partition=partition,
    )
    kind = dg.DagsterEventType.ASSET_CHECK_EVALUATION.value
    event = dg.DagsterEvent(kind, "any", event_specific_data=found)
    instance.report_dagster_event(event, run_id=str(uuid.uuid4()))


def test_a_run_that_failed_is_told_once_by_whoever_looks_first(launcher, instance, posted):
    got, _ = posted
    # From before alerts were asked for: history.
    evaluated(instance, "no_vote_lost", False, blocking=True)
    tell(launcher.study, chain_of(launcher.study), instance, print)
    launcher.study.votes.sources[0].write_text("model_a,model_b\nx,y\n")
    with pytest.raises(StageFailed, match="outcome"):
        launcher.rate()
    (event,) = got
    assert event["event"] == "run_failed"
    assert event["job"] == "rate_votes"
    assert event["text"].startswith("small: rate_votes failed: votes: ")
    assert "outcome" in event["text"]
    assert instance.get_run_by_id(event["run_id"]).status == dg.DagsterRunStatus.FAILURE
    folder = launcher.study.path.parent
    assert [json.loads(line) for line in (folder / "told.jsonl").read_text().splitlines()] == got

    # The daemon's look comes second, and a new process has the same place.
    (sensor,) = [
        each for each in build_definitions(launcher.study).sensors if each.name == "small__alerts"
    ]
    looked = sensor(dg.build_sensor_context(instance=instance))
    assert looked.skip_message == "nothing to tell"
    # A run that the daemon ended is told by the daemon.
    run = instance.create_run_for_job(
        launcher.definitions.resolve_job_def("small__train_and_evaluate"),
        tags={"dagster/partition": "dpo"},
        status=dg.DagsterRunStatus.STARTED,
    )
    instance.report_run_failed(run, "its process ended without a word")
    looked = sensor(dg.build_sensor_context(instance=instance))
    assert looked.skip_message == (
        "small: train_and_evaluate of dpo failed: its process ended without a word"
    )
    assert [event["policy"] for event in got] == ["", "dpo"]


def test_a_warning_is_told_when_it_is_new_and_a_blocking_check_always(launcher, instance, posted):
    got, _ = posted
    study = launcher.study
    assert tell(study, chain_of(study), instance, print) == []
    steps = [
        ("share_of_ties_is_steady", True, {}, 0),
        ("share_of_ties_is_steady", False, {}, 1),
        ("share_of_ties_is_steady", False, {}, 0),
        ("share_of_ties_is_steady", True, {}, 0),
        ("share_of_ties_is_steady", False, {}, 1),
        ("no_vote_lost", False, {"blocking": True}, 1),
        ("no_vote_lost", False, {"blocking": True}, 1),
        ("every_image_is_scored", False, {"asset": "scorecard", "partition": "dpo"}, 1),
        ("every_image_is_scored", False, {"asset": "scorecard", "partition": "arenapo"}, 1),
        ("every_image_is_scored", False, {"asset": "scorecard", "partition": "dpo"}, 0),
    ]
    for name, passed, how, told in steps:
        evaluated(instance, name, passed, **how)
        assert len(tell(study, chain_of(study), instance, print)) == told, (name, passed)
    assert tell(study, chain_of(study), instance, print) == []
    assert got[-1]["text"] == (
        "small: check every_image_is_scored of scorecard[arenapo] says no: it gave no reason"
    )
    assert len({event["id"] for event in got}) == len(got) == 6
    names = (study.path.parent / "names.txt").read_text().splitlines()
    assert names[:2] == ["check_failed share_of_ties_is_steady"] * 2


def test_a_new_champion_is_told_and_the_same_one_again_is_not(launcher, instance, posted):
    got, _ = posted
    study = launcher.study
    tell(study, chain_of(study), instance, print)
    for version in ("aa", "aa", "bb"):
        instance.report_runless_asset_event(
            dg.AssetMaterialization(
                study.key("champion"),
                metadata={"decision": f"{version} is champion", "mlflow_run": "http://mlflow/1"},
                tags={DATA_VERSION: version},
            )
        )
        tell(study, chain_of(study), instance, print)
    told = [(event["event"], event["text"], event["link"]) for event in got]
    assert told == [
        ("new_champion", "small: aa is champion", "http://mlflow/1"),
        ("new_champion", "small: bb is champion", "http://mlflow/1"),
    ]


def test_what_cannot_be_told_is_said_and_fails_no_run(launcher, posted, monkeypatch):
    got, status = posted
    study, said = launcher.study, launcher.said
    folder = study.path.parent
    tell(study, chain_of(study), launcher.instance, said.append)
    evaluated(launcher.instance, "no_vote_lost", False, blocking=True)
    status[0] = 500
    (folder / "keep.py").write_text("raise SystemExit('no disk')")
    launcher.rate()  # and this does not raise
    first, second = [line for line in said if line.startswith("alerts.")]
    assert first.endswith(": exit status 1: no disk")
    assert second.endswith("127.0.0.1: it answered 500")
    assert "secret-path" not in "".join(said)
    assert len(got) >= 1
    # Whoever could not be told is told at the next look, by another process too.
    status[0] = 200
    (folder / "keep.py").write_text(KEEP)
    (event,) = tell(study, chain_of(study), launcher.instance, said.append)
    assert event.check == "no_vote_lost"
    assert len((folder / "told.jsonl").read_text().splitlines()) == 1
    assert tell(study, chain_of(study), launcher.instance, said.append) == []

    monkeypatch.delenv("ALERTS_TO")
    (folder / "keep.py").unlink()
    evaluated(launcher.instance, "no_vote_lost", False, blocking=True)
    assert tell(study, chain_of(study), launcher.instance, said.append) == []
    assert "the environment variable ALERTS_TO holds no http(s) address" in said[-1]
    assert os.environ.get("ALERTS_TO") is None


@pytest.mark.parametrize(
    "address",
    [
        "redirect",
        "http://127.0.0.1:1/secret-path",
        "http://[x/secret-path",
        "http://127.0.0.1/secret path",
    ],
)
def test_a_webhooks_path_is_never_said_and_no_redirect_is_followed(
    write_study, posted, monkeypatch, address
):
    got, status = posted
    status[0] = 302
    if address != "redirect":
        monkeypatch.setenv("ALERTS_TO", address)
    said = []
    study = write_study(lambda text: f'{text}\n[alerts]\nwebhook = "$ALERTS_TO"\n')
    assert undelivered(study, {"id": "1"}, ["webhook"], said.append) == ["webhook"]
    assert len(said) == 1
    assert "secret" not in said[0]
    assert not [each for each in got if "followed" in each]


def test_a_program_that_is_told_sees_no_other_secret(write_study, monkeypatch, tmp_path):
    monkeypatch.setenv("RATER_SALT", "s3cret")
    monkeypatch.setenv("SLACK_TOKEN", "wanted")
    show = "import json, os; json.dump(dict(os.environ), open('seen.json', 'w'))"
    command = json.dumps([sys.executable, "-c", show])
    study = write_study(
        lambda text: f'{text}\n[jobs]\nenvironment = ["SLACK_*"]\n[alerts]\ncommand = {command}\n'
    )
    assert undelivered(study, {"id": "1"}, ["command"], print) == []
    seen = json.loads((tmp_path / "seen.json").read_text())
    assert "RATER_SALT" not in seen
    assert (seen["SLACK_TOKEN"], seen["ARENAPO_ALERT_ID"]) == ("wanted", "1")


def test_without_the_section_nobody_is_told_and_nothing_is_kept(write_study, instance):
    study = write_study()
    assert tell(study, chain_of(study), instance, print) == []
    assert not (study.lake / "alerts").exists()
    assert "small__alerts" not in {each.name for each in build_definitions(study).sensors}
