"""Turns on a lake: who may write, on this machine and on every other one.

On one machine the kernel's lock holds a turn, and lets go when its process dies. A lake in an
object store is written by several machines, so a turn is also a place in a pool of Dagster's
database, which they share. Whoever holds or awaits a place says every few seconds that it lives;
one that fell silent loses it. A lake belongs to one Dagster history: two that do not share one
would know nothing of each other's work.
"""

import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import dagster as dg

from assets.dagster_internals import Pool, store_id
from assets.lake import Lake
from assets.store import private_folder

OWNER = "dagster.json"
SIGN_SECONDS = 10.0
# So long without a sign, and a machine is taken for dead.
SILENCE_SECONDS = 90.0


class TakenLake(ValueError):
    """The lake belongs to another Dagster history."""


@contextmanager
def turn(
    lake: Lake, instance: dg.DagsterInstance, name: str, say: Callable[[str], object]
) -> Iterator[None]:
    """Hold `name` of a lake against every other process, waiting while it is taken.

    say: called once with a sentence when there is something to wait for. Raises TakenLake for a
    remote lake that another Dagster history writes to.
    """
    with lake.held(name, say):
        if not lake.remote:
            yield
            return
        own_history(lake, instance)
        pool = Pool(instance, f"{name} of {lake.name}", copy_id(lake))
        try:
            with signing(pool):
                wait_for(pool, f"another machine holds {name} of {lake.name}", say)
                yield
        finally:
            pool.leave()


@contextmanager
def signing(pool: Pool) -> Iterator[None]:
    """Say every `SIGN_SECONDS`, in a thread, that this machine lives."""
    over = threading.Event()

    def sign() -> None:
        while not over.wait(SIGN_SECONDS):
            # A database that is away costs these signs and no more: when it is back they go on,
            # and a step that needs it says what is wrong.
            with suppress(Exception):
                pool.sign()

    thread = threading.Thread(target=sign, daemon=True)
    pool.sign()
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def wait_for(pool: Pool, said: str, say: Callable[[str], object]) -> None:
    """Wait for the one place of a pool; whoever gives no sign of life is put out of it."""
    signs: dict[str, tuple[str, float]] = {}
    while not pool.claimed():
        for other in pool.others():
            sign, now = pool.sign_of(other), time.monotonic()
            if other not in signs and not signs:
                say(f"{said}; waiting for it to end")
            before, since = signs.get(other, ("", now))
            signs[other] = (sign, now if sign != before else since)
            if now - signs[other][1] > SILENCE_SECONDS:
                pool.put_out(other)
        time.sleep(1)


def copy_id(lake: Lake) -> str:
    """Return what tells this machine's working copy of a lake from every other one's.

    A process that died in its turn left its place under this name; the next one of the same
    machine, which the kernel's lock let in, finds the place its own.
    """
    path = private_folder(lake.path(".locks")) / "copy"
    if not path.exists():
        with path.open("x") as file:
            file.write(secrets.token_hex(8))
    return path.read_text()


def own_history(lake: Lake, instance: dg.DagsterInstance) -> None:
    """Put this Dagster history's id into a lake that has none; raise TakenLake for another one."""
    own, path = store_id(instance), lake.at(OWNER)
    if not path.exists():
        with lake.writing(OWNER) as aside:
            aside.write_text(own)
        path = lake.at(OWNER)
    if path.read_text() != own:
        raise TakenLake(
            f"{lake.name} belongs to another Dagster history than this home's; let both use one "
            f"database (storage: postgres in dagster.yaml) or give the study a lake of its own; "
            f"where that history is lost for good, delete {lake.where(OWNER)}"
        )
