"""The `corral` command: picks the subcommand and imports nothing else, so that it answers at once.

`python -m router` is the same command. Invariant: the gateway's process never imports the worker; a command of the
worker's package becomes another process.
"""

import os
import runpy
import sys
from collections.abc import Mapping, Sequence
from typing import NamedTuple


class Command(NamedTuple):
    module: str
    summary: str


# What gRPC does before a fork is for children that go on using it, and a line in the log that is no event of ours. Ours
# execute a worker at once. gRPC reads this when it is imported.
NO_FORK_HANDLERS = ("GRPC_ENABLE_FORK_SUPPORT", "false")

COMMANDS: Mapping[str, Command] = {
    "serve": Command("router.serve", "serve models over HTTP: OpenAI's and llama-server's interfaces on one port"),
    "worker": Command("worker", "serve one model over gRPC"),
    "ps": Command("router.commands.ps", "show the models of a running gateway"),
    "top": Command("router.commands.top", "show them live, with tokens per second"),
    "logs": Command("router.commands.logs", "show what a model's worker wrote; -f: and goes on to write"),
    "config": Command("router.configfile.command", "check, explain or compare configuration files"),
    "doctor": Command("router.doctor.command", "look at the machine and the configuration, and say what to do"),
    "keys": Command("router.keys.keycommand", "make, list and revoke the keys of tenants"),
    "pull": Command("router.downloads.pull", "fetch a model: a name of the catalogue, hf:USER/REPO[:QUANT] or a URL"),
    "bench": Command("worker.bench", "measure speed, with llama-bench's flags; --batched: many sequences at once"),
    "perplexity": Command("worker.perplexity", "measure how well a model foretells a text"),
}

_VERSION = "router.commands.version"

# Whoever waits for gRPC's sockets reads them. By default they belong to threads of their own, and handing each message
# from one to the other costs as much as all the rest of it.
_GRPC_VARIABLE, _GRPC_CHOICE = "GRPC_EXPERIMENTS", "-event_engine_client,-event_engine_listener"


def main() -> int:
    """Runs the subcommand named by the first argument."""
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(usage())
        return 0 if arguments else 2
    if arguments[0] == "--version":
        runpy.run_module(_VERSION, run_name="__main__")
        return 0
    name, *rest = arguments
    command = COMMANDS.get(name)
    if command is None:
        print(f"error: no command '{name}' (commands: {', '.join(COMMANDS)})", file=sys.stderr)
        return 2
    run(name, command, rest)
    return 0


def run(name: str, command: Command, arguments: Sequence[str]) -> None:
    """Does not return for the worker's commands; the others end by SystemExit. Workers inherit the environment."""
    os.environ.setdefault(_GRPC_VARIABLE, _GRPC_CHOICE)  # read when gRPC is imported
    if command.module.partition(".")[0] == "worker":
        os.execv(sys.executable, [sys.executable, "-P", "-m", command.module, *arguments])  # noqa: S606
    os.environ.setdefault(*NO_FORK_HANDLERS)
    sys.argv = [f"corral {name}", *arguments]
    runpy.run_module(command.module, run_name="__main__")


def usage() -> str:
    lines = ["usage: corral COMMAND ...", "", "commands:"]
    lines += [f"  {name:<12}{command.summary}" for name, command in COMMANDS.items()]
    lines += ["", "corral COMMAND --help tells more; corral --version the version."]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
