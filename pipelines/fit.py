"""Whether what a study names fits together: the half of `check` that opens files.

Each function yields (what, met, said): what was found, or what to do.
"""

import json
import shutil
from collections.abc import Iterator
from importlib.util import find_spec
from itertools import islice
from pathlib import Path

import polars as pl

from arena.votes.images import Images
from assets.brought import images_of
from assets.images import as_path
from assets.lake import Lake
from assets.study import Study
from evaluation.errors import EvaluationError
from evaluation.ksort.dataset import read_dataset
from evaluation.prompts import overlap, read_prompts
from evaluation.scorers.naming import parse
from training import TrainingError

Found = tuple[str, bool, str]

TRIED = 64  # images that are opened
# One of these has to lie in the folder that a scorer is given.
WEIGHTS = {
    "clip": ("config.json",),
    "pickscore": ("config.json",),
    "hps_v2": ("HPS_v2_compressed.pt", "config.json"),
    "hps_v2.1": ("HPS_v2.1_compressed.pt", "config.json"),
    "imagereward": ("ImageReward.pt",),
}
PACKAGES = {"nf4": "bitsandbytes", "adamw_8bit": "bitsandbytes", "prodigy": "prodigyopt"}


def files(study: Study) -> Iterator[Found]:
    """Look into what the study names, and whether it is made for one another."""
    yield from sizes(study)
    yield from components(Path(study.base))
    for scorer in study.scorecard.scorers:
        named = parse(scorer)
        folder, wanted = Path(named.source or ""), WEIGHTS.get(named.kind, ())
        there = any((folder / name).is_file() for name in wanted)
        if named.source and folder.is_dir() and wanted and not there:
            said = f"{folder} holds no {' or '.join(wanted)}; put it there"
            yield f"scorer {named.label}", False, said
    if study.ksort:
        try:
            read_dataset(study.ksort.dataset).instance(0)
        except EvaluationError as error:
            yield "ksort.dataset", False, str(error)
    launch = study.jobs.launch
    if study.jobs.image and find_spec("dagster_k8s") is None:
        yield "jobs.image", False, "pods need dagster-k8s: pip install 'arenapo[kubernetes]'"
    if launch and not study.jobs.image and shutil.which(launch[0]) is None:
        said = f"there is no program {launch[0]}; install it, or change the key"
        yield "jobs.launch", False, said
    configs = [config for config in study.policies.values() if config]
    wanted_packages = {PACKAGES.get(x) for c in configs for x in (c.quantization, c.optimizer)}
    for package in sorted(each for each in wanted_packages if each):
        if find_spec(package) is None:
            said = f"[train] asks for it and it is not installed: pip install {package}"
            yield f"package {package}", False, said


def sizes(study: Study) -> Iterator[Found]:
    """Compare resolutions with what the base's VAE and denoiser can do."""
    trained = {config.resolution for config in study.policies.values() if config}
    wanted = {("model.resolution", side) for side in trained}
    if study.generation.size:
        wanted.add(("generation.size", study.generation.size))
    if find_spec("torch") is None:
        yield "model.resolution", True, "not looked at: torch is not installed here"
        return
    from training.families import open_family

    try:
        family = open_family(study.base, weights=False)
    except TrainingError as error:
        yield "model.base", False, str(error)
        return
    step = family.downscale * family.patch
    for key, side in sorted(wanted):
        near = max(step, round(side / step) * step)
        said = f"{side} pixels" if side % step == 0 else f"{side} is no multiple of {step}"
        yield key, side % step == 0, said if side % step == 0 else f"{said}; write {near}"


def components(folder: Path) -> Iterator[Found]:
    """Yield the components of a pipeline's folder that have no weights."""
    try:
        index = json.loads((folder / "model_index.json").read_text())
    except (OSError, ValueError):
        return  # a name on the hub, or said already
    for name, value in index.items():
        known = isinstance(value, list) and value[0]
        if not known or not (folder / name / "config.json").is_file():
            continue
        if not any(folder.glob(f"{name}/*.safetensors")) and not any(folder.glob(f"{name}/*.bin")):
            yield "model.base", False, f"{folder / name} holds no weights; fetch the folder again"


def votes(study: Study, lake: Lake) -> Iterator[Found]:
    """Look whether votes can train, and whether what is drawn was not trained on."""
    taken = lake.read("votes", "prompt", "image_a", "image_b")
    whole = taken.drop_nulls()
    if whole.is_empty():
        said = "no vote has a prompt and two images, so none can train"
        yield "votes to train on", False, f"{said}; name their columns in [votes.columns]"
        return
    names = pl.concat([whole["image_a"], whole["image_b"]]).unique(maintain_order=True)
    yield images(study, list(islice(names, TRIED)))
    if study.generation.prompts:
        try:
            drawn = [one.prompt for one in read_prompts(study.generation.prompts)]
        except EvaluationError:
            return  # said already
        shared = overlap(drawn, whole["prompt"].unique().to_list())
        if shared:
            said = f"{len(shared)} of {len(drawn)} are prompts of the votes, such as {shared[0]!r}"
            said += "; take them out, or leave the key out: then held-out prompts are drawn"
            yield "generation.prompts", False, said


def images(study: Study, names: list[str]) -> Found:
    """Open some images; met where at least half of them can be used."""
    images = images_of(study)
    where = [images] if images else []
    if not where:
        names = [str(as_path(study.path.parent, name) or name) for name in names]
    try:
        broken = Images(where, network=study.training_set.network).faults(names)
    except ValueError as error:
        return "images", False, str(error)
    said = f"{len(names) - len(broken)} of {len(names)} tried can be used"
    if broken:
        name, fault = next(iter(broken.items()))
        said += f"; {name}: {fault}"
    met = 2 * len(broken) <= len(names)
    return "images", met, said if met else f"{said}; check votes.images and the paths in the votes"
