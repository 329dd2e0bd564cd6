"""The sections of a study's TOML: every key with its type, its default and what it may be."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit
from urllib.request import url2pathname
from zoneinfo import available_timezones

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from arena.ratings.table import estimator
from arena.votes.intake import MOST_REJECTED
from arena.votes.options import Options
from assets.store_url import checked
from evaluation.errors import EvaluationError
from evaluation.scorers.naming import parse_all
from training.config import GapEstimator


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


def _folder_or_store(value: str) -> Path | str:
    if isinstance(value, str) and "://" in value and not value.startswith("file:"):
        return checked(value)
    return Path(url2pathname(urlsplit(value).path) if "://" in value else value)


LakePlace = Annotated[Path | str, BeforeValidator(_folder_or_store)]


class Section(BaseModel):
    """A table of the TOML: read once, never changed, no key that nobody knows."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Votes(Section):
    """Where the votes are, and their images.

    images: a parquet, a tar or a folder of such files, also at a URL (s3, gs); None where votes
    hold paths. sources: files,
    folders, patterns and URLs (s3, gs, az, hf). format: a key of `arena.votes.formats.FORMATS`
    where its columns should not decide. columns: the names that a table of its own gives the
    columns of a vote; outcomes: its words for a, b and tie; dimension: which one, where a file has
    several. image_roots: folders besides the votes' own and the study's in which images may lie: a
    path that leads elsewhere is no image, because strangers write the votes. replaces: the name of
    a corrected file to that of the file it stands for. most_rejected: the share of a file's rows
    above which the stage stops. rater_salt: the environment variable that holds the secret under
    which raters are hashed as they come in; None keeps their names. without: raters whose votes are
    left out, as the files call them.
    """

    sources: list[Source] = Field(min_length=1)
    images: Source | None = None
    format: str | None = None
    columns: dict[str, str] = Field(default_factory=dict)
    outcomes: dict[str, str] = Field(default_factory=dict)
    dimension: str | None = None
    image_roots: list[StudyPath] = Field(default_factory=list)
    replaces: dict[str, str] = Field(default_factory=dict)
    most_rejected: float = Field(MOST_REJECTED, ge=0, le=1)
    rater_salt: str | None = None
    without: list[str] = Field(default_factory=list)

    @model_validator(mode="after")
    def _readable(self) -> "Votes":
        Options(format=self.format, columns=self.columns, outcomes=self.outcomes)
        return self


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
            if key in RANGES and not (value == "auto" and key == "draw_probability"):
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
    "ridge": (lambda x: x > 0, "a number above 0"),
    "draw_probability": (lambda x: 0 <= x < 1, 'a share from 0 to below 1, or "auto"'),
}


class Gap(Section):
    """How a vote becomes an expected quality gap (truncated normal).

    estimator: `pairwise` (the paper's), `joint`, from every vote that the two images got, or
    `capability`, the difference of the two models' mu; a [[policy]] may name another one as
    gap_estimator. spread: of an image, for `pairwise`. signed: a gap keeps its sign where the other
    votes (`joint`) or the models (`capability`) say that this vote was a slip.
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

    prompts: a set of prompts; None takes the ones that the training set holds out. size: the side
    of an image in pixels; None takes the base's own.
    """

    prompts: StudyPath | None = None
    images_per_prompt: int = Field(1, ge=1)
    steps: int = Field(50, ge=1)
    guidance: float = Field(7.5, ge=0)
    seed: int = 0
    batch_size: int = Field(16, ge=1)
    size: int | None = Field(None, ge=8)


class Scorecard(Section):
    """scorers: NAME or NAME=SOURCE; headline: the one that the report ranks policies by."""

    scorers: list[str] = Field(min_length=1)
    headline: str

    @field_validator("scorers")
    @classmethod
    def _known_scorers(cls, scorers: list[str]) -> list[str]:
        try:
            parse_all(scorers)
        except EvaluationError as error:
            raise ValueError(str(error)) from None
        return scorers


class Champion(Section):
    """By what a policy is called better, in the report's table as by the rule of the champion.

    by: "scores", the headline scorer's, or "votes", people's about the images of each version.
    votes: how many of them a version needs before it is called anything.
    """

    by: Literal["scores", "votes"] = "scores"
    votes: int = Field(50, ge=1)


class KSort(Section):
    """dataset: a folder in K-Sort Eval's layout; judge: as `evaluation ksort --judge` takes it.

    orders: in how many orders a judge that is asked in words sees each question.
    """

    dataset: StudyPath
    judge: str = Field(pattern=r"^(recorded|openai|local|scorer):.+$")
    orders: int = Field(1, ge=1, le=5)


class Jobs(Section):
    """How the jobs that need the GPU are started.

    launch: a prefix of each job's command, such as ["srun", "--gpus=8"]. environment: names of
    variables that the jobs and `alerts.command` see besides those of `assets.environment`, such as
    ["MODULEPATH", "WANDB_*"]. retries, pause: how often a job that died is started again, and after
    how many seconds: what filled the memory, if another process did, needs a moment to go away.
    grace: seconds from "stop" to "stop at once", in which training writes its checkpoint.

    image: with it the jobs run as Kubernetes pods, in `namespace`. resources: of the container,
    {limits = {"nvidia.com/gpu" = 1}}. pod: the rest of the pod's spec, as Kubernetes writes it:
    volumes, nodeSelector, tolerations, activeDeadlineSeconds.
    """

    launch: list[str] = Field(default_factory=list)
    environment: list[str] = Field(default_factory=list)
    retries: int = Field(2, ge=0)
    pause: float = Field(5.0, ge=0)
    grace: float = Field(60.0, ge=1)
    image: str | None = Field(None, min_length=1)
    namespace: str = "default"
    resources: dict[str, dict[str, str | int | float]] = Field(default_factory=dict)
    pod: dict[str, Any] = Field(default_factory=dict)


class Automation(Section):
    """What starts by itself while the daemon runs.

    votes, hours: new votes are rated when so many rows wait, or so long after the first of them.
    retrain_above: the change of its training set (`assets.movement`) above which a policy is
    trained again; None leaves the GPU to a person. quiet_days: after so many days without new votes
    Dagster's page says that the feed ran dry.
    """

    votes: int = Field(100, ge=1)
    hours: float = Field(1.0, ge=0)
    retrain_above: float | None = Field(None, ge=0)
    quiet_days: float = Field(7.0, gt=0)


class Alerts(Section):
    """Who is told of a failed run, a check that says no and a new champion.

    command: a program and its arguments, which get the event as JSON on stdin. webhook: an address
    that the JSON is posted to, or "$NAME" for the environment variable that holds it.
    """

    command: list[str] = Field(default_factory=list)
    webhook: str | None = Field(None, pattern=r"^(https?://.+|\$[A-Za-z_][A-Za-z0-9_]*)$")


class Retention(Section):
    """What `clean` leaves: the last `days` of history, and of each policy the newest `models`.

    With this section in the TOML it runs every night at 5:00 in `timezone`.
    """

    days: float = Field(90.0, ge=0)
    models: int = Field(3, ge=1)
    timezone: str = "UTC"

    @field_validator("timezone")
    @classmethod
    def _known_timezone(cls, name: str) -> str:
        if name not in available_timezones():
            raise ValueError("needs a time zone's name, such as Europe/Berlin")
        return name


class Tracking(Section):
    """Where MLflow's runs and weights are kept.

    uri: of a tracking server or a database; by default $MLFLOW_TRACKING_URI. store: without either,
    the folder of a SQLite database and its artifacts; by default `mlflow` beside the lake. pages:
    where MLflow's web page is served. private: no prompt, no picture and no rater's name is put
    into MLflow, only numbers and weights.
    """

    uri: str | None = Field(None, pattern=r"^[a-z0-9+]+:.+$")
    store: Annotated[Path | str, BeforeValidator(_beside_or_afar)] | None = None
    pages: str = Field("http://127.0.0.1:5000", pattern=r"^https?://.+$")
    private: bool = False
