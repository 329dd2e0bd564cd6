"""`python -m pipelines check`: all that a study will need, before a GPU is touched.

Every file, column, weight, judge, disk and memory is a line: what, what was found, and what to do.
`run` does the quick half of it first and refuses what could only fail later.
"""

import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from arena.votes.faults import VotesError
from arena.votes.sources import File
from assets.brought import images_of
from assets.lake import Lake
from assets.study import Study
from assets.tracking import Tracking, TrackingError
from assets.votes import NothingYet, sources_of, taken_in
from evaluation.errors import EvaluationError
from evaluation.prompts import read_prompts
from evaluation.scorers.naming import absence
from pipelines import fit
from pipelines.chain import chain_of
from pipelines.costs import Costs
from pipelines.planning import free_space
from pipelines.sizes import as_bytes, size

# Above this only the smallest file is read here; all are when they are taken in.
MOST_BYTES = 200 * 10**6


@dataclass(frozen=True)
class Need:
    """One thing that a study needs; said: what was found, or what to do."""

    what: str
    met: bool
    said: str


def require(study: Study) -> None:
    """Raise ValueError naming everything that is missing, as far as it is quickly seen."""
    missing = [each for each in quick(study) if not each.met]
    if missing:
        raise ValueError(
            f"{study.path}: {'; '.join(f'{each.what}: {each.said}' for each in missing)}"
        )


def needs(study: Study) -> list[Need]:
    """Return every need of a study, met or not."""
    found = [*quick(study), *(Need(*each) for each in fit.files(study))]
    return [*found, *votes(study), *resources(study)]


def shown(study: Study, found: list[Need]) -> str:
    """Return the needs as a table."""
    width = max(len(each.what) for each in found)
    lines = [
        f"{'ok     ' if each.met else 'MISSING'}  {each.what:<{width}}  {each.said}"
        for each in found
    ]
    missing = sum(not each.met for each in found)
    verdict = f"{missing} of {len(found)} are missing" if missing else "everything is there"
    return "\n".join([f"{study.name}: {verdict}", "", *lines])


def quick(study: Study) -> Iterator[Need]:
    """Look at what takes no time: that files, weights, judge and store are there."""
    try:
        count = len(sources_of(study))
        absent = [
            each for each in sources_of(study) if isinstance(each, File) and not each.path.exists()
        ]
        said = f"{absent[0].name} is not there; check votes.sources" if absent else f"{count} files"
        yield Need("votes.sources", not absent, said)
    except (NothingYet, VotesError) as error:
        yield Need("votes.sources", False, str(error))
    variable = study.votes.rater_salt
    if variable:
        met = bool(os.environ.get(variable))
        yield Need("votes.rater_salt", met, f"${variable} is {'set' if met else 'not set; set it'}")
    if study.votes.images:
        yield votes_images(study)
    yield base(study)
    for scorer in study.scorecard.scorers:
        yield weights(scorer)
    if study.generation.prompts:
        try:
            prompts = read_prompts(study.generation.prompts)
            yield Need("generation.prompts", True, f"{len(prompts)} prompts")
        except EvaluationError as error:
            yield Need("generation.prompts", False, str(error))
    if study.ksort:
        found = len(list(study.ksort.dataset.rglob("result.json")))
        said = f"{found} instances" if found else f"{study.ksort.dataset} holds no result.json"
        yield Need("ksort.dataset", bool(found), said)
        yield judge(study)
    yield lake(study)
    yield store(study)


def votes_images(study: Study) -> Need:
    """Look for the file or folder that holds all images."""
    try:
        images = images_of(study)
    except OSError as error:
        return Need("votes.images", False, str(error))
    assert images is not None
    return _there("votes.images", images)


def base(study: Study) -> Need:
    """Look whether the base is a folder in diffusers' layout, or a name on the hub."""
    path = Path(study.base)
    if path.is_absolute() or study.base.startswith("."):
        met = (path / "model_index.json").exists()
        said = "a pipeline folder" if met else f"{path} holds no model_index.json; check model.base"
        return Need("model.base", met, said)
    return Need("model.base", True, f"{study.base}, from the hub or its cache")


def weights(scorer: str) -> Need:
    """Look whether a scorer's weights are there, or have a name on the hub."""
    name, _, source = scorer.partition("=")
    what = f"scorer {name}"
    if source.startswith(("/", ".")):
        return _there(what, Path(source))
    if said := absence(scorer):
        return Need(what, False, said)
    return Need(what, True, f"{source or 'its authors weights'}, from the hub or its cache")


def judge(study: Study) -> Need:
    """Look whether the judge can be asked."""
    kind, _, rest = study.judge.partition(":")
    if kind == "openai":
        met = bool(os.environ.get("OPENAI_API_KEY") or os.environ.get("OPENAI_BASE_URL"))
        said = "an endpoint is named" if met else "set OPENAI_API_KEY (or OPENAI_BASE_URL)"
        return Need("ksort.judge", met, said)
    if kind == "recorded" or (kind == "local" and rest.startswith(("/", "."))):
        return _there("ksort.judge", Path(rest))
    if kind == "scorer":
        found = weights(rest)
        return Need("ksort.judge", found.met, f"{rest}: {found.said}")
    return Need("ksort.judge", True, f"{rest}, from the hub or its cache")


def lake(study: Study) -> Need:
    """Look whether the lake can be used, where it is an object store."""
    found = Lake(study.lake)
    try:
        found.reach(write=True)
    except OSError as error:
        return Need("lake.root", False, str(error))
    return Need("lake.root", True, found.name)


def store(study: Study) -> Need:
    """Look whether MLflow's store can be used, where it is made already or is a server."""
    tracking = Tracking.of(study)
    if not tracking.exists:
        return Need("MLflow", True, f"{tracking.shown} will be made")
    try:
        tracking.client()
    except TrackingError as error:
        return Need("MLflow", False, str(error))
    return Need("MLflow", True, tracking.shown)


def votes(study: Study) -> Iterator[Need]:
    """Read the votes into a lake of their own, which is thrown away."""
    try:
        sources, among = sources_of(study), ""
        local = [each for each in sources if isinstance(each, File)]
        if sum(each.path.stat().st_size for each in local) > MOST_BYTES:
            among = f", in the smallest of {len(sources)} files"
            sources = [min(local, key=lambda each: each.path.stat().st_size)]
        with tempfile.TemporaryDirectory() as folder:
            lake = Lake(Path(folder))
            files, quarantined = taken_in(study, lake, sources, None)
            rejected = int(files["rejected"].sum())
            accepted = lake.read("votes").height
            said = f"{accepted} votes, {rejected} rows rejected{among}"
            yield Need("votes", accepted > 0, said if accepted else f"none is accepted ({said})")
            for name, reason in quarantined.iter_rows():
                yield Need(Path(name).name, False, reason)
            yield from (Need(*each) for each in fit.votes(study, lake))
    except (NothingYet, VotesError, OSError) as error:
        yield Need("votes", False, str(error))


def resources(study: Study) -> Iterator[Need]:
    """Compare disk and memory with what the training's own estimate says."""
    trained = next((config for config in study.policies.values() if config), None)
    if trained is None:
        return
    found = Costs(study, chain_of(study), None).estimate(trained)
    if isinstance(found, Exception):
        yield Need("memory and disk", True, f"no estimate yet: {str(found).splitlines()[0]}")
        return
    count = sum(config is not None for config in study.policies.values())
    wanted, free = count * sum(found.disk.values()), free_space(Lake(study.lake).root)
    yield Need(
        "disk", wanted < free, f"{as_bytes(wanted)} for {count} policies, {as_bytes(free)} free"
    )
    memory, have = sum(found.memory.values()), memory_of_machine()
    if have is not None:
        yield Need(
            "memory", memory < have, f"{as_bytes(memory)} for a policy, {as_bytes(have)} here"
        )


def memory_of_machine() -> int | None:
    """Return the bytes of the largest GPU, else of the machine; None where torch is not there."""
    if find_spec("torch") is None:
        return None
    import psutil
    import torch

    if torch.cuda.is_available():
        cards = range(torch.cuda.device_count())
        return max(torch.cuda.get_device_properties(card).total_memory for card in cards)
    return int(psutil.virtual_memory().total)


def _there(what: str, path: Path) -> Need:
    met = path.exists()
    return Need(what, met, as_bytes(size(path)) if met else f"{path} is not there; check the study")
