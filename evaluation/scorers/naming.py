"""What a scorer is called on a command line or in a study, and what its scores depend on.

    pickscore                   one of `BUILT_IN` or of a package's entry points, its usual weights
    pickscore=FOLDER            with these weights: a folder, a file or a hub name
    old=pickscore:FOLDER        the same under a label, so that two versions stand side by side
    mine=module:function        your own: function(prompts, images) -> numbers, or a class with
                                a method `score` of that kind

A package offers scorers by the entry point group `arenapo.scorers`. Nothing heavy is imported here
before `load` makes a scorer.
"""

import hashlib
import importlib
import importlib.util
import inspect
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

from evaluation import hub
from evaluation.errors import EvaluationError, first_line
from evaluation.scorers import Scorer

# Columns of a table of scores that describe the image.
DESCRIPTIVE = (
    *("policy", "prompt_id", "prompt", "category", "seed", "image"),
    *("brightness", "saturation", "embedding"),
)
CLIP = "openai/clip-vit-large-patch14"
OWN = re.compile(r"[A-Za-z_]\w*(\.\w+)*:[A-Za-z_]\w*")
LABEL = re.compile(r"[\w.+-]+")


class Declaration(NamedTuple):
    """A scorer of this package.

    loader : module:function, called with the places of its weights and the fixed arguments. hub :
    the usual places; of a SOURCE that the user names, it takes that of the first.
    """

    loader: str
    fixed: dict[str, Any]
    hub: tuple[str, ...]


HPS = "evaluation.scorers.hps:hps", ("xswu/HPSv2", CLIP)
BUILT_IN: dict[str, Declaration] = {
    "clip": Declaration("evaluation.scorers.clip_towers:clip_score", {}, (CLIP,)),
    "pickscore": Declaration(
        "evaluation.scorers.clip_towers:pickscore", {}, ("yuvalkirstain/PickScore_v1",)
    ),
    **{
        f"hps_{version}{end}": Declaration(HPS[0], {"version": version, "fit": f"hps{end}"}, HPS[1])
        for version in ("v2", "v2.1")
        for end in ("", "_aliased")
    },
    "hps_v3": Declaration(
        "evaluation.scorers.hps_v3:hps_v3", {}, ("MizzenAI/HPSv3", "Qwen/Qwen2-VL-7B-Instruct")
    ),
    "aesthetic": Declaration(
        "evaluation.scorers.aesthetic:aesthetic", {}, ("trl-lib/ddpo-aesthetic-predictor", CLIP)
    ),
    "imagereward": Declaration(
        "evaluation.scorers.imagereward:imagereward", {}, ("THUDM/ImageReward", "bert-base-uncased")
    ),
    "vqa": Declaration("evaluation.scorers.vqa:vqa", {}, ("Qwen/Qwen3-VL-8B-Instruct",)),
    "ocr": Declaration("evaluation.scorers.ocr:ocr", {}, ()),
    "miniature": Declaration("examples.miniature.scorer:MiniatureScorer", {}, ()),
}


@dataclass(frozen=True)
class Named:
    """A scorer by name.

    label : of its column. kind : built in, an entry point, or module:function. source : of its
    weights, None for the usual ones. sources : every folder, file and hub name that holds weights.
    """

    label: str
    kind: str
    source: str | None
    sources: tuple[str, ...]


def known_names() -> dict[str, EntryPoint | None]:
    """Scorers by name: built in (None), and those that installed packages offer."""
    offered = {one.name: one for one in entry_points(group="arenapo.scorers")}
    return dict.fromkeys(BUILT_IN) | offered


def parse(scorer: str) -> Named:
    """Read a scorer's name; raises EvaluationError where it means none."""
    known = known_names()
    label, equals, right = scorer.partition("=")
    kind, _, source = right.partition(":")
    if kind not in known:  # else old=pickscore:FOLDER, old=pickscore
        kind, source = label, right
    if kind not in known and equals and OWN.fullmatch(right):
        kind, source = right, ""
    elif kind not in known:
        raise EvaluationError(
            f"unknown scorer {scorer!r}; known scorers: {', '.join(sorted(known))}; your own is "
            "LABEL=module:function, other weights of one are LABEL=NAME:FOLDER"
        )
    if not LABEL.fullmatch(label) or label in DESCRIPTIVE:
        raise EvaluationError(f"{scorer}: {label!r} cannot be the name of a column of scores")
    usual = BUILT_IN[kind].hub if kind in BUILT_IN else ()
    sources = (source, *usual[1:]) if source else usual
    return Named(label, kind, source or None, sources)


def parse_all(scorers: Sequence[str]) -> list[Named]:
    """Read several names; raises EvaluationError where two have one label."""
    found = [parse(one) for one in scorers]
    if len({one.label for one in found}) < len(found):
        raise EvaluationError("each scorer once: two columns cannot have one name")
    return found


def own_object(kind: str) -> Any:
    """The object that module:name stands for; raises EvaluationError where there is none."""
    module, _, name = kind.partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except ImportError as error:
        raise EvaluationError(f"{kind}: cannot be imported: {error}") from error
    except AttributeError:
        raise EvaluationError(f"{kind}: {module} has no {name}") from None


def load(named: Named, **more: Any) -> Scorer:
    """Load a scorer; `more` goes to its loader.

    Raises MissingWeights (where to put them) or EvaluationError (what is not right with them).
    """
    if named.kind == "miniature" and named.source is None:
        raise EvaluationError(str(absence("miniature")))
    try:
        if named.kind in BUILT_IN:
            loader, fixed, _ = BUILT_IN[named.kind]
            return own_object(loader)(*named.sources, **fixed, **more)
        entry = known_names().get(named.kind)
        found: Any = entry.load() if entry is not None else own_object(named.kind)
        scorer: Any = (
            found(*named.sources) if inspect.isclass(found) else SimpleNamespace(score=found)
        )
        return scorer
    except ImportError as error:
        raise EvaluationError(
            f"{named.label}: needs the package {error.name}, which is not installed here"
        ) from error
    except EvaluationError:
        raise
    except Exception as error:  # the libraries raise whatever a strange file makes of them
        said = first_line(error)
        raise EvaluationError(f"{named.label}: cannot be loaded: {said}") from error


def content(named: Named, *, ask_hub: bool = True) -> str:
    """A hash of all that the scores depend on besides the image and the prompt.

    Of weights on this machine their bytes count, of those on the hub their revision (ask_hub) or
    their name, of your own scorer its module's file or its package's version.
    """
    parts = [named.kind]
    for source in named.sources:
        known = hub.identity(source) if ask_hub or Path(source).exists() else None
        parts.append(known or source)
    if named.kind not in BUILT_IN:
        if (entry := known_names().get(named.kind)) is not None:
            parts += [entry.value, entry.dist.version if entry.dist else ""]
        else:
            try:
                found = importlib.util.find_spec(named.kind.partition(":")[0])
            except ImportError:
                found = None
            origin = (found and found.origin) or ""
            parts.append((Path(origin).is_file() and hub.identity(origin)) or "")
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


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
    if named.kind == "miniature" and named.source is None:
        return "miniature: give its folder: miniature=examples/miniature/world/scorer"
    for source in named.sources[:1]:
        if not Path(source).exists() and not hub.revision(source) and hub.out_of_reach():
            return (
                f"{named.label}: no weights: {source} is neither here nor fetched before, and the "
                f"hub cannot be reached; put them into a folder and give {named.label}=FOLDER"
            )
    return None
