"""A Dagster instance of its own for every test that runs a chain."""

from small_study import empty_home, instance  # noqa: F401
