"""The images that votes name: which are there, which can be trained on, and whether they changed.

Missing images are content like others: when they come, this table changes and the chain goes on.
An image is decoded once for each content that it has had.
"""

from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl

from arena.votes.images import Images, shards
from assets.brought import images_of
from assets.content import combined_hash, file_hash, frame_version
from assets.lake import Lake
from assets.lineage import SUCH_AS
from assets.pictures import markdown
from assets.stage import Chain
from assets.study import Study
from assets.tables import described
from assets.tracking import tracked

# size and written tell quickly whether a file changed; they are no content.
SCHEMA = {
    "image": pl.String,
    "content": pl.String,
    "fault": pl.String,
    "path": pl.String,
    "size": pl.Int64,
    "written": pl.Int64,
}
CONTENT = ("image", "content", "fault")


def images_stage(study: Study, chain: Chain) -> list[Any]:
    """Return the asset `images` and its check."""
    lake, stage = Lake(study.lake), chain["images"]

    @stage.asset(
        study,
        group_name="arena",
        kinds={"parquet"},
        description="Every image that a vote names, by content, with what is wrong with it.",
    )
    def images(context: dg.AssetExecutionContext) -> "dg.MaterializeResult[Any]":
        with tracked(study, chain, context, study.training_set.model_dump()) as run:
            found = look(study, lake)
            lake.write("images", found)
            broken = found.drop_nulls("fault").select("image", "fault")
            summary = {"images": found.height, "unusable": broken.height}
            run.metrics(summary)
            return run.result(
                frame_version(found.select(CONTENT)),
                {
                    **summary,
                    **described(lake, "images"),
                    "unusable_such_as": dg.MetadataValue.md(markdown(broken.head(10))),
                },
            )

    @stage.check(study, "every_image_can_be_used")
    def every_image_can_be_used() -> dg.AssetCheckResult:
        """Every image that a vote names is there and can be decoded."""
        found = lake.read("images", "image", "fault")
        broken = found.drop_nulls("fault")
        said = [f"{row[0]}: {row[1]}" for row in broken.head(3).iter_rows()]
        return dg.AssetCheckResult(
            passed=broken.is_empty(),
            severity=dg.AssetCheckSeverity.WARN,
            description=f"{broken.height} of {found.height} cannot be used: no training on them"
            if said
            else None,
            metadata={
                "images": found.height,
                "unusable": broken.height,
                SUCH_AS: "; ".join(said) or "none",
            },
        )

    return [images, every_image_can_be_used]


def look(study: Study, lake: Lake) -> pl.DataFrame:
    """Return the table of all images as they are now; what was decoded before is not again."""
    votes = lake.read("votes", "image_a", "image_b")
    names = pl.concat([votes["image_a"], votes["image_b"]]).drop_nulls().unique().sort().to_list()
    before = {row["image"]: row for row in _before(lake).iter_rows(named=True)}
    if study.votes.images:  # one file or folder holds them all
        one = state(study, "")
        rows = [one | {"image": name} for name in names]
    else:
        rows = [state(study, name) for name in names]
    changed = [
        row
        for row in rows
        if (old := before.get(row["image"])) is None
        or old["content"] != row["content"]
        or (not row["content"] and old["fault"])
    ]
    found = decoded(study, [row["image"] for row in changed])
    asked = {row["image"] for row in changed}
    for row in rows:
        name = row["image"]
        row["fault"] = found.get(name) if name in asked else before[name]["fault"]
    return pl.DataFrame(rows, schema=SCHEMA)


def state(study: Study, name: str) -> dict[str, Any]:
    """Return an image's row as the disk tells it; content "" where no file of it lies here."""
    path = images_of(study) or as_path(study.path.parent, name)
    row = {"image": name, "content": "", "path": None, "size": None, "written": None, "fault": None}
    if path is None:
        return row
    size, written = _stat(path)
    return row | {"content": _hash(path), "path": str(path), "size": size, "written": written}


def _stat(path: Path) -> tuple[int, int]:
    """Return bytes and the last time of writing of a file, or of a folder's shards together."""
    stats = [each.stat() for each in shards(path)]
    return sum(s.st_size for s in stats), max((s.st_mtime_ns for s in stats), default=0)


def _hash(path: Path) -> str:
    """Return a hash of a file, or of a folder's shards together."""
    if path.is_file():
        return file_hash(path)
    return combined_hash(*(f"{each.name} {file_hash(each)}" for each in shards(path)))


def decoded(study: Study, names: list[str]) -> dict[str, str]:
    """Return what is wrong with each of these images that cannot be trained on."""
    if not (names and study.training_set.check_images):
        return {}
    network = study.training_set.network
    if images := images_of(study):
        return Images([images], network=network).faults(names)
    # The votes tell a path from the study's folder, where the training job works too.
    whole = {str(as_path(study.path.parent, name) or name): name for name in names}
    found = Images(network=network).faults(whole)
    return {whole[path]: said for path, said in found.items()}


def changed_on_disk(study: Study, lake: Lake) -> str | None:
    """Say how many images changed, came or went since the table was made; None where none did."""
    if not lake.table("images").exists():
        return None
    images_of(study)  # brings what is new
    changed = came = 0
    seen: dict[str, bool] = {}
    for row in lake.read("images").iter_rows(named=True):
        if row["path"] is None:
            came += as_path(study.path.parent, row["image"]) is not None
        elif row["path"] not in seen:
            seen[row["path"]] = moved = _moved(row)
            changed += moved
    counts = {"changed": changed, "came": came}
    return ", ".join(f"{n} images {what}" for what, n in counts.items() if n) or None


def _moved(row: dict[str, Any]) -> bool:
    try:
        state = _stat(Path(row["path"]))
    except OSError:
        return True
    return state != (row["size"], row["written"]) and _hash(Path(row["path"])) != row["content"]


def _before(lake: Lake) -> pl.DataFrame:
    return lake.read("images") if lake.table("images").exists() else pl.DataFrame(schema=SCHEMA)


def as_path(folder: Path, name: str) -> Path | None:
    """Return the file that an image's name stands for, told from `folder`; None where none is."""
    try:
        path = folder / name.partition("::")[0]
        return path if path.is_file() else None
    except (OSError, ValueError):  # a URL or a text too long to be a path
        return None
