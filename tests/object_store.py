"""An S3 server in Python, and a machine's own place for its working copies."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from pyarrow import fs

BUCKET = "lakes"
KEYS = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_REGION": "us-east-1"}


class S3:
    """The server, which can be stopped and started again with what it holds."""

    def __init__(self) -> None:
        self.port = 0
        self.start()

    def start(self) -> None:
        from moto.server import ThreadedMotoServer  # slow to load, and rarely needed

        self.server = ThreadedMotoServer("127.0.0.1", self.port, verbose=False)
        self.server.start()
        self.port = self.server.get_host_and_port()[1]

    def stop(self) -> None:
        self.server.stop()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def url(self, prefix: str) -> str:
        return f"s3://{BUCKET}/{prefix}?endpoint_override={self.address}"

    @property
    def files(self) -> fs.S3FileSystem:
        return fs.S3FileSystem(
            access_key="key",
            secret_key="secret",
            region="us-east-1",
            endpoint_override=self.address,
            allow_bucket_creation=True,
        )

    def names(self, prefix: str) -> set[str]:
        """Return the names of all objects below a prefix."""
        below = fs.FileSelector(f"{BUCKET}/{prefix}", recursive=True, allow_not_found=True)
        found = self.files.get_file_info(below)
        start = f"{BUCKET}/{prefix}/"
        return {each.path.removeprefix(start) for each in found if each.type == fs.FileType.File}


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3]:
    """The one server of all tests of a process."""
    server = S3()
    server.files.create_dir(BUCKET)
    yield server
    server.stop()


@pytest.fixture
def s3(s3_server: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> S3:
    """The server, with the keys to it in the environment and this test's own working copies."""
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    machine(monkeypatch, tmp_path / "machine")
    return s3_server


def machine(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    """Go on as a machine that keeps its working copies in this folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
