"""llama-server's flags for workers, on a command line, do their work in a real server."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.serving import Serving, serving
from tests.models import smollm2
from tests.parity import oracle
from tests.parity.record_rope import FLAGS, RECORD
from tests.worker.test_main import running, wait_until_serving
from worker.kernels.jit import cache_folder

pytestmark = pytest.mark.timeout(600)

CONTEXT = 16384  # twice what the model was trained for
# What a replica has for itself: Python and numba 50 MiB, the vocabulary 30, machine code 15, buffers of a step 10.
# Two replicas are below 1.3 times one for models whose weights are about 250 MiB or more; SmolLM2's are 92.
OWN_BYTES = 125 << 20
MEMORY = "--no-mmap --mlock --numa --check-tensors -t 1 -tb 2 -b 2048 -ub 128 -fa off -ctk f16 -ctv f16"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    flags = f"{FLAGS['yarn']} -c {CONTEXT} {MEMORY} --no-prefill-assistant".split()
    with serving(tmp_path_factory.mktemp("flags") / "log", "-m", smollm2(), *flags) as started:
        yield started


def test_a_stretched_model_answers_as_the_peer_with_the_same_flags(served: Serving) -> None:
    recorded = oracle.load(RECORD)
    (case,) = (case for case in recorded.cases if case.name == "yarn")
    verdict = oracle.compare(case, oracle.ask(served.http, case), recorded.end_tokens)
    assert not verdict.fault, verdict


def test_a_stretched_model_has_more_context_than_it_was_trained_for(served: Serving) -> None:
    assert served.http.get("/props").json()["default_generation_settings"]["n_ctx"] == CONTEXT
    assert f"--ctx-size {CONTEXT} goes beyond the 8192 positions" in served.log.read_text()


def test_a_prompt_of_megabytes_is_refused_with_both_numbers(served: Serving) -> None:
    answer = served.http.post("/completion", json={"prompt": "word " * (1 << 20)})
    error = answer.json()["error"]
    assert (answer.status_code, error["type"]) == (400, "exceed_context_size_error")
    assert error["n_ctx"] == CONTEXT and error["n_prompt_tokens"] > CONTEXT
    assert f"at least {error['n_prompt_tokens']} tokens" in error["message"]


def test_a_last_answer_is_not_continued_where_the_server_was_told_so(served: Serving) -> None:
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Well"}]
    prompt = served.http.post("/apply-template", json={"messages": messages}).json()["prompt"]
    assert prompt.endswith("<|im_start|>assistant\nWell<|im_end|>\n<|im_start|>assistant\n")


def test_the_log_says_what_a_flag_means_on_this_machine(served: Serving) -> None:
    log = served.log.read_text()
    assert "no effect: -fa (attention never stores its scores" in log
    assert re.search(r"--numa distribute: (this process has one node|\d+ threads on \d+ nodes)", log)


def test_weights_that_are_not_mapped_are_in_the_workers_own_memory(served: Serving) -> None:
    (worker,) = served.workers()
    assert ".panels" not in Path(f"/proc/{worker.pid}/maps").read_text()


def test_a_flag_with_a_wrong_value_is_refused_before_anything_starts() -> None:
    command = [sys.executable, "-m", "router", "serve", "-m", smollm2(), "--rope-scale", "0"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (2, "error: --rope-scale must be at least 1e-06, but is 0\n")


# ---- replicas ---------------------------------------------------------------------------------


def proportional_bytes(pid: int, part: str = "") -> int:
    """PSS of a process: of all its memory, or of the files whose path has `part` in it."""
    name = "smaps" if part else "smaps_rollup"
    mappings = re.split(r"^(?=[0-9a-f]+-[0-9a-f]+ )", Path(f"/proc/{pid}/{name}").read_text(), flags=re.M)
    return sum(
        int(found[1]) * 1024
        for mapping in mappings
        if part in mapping.partition("\n")[0] and (found := re.search(r"^Pss:\s+(\d+) kB", mapping, re.M))
    )


def test_a_second_replica_shares_the_weights_of_the_first(tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "kernels").symlink_to(cache_folder() / "kernels")  # but panels that nobody else maps
    environment = os.environ | {"CORRAL_CACHE": str(tmp_path / "cache")}
    folders = [tmp_path / "first", tmp_path / "second"]
    for folder in folders:
        folder.mkdir()
    with running(smollm2(), folders[0], env=environment) as (first, first_listen):
        wait_until_serving(first, first_listen)
        alone, weights = proportional_bytes(first.pid), proportional_bytes(first.pid, ".panels")
        with running(smollm2(), folders[1], env=environment) as (second, second_listen):
            wait_until_serving(second, second_listen)
            both = proportional_bytes(first.pid) + proportional_bytes(second.pid)
            shared = sum(proportional_bytes(each.pid, ".panels") for each in (first, second))
    told = f"one: {alone >> 20} MiB, {weights >> 20} of weights; two: {both >> 20} MiB, {shared >> 20} of weights"
    assert weights > 0.9 * smollm2().stat().st_size, told
    assert abs(shared - weights) < 0.02 * weights, told
    assert both - alone < OWN_BYTES, told
