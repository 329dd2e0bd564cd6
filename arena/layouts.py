"""How pairs are written for each trainer: what its own loader reads, and no more than that.

The loaders and their commits are named in docs/guide/export.md and
tests/arena/test_export.py, beside where each keeps the margin. One function writes one layout;
`arena.export` makes the pairs.
"""

import hashlib
import io
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from arena.votes.images import FORMATS, decoded

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

TOGETHER = 64  # pairs whose images are in memory at a time
PLAIN = {"JPEG": "jpg", "MPO": "jpg", "PNG": "png", "WEBP": "webp"}  # what every trainer opens
ORIENTATION = 0x0112  # EXIF's tag


@dataclass(frozen=True)
class Stored:
    """An image as it is written: bytes that any reader decodes to the same pixels as ours."""

    content: bytes
    extension: str

    @staticmethod
    def of(content: bytes) -> "Stored":
        """Return the file as it is where any reader decodes it as we do, else our pixels as PNG.

        A trainer that only converts to RGB would lay a camera's photograph on its side,
        transparency over black, and cut 16 bits off. Raises ImageFault for what is no picture.
        """
        from PIL import Image

        picture = decoded(content)
        with Image.open(io.BytesIO(content), formats=FORMATS) as raw:
            upright = raw.getexif().get(ORIENTATION, 1) == 1
            plain = raw.mode == "RGB" and upright and "transparency" not in raw.info
            if plain and raw.format in PLAIN:
                return Stored(content, PLAIN[raw.format])
        return Stored.png(picture)

    @staticmethod
    def png(picture: "Picture") -> "Stored":
        """Return a picture as PNG."""
        stream = io.BytesIO()
        picture.save(stream, "PNG")
        return Stored(stream.getvalue(), "png")

    @property
    def name(self) -> str:
        """Return a file's name by content, so that an image of many votes is written once."""
        return f"{hashlib.sha256(self.content).hexdigest()[:20]}.{self.extension}"


@dataclass(frozen=True)
class Pair:
    """A strict vote: what was asked, both images, and how much better the chosen one is.

    first: whether the chosen image was image_a. gap, gap_sd: as in `schema.GAPS`. margin: the gap
    over the training split's mean gap, so that a trainer's gamma is the mean margin in logits.
    """

    vote_id: str
    prompt: str
    first: bool
    winner: str
    loser: str
    chosen: Stored
    rejected: Stored
    gap: float
    gap_sd: float
    margin: float


def _put(folder: Path, image: Stored) -> str:
    """Write an image under its name, once; return `images/<name>`."""
    path = folder / "images" / image.name
    path.parent.mkdir(exist_ok=True)
    if not path.exists():
        path.write_bytes(image.content)
    return f"images/{image.name}"


def _write_parquet(path: Path, rows: Iterator[dict[str, Any]]) -> None:
    """Write rows in groups of `TOGETHER`: images make larger groups a burden to every reader."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as open_files:
        writer = None
        while group := list(islice(rows, TOGETHER)):
            table = pa.Table.from_pylist(group, writer.schema if writer else None)
            writer = writer or open_files.enter_context(pq.ParquetWriter(path, table.schema))
            writer.write_table(table)


def _diffusers(folder: Path, out: Path, split: str, pairs: Iterator[Pair]) -> str:
    """Pick-a-Pic's columns in a data set that `datasets.load_dataset` opens by its folder."""

    def row(pair: Pair) -> dict[str, Any]:
        sides = (pair.chosen, pair.rejected) if pair.first else (pair.rejected, pair.chosen)
        models = (pair.winner, pair.loser) if pair.first else (pair.loser, pair.winner)
        return {
            "caption": pair.prompt,
            "jpg_0": sides[0].content,
            "jpg_1": sides[1].content,
            "image_0_uid": sides[0].name,
            "image_1_uid": sides[1].name,
            "label_0": float(pair.first),
            "label_1": float(not pair.first),
            "has_label": True,
            "model_0": models[0],
            "model_1": models[1],
            "vote_id": pair.vote_id,
            **_numbers(pair),
        }

    _write_parquet(folder / "data" / f"{split}-00000-of-00001.parquet", map(row, pairs))
    return (
        f"diffusers: train_diffusion_dpo.py --dataset_name={out} --dataset_split_name=train; "
        "it reads no margin, the column margin has them"
    )


def _flow_factory(folder: Path, out: Path, split: str, pairs: Iterator[Pair]) -> str:
    """One JSON line per pair; the trainer takes `prompt` and keeps the rest as metadata.

    The images must not be called `image` or `images`: those would condition the generation.
    """
    folder.mkdir(exist_ok=True)
    with (folder / f"{split}.jsonl").open("w", encoding="utf-8") as lines:
        for pair in pairs:
            record = {
                "prompt": pair.prompt,
                "chosen": _put(folder, pair.chosen),
                "rejected": _put(folder, pair.rejected),
                "winner": pair.winner,
                "loser": pair.loser,
                "vote_id": pair.vote_id,
                **_numbers(pair),
            }
            lines.write(json.dumps(record, ensure_ascii=False) + "\n")
    return (
        "Flow-Factory's DPO draws and scores its own images: it reads the prompts, and hands pairs "
        "and margins on as metadata only"
    )


def _simpletuner(folder: Path, out: Path, split: str, pairs: Iterator[Pair]) -> str:
    """Two folders of equal file names, captions beside the preferred ones, and their backend.

    Both images of a pair need one size, because the rejected one is cropped as the preferred one.
    """
    from PIL import Image, ImageOps

    place = folder / split
    for side in ("preferred", "rejected"):
        (place / side).mkdir(parents=True)

    def rows() -> Iterator[dict[str, Any]]:
        for k, pair in enumerate(pairs):
            chosen, rejected = pair.chosen, pair.rejected
            better, worse = (decoded(each.content) for each in (chosen, rejected))
            if better.size != worse.size or chosen.extension != rejected.extension:
                worse = ImageOps.fit(worse, better.size, Image.Resampling.LANCZOS)
                chosen, rejected = Stored.png(better), Stored.png(worse)
            name = f"{k:08d}.{chosen.extension}"
            (place / "preferred" / name).write_bytes(chosen.content)
            (place / "rejected" / name).write_bytes(rejected.content)
            caption = (place / "preferred" / name).with_suffix(".txt")
            caption.write_text(pair.prompt, encoding="utf-8")
            named = {"file": name, "vote_id": pair.vote_id, "prompt": pair.prompt}
            models = {"winner": pair.winner, "loser": pair.loser}
            yield named | models | _numbers(pair)

    _write_parquet(place / "pairs.parquet", rows())
    where = out.resolve() / split
    caches = {each: str(where / "cache" / each) for each in ("preferred", "rejected", "text")}
    local = {"type": "local"}
    backend = [
        {"id": "preferred", "dataset_type": "image", **local}
        | {"instance_data_dir": str(where / "preferred"), "cache_dir_vae": caches["preferred"]}
        | {"caption_strategy": "textfile", "disable_multiline_split": True}
        | {"conditioning_data": ["rejected"]},
        {"id": "rejected", "dataset_type": "conditioning", **local}
        | {"conditioning_type": "reference_strict", "source_dataset_id": "preferred"}
        | {"instance_data_dir": str(where / "rejected"), "cache_dir_vae": caches["rejected"]},
        {"id": "text", "dataset_type": "text_embeds", "default": True, **local}
        | {"cache_dir": caches["text"]},
    ]
    (place / "multidatabackend.json").write_text(json.dumps(backend, indent=2), encoding="utf-8")
    return (
        f"SimpleTuner: data_backend_config {out / 'train' / 'multidatabackend.json'}, "
        "distillation_method flow_dpo, model_type lora; it reads no margin, pairs.parquet has them"
    )


def _verl_omni(folder: Path, out: Path, split: str, pairs: Iterator[Pair]) -> str:
    """One row per pair, image paths relative to the parquet; win_score - lose_score is the gap.

    The prompt is plain text: a list of chat messages comes out of a parquet as an array, which the
    loader no longer takes for messages.
    """
    folder.mkdir(exist_ok=True)

    def row(index: int, pair: Pair) -> dict[str, Any]:
        return {
            "data_source": "offline_dpo",
            "uid": pair.vote_id,
            "prompt": pair.prompt,
            "img_win": _put(folder, pair.chosen),
            "img_lose": _put(folder, pair.rejected),
            "win_score": max(pair.gap, 0.0),  # below lose_score the row would be refused
            "lose_score": 0.0,
            "reward_model": {"style": "model", "ground_truth": pair.prompt},
            "extra_info": {
                "split": split,
                "index": index,
                "raw_prompt": pair.prompt,
                **_numbers(pair),
            },
        }

    rows = (row(index, pair) for index, pair in enumerate(pairs))
    _write_parquet(folder / f"{split}.parquet", rows)
    return (
        "verl-omni's loader also needs five tensors that its base model makes: img_win_latents, "
        "img_lose_latents, prompt_embeds, prompt_embeds_mask, pooled_prompt_embeds"
    )


def _numbers(pair: Pair) -> dict[str, float]:
    return {"gap": pair.gap, "gap_sd": pair.gap_sd, "margin": pair.margin}


# Each writes one split's pairs into a folder that will be called `out`, and says what comes next.
LAYOUTS: dict[str, Callable[[Path, Path, str, Iterator[Pair]], str]] = {
    "diffusers": _diffusers,
    "flow-factory": _flow_factory,
    "simpletuner": _simpletuner,
    "verl-omni": _verl_omni,
}
