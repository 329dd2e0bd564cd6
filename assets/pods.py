"""A job as a Kubernetes pod (dagster-k8s, the extra `kubernetes`).

The pod sees the lake, the study and the weights at the same paths as the orchestrator does: a
shared volume that `[jobs] pod` mounts. What the job is told lies in its folder in the lake, so no
key stands in the pod's specification. Deleted, a pod gets SIGTERM and `[jobs] grace` to save in.
"""

import hashlib
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from functools import partial
from typing import Any

import dagster as dg
import kubernetes
from dagster_k8s import PipesK8sClient
from dagster_k8s.client import DagsterK8sError

from assets.job_process import JobProcess, behind
from assets.sections import Jobs

LABEL = "arenapo/job"
POLL_SECONDS = 2.0
GONE_SECONDS = 10.0  # a pod that ran and is not listed for so long was deleted


class Pods(PipesK8sClient):
    """Dagster's client, which does not wait a day for a pod that was deleted."""

    @contextmanager
    def consume_pod_logs(
        self, context: Any, client: Any, namespace: str, pod_name: str, *more: Any, **further: Any
    ) -> Iterator[None]:
        """Read the pod's log to its end, before which the pod may wait long for a place."""
        with super().consume_pod_logs(context, client, namespace, pod_name, *more, **further):
            # It ran: if it is not listed any more, it will not be.
            client.wait_for_pod = partial(client.wait_for_pod, pod_launch_timeout=GONE_SECONDS)
            yield


def run(
    context: dg.AssetExecutionContext, jobs: Jobs, job: JobProcess, command: Sequence[str]
) -> tuple[Sequence[Any], str]:
    """Run a job as a pod; return its results and by what it was ended, if it was.

    A pod of the same job that an orchestrator left behind when it was killed is deleted first: it
    saves, and this one goes on from there.
    """
    label = hashlib.sha256(str(job.folder).encode()).hexdigest()[:16]
    try:
        delete_pods(jobs.namespace, f"{LABEL}={label}")
        python = ["python", "-P", "-m", "assets.child", str(job.folder), *command]
        done = Pods(poll_interval=POLL_SECONDS).run(
            context=context,
            image=jobs.image,
            command=behind(jobs.launch, python),
            namespace=jobs.namespace,
            base_pod_meta={"labels": {LABEL: label}},
            base_pod_spec=specification(jobs),
            pod_wait_timeout=0,
        )
    except DagsterK8sError as error:
        return [], f"with its pod, which somebody may have deleted: {error}".splitlines()[0]
    except kubernetes.client.ApiException as error:
        if error.status != 404:
            said = (error.body or error.reason or "").strip().splitlines()
            raise RuntimeError(f"Kubernetes refused ({error.status}): {' '.join(said)}") from None
        return [], "with its pod, which somebody deleted"
    return done.get_results(), ""


def specification(jobs: Jobs) -> dict[str, Any]:
    """Return the pod's spec: the study's own, with the resources and the time to save in."""
    spec = deepcopy(jobs.pod)
    container = spec.setdefault("containers", [{}])[0]
    if jobs.resources:
        container["resources"] = jobs.resources
    spec["terminationGracePeriodSeconds"] = math.ceil(jobs.grace)
    return spec


def delete_pods(namespace: str, selector: str) -> None:
    """Delete the pods that carry a label and return when they are gone."""
    try:
        kubernetes.config.load_incluster_config()
    except kubernetes.config.ConfigException:
        kubernetes.config.load_kube_config()
    api = kubernetes.client.CoreV1Api()
    asked: set[str] = set()
    while pods := api.list_namespaced_pod(namespace=namespace, label_selector=selector).items:
        for name in {pod.metadata.name for pod in pods} - asked:
            api.delete_namespaced_pod(name, namespace)
            asked.add(name)
        time.sleep(POLL_SECONDS)
