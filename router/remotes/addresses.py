"""How a worker on another host is named in the configuration. Pure.

    HOST:PORT             one worker
    dns:///NAME:PORT      as many workers as the name has addresses, looked up again and again
    unix:PATH             one worker behind a socket of this host

Read by configfile/kinds.py to refuse, by remoteset.py to act. Invariant: a Target that exists has a host and a port, or
a path.
"""

import re
from dataclasses import dataclass
from ipaddress import IPv6Address

MOST_PORT = 65535
_DNS = "dns:///"
_HOST = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]{0,252})?|\[[0-9A-Fa-f:.]+(%[A-Za-z0-9_.-]+)?\]")
_EXPECTED = "workers as HOST:PORT, dns:///NAME:PORT or unix:PATH"


class BadAddress(ValueError):
    """The message says what is expected."""


@dataclass(frozen=True, slots=True)
class Target:
    """One entry of `workers`."""

    text: str  # as it was written
    host: str = ""  # without brackets; empty for a socket
    port: int = 0
    is_name: bool = False  # each address of the host is a worker


def parse_target(text: str) -> Target:
    """Raises BadAddress."""
    if text.startswith("unix:"):
        if not text.removeprefix("unix:"):
            raise BadAddress(_EXPECTED)
        return Target(text)
    host, _, port = text.removeprefix(_DNS).rpartition(":")
    if not _HOST.fullmatch(host) or not port.isdecimal() or not 0 < int(port[:6]) <= MOST_PORT:
        raise BadAddress(_EXPECTED)
    return Target(text, host.strip("[]"), int(port), text.startswith(_DNS))


def joined(address: str, port: int) -> str:
    """An address of a host and a port as gRPC writes them."""
    return f"[{address}]:{port}" if _is_ipv6(address) else f"{address}:{port}"


def _is_ipv6(address: str) -> bool:
    try:
        IPv6Address(address)
    except ValueError:
        return False
    return True
