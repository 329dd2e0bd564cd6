"""MLflow beside Dagster: one run for each materialisation, linked both ways, never left open.

Only the client is used, so nothing here depends on MLflow's global state, and a child that logs to
the same run cannot end it: whoever opened the run states how it ended. MLflow is imported when the
first run opens; importing this module stays quick. What a run logs is in `assets.run`.
"""

import getpass
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit, urlunsplit

import dagster as dg

from assets.dagster_internals import store_id
from assets.lake import Lake
from assets.lineage import (
    RUN_ID,
    Blocked,
    code_version,
    current_version,
    latest,
    named,
    obstacles,
    told,
)
from assets.pictures import in_plain_text
from assets.run import Run
from assets.stage import Chain
from assets.store import private_folder
from assets.study import Study
from assets.turns import turn

if TYPE_CHECKING:
    from mlflow import MlflowClient

# Set by whoever serves the pages at another address than the study says.
PAGES = "ARENAPO_MLFLOW_PAGES"
OF_MLFLOW = ("mlflow", "sqlalchemy", "alembic")


class TrackingError(RuntimeError):
    """MLflow could not be read or written."""


@dataclass(frozen=True)
class Tracking:
    """Where a study's runs are kept; uri: without a user's name or password."""

    uri: str
    user: str | None
    password: str | None
    folder: Path | None  # of a store on this machine; None for a server
    pages: str
    artifacts: Path | None = None  # None leaves it to the server

    @classmethod
    def of(cls, study: Study) -> "Tracking":
        """Return a study's tracking: what its [tracking] says, else $MLFLOW_TRACKING_URI."""
        said = study.tracking
        beside = study.path if isinstance(study.lake, str) else study.lake
        store = said.store or beside.parent / "mlflow"
        uri = said.uri or (store if isinstance(store, str) else None)
        uri = uri or (None if said.store else os.environ.get("MLFLOW_TRACKING_URI"))
        folder = None
        if uri is None or uri.startswith("sqlite:"):
            folder = Path(uri.partition("sqlite:///")[2]).parent if uri else Path(store)
            uri = uri or f"sqlite:///{folder / 'mlflow.db'}"
        parts = urlsplit(uri)
        if parts.scheme in ("http", "https") and parts.username:
            host = parts.netloc.rpartition("@")[2]
            uri = urlunsplit(parts._replace(netloc=host))
        pages = os.environ.get(PAGES) or (uri if uri.startswith("http") else said.pages)
        user, password = (
            unquote(each) if each else None for each in (parts.username, parts.password)
        )
        served = uri.startswith("http")
        artifacts = None if served else (folder or beside.parent / "mlflow") / "artifacts"
        return cls(uri, user, password, folder, pages.rstrip("/"), artifacts)

    @property
    def shown(self) -> str:
        """The address as people may see it."""
        return self.hidden(self.uri)

    def hidden(self, text: str) -> str:
        """Return a text with `***` for the password, as it is and as a URL spells it."""
        for word in (self.password, urlsplit(self.uri).password):
            text = text.replace(word, "***") if word else text
        return text

    @property
    def exists(self) -> bool:
        """Whether there is a store to look into; a server is asked and not guessed at."""
        return self.folder is None or Path(self.uri.removeprefix("sqlite:///")).exists()

    @property
    def environment(self) -> dict[str, str]:
        """What another process needs to reach the same store."""
        http = self.uri.startswith("http")
        login = {"USERNAME": self.user, "PASSWORD": self.password} if http else {}
        found = {f"MLFLOW_TRACKING_{key}": value for key, value in login.items() if value}
        return {"MLFLOW_TRACKING_URI": self.uri, **found}

    def client(self) -> "MlflowClient":
        """Open the store; a new database takes some seconds, once.

        Raises TrackingError with the store's address where it cannot be used.
        """
        import mlflow

        if self.folder is not None:
            private_folder(self.folder)
        os.environ.update(self.environment)
        with self.saying():
            mlflow.set_tracking_uri(self.uri)
            client = mlflow.MlflowClient(self.uri, self.uri)
            client.search_experiments(max_results=1)
        return client

    @contextmanager
    def saying(self) -> Iterator[None]:
        """Turn what MLflow and the database under it raise into one sentence."""
        try:
            yield
        except Exception as error:
            if not is_of_mlflow(error):
                raise
            raise TrackingError(
                f"MLflow's store {self.shown} failed: {self.first_line(error)}; mend it and run "
                "again, what was finished is kept"
            ) from error

    def first_line(self, error: BaseException) -> str:
        """Return the first line of what an error says, no password in it."""
        said = (str(error).strip().splitlines() or [type(error).__name__])[0]
        return self.hidden(said)

    def experiment(self, client: "MlflowClient", name: str) -> str:
        """Return a study's experiment, made when it is not there yet."""
        from mlflow.exceptions import MlflowException

        found = client.get_experiment_by_name(name)
        if found is None:
            root = self.artifacts or (self.folder and self.folder / "artifacts")
            kept = (root / name).resolve().as_uri() if root else None
            try:
                return client.create_experiment(
                    name,
                    artifact_location=kept,
                    # MLflow opens an experiment on its page for traces unless it is told better.
                    tags={"mlflow.experimentKind": "custom_model_development"},
                )
            except MlflowException:  # another process made it in the meantime
                found = client.get_experiment_by_name(name)
                if found is None:
                    raise
        return found.experiment_id


def is_of_mlflow(error: BaseException) -> bool:
    """Tell whether MLflow or what lies under it raised this."""
    return type(error).__module__.partition(".")[0] in OF_MLFLOW


@contextmanager
def tracked(
    study: Study,
    chain: Chain,
    context: dg.AssetExecutionContext,
    parameters: Mapping[str, Any],
) -> Iterator[Run]:
    """Open the run of one materialisation; it ends FINISHED, FAILED or KILLED, never RUNNING.

    Two runs at the same moment, from a terminal and the pages, take their turns here. What goes
    wrong inside is written on the run before it is raised again. Raises Blocked where a blocking
    check upstream failed, whoever started this, and TrackingError where MLflow went wrong.
    """
    name = context.asset_key.path[-1]
    policy = context.partition_key if context.has_partition_key else None
    part, say = f"policy {policy}" if policy else "study", context.log.info
    with turn(Lake(study.lake), context.instance, part, say):
        if forbidden := obstacles(context.instance, study, chain, name, policy):
            raise Blocked(f"{named(name, policy)} does not run: {forbidden[0]}")
        tracking, run = Tracking.of(study), None
        client = tracking.client()
        with tracking.saying():
            try:
                experiment = tracking.experiment(client, study.name)
                close_abandoned(client, experiment, context.instance)
                tags = tags_of(study, chain, context, policy)
                opened = client.create_run(experiment, run_name=named(name, policy), tags=tags)
                run = Run(
                    client,
                    opened.info.run_id,
                    link=f"{tracking.pages}/#/experiments/{experiment}/runs/{opened.info.run_id}",
                    compare=f"{tracking.pages}/#/compare-runs",
                    experiment=experiment,
                    environment={**tracking.environment, "MLFLOW_RUN_ID": opened.info.run_id},
                    private=study.tracking.private,
                    study=study,
                    stage=chain[name],
                    policy=policy,
                    inputs=inputs_of(study, chain, context, policy),
                    before=told(context.instance, study, name, policy).get(RUN_ID),
                )
                run.parameters(parameters)
                yield run
                client.set_terminated(run.id, "FINISHED")
            except (Exception, dg.DagsterExecutionInterruptedError, KeyboardInterrupt) as error:
                if run is not None:
                    _end(context, tracking, run, error)
                raise


def _end(
    context: dg.AssetExecutionContext, tracking: Tracking, run: Run, error: BaseException
) -> None:
    """Say on the run why it ended. A store that is gone must not hide the reason itself."""
    interrupted = not isinstance(error, Exception)
    why = error.__cause__ if isinstance(error, dg.RetryRequested) else error
    try:
        run.client.set_tag(run.id, "error", in_plain_text(f"{type(why).__name__}: {why}")[:5000])
        run.client.set_terminated(run.id, "KILLED" if interrupted else "FAILED")
    except Exception as lost:
        context.log.error(
            f"MLflow's run {run.id} could not be ended ({tracking.first_line(lost)}); "
            "the next run of the study ends it"
        )


def inputs_of(
    study: Study, chain: Chain, context: dg.AssetExecutionContext, policy: str | None
) -> dict[str, str | None]:
    """Return the version of all that lies directly upstream, by place."""
    places = chain[context.asset_key.path[-1]].places(study, policy)
    versions = (current_version(context.instance, study, chain, place) for place in places)
    return {named(*place): version for place, version in zip(places, versions, strict=True)}


def tags_of(
    study: Study, chain: Chain, context: dg.AssetExecutionContext, policy: str | None
) -> dict[str, str]:
    """Return what leads from an MLflow run back: to Dagster, to the code and to what went in."""
    name = context.asset_key.path[-1]
    made = {
        named(*place): latest(context.instance, study.key(place[0]), place[1])
        for place in chain[name].places(study, policy)
        if place[0] in chain
    }
    runs = {
        place: str(one.metadata[RUN_ID].value)
        for place, one in made.items()
        if one and RUN_ID in one.metadata
    }
    parent = told(context.instance, study, "policy", policy).get(RUN_ID) if policy else None
    commit = code_version().removesuffix("-dirty")
    return {
        "mlflow.user": getpass.getuser() if not study.tracking.private else "private",
        "mlflow.source.name": f"python -m pipelines run {study.path.name}",
        "mlflow.source.type": "JOB",
        "mlflow.source.git.commit": commit,
        **({"mlflow.parentRunId": parent} if parent and name != "policy" else {}),
        "dagster.run_id": context.run.run_id,
        "dagster.home": store_id(context.instance),
        "dagster.asset": name,
        "dagster.job": context.job_name,
        "dagster.attempt": str(context.retry_number + 1),
        **({"dagster.partition": policy} if policy else {}),
        "code_version": code_version(),
        **{f"upstream.{place}": run for place, run in runs.items()},
        **{
            f"input.{place}": version
            for place, version in inputs_of(study, chain, context, policy).items()
            if version
        },
    }


def close_abandoned(
    client: "MlflowClient", experiment_id: str, instance: dg.DagsterInstance
) -> None:
    """End runs whose Dagster run is over: a process that was killed could not end its own.

    Runs that another Dagster home started are that home's to end.
    """
    own = store_id(instance)
    for run in client.search_runs([experiment_id], "attributes.status = 'RUNNING'"):
        started_by = run.data.tags.get("dagster.run_id")
        if not started_by or run.data.tags.get("dagster.home") != own:
            continue
        dagster_run = instance.get_run_by_id(started_by)
        if dagster_run is None or dagster_run.is_finished:
            client.set_tag(run.info.run_id, "error", "its process ended without a word")
            cancelled = dagster_run and dagster_run.status == dg.DagsterRunStatus.CANCELED
            client.set_terminated(run.info.run_id, "KILLED" if cancelled else "FAILED")
