"""The study's TOML as the training job reads it: strict, and without torch.

`read_study` gives the file with its overrides applied and its paths resolved; other rooms read
their own sections from it. `policy_config` gives one `[[policy]]` merged over `[train]`. A key that
is unknown, of the wrong type or out of range is an error that names the key and what is allowed;
nothing here opens a model, a vote or an image.
"""

import dataclasses
import re
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from training.config import ConfigError, DataConfig, Generation, PolicyConfig, checked

# Keys that hold a path, by section. `model.base` and a scorer's source may also be a hub's name.
PATHS = {"lake.root", "cache.root", "votes.images", "training_set.pairs", "ksort.dataset"}
PATHS |= {"generation.prompts", "model.base", "model.adapter"}
PATHS |= {"votes.sources", "votes.image_roots", "scorecard.scorers"}
MODEL_KEYS = {"base", "revision", "adapter", "resolution", "buckets"}  # of [model]
# Of a study and of a policy: a folder, a partition of Dagster, an alias of MLflow.
PLAIN_NAME = r"[A-Za-z0-9_][A-Za-z0-9_-]{0,99}"
SECTIONS: tuple[str, ...] = ("study", "lake", "cache", "votes", "arena", "gap", "training_set")
SECTIONS += ("model", "train", "policy", "generation", "scorecard", "ksort")


def read_study(path: Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Read a study's TOML, apply `KEY=VALUE` overrides and resolve its paths.

    A relative path in the file is relative to the file's folder; one in an override to the working
    directory, because that is where it was typed. VALUE is read as TOML, else as plain text. An
    override of `train.KEY` also wins over a `[[policy]]` that sets KEY: it was said last.
    Raises ConfigError for a file that cannot be read and for an override of no known section.
    """
    try:
        study = tomllib.loads(path.read_text())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path}: {error}") from error
    for section, values in study.items():
        if section in SECTIONS and not isinstance(values, list if section == "policy" else dict):
            form = "[[policy]]" if section == "policy" else f"[{section}]"
            raise ConfigError(f"{path}: {section} must be written as {form}")
        if section != "policy" and isinstance(values, dict):
            for key in values:
                values[key] = _resolve(f"{section}.{key}", values[key], path.resolve().parent)
    for override in overrides:
        _override(study, override)
    return study


def policy_names(path: Path) -> list[str]:
    """Names of the study's policies in their order. Raises ConfigError for a missing or equal."""
    names = [entry.get("name") for entry in read_study(path).get("policy", [])]
    if not names or None in names or len(set(names)) < len(names):
        raise ConfigError(f"{path}: every [[policy]] needs a name of its own, found {names}")
    for name in names:
        if not isinstance(name, str) or not re.fullmatch(PLAIN_NAME, name):
            raise ConfigError(
                f"{path}: policy {name!r}: a name has letters, digits, '_' and '-', begins "
                "with none of the last, and is no longer than 100"
            )
    return names


def policy_config(path: Path, name: str, overrides: Sequence[str] = ()) -> PolicyConfig:
    """Return the configuration of one policy: `[train]` under its `[[policy]]`.

    Raises ConfigError for a name the study has not, for a policy without an objective (the base as
    it is: nothing to train) and for keys that are unknown, missing, mistyped or out of range.
    """
    names = policy_names(path)
    if name not in names:
        raise ConfigError(f"{path}: no policy named {name!r}; it has {', '.join(names)}")
    study = read_study(path, overrides)
    entry = study["policy"][names.index(name)]
    if "objective" not in entry:
        raise ConfigError(
            f"{path}: policy {name!r} has no objective, so it is the base model as it is: "
            "nothing to train"
        )
    model = study.get("model", {})
    fields = {f.name: f for f in dataclasses.fields(PolicyConfig)}
    own, of_model = {"name", "objective"}, MODEL_KEYS
    trainable = {key: f for key, f in fields.items() if key not in own | of_model}
    values = {
        **checked(f"{path}: model", model, {k: fields[k] for k in of_model}),
        **checked(f"{path}: train", {"seed": study.get("study", {}).get("seed", 0)}, trainable),
        **checked(f"{path}: gap", {"gap_estimator": gap_estimators(study)[0]}, trainable),
        **checked(f"{path}: train", study.get("train", {}), trainable),
        **checked(f"{path}: policy {name!r}", entry, trainable | {k: fields[k] for k in own}),
    }
    if "base" not in values:
        raise ConfigError(f"{path}: model.base is missing: a pipeline folder or a hub's name")
    return PolicyConfig(**values)


def gap_estimators(study: dict[str, Any]) -> list[str]:
    """Return the gap estimators that a study needs: its own first, then those of its policies."""
    own = study.get("gap", {}).get("estimator", "pairwise")
    policies = [study.get("train", {}), *study.get("policy", [])]
    asked = (each["gap_estimator"] for each in policies if "gap_estimator" in each)
    return list(dict.fromkeys([own, *asked]))


def gap_column(study: dict[str, Any], policy: PolicyConfig) -> str:
    """Return the column of the pairs table that holds a policy's gaps."""
    own = policy.gap_estimator == gap_estimators(study)[0]
    return "gap" if own else f"{policy.gap_estimator}_gap"


def data_config(study: dict[str, Any]) -> DataConfig:
    """Return where a study (as `read_study` gives it) keeps pairs, images and encoded inputs."""
    root = study.get("lake", {}).get("root")
    pairs = study.get("training_set", {}).get("pairs")
    cache = study.get("cache", {}).get("root")
    if root is None and (pairs is None or cache is None):
        raise ConfigError("lake.root is missing: the folder that the pipeline writes into")
    if "://" in str(root) and (pairs is None or cache is None):
        raise ConfigError(
            f"lake.root = {root!r} is an object store, which this job reads nothing from; give "
            "--set training_set.pairs=FILE and --set cache.root=FOLDER"
        )
    images = study.get("votes", {}).get("images")
    held_out = study.get("training_set", {}).get("held_out", 0.05)
    if isinstance(held_out, bool) or not isinstance(held_out, int | float) or not 0 <= held_out < 1:
        raise ConfigError(f"training_set.held_out = {held_out!r}: needs a share from 0 to below 1")
    keys = {f.name: f for f in dataclasses.fields(Generation)}
    drawn = {k: v for k, v in study.get("generation", {}).items() if k in keys}
    return DataConfig(
        pairs=Path(pairs or Path(root) / "training_set" / "pairs.parquet"),
        images=Path(images) if images else None,
        cache=Path(cache or Path(root) / "cache"),
        held_out=float(held_out),
        split_seed=study.get("study", {}).get("seed", 0),
        generation=Generation(**checked("generation", drawn, keys)),
    )


def _override(study: dict[str, Any], override: str) -> None:
    """Set one `section.key=value` in place."""
    dotted, equals, text = override.partition("=")
    section, dot, key = dotted.strip().partition(".")
    if not (equals and dot and key) or section not in SECTIONS or section == "policy":
        allowed = ", ".join(s for s in SECTIONS if s != "policy")
        raise ConfigError(f"--set {override}: needs SECTION.KEY=VALUE, SECTION one of {allowed}")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    study.setdefault(section, {})[key] = _resolve(f"{section}.{key}", value, Path.cwd())
    if section == "train":
        for entry in study.get("policy", []):
            entry.pop(key, None)


def _resolve(key: str, value: Any, folder: Path) -> Any:
    """Make the path in `value` absolute where `key` holds paths; leave URLs and hub names."""
    if key not in PATHS:
        return value
    if isinstance(value, list):
        return [_resolve(key, item, folder) for item in value]
    if not isinstance(value, str):
        raise ConfigError(f"{key} = {value!r}: needs a path in quotes")
    prefix, equals, source = (
        value.rpartition("=") if key == "scorecard.scorers" else ("", "", value)
    )
    if key == "scorecard.scorers" and (folder / source.partition(":")[2]).exists():
        kind, colon, rest = source.partition(":")  # old=pickscore:FOLDER
        if rest:
            prefix, equals, source = f"{prefix}{equals}{kind}", colon, rest
    path = folder / source
    named = ("model.base", "model.adapter", "scorecard.scorers")
    may_be_a_name = key in named and not source.startswith(".")
    if not source or "://" in source or (may_be_a_name and not path.exists()):
        return value
    return f"{prefix}{equals}{Path(path).resolve()}"
