"""A capability per model from votes between models: one file per estimator, one table."""
