"""The code location: the assets of one study, the jobs over them and what starts them.

`build_definitions` is what tests and the command line call; Dagster reads `defs`, whose study is
named by ARENAPO_STUDY (a path; the miniature where it is not set). Nothing here imports torch,
diffusers or mlflow.
"""

import os
import warnings
from pathlib import Path

import dagster as dg

from assets.champion import champion_stage
from assets.gaps import gaps_stage
from assets.policy import policy_stage
from assets.ratings import ratings_stage
from assets.report import report_stage
from assets.scorecard import scorecard_stages
from assets.study import Study, read_study
from assets.tracking import Tracking
from assets.training_set import training_set_stage
from assets.votes import votes_stage
from pipelines.automation import automation, clean_job, follow_content, schedules

# Observable sources, partitioned checks and Pipes' reader are marked beta or preview; the warnings
# would repeat on each load and in each job.
for kind in (dg.BetaWarning, dg.PreviewWarning):
    warnings.filterwarnings("ignore", category=kind)

MINIATURE = Path(__file__).parent.parent / "experiments" / "miniature.toml"

# The chain in three jobs, because a run has one partition or none: the arena once for a study, the
# policies one by one, the report over all of them.
OBSERVED = ("vote_files", "evaluation_prompts", "yardsticks")
ARENA = ("votes", "ratings", "gaps", "training_set")
POLICY = ("policy", "generations", "scorecard", "ksort_rating")
REPORT = ("champion", "report")


def build_definitions(study: Study) -> dg.Definitions:
    """Return the definitions of one study."""
    policies = dg.StaticPartitionsDefinition(list(study.policies))
    stages = [
        *votes_stage(study),
        *ratings_stage(study),
        *gaps_stage(study),
        *training_set_stage(study),
        *policy_stage(study, policies),
        *scorecard_stages(study, policies),
        *champion_stage(study),
        *report_stage(study),
    ]
    checks = [each for each in stages if isinstance(each, dg.AssetChecksDefinition)]
    sources = [each for each in stages if isinstance(each, dg.SourceAsset)]
    made = [each for each in stages if each not in checks and each not in sources]
    return dg.Definitions(
        assets=[*sources, *follow_content(made, REPORT)],
        asset_checks=checks,
        jobs=[
            dg.define_asset_job("observe_inputs", dg.AssetSelection.assets(*OBSERVED)),
            dg.define_asset_job("observe_recipes", dg.AssetSelection.assets("recipe")),
            dg.define_asset_job("rate_votes", dg.AssetSelection.assets(*ARENA)),
            dg.define_asset_job("train_and_evaluate", dg.AssetSelection.assets(*POLICY)),
            dg.define_asset_job("write_report", dg.AssetSelection.assets(*REPORT)),
            clean_job(study),
        ],
        sensors=automation(study, REPORT),
        schedules=schedules(study),
        resources={"tracking": Tracking.of(study)},
        # A chain's stages follow each other, so a process for each would only cost its start; and
        # what ends a run's one process ends its job with it.
        executor=dg.in_process_executor,
    )


defs = build_definitions(read_study(os.environ.get("ARENAPO_STUDY", MINIATURE)))
