"""MLflow's view of the study: one finished run a row, below one parent."""

from pathlib import Path

import pytest
from tidy import spread, table

from studies.matrix import Policy
from studies.tracking import log_runs


@pytest.mark.slow
def test_every_row_is_a_finished_run_below_one_parent(tmp_path: Path) -> None:
    import mlflow

    rows = [("far-3", Policy("arenapo", "joint"), 2.0, seed, "main", 3.0 + seed) for seed in (0, 1)]
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    log_runs(spread(table(*rows), 3.0), uri, "run")
    client = mlflow.MlflowClient(uri)
    experiment = client.get_experiment_by_name("study")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    parents = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    children = [run for run in runs if run not in parents]
    assert len(parents) == 1
    assert {c.data.tags["mlflow.parentRunId"] for c in children} == {parents[0].info.run_id}
    assert sorted(c.data.metrics["reward"] for c in children) == [3.0, 4.0]
    assert {(c.data.params["gap"], c.data.params["gamma"]) for c in children} == {("joint", "2.0")}
    assert {c.data.params["spread"] for c in children} == {"3.0"}
    assert {run.info.status for run in runs} == {"FINISHED"}
