"""What can be voted about: images of the arena's votes and of the policies, under opaque ids.

The newest version of each policy is a model of its own, and so is the champion's: `arenapo@3`, by
the version in MLflow, as the pipeline wrote it beside the images. A generated image is copied
beside the votes before it is shown, because the pipeline deletes the images of a version when the
next one has drawn its own.
"""

import hashlib
import hmac
import io
from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock

import polars as pl

from arena.atomic import replacing
from arena.ratings.table import Ratings
from arena.ratings.trueskill import TrueSkill
from arena.schema import UNNAMED
from arena.votes.images import Images
from arena.votes.read import read_votes
from arena.votes.sources import present
from voting.study import Study

# Of a larger arena a random part is asked about: every item is held in memory.
MOST_PROMPTS = 20_000
MOST_SIDE = 2048  # pixels; larger images are shown smaller
MOST_PICTURES = 256  # held in memory, ready to send


@dataclass(frozen=True)
class Item:
    """One image that can be shown. image: its name as `Images` reads it."""

    id: str
    prompt: str
    prompt_id: str | None
    model: str
    image: str
    generated: bool = False


@dataclass(frozen=True)
class Catalogue:
    """All that can be voted about now.

    items: by opaque id. policies: the names of the policies' newest versions, and the champion's.
    standing: the champion's, else that of the study's baseline, if it has drawn. ratings: of the
    models, as the lake has them. counts: how many votes there are about a prompt. rated: ids of the
    votes that these numbers know.
    """

    items: dict[str, Item]
    policies: set[str]
    standing: str | None
    ratings: Ratings
    counts: dict[str, int]
    rated: set[str] = field(default_factory=set)


def open_catalogue(study: Study, secret: bytes) -> Catalogue:
    """Read what can be voted about. Raises ValueError where there is nothing."""
    votes = arena_votes(study)
    items: dict[str, Item] = {}

    def add(generated: bool, prompt: str, prompt_id: str | None, model: str, image: str) -> None:
        told = "\0".join((prompt, model, image)).encode()
        name = hmac.new(secret, told, hashlib.sha256).hexdigest()[:32]
        items[name] = Item(name, prompt, prompt_id, model, image, generated)

    newest, champion = generations(study), champion_of(study)
    policy = pl.col("model").str.extract(r"^(.+)@[0-9a-f]+$")
    old = policy.is_in(study.policies).fill_null(False) & pl.col("model").ne_missing(champion)
    of_arena = ~old & (pl.col("model") != UNNAMED)
    sides = (
        votes.select("prompt", "prompt_id", model=f"model_{side}", image=f"image_{side}")
        for side in "ab"
    )
    shown = pl.concat(sides).drop_nulls(["prompt", "image"]).filter(of_arena)
    prompts = shown["prompt"].unique().sort()
    if len(prompts) > MOST_PROMPTS:
        shown = shown.filter(pl.col("prompt").is_in(prompts.sample(MOST_PROMPTS, seed=0).implode()))
    for row in shown.unique(["prompt", "model", "image"], maintain_order=True).iter_rows():
        add(False, *row)
    for table in newest.values():
        for row in table.select("prompt", "prompt_id", "model", "image").iter_rows():
            add(True, *row)
    if not items:
        raise ValueError(
            f"{study.name}: there is no image to vote about: no vote names a prompt and images, "
            "and no policy has drawn; run `python -m pipelines run STUDY.toml` first"
        )
    policies = {str(table["model"][0]) for table in newest.values()}
    base = newest.get(study.baseline or "")
    standing = None if base is None else base["model"][0]
    if champion is not None and any(item.model == champion for item in items.values()):
        standing = champion
        policies.add(champion)
    return Catalogue(
        items=items,
        policies=policies,
        standing=standing,
        ratings=ratings_of(study, votes),
        counts=dict(votes["prompt"].drop_nulls().value_counts().iter_rows()),
        rated={*votes["vote_id"].drop_nulls(), *votes["ranking"].drop_nulls()},
    )


def arena_votes(study: Study) -> pl.DataFrame:
    """Return the lake's votes, or those of the sources where no intake was made yet."""
    table = study.lake / "votes" / "votes.parquet"
    if table.exists():
        return pl.read_parquet(table)
    votes = read_votes(present(study.sources), study.options).votes
    return votes.filter(~pl.col("rater").is_in([*study.without]).fill_null(False))


def ratings_of(study: Study, votes: pl.DataFrame) -> Ratings:
    """Return the lake's ratings, or TrueSkill's of these votes where none were made yet."""
    path = study.lake / "ratings" / "ratings.parquet"
    return Ratings.read(path) if path.exists() else TrueSkill().fit(votes)


def champion_of(study: Study) -> str | None:
    """Return what votes call the champion, None where there is none."""
    table = study.lake / "champion" / "champion.parquet"
    names = pl.read_parquet(table)["model"].to_list() if table.exists() else []
    return names[0] if names else None


def images_of(study: Study, policy: str) -> Path:
    """Return the table of the images that a policy drew last; absent where it drew none."""
    folder = study.lake / "generations" / policy
    pointer = folder / "current"
    version = pointer.read_text().strip() if pointer.is_file() else "nothing"
    return folder / version / "images.parquet"


def generations(study: Study) -> dict[str, pl.DataFrame]:
    """Return (prompt, prompt_id, model, image) of every policy that has drawn, by policy."""
    found = {}
    for policy in study.policies:
        table = images_of(study, policy)
        called = table.with_name("model.txt")
        if called.exists():
            found[policy] = pl.read_parquet(table).select(
                "prompt",
                "prompt_id",
                model=pl.lit(called.read_text()),
                image=pl.lit(f"{table.parent}/") + pl.col("image"),
            )
    return found


class Pictures:
    """The catalogue's images as a browser gets them, from any thread.

    Each is decoded by the house's reader and encoded anew as PNG, so neither metadata nor the
    container tells which model an image is of.
    """

    def __init__(self, reader: Images):
        self.reader = reader
        self.copies: dict[str, str] = {}  # a generated image's id -> where its copy lies
        self._lock = Lock()
        self._kept: OrderedDict[str, bytes] = OrderedDict()

    def png(self, item: Item) -> bytes:
        """Return an image, at most MOST_SIDE pixels a side. Raises ImageFault where it is none."""
        with self._lock:
            if item.id in self._kept:
                self._kept.move_to_end(item.id)
                return self._kept[item.id]
        picture = self.reader.read(item.image)
        picture.thumbnail((MOST_SIDE, MOST_SIDE))
        picture.info.clear()
        buffer = io.BytesIO()
        picture.save(buffer, "PNG", compress_level=1)
        with self._lock:
            self._kept[item.id] = buffer.getvalue()
            while len(self._kept) > MOST_PICTURES:
                self._kept.popitem(last=False)
        return buffer.getvalue()

    def keep(self, item: Item, folder: Path) -> None:
        """Copy a generated image into a folder, named by its content: its own may be deleted."""
        if item.id not in self.copies:
            content = self.reader.content(item.image)
            path = folder / f"{hashlib.sha256(content).hexdigest()[:32]}.png"
            if not path.exists():
                with replacing(path) as aside:
                    aside.write_bytes(content)
            self.copies[item.id] = str(path)
