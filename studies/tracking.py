"""The runs in MLflow: one run each under one parent, from the tidy table."""

import polars as pl

from studies.matrix import KEYS


def log_runs(results: pl.DataFrame, uri: str, name: str) -> None:
    """Log every row as a finished run below a new parent called `name`, experiment "study"."""
    import mlflow

    mlflow.set_tracking_uri(uri)
    mlflow.set_experiment("study")
    with mlflow.start_run(run_name=name):
        for row in results.rows(named=True):
            label = f"{row['world']} {row['objective']} {row['gap']} {row['seed']}"
            with mlflow.start_run(run_name=label, nested=True):
                mlflow.log_params({key: row[key] for key in KEYS})
                mlflow.log_metrics({k: v for k, v in row.items() if k not in KEYS})
