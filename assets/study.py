"""A study: the one TOML that says which votes, arena, gap, policies and evaluation belong together.

Here it becomes typed and complete, or one sentence that names the key and what it may be. The
sections [model], [train] and [[policy]] are read by `training.config`, which also runs where
nothing of the pipeline is installed.
"""

import hashlib
import json
import math
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from arena.ratings import estimator
from arena.votes.intake import MOST_REJECTED
from arena.votes.open import Options
from training.config import GapEstimator, PolicyConfig, policy_config, policy_names
from training.config import read_study as read_sections


def _beside_the_study(value: Any, info: ValidationInfo) -> Any:
    """Paths in a study are relative to its own folder, so it works from any working directory."""
    if isinstance(value, str) and info.context:
        return (info.context["folder"] / value).resolve()
    return value


StudyPath = Annotated[Path, BeforeValidator(_beside_the_study)]


def _beside_or_afar(value: Any, info: ValidationInfo) -> Any:
    """A source of votes may be a URL, which is relative to nothing."""
    return value if isinstance(value, str) and "://" in value else _beside_the_study(value, info)


Source = Annotated[Path | str, BeforeValidator(_beside_or_afar)]


class Section(BaseModel):
    """A table of the TOML: read once, never changed, no key that nobody knows."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Votes(Section):
    """Where the votes are; images: a parquet (image, bytes), or None where votes hold paths.

    sources: files, folders, patterns and URLs (s3, gs, az, hf). format: a key of
    `arena.votes.formats.READERS` where a file's content should not decide. replaces: the name of a
    corrected file to that of the file it stands for. most_rejected: the share of a file's rows
    above which the stage stops. rater_salt: the environment variable that holds the secret under
    which raters are hashed as they come in; None keeps their names.
    """

    sources: list[Source] = Field(min_length=1)
    images: StudyPath | None = None
    format: str | None = None
    replaces: dict[str, str] = Field(default_factory=dict)
    most_rejected: float = Field(MOST_REJECTED, ge=0, le=1)
    rater_salt: str | None = None

    @field_validator("format")
    @classmethod
    def _known_format(cls, name: str | None) -> str | None:
        return Options(format=name).format


class Arena(Section):
    """The estimator of the capabilities and its parameters (TrueSkill's defaults)."""

    model_config = ConfigDict(frozen=True, extra="allow")

    estimator: str = "trueskill"

    @property
    def parameters(self) -> dict[str, Any]:
        """What is handed to the estimator: every key but its name."""
        return dict(self.model_extra or {})

    @model_validator(mode="after")
    def _known_parameters(self) -> "Arena":
        estimator(self.estimator, **self.parameters)
        for key, value in self.parameters.items():
            if not (value == "auto" and key == "draw_probability"):
                allowed, what = RANGES[key]
                number = isinstance(value, int | float) and not isinstance(value, bool)
                if not (number and math.isfinite(value) and allowed(value)):
                    raise ValueError(f"{key} = {value!r}: needs {what}")
        return self


RANGES: dict[str, tuple[Callable[[float], bool], str]] = {
    "mu": (lambda x: True, "a number"),
    "sigma": (lambda x: x > 0, "a number above 0"),
    "beta": (lambda x: x > 0, "a number above 0"),
    "tau": (lambda x: x >= 0, "a number, 0 or more"),
    "draw_probability": (lambda x: 0 <= x < 1, 'a share from 0 to below 1, or "auto"'),
}


class Gap(Section):
    """How a vote becomes an expected quality gap (truncated normal).

    estimator: `pairwise` (the paper's), or `joint`, from every vote that the two images got; a
    [[policy]] may name another one as gap_estimator. spread: of an image, for `pairwise`. signed:
    a gap keeps its sign where the other votes say that this one was a slip.
    """

    estimator: GapEstimator = "pairwise"
    spread: Literal["posterior", "predictive"] = "posterior"
    signed: bool = False


class TrainingSet(Section):
    """held_out: the share of prompts whose pairs validate a policy and never train it.

    check_images: every image is decoded once, and votes about a missing or broken one do not train.
    Without it, such an image stops the first policy that meets it. network: image URLs are fetched.
    """

    held_out: float = Field(0.05, ge=0, lt=1)
    check_images: bool = True
    network: bool = False


class Generation(Section):
    """What every policy draws: the same prompts, seeds, steps and guidance (a scale).

    prompts: a set of prompts; None takes the ones that the training set holds out.
    """

    prompts: StudyPath | None = None
    images_per_prompt: int = Field(1, ge=1)
    steps: int = Field(50, ge=1)
    guidance: float = Field(7.5, ge=0)
    seed: int = 0
    batch_size: int = Field(16, ge=1)


class Scorecard(Section):
    """scorers: NAME or NAME=SOURCE; headline: the one that the report ranks policies by."""

    scorers: list[str] = Field(min_length=1)
    headline: str


class KSort(Section):
    """dataset: a folder in K-Sort Eval's layout; judge: recorded:FILE, openai:NAME, scorer:NAME."""

    dataset: StudyPath
    judge: str = Field(pattern=r"^(recorded|openai|scorer):.+$")


class Automation(Section):
    """What starts by itself while the daemon runs.

    votes, hours: new votes are rated when so many rows wait, or so long after the first of them.
    retrain_above: the change of its training set (`assets.movement`) above which a policy is
    trained again; None leaves the GPU to a person.
    """

    votes: int = Field(100, ge=1)
    hours: float = Field(1.0, ge=0)
    retrain_above: float | None = Field(None, ge=0)


class Alerts(Section):
    """Who is told of a failed run, a check that says no and a new champion.

    command: a program and its arguments, which get the event as JSON on stdin. webhook: an address
    that the JSON is posted to, or "$NAME" for the environment variable that holds it.
    """

    command: list[str] = Field(default_factory=list)
    webhook: str | None = Field(None, pattern=r"^(https?://.+|\$[A-Za-z_][A-Za-z0-9_]*)$")


class Retention(Section):
    """What `clean` leaves: the last `days` of history, and of each policy the newest `models`."""

    days: float = Field(90.0, ge=0)
    models: int = Field(3, ge=1)


class Tracking(Section):
    """store: the folder of MLflow's database and artifacts; pages: where its web page is served."""

    store: StudyPath
    pages: str = Field("http://127.0.0.1:5000", pattern=r"^https?://.+$")


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
