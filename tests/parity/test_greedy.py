"""Greedy text from the whole path, gateway and worker, equals what the peer recorded, up to near ties."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.models import smollm2
from tests.parity import oracle
from tests.parity.oracle import Case
from tests.parity.record_greedy import RECORD

RECORDED = oracle.load(RECORD)
START_SECONDS = 120.0  # the first start ever compiles the kernels


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """`corral serve` with the recorded model, on a free loopback port."""
    model = smollm2()
    assert model.stat().st_size == RECORDED.model_size
    log = tmp_path_factory.mktemp("parity") / "serve.log"
    port = free_port()
    command = [sys.executable, "-m", "router", "serve", "-m", str(model), "--port", str(port)]
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=120) as client:
            wait_until_healthy(client, process, log)
            yield client
    finally:
        end(process)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until_healthy(client: httpx.Client, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()
        try:
            if client.get("/health").status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.05)
    pytest.fail(f"not healthy within {START_SECONDS:.0f} s:\n{log.read_text()}")


def end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(timeout=20)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise


@pytest.mark.parametrize("case", RECORDED.cases, ids=lambda case: case.name)
def test_greedy_tokens_equal_the_recorded_ones(server: httpx.Client, case: Case) -> None:
    verdict = oracle.compare(case, oracle.ask(server, case), RECORDED.end_tokens)
    assert not verdict.fault, f"{verdict.num_equal} of {len(case.steps)} steps equal, then {verdict.fault}"
