"""The keys that may call, as a ring to try them on. Pure; immutable, so that a reload swaps it whole.

Held by table.py, asked by auth.py. Keys are known by their sha256 only. Invariant: how long a look-up takes does not
depend on which key is presented, or on how nearly it is one.
"""

import hashlib
import hmac
from collections.abc import Sequence
from datetime import datetime

from router.config import KeyConfig, Scope
from router.errors import Unauthorized

ANONYMOUS = KeyConfig("anonymous", b"", scopes=frozenset(Scope))  # everyone, where no key is asked for


def key_digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()


def full_key(key: bytes) -> KeyConfig:
    """A key with every right and no limit, as --api-key gives it; named by the beginning of its digest."""
    digest = key_digest(key)
    return KeyConfig(f"key-{digest.hex()[:8]}", digest, scopes=frozenset(Scope))


class KeyRing:
    """All valid keys. None at all: everyone may call, or nobody if it is locked."""

    def __init__(self, keys: Sequence[KeyConfig], *, locked: bool = False) -> None:
        self._keys = tuple(keys)
        self.is_open = not keys and not locked  # whether everyone may call

    def find(self, presented: bytes, now: datetime) -> KeyConfig:
        """The key that was presented. Raises Unauthorized."""
        if self.is_open:
            return ANONYMOUS
        digest = key_digest(presented)
        found = None
        for key in self._keys:
            if hmac.compare_digest(digest, key.digest):
                found = key
        if found is None:
            raise Unauthorized
        if found.expires is not None and now >= found.expires:
            raise Unauthorized(f"key '{found.name}' has expired")
        return found
