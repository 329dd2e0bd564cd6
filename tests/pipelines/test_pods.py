"""Jobs as Kubernetes pods, against a stand-in for the API that runs a pod's command here."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime
from types import SimpleNamespace

import pytest
from clusters import until
from job_log import data_version, log_of, pairs
from small_study import STAND_IN

from assets.lake import Lake
from pipelines.launch import Launcher, StageFailed

kubernetes = pytest.importorskip("kubernetes")
pytest.importorskip("dagster_k8s")
from assets import pods  # noqa: E402

JOBS = """
image = "registry.example/arenapo-job:0.1.0"
namespace = "arena"
pause = 0
retries = 1
grace = 30
resources = {limits = {"nvidia.com/gpu" = 1, memory = "64Gi"}}

[jobs.pod]
nodeSelector = {gpu = "h100"}
activeDeadlineSeconds = 86400
volumes = [{name = "lake", persistentVolumeClaim = {claimName = "lake"}}]
containers = [{volumeMounts = [{name = "lake", mountPath = "/lake"}]}]
"""


class Stream:
    """A pod's log: line by line with the time of each, or what is left of it at once."""

    def __init__(self, output):
        self.output = output

    def __iter__(self):
        for line in self.output:
            yield f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S.%fZ} ".encode() + line

    @property
    def data(self):
        return self.output.read()


class Cluster:
    """What CoreV1Api does for a client, with a process of this machine for each pod.

    As in a cluster, a pod that is being deleted is listed until its process has ended, and then as
    ended: it is gone for who asks after that.
    """

    def __init__(self):
        self.pods, self.made, self.deleted, self.terminating = {}, [], [], set()
        self.after_start = lambda name: None
        self.forgetful = False  # a pod that is being deleted is listed no more once it ended

    def create_namespaced_pod(self, namespace, body):
        assert namespace == "arena"
        container = body.spec.containers[0]
        told = {each.name: each.value for each in container.env}
        command = [sys.executable if word == "python" else word for word in container.command]
        process = subprocess.Popen(
            command, env={"PATH": os.environ["PATH"], **told},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        self.pods[body.metadata.name] = process
        self.made.append(kubernetes.client.ApiClient().sanitize_for_serialization(body))
        self.after_start(body.metadata.name)

    def list_namespaced_pod(self, namespace, field_selector="", label_selector=""):
        if label_selector:
            return SimpleNamespace(items=[])
        name = field_selector.removeprefix("metadata.name=")
        gone = name in self.terminating and self.pods[name].poll() is not None
        seen = name in self.pods and not (gone and self.forgetful)
        found = SimpleNamespace(items=[self.status(name)] if seen else [])
        if gone:
            self.terminating.remove(name)
            del self.pods[name]
        return found

    def status(self, name):
        code = self.pods[name].poll()
        ended = (
            None
            if code is None
            else SimpleNamespace(exit_code=code, reason="Error", message=None, signal=None)
        )
        state = SimpleNamespace(
            running=True if code is None else None, waiting=None, terminated=ended
        )
        one = SimpleNamespace(name="dagster-pipes-execution", ready=True, state=state)
        return SimpleNamespace(
            status=SimpleNamespace(init_container_statuses=None, container_statuses=[one])
        )

    def read_namespaced_pod_log(self, name, namespace, **_):
        if name not in self.pods:
            raise kubernetes.client.ApiException(404, "Not Found")
        return Stream(self.pods[name].stdout)

    def delete_namespaced_pod(self, name, namespace):
        if name not in self.pods:
            raise kubernetes.client.ApiException(404, "Not Found")
        self.deleted.append(name)
        self.terminating.add(name)
        self.pods[name].send_signal(signal.SIGTERM)


@pytest.fixture
def cluster(monkeypatch):
    made = Cluster()
    monkeypatch.setattr(kubernetes.client, "CoreV1Api", lambda *_, **__: made)
    for name in ("load_incluster_config", "load_kube_config"):
        monkeypatch.setattr(kubernetes.config, name, lambda *_, **__: None)
    return made


@pytest.fixture
def launcher(write_chain, instance):
    def make(**fake):
        launch = json.dumps([sys.executable, str(STAND_IN)])
        study = write_chain(launch=launch, jobs=JOBS, **fake)
        pairs(Lake(study.lake), [1.0, 2.0])
        return Launcher(study, instance, print)

    return make


def train(launcher):
    launcher.run("train_and_evaluate", ["policy"], "dpo")


def undisturbed(launcher, steps):
    pairs = launcher.lake.table("training_set").read_bytes()
    state = hashlib.sha256(pairs + b"dpo").hexdigest()
    for step in range(steps):
        state = hashlib.sha256(f"{state} {step}".encode()).hexdigest()
    return state


def test_a_job_runs_as_the_pod_that_the_study_describes(cluster, launcher, instance, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "s3cret")
    made = launcher(steps=3)
    train(made)
    assert data_version(instance) == undisturbed(made, 3)
    (pod,) = cluster.made
    container = pod["spec"]["containers"][0]
    assert container["image"] == "registry.example/arenapo-job:0.1.0"
    assert container["resources"] == {"limits": {"nvidia.com/gpu": "1", "memory": "64Gi"}}
    assert container["volumeMounts"] == [{"name": "lake", "mountPath": "/lake"}]
    assert pod["spec"]["nodeSelector"] == {"gpu": "h100"}
    assert pod["spec"]["activeDeadlineSeconds"] == 86400
    assert pod["spec"]["terminationGracePeriodSeconds"] == 30
    assert pod["spec"]["restartPolicy"] == "Never"
    assert "s3cret" not in json.dumps(pod)
    assert cluster.deleted == [pod["metadata"]["name"]]


@pytest.mark.parametrize("forgetful", [False, True])
def test_a_pod_that_somebody_deletes_saves_and_the_next_one_goes_on(
    forgetful, cluster, launcher, instance, monkeypatch
):
    monkeypatch.setattr(pods, "GONE_SECONDS", 1.0)
    cluster.forgetful = forgetful
    made = launcher(steps=60, pause=0.1)
    log = made.study.path.parent / "steps.log"

    def delete_once_begun(name):
        until(lambda: log.exists() and "begins" in log.read_text())
        time.sleep(1)
        cluster.delete_namespaced_pod(name, "arena")

    def in_the_background(name):
        cluster.after_start = lambda name: None
        threading.Thread(target=delete_once_begun, args=(name,)).start()

    cluster.after_start = in_the_background
    train(made)
    begun, stopped, again, ended = log_of(made)
    assert begun == "begins at 0"
    assert stopped.startswith("stops after")
    assert again == f"begins at {stopped.removeprefix('stops after ')}"
    assert ended == "ends after 60"
    assert data_version(instance) == undisturbed(made, 60)


def test_a_pod_whose_job_says_what_is_wrong_is_not_started_again(cluster, launcher):
    with pytest.raises(StageFailed, match=r"python -m training: error: train\.steps = -1"):
        train(launcher(bad="dpo"))
    assert len(cluster.made) == 1


def test_what_kubernetes_refuses_is_one_sentence(cluster, launcher, monkeypatch):
    def refuse(namespace, body):
        raise kubernetes.client.ApiException(403, "pods is forbidden")

    monkeypatch.setattr(cluster, "create_namespaced_pod", refuse)
    with pytest.raises(StageFailed, match=r"Kubernetes refused \(403\): pods is forbidden"):
        train(launcher())
