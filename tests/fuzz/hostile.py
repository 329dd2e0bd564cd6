"""Files as strangers may send them: whole ones of every kind, and ways to spoil them.

seeds("votes")          # (name, content) of whole files
spoiled(kind, number)   # the same name and content for the same number, on every machine
"""

import bz2
import gzip
import io
import json
import lzma
import random
import tarfile
import zipfile
from collections.abc import Iterator
from functools import cache

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

VOTE = {
    "vote_id": "v1", "model_a": "flux", "model_b": "sdxl", "outcome": "a", "prompt": "a cat",
    "image_a": "1.png", "image_b": "2.png", "rater": "anna", "created_at": "2026-01-01T00:00:00Z",
    "votes_a": 3, "votes_b": 1,
}  # fmt: skip
RANKING = {"vote_id": "k", "prompt": "p", "models": ["a", "b", "c"], "ranks": [1, 2, 2]}
LOG = {
    "type": "leftvote", "tstamp": 1.5, "models": ["x", "y"],
    "states": [{"model_name": "x"}, {"model_name": "y"}],
}  # fmt: skip
HPD = {"path1": "1", "path2": "2", "model1": "x", "model2": "y", "choice_dist": [3, 1]}
PICKAPIC = {
    "caption": "a cat", "model_0": "x", "model_1": "y", "label_0": 1.0, "label_1": 0.0,
    "has_label": True, "user_id": 7, "jpg_0": b"\xff\xd8\xff", "jpg_1": b"\xff\xd8\xff",
}  # fmt: skip
WORDS = [
    b"", b"NaN", b"-1", b"1e999", b"999999999999999999999", b"\xff\xfe", b"\x00", b"null", b"[[[[",
    b'{"a":', b"../../etc/passwd", b"/dev/zero", b"http://127.0.0.1/", b"\xed\xa0\x80", b'"', b"'",
    b"\r\n", b"\xe2\x80\xa8", b"=cmd()", b"<svg onload=x>", b"\x1b[2J", b"9" * 400,
]  # fmt: skip
NUMBERS = [2**n - k for n in (0, 7, 8, 15, 16, 31, 32, 63, 64) for k in (0, 1)]
LARGEST = 1 << 20


def spoiled(kind: str, number: int) -> tuple[str, bytes]:
    """Return the name and the content of a spoiled file."""
    draw = random.Random(f"{kind} {number}")
    whole = seeds(kind)
    name, content = draw.choice(whole)
    for _ in range(draw.choice([1, 1, 1, 2, 4, 8])):
        content = draw.choice(WAYS)(draw, content, draw.choice(whole)[1])
    return name, content[:LARGEST]


def flip(draw: random.Random, content: bytes, _: bytes) -> bytes:
    made = bytearray(content)
    for _ in range(draw.randint(1, 8) if made else 0):
        made[draw.randrange(len(made))] ^= 1 << draw.randrange(8)
    return bytes(made)


def cut(draw: random.Random, content: bytes, _: bytes) -> bytes:
    return content[: draw.randint(0, len(content))]


def drop(draw: random.Random, content: bytes, _: bytes) -> bytes:
    start, end = sorted(draw.randint(0, len(content)) for _ in range(2))
    return content[:start] + content[min(end, start + 64) :]


def repeat(draw: random.Random, content: bytes, _: bytes) -> bytes:
    start, end = sorted(draw.randint(0, len(content)) for _ in range(2))
    return content[:end] + content[start:end] * draw.choice([1, 2, 64]) + content[end:]


def insert(draw: random.Random, content: bytes, _: bytes) -> bytes:
    place = draw.randint(0, len(content))
    return content[:place] + draw.choice(WORDS) * draw.choice([1, 1, 50]) + content[place:]


def number(draw: random.Random, content: bytes, _: bytes) -> bytes:
    size, order = draw.choice([1, 2, 4, 8]), draw.choice(["little", "big"])
    value = draw.choice(NUMBERS) % 256**size
    place = draw.randint(0, max(len(content) - size, 0))
    return content[:place] + value.to_bytes(size, order) + content[place + size :]


def splice(draw: random.Random, content: bytes, other: bytes) -> bytes:
    return content[: draw.randint(0, len(content))] + other[draw.randint(0, len(other)) :]


def retype(draw: random.Random, content: bytes, _: bytes) -> bytes:
    """Put a nasty word in the place of a value between two separators."""
    places = [k for k, byte in enumerate(content[:20_000]) if byte in b',:[{\n"']
    if len(places) < 2:
        return content + draw.choice(WORDS)
    k = draw.randrange(len(places) - 1)
    return content[: places[k] + 1] + draw.choice(WORDS) + content[places[k + 1] :]


WAYS = [flip, cut, drop, repeat, insert, number, splice, retype]


@cache
def seeds(kind: str) -> list[tuple[str, bytes]]:
    """Return whole files of a kind: each can be read as it is."""
    return list(KINDS[kind]())


def tables(rows: list[dict], stem: str) -> Iterator[tuple[str, bytes]]:
    """Yield rows as csv, jsonl, json, parquet and Arrow."""
    flat = [{k: v for k, v in row.items() if not isinstance(v, bytes)} for row in rows]
    lines = "".join(json.dumps(row) + "\n" for row in flat)
    yield f"{stem}.jsonl", lines.encode()
    yield f"{stem}.json", json.dumps(flat).encode()
    cells = [",".join(str(v).replace(",", ";") for v in row.values()) for row in flat]
    yield f"{stem}.csv", "\n".join([",".join(flat[0]), *cells]).encode()
    table = pa.Table.from_pylist(rows)
    for codec in ("none", "snappy", "zstd"):
        stream = io.BytesIO()
        pq.write_table(table, stream, compression=codec)
        yield f"{stem}.parquet", stream.getvalue()
    for codec in (None, "lz4", "zstd"):
        for new in (pa.ipc.new_file, pa.ipc.new_stream):
            sink = io.BytesIO()
            with new(sink, table.schema, options=pa.ipc.IpcWriteOptions(compression=codec)) as out:
                out.write_table(table)
            yield f"{stem}.arrow", sink.getvalue()


def in_tar(members: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for name, content in members.items():
            about = tarfile.TarInfo(name)
            about.size = len(content)
            tar.addfile(about, io.BytesIO(content))
    return stream.getvalue()


def of_votes() -> Iterator[tuple[str, bytes]]:
    for rows in ([VOTE | {"vote_id": f"v{k}"} for k in range(5)], [HPD] * 2, [PICKAPIC] * 2):
        yield from tables(rows, "votes")
    for row in (RANKING, LOG):
        yield "votes.jsonl", (json.dumps(row) + "\n").encode() * 3
    lines = (json.dumps(VOTE) + "\n").encode() * 20
    yield "votes.jsonl.gz", gzip.compress(lines)
    yield "votes.jsonl.bz2", bz2.compress(lines)
    yield "votes.jsonl.xz", lzma.compress(lines)
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(lines)
    yield "votes.jsonl.zst", sink.getvalue().to_pybytes()
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("votes.jsonl", lines)
    yield "votes.zip", packed.getvalue()
    sample = {"caption": "a cat", "label_0": 1, "label_1": 0, "model_0": "x", "model_1": "y"}
    members = {f"1.{key}": str(value).encode() for key, value in sample.items()}
    yield "votes.tar", in_tar(members | {"1.jpg_0": b"\xff\xd8\xff", "1.jpg_1": b"\xff\xd8\xff"})


def pictures() -> dict[str, bytes]:
    made = {}
    pixels = np.arange(24 * 16 * 3, dtype=np.uint8).reshape(16, 24, 3)
    for name, how in {
        "png": {}, "jpeg": {}, "webp": {}, "gif": {}, "bmp": {}, "ppm": {}, "avif": {},
        "tiff": {"compression": "tiff_lzw"}, "jp2": {"format": "JPEG2000"},
    }.items():  # fmt: skip
        stream = io.BytesIO()
        Image.fromarray(pixels).save(stream, **{"format": name.upper(), **how})
        made[f"1.{name}"] = stream.getvalue()
    stream = io.BytesIO()
    Image.fromarray(pixels).convert("P").save(stream, "PNG", transparency=3, interlace=1)
    return made | {"2.png": stream.getvalue()}


def of_images() -> Iterator[tuple[str, bytes]]:
    made = pictures()
    yield from made.items()
    yield "images.tar", in_tar(made)
    ids = [name.partition(".")[0] + name for name in made]
    stream = io.BytesIO()
    pq.write_table(pa.table({"image": ids, "bytes": list(made.values())}), stream)
    yield "images.parquet", stream.getvalue()
    stream = io.BytesIO()
    pq.write_table(
        pa.Table.from_pylist([PICKAPIC | {"image_0_uid": "a", "image_1_uid": "b"}]), stream
    )
    yield "images.parquet", stream.getvalue()


def of_weights() -> Iterator[tuple[str, bytes]]:
    import torch
    from safetensors.torch import save

    tensors = {"up.weight": torch.ones(4, 3), "down": torch.zeros(5, dtype=torch.bfloat16)}
    yield "weights.safetensors", save(tensors)
    yield "weights.safetensors", save(tensors, {"format": "pt"})
    for legacy in (False, True):
        stream = io.BytesIO()
        torch.save(tensors, stream, _use_new_zipfile_serialization=not legacy)
        yield "weights.pt", stream.getvalue()


def of_prompts() -> Iterator[tuple[str, bytes]]:
    rows = [{"prompt_id": str(k), "prompt": f"a cat {k}", "category": "x"} for k in range(4)]
    yield from (one for one in tables(rows, "prompts") if not one[0].endswith(".arrow"))
    yield "prompts.tsv", b"Prompt\tCategory\na cat\tx\na dog\ty\n"
    yield "prompts.txt", b"a cat\na dog\n"
    yield "prompts.json", json.dumps(["a cat", "a dog"]).encode()


def of_ratings() -> Iterator[tuple[str, bytes]]:
    rows = [{"model": f"m{k}", "mu": 20.0 + k, "sigma": 1.5} for k in range(5)]
    yield from (one for one in tables(rows, "ratings") if not one[0].endswith(".arrow"))
    arena = [{"model_name": "x", "rating": 1200.0, "rating_lower": 1190.0, "rating_upper": 1210.0}]
    yield from (one for one in tables(arena * 1, "ratings") if not one[0].endswith(".arrow"))


KINDS = {
    "votes": of_votes,
    "images": of_images,
    "weights": of_weights,
    "prompts": of_prompts,
    "ratings": of_ratings,
}
