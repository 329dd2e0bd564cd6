"""MLflow beside Dagster: one run a materialisation, linked both ways, never left open.

Only the client is used, so nothing here depends on MLflow's global state, and a child that logs to
the same run cannot end it: whoever opened the run states how it ended. MLflow is imported when the
first run opens; importing this module stays quick.
"""

import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import dagster as dg

from assets.lake import Lake
from assets.lineage import RUN_ID, RUN_LINK, code_version, upstream
from assets.study import Study

if TYPE_CHECKING:
    from mlflow import MlflowClient

# MLflow's own bounds on what one parameter may hold.
LONGEST_PARAMETER = 6000


class Tracking(dg.ConfigurableResource):
    """Where MLflow keeps its runs (`store`: a folder) and where its pages are served (`pages`).

    lake: the root of the lake that the stages write; each has its part of it while its run lasts.
    """

    store: str
    pages: str
    experiment: str
    lake: str

    @classmethod
    def of(cls, study: Study) -> "Tracking":
        """Return the tracking of a study."""
        return cls(
            store=str(study.tracking.store),
            pages=study.tracking.pages,
            experiment=study.name,
            lake=str(study.lake),
        )

    @property
    def uri(self) -> str:
        """The tracking URI: MLflow refuses plain files as a store, so a SQLite database."""
        return f"sqlite:///{Path(self.store) / 'mlflow.db'}"

    def client(self) -> "MlflowClient":
        """Open the store; a new database takes some seconds, once."""
        import mlflow

        Path(self.store).mkdir(parents=True, exist_ok=True)
        mlflow.set_tracking_uri(self.uri)
        return mlflow.MlflowClient(self.uri, self.uri)

    def experiment_id(self, client: "MlflowClient") -> str:
        """Return the study's experiment, made when it is not there yet."""
        from mlflow.exceptions import MlflowException

        found = client.get_experiment_by_name(self.experiment)
        if found is None:
            artifacts = (Path(self.store) / "artifacts" / self.experiment).as_uri()
            try:
                return client.create_experiment(
                    self.experiment,
                    artifact_location=artifacts,
                    # MLflow opens an experiment on its page for traces unless it is told better.
                    tags={"mlflow.experimentKind": "custom_model_development"},
                )
            except MlflowException:  # another process made it in the meantime
                found = client.get_experiment_by_name(self.experiment)
                if found is None:
                    raise
        return found.experiment_id

    @contextmanager
    def run(
        self, context: dg.AssetExecutionContext, parameters: Mapping[str, Any]
    ) -> Iterator["Run"]:
        """Open the run of one materialisation; it ends FINISHED, FAILED or KILLED, never RUNNING.

        Two runs at the same moment, from a terminal and the pages, take their turns here. What goes
        wrong inside is written on the run before it is raised again. Raises TrackingError where
        MLflow itself is what went wrong.
        """
        partition = context.partition_key if context.has_partition_key else None
        part = f"policy {partition}" if partition else "study"
        with Lake(Path(self.lake)).held(part, context.log.info):
            yield from self._run(context, parameters)

    def _run(
        self, context: dg.AssetExecutionContext, parameters: Mapping[str, Any]
    ) -> Iterator["Run"]:
        run = None
        try:
            client = self.client()
            experiment_id = self.experiment_id(client)
            close_abandoned(client, experiment_id, context.instance)
            tags = tags_of(context)
            title = tags["dagster.asset"] + f"[{tags.get('dagster.partition', '')}]"
            opened = client.create_run(experiment_id, run_name=title.removesuffix("[]"), tags=tags)
            run = Run(client, experiment_id, opened.info.run_id, self)
            run.parameters(parameters)
            yield run
            client.set_terminated(run.id, "FINISHED")
        except (Exception, dg.DagsterExecutionInterruptedError, KeyboardInterrupt) as error:
            if run is not None:
                self._end(context, run, error)
            if is_of_mlflow(error):
                raise TrackingError(
                    f"MLflow's store {self.store} failed: {first_line(error)}; mend it and run "
                    "again, what was finished is kept"
                ) from error
            raise

    def _end(self, context: dg.AssetExecutionContext, run: "Run", error: BaseException) -> None:
        """Say on the run why it ended. A store that is gone must not hide the reason itself."""
        interrupted = not isinstance(error, Exception)
        why = error.__cause__ if isinstance(error, dg.RetryRequested) else error
        try:
            run.client.set_tag(run.id, "error", f"{type(why).__name__}: {why}"[:5000])
            run.client.set_terminated(run.id, "KILLED" if interrupted else "FAILED")
        except Exception as lost:
            context.log.error(
                f"MLflow's run {run.id} could not be ended ({first_line(lost)}); "
                "the next run of the study ends it"
            )


class TrackingError(RuntimeError):
    """MLflow could not be read or written."""


def is_of_mlflow(error: BaseException) -> bool:
    """Tell whether MLflow or the database under it raised this."""
    return type(error).__module__.partition(".")[0] in ("mlflow", "sqlalchemy", "alembic")


def first_line(error: BaseException) -> str:
    """Return the first line of what an error says."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def tags_of(context: dg.AssetExecutionContext) -> dict[str, str]:
    """Return what leads from an MLflow run back: to Dagster, to the code and to what went in."""
    partition = context.partition_key if context.has_partition_key else None
    deps = list(context.assets_def.asset_deps[context.asset_key])
    inputs = upstream(context.instance, deps, partition)
    return {
        "dagster.run_id": context.run.run_id,
        "dagster.asset": context.asset_key.to_user_string(),
        "dagster.job": context.job_name,
        "dagster.attempt": str(context.retry_number + 1),
        **({"dagster.partition": partition} if partition else {}),
        "code_version": code_version(),
        **{f"upstream.{key}": run for key, (run, _) in inputs.items() if run},
        **{f"input.{key}": content for key, (_, content) in inputs.items() if content},
    }


class Run:
    """One open MLflow run: what a stage puts down while it works."""

    def __init__(
        self, client: "MlflowClient", experiment_id: str, run_id: str, tracking: Tracking
    ) -> None:
        self.client = client
        self.experiment_id = experiment_id
        self.id = run_id
        self.tracking = tracking

    @property
    def link(self) -> str:
        """The run's page in MLflow."""
        return f"{self.tracking.pages}/#/experiments/{self.experiment_id}/runs/{self.id}"

    @property
    def environment(self) -> dict[str, str]:
        """What a child process needs to log to this run while it works."""
        return {"MLFLOW_RUN_ID": self.id, "MLFLOW_TRACKING_URI": self.tracking.uri}

    def parameters(self, values: Mapping[str, Any]) -> None:
        """Put down parameters, flat names to plain values; None is left out."""
        from mlflow.entities import Param

        params = [
            Param(key, str(value)[:LONGEST_PARAMETER])
            for key, value in values.items()
            if value is not None
        ]
        if params:
            self.client.log_batch(self.id, params=params)

    def metrics(self, values: Mapping[str, float], model_id: str | None = None) -> None:
        """Put down metrics; with `model_id` they also stand on that LoggedModel."""
        for key, value in values.items():
            self.client.log_metric(self.id, key, float(value), model_id=model_id)

    def figure(self, name: str, png: bytes) -> None:
        """Keep a figure as an artifact."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / name
            path.write_bytes(png)
            self.client.log_artifact(self.id, str(path), "figures")

    def artifact(self, path: Path, folder: str | None = None) -> None:
        """Keep a copy of a file."""
        self.client.log_artifact(self.id, str(path), folder)

    def dataset(self, name: str, digest: str, path: Path, role: str) -> None:
        """Say which data went in, by content hash; role: the stage's own word for it."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        entry = Dataset(name, digest[:36], "local", path.as_uri())
        self.client.log_inputs(
            self.id, datasets=[DatasetInput(entry, [InputTag("mlflow.data.context", role)])]
        )

    def uses_model(self, model_id: str) -> None:
        """Link this run to the LoggedModel it looked at."""
        from mlflow.entities import LoggedModelInput

        self.client.log_inputs(self.id, models=[LoggedModelInput(model_id)])

    def model(
        self,
        name: str,
        folder: Path,
        registered: str,
        parameters: Mapping[str, Any],
        tags: Mapping[str, str],
    ) -> tuple[str, str]:
        """Keep a policy's weights as a LoggedModel, and as the registered model's `candidate`.

        tags: of the version. Returns the LoggedModel's id and the version.
        """
        from mlflow.exceptions import MlflowException

        plain = {key: str(value) for key, value in parameters.items() if value is not None}
        model = self.client.create_logged_model(
            self.experiment_id, name, source_run_id=self.id, params=plain, model_type="diffusion"
        )
        self.client.log_model_artifacts(model.model_id, str(folder))
        self.client.finalize_logged_model(model.model_id, "READY")
        try:
            self.client.create_registered_model(registered)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        version = self.client.create_model_version(
            registered,
            f"models:/{model.model_id}",
            run_id=self.id,
            model_id=model.model_id,
            tags=dict(tags),
        )
        self.client.set_registered_model_alias(registered, "candidate", version.version)
        return str(model.model_id), str(version.version)

    def result(
        self, data_version: str, metadata: Mapping[str, Any], **tags: str
    ) -> "dg.MaterializeResult[Any]":
        """Close the circle: the materialisation names this run, and the run its data version."""
        self.client.set_tag(self.id, "data_version", data_version)
        for key, value in tags.items():
            self.client.set_tag(self.id, key, value)
        return dg.MaterializeResult(
            data_version=dg.DataVersion(data_version),
            metadata={
                **metadata,
                RUN_LINK: dg.MetadataValue.url(self.link),
                RUN_ID: dg.MetadataValue.text(self.id),
            },
        )


def comparison_link(run: Run, run_ids: Sequence[str]) -> str:
    """Return MLflow's page that compares these runs, parameter by parameter."""
    runs = quote(json.dumps(list(run_ids), separators=(",", ":")))
    experiments = quote(json.dumps([run.experiment_id]))
    return f"{run.tracking.pages}/#/compare-runs?runs={runs}&experiments={experiments}"


def close_abandoned(
    client: "MlflowClient", experiment_id: str, instance: dg.DagsterInstance
) -> None:
    """End runs whose Dagster run is over: a process that was killed could not end its own."""
    open_runs = client.search_runs([experiment_id], "attributes.status = 'RUNNING'")
    for run in open_runs:
        started_by = run.data.tags.get("dagster.run_id")
        dagster_run = instance.get_run_by_id(started_by) if started_by else None
        if started_by and (dagster_run is None or dagster_run.is_finished):
            client.set_tag(run.info.run_id, "error", "its process ended without a word")
            cancelled = dagster_run and dagster_run.status == dg.DagsterRunStatus.CANCELED
            client.set_terminated(run.info.run_id, "KILLED" if cancelled else "FAILED")
