"""How a worker is convinced of the gateway, and the gateway of it: TLS, certificates on both sides, and a token.

remote.py reads them from their files for every connection, so that renewed ones need no reload; replica.py opens the
channel. Invariant: no secret is part of the configuration, of a message or of a log.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import grpc

from router.config import ModelConfig, WorkerTls
from router.secretfile import read_secret

TOKEN_VARIABLE = "CORRAL_WORKER_TOKEN"  # noqa: S105 (a name)


@dataclass(frozen=True, slots=True)
class Credentials:
    """Of one connection. `tls` None: it is plain."""

    tls: grpc.ChannelCredentials | None = None
    server_name: str | None = None  # that the worker's certificate must have; None: the address' own


PLAIN = Credentials()


def read_credentials(tls: WorkerTls | None, host: str) -> Credentials:
    """For a worker of this host name, or address. Raises OSError."""
    if tls is None:
        return PLAIN
    authority = tls.ca.read_bytes() if tls.ca else None
    key = read_secret(tls.key) if tls.key else None
    channel = grpc.ssl_channel_credentials(authority, key, tls.cert.read_bytes() if tls.cert else None)
    return Credentials(channel, tls.server_name or host or None)


def read_token(model: ModelConfig, environment: Mapping[str, str]) -> str:
    """What the workers of the model ask for; empty: nothing. Raises OSError, UnicodeDecodeError."""
    if model.token_file is not None:
        return read_secret(model.token_file).decode("ascii").strip()
    return environment.get(TOKEN_VARIABLE, "")


def open_channel(address: str, credentials: Credentials, options: Sequence[tuple[str, int]]) -> grpc.aio.Channel:
    """Connects with the first call."""
    if credentials.tls is None:
        return grpc.aio.insecure_channel(address, options=options)
    name = credentials.server_name
    named = (("grpc.ssl_target_name_override", name), ("grpc.default_authority", name)) if name else ()
    return grpc.aio.secure_channel(address, credentials.tls, options=(*options, *named))
