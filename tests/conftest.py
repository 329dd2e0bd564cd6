"""Fixtures that more than one room's tests use: a tiny Stable Diffusion pipeline on disk."""

import os
import signal
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from warm_python import WarmPython

# As in training/__init__.py, for tests that load torch first.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# Tests interrupt processes that they start; a suite that a script runs in the background is deaf to
# interrupts, and would hand that on.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def tiny_pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a tiny StableDiffusionPipeline that predicts noise: read it, never write there."""
    from examples.rehearsal.bases import save_sd  # which loads torch

    return save_sd(tmp_path_factory.mktemp("tiny") / "pipeline")


@pytest.fixture(scope="session")
def tiny_velocity_pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same small pipeline, but with velocity prediction (as SD 2 at 768 px)."""
    from examples.rehearsal.bases import save_sd

    folder = tmp_path_factory.mktemp("tiny_velocity") / "pipeline"
    return save_sd(folder, prediction_type="v_prediction")


@pytest.fixture(scope="session")
def warm_python() -> Iterator[list[str]]:
    """What to put for `python` in a command that would load torch or diffusers anew."""
    warm = WarmPython()
    yield warm.command
    warm.close()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Offer `--long`: the tests that live with the real daemon, or kill it many times."""
    parser.addoption("--long", action="store_true", help="also run what takes many minutes")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave the long tests out unless they are asked for."""
    if not config.getoption("--long"):
        for item in items:
            if item.get_closest_marker("long"):
                item.add_marker(pytest.mark.skip(reason="takes many minutes; pytest --long"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Fail a test that reached its time-out even where the code under test caught the failure."""
    report = yield
    marker = item.get_closest_marker("timeout")
    limit = float(marker.args[0] if marker else item.config.getoption("timeout") or 0)
    if report.passed and 0 < limit < call.duration:
        report.outcome = "failed"
        report.longrepr = f"{call.duration:.0f} s, with a time-out of {limit:.0f} s"
    return report
