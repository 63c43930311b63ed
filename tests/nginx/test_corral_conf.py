"""nginx/corral.conf in a real nginx, before two real gateways with mock workers."""

import json
import signal
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import pytest

from tests.nginx.proxy import Proxy, free_port, proxy
from tests.router.mocks import DEADLINE
from tests.router.test_serve import Command, serving, until
from tests.servers import require


@contextmanager
def gateway(folder: Path, port: int) -> Iterator[Command]:
    options = ("--metrics", "--port", str(port), "--lame-duck", "0.5", "--listen-when-ready")
    with serving("-m", str(folder / "tiny.gguf"), *options) as command:
        command.ready()
        until(lambda: listens(port))
        yield command


def listens(port: int) -> bool:
    with socket.socket() as caller:
        return caller.connect_ex(("127.0.0.1", port)) == 0


class Site:
    """An nginx, the gateways behind it, and a client that trusts it."""

    def __init__(self, running: Proxy, ports: list[int], gateways: list[Command]) -> None:
        self.proxy = running
        self.ports = ports
        self.gateways = gateways

    def client(self, *, keep_alive: bool = True) -> httpx.Client:
        """A client that keeps its connections may write into one that nginx is just closing, and cannot know."""
        trust = ssl.create_default_context(cafile=self.proxy.folder / "corral.crt")
        limits = httpx.Limits() if keep_alive else httpx.Limits(max_keepalive_connections=0)
        return httpx.Client(base_url=self.proxy.url, verify=trust, limits=limits, timeout=DEADLINE, trust_env=False)

    def num_running(self, number: int) -> int:
        """Requests at one gateway's worker."""
        slots = httpx.get(f"http://127.0.0.1:{self.ports[number]}/slots", trust_env=False).json()
        return sum(slot["is_processing"] for slot in slots)

    def num_served(self, number: int) -> int:
        text = httpx.get(f"http://127.0.0.1:{self.ports[number]}/metrics", trust_env=False).text
        lines = [
            line for line in text.splitlines() if line.startswith("corral_requests_total{") and "completion" in line
        ]
        return sum(int(float(line.split()[-1])) for line in lines)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    require("nginx", "openssl")
    (tmp_path / "tiny.gguf").touch()
    ports = [free_port(), free_port()]
    with ExitStack() as stack:
        gateways = [stack.enter_context(gateway(tmp_path, port)) for port in ports]
        running = stack.enter_context(proxy(tmp_path, [f"127.0.0.1:{port}" for port in ports]))
        yield Site(running, ports, gateways)


def test_the_first_token_passes_while_the_second_is_not_there_and_a_client_that_leaves_frees_the_worker(
    site: Site,
) -> None:
    """F41."""
    body = {"prompt": "delay=1000", "stream": True}
    with site.client() as client, client.stream("POST", "/v1/completions", json=body) as answer:
        lines = answer.iter_lines()
        first = next(line for line in lines if line.startswith("data: "))
        assert json.loads(first.removeprefix("data: "))["choices"][0]["text"] == "w0"
        assert site.num_running(0) + site.num_running(1) == 1
    until(lambda: site.num_running(0) + site.num_running(1) == 0)


def test_open_requests_spread_over_the_gateways(site: Site) -> None:
    with site.client() as client, ExitStack() as stack:
        for _ in range(4):
            stack.enter_context(client.stream("POST", "/completion", json={"prompt": "delay=1000", "stream": True}))
        assert [site.num_running(number) for number in range(2)] == [2, 2]


def test_a_request_that_no_gateway_has_seen_goes_to_the_other_one(site: Site) -> None:
    site.gateways[0].process.send_signal(signal.SIGKILL)
    site.gateways[0].end()
    with site.client() as client:
        answers = [client.post("/completion", json={"prompt": "stop_at=1"}) for _ in range(8)]
    assert [answer.status_code for answer in answers] == [200] * 8
    assert site.num_served(1) == 8


def test_a_request_that_was_sent_is_not_sent_again(site: Site) -> None:
    """F10. Its gateway dies with it: the client gets an error in the gateways' form, the other never sees it."""
    answers = []

    def ask() -> None:
        with site.client() as client:
            answers.append(client.post("/completion", json={"prompt": "delay=1000"}))

    asking = threading.Thread(target=ask)
    asking.start()
    until(lambda: site.num_running(0) + site.num_running(1) == 1)
    holder = 0 if site.num_running(0) else 1
    site.gateways[holder].process.send_signal(signal.SIGKILL)
    asking.join(DEADLINE)
    assert answers[0].status_code == 503
    assert answers[0].json()["error"]["message"] == "no gateway can answer now"
    assert site.num_served(1 - holder) == site.num_running(1 - holder) == 0


def test_reloads_of_nginx_and_a_restart_of_a_gateway_lose_nothing_under_load(site: Site) -> None:
    """F10, F41."""
    stopping = threading.Event()
    outcomes: list[object] = []

    def load(stream: bool) -> None:
        body = {"prompt": "stop_at=5 delay=0.005", "stream": stream}
        with site.client(keep_alive=False) as client:
            while not stopping.is_set():
                try:
                    answer = client.post("/v1/completions", json=body)
                    good = answer.status_code == 200 and (not stream or answer.text.endswith("data: [DONE]\n\n"))
                    outcomes.append(True if good else (answer.status_code, answer.text))
                except httpx.HTTPError as error:
                    outcomes.append(error)

    threads = [threading.Thread(target=load, args=(number % 2 == 0,)) for number in range(4)]
    for thread in threads:
        thread.start()
    try:
        site.proxy.reload()
        served = len(outcomes)
        until(lambda: len(outcomes) > served + 20)
        site.gateways[0].process.send_signal(signal.SIGTERM)
        assert site.gateways[0].end() == 0
        served = len(outcomes)
        until(lambda: len(outcomes) > served + 20)
        with gateway(site.proxy.folder, site.ports[0]):
            until(lambda: site.num_served(0) > 5)
            site.proxy.reload()
            served = len(outcomes)
            until(lambda: len(outcomes) > served + 20)
            stopping.set()
            for thread in threads:
                thread.join(DEADLINE)
    finally:
        stopping.set()
    assert [outcome for outcome in outcomes if outcome is not True] == []


def test_what_nginx_answers_itself_has_the_gateways_form(site: Site) -> None:
    with site.client() as client:
        large = client.post("/completion", content=b" " * (16 * 1024 * 1024 + 1))
        assert (large.status_code, large.json()["error"]["code"]) == (413, 413)
        for path in ("/metrics", "/admin/fleet", "/slots"):
            hidden = client.get(path)
            assert (hidden.status_code, hidden.json()["error"]["type"]) == (404, "not_found_error")
        for command in site.gateways:
            command.process.send_signal(signal.SIGKILL)
            command.end()
        nobody = client.get("/v1/models")
        assert (nobody.status_code, nobody.headers["retry-after"]) == (503, "2")
        assert nobody.json()["error"]["type"] == "unavailable_error"
    plain = httpx.post(f"{site.proxy.plain_url}/completion?x=1", trust_env=False)
    assert (plain.status_code, plain.headers["location"]) == (308, "https://localhost/completion?x=1")


def test_the_request_id_is_one_from_the_client_to_the_log(site: Site) -> None:
    with site.client() as client:
        assert client.get("/v1/models", headers={"x-request-id": "mine-1"}).headers["x-request-id"] == "mine-1"
        given = client.get("/v1/models").headers["x-request-id"]
    until(lambda: given in site.proxy.access())
    first, second = map(json.loads, site.proxy.access().splitlines()[-2:])
    assert (first["request_id"], second["request_id"]) == ("mine-1", given)
