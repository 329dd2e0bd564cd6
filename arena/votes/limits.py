"""How much of a stranger's file is read: beyond each limit one sentence names file and limit.

Bytes, rows, unpacking, columns, models and images of one vote are bounded for votes files; bytes,
pixels, seconds and redirects for images. What is within them takes time and memory in proportion.
"""

# Votes files.
MOST_EXPANSION = 100  # text packs by ten to thirty; what unpacks a hundredfold is a bomb,
UNSUSPECTED = 1 << 25  # except below this many bytes
MOST_ROWS_PER_BYTE, UNSUSPECTED_ROWS = 100, 1 << 22  # of parquet and Arrow, which pack equal rows
MOST_COLUMNS = 10_000
MOST_MODELS = 10_000  # different names in all files together
LONGEST_NAME = 500  # bytes of a model's name: a longer one had its quotes wrong
MOST_RANKED = 100  # images in one K-wise vote; their pairs are 4,950
MOST_VOTES = 10**9  # in one row; more is a mistake, or somebody's wish
MOST_TEXT = 1 << 20  # bytes of a tar's text member: a larger one is no caption and no label

# Images.
MOST_BYTES = 1 << 26
MOST_PIXELS = 1 << 26  # 8192 x 8192
SECONDS = 20  # for one request from its connection to its last byte
REDIRECTS = 3
