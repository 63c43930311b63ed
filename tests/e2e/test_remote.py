"""Two gateways that share two workers on other hosts, over mutual TLS and with a token: all of them real processes."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.certificates import Authority
from tests.e2e.serving import DEADLINE, Serving, serving, until
from tests.models import smollm2
from tests.secretfiles import write_secret

pytestmark = pytest.mark.timeout(900)

HOST_NAME = "worker.test"  # in the workers' certificate
CAPACITY = ("--ctx-size", "4096", "--parallel", "8", "--threads", "1")
NUM_TOKENS = 60


@dataclass
class Worker:
    """`corral worker` at an address that stays."""

    address: str
    folder: Path
    certificates: tuple[Path, Path]
    authority: Path
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        certificate, key = self.certificates
        tls = ("--tls-cert", certificate, "--tls-key", key, "--tls-client-ca", self.authority)
        listen = ("--listen", self.address, "--token-file", self.folder / "token")
        command = [sys.executable, "-m", "router", "worker", "-m", smollm2(), *listen, *tls, *CAPACITY]
        with (self.folder / f"{self.address}.log").open("ab") as log:
            self.process = subprocess.Popen([str(word) for word in command], stderr=log)

    def signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait(DEADLINE)
            self.process = None


@dataclass
class Site:
    workers: dict[str, Worker]  # by address
    gateways: tuple[Serving, Serving]

    def until_shared(self) -> None:
        """Until both gateways can call both workers."""
        until(lambda: all(sorted(ready(gateway)) == sorted(self.workers) for gateway in self.gateways))


def replicas(gateway: Serving) -> list[dict[str, Any]]:
    [model] = gateway.http.get("/models").json()["data"]
    found: list[dict[str, Any]] = model["replicas"]
    return found


def ready(gateway: Serving) -> list[str]:
    return [replica["address"] for replica in replicas(gateway) if replica["state"] == "ready"]


def free_addresses(number: int) -> list[str]:
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(number)]
        return [f"127.0.0.1:{probe.getsockname()[1]}" for probe in probes]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("remote")
    authority = Authority(folder)
    own, (certificate, key) = authority.issue(HOST_NAME), authority.issue("gateway")
    write_secret(folder / "token", "what the workers ask for\n")
    workers = [Worker(address, folder, own, authority.certificate) for address in free_addresses(2)]
    file = folder / "corral.toml"
    file.write_text(
        f"""[models.m]
workers = {json.dumps([worker.address for worker in workers])}
token-file = "token"
tls = {{ ca = "{authority.certificate}", cert = "{certificate}", key = "{key}", server-name = "{HOST_NAME}" }}
"""
    )
    try:
        for worker in workers:
            worker.start()
        with (
            serving(folder / "one.log", "--config", file) as one,
            serving(folder / "two.log", "--config", file) as two,
        ):
            made = Site({worker.address: worker for worker in workers}, (one, two))
            made.until_shared()
            yield made
    finally:
        for worker in workers:
            worker.kill()


def text_of(gateway: Serving, seed: int, num_tokens: int = NUM_TOKENS) -> str:
    answer = gateway.openai.completions.create(
        model="m", prompt="Once upon a time", max_tokens=num_tokens, seed=seed, extra_body={"ignore_eos": True}
    )
    assert answer.usage is not None and answer.usage.completion_tokens == num_tokens
    return answer.choices[0].text


def all_texts(site: Site) -> list[str]:
    """Eight at once, by turns from both gateways."""
    with ThreadPoolExecutor(8) as threads:
        return list(threads.map(lambda number: text_of(site.gateways[number % 2], number), range(8)))


def victim_of(site: Site, gateway: Serving, replica: str) -> Worker:
    """The worker that a gateway's header names."""
    return site.workers[next(each["address"] for each in replicas(gateway) if each["id"] == replica)]


def test_both_gateways_say_the_same_with_either_worker(site: Site) -> None:
    first, second = (gateway.http.get("/models").json()["data"][0] for gateway in site.gateways)
    assert {each["id"] for each in first["replicas"]} == {each["id"] for each in second["replicas"]}
    assert all(each["pid"] is None for each in first["replicas"])
    assert text_of(site.gateways[0], 7) == text_of(site.gateways[1], 7)


def test_a_worker_killed_in_the_middle_of_answers_changes_none_of_them_and_comes_back(site: Site) -> None:
    undisturbed = all_texts(site)
    gateway = site.gateways[0]
    alone = text_of(gateway, 100, 200)
    body = {"prompt": "Once upon a time", "max_tokens": 200, "seed": 100, "ignore_eos": True, "stream": True}
    with (
        ThreadPoolExecutor(1) as threads,
        gateway.http.stream("POST", "/v1/completions", json={"model": "m", **body}) as stream,
    ):
        lines = (line.removeprefix("data: ") for line in stream.iter_lines() if line)
        text = json.loads(next(lines))["choices"][0]["text"]
        others = threads.submit(all_texts, site)
        victim = victim_of(site, gateway, stream.headers["x-corral-replica"])
        victim.kill()
        chunks = [json.loads(line) for line in lines if line != "[DONE]"]
    assert text + "".join(chunk["choices"][0]["text"] for chunk in chunks if chunk["choices"]) == alone
    assert others.result() == undisturbed
    until(lambda: all(victim.address not in ready(each) for each in site.gateways))
    victim.start()
    site.until_shared()
    assert all_texts(site) == undisturbed


def test_a_worker_that_hangs_is_left_by_both_and_taken_back(site: Site) -> None:
    victim = next(iter(site.workers.values()))
    victim.signal(signal.SIGSTOP)
    try:
        until(lambda: all(victim.address not in ready(each) for each in site.gateways))
        reason = next(each["reason"] for each in replicas(site.gateways[1]) if each["address"] == victim.address)
        assert reason
        assert len(all_texts(site)) == 8
    finally:
        victim.signal(signal.SIGCONT)
    site.until_shared()


def test_a_gateway_that_ends_takes_no_worker_with_it(site: Site, tmp_path: Path) -> None:
    file = site.workers[next(iter(site.workers))].folder / "corral.toml"
    with serving(tmp_path / "log", "--config", file) as third:
        assert text_of(third, 1)
        os.kill(third.process.pid, signal.SIGTERM)
        assert third.process.wait(DEADLINE) == 0
    assert all(worker.process is not None and worker.process.poll() is None for worker in site.workers.values())
    assert text_of(site.gateways[0], 1)


def test_a_caller_without_a_certificate_is_not_let_in(site: Site, tmp_path: Path) -> None:
    address = next(iter(site.workers))
    file = tmp_path / "corral.toml"
    authority = site.workers[address].authority
    file.write_text(f'[models.m]\nworkers = "{address}"\ntls = {{ ca = "{authority}", server-name = "{HOST_NAME}" }}\n')
    local = tmp_path / "local.gguf"
    local.symlink_to(smollm2())
    with serving(tmp_path / "log", "--config", file, "-m", local, *CAPACITY) as stranger:
        told = {model["id"]: model["replicas"] for model in stranger.http.get("/models").json()["data"]}
        until(lambda: "m" in told)
        [replica] = told["m"]
        assert replica["state"] in ("connecting", "unreachable") and replica["address"] == address
        refused = stranger.http.post("/v1/completions", json={"model": "m", "prompt": "x"})
        assert refused.status_code == 503
