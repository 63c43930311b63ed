"""Mock workers that nobody supervises, as on other hosts: started, stopped, killed and started again by a test."""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from router.config import ModelConfig
from router.remotes.remoteset import World
from tests.router.mocks import DEADLINE, MOCK_COMMAND

TOKEN = "of the workers"
HOSTS = ("127.0.0.1", "127.0.0.2", "127.0.0.3")  # of this machine, all of them


@dataclass
class Remote:
    """A worker at an address that stays, whatever becomes of its process."""

    address: str
    process: subprocess.Popen[bytes] | None = None

    def start(self, *options: str) -> None:
        command = [*MOCK_COMMAND, "-m", "/elsewhere/a.gguf", "--listen", self.address, *options]
        self.process = subprocess.Popen(command, env={**os.environ, "CORRAL_WORKER_TOKEN": TOKEN})

    def wait(self) -> None:
        """Until it listens."""
        host, _, port = self.address.rpartition(":")
        deadline = time.monotonic() + DEADLINE
        while True:
            try:
                socket.create_connection((host, int(port)), DEADLINE).close()
                return
            except ConnectionRefusedError:
                assert time.monotonic() < deadline, f"nobody listens on {self.address}"
                time.sleep(0.01)

    def signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


@contextmanager
def remotes(number: int, *options: str) -> Iterator[list[Remote]]:
    """So many workers at one port of different addresses. Leaves no process behind."""
    port = _free_port()
    made = [Remote(f"{host}:{port}") for host in HOSTS[:number]]
    try:
        for remote in made:
            remote.start(*options)
        for remote in made:
            remote.wait()
        yield made
    finally:
        for remote in made:
            remote.kill()


def _free_port() -> int:
    with socket.create_server((HOSTS[0], 0)) as probe:
        return int(probe.getsockname()[1])


def model(*workers: str, name: str = "a") -> ModelConfig:
    """One without a file here."""
    return ModelConfig(None, (name,), workers=workers)


@dataclass
class Names:
    """A name server that says what the test wants."""

    addresses: Mapping[str, Sequence[str]] = field(default_factory=dict)
    num_asked: int = 0

    async def __call__(self, host: str) -> Sequence[str]:
        self.num_asked += 1
        if host not in self.addresses:
            raise OSError(f"no such host: {host}")
        return self.addresses[host]

    @property
    def world(self) -> World:
        return World(self, {"CORRAL_WORKER_TOKEN": TOKEN})
