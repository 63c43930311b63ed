"""The whole command as a process: how it starts, what it refuses, how it goes down."""

import fcntl
import json
import os
import re
import signal
import socket
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from router.downloads.modelstore import ModelStore
from tests.router.mocks import DEADLINE, MOCK_COMMAND
from tests.secretfiles import write_secret

ROOT = Path(__file__).resolve().parents[2]


class Command:
    """A running `corral serve` with mock workers."""

    def __init__(self, *arguments: str, worker_options: str = "", environment: dict[str, str] | None = None) -> None:
        command = [sys.executable, "-m", "router", "serve", "--port", "0", *arguments]
        command += ["--worker-command", f"{' '.join(MOCK_COMMAND)} {worker_options}"]
        self.process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True, env=environment)
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line.rstrip("\n"))

    @property
    def output(self) -> str:
        return "\n".join(self.lines)

    def url(self) -> str:
        until(lambda: "listens on" in self.output or self.process.poll() is not None)
        found = re.search(r"listens on (\S+)", self.output)
        assert found, self.output
        return found[1]

    def ready(self) -> str:
        url = self.url()
        until(lambda: re.search(r"^ready: ", self.output, re.MULTILINE) is not None)
        return url

    def workers(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def end(self) -> int:
        code = self.process.wait(DEADLINE)
        self._reader.join(DEADLINE)
        return code


@contextmanager
def serving(*arguments: str, **options: Any) -> Iterator[Command]:
    command = Command(*arguments, **options)
    try:
        yield command
    finally:
        family = [command.process, *command.workers()] if command.process.poll() is None else []
        for process in family:
            process.kill()
        command.end()


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def gone(processes: list[psutil.Process]) -> bool:
    return not any(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in processes)


class Stream:
    """A long completion, read by a thread."""

    def __init__(self, url: str, prompt: str) -> None:
        self.events: list[str] = []
        self.error: Exception | None = None
        self._thread = threading.Thread(target=self._run, args=(url, prompt))
        self._thread.start()
        until(lambda: len(self.events) > 1 or self.error is not None)

    def _run(self, url: str, prompt: str) -> None:
        body = {"prompt": prompt, "stream": True, "max_tokens": -1}
        try:
            with httpx.stream("POST", f"{url}/v1/completions", json=body, timeout=DEADLINE, trust_env=False) as answer:
                for line in answer.iter_lines():
                    if line.startswith("data: "):
                        self.events.append(line.removeprefix("data: "))
        except Exception as error:
            self.error = error

    def end(self) -> list[str]:
        self._thread.join(DEADLINE)
        assert not self._thread.is_alive()
        return self.events


@pytest.fixture
def model(tmp_path: Path) -> str:
    path = tmp_path / "tiny.gguf"
    path.write_bytes(b"GGUF")
    return str(path)


def get(url: str) -> int:
    return httpx.get(url, trust_env=False).status_code


def test_it_says_where_it_listens_what_it_serves_and_when_it_is_ready(model: str) -> None:
    with serving("-m", model, "--alias", "small,tiny", "--swa-full") as command:
        url = command.ready()
        assert get(f"{url}/health") == 200
        assert "(no key asked for)" in command.output
        assert "note: no effect: --swa-full (memory is managed by the worker itself)" in command.output
        assert re.search(r"tiny\.gguf +small tiny +mock +Q4_1 +2048 +2 MB +ready", command.output)
        assert "/models/" not in command.output


def test_it_says_where_aliases_lead(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / f"{name}.gguf").write_bytes(b"GGUF")
    (tmp_path / "corral.toml").write_text(
        '[models.a]\npath = "a.gguf"\n[models.b]\npath = "b.gguf"\n'
        '[aliases]\none = "b"\n[aliases.both]\ntargets = { a = 9, b = 0.5 }\n'
    )
    with serving("--config", str(tmp_path / "corral.toml")) as command:
        command.ready()
        assert "aliases: one -> b; both -> a (9), b (0.5)" in command.lines


def test_keys_do_not_reach_the_log_or_the_worker(model: str, tmp_path: Path) -> None:
    write_secret(tmp_path / "keys", "sk-secret\n")
    with serving("-m", model, "--api-key-file", str(tmp_path / "keys"), "--verbose") as command:
        url = command.ready()
        headers = {"Authorization": "Bearer sk-secret"}
        assert httpx.get(f"{url}/v1/models", headers=headers, trust_env=False).status_code == 200
        assert get(f"{url}/v1/models") == 401
        assert "(keys: 1)" in command.output
        assert "sk-secret" not in command.output
        assert all("sk-secret" not in " ".join(worker.environ().values()) for worker in command.workers())


def test_sigterm_lets_streams_finish_and_leaves_nothing(model: str) -> None:
    """F30."""
    with serving("-m", model, "--lame-duck", "0.2") as command:
        url = command.ready()
        workers = command.workers()
        streams = [Stream(url, "stop_at=60 delay=0.02") for _ in range(4)]
        command.process.send_signal(signal.SIGTERM)
        assert [stream.end()[-1] for stream in streams] == ["[DONE]"] * 4
        assert command.end() == 0
        assert gone(workers)
        with pytest.raises(httpx.ConnectError):
            get(f"{url}/health")


def test_during_the_lame_duck_it_still_accepts_but_is_not_ready(model: str) -> None:
    """F30."""
    with serving("-m", model, "--lame-duck", "600") as command:
        url = command.ready()
        command.process.send_signal(signal.SIGTERM)
        until(lambda: get(f"{url}/ready") == 503)
        body = {"prompt": "stop_at=1"}
        assert httpx.post(f"{url}/v1/completions", json=body, trust_env=False).status_code == 200


def test_a_stream_longer_than_the_drain_timeout_ends_with_an_error(model: str) -> None:
    """F31."""
    with serving("-m", model, "--lame-duck", "0", "--drain-timeout", "0.5") as command:
        stream = Stream(command.ready(), "stop_at=100000 delay=0.02")
        command.process.send_signal(signal.SIGTERM)
        last = json.loads(stream.end()[-1])
        assert last["error"]["type"] in ("server_error", "unavailable_error")
        assert command.end() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_it_now(model: str, number: signal.Signals) -> None:
    """F32."""
    with serving("-m", model, "--lame-duck", "600", worker_options="--ignore-sigterm") as command:
        stream = Stream(command.ready(), "stop_at=100000 delay=0.02")
        workers = command.workers()
        command.process.send_signal(signal.SIGTERM)
        until(lambda: "draining" in command.output)
        command.process.send_signal(number)
        assert command.end() == 0
        assert gone(workers)
        assert "[DONE]" not in stream.end()


def test_workers_end_with_a_gateway_that_is_killed(model: str) -> None:
    """F9."""
    with serving("-m", model) as command:
        command.ready()
        workers = command.workers()
        assert workers
        command.process.kill()
        command.end()
        until(lambda: gone(workers))


def test_a_port_in_use_is_one_line_and_starts_nothing(model: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with serving("-m", model, "--port", str(port)) as command:
            assert command.end() == 1
            assert command.lines == [f"error: port {port} on 127.0.0.1 is in use; choose another with --port"]


def test_a_model_that_cannot_be_loaded_ends_it_if_it_is_the_only_one(model: str) -> None:
    with serving("-m", model, worker_options="--bad-model tiny") as command:
        assert command.end() == 1
        assert command.lines[-1] == f"error: tiny: {model}: not a GGUF file"


def test_a_model_that_cannot_be_loaded_leaves_the_others_serving(model: str, tmp_path: Path) -> None:
    (tmp_path / "bad.gguf").write_bytes(b"GGUF")
    with serving("-m", model, "-m", str(tmp_path / "bad.gguf"), worker_options="--bad-model bad") as command:
        url = command.url()
        until(lambda: "1 of 2 models ready" in command.output)
        assert get(f"{url}/health") == 200
        assert f"bad: {tmp_path}/bad.gguf: not a GGUF file" in command.output


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["-m", "/absent.gguf"], "error: cannot read model /absent.gguf: No such file or directory"),
        (["--prot", "1"], "error: unknown flag '--prot'; did you mean '--port'?"),
        ([], "error: no model: give one with -m FILE (`corral pull smollm2` fetches a small one)"),
        (["-m", __file__, "--host", "no.invalid", "--api-key", "k"], "error: --host no.invalid: no such address"),
        (["-hf", "a/b", "-hf", "c/d", "-hff", "e.gguf"],
         "error: --hf-file is a file of one repository, but -hf names 2"),
        (["-m", __file__, "--log-file", "/no/x"], "error: cannot write --log-file /no/x: No such file or directory"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_and_a_status(arguments: list[str], line: str) -> None:
    with serving(*arguments) as command:
        assert command.end() in (1, 2)
        assert command.lines == [line]


def test_offline_it_serves_a_repository_fetched_before_with_one_that_guesses_for_it(tmp_path: Path) -> None:
    store = ModelStore(tmp_path / "models")
    for name in ("user--repo--m-Q4_K_M.gguf", "user--repo--m-Q8_0.gguf", "user--small--s.gguf"):
        store.partial(name).write_bytes(b"GGUF")
        store.accept(name, f"https://host/{name}")
    flags = ["--offline", "-hf", "user/repo", "-hff", "m-Q8_0.gguf", "--spec-draft-hf", "user/small", "--no-webui"]
    with serving(*flags, environment=os.environ | {"CORRAL_CACHE": str(tmp_path)}) as command:
        command.ready()
        (worker,) = command.workers()
        told = worker.cmdline()
        assert str(store.path("user--repo--m-Q8_0.gguf")) in told
        assert told[told.index("--model-draft") + 1] == str(store.path("user--small--s.gguf"))


def test_it_listens_on_a_unix_socket(model: str, tmp_path: Path) -> None:
    path = tmp_path / "gateway.sock"
    with serving("-m", model, "--host", f"{path},127.0.0.1") as command:
        until(lambda: re.search(r"^ready: ", command.output, re.MULTILINE) is not None)
        with httpx.Client(transport=httpx.HTTPTransport(uds=str(path))) as client:
            assert client.get("http://gateway/health").status_code == 200


def test_it_ends_with_the_terminal_it_was_started_from(model: str, tmp_path: Path) -> None:
    """And does not take the hang-up for a wish to read its files again."""
    master, terminal = os.openpty()
    log = tmp_path / "gateway.log"
    command = [sys.executable, "-m", "router", "serve", "--port", "0", "-m", model]
    command += ["--worker-command", " ".join(MOCK_COMMAND)]
    with log.open("w") as errors:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            stdin=terminal,
            stdout=terminal,
            stderr=errors,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
    try:
        os.close(terminal)
        until(lambda: "ready: " in log.read_text())
        workers = psutil.Process(process.pid).children()
        os.close(master)
        assert process.wait(DEADLINE) == 0
        assert "draining" in log.read_text() and not any(worker.is_running() for worker in workers)
    finally:
        process.kill()
        process.wait()


def test_every_line_of_a_json_log_is_an_event(tmp_path: Path) -> None:
    """Also when workers start while gRPC is at work."""
    for name in "ab":
        (tmp_path / f"{name}.gguf").write_bytes(b"GGUF")
    line = ("--models-dir", str(tmp_path), "--models-max", "1", "--log-format", "json")
    with serving(*line) as command, httpx.Client(base_url=command.ready(), timeout=DEADLINE, trust_env=False) as http:
        started = len(command.lines)
        for model in "aba":
            assert http.post("/completion", json={"model": model, "prompt": "stop_at=2"}).status_code == 200
        until(lambda: "model b is unloaded" in command.output)
        assert all(json.loads(event)["level"] for event in command.lines[started:])


def test_the_log_can_be_json_in_a_file(model: str, tmp_path: Path) -> None:
    log = tmp_path / "gateway.log"
    with serving("-m", model, "--log-file", str(log), "--log-format", "json") as command:
        command.ready()
        events = [json.loads(line) for line in log.read_text().splitlines()]
        assert "tiny/0 is ready" in [event["message"] for event in events]
