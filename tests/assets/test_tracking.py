"""Where MLflow's runs go: a server with a login, names that never meet, and what stays out."""

import base64
import http.server
import threading

import pytest

from assets.run import metric_name
from assets.tracking import PAGES, Tracking, TrackingError


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
