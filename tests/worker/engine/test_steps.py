"""Steps: how a prompt is cut into them, how they are counted, and the cores they are computed on."""

import time

from tests.worker.engine.bench import Bench, alone
from worker.generation import Failed


def test_chunks_of_a_prompt_give_what_the_whole_prompt_gives():
    prompt = [2 + i % 40 for i in range(50)]
    with Bench(step_tokens=4) as bench:
        inbox = bench.submit(prompt, max_tokens=10)
        inbox.result()
    assert inbox.tokens == alone(prompt, max_tokens=10).tokens


def test_steps_are_counted_by_how_long_they_took():
    with Bench() as bench:
        bench.submit([3] * 5, max_tokens=10).result()
        bench.wait_until_idle()
        stats = bench.engine.stats()
    assert sum(stats.step_counts) == stats.num_steps > 9
    assert stats.step_seconds > 0


def test_the_time_in_line_is_told():
    with Bench(max_running=1) as bench:
        bench.model.gate.clear()
        first = bench.submit([3], max_tokens=1)
        assert bench.model.entered.wait(60)
        second = bench.submit([4], max_tokens=1)
        submitted, released = time.perf_counter(), time.perf_counter()
        bench.model.gate.set()
        assert second.result().queued_seconds >= released - submitted > 0
        assert first.result().prompt_seconds > 0


class CountedCores:
    """Notes when they were taken and given back."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.shared: list[bool] = []

    def step(self, *, shared: bool) -> "CountedCores":
        self.shared.append(shared)
        return self

    def __enter__(self) -> None:
        self.log.append("taken")

    def __exit__(self, *_: object) -> None:
        self.log.append("passed on")

    def release(self) -> None:
        self.log.append("released")


def test_every_step_is_computed_within_the_cores_and_an_idle_engine_releases_them():
    cores = CountedCores()
    with Bench(cores=cores) as bench:
        bench.submit([5, 6, 7], max_tokens=3).result()
        bench.wait_until(lambda stats: cores.log[-1] == "released")
        assert cores.log == ["released", *["taken", "passed on"] * 3, "released"]


def test_a_step_is_shared_unless_it_reads_a_prompt():
    cores = CountedCores()
    with Bench(cores=cores, step_tokens=4) as bench:
        bench.submit([5, 6, 7, 8, 9, 10], max_tokens=3).result()
    assert cores.shared == [False, False, True, True]


def test_a_step_that_fails_gives_the_cores_back():
    cores = CountedCores()
    with Bench(cores=cores) as bench:
        bench.model.fail_on = 9
        assert isinstance(bench.submit([9], max_tokens=3).result(), Failed)
        bench.wait_until(lambda stats: cores.log[-1] == "released")
        assert cores.log == ["released", "taken", "passed on", "released"]
