"""Where a store is: its URL, the file system behind it, and what it says when it fails."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

from pyarrow import fs

TRIES = 3
REASONS = {
    "NETWORK_CONNECTION": "it cannot be reached; check its address and that it runs",
    "NO_SUCH_BUCKET": "there is no such bucket; make it, or correct the URL",
    "ACCESS_DENIED": "the key may not do this; check AWS_ACCESS_KEY_ID and its permissions",
    "INVALID_ACCESS_KEY_ID": "the key is unknown; check AWS_ACCESS_KEY_ID",
    "SIGNATURE_DOES_NOT_MATCH": "the key is wrong; check AWS_SECRET_ACCESS_KEY",
    "INVALID_SIGNATURE": "the key is wrong; check AWS_SECRET_ACCESS_KEY",
    "EXPIRED_TOKEN": "the key has expired; renew it",
}


class StoreError(OSError):
    """The store could not be read or written."""


def checked(url: str) -> str:
    """Return a URL that can be a store; raise ValueError for any other one."""
    parts = urlsplit(url)
    if parts.scheme not in ("s3", "gs") or not parts.netloc:
        raise ValueError("needs s3://BUCKET/PREFIX or gs://BUCKET/PREFIX, or a folder")
    if parts.username or parts.password:
        raise ValueError("holds a key, which belongs into AWS_SECRET_ACCESS_KEY")
    if unknown := set(dict(parse_qsl(parts.query))) - {"endpoint_override", "region"}:
        raise ValueError(f"knows the options endpoint_override and region, not {min(unknown)}")
    return url


@cache
def opened(url: str) -> tuple[fs.FileSystem, str]:
    """Return the file system of a URL and the path in it.

    Endpoint, region and keys are the environment's (AWS_...), the first two also the URL's query:
    `s3://bucket/lake?endpoint_override=http://host:9000&region=eu-west-1`.
    """
    parts = urlsplit(url)
    if parts.scheme != "s3":
        return fs.FileSystem.from_uri(url)
    said = dict(parse_qsl(parts.query))
    endpoint = said.get("endpoint_override") or os.environ.get(
        "AWS_ENDPOINT_URL_S3", os.environ.get("AWS_ENDPOINT_URL")
    )
    region = said.get("region") or os.environ.get(
        "AWS_REGION", os.environ.get("AWS_DEFAULT_REGION")
    )
    if region is None:
        with saying(url):
            region = "us-east-1" if endpoint else fs.resolve_s3_region(parts.netloc)
    system = fs.S3FileSystem(
        endpoint_override=endpoint,
        region=region,
        connect_timeout=5,
        request_timeout=60,
        retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=TRIES),
        allow_delayed_open=True,  # a small object is one request
    )
    return system, (parts.netloc + parts.path).rstrip("/")


def shown(place: Path | str) -> str:
    """Return a folder or a URL as people may see it: no key, no query."""
    if not isinstance(place, str) or "://" not in place:
        return str(place)
    parts = urlsplit(place)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}".rstrip("/")


@contextmanager
def saying(place: Path | str) -> Iterator[None]:
    """Turn what the store raises into one sentence."""
    try:
        yield
    except (StoreError, FileNotFoundError):
        raise
    except OSError as error:
        said = (str(error).strip().splitlines() or [type(error).__name__])[0]
        found = re.search(r"AWS Error ([A-Z_]+)", said)
        why = REASONS.get(found[1]) if found else None
        raise StoreError(f"{shown(place)}: {why or said}") from error
