"""Records what the peer's server answers in router mode, for test_router.py:

    python -m tests.parity.record_router PATH/TO/llama-server MODEL.gguf

Invariant: the folder of models is the one that FOLDER describes, whatever the model.
"""

import argparse
import json
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import httpx

from tests.parity.record_greedy import version

RECORD = Path(__file__).with_name("router_api.json")
FOLDER = ("good.gguf", "bad.gguf")  # the second one is no model
PRESETS = "[*]\nctx-size = 256\n[named]\nmodel = {model}\nalias = other\n"
_PATIENCE = 60.0  # seconds


@dataclass(frozen=True, slots=True)
class Question:
    """A request, and the state it is to find: {model: (status, whether it failed)}."""

    method: str
    path: str
    body: Mapping[str, str] | None = None
    once: Mapping[str, tuple[str, bool]] | None = None


LOAD, UNLOAD = "/models/load", "/models/unload"
GOOD, BAD, ABSENT = ({"model": name} for name in ("good", "bad", "absent"))
QUESTIONS = (
    Question("GET", "/models"),
    Question("POST", LOAD, ABSENT),
    Question("POST", UNLOAD, ABSENT),
    Question("POST", UNLOAD, GOOD),
    Question("POST", LOAD, GOOD),
    Question("POST", LOAD, GOOD, {"good": ("loaded", False)}),
    Question("GET", "/models", None, {"good": ("loaded", False)}),
    Question("POST", LOAD, BAD),
    Question("GET", "/models", None, {"bad": ("unloaded", True)}),
    Question("POST", UNLOAD, BAD),
    Question("POST", UNLOAD, GOOD),
    Question("POST", UNLOAD, GOOD, {"good": ("unloaded", False)}),
    Question("DELETE", "/models"),
    Question("DELETE", "/models?model=good"),
    Question("DELETE", "/models?model=absent"),
)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="record_router", description="Record answers of router mode.")
    parser.add_argument("server", type=Path, help="llama-server's executable")
    parser.add_argument("model", type=Path, help="a GGUF file")
    options = parser.parse_args(arguments)
    with _router(options.server, options.model.absolute()) as client:
        answers = [{"question": asdict(question), **_ask(client, question)} for question in QUESTIONS]
    for entry in (entry for answer in answers for entry in answer["json"].get("data", ())):
        entry["status"]["args"][0] = options.server.name  # not where it lay
    lines = ",\n".join(map(json.dumps, answers)).replace(str(options.model.absolute()), "/models/named.gguf")
    RECORD.write_text(f'{{"peer": {json.dumps(version(options.server))}, "answers": [\n{lines}\n]}}\n')
    return 0


def _ask(client: httpx.Client, question: Question) -> dict[str, Any]:
    """Status and JSON, once the models are in the state that is asked for."""
    deadline = time.monotonic() + _PATIENCE
    while not _is_so(client, question.once or {}) and time.monotonic() < deadline:
        time.sleep(0.05)
    answer = client.request(question.method, question.path, json=question.body)
    return {"status": answer.status_code, "json": answer.json()}


def _is_so(client: httpx.Client, states: Mapping[str, tuple[str, bool]]) -> bool:
    known = {entry["id"]: entry["status"] for entry in client.get("/models").json()["data"]}
    return all(
        (known[name]["value"], known[name].get("failed", False)) == tuple(state) for name, state in states.items()
    )


@contextmanager
def _router(server: Path, model: Path) -> Iterator[httpx.Client]:
    """The peer over a folder of its own, ended on leaving."""
    with tempfile.TemporaryDirectory() as name, socket.socket() as probe:
        folder = Path(name)
        models, presets = folder / "models", folder / "presets.ini"
        models.mkdir()
        (models / FOLDER[0]).symlink_to(model)
        (models / FOLDER[1]).write_text("no model")
        presets.write_text(PRESETS.format(model=model))
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
        probe.close()
        flags = ["--models-dir", "models", "--models-preset", presets, "--host", "127.0.0.1", "--port", port, "-t", "1"]
        environment = {"PATH": "/usr/bin:/bin", "HOME": name}
        process = subprocess.Popen(
            [server, *flags], cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=_PATIENCE) as client:
                _wait(client)
                yield client
        finally:
            process.terminate()
            process.wait(timeout=_PATIENCE)


def _wait(client: httpx.Client) -> None:
    deadline = time.monotonic() + _PATIENCE
    while time.monotonic() < deadline:
        try:
            if client.get("/health").status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.1)
    raise RuntimeError("the peer did not start in time")


if __name__ == "__main__":
    sys.exit(main())
