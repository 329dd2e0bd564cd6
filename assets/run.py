"""One open MLflow run: what a stage puts down while it works, and how it closes the circle."""

import json
import re
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import dagster as dg

from assets.lineage import INPUTS, RUN_ID, RUN_LINK, SETTINGS
from assets.pictures import in_plain_text
from assets.stage import Stage
from assets.study import Study

if TYPE_CHECKING:
    from mlflow import MlflowClient

# MLflow's own bounds on what one parameter and one name may hold.
LONGEST_PARAMETER = 6000
LONGEST_NAME = 240
MOST_METRICS = 1000


@dataclass(frozen=True)
class Run:
    """private: texts, pictures and names stay out of it. before: the same asset's last run."""

    client: "MlflowClient"
    id: str
    link: str
    compare: str
    experiment: str
    environment: Mapping[str, str]
    private: bool
    study: Study
    stage: Stage
    policy: str | None
    inputs: dict[str, str | None]
    before: str | None

    def parameters(self, values: Mapping[str, Any]) -> None:
        """Put down parameters, flat names to plain values; None is left out."""
        from mlflow.entities import Param

        params = [
            Param(key, in_plain_text(str(value))[:LONGEST_PARAMETER])
            for key, value in values.items()
            if value is not None
        ]
        if params:
            self.client.log_batch(self.id, params=params)

    def metrics(
        self,
        values: Mapping[str, float],
        model_id: str | None = None,
        dataset: tuple[str, str] | None = None,
    ) -> None:
        """Put down metrics.

        model_id: the LoggedModel on which they also stand. dataset: the name and the version of
        the data set on which they were measured.
        """
        from mlflow.entities import Metric

        name, version = dataset or (None, None)
        digest, now = version[:36] if version else None, int(time.time() * 1000)
        metrics = [
            Metric(metric_name(key), float(value), now, 0, model_id, name, digest)
            for key, value in values.items()
        ]
        for start in range(0, len(metrics), MOST_METRICS):
            self.client.log_batch(self.id, metrics=metrics[start : start + MOST_METRICS])

    def figure(self, name: str, png: bytes, pictures: bool = False) -> None:
        """Keep a figure as an artifact; pictures: it shows images or prompts."""
        if pictures and self.private:
            return
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / name
            path.write_bytes(png)
            self.client.log_artifact(self.id, str(path), "figures")

    def artifact(self, path: Path, texts: bool = False) -> None:
        """Keep a copy of a file; texts: it holds prompts, raters or images."""
        if not (texts and self.private):
            self.client.log_artifact(self.id, str(path))

    def dataset(self, name: str, version: str, role: str) -> None:
        """Say which data went in, by its version; role: the stage's own word for it."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        entry = Dataset(in_plain_text(name), version[:36], "lake", json.dumps({"table": name}))
        self.client.log_inputs(
            self.id, datasets=[DatasetInput(entry, [InputTag("mlflow.data.context", role)])]
        )

    def uses_model(self, model_id: str) -> None:
        """Link this run to the LoggedModel it looked at."""
        from mlflow.entities import LoggedModelInput

        self.client.log_inputs(self.id, models=[LoggedModelInput(model_id)])

    def comparison(self, run_ids: Sequence[str]) -> str:
        """Return MLflow's page that compares these runs, parameter by parameter."""
        runs = quote(json.dumps(list(run_ids), separators=(",", ":")))
        return f"{self.compare}?runs={runs}&experiments={quote(json.dumps([self.experiment]))}"

    def result(
        self, data_version: str, metadata: Mapping[str, Any], **tags: str
    ) -> "dg.MaterializeResult[Any]":
        """Close the circle: the materialisation names this run, and the run its data version.

        The run that made the asset before is marked as superseded.
        """
        from mlflow.entities import RunTag

        said = {"data_version": data_version, **tags}
        kept = [RunTag(key, in_plain_text(value)) for key, value in said.items()]
        self.client.log_batch(self.id, tags=kept)
        if self.before:
            self._supersede(self.before)
        return dg.MaterializeResult(
            data_version=dg.DataVersion(data_version),
            metadata={
                **metadata,
                INPUTS: json.dumps(self.inputs),
                SETTINGS: json.dumps(self.stage.settings(self.study), default=str),
                RUN_LINK: dg.MetadataValue.url(self.link),
                RUN_ID: dg.MetadataValue.text(self.id),
            },
        )

    def _supersede(self, run_id: str) -> None:
        from mlflow.exceptions import MlflowException

        try:
            self.client.set_tag(run_id, "superseded_by", self.id)
        except MlflowException as error:  # it was cleaned away, or lies in another store
            if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                raise


def metric_name(name: str) -> str:
    """Return a name that MLflow takes; names that differ never become one.

    MLflow takes few signs, and a model may be called anything.
    """
    clean = re.sub(r"[^A-Za-z0-9_. -]|[.](?=[.])", "_", name)[:LONGEST_NAME]
    return clean if clean == name else f"{clean}-{sha256(name.encode()).hexdigest()[:8]}"
