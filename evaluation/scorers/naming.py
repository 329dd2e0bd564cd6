"""What a scorer is called on a command line or in a study, and what its scores depend on.

    pickscore                   one of `BUILT_IN` or of a package's entry points, its usual weights
    pickscore=FOLDER            with these weights: a folder, a file or a hub name
    old=pickscore:FOLDER        the same under a label, so that two versions stand side by side
    mine=module:function        your own: function(prompts, images) -> numbers, or a class with
                                a method `score` of that kind

A package offers scorers by the entry point group `arenapo.scorers`. Nothing heavy is imported here.
"""

import hashlib
import importlib
import importlib.util
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from evaluation import hub
from evaluation.errors import EvaluationError

# Columns of a table of scores that describe the image.
DESCRIPTIVE = (
    *("policy", "prompt_id", "prompt", "category", "seed", "image"),
    *("brightness", "saturation", "embedding"),
)
CLIP = "openai/clip-vit-large-patch14"
# name: (loader below evaluation.scorers, its fixed arguments, hub repositories of the weights)
BUILT_IN: dict[str, tuple[str, dict[str, Any], tuple[str, ...]]] = {
    "pickscore": ("clip_towers:pickscore", {}, ("yuvalkirstain/PickScore_v1",)),
    "hps_v2": ("hps:hps", {"version": "v2"}, ("xswu/HPSv2", CLIP)),
    "hps_v2.1": ("hps:hps", {"version": "v2.1"}, ("xswu/HPSv2", CLIP)),
    "hps_v2_aliased": ("hps:hps", {"version": "v2", "aliased": True}, ("xswu/HPSv2", CLIP)),
    "hps_v2.1_aliased": ("hps:hps", {"version": "v2.1", "aliased": True}, ("xswu/HPSv2", CLIP)),
    "hps_v3": ("hps_v3:hps_v3", {}, ("MizzenAI/HPSv3", "Qwen/Qwen2-VL-7B-Instruct")),
    "clip": ("clip_towers:clip_score", {}, (CLIP,)),
    "aesthetic": ("aesthetic:aesthetic", {}, ("trl-lib/ddpo-aesthetic-predictor", CLIP)),
    "imagereward": ("imagereward:imagereward", {}, ("THUDM/ImageReward", "bert-base-uncased")),
    "vqa": ("vqa:vqa", {}, ("Qwen/Qwen3-VL-8B-Instruct",)),
    "ocr": ("ocr:ocr", {}, ()),
    "miniature": ("examples.miniature.scorer:MiniatureScorer", {}, ()),
}
OWN = re.compile(r"[A-Za-z_]\w*(\.\w+)*:[A-Za-z_]\w*")
LABEL = re.compile(r"[\w.+-]+")


@dataclass(frozen=True)
class Named:
    """A scorer by name. label : of its column. kind : built in, an entry point, or
    module:function. source : of its weights, None for the usual ones."""

    label: str
    kind: str
    source: str | None


def offered() -> dict[str, EntryPoint]:
    """Scorers that installed packages offer, by name."""
    return {one.name: one for one in entry_points(group="arenapo.scorers")}


def parse(scorer: str) -> Named:
    """Read a scorer's name; raises EvaluationError where it means none."""
    known = {*BUILT_IN, *offered()}
    label, equals, right = scorer.partition("=")
    kind, _, source = right.partition(":")
    if kind in known:  # old=pickscore:FOLDER, old=pickscore
        named = Named(label, kind, source or None)
    elif label in known:
        named = Named(label, label, right or None)
    elif equals and OWN.fullmatch(right):
        named = Named(label, right, None)
    else:
        raise EvaluationError(
            f"unknown scorer {scorer!r}; known scorers: {', '.join(sorted(known))}; your own is "
            "LABEL=module:function, other weights of one are LABEL=NAME:FOLDER"
        )
    if not LABEL.fullmatch(named.label) or named.label in DESCRIPTIVE:
        raise EvaluationError(f"{scorer}: {named.label!r} cannot be the name of a column of scores")
    return named


def parse_all(scorers: Sequence[str]) -> list[Named]:
    """Read several names; raises EvaluationError where two have one label."""
    found = [parse(one) for one in scorers]
    if len({one.label for one in found}) < len(found):
        raise EvaluationError("each scorer once: two columns cannot have one name")
    return found


def towers_of(named: Named) -> str:
    """What stands in memory for this scorer; scorers on one CLIP give the same answer."""
    if named.kind == "aesthetic":
        path = Path(named.source or "")
        beside = (path if path.is_dir() else path.parent) / "clip"
        return str(beside.resolve()) if named.source and beside.is_dir() else CLIP
    if named.kind == "clip" and named.source:
        return str(Path(named.source).resolve()) if Path(named.source).exists() else named.source
    return CLIP if named.kind == "clip" else named.label


def own_object(kind: str) -> Any:
    """The object that module:name stands for; raises EvaluationError where there is none."""
    module, _, name = kind.partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except ImportError as error:
        raise EvaluationError(f"{kind}: cannot be imported: {error}") from error
    except AttributeError:
        raise EvaluationError(f"{kind}: {module} has no {name}") from None


def content(named: Named, *, ask_hub: bool = True) -> str:
    """A hash of all that the scores depend on besides the image and the prompt.

    Of weights on this machine their bytes count, of those on the hub their revision (ask_hub) or
    their name, of your own scorer its module's file or its package's version.
    """

    def known(source: str) -> str:
        return (weights(source) if ask_hub or Path(source).exists() else None) or source

    parts = [named.kind]
    if named.kind in BUILT_IN:
        parts += [known(one) for one in sources_of(named)]
    elif (entry := offered().get(named.kind)) is not None:
        parts += [entry.value, entry.dist.version if entry.dist else ""]
        parts += [known(named.source)] if named.source else []
    else:
        try:
            found = importlib.util.find_spec(named.kind.partition(":")[0])
        except ImportError:
            found = None
        from evaluation.tables import digest

        origin = Path(found.origin) if found is not None and found.origin else None
        parts.append(digest([origin], origin.parent) if origin and origin.is_file() else "absent")
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def sources_of(named: Named) -> list[str]:
    """Folders, files and hub names that hold a built-in scorer's weights."""
    usual = list(BUILT_IN[named.kind][2])
    return [named.source or (usual[0] if usual else ""), *usual[1:]]


def weights(source: str) -> str | None:
    """Hash of a folder's or file's content, the revision of a hub name, or None."""
    from evaluation.tables import digest

    path = Path(source)
    if source and path.is_file():
        return digest([path], path.parent)
    if source and path.is_dir():
        return digest((one for one in path.rglob("*") if one.is_file()), path)
    return hub.revision(source)


def absence(scorer: str) -> str | None:
    """One sentence where a scorer's weights are neither here nor to be had; loads nothing.

    Raises EvaluationError for a name that means no scorer.
    """
    named = parse(scorer)
    if OWN.fullmatch(named.kind):
        try:
            own_object(named.kind)
        except EvaluationError as error:
            return str(error)
        return None
    if named.kind == "miniature" and named.source is None:
        return "miniature: give its folder: miniature=examples/miniature/world/scorer"
    source = sources_of(named)[0] if named.kind in BUILT_IN else named.source or ""
    if not source or Path(source).exists() or hub.revision(source) or not hub.out_of_reach():
        return None
    return (
        f"{named.label}: no weights: {source} is neither here nor fetched before, and the hub "
        f"cannot be reached; put them into a folder and give {named.label}=FOLDER"
    )
