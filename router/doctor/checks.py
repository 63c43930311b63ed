"""What `corral doctor` looks at: a row for each check, with what to do where something is found.

Called by command.py. Invariant: a check only looks: it starts no model, and nothing is other than before.
"""

import enum
import os
import platform
import resource
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

from router.config import GatewayConfig
from router.downloads.modelstore import cache_folder
from router.errors import CommandError
from router.fleet.footprint import footprint
from router.fleet.ggufhead import read_numbers
from router.fleet.memory import usable_bytes
from router.fleet.modelfile import size_on_disk
from router.http.listen import bind
from router.options.settings import UNIX_SUFFIX
from router.supervision.origin import are_forked
from router.supervision.runfolder import writable_base

PACKAGES = ("corral", "grpcio", "numba", "llvmlite")
INSTRUCTION_SETS: Mapping[str, frozenset[str]] = {  # as workers choose, by what the system says of the processor
    "amx-int8": frozenset({"avx512f", "avx512bw", "avx512vl", "avx512_vnni", "amx_tile", "amx_int8"}),
    "avx512-vnni": frozenset({"avx512f", "avx512bw", "avx512vl", "avx512_vnni"}),
    "avx-vnni": frozenset({"avx2", "fma", "f16c", "avx_vnni"}),
    "avx2": frozenset({"avx2", "fma", "f16c"}),
}
ENOUGH_FILES = 4096  # a stream takes one, and so does a connection of a reverse proxy
OTHERS_WRITE = 0o022
GIB = 1 << 30


class Verdict(enum.StrEnum):
    GOOD = "ok"
    DOUBTFUL = "warning"  # it works, but not as well as it could
    BAD = "error"  # the gateway would not start, or not serve


class Finding(NamedTuple):
    verdict: Verdict
    text: str


@dataclass(frozen=True, slots=True)
class Patient:
    """What is looked at. Without a configuration, or with one that is wrong, `config` is None."""

    config: GatewayConfig | None
    fault: CommandError | None  # what is wrong with it
    environment: Mapping[str, str]
    root: Path = Path("/")  # of the system's own files

    @property
    def model_files(self) -> Sequence[Path]:
        """Of the models that this machine would load."""
        models = self.config.models if self.config is not None else ()
        return [model.path for model in models if model.path is not None]


class Check(NamedTuple):
    name: str
    look: Callable[[Patient], Finding | None]  # None: there is nothing to look at
    remedy: str


def examine(patient: Patient) -> list[tuple[Check, Finding]]:
    """What the checks have found, in the order of the table. One that fails by itself has found something."""
    looked = [(check, _looked(check, patient)) for check in CHECKS]
    return [(check, finding) for check, finding in looked if finding is not None]


def _looked(check: Check, patient: Patient) -> Finding | None:
    try:
        return check.look(patient)
    except (CommandError, OSError) as error:
        return Finding(Verdict.BAD, str(error))


# ---- the machine ------------------------------------------------------------------------------


def _packages(patient: Patient) -> Finding:
    try:
        found = [f"{name} {version(name)}" for name in PACKAGES]
    except PackageNotFoundError as error:
        return Finding(Verdict.BAD, f"{error.name} is not installed")
    return Finding(Verdict.GOOD, ", ".join([*found, f"Python {platform.python_version()}"]))


def _processor(patient: Patient) -> Finding:
    lines = _told(patient.root / "proc/cpuinfo").splitlines()
    features = {word for line in lines if line.startswith("flags") for word in line.split()}
    chosen = next((name for name, needed in INSTRUCTION_SETS.items() if needed <= features), None)
    if chosen is None:
        return Finding(Verdict.DOUBTFUL, f"{platform.machine()} without AVX2: the slow kernels for any processor")
    return Finding(Verdict.GOOD, f"the kernels for {chosen}")


def _cores(patient: Patient) -> Finding:
    num_cores = len(os.sched_getaffinity(0))
    quota, period = (_told(patient.root / "sys/fs/cgroup/cpu.max") or "max 1").split()
    given = num_cores if quota == "max" else int(quota) / int(period)
    if given < num_cores:
        return Finding(Verdict.DOUBTFUL, f"{num_cores} cores, but the control group gives the time of {given:g}")
    return Finding(Verdict.GOOD, f"{num_cores} cores")


def _huge_pages(patient: Patient) -> Finding:
    told = _told(patient.root / "sys/kernel/mm/transparent_hugepage/enabled")
    if "[never]" in told:
        return Finding(Verdict.DOUBTFUL, "large pages are off, which costs speed")
    return Finding(Verdict.GOOD, "large pages are to be had" if told else "this system does not tell")


def _open_files(patient: Patient) -> Finding:
    most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    enough = most >= ENOUGH_FILES or most == resource.RLIM_INFINITY
    return Finding(Verdict.GOOD if enough else Verdict.DOUBTFUL, f"a process may open {most}")


def _run_folder(patient: Patient) -> Finding:
    return Finding(Verdict.GOOD, str(writable_base(patient.environment)))


def _cache_folder(patient: Patient) -> Finding:
    folder = cache_folder(patient.environment)
    there = _there(folder)
    if not os.access(there, os.W_OK | os.X_OK):
        return Finding(Verdict.DOUBTFUL, f"{there} cannot be written: kernels are compiled at every start")
    if folder.exists() and folder.stat().st_mode & OTHERS_WRITE:
        return Finding(Verdict.BAD, f"others may write into {folder}, and what is there is executed")
    return Finding(Verdict.GOOD, str(folder))


def _disk(patient: Patient) -> Finding | None:
    if not patient.model_files:
        return None
    needed = sum(map(size_on_disk, patient.model_files))
    free = shutil.disk_usage(_there(cache_folder(patient.environment))).free
    text = f"{_gib(free)} free for the cache, where weights may take up to {_gib(needed)}"
    return Finding(Verdict.GOOD if needed <= free else Verdict.DOUBTFUL, text)


# ---- the configuration ------------------------------------------------------------------------


def _configuration(patient: Patient) -> Finding:
    config = patient.config
    if patient.fault is not None:
        return Finding(Verdict.BAD, str(patient.fault))
    if config is None:
        return Finding(Verdict.GOOD, "none: no ./corral.toml, and no flags of `corral serve`")
    idle = [note for note in config.notes if note.startswith("no effect")]
    if idle:
        return Finding(Verdict.DOUBTFUL, "; ".join(idle))
    return Finding(Verdict.GOOD, f"{len(config.models)} models, {len(config.aliases)} aliases, {len(config.keys)} keys")


def _model_files(patient: Patient) -> Finding | None:
    if not patient.model_files:
        return None
    bad = [str(path) for path in patient.model_files if not read_numbers(path)]
    if bad:
        return Finding(Verdict.BAD, f"not GGUF, or cut off: {', '.join(bad)}")
    return Finding(Verdict.GOOD, ", ".join(path.name for path in patient.model_files))


def _memory(patient: Patient) -> Finding | None:
    config = patient.config
    if config is None or not patient.model_files:
        return None
    limit = config.residency.memory or usable_bytes()
    needed = [footprint(each, forked=are_forked(config.supervision)).of(each.replicas) for each in config.models]
    for model, num_bytes in zip(config.models, needed, strict=True):
        if num_bytes > limit:
            why = f"model {model.name} needs about {_gib(num_bytes)}, but models may take {_gib(limit)}"
            return Finding(Verdict.BAD, why)
    at_start = sum(each for model, each in zip(config.models, needed, strict=True) if model.load_on_start)
    text = f"models may take {_gib(limit)}, those that load at the start need about {_gib(at_start)}"
    return Finding(Verdict.GOOD if at_start <= limit else Verdict.DOUBTFUL, text)


def _port(patient: Patient) -> Finding | None:
    config = patient.config or GatewayConfig(models=())
    hosts = tuple(host for host in config.hosts if not host.endswith(UNIX_SUFFIX))
    if not hosts:
        return None
    try:
        for each in bind(replace(config, hosts=hosts, listen_when_ready=True)):
            each.close()
    except CommandError as error:
        return Finding(Verdict.DOUBTFUL, f"{error}; it may be a gateway that runs")
    return Finding(Verdict.GOOD, f"{config.port} on {', '.join(hosts)} is free")


CHECKS: Sequence[Check] = (
    Check("packages", _packages, "install it again, with what it needs: pip install --force-reinstall corral"),
    Check("processor", _processor, "take a machine with AVX2; in a virtual one, pass on the host's processor"),
    Check("cores", _cores, "give --threads no more than that, or threads wait for others that may not run"),
    Check("large pages", _huge_pages, "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled"),
    Check("open files", _open_files, "ulimit -n 65536, or LimitNOFILE=65536 in the unit"),
    Check("run folder", _run_folder, "set XDG_RUNTIME_DIR to a short, writable path"),
    Check("cache folder", _cache_folder, "make it a folder of your own (chmod 700), or set CORRAL_CACHE to one"),
    Check("disk", _disk, "make room, or set CORRAL_CACHE to a folder with more"),
    Check("configuration", _configuration, "corral config check tells every mistake with its line"),
    Check("model files", _model_files, "fetch them again: corral pull has their checksums"),
    Check("memory", _memory, "a smaller --ctx-size, fewer replicas, load-on-start = false, or --models-memory"),
    Check("port", _port, "end what listens there, or choose another with --port"),
)


def _there(folder: Path) -> Path:
    """The folder, or the nearest one above it that is there."""
    return next(each for each in (folder, *folder.parents) if each.exists())


def _told(file: Path) -> str:
    """By a file of the system; empty: there is none."""
    try:
        return file.read_text("utf-8", "replace").strip()
    except OSError:
        return ""


def _gib(num_bytes: int) -> str:
    return f"{num_bytes / GIB:.2f} GiB"
