"""Where the processes of a model's workers come from: each is a program started anew, or a nursery forks them.

Made by workers.Workers for one configuration of a model; supervisor.WorkerProcess spawns from it, life after life.
Invariant: no worker gets a secret of the gateway's, or settings that are meant for the gateway.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Protocol

from router.config import ModelConfig, SupervisionConfig
from router.fleet.modelfile import Contents, contents_of, unless_changed
from router.observe.traces import are_exported
from router.supervision.nursery import Nursery
from router.supervision.process import TOKEN_VARIABLE, Child, adopt_orphans, can_adopt

# What a worker reads of the environment, by itself or through Python, numba, gRPC and the system's libraries. Secrets
# have any name at all, so that only a list of what is none keeps them out.
_VARIABLES = frozenset(
    (
        *("PATH", "HOME", "USER", "LOGNAME", "HOSTNAME", "LANG", "LANGUAGE", "TZ", "TMPDIR"),
        *("VIRTUAL_ENV", "LD_LIBRARY_PATH", "LD_PRELOAD", "SSL_CERT_FILE", "SSL_CERT_DIR"),
        *("CORRAL_CACHE", "CORRAL_ISA"),
    )
)
_FAMILIES = ("LC_", "XDG_", "PYTHON", "NUMBA_", "LLVMLITE_", "OMP_", "OPENBLAS_", "MKL_", "MALLOC_", "GRPC_")
# Where a worker sends its own spans, and what it needs there: headers with a secret perhaps.
_OF_TRACES = ("OTEL_",)
_OF_OTHER_SIGNALS = ("OTEL_EXPORTER_OTLP_METRICS_", "OTEL_EXPORTER_OTLP_LOGS_")


class Origin(Protocol):
    """Of the workers that may take each other's place."""

    async def spawn(self, arguments: Sequence[str], token: str, on_line: Callable[[str], None]) -> Child:
        """A worker with this command line, whose callers must present `token`. Raises OSError, NurseryEnded."""

    async def close(self) -> None:
        """Ends what was started for it. Its workers live on."""


class Program:
    """A new process for every worker."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], look: Callable[[], Contents]) -> None:
        """`look`: at the files that it will load, as they are now."""
        self._command = command
        self._environment = environment
        self._look = look

    async def spawn(self, arguments: Sequence[str], token: str, on_line: Callable[[str], None]) -> Child:
        before, environment = self._look(), {**self._environment, TOKEN_VARIABLE: token}
        child = await Child.spawn([*self._command, *arguments], environment, on_line)
        child.contents = lambda: unless_changed(before, self._look)
        return child

    async def close(self) -> None:
        pass


def origin_of(model: ModelConfig, config: SupervisionConfig) -> Origin:
    """The model's, as the configuration and the system allow."""
    environment = worker_environment(os.environ)
    look = partial(contents_of, model.path, model.worker_arguments)
    if not config.nursery or not adopt_orphans():
        return Program(config.worker_command, environment, look)
    command = [*config.worker_command, "-m", str(model.path), *model.worker_arguments]
    return Nursery(model.name, command, environment, look)


def are_forked(config: SupervisionConfig) -> bool:
    """Whether workers share with a nursery, and with each other, what it has loaded."""
    return config.nursery and can_adopt()


def worker_environment(inherited: Mapping[str, str]) -> dict[str, str]:
    """What a worker needs of ours. How spans are sent is for those that send some."""
    families = _FAMILIES + _OF_TRACES if are_exported(inherited) else _FAMILIES
    needed = {name: value for name, value in inherited.items() if name in _VARIABLES or name.startswith(families)}
    return {name: value for name, value in needed.items() if not name.startswith(_OF_OTHER_SIGNALS)}
