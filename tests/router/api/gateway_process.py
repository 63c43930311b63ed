"""A gateway with mock workers as a process of its own, so that tests talk to it as strangers do.

    python -m tests.router.api.gateway_process KEY MODEL...

Prints its port. An empty KEY means that none is asked for. Ends when its standard input does.
"""

import asyncio
import hashlib
import socket
import sys
from dataclasses import replace

import uvicorn

from router.app import create_app
from tests.router.gateways import config
from tests.router.mocks import SUPERVISION


async def serve(key: str, names: list[str]) -> None:
    digests = frozenset([hashlib.sha256(key.encode()).digest()]) if key else frozenset()
    listener = socket.create_server(("127.0.0.1", 0))
    supervision = replace(SUPERVISION, max_crashes=1000)  # many tests share this process, and crash its workers
    app = create_app(config(*names, key_digests=digests, supervision=supervision, metrics=True))
    server = uvicorn.Server(uvicorn.Config(app, access_log=False, timeout_graceful_shutdown=1))
    loop = asyncio.get_running_loop()
    loop.add_reader(sys.stdin, lambda: setattr(server, "should_exit", True))
    print(listener.getsockname()[1], flush=True)
    await server.serve(sockets=[listener])


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1], sys.argv[2:]))
