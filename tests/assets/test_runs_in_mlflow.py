"""Where MLflow's runs go: a server with a login, names that never meet, and what stays out."""

import base64
import http.server
import threading

import pytest

from assets.model_registry import champion_of, kept_scores
from assets.run import metric_name
from assets.tracking import PAGES, Tracking, TrackingError
from pipelines.launch import Launcher


def test_metrics_of_different_models_never_share_a_name():
    names = ["mu.a/b", "mu.a_b", "mu.a b", "mu.a?b", "mu.模型", "mu.模式", "mu..x", "mu._x"]
    names += ["mu." + "x" * 300, "mu." + "x" * 301]
    clean = [metric_name(name) for name in names]
    assert len(set(clean)) == len(names)
    assert clean[1] == "mu.a_b"
    assert all(len(each) <= 250 for each in clean)


def with_tracking(line):
    return lambda text: text.replace('store = "mlflow"', line)


@pytest.mark.parametrize("key", ["uri", "store"])
def test_a_servers_login_is_in_no_uri(write_study, key, monkeypatch):
    monkeypatch.delenv(PAGES, raising=False)
    study = write_study(with_tracking(f'{key} = "http://me:se%40cret@127.0.0.1:5999/base"'))
    tracking = Tracking.of(study)
    assert tracking.uri == tracking.pages == "http://127.0.0.1:5999/base"
    assert (tracking.user, tracking.password) == ("me", "se@cret")
    assert tracking.folder is None
    assert tracking.environment == {
        "MLFLOW_TRACKING_URI": tracking.uri,
        "MLFLOW_TRACKING_USERNAME": "me",
        "MLFLOW_TRACKING_PASSWORD": "se@cret",
    }


def test_without_a_word_the_environment_says_it_else_the_store_lies_beside_the_lake(
    write_study, monkeypatch
):
    study = write_study(with_tracking(""))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert Tracking.of(study).folder == study.lake.parent / "mlflow"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow:5000")
    assert Tracking.of(study).uri == "http://mlflow:5000"
    own = write_study()
    assert Tracking.of(own).folder == own.path.parent / "mlflow"


def test_a_server_is_asked_with_the_login_and_its_refusal_is_one_sentence(write_study, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    for name in ("URI", "USERNAME", "PASSWORD"):
        monkeypatch.setenv(f"MLFLOW_TRACKING_{name}", "")
    seen = []

    class Refuse(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            seen.append(self.headers["Authorization"])
            self.send_response(403)
            self.end_headers()

        do_GET = do_POST

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Refuse)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        uri = f"http://me:secret@127.0.0.1:{server.server_port}"
        study = write_study(with_tracking(f'uri = "{uri}"'))
        with pytest.raises(
            TrackingError, match=r"MLflow's store http://127\.0\.0\.1:\d+ failed"
        ) as no:
            Tracking.of(study).client()
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    assert "secret" not in str(no.value)
    assert seen[0] == "Basic " + base64.b64encode(b"me:secret").decode()
    assert not list(study.path.parent.glob("http*"))


@pytest.mark.slow
def test_a_private_study_puts_no_prompt_picture_or_path_into_mlflow(write_chain, instance):
    study = write_chain(lambda text: text.replace("[tracking]", "[tracking]\nprivate = true"))
    Launcher(study, instance, lambda line: None).chain()
    client, store = Tracking.of(study).client(), Tracking.of(study).folder
    files = [path for path in store.rglob("*") if path.is_file()]
    assert len(files) > 10
    for path in files:
        content = path.read_bytes()
        assert b"drawing 1" not in content, path  # a prompt's text
        assert b"rater 1" not in content, path
        assert path.name not in ("images.png", "comparison.html", "comparison.json")
        if path.name != "mlflow.db":  # the store's own address for its artifacts
            assert str(study.path.parent).encode() not in content, path
    experiment = client.get_experiment_by_name(study.name).experiment_id
    for run in client.search_runs([experiment]):
        said = {**run.data.tags, **run.data.params}
        assert not [key for key, value in said.items() if str(study.path.parent) in value]
    # The champion is compared by its kept scores all the same.
    assert kept_scores(client, champion_of(client, study.name)).height == 24
