"""What the stages are made from, by content: the base, the pairs, the prompts and the scorers.

Every function here returns a hash in which no path of this machine stands, so that equal inputs
are equal in another folder.
"""

import dataclasses
import json
from functools import lru_cache
from pathlib import Path

import polars as pl

from assets.content import (
    combined_hash,
    content_hash,
    frame_version,
    table_version,
)
from assets.lake import Lake
from assets.study import Study
from evaluation.scorers.naming import content, parse
from training.config import FREE, PolicyConfig
from training.pairs import COUNTED
from training.study_file import gap_column

# The base counts by its content: its path differs from machine to machine. What may change between
# the parts of one run changes no weight, unless it decides when the run is over.
UNRELATED = FREE - {"steps", "patience", "validate_every"}
PAIR = ("vote_id", "prompt", "image_winner", "image_loser", "split")


def base_model(study: Study) -> str:
    """Return the hash of the base's files, or its name on the hub."""
    local = Path(study.base)
    return content_hash(local) if local.exists() else study.base


def recipe(study: Study, name: str) -> str:
    """Return a hash of everything that decides a policy's weights.

    That is the base, the policy's settings, and of the training set the columns that its objective
    reads and the images by content. A gap column that it does not read does not count.
    """
    config = study.policies[name]
    if config is None:
        return combined_hash(base_model(study), "as it is")
    lake = Lake(study.lake)
    pairs = lake.table("training_set")
    try:
        data = table_version(pairs, pair_columns(study, config))
    except (FileNotFoundError, KeyError):
        data = "no pairs with its gap yet"
    return combined_hash(base_model(study), settings(config), data, images(lake))


def settings(config: PolicyConfig) -> str:
    """Return a policy's settings as JSON, those that change no weight left out."""
    kept = dataclasses.asdict(config)
    for key in UNRELATED:
        kept.pop(key, None)
    return json.dumps(kept, sort_keys=True)


def pair_columns(study: Study, config: PolicyConfig) -> list[str]:
    """Return the columns of the training set that a policy's training reads."""
    if not config.reads_gap:
        return list(PAIR)
    gap = gap_column(study.raw, config)
    counted = [COUNTED] if config.soft_label == "counts" else []
    return [*PAIR, gap, f"{gap.removesuffix('gap')}probability", *counted]


def images(lake: Lake) -> str:
    """Return a hash of the content of every image that a pair names."""
    tables = [lake.table(name) for name in ("training_set", "images")]
    if not all(path.exists() for path in tables):
        return "no images"
    return _images(lake, lake.version("training_set"), lake.version("images"))


@lru_cache(maxsize=8)
def _images(lake: Lake, pairs: str, found: str) -> str:
    named = lake.read("training_set", "image_winner", "image_loser")
    used = pl.concat([named["image_winner"], named["image_loser"]]).unique().alias("image")
    table = lake.read("images", "image", "content")
    return frame_version(table.join(used.to_frame(), on="image", how="semi").sort("image"))


def prompt_files(study: Study) -> str:
    """Return a hash of the set of prompts that the study names, "held out" where it names none."""
    named = study.generation.prompts
    return content_hash(named) if named is not None else "held out"


def yardsticks(study: Study) -> str:
    """Return a hash of the K-Sort data set, and of scorers' and judge's files that lie here."""
    judge = [Path(study.judge.partition(":")[2])] if study.ksort else []
    local = [path for path in judge if path.parts and path.exists()]
    dataset = [study.ksort.dataset] if study.ksort else []
    scorers = [content(parse(scorer), ask_hub=False) for scorer in study.scorecard.scorers]
    return combined_hash(content_hash(*dataset, *local), *scorers)


def headline_scorer(study: Study) -> str:
    """Return a hash of the headline scorer's weights; its name, where they do not lie here."""
    scorers = map(parse, study.scorecard.scorers)
    (headline,) = (one for one in scorers if one.label == study.scorecard.headline)
    return content(headline, ask_hub=False)


def drawn_under(study: Study, prompts: str) -> str:
    """Return a hash of what two policies' images must share to be compared.

    prompts: the version of `evaluation_prompts`.
    """
    return combined_hash(prompts, study.version(*DRAWING))


def conditions(study: Study, drawn: str) -> str:
    """Return a hash of what two policies' headline scores must share to be compared."""
    return combined_hash(drawn, headline_scorer(study))


# How images are drawn; of the prompts the content counts.
DRAWING = (
    *("generation.images_per_prompt", "generation.steps", "generation.guidance"),
    *("generation.seed", "generation.batch_size", "generation.size"),
)
