"""What the tests of jobs share: a training set to train from, and what the stand-in wrote."""

from pathlib import Path

import dagster as dg
import polars as pl

ROOT = Path(__file__).parents[2]
# Trains the policy `dpo` of the study argv[2] over the Dagster home argv[1].
TRAIN = """
import sys
from dagster import DagsterInstance
from assets.study import read_study
from pipelines.launch import Launcher
with DagsterInstance.local_temp(sys.argv[1]) as instance:
    launcher = Launcher(read_study(sys.argv[2]), instance, print)
    launcher.run("train_and_evaluate", ["policy"], "dpo")
"""


def pairs(lake, gaps):
    """Write a training set with these gaps, and the table of its images."""
    columns = ("vote_id", "prompt", "image_winner", "image_loser")
    named = {name: [str(i) for i in range(len(gaps))] for name in columns}
    split = ["train"] * len(gaps)
    lake.write("training_set", pl.DataFrame(named | {"gap": gaps, "split": split}))
    images = {"image": named["image_winner"], "content": named["image_winner"]}
    lake.write("images", pl.DataFrame(images))


def log_of(launcher):
    """Return what the stand-ins noted: begins at 0, stops after 7, ends after 20."""
    return [
        line.partition(" ")[2].partition(" ")[2]
        for line in (launcher.study.path.parent / "steps.log").read_text().splitlines()
    ]


def data_version(instance):
    event = instance.get_latest_materialization_event(dg.AssetKey(["small", "policy"]))
    return event.asset_materialization.tags["dagster/data_version"]
