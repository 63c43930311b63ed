"""What `corral serve` answers instead of serving: the flags that ask something, as a table.

Called by serve.py. Invariant: an answer only looks; nothing is started, fetched or changed.
"""

import os
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path

import psutil  # type: ignore[import-untyped]

from router.downloads.modelstore import ModelStore, cache_folder
from router.fleet.memory import usable_bytes
from router.options.flagrows import Takes
from router.options.flags import Given
from router.options.flagtable import FLAGS

_MIB = 1 << 20


def answers(given: Given) -> str:
    """To all that is asked for."""
    return "\n".join(answer() for key, answer in _ANSWERS.items() if given.on(key))


def _version() -> str:
    return f"corral {version('corral')}"


def _devices() -> str:
    """As llama-server lists them."""
    free = min(psutil.virtual_memory().available, usable_bytes()) // _MIB
    cores = len(os.sched_getaffinity(0))
    return f"Available devices:\n  CPU: {_processor()}, {cores} cores ({usable_bytes() // _MIB} MiB, {free} MiB free)"


def _processor(told: Path = Path("/proc/cpuinfo")) -> str:
    try:
        lines = told.read_text("utf-8", "replace").splitlines()
    except OSError:
        return "unknown"
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


def _models() -> str:
    """Those of the store, which `corral pull` fills."""
    stored = ModelStore(cache_folder(os.environ) / "models").stored()
    lines = [
        f"{number:4}. {name}  {record.num_bytes / _MIB:.0f} MiB, from {record.source}"
        for number, (name, record) in enumerate(stored.items(), 1)
    ]
    return "\n".join([f"number of models in cache: {len(stored)}", *lines])


def _completion() -> str:
    """Names of flags, and of files behind those that take something."""
    names = " ".join(name for flag in FLAGS for name in (*flag.names, *flag.off))
    files = "|".join(name for flag in FLAGS if flag.takes is not Takes.NOTHING for name in flag.names)
    return f"""_corral_serve() {{
    local word="${{COMP_WORDS[COMP_CWORD]}}"
    [[ "${{COMP_WORDS[1]}}" == serve ]] || return
    case "${{COMP_WORDS[COMP_CWORD - 1]}}" in
        {files}) return ;;
    esac
    mapfile -t COMPREPLY < <(compgen -W "{names}" -- "$word")
}}
complete -o default -F _corral_serve corral"""


_ANSWERS: Mapping[str, Callable[[], str]] = {
    "version": _version,
    "cache_list": _models,
    "list_devices": _devices,
    "completion_bash": _completion,
}
