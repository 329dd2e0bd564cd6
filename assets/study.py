"""A study: the one TOML that says which votes, arena, gap, policies and evaluation belong together.

Here it becomes typed and complete, or one sentence that names the key and what it may be. The
sections [model], [train] and [[policy]] are read by `training.study_file`, which also runs where
nothing of the pipeline is installed.
"""

import hashlib
import json
import tomllib
from pathlib import Path
from typing import Any, get_args

from pydantic import Field, ValidationError

from assets.sections import (
    Alerts,
    Arena,
    Automation,
    Gap,
    Generation,
    KSort,
    Retention,
    Scorecard,
    Section,
    Tracking,
    TrainingSet,
    Votes,
)
from training.config import GapEstimator, PolicyConfig
from training.study_file import policy_config, policy_names
from training.study_file import read_study as read_sections


class Study(Section):
    """Everything one TOML says, with its policies in order.

    policies: name to configuration, None for a model that is evaluated as it is. base: the folder
    or hub's name that every policy starts from. `raw` keeps the file's own words: `version` hashes
    them, so that two machines with the file in different folders agree on what has changed.
    """

    path: Path
    name: str = Field(pattern=r"^[A-Za-z0-9_-]+$")
    seed: int = 0
    baseline: str
    lake: Path
    votes: Votes
    arena: Arena
    gap: Gap
    training_set: TrainingSet
    generation: Generation
    scorecard: Scorecard
    ksort: KSort
    tracking: Tracking
    automation: Automation
    alerts: Alerts
    retention: Retention
    policies: dict[str, PolicyConfig | None]
    base: str
    raw: dict[str, Any]

    @property
    def judge(self) -> str:
        """The judge as the job's command line takes it, with its files' whole paths."""
        kind, _, rest = self.ksort.judge.partition(":")
        if kind == "scorer":
            named = {scorer.partition("=")[0]: scorer for scorer in self.scorecard.scorers}
            return f"scorer:{named.get(rest, rest)}"
        if kind == "recorded":
            return f"recorded:{(self.path.parent / rest).resolve()}"
        return self.ksort.judge

    def version(self, *sections: str) -> str:
        """Return a short hash of these sections of the file, for code versions."""
        words = json.dumps([self.raw.get(section) for section in sections], sort_keys=True)
        return hashlib.sha256(words.encode()).hexdigest()[:12]


def read_study(path: Path | str) -> Study:
    """Read and check a study.

    Raises ValueError with one sentence that names the file, the key and what it may be.
    """
    path = Path(path).resolve()
    if not path.exists():
        raise ValueError(f"{path}: there is no such study; give the path of its TOML")
    try:
        resolved = read_sections(path)
        raw = tomllib.loads(path.read_text())
        check_names(raw)
        names = policy_names(path)
        trained = {entry["name"] for entry in raw["policy"] if "objective" in entry}
        policies = {name: policy_config(path, name) if name in trained else None for name in names}
    except ValueError as error:
        said = str(error)
        raise ValueError(said if str(path) in said else f"{path}: {said}") from None
    fields = {
        **raw.get("study", {}),
        "path": path,
        "lake": resolved.get("lake", {}).get("root"),
        **{section: resolved.get(section, {}) for section in SECTIONS},
        "tracking": {"store": "../.mlflow", **raw.get("tracking", {})},
        "policies": policies,
        "base": resolved.get("model", {}).get("base"),
        "raw": raw,
    }
    try:
        study = Study.model_validate(fields, context={"folder": path.parent})
    except ValidationError as error:
        raise ValueError(f"{path}: {in_words(error)}") from None
    if study.baseline not in names:
        raise ValueError(
            f"{path}: study.baseline is {study.baseline!r}, which is no [[policy]]; "
            f"there are {', '.join(map(str, names))}"
        )
    if study.generation.prompts is None and not study.training_set.held_out:
        raise ValueError(
            f"{path}: generation.prompts is missing and training_set.held_out is 0, so there is "
            "nothing to draw; give one of them"
        )
    headlines = [name.partition("=")[0] for name in study.scorecard.scorers]
    if study.scorecard.headline not in headlines:
        raise ValueError(
            f"{path}: scorecard.headline is {study.scorecard.headline!r}, which is none of "
            f"scorecard.scorers: {', '.join(headlines)}"
        )
    return study


def check_names(raw: dict[str, Any]) -> None:
    """Raise ValueError for what the sections' own readers would not name."""
    unknown = set(raw) - KNOWN
    if unknown:
        raise ValueError(
            f"no section is called {', '.join(sorted(unknown))}; "
            f"there are {', '.join(sorted(KNOWN))}"
        )
    for section, keys in KEYS.items():
        held = raw.get(section, {})
        if not isinstance(held, dict):
            raise ValueError(f"{section} must be written as [{section}]")
        for key in held:
            if key not in keys:
                raise ValueError(f"{section}.{key}: unknown key; allowed: {', '.join(keys)}")
    if "root" not in raw.get("lake", {}):
        raise ValueError("lake.root is missing: the folder that the pipeline writes into")
    for entry in raw.get("policy", []):
        name = entry.get("name")
        if name is not None and not isinstance(name, str):
            raise ValueError(f"policy.name = {name!r}: needs text in quotes")
    asked = raw.get("gap", {}).get("estimator", "pairwise")
    if not isinstance(asked, str):
        raise ValueError(f"gap.estimator = {asked!r}: needs one of {', '.join(GAP_ESTIMATORS)}")


def in_words(error: ValidationError) -> str:
    """Return the first fault: its key as the TOML has it, the value and what it may be."""
    first = error.errors()[0]
    place = [str(part) for part in first["loc"]]
    section = place[0] if place[0] not in KEYS["study"] else "study"
    key = ".".join([section, *place[1 if section == place[0] else 0 :]])
    if first["type"] == "extra_forbidden":
        made = Study.model_fields[place[0]].annotation
        allowed = getattr(made, "model_fields", {})
        return f"{key}: unknown key; allowed: {', '.join(allowed)}"
    if first["type"] == "missing":
        return f"{key} is missing"
    said = first["msg"].removeprefix("Value error, ")
    said = said.replace("String should match pattern", "it must match the pattern")
    whole = isinstance(first["input"], dict | list) or hasattr(first["input"], "model_fields")
    return f"{key}: {said}" if whole else f"{key} = {first['input']!r}: {said}"


SECTIONS = (
    *("votes", "arena", "gap", "training_set"),
    *("generation", "scorecard", "ksort", "automation", "alerts", "retention"),
)
GAP_ESTIMATORS = get_args(GapEstimator)
# The keys of the sections that are spread over a study's own fields, or read elsewhere.
KEYS = {
    "study": ("name", "seed", "baseline"),
    "lake": ("root",),
    "cache": ("root",),
}
KNOWN = {"study", "lake", "tracking", "model", "train", "policy", "cache", *SECTIONS}
