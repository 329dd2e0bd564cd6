"""The method's statistics: votes, ratings, gaps and figures, without Dagster, MLflow or torch."""
