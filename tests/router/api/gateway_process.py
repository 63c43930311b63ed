"""A gateway with mock workers as a process of its own, so that tests talk to it as strangers do.

    python -m tests.router.api.gateway_process KEY MODEL...

Prints its port. An empty KEY means that none is asked for. Ends when its standard input does.
"""

import asyncio
import socket
import sys
from dataclasses import replace

import uvicorn

from router.app import create_app
from router.keys.keys import full_key
from tests.router.gateways import config
from tests.router.mocks import SUPERVISION


async def serve(key: str, names: list[str]) -> None:
    keys = (full_key(key.encode()),) if key else ()
    listener = socket.create_server(("127.0.0.1", 0))
    supervision = replace(SUPERVISION, max_crashes=1000)  # many tests share this process, and crash its workers
    app = create_app(config(*names, keys=keys, supervision=supervision, metrics=True))
    server = uvicorn.Server(uvicorn.Config(app, access_log=False, timeout_graceful_shutdown=1))
    loop = asyncio.get_running_loop()
    loop.add_reader(sys.stdin, lambda: setattr(server, "should_exit", True))
    print(listener.getsockname()[1], flush=True)
    await server.serve(sockets=[listener])


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1], sys.argv[2:]))
