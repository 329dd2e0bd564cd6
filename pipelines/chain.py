"""The chain: every stage, in order, with what it is made from, what it reads and what it leaves.

The one table from which staleness, plan, retention, report and code versions are derived. A change
of what a stage computes is a change of its `version` here.
"""

from dataclasses import replace

from assets import inputs
from assets.generations import MODEL_FILE
from assets.lake import WAREHOUSE, table_name
from assets.stage import Chain, Stage
from assets.study import Study
from assets.summary import PAGE
from assets.votes import observed

# A run has one policy or none: the arena once for a study, then each policy, then the report.
RATE, TRAIN, REPORT = "rate_votes", "train_and_evaluate", "write_report"
JOBS = (RATE, TRAIN, REPORT)


STAGES = (
    Stage(
        "votes",
        RATE,
        version=4,
        inputs=("vote_files",),
        reads=(
            *("votes.format", "votes.columns", "votes.outcomes", "votes.dimension"),
            *("votes.image_roots", "votes.replaces", "votes.most_rejected", "votes.rater_salt"),
            "votes.without",
        ),
        leaves=tuple(map(table_name, ("votes", "rankings", "rejected", "intake", "quarantined"))),
        blocking=("no_vote_lost",),
        checks=("rejections_are_few", "every_file_is_read", "share_of_ties_is_steady"),
    ),
    Stage(
        "ratings",
        RATE,
        version=2,
        inputs=("votes",),
        reads=("arena",),
        leaves=tuple(map(table_name, ("ratings", "pairs"))),
        checks=(
            "every_model_connected",
            "arena_predicts_held_out_votes",
            "raters_agree_with_the_arena",
            "ratings_did_not_jump",
        ),
    ),
    Stage(
        "gaps",
        RATE,
        version=3,
        inputs=("votes", "ratings"),
        reads=("gap", "gap.estimators"),
        leaves=(table_name("gaps"), WAREHOUSE),
        blocking=("gaps_are_positive_and_finite", "one_gap_a_vote"),
        checks=("joint_gap_converged",),
    ),
    Stage(
        "images",
        RATE,
        version=1,
        inputs=("votes",),
        reads=("training_set.check_images", "training_set.network"),
        leaves=(table_name("images"),),
        checks=("every_image_can_be_used",),
    ),
    Stage(
        "training_set",
        RATE,
        version=3,
        inputs=("votes", "gaps", "images", "prompt_files"),
        reads=("training_set.held_out", "study.seed"),
        leaves=(table_name("training_set"),),
        blocking=("splits_share_no_prompt",),
    ),
    Stage(
        "evaluation_prompts",
        RATE,
        version=1,
        inputs=("training_set", "prompt_files", "yardsticks"),
        leaves=(table_name("evaluation_prompts"),),
        checks=("no_prompt_was_trained_on",),
    ),
    Stage(
        "policy",
        TRAIN,
        version=2,
        inputs=("recipe[policy]",),
        after=("training_set", "images"),
        leaves=("policies/{policy}/current/policy",),
        blocking=("weights_are_finite",),
        checks=("policy_prefers_winners",),
    ),
    Stage(
        "generations",
        TRAIN,
        version=3,
        inputs=("policy[policy]", "evaluation_prompts"),
        reads=inputs.DRAWING,
        leaves=tuple(f"generations/{{policy}}/current/{x}" for x in ("images.parquet", MODEL_FILE)),
        blocking=("every_image_is_there",),
    ),
    Stage(
        "scorecard",
        TRAIN,
        version=3,
        inputs=("generations[policy]", "generations[baseline]", "yardsticks"),
        reads=("scorecard.scorers", "study.baseline"),
        leaves=("judgments/{policy}/scores.parquet",),
        checks=("every_image_is_scored", "light_and_diversity_are_kept"),
    ),
    Stage(
        "ksort_rating",
        TRAIN,
        version=2,
        inputs=("generations[policy]", "yardsticks"),
        reads=("ksort.judge", "ksort.orders", "study.seed"),
        leaves=("judgments/{policy}/ksort.json",),
        checks=("ksort_rating_settled",),
    ),
    Stage(
        "champion",
        REPORT,
        version=4,
        inputs=("scorecard[each]", "generations[each]", "ratings"),
        reads=("scorecard.headline", "study.baseline", "champion"),
        leaves=(table_name("champion"),),
        checks=("champion_can_be_loaded",),
    ),
    Stage(
        "report",
        REPORT,
        version=4,
        inputs=(
            *("scorecard[each]", "ksort_rating[each]", "generations[each]"),
            *("champion", "ratings"),
        ),
        reads=("scorecard.headline", "study.baseline", "champion"),
        leaves=tuple(map(table_name, ("report", "lineage"))),
        checks=("every_policy_is_reported", "some_policy_beats_the_baseline"),
    ),
    Stage(
        "summary",
        REPORT,
        version=2,
        inputs=("votes", "ratings", "report", "champion"),
        reads=("arena.estimator", "scorecard.headline", "champion.by"),
        leaves=(PAGE,),
        checks=("summary_names_every_policy",),
    ),
)

# What lies outside of the lake, and how its version is found; of a recipe it is each policy's own.
SOURCES = {
    "vote_files": observed,
    "prompt_files": inputs.prompt_files,
    "yardsticks": inputs.yardsticks,
    "base_model": inputs.base_model,
}
RECIPE = "recipe"


def chain_of(study: Study) -> Chain:
    """Return a study's stages by name, in order.

    One without [ksort] has no K-Sort rating. Where scores decide about the champion, neither the
    ratings nor the images themselves do.
    """
    stages = [stage for stage in STAGES if study.ksort or stage.name != "ksort_rating"]
    known = {stage.name for stage in stages} | {*SOURCES, RECIPE}
    by_scores = study.champion.by == "scores"
    unread = {("champion", each) for each in ("generations[each]", "ratings") if by_scores}
    kept = (
        replace(
            s,
            inputs=tuple(
                each
                for each in s.inputs
                if each.partition("[")[0] in known and (s.name, each) not in unread
            ),
        )
        for s in stages
    )
    return {stage.name: stage for stage in kept}


def of_job(chain: Chain, job: str) -> list[str]:
    """Return the names of a job's stages, in order."""
    return [stage.name for stage in chain.values() if stage.job == job]


def in_order(study: Study) -> list[str]:
    """Return the policies as they are run: the baseline first, which every other needs."""
    return sorted(study.policies, key=lambda name: name != study.baseline)
