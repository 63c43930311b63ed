"""Who may call a worker: everyone, whoever has the token, whoever shows a certificate of the right authority.

Made by arguments.py from the command line, kept by server.py. Invariant: beyond this host nobody may call without one
of them, unless somebody said so in as many words.
"""

import errno
import os
import stat
from dataclasses import dataclass
from pathlib import Path

import grpc

from worker.errors import WorkerError


class AccessError(WorkerError):
    """The way in is not safe, or its files do not go together."""


@dataclass(frozen=True, slots=True)
class Tls:
    """PEM, as grpc wants it."""

    certificate: bytes
    key: bytes
    client_ca: bytes | None = None  # who signs the certificates of callers; None: they need none

    def credentials(self) -> grpc.ServerCredentials:
        pairs = [(self.key, self.certificate)]
        return grpc.ssl_server_credentials(pairs, self.client_ca, require_client_auth=self.client_ca is not None)


@dataclass(frozen=True, slots=True)
class Access:
    """What a caller needs."""

    token: str | None = None
    tls: Tls | None = None
    open_to_all: bool = False  # nothing, and that is meant

    def check(self, listen: str) -> None:
        """Raises AccessError if everybody could use a worker that listens there."""
        asks = self.token or (self.tls is not None and self.tls.client_ca is not None)
        if not (asks or self.open_to_all or is_loopback(listen)):
            raise AccessError(
                f"anybody who can reach {listen} could use this worker: set CORRAL_WORKER_TOKEN or --token-file, ask "
                "for certificates with --tls-cert, --tls-key and --tls-client-ca, or say --insecure-no-auth"
            )


def read_tls(certificate: Path | None, key: Path | None, client_ca: Path | None) -> Tls | None:
    """Raises AccessError, OSError."""
    if certificate is None and key is None and client_ca is None:
        return None
    if certificate is None or key is None:
        raise AccessError("--tls-cert and --tls-key go together, and --tls-client-ca goes with both")
    return Tls(certificate.read_bytes(), read_secret(key), client_ca.read_bytes() if client_ca else None)


def read_secret(file: Path) -> bytes:
    """A token or a key, from a file that others cannot read or change. Raises OSError.

    One of root's may be read by our group, which is how a secret is mounted for a process that is not root.
    """
    with file.open("rb") as opened:
        found = os.fstat(opened.fileno())
        rights_of_group = stat.S_IRWXG
        if found.st_uid == 0 != os.geteuid():
            rights_of_group &= ~stat.S_IRGRP
        if found.st_mode & (rights_of_group | stat.S_IRWXO):
            mode = f"{stat.S_IMODE(found.st_mode):04o}"
            says = f"others may read or change it (mode {mode}) and it holds a secret; run: chmod 600 {file}"
            raise PermissionError(errno.EACCES, says, str(file))
        return opened.read()


def is_loopback(listen: str) -> bool:
    """Whether only this machine can reach the address."""
    host = listen.rpartition(":")[0].strip("[]")
    return listen.startswith("unix:") or host in ("localhost", "::1") or host.startswith("127.")
