
"""`corral ps`, `top` and `logs` against a gateway with mock workers."""

import asyncio
import json
import socket

import pytest

from router.commands.client import run
from router.commands.logs import logs
from router.commands.ps import ps
from router.commands.top import rates, top
from tests.router.api.clients import Gateway
from tests.router.gateways import config, running
from tests.router.mocks import DEADLINE


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")


def test_ps_shows_a_row_for_every_model(two: Gateway, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(ps, ["--url", two.url]) == 0
    head, *rows = capsys.readouterr().out.splitlines()
    assert head.split()[:3] == ["model", "aliases", "state"]
    assert [row.split()[0] for row in rows] == ["tiny", "other"]
    assert all("ready" in row for row in rows)


def test_ps_with_json_is_what_the_gateway_says(two: Gateway, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(ps, ["--url", two.url, "--json"]) == 0
    assert [model["name"] for model in json.loads(capsys.readouterr().out)["models"]] == ["tiny", "other"]


def test_the_address_and_the_key_may_come_from_the_environment(
    locked: Gateway, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CORRAL_URL", locked.url)
    assert run(ps, []) == 1
    assert capsys.readouterr().err == f"error: {locked.url} asks for a key: give --api-key, or $CORRAL_API_KEY\n"
    monkeypatch.setenv("CORRAL_API_KEY", "open sesame")
    assert run(ps, []) == 0


def test_where_no_gateway_is_the_error_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    for command in (ps, top, logs):
        assert run(command, ["--url", f"http://127.0.0.1:{port}"]) == 1
        error = capsys.readouterr().err
        assert error.startswith(f"error: no gateway answers at http://127.0.0.1:{port}; start one with `corral serve`")


def test_top_tells_tokens_per_second(two: Gateway, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(top, ["--url", two.url, "--json", "--count", "2", "--interval", "0.1"]) == 0
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert [model["tokens_per_second"] for model in first["models"]] == [None, None]
    assert [model["tokens_per_second"] for model in second["models"]] == [0, 0]
    assert run(top, ["--url", two.url, "--count", "1"]) == 0
    assert "tokens/s" in capsys.readouterr().out


def test_a_rate_is_of_one_worker() -> None:
    def look(pid: int | None, count: int | None) -> list[dict[str, object]]:
        return [{"name": "a", "pids": [pid], "predicted_tokens_total": count}]

    assert rates(look(1, 10), look(1, 30), 2.0) == {"a": 10.0}
    assert rates(look(1, 10), look(2, 30), 2.0) == {}
    assert rates(look(1, 10), look(1, None), 2.0) == {}
    assert rates([], look(1, 10), 2.0) == {}


@pytest.mark.anyio
async def test_logs_are_the_workers_lines_without_what_moves_a_cursor(capsys: pytest.CaptureFixture[str]) -> None:
    async with running(config("a", "b")) as gateway:
        gateway.app.state.fleet.output("a").add("red \x1b[31m line")
        where = ("--url", gateway.url)
        assert await asyncio.to_thread(run, logs, ["a", "-n", "1", *where]) == 0
        assert capsys.readouterr().out == "red ?[31m line\n"
        assert await asyncio.to_thread(run, logs, ["a", "--json", *where]) == 0
        assert json.loads(capsys.readouterr().out) == "red \x1b[31m line"
        assert await asyncio.to_thread(run, logs, ["absent", *where]) == 1
        assert "model 'absent' not found" in capsys.readouterr().err


@pytest.mark.anyio
async def test_logs_go_on_with_new_lines_until_the_gateway_ends_them(capsys: pytest.CaptureFixture[str]) -> None:
    async with running(config("a")) as gateway:
        output = gateway.app.state.fleet.output("a")
        output.add("old")
        following = asyncio.create_task(asyncio.to_thread(run, logs, ["a", "-f", "--url", gateway.url]))
        heard = ""
        async with asyncio.timeout(DEADLINE):
            while heard.count("new") < 2:  # the first may be among the old ones
                output.add("new")
                await asyncio.sleep(0.01)
                heard += capsys.readouterr().out
        gateway.app.state.fleet.begin_drain()
        assert await following == 0
    assert heard.startswith("old\nnew\n")
