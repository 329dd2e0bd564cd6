"""Attacks of a web site that the operator visits, run against Dagster's real web server."""

import json
import shutil
import warnings
from itertools import pairwise

import dagster as dg
import pytest
from starlette.websockets import WebSocketDisconnect

from assets.dagster_internals import web_app
from pipelines.definitions import build_definitions
from pipelines.pages import mlflow_command
from voting.gate import Gate

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from starlette.testclient import TestClient

OWN = "http://127.0.0.1:3000"
# A mutation that needs no code location: it widens a pool.
MUTATION = 'mutation { setConcurrencyLimit(concurrencyKey: "%s", limit: 7) }'
QUERY = "{ instance { id } }"


@pytest.fixture(scope="module")
def served(empty_home, tmp_path_factory):
    """Dagster's server over a home of its own."""
    home = tmp_path_factory.mktemp("gate") / "home"
    shutil.copytree(empty_home, home)
    with dg.DagsterInstance.local_temp(str(home)) as instance, web_app(instance, None) as app:
        yield instance, app


@pytest.fixture
def servers(served):
    """Return clients of Dagster's server as it is, and of the one behind the gate."""
    instance, app = served
    for name in pools(instance):
        instance.event_log_storage.delete_concurrency_limit(name)
    return TestClient(app, base_url=OWN), TestClient(Gate(app), base_url=OWN)


@pytest.fixture
def asked_of(served):
    """Return the instance that the servers are asked about."""
    return served[0]


def pools(instance):
    return instance.event_log_storage.get_concurrency_keys()


def ask(client, text, **headers):
    return client.post("/graphql", json={"query": text}, headers=headers)


def test_a_mutation_by_get_works_on_dagsters_server_and_not_behind_the_gate(servers, asked_of):
    bare, guarded = servers
    assert bare.get("/graphql", params={"query": MUTATION % "proof"}).status_code == 200
    assert pools(asked_of) == {"proof"}  # the attack is real
    for method in ("GET", "HEAD", "POST"):  # a POST that is a form has its query in the address
        answer = guarded.request(method, "/graphql", params={"query": MUTATION % "evil"})
        assert answer.status_code == 403, method
    for path in ("/graphql/", "//graphql", "/%67raphql", "/GraphQL"):
        asked = guarded.get(f"{OWN}{path}", params={"query": MUTATION % "evil"})
        assert asked.status_code == 403, path
    labelled = {"op": "Plain", "query": MUTATION % "evil"}
    for params in (labelled, {"op": "x", "variables": "{}"}, "op=x&query=" + MUTATION % "evil"):
        assert guarded.get("/graphql", params=params).status_code == 403
    assert pools(asked_of) == {"proof"}


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "attacker.example"},
        {"Host": "attacker.example:3000"},
        {"Host": "127.0.0.1.attacker.example:3000"},
        {"Host": "127.0.0.1@attacker.example"},
        {"Host": "attacker.example", "Origin": "http://attacker.example"},  # rebound to 127.0.0.1
        {"Host": "[::1"},
        {"Host": ""},
        {"Origin": "http://attacker.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:5000"},  # another page of this machine is another page
        {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"},
        {"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "cors"},
    ],
)
def test_what_another_page_asks_is_refused(servers, asked_of, headers):
    _, guarded = servers
    assert ask(guarded, MUTATION % "evil", **headers).status_code == 403
    assert guarded.get("/server_info", headers=headers).status_code == 403
    assert pools(asked_of) == set()


def test_a_host_told_twice_is_refused(servers):
    _, guarded = servers
    twice = [("Host", "127.0.0.1:3000"), ("Host", "attacker.example")]
    assert guarded.get("/server_info", headers=twice).status_code == 403


def test_a_websocket_of_another_page_is_refused_and_the_pages_own_is_not(servers):
    bare, guarded = servers
    foreign = {"Origin": "http://attacker.example"}
    with bare.websocket_connect("/graphql", ["graphql-ws"], headers=foreign) as socket:
        socket.send_json({"type": "connection_init"})
        assert socket.receive_json()["type"] == "connection_ack"
    for headers in (foreign, {"Origin": "null"}, {"Host": "attacker.example"}):
        with (
            pytest.raises(WebSocketDisconnect),
            guarded.websocket_connect("/graphql", ["graphql-ws"], headers=headers),
        ):
            pass
    own = {"Origin": OWN, "Host": "127.0.0.1:3000"}
    with guarded.websocket_connect("/graphql", ["graphql-ws"], headers=own) as socket:
        socket.send_json({"type": "connection_init"})
        assert socket.receive_json()["type"] == "connection_ack"


def test_what_dagsters_own_page_sends_is_answered(servers):
    """Recorded from Chromium on the page of Dagster 1.13.27: each request is labelled by `op`."""
    _, guarded = servers
    body = {"operationName": "Id", "variables": {}, "query": "query Id { instance { id } }"}
    headers = {
        "Origin": OWN, "Referer": f"{OWN}/assets", "Host": "127.0.0.1:3000",
        "Sec-Fetch-Site": "same-origin", "Sec-Fetch-Mode": "cors", "Sec-Fetch-Dest": "empty",
    }  # fmt: skip
    answer = guarded.post("/graphql?op=PermissionsQuery", json=body, headers=headers)
    assert answer.json()["data"]["instance"]["id"]


@pytest.mark.parametrize("host", ["127.0.0.1:3000", "localhost:3000", "[::1]:3000", "LOCALHOST"])
def test_the_operators_own_browser_is_served(servers, asked_of, host):
    _, guarded = servers
    page = guarded.get("/", headers={"Host": host, "Sec-Fetch-Site": "none"})
    assert page.status_code == 200
    assert page.headers["x-frame-options"] == "SAMEORIGIN"
    asked = ask(guarded, QUERY, Host=host, Origin=f"http://{host}")
    assert json.loads(asked.text)["data"]["instance"]["id"]
    assert ask(guarded, MUTATION % "wide", Host=host).status_code == 200
    assert pools(asked_of) == {"wide"}
    # A link to the page on another one, such as MLflow's, is followed.
    link = {"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "navigate", "Host": host}
    assert guarded.get("/assets", headers=link).status_code == 200


def test_whoever_starts_a_run_cannot_choose_where_it_writes(write_study, instance, tmp_path):
    definitions = build_definitions(write_study())
    config = {"resources": {"io_manager": {"config": {"base_dir": str(tmp_path / "evil")}}}}
    for name in ("rate_votes", "train_and_evaluate", "write_report", "clean_up", "observe_inputs"):
        job = definitions.resolve_job_def(f"small__{name}")
        plain = {key: str(field) for key, field in fields_of(job)}
        assert not [key for key in plain if "dir" in key or "path" in key or "uri" in key], name
        with pytest.raises(dg.DagsterInvalidConfigError):
            job.execute_in_process(run_config=config, instance=instance, partition_key=None)
    assert not (tmp_path / "evil").exists()


def fields_of(job):
    """Return every key that a run's configuration may hold, with its type."""
    open_, seen = [job.run_config_schema.config_type], []
    while open_:
        for key, field in getattr(open_.pop(), "fields", {}).items():
            seen.append((key, field.config_type))
            open_.append(field.config_type)
    return seen


@pytest.mark.slow
def test_mlflow_is_served_to_this_machine_only(monkeypatch, tmp_path, write_study):
    from assets.tracking import Tracking

    command = mlflow_command(Tracking.of(write_study()), 5000)
    told = dict(pairwise(command))
    monkeypatch.setenv("MLFLOW_SERVER_ALLOWED_HOSTS", told["--allowed-hosts"])
    monkeypatch.setenv("MLFLOW_SERVER_CORS_ALLOWED_ORIGINS", told["--cors-allowed-origins"])
    from fastapi import FastAPI
    from mlflow.server.fastapi_security import init_fastapi_security

    app = FastAPI()
    init_fastapi_security(app)

    @app.api_route("/api/2.0/mlflow/x", methods=["GET", "POST"])
    def served():
        return "served"

    client = TestClient(app, base_url="http://127.0.0.1:5000")
    path = "/api/2.0/mlflow/x"
    for host in ("127.0.0.1:5000", "localhost:5000", "localhost"):
        assert client.post(path, headers={"Host": host}).status_code == 200, host
    for host in ("attacker.example", "attacker.example:5000", "10.0.0.7:5000", "192.168.1.5"):
        assert client.post(path, headers={"Host": host}).status_code == 403, host
    assert client.post(path, headers={"Origin": "http://attacker.example"}).status_code == 403
    assert client.post(path, headers={"Origin": "http://127.0.0.1:5000"}).status_code == 200
