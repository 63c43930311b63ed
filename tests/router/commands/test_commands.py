"""`corral ps`, `top` and `logs` against a gateway with mock workers."""

import asyncio
import io
import json
import socket

import pytest
from rich.console import Console

from router.commands.client import run
from router.commands.logs import logs
from router.commands.ps import ps
from router.commands.table import fleet_table
from router.commands.top import top
from tests.router.api.clients import Gateway
from tests.router.gateways import config, running
from tests.router.mocks import DEADLINE


def test_ps_shows_a_row_for_every_model(two: Gateway, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(ps, ["--url", two.url]) == 0
    head, *rows = capsys.readouterr().out.splitlines()
    assert head.split()[:3] == ["model", "state", "pid"]
    assert [row.split()[0] for row in rows] == ["tiny", "other"]
    assert all("ready" in row for row in rows)


def test_ps_with_json_is_what_the_gateway_says(two: Gateway, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(ps, ["--url", two.url, "--json"]) == 0
    assert [model["name"] for model in json.loads(capsys.readouterr().out)["models"]] == ["tiny", "other"]


BUSY = {
    "name": "a-model-with-a-very-long-name-of-its-own",
    "aliases": ["one-name", "another-name"],
    "state": "unreachable",
    "pids": [1234567, 1234568, 1234569],
    "running": 16,
    "waiting": 512,
    "crashes": 3,
    "resident_bytes": 12_345_000_000,
    "predicted_tokens_total": 1_234_567,
    "tokens_per_second": 98.7,
    "reason": "no answer from 10.0.0.7:9000",
}


def test_a_narrow_terminal_breaks_names_and_cuts_no_figure() -> None:
    narrow = Console(width=100, force_terminal=True, color_system=None, file=io.StringIO())
    narrow.print(fleet_table([BUSY]))
    printed = narrow.file.getvalue()  # type: ignore[attr-defined]
    for figure in ("unreachable", "16", "512", "12345 MB", "1234567 ", "98.7", "running", "waiting", "tokens/s"):
        assert figure in printed
    assert "…" not in printed


def test_a_pipe_gets_one_whole_line_for_each_model(
    two: Gateway, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("router.commands.ps.fleet_table", lambda models: fleet_table([BUSY, *models]))
    assert run(ps, ["--url", two.url]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    assert "one-name another-name" in lines[1] and lines[1].rstrip().endswith("no answer from 10.0.0.7:9000")


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


def test_top_looks_again_and_again(two: Gateway, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(top, ["--url", two.url, "--json", "--count", "2", "--interval", "0.1"]) == 0
    looks = [json.loads(line)["models"] for line in capsys.readouterr().out.splitlines()]
    assert [[model["tokens_per_second"] for model in look] for look in looks] == [[0, 0], [0, 0]]
    assert run(top, ["--url", two.url, "--count", "1"]) == 0
    head, *rows = capsys.readouterr().out.splitlines()
    assert "tokens/s" in head and all(row.split()[-1] == "0.0" for row in rows)


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
