"""What compressed Arrow says that it unpacks to, before anything of it is unpacked.

Every compressed buffer of a record batch begins with its length unpacked (8 bytes, little endian;
-1 where it was left as it is), and Arrow takes that much memory at once. Where the buffers lie is
in the message's metadata, a flatbuffer that pyarrow checks and does not show; so these few fields
of format/Message.fbs and format/File.fbs are read here:
https://arrow.apache.org/docs/format/Columnar.html#serialization-and-interprocess-communication-ipc
"""

from collections.abc import Iterator
from struct import unpack_from

import numpy as np
import pyarrow as pa

# Places of fields in the tables Message, DictionaryBatch, RecordBatch and Footer.
HEADER, OF_DICTIONARY, BUFFERS, COMPRESSION, DICTIONARIES, BATCHES = 2, 1, 2, 3, 2, 3
BLOCK = np.dtype([("offset", "<i8"), ("metadata", "<i4"), ("pad", "<i4"), ("body", "<i8")])
END = 10  # bytes: the footer's length and the magic word


def stated_size(stream: pa.NativeFile, whole: bool) -> int:
    """Return how many bytes all compressed buffers say that they unpack to.

    stream: at its beginning. whole: a file with a footer, which pyarrow has opened before and so
    found in order; else a stream of messages.
    """
    found = _of_file(stream) if whole else iter(pa.ipc.MessageReader.open_stream(stream))
    return sum(map(_of_message, found))


def _of_file(stream: pa.NativeFile) -> Iterator[pa.ipc.Message]:
    """Yield the messages that a file's footer names: no other ones are read later."""
    end = stream.size() - END
    stream.seek(end)
    (size,) = unpack_from("<i", stream.read(4))
    stream.seek(end - size)
    footer = memoryview(stream.read(size))
    for field in (DICTIONARIES, BATCHES):
        if _place(footer, _follow(footer, 0), field):
            blocks = _table(footer, _follow(footer, 0), field)
            (count,) = unpack_from("<I", footer, blocks)
            for block in np.frombuffer(footer, BLOCK, count, blocks + 4):
                stream.seek(int(block["offset"]))
                yield pa.ipc.read_message(stream)


def _of_message(message: pa.ipc.Message) -> int:
    if message.type not in ("record batch", "dictionary") or message.body is None:
        return 0
    about, body = memoryview(message.metadata), memoryview(message.body)
    batch = _table(about, _follow(about, 0), HEADER)
    if message.type == "dictionary":
        batch = _table(about, batch, OF_DICTIONARY)
    if not _place(about, batch, COMPRESSION) or not _place(about, batch, BUFFERS):
        return 0
    places = _table(about, batch, BUFFERS)
    (count,) = unpack_from("<I", about, places)
    starts, sizes = np.frombuffer(about, "<i8", 2 * count, places + 4).reshape(-1, 2).T.tolist()
    lengths = (
        unpack_from("<q", body, start)[0]
        for start, size in zip(starts, sizes, strict=True)
        if size >= 8 and 0 <= start <= len(body) - 8
    )
    return sum(max(length, 0) for length in lengths)


def _table(about: memoryview, table: int, field: int) -> int:
    return _follow(about, _place(about, table, field))


def _place(about: memoryview, table: int, field: int) -> int:
    """Return where a table's field lies, 0 where the table leaves it out."""
    entries = table - unpack_from("<i", about, table)[0]
    (size,) = unpack_from("<H", about, entries)
    slot = 4 + 2 * field
    step = unpack_from("<H", about, entries + slot)[0] if slot < size else 0
    return table + step if step else 0


def _follow(about: memoryview, place: int) -> int:
    return int(place + unpack_from("<I", about, place)[0])
