"""The code location: the assets of every study of this home, the jobs over them, what starts them.

`build_definitions` is what tests and the command line call; Dagster reads `defs`, whose studies are
named by ARENAPO_STUDIES (paths or patterns, as in PATH; the miniature where it is not set). Nothing
here imports torch, diffusers or mlflow.
"""

import warnings

import dagster as dg

from assets.champion import champion_stage
from assets.evaluation_prompts import evaluation_prompts_stage
from assets.gaps import gaps_stage
from assets.generations import generations_stage
from assets.images import images_stage
from assets.ksort_rating import ksort_rating_stage
from assets.policy import policy_stage
from assets.ratings import ratings_stage
from assets.report import report_stage
from assets.scorecard import scorecard_stage
from assets.study import Study
from assets.summary import summary_stage
from assets.training_set import training_set_stage
from assets.votes import votes_stage
from pipelines.automation import clean_job, schedules, sensors
from pipelines.chain import JOBS, SOURCES, chain_of, of_job
from pipelines.homes import studies_of_home

# Observable sources, partitioned checks and Pipes' reader are marked beta or preview; the warnings
# would repeat on each load and in each job.
for kind in (dg.BetaWarning, dg.PreviewWarning, DeprecationWarning):
    warnings.filterwarnings("ignore", category=kind, module="dagster")
for kind in (dg.BetaWarning, dg.PreviewWarning):
    warnings.filterwarnings("ignore", category=kind)


class KeepsNothing(dg.IOManager):
    """Stands where Dagster would write what a step returns: a stage writes to its lake itself."""

    def handle_output(self, context: dg.OutputContext, obj: object) -> None:
        """Write nothing."""

    def load_input(self, context: dg.InputContext) -> None:
        """Raise TypeError: no stage reads what another one returned."""
        raise TypeError(f"{context.upstream_output} is read from the lake, not from Dagster")


@dg.io_manager(config_schema={})
def nowhere(_: dg.InitResourceContext) -> KeepsNothing:
    """Take no configuration: nobody who starts a run can choose a folder that it writes to."""
    return KeepsNothing()


BUILDERS = (
    votes_stage,
    ratings_stage,
    gaps_stage,
    images_stage,
    training_set_stage,
    evaluation_prompts_stage,
    policy_stage,
    generations_stage,
    scorecard_stage,
    ksort_rating_stage,
    champion_stage,
    report_stage,
    summary_stage,
)


def build_definitions(study: Study) -> dg.Definitions:
    """Return the definitions of one study, every name in them its own."""
    chain = chain_of(study)
    parts = [part for build in BUILDERS for part in build(study, chain)]
    checks = [part for part in parts if isinstance(part, dg.AssetChecksDefinition)]
    stages = {job: of_job(chain, job) for job in JOBS} | {"observe_inputs": list(SOURCES)}
    jobs = {
        job: dg.define_asset_job(
            study.called(job),
            dg.AssetSelection.assets(*(study.key(name) for name in names)),
            tags={"arenapo/study": study.name},
        )
        for job, names in stages.items()
    }
    return dg.Definitions(
        assets=[part for part in parts if part not in checks],
        asset_checks=checks,
        jobs=[*jobs.values(), clean_job(study, chain)],
        sensors=sensors(study, chain, [jobs[job] for job in JOBS]),
        schedules=schedules(study),
        resources={"io_manager": nowhere},
        # A chain's stages follow each other, so a process for each would only cost its start; and
        # what ends a run's one process ends its job with it.
        executor=dg.in_process_executor,
    )


defs = dg.Definitions.merge(*(build_definitions(study) for study in studies_of_home()))
