# ruff: noqa: ASYNC110 (polling with a deadline)
"""A worker without a model, for tests of the gateway: a real process that speaks the real protocol.

    python -m tests.router.mock_worker -m FILE --listen unix:PATH --parent-fd N [options]
    python -m tests.router.mock_worker -m FILE --nursery N [options]

It answers with the words w0 w1 w2 ..., one token each, token ids 0 1 2 ..., and goes on after tokens it is given.
Its behaviour follows from the options and from directives in the text of the prompt, so a test chooses per request:
    crash_after=N   dies (SIGKILL) after N tokens; with crash_once=PATH only if PATH can be created
    end_after=N     ends the stream without Finished after N tokens
    refuse=CODE     fails with that ErrorCode, as refuse=CONTEXT_EXCEEDED
    delay=SECONDS   between tokens
    tell=NAME       answers with the value that its sampling has for this field
    field=NAME      answers with what this field of the request says
    only_on=NAME    all of this is for the model of that name; the others answer as usual
    stop_at=N       ends by itself after N tokens (else after 8, or max_tokens)
"""

import argparse
import asyncio
import os
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

import grpc
import uvloop
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from protos import inference_pb2_grpc
from tests.router.mock_inference import MockInference
from worker.nursery import tend
from worker.process import take_name


def follow_parent(file_number: int) -> None:
    """End of file on the pipe means that the gateway is gone."""

    def gone() -> None:
        if not os.read(file_number, 1):
            os.kill(os.getpid(), signal.SIGKILL)

    asyncio.get_running_loop().add_reader(file_number, gone)


async def serve(arguments: argparse.Namespace) -> None:
    if arguments.parent_fd is not None:
        follow_parent(arguments.parent_fd)
    server = grpc.aio.server()
    inference = MockInference(arguments)
    inference_pb2_grpc.add_InferenceServicer_to_server(inference, server)
    report = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(report, server)
    await report.set("", health_pb2.HealthCheckResponse.NOT_SERVING)
    server.add_insecure_port(arguments.listen)
    await server.start()
    for step in range(1, 5):
        print(f'{{"progress": {step / 4}, "stage": "loading"}}', file=sys.stderr, flush=True)
        await asyncio.sleep(arguments.load_seconds / 4)
    if arguments.hold is not None:
        while not arguments.hold.exists():
            await asyncio.sleep(0.01)
    await report.set("", health_pb2.HealthCheckResponse.SERVING)
    stopping = asyncio.Event()
    if not arguments.ignore_sigterm:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    else:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    await stopping.wait()
    await report.enter_graceful_shutdown()
    with suppress(TimeoutError):
        async with asyncio.timeout(arguments.grace):
            while inference.num_running:
                await asyncio.sleep(0.01)
    for stream in inference.streams:
        stream.end()
    await server.stop(1.0)


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("-m", "--model", type=Path, required=True)
    parser.add_argument("--listen")
    parser.add_argument("--nursery", type=int)
    parser.add_argument("--parent-fd", type=int)
    parser.add_argument("--ctx-size", type=int, default=0)
    parser.add_argument("--parallel", type=int, default=4)
    parser.add_argument("--architecture", default="mock", help="that it describes")
    parser.add_argument("--load-seconds", type=float, default=0.0)
    parser.add_argument("--load-slowly", action="store_true", help="a nursery that is never ready")
    parser.add_argument("--hold", type=Path, help="serve only once this file exists")
    parser.add_argument("--exit-code", type=int, help="end at once with this status")
    parser.add_argument("--bad-model", help="end like a worker that cannot read a model whose path contains this")
    parser.add_argument("--grace", type=float, default=0.0, help="seconds for open calls after SIGTERM")
    parser.add_argument("--ignore-sigterm", action="store_true")
    return parser.parse_known_args(arguments)[0]


def main() -> None:
    arguments = parse(sys.argv[1:])
    if arguments.bad_model and arguments.bad_model in str(arguments.model):
        print(f"error: {arguments.model}: not a GGUF file", file=sys.stderr)
        sys.exit(2)
    if arguments.exit_code is not None:
        print("going down", file=sys.stderr)
        sys.exit(arguments.exit_code)
    if arguments.nursery is not None:
        take_name("corral-nursery")
        if arguments.load_slowly:
            time.sleep(600)
        tend(arguments.nursery, live)
    uvloop.run(serve(arguments))


def live(arguments: list[str]) -> NoReturn:
    take_name("corral-worker")
    uvloop.run(serve(parse(arguments)))
    os._exit(0)


if __name__ == "__main__":
    main()
