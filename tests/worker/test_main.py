"""The worker as a process: how it starts, what it says when it cannot, how it ends."""

import json
import math
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from protos import inference_pb2 as pb
from protos import inference_pb2_grpc
from tests.fixtures_gguf import write_tiny_llama
from tests.secretfiles import write_secret
from worker.gguf import GGUF

pytestmark = pytest.mark.timeout(900)

DEADLINE = 600  # the first start ever compiles the kernels


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return write_tiny_llama(tmp_path_factory.mktemp("model") / "tiny.gguf")


def command(model: Path, listen: str, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "worker", "-m", str(model), "--listen", listen, "--threads", "1", *arguments]


@contextmanager
def running(model: Path, folder: Path, *arguments: str, **options):
    """A worker process and the address it is given; nothing is left of it afterwards."""
    listen = f"unix:{folder}/worker.sock"
    with open(folder / "stderr", "wb") as stderr:
        process = subprocess.Popen(command(model, listen, *arguments), stderr=stderr, **options)
    try:
        yield process, listen
    finally:
        process.kill()
        process.wait()


def wait_until_serving(process: subprocess.Popen, listen: str) -> None:
    deadline = time.monotonic() + DEADLINE
    with grpc.insecure_channel(listen, options=(("grpc.use_local_subchannel_pool", 1),)) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        while True:
            assert process.poll() is None and time.monotonic() < deadline
            try:
                reply = health.Check(health_pb2.HealthCheckRequest(), timeout=5, wait_for_ready=True)
            except grpc.RpcError:
                continue
            if reply.status == health_pb2.HealthCheckResponse.SERVING:
                return
            time.sleep(0.01)


def request(max_tokens: int) -> pb.GenerateRequest:
    parts = pb.PromptParts(parts=[{"text": "once upon a time"}])
    sampling = pb.Sampling(temperature=0, top_p=1, repeat_penalty=1, ignore_eos=True)
    return pb.GenerateRequest(prompt=pb.Prompt(parts=parts), sampling=sampling, max_tokens=max_tokens)


def refusal(*arguments: str, model: Path, listen: str) -> str:
    """The one line that a worker which cannot start leaves."""
    ended = subprocess.run(command(model, listen, *arguments), capture_output=True, text=True, timeout=DEADLINE)
    assert ended.returncode == 2
    assert "Traceback" not in ended.stderr
    (line,) = [line for line in ended.stderr.splitlines() if not line.startswith("{")]
    assert line.startswith("error: ")
    return line


def test_a_worker_says_how_far_it_is_serves_and_ends_clean(model, tmp_path):
    with running(model, tmp_path, "--ctx-size", "128", "--context-shift") as (process, listen):
        wait_until_serving(process, listen)
        with grpc.insecure_channel(listen) as channel:
            stub = inference_pb2_grpc.InferenceStub(channel)
            facts = stub.Describe(pb.DescribeRequest())
            assert (facts.architecture, facts.context_length, facts.trained_context_length) == ("llama", 128, 256)
            assert facts.shifts_context
            replies = list(stub.Generate(request(max_tokens=8), timeout=DEADLINE))
            assert replies[-1].finished.num_completion_tokens == 8
            assert list(stub.Generate(request(max_tokens=8)))[-1].finished.reason == pb.LENGTH
        process.send_signal(signal.SIGTERM)
        assert process.wait(DEADLINE) == 0
    lines = (tmp_path / "stderr").read_text().splitlines()
    progress = [json.loads(line) for line in lines if line.startswith("{")]
    assert {line["event"] for line in progress} == {"progress"}
    assert progress[-1]["progress"] == 1.0 and all(line["stage"] for line in progress)
    assert not (tmp_path / "worker.sock").exists()


def test_sigterm_lets_an_open_answer_finish(model, tmp_path):
    with running(model, tmp_path) as (process, listen):
        wait_until_serving(process, listen)
        with grpc.insecure_channel(listen) as channel:
            stream = inference_pb2_grpc.InferenceStub(channel).Generate(request(max_tokens=200), timeout=DEADLINE)
            next(stream)
            process.send_signal(signal.SIGTERM)
            assert list(stream)[-1].finished.num_completion_tokens == 200
        assert process.wait(DEADLINE) == 0


def test_two_hundred_callers_that_leave_take_no_block_with_them(model, tmp_path):
    with running(model, tmp_path, "--ctx-size", "256", "-np", "4") as (process, listen):
        wait_until_serving(process, listen)
        with grpc.insecure_channel(listen) as channel:
            stub = inference_pb2_grpc.InferenceStub(channel)
            streams = [stub.Generate(request(max_tokens=200), timeout=DEADLINE) for _ in range(200)]
            next(streams[0])
            for stream in streams:
                stream.cancel()
            assert list(stub.Generate(request(max_tokens=8), timeout=DEADLINE))[-1].HasField("finished")
            deadline = time.monotonic() + DEADLINE
            while (stats := stub.Stats(pb.StatsRequest())).num_running + stats.num_waiting:
                assert time.monotonic() < deadline
                time.sleep(0.01)
            assert stats.num_free_blocks + stats.num_cached_blocks == stats.num_blocks == 16 + 4


def test_a_worker_ends_when_its_parent_does(model, tmp_path):
    reading, writing = os.pipe()
    with running(model, tmp_path, "--parent-fd", str(reading), pass_fds=(reading,)) as (process, listen):
        os.close(reading)
        wait_until_serving(process, listen)
        os.close(writing)
        assert process.wait(DEADLINE) == 1


def test_sigterm_while_loading_ends_at_once_and_cleanly(model, tmp_path):
    slow = dict(os.environ, CORRAL_CACHE=str(tmp_path / "cache"))  # nothing compiled yet
    with running(model, tmp_path, env=slow) as (process, _):
        deadline = time.monotonic() + DEADLINE
        while b"compiling" not in (tmp_path / "stderr").read_bytes():
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        assert process.wait(DEADLINE) == 0
    assert b"Traceback" not in (tmp_path / "stderr").read_bytes()


def test_a_missing_file_is_named(tmp_path):
    line = refusal(model=tmp_path / "absent.gguf", listen=f"unix:{tmp_path}/s")
    assert "absent.gguf" in line and "No such file" in line
    assert not (tmp_path / "s").exists()


def test_a_damaged_file_is_named(model, tmp_path):
    damaged = tmp_path / "damaged.gguf"
    damaged.write_bytes(model.read_bytes()[:5000])
    assert str(damaged) in refusal(model=damaged, listen=f"unix:{tmp_path}/s")


def test_a_port_in_use_is_named(model):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        assert listen in refusal(model=model, listen=listen)


def test_an_empty_token_file_is_refused(model, tmp_path):
    token = write_secret(tmp_path / "token", "\n")
    assert "no token" in refusal("--token-file", str(token), model=model, listen=f"unix:{tmp_path}/s")


@pytest.mark.parametrize("flag", ["--token-file", "--tls-key"])
def test_a_secret_that_others_may_read_is_refused_with_the_command_to_run(model, tmp_path, flag):
    file = write_secret(tmp_path / "secret", "s")
    file.chmod(0o644)
    flags = (flag, str(file), *(("--tls-cert", str(file)) if flag == "--tls-key" else ()))
    said = refusal(*flags, model=model, listen=f"unix:{tmp_path}/s")
    assert "(mode 0644)" in said and f"chmod 600 {file}" in said


def test_a_cache_type_that_cannot_be_had_is_named_with_those_that_can(model, tmp_path):
    line = refusal("--cache-type-k", "q5_1", model=model, listen=f"unix:{tmp_path}/s")
    assert "'q5_1'" in line and "f16" in line and "--cache-type-k" in line


def test_a_tensor_that_holds_no_number_is_named_if_that_is_checked(model, tmp_path):
    damaged = tmp_path / "damaged.gguf"
    content = bytearray(model.read_bytes())
    with GGUF.open(model) as gguf:
        offset = gguf.tensors["output_norm.weight"].offset
    content[offset + 12 : offset + 16] = struct.pack("<f", math.nan)
    damaged.write_bytes(content)
    line = refusal("--check-tensors", model=damaged, listen=f"unix:{tmp_path}/s")
    assert "tensor output_norm.weight (F32): the value at [3] is no finite number" in line
