"""What policies are measured by: the prompts, the K-Sort instances and the scorers' weights."""

import json
from pathlib import Path

from assets.lake import Lake, combined_hash, content_hash
from assets.policy import recipes
from assets.study import Study
from evaluation.prompts import read_prompts
from evaluation.scorers.naming import content, parse


def prompts_of(study: Study) -> Path:
    """Return the prompts that are drawn: the set that is named, or what training holds out."""
    return study.generation.prompts or Lake(study.lake).table("training_set")


def prompts_version(study: Study) -> str:
    """Return a hash of every prompt that is drawn, those of the K-Sort instances among them.

    Of a training set only the held-out prompts count: new gaps draw no new image.
    """
    instances = sorted(study.ksort.dataset.rglob("result.json"))
    if study.generation.prompts is not None:
        return combined_hash(content_hash(study.generation.prompts, *instances))
    table = prompts_of(study)
    held_out = [one.prompt for one in read_prompts(table)] if table.exists() else []
    return combined_hash(json.dumps(held_out), content_hash(*instances))


def drawing_inputs(study: Study, lake: Lake, name: str) -> str:
    """Return the name of the folder that a policy's images lie in, by all that goes into them."""
    trained = study.policies[name] is not None
    weights = lake.current("policies", name) / "policy"
    return combined_hash(
        content_hash(weights) if trained else recipes(study)[name],
        prompts_version(study),
        study.version("generation"),
    )


def yardsticks_version(study: Study) -> str:
    """Return a hash of the K-Sort data set and of every scorer, by its weights that lie here."""
    scorers = [content(parse(scorer), ask_hub=False) for scorer in study.scorecard.scorers]
    return combined_hash(content_hash(study.ksort.dataset), *scorers)


def conditions(study: Study) -> str:
    """Return a hash of all that two policies' headline scores must share to be compared.

    That is the prompts, how they are drawn, and the scorer by its weights (by its name, where it
    does not lie here).
    """
    headline = study.scorecard.headline
    (scorer,) = (s for s in study.scorecard.scorers if s.partition("=")[0] == headline)
    weights = content(parse(scorer), ask_hub=False)
    return combined_hash(prompts_version(study), study.version("generation"), weights)
