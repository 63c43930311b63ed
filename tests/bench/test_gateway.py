"""What the gateway's cost is computed from."""

import asyncio
import subprocess
import sys

from bench import gateway


def test_the_table_shows_medians_by_process() -> None:
    figures = gateway.Figures([1.0, 9.0, 2.0], [3.0, 4.0, 30.0], [10.0, 12.0, 11.0], [[5.0, 1.0]] * 3, [[2.0]] * 3)
    options = gateway._parser().parse_args([])
    assert gateway.as_markdown({"corral": figures}, options).splitlines()[-1] == (
        "| corral | 2.00 | 4.00 | 11 | 6 (5 + 1) | 2 |"
    )


def test_a_slow_answer_is_charged_for_the_requests_that_it_holds_up() -> None:
    slow_seconds, num_calls = 0.05, 0

    async def call() -> None:
        nonlocal num_calls
        num_calls += 1
        await asyncio.sleep(slow_seconds if num_calls == 1 else 0.0)

    options = gateway._parser().parse_args(["--rate", "1000", "--seconds", "0.01"])
    seconds = asyncio.run(gateway._latencies([call], options))
    assert len(seconds) == num_calls == 10
    assert seconds[0] > slow_seconds - 0.01  # the last one was due that much later than the first


def test_a_run_measures_a_real_gateway() -> None:
    """As a process of its own: its event loop and gRPC's are not for sharing with other tests."""
    arguments = ["--rounds", "1", "--seconds", "0.1", "--streams", "2", "--tokens", "4", "--connections", "2"]
    command = [sys.executable, "-m", "bench.gateway", *arguments, "--rate", "100"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=200)
    name, *cells = done.stdout.splitlines()[-1].strip("| ").split(" | ")
    assert name == "corral" and len(cells) == 5
