# ruff: noqa: ASYNC110 (polling with a deadline)
"""Whole gateways for tests: the real application on a real port, with mock workers behind it."""

import asyncio
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import httpx
import uvicorn
from fastapi import FastAPI

from router.app import create_app
from router.config import GatewayConfig, ModelConfig
from router.observe.traces import Traces
from tests.router.mocks import DEADLINE, SUPERVISION, until


@dataclass
class Gateway:
    """A running gateway."""

    app: FastAPI
    url: str
    client: httpx.AsyncClient


def config(*names: str, options: Sequence[str] = (), **settings: object) -> GatewayConfig:
    """A configuration with one mock model per name; options go to every mock worker."""
    models = tuple(ModelConfig(Path(f"/models/{name}.gguf"), (name,), tuple(options)) for name in names)
    return replace(GatewayConfig(models=models, supervision=SUPERVISION), **settings)  # type: ignore[arg-type]


@asynccontextmanager
async def running(
    config: GatewayConfig, *, wait: bool = True, headers: dict[str, str] | None = None, traces: Traces | None = None
) -> AsyncIterator[Gateway]:
    """Serves on a free port of the loopback; with wait, once /health says ok."""
    app = create_app(config, None, traces)
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(
        uvicorn.Config(app, access_log=False, log_config=None, lifespan="on", timeout_graceful_shutdown=5)
    )
    server.capture_signals = nullcontext  # type: ignore[method-assign]
    task = asyncio.create_task(server.serve(sockets=[listener]))
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    try:
        async with httpx.AsyncClient(base_url=url, timeout=DEADLINE, headers=headers, trust_env=False) as client:
            await until(lambda: server.started or task.done())
            if wait:
                await healthy(client)
            yield Gateway(app, url, client)
    finally:
        server.should_exit = True
        await task


async def healthy(client: httpx.AsyncClient) -> None:
    async with asyncio.timeout(DEADLINE):
        while (await client.get("/health")).status_code != 200:
            await asyncio.sleep(0.01)
