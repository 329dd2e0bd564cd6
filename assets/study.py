"""A study: the one TOML that says which votes, arena, gap, policies and evaluation belong together.

Here it becomes typed and complete, or one sentence that names the key and what it may be. The
sections [model], [train] and [[policy]] are read by `training.study_file`, which also runs where
nothing of the pipeline is installed.
"""

import hashlib
import json
import re
import tomllib
from pathlib import Path
from typing import Any, get_args

import dagster as dg
from pydantic import Field, ValidationError

from assets.sections import (
    Alerts,
    Arena,
    Automation,
    Champion,
    Gap,
    Generation,
    Jobs,
    KSort,
    LakePlace,
    Retention,
    Scorecard,
    Section,
    Tracking,
    TrainingSet,
    Votes,
)
from evaluation.scorers.naming import parse_all
from training.config import GapEstimator, PolicyConfig
from training.study_file import PLAIN_NAME, gap_estimators, policy_config, policy_names
from training.study_file import read_study as read_sections


class Study(Section):
    """Everything one TOML says, with its policies in order.

    policies: name to configuration, None for a model that is evaluated as it is. base: the folder
    or hub's name that every policy starts from. `raw` keeps the file's own words: `version` hashes
    them, so that two machines with the file in different folders agree on what has changed.
    """

    path: Path
    name: str = Field(pattern=f"^{PLAIN_NAME}$")
    seed: int = 0
    baseline: str
    owners: list[str] = Field(default_factory=list)
    lake: LakePlace
    votes: Votes
    arena: Arena
    gap: Gap
    training_set: TrainingSet
    generation: Generation
    scorecard: Scorecard
    champion: Champion
    ksort: KSort | None
    tracking: Tracking
    jobs: Jobs
    automation: Automation
    alerts: Alerts
    retention: Retention
    policies: dict[str, PolicyConfig | None]
    base: str
    raw: dict[str, Any]

    def key(self, name: str) -> dg.AssetKey:
        """Return the key of one of this study's assets or sources: `<study>/<name>`."""
        return dg.AssetKey([self.name, name])

    def called(self, name: str) -> str:
        """Return the name of one of this study's jobs, sensors or schedules: `<study>__<name>`."""
        return f"{self.name.replace('-', '_')}__{name}"

    @property
    def partitions(self) -> dg.StaticPartitionsDefinition:
        """The policies, as Dagster's partitions."""
        return dg.StaticPartitionsDefinition(list(self.policies))

    @property
    def scorer_names(self) -> list[str]:
        """The scorers as their columns are called."""
        return [each.label for each in parse_all(self.scorecard.scorers)]

    @property
    def judge(self) -> str:
        """The judge as the job's command line takes it, with its files' whole paths."""
        assert self.ksort is not None
        kind, _, rest = self.ksort.judge.partition(":")
        if kind == "scorer":
            named = {scorer.partition("=")[0]: scorer for scorer in self.scorecard.scorers}
            return f"scorer:{named.get(rest, rest)}"
        if kind in ("recorded", "local") and (beside := self.path.parent / rest).exists():
            return f"{kind}:{beside.resolve()}"
        return self.ksort.judge

    def values(self, *reads: str) -> dict[str, Any]:
        """Return the values of these keys, by key: in the file's own words, else the default.

        reads: "section.key", or "section" for all of its keys; "gap.estimators" for all that any
        policy asks for.
        """
        found = {}
        for read in reads:
            section, _, key = read.partition(".")
            words = self.raw.get(section, {})
            if read == "gap.estimators":  # the study's own, and those that its policies name
                found[read] = gap_estimators(self.raw)
                continue
            model = self if section == "study" else getattr(self, section, None)
            fields = type(model).model_fields if isinstance(model, Section) else {}
            for name in [key] if key else sorted({*fields, *words}):
                default = (
                    fields[name].get_default(call_default_factory=True) if name in fields else None
                )
                found[f"{section}.{name}"] = words.get(name, default)
        return found

    def version(self, *reads: str) -> str:
        """Return a short hash of the values of these keys, for code versions."""
        words = json.dumps(self.values(*reads), sort_keys=True, default=str)
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
        "tracking": raw.get("tracking", {}),
        "ksort": resolved.get("ksort"),
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
    if study.scorecard.headline not in study.scorer_names:
        raise ValueError(
            f"{path}: scorecard.headline is {study.scorecard.headline!r}, which is none of "
            f"scorecard.scorers: {', '.join(study.scorer_names)}"
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
        raise ValueError("lake.root is missing: the folder or URL that the pipeline writes into")
    for entry in raw.get("policy", []):
        name = entry.get("name")
        if name is not None and not isinstance(name, str):
            raise ValueError(f"policy.name = {name!r}: needs text in quotes")
        # It names folders, Dagster's partitions and MLflow's alias candidate-<name>.
        if name is not None and not re.fullmatch(PLAIN_NAME, name):
            raise ValueError(
                f"policy.name = {name!r}: needs letters, digits, _ and - only, at most 100 of "
                "them, the first one no -"
            )
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
        made = next((each for each in get_args(made) if each is not type(None)), made)
        allowed = getattr(made, "model_fields", {})
        return f"{key}: unknown key; allowed: {', '.join(allowed)}"
    if first["type"] == "missing":
        return f"{key} is missing"
    said = first["msg"].removeprefix("Value error, ")
    said = said.replace("String should match pattern", "it must match the pattern")
    whole = isinstance(first["input"], dict | list) or hasattr(first["input"], "model_fields")
    whole |= key in SECRETS
    return f"{key}: {said}" if whole else f"{key} = {first['input']!r}: {said}"


SECTIONS = (
    *("votes", "arena", "gap", "training_set", "generation", "scorecard"),
    *("champion", "ksort", "jobs", "automation", "alerts", "retention"),
)
# A mistake in these is said without their value.
SECRETS = ("alerts.webhook", "tracking.uri", "lake")
GAP_ESTIMATORS = get_args(GapEstimator)
# The keys of the sections that are spread over a study's own fields, or read elsewhere.
KEYS = {
    "study": ("name", "seed", "baseline", "owners"),
    "lake": ("root",),
    "cache": ("root",),
}
KNOWN = {"study", "lake", "tracking", "model", "train", "policy", "cache", *SECTIONS}
