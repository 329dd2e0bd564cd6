"""What stands between strangers and the votes: rates, and what the server signed."""

import hashlib
import os
import secrets
import stat
import time
from collections.abc import Callable
from pathlib import Path

from itsdangerous import BadSignature, SignatureExpired, URLSafeTimedSerializer

TOKEN_SECONDS, INVITATION_SECONDS, COOKIE_SECONDS = 3600, 90 * 86400, 365 * 86400
SIGNED = {"digest_method": hashlib.sha256}


class Rates:
    """A bucket for each name: `burst` requests at once, `rate` more in every second."""

    def __init__(self, rate: float, burst: float, clock: Callable[[], float] = time.monotonic):
        self.rate, self.burst, self.clock = rate, burst, clock
        self._left: dict[str, tuple[float, float]] = {}

    def allows(self, name: str) -> bool:
        """Count one request; tell whether it is within the limit."""
        now = self.clock()
        if len(self._left) > 10_000:  # those that are full again need no place
            full = now - self.burst / self.rate
            self._left = {key: held for key, held in self._left.items() if held[1] > full}
        left, then = self._left.get(name, (self.burst, now))
        left = min(self.burst, left + (now - then) * self.rate)
        self._left[name] = (max(left - 1.0, 0.0), now)
        return left >= 1.0


class Seals:
    """What the server signs: cookies, invitations and the tokens of pairs."""

    def __init__(self, secret: bytes):
        ages = {"token": TOKEN_SECONDS, "invitation": INVITATION_SECONDS, "cookie": COOKIE_SECONDS}
        self._kinds = {
            kind: (
                URLSafeTimedSerializer(secret, salt=f"arenapo {kind}", signer_kwargs=SIGNED),
                age,
            )
            for kind, age in ages.items()
        }

    def seal(self, kind: str, content: list[str]) -> str:
        """Sign some texts."""
        return str(self._kinds[kind][0].dumps(content))

    def opened(self, kind: str, sealed: str) -> list[str]:
        """Return what was sealed. Raises ValueError where it was not signed here, or is too old."""
        serializer, age = self._kinds[kind]
        try:
            content: list[str] = serializer.loads(sealed, max_age=age)
        except SignatureExpired:
            raise ValueError(f"this {kind} is too old") from None
        except BadSignature:
            raise ValueError(f"this {kind} is not from this page") from None
        return content


def secret_of(folder: Path) -> bytes:
    """Return the server's key, made at the first use and readable by its owner only.

    Raises ValueError where others can read it.
    """
    path = folder / "secret"
    folder.mkdir(parents=True, exist_ok=True)
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "wb") as stream:
            stream.write(secrets.token_bytes(32))
            stream.flush()
            os.fsync(handle)
    except FileExistsError:
        if stat.S_IMODE(path.stat().st_mode) & 0o077:
            raise ValueError(
                f"{path}: others can read it; delete it (every link and cookie ends) or chmod 600"
            ) from None
    secret = path.read_bytes()
    if len(secret) != 32:
        raise ValueError(f"{path}: not the 32 bytes of a key; delete it")
    return secret
