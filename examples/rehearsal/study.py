"""From a study's TOML to the same study on stand-ins, which lie where it names its own.

`../data/x` of the study becomes `data/x` of the rehearsal's folder, and what the study takes from
the hub lies in `hub/<owner>/<name>`. Nothing else of the study changes but SIZES.
"""

import json
import re
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from evaluation.scorers.naming import BUILT_IN, parse
from examples.rehearsal import bases, votes
from examples.rehearsal.scorers import save_scorer

# The one place that says what a rehearsal makes smaller than the study.
SIZES: dict[str, dict[str, Any]] = {
    "model": {"resolution": 32},
    "train": {
        "steps": 4, "batch_size": 4, "pairs_at_once": 2, "warmup_steps": 1, "rank": 4,
        "checkpoint_every": 2, "log_every": 1, "validate_every": 2, "sample_every": 4,
        "quantization": "none",  # bitsandbytes' 4 bits need a GPU
    },
    "generation": {"steps": 2, "batch_size": 8, "size": 32},
    "training_set": {"held_out": 0.1},  # of 60 prompts
}  # fmt: skip
# These also where the study leaves the default.
ALWAYS = {("generation", "steps"), ("generation", "size"), ("train", "steps")}
ALWAYS |= {("train", "batch_size")}
PROMPTS = 12
# What a base is called, and its stand-in.
FAMILIES: tuple[tuple[str, Callable[..., Path]], ...] = (
    (r"z-?image", bases.save_zimage),
    (r"qwen", bases.save_qwen),
    (r"flux", bases.save_flux),
    (r"stable-diffusion-3|sd3", bases.save_sd3),
    (r"xl", bases.save_xl),
    (r"stable-diffusion|sd|v1-5", bases.save_sd15),
)


def rehearse(study: Path, out: Path, seed: int = 0, policies: Sequence[str] = ()) -> Path:
    """Write the stand-ins and DIR/<name>.toml; return the latter's path.

    policies: the only ones that are kept; all of them by default. Raises ValueError for a study
    that cannot be read or that names what has no stand-in.
    """
    try:
        raw = tomllib.loads(study.read_text())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ValueError(f"{study}: {error}") from None
    missing = [name for name in ("study", "votes", "model", "scorecard") if name not in raw]
    if missing:
        raise ValueError(f"{study}: a study needs [{missing[0]}]")
    out.mkdir(parents=True, exist_ok=True)
    for section, values in SIZES.items():
        for key, value in values.items():
            if key in raw.get(section, {}) or (section, key) in ALWAYS:
                raw.setdefault(section, {})[key] = value
    raw["policy"] = kept(raw, policies)
    for entry in raw["policy"]:  # which may override any key of [train]
        entry |= {key: value for key, value in SIZES["train"].items() if key in entry}
    raw["lake"] = {**raw.get("lake", {}), "root": inside(raw.get("lake", {}).get("root", "lake"))}
    tracking = raw.get("tracking", {})
    if tracking.pop("uri", None) or "store" in tracking:
        tracking["store"] = inside(tracking.get("store", "mlflow"))
    make_votes(raw["votes"], out, seed)
    make_base(raw["model"], out)
    make_scorers(raw["scorecard"], out)
    if named := raw.get("generation", {}).get("prompts"):
        raw["generation"]["prompts"] = inside(named)
        make_prompts(out / inside(named))
    if "ksort" in raw:
        raw["ksort"]["dataset"] = inside(raw["ksort"]["dataset"])
        make_ksort(out / raw["ksort"]["dataset"], seed)
    path = out / f"{raw['study'].get('name', study.stem)}.toml"
    path.write_text(
        f"# Rehearsed on stand-ins: python -m examples.rehearsal {study} --out {out}\n"
        + as_toml(raw)
    )
    return path


def kept(raw: dict[str, Any], policies: Sequence[str]) -> list[dict[str, Any]]:
    """Return the study's policies, or some of them. Raises ValueError for a name it has not."""
    found = {entry.get("name"): entry for entry in raw.get("policy", [])}
    for name in policies:
        if name not in found:
            raise ValueError(f"no policy is called {name!r}; there are {', '.join(found)}")
    return [entry for name, entry in found.items() if not policies or name in policies]


def inside(place: str) -> str:
    """Return where in the rehearsal's folder a place of the study lies: a relative path."""
    path = re.sub(r"^\w+://", "hub/", place)
    return "/".join(part for part in Path(path).parts if part not in ("..", ".", "/", "~")) or "."


def make_votes(section: dict[str, Any], out: Path, seed: int) -> None:
    """Make the votes' files and images, in the layout that the names and keys tell."""
    sources = [inside(source) for source in section["sources"]]
    section["sources"] = sources
    images = section.get("images")
    for number, source in enumerate(sources):
        made = votes.world(seed, offset=number * votes.VOTES)
        write_source(section, made, out / source)
    if not images:
        return
    section["images"] = inside(images)
    if "no_images" in " ".join(sources):  # the images are in the data set's other form
        write_source(
            {}, votes.world(seed), out / section["images"] / "pickapic-00000-of-00001.parquet"
        )
    if not (out / section["images"]).exists():
        raise ValueError(
            f"votes.images = {images!r} has no stand-in: name the folder of Pick-a-Pic's shards, "
            "or leave the key out where the votes hold paths"
        )


def write_source(section: dict[str, Any], made: votes.World, place: Path) -> None:
    """Write one source of votes: a file, a folder or a pattern."""
    name = f"{section.get('format', '')} {place}".lower()
    folder, pattern = (place.parent, place.name) if place.suffix else (place, "")
    if re.search(r"pick-?_?a-?_?pic", name):
        kind = ".tar" if pattern.endswith(".tar") else ".parquet"
        shards = [f"train-{k:05d}-of-00003-{0xB66AC786BF6FB553 + k:x}{kind}" for k in range(3)]
        names = [pattern] if pattern and "*" not in pattern else shards
        votes.write_pickapic(made, folder, names, images="no_images" not in name)
        if pattern.startswith("train-*"):  # beside it lies the split whose prompts are drawn
            votes.write_pickapic(
                votes.unseen(PROMPTS), folder, ["test_unique-00000-of-00001.parquet"]
            )
        return
    file = folder / (pattern.replace("*", "0001") if pattern else "votes.csv")
    file.parent.mkdir(parents=True, exist_ok=True)
    if re.search(r"hpd_?-?v?3", name):
        votes.write_hpd_v3(made, file)
    elif re.search(r"hpd_?-?v?2", name):
        votes.write_hpd_v2(made, file)
    else:
        votes.write_table(made, file, section.get("columns", {}), section.get("outcomes", {}))


def make_base(section: dict[str, Any], out: Path) -> None:
    """Make the stand-in of the base, and of an adapter none."""
    base = section["base"]
    build = next((make for name, make in FAMILIES if re.search(name, base.lower())), None)
    if build is None:
        known = ", ".join(name for name, _ in FAMILIES)
        raise ValueError(f"model.base = {base!r} has no stand-in; a name must hold one of {known}")
    if "adapter" in section:
        raise ValueError("model.adapter has no stand-in; leave the key out")
    section["base"] = at_hub(base)
    section.pop("revision", None)
    build(out / section["base"])
    bases.publish(out / section["base"])


def at_hub(name: str) -> str:
    """Return where the stand-in of a folder or of a name on the hub lies."""
    path = inside(name)
    return path if name.startswith((".", "/")) else f"hub/{path}"


def make_scorers(section: dict[str, Any], out: Path) -> None:
    """Make the weights of each scorer, and name their folders."""
    found = []
    for scorer in section["scorers"]:
        named = parse(scorer)
        if named.kind not in BUILT_IN:  # a function of the study's own needs no weights
            found.append(scorer)
            continue
        folder = at_hub(named.sources[0])
        if Path(folder).suffix in (".pt", ".pth", ".safetensors"):
            folder = str(Path(folder).parent)
        save_scorer(named.kind, out / folder)
        kind = named.kind if named.label == named.kind else f"{named.label}={named.kind}"
        found.append(f"{kind}{'=' if kind == named.kind else ':'}./{folder}")
    section["scorers"] = found


def make_prompts(file: Path) -> None:
    """Make a set of prompts, as a table with Pick-a-Pic's `caption` or in the form it is named."""
    import polars as pl

    texts = votes.unseen(PROMPTS).votes["prompt"].to_list()
    file.parent.mkdir(parents=True, exist_ok=True)
    match file.suffix:
        case ".parquet":
            pl.DataFrame({"caption": texts}).write_parquet(file)
        case ".txt":
            file.write_text("\n".join(texts))
        case ".json":
            file.write_text(json.dumps(texts))
        case ".jsonl":  # GenEval 2's keys, of which a plain list of prompts has the first
            asked = {"vqa_list": [["Is there a picture?", "yes"]], "skills": ["object"]}
            lines = (json.dumps({"prompt": text} | asked) for text in texts)
            file.write_text("".join(f"{line}\n" for line in lines))
        case ".tsv":  # PartiPrompts
            lines = ("\t".join((text, "Animals", "Basic")) for text in texts)
            file.write_text("\n".join(["Prompt\tCategory\tChallenge", *lines]))
        case ".csv":
            pl.DataFrame({"prompt": texts}).write_csv(file)
        case _:  # HPD's benchmark: a folder of <style>.json
            file.mkdir(exist_ok=True)
            for name, part in (("anime", texts[::2]), ("photo", texts[1::2])):
                (file / f"{name}.json").write_text(json.dumps(part))


def make_ksort(folder: Path, seed: int, instances: int = 24) -> None:
    """Make K-Sort Eval's data set (arXiv 2602.09411, ksort-eval's code): Image/ and Image_meta/."""
    import numpy as np

    from evaluation.ksort.dataset import LEADERBOARD, MODEL_KEY, SCORE_KEY

    random = np.random.default_rng(seed)
    names = [f"Model-{i}" for i in range(8)]
    mu = random.normal(25, 4, len(names))
    board = [{MODEL_KEY: name, SCORE_KEY: f"{m - 3:.2f} ({m:.4f}/1.0000)"}
             for name, m in zip(names, mu, strict=True)]  # fmt: skip
    meta = folder / "Image_meta"
    meta.mkdir(parents=True, exist_ok=True)
    (meta / LEADERBOARD).write_text(json.dumps({"sorted_score_list": board}))
    capacities = []
    for number, prompt in enumerate(votes.prompts(instances, offset=2000)):
        four = random.choice(len(names), 4, replace=False)
        instance = folder / "Image" / f"sample_{number:04d}"
        instance.mkdir(parents=True, exist_ok=True)
        for place in range(4):
            image = votes.picture(random, place)
            (instance / f"{place}.jpg").write_bytes(votes.encoded(image))
        ranks = (-(mu[four] + random.normal(0, 4, 4))).argsort().argsort()
        content = {"prompt": [prompt], "img_rank": ranks.tolist(),
                   "models_name": [f"{number}_{names[i]}_x" for i in four]}  # fmt: skip
        (instance / "result.json").write_text(json.dumps(content))
        capacities.append(mu[four])
    np.save(meta / "subfolders.npy", np.array([f"sample_{i:04d}" for i in range(instances)]))
    np.save(meta / "avg_capacitys.npy", np.array(capacities))
    np.save(meta / "total_overlaps.npy", random.uniform(0, 6, instances))


def as_toml(raw: dict[str, Any]) -> str:
    """Return a study's tables as TOML."""
    lines: list[str] = []
    for section, held in raw.items():
        for table in held if isinstance(held, list) else [held]:
            lines += ["", f"[[{section}]]" if isinstance(held, list) else f"[{section}]"]
            lines += [f"{key} = {as_value(value)}" for key, value in table.items()]
    return "\n".join([*lines, ""])


def as_value(value: Any) -> str:
    """Return a value as TOML writes it; text and numbers are as in JSON."""
    if isinstance(value, dict):
        inner = ", ".join(f"{json.dumps(key)} = {as_value(each)}" for key, each in value.items())
        return f"{{{inner}}}"
    if isinstance(value, list):
        return f"[{', '.join(map(as_value, value))}]"
    if isinstance(value, bool | int | float | str):
        return json.dumps(value, ensure_ascii=False)
    return str(value)
