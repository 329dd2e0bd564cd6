"""Images side by side: pasted with Pillow, captions above, small texts under each.

Small images are enlarged by whole factors without smoothing, so that every pixel is seen.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib import get_data_path
from PIL import Image, ImageDraw, ImageFont

INK, GREY, WORSE = "#22303c", "#6c757d", "#e07a5f"


@dataclass(frozen=True)
class Column:
    """One column of a grid: its caption, an image file a policy, and a small text under each."""

    caption: str
    images: Sequence[Path]
    notes: Sequence[str] = ()


def font(size: int) -> ImageFont.FreeTypeFont:
    """A typeface that has most scripts' letters, wherever matplotlib is."""
    return ImageFont.truetype(Path(get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf", size)


def fit(image: Image.Image, side: int) -> Image.Image:
    """Bring an image to fit a square: enlarged by a whole factor unsmoothed, or reduced."""
    longest = max(image.size)
    if longest <= side:
        factor = side // longest
        size = (image.width * factor, image.height * factor)
        return image.resize(size, Image.Resampling.NEAREST)
    scale = side / longest
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.resize(size, Image.Resampling.LANCZOS)


def wrap(text: str, width: int, lines: int, face: ImageFont.FreeTypeFont) -> list[str]:
    """Break a text at spaces into lines of at most `width` pixels; what is too long is cut."""
    broken: list[str] = [""]
    for word in text.split():
        longer = f"{broken[-1]} {word}".strip()
        if face.getlength(longer) > width and broken[-1]:
            broken.append(word)
        else:
            broken[-1] = longer
    if len(broken) > lines:
        broken[lines - 1 :] = [" ".join(broken[lines - 1 :])]
    return [cut(line, width, face) for line in broken]


def cut(text: str, width: int, face: ImageFont.FreeTypeFont) -> str:
    """The beginning of a text that fits into `width` pixels."""
    if face.getlength(text) <= width:
        return text
    while text and face.getlength(f"{text}…") > width:
        text = text[:-1]
    return f"{text}…"


def readable(path: Path) -> bool:
    """Whether a file is an image."""
    try:
        with Image.open(path) as image:
            image.verify()
    except (OSError, SyntaxError):
        return False
    return True


def draw_grid(policies: Sequence[str], columns: Sequence[Column], side: int = 96) -> Image.Image:
    """Paste images: a row a policy, a column a prompt; a missing image is a crossed field."""
    face, small = font(13), font(11)
    gap = 8
    left = 2 * gap + max(60, min(140, max(int(face.getlength(name)) + 1 for name in policies)))
    captions = [wrap(column.caption, side, 4, small) for column in columns]
    top = gap + 14 * max(len(lines) for lines in captions) + 4
    height = side + gap + (16 if any(column.notes for column in columns) else 0)
    size = (left + len(columns) * (side + gap), top + height * len(policies))
    canvas = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(canvas)
    for row, name in enumerate(policies):
        y = top + row * height + side // 2 - 8
        draw.text((gap, y), cut(name, left - 2 * gap, face), font=face, fill=INK)
    for i, (column, lines) in enumerate(zip(columns, captions, strict=True)):
        x = left + i * (side + gap)
        for number, line in enumerate(lines):
            draw.text((x, gap + 14 * number), line, font=small, fill=GREY)
        for row, path in enumerate(column.images):
            y = top + row * height
            try:
                with Image.open(path) as image:
                    canvas.paste(fit(image.convert("RGB"), side), (x, y))
            except OSError:
                box = (x, y, x + side - 1, y + side - 1)
                draw.rectangle(box, outline=WORSE)
                draw.line(box, fill=WORSE)
            if column.notes:
                draw.text((x, y + side + 1), column.notes[row], font=small, fill=INK)
    return canvas


def encode_small(canvas: Image.Image, limit: int | None) -> bytes:
    """Encode as PNG; limit: at most so many bytes, by fewer colours, then by fewer pixels."""
    for colours in (None, 128, 48, 24) if limit else (None,):
        sink = io.BytesIO()
        picture = canvas if colours is None else canvas.quantize(colours, dither=Image.Dither.NONE)
        picture.save(sink, format="PNG", optimize=True)
        if limit is None or sink.tell() <= limit:
            return sink.getvalue()
    size = (max(1, int(canvas.width * 0.8)), max(1, int(canvas.height * 0.8)))
    return encode_small(canvas.resize(size, Image.Resampling.LANCZOS), limit)
