"""The folders that jobs fill: one for each version of what goes into it, and which is current.

A folder is put file by file, then the list of its files with their sha256, then the pointer that
names the current version: a reader never sees half of one. What a killed job left is put too, so
that another machine can go on from its last checkpoint. Where the store is a folder of this
machine, only the pointer is written.
"""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from pyarrow import fs

from arena.atomic import writes
from assets.content import file_hash
from assets.store import Store, component, is_aside, private_folder
from assets.store_url import StoreError, saying

CURRENT, FILES = "current", ".files.json"
# How often a job's folder is put back while it works: another machine loses no more than this.
KEEP_SECONDS = 600
# A put takes less than this: what is older and in no list was abandoned.
ABANDONED_SECONDS = 24 * 3600


class Folders(Store):
    """A store with folders at STAGE/KEY/VERSION, such as policies/dpo/3fa9..., and pointers."""

    # Where such folders lie; what people keep beside them is theirs.
    stages = ("policies", "generations")

    def infos(self, name: str) -> list[fs.FileInfo]:
        """Return size and time of a file, or of all files below a folder; `current` is followed."""
        parts = name.split("/")
        if len(parts) > 3 and parts[2] == CURRENT:
            parts[2] = self.current_version(*parts[:2]) or CURRENT
        return super().infos("/".join(parts))

    def remove(self, name: str) -> None:
        """Delete a file or a folder from the store, from here and from the list that names it."""
        super().remove(name)
        parts = name.split("/")
        if self.remote and len(parts) > 3:
            folder, gone = "/".join(parts[:3]), "/".join(parts[3:]) + "/"
            listed = self._listed(folder).items()
            kept = {each: it for each, it in listed if not f"{each}/".startswith(gone)}
            self._put_list(folder, kept)

    def folder(self, stage: str, key: str, version: str) -> Path:
        """Return the folder that a stage's partition is made in, apart for every version of inputs.

        A job that was killed finds its own work there again, on another host too as far as it was
        kept; one with other inputs never does.
        """
        folder = f"{stage}/{component(key)}/{component(version)}"
        private_folder(self.path(folder))
        if self.remote:
            self._bring(folder, "", strict=False)
        return self.path(folder)

    @contextmanager
    def working(self, stage: str, key: str, version: str) -> Iterator[Path]:
        """Yield `folder` for a job; what it leaves is kept meanwhile, and if it does not end well.

        A job that ends well is followed by `publish`, which keeps all of it.
        """
        folder, over, well = self.folder(stage, key, version), threading.Event(), False
        if not self.remote:
            yield folder
            return

        def keep_often() -> None:
            while not over.wait(KEEP_SECONDS):
                with suppress(OSError):  # the next time, or at the end
                    self.keep(stage, key, version)

        keeper = threading.Thread(target=keep_often, daemon=True)
        keeper.start()
        try:
            yield folder
            well = True
        finally:
            over.set()
            keeper.join()
            if not well:
                with suppress(OSError):  # why the job ended matters more
                    self.keep(stage, key, version)

    def keep(self, stage: str, key: str, version: str) -> None:
        """Put back those files of a folder that are new, then the list of them."""
        folder = f"{stage}/{component(key)}/{component(version)}"
        if not self.remote:
            return
        before, now = self._listed(folder), dict[str, Any]()
        for path in sorted(self.path(folder).rglob("*")):
            name = path.relative_to(self.path(folder)).as_posix()
            if path.is_file() and not is_aside(path) and name != FILES:
                with suppress(FileNotFoundError):  # a job clears its own checkpoints
                    same = before.get(name) == [path.stat().st_size, file_hash(path)]
                    now[name] = before[name] if same else self.send(f"{folder}/{name}")
        self._put_list(folder, now)
        for name in before.keys() - now.keys():
            with saying(self.place), suppress(FileNotFoundError):
                self.system.delete_file(self.far(f"{folder}/{name}"))

    def publish(self, stage: str, key: str, version: str) -> Path:
        """Make the folder of `version` the current one, then clear the versions before it."""
        self.keep(stage, key, version)
        with self.writing(f"{stage}/{component(key)}/{CURRENT}") as aside:
            aside.write_text(component(version))
        for other in self.folders(f"{stage}/{key}"):
            if other != version:
                self.remove(f"{stage}/{key}/{other}")
        return self.path(stage, key, version)

    def current_version(self, stage: str, key: str) -> str | None:
        """Return the version that the pointer of a stage's partition names, None without one."""
        pointer = self.at(f"{stage}/{component(key)}/{CURRENT}")
        return component(pointer.read_text().strip()) if pointer.is_file() else None

    def current(self, stage: str, key: str, *within: str) -> Path:
        """Return the finished folder of a stage's partition, or what is `within` it, brought here.

        A path that is not there where nothing is finished.
        """
        version = self.current_version(stage, key)
        if version is not None and self.remote:
            self._bring(f"{stage}/{key}/{version}", "/".join(within), strict=True)
        return self.path(stage, key, version or "nothing", *within)

    def sweep(self) -> list[str]:
        """Delete what writers left when they were killed, here and in the store; return it."""
        left = [path for path in self.root.rglob(".*.partial") if not writes(path)]
        for path in left:
            path.unlink(missing_ok=True)
        abandoned = self._abandoned() if self.remote else []
        for name in abandoned:
            with saying(self.place), suppress(FileNotFoundError):
                self.system.delete_file(self.far(name))
        return [*map(str, left), *abandoned, *(self._uploads() if self.remote else [])]

    def _abandoned(self) -> list[str]:
        """Return the objects of folders that no list names, put by a process that was killed."""
        young, found = time.time() - ABANDONED_SECONDS, list[str]()
        infos = [each for stage in self.stages for each in self.infos(stage)]
        old = [each for each in infos if each.mtime_ns / 1e9 < young]
        names = [each.path.removeprefix(self.far("") + "/") for each in old]
        folders = {"/".join(name.split("/")[:3]) for name in names if name.count("/") > 2}
        for folder in folders:
            listed = self._listed(folder)
            found += [
                name
                for name in names
                if name.startswith(f"{folder}/")
                and name != f"{folder}/{FILES}"
                and name.removeprefix(f"{folder}/") not in listed
            ]
        return sorted(found)

    def _uploads(self) -> list[str]:
        """Abort the multipart uploads that a killed process left, where boto3 is installed.

        pyarrow cannot list them; a rule of the bucket (AbortIncompleteMultipartUpload) does the
        same.
        """
        try:
            import boto3
            from botocore.exceptions import BotoCoreError, ClientError
        except ImportError:
            return []
        if not isinstance(self.system, fs.S3FileSystem):
            return []
        endpoint = dict(parse_qsl(urlsplit(str(self.place)).query)).get("endpoint_override")
        bucket, _, prefix = self.far("").partition("/")
        client = boto3.client("s3", endpoint_url=endpoint, region_name=self.system.region)
        young, gone = time.time() - ABANDONED_SECONDS, list[str]()
        with suppress(BotoCoreError, ClientError):  # a key that may not list them
            for stage in self.stages:
                start = f"{prefix}/{stage}/".lstrip("/")
                found = client.list_multipart_uploads(Bucket=bucket, Prefix=start)
                for each in found.get("Uploads", ()):
                    if each["Initiated"].timestamp() < young:
                        names = {"Bucket": bucket, "Key": each["Key"], "UploadId": each["UploadId"]}
                        client.abort_multipart_upload(**names)
                        gone.append(f"upload of {each['Key']}")
        return gone

    def _listed(self, folder: str) -> dict[str, Any]:
        path = self.at(f"{folder}/{FILES}")
        return json.loads(path.read_text()) if path.is_file() else {}

    def _put_list(self, folder: str, files: dict[str, Any]) -> None:
        with self.writing(f"{folder}/{FILES}") as aside:
            aside.write_text(json.dumps(files))

    def _bring(self, folder: str, within: str, strict: bool) -> None:
        """Bring the files of a folder's list here, where they are not yet.

        strict: raise StoreError for one that is not as the list says; else it is left out: a
        killed job's last file may be newer than the list.
        """
        for name, (size, digest) in self._listed(folder).items():
            path = self.path(folder, name)
            if within and not f"{name}/".startswith(f"{within}/"):
                continue
            if path.is_file() and path.stat().st_size == size and file_hash(path) == digest:
                continue
            head = self.head(f"{folder}/{name}")
            if head is not None:
                seen = self.seen(f"{folder}/{name}").startswith(f"{head.mark} ")
                # A job of this machine may have gone on with what was seen.
                if not strict and seen and path.is_file():
                    continue
                if self.fetch(f"{folder}/{name}", head) == digest:
                    continue
            path.unlink(missing_ok=True)
            if strict:
                raise StoreError(
                    f"{self.name}/{folder}/{name} is not what was put there; delete the folder "
                    "and run again"
                )
