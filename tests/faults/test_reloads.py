"""`corral serve` whose file changes all the time, under requests that come all the time."""

import asyncio
from itertools import count
from pathlib import Path

import httpx
import pytest

from tests.router.mocks import DEADLINE
from tests.router.test_serve import Command, serving

pytestmark = pytest.mark.anyio

NUM_RELOADS = 20
PER_SECOND = 50


def text(number: int) -> str:
    """The file of a reload: an alias changes every time, a model's settings and another model now and then."""
    models = '[models.same]\npath = "same.gguf"\n[models.changing]\npath = "changing.gguf"\n'
    models += f"worker.ctx-size = {number // 4 + 1}\n"
    extra = '[models.extra]\npath = "extra.gguf"\n' if number % 5 < 2 else ""
    return f'{models}{extra}[aliases]\nchat = "{("same", "changing")[number % 2]}"\n'


async def keep_asking(client: httpx.AsyncClient, ended: asyncio.Event, wrong: list[str]) -> int:
    """So many requests a second, whether earlier ones are answered or not; how many there were."""

    async def ask(number: int) -> None:
        body = {"model": ("same", "changing", "chat")[number % 3], "prompt": "stop_at=3", "stream": number % 2 == 0}
        answer = await client.post("/v1/completions", json=body)
        if answer.status_code != 200 or ("[DONE]" if body["stream"] else "w0 w1 w2") not in answer.text:
            wrong.append(f"{answer.status_code} {answer.text}")

    clock = asyncio.get_running_loop().time
    began = clock()
    async with asyncio.TaskGroup() as tasks:
        for number in count():
            if ended.is_set():
                return number
            tasks.create_task(ask(number))
            await asyncio.sleep(max(0.0, began + (number + 1) / PER_SECOND - clock()))
    raise AssertionError


def same_worker(command: Command) -> int:
    [worker] = [each for each in command.workers() if any("same.gguf" in word for word in each.cmdline())]
    return worker.pid


@pytest.mark.slow
async def test_twenty_reloads_under_fifty_requests_a_second_fail_none(tmp_path: Path) -> None:
    """F33. A file with a mistake in between changes nothing, and a worker that nothing changes for stays."""
    for name in ("same", "changing", "extra"):
        (tmp_path / f"{name}.gguf").write_bytes(b"GGUF")
    file = tmp_path / "corral.toml"
    file.write_text(text(0))
    with serving("--config", str(file), "--no-watch") as command:
        url = await asyncio.to_thread(command.ready)
        before, ended, wrong = same_worker(command), asyncio.Event(), list[str]()
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(base_url=url, timeout=DEADLINE, trust_env=False, limits=limits) as client:
            asking = asyncio.create_task(keep_asking(client, ended, wrong))
            for number in range(1, NUM_RELOADS + 1):
                file.write_text("[models.same]\nttl = 1\n")
                assert (await client.post("/admin/reload")).status_code == 400
                file.write_text(text(number))
                assert (await client.post("/admin/reload")).status_code == 200
                await asyncio.sleep(1.0)  # as long as the rate of requests needs to mean something
            ended.set()
            assert await asking >= NUM_RELOADS * PER_SECOND
        assert wrong == []
        assert same_worker(command) == before
