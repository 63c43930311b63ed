"""Prefixes that are copied out of the cache or into it while answers are computed."""

import pytest

from tests.worker.engine.bench import BLOCK, PROMPT, Bench, alone, in_engine
from worker.cache.prefix_store import PrefixStore
from worker.errors import InvalidRequest

AT_ONCE = 4
LONG = [2 + i % 41 for i in range(40 * BLOCK)]
ROOMY = {"context_length": 256, "num_blocks": 128, "step_tokens": 32}


def watch(bench: Bench) -> list[str]:
    """Notes, in order, what is done with the model from now on."""
    done: list[str] = []

    def noting(method):
        def called(*arguments):
            done.append(method.__name__)
            return method(*arguments)

        return called

    for name in ("forward", "read_block", "write_block"):
        setattr(bench.model, name, noting(getattr(bench.model, name)))
    return done


def longest_run(done: list[str], what: str) -> int:
    """How often something was done without a step between."""
    return max(len(part) for part in "".join("x" if name == what else " " for name in done).split())


def copy(bench: Bench, number: int):
    return bench.engine.carry_out(bench.engine.places.copy(number))


def fill(bench: Bench, number: int, saved):
    return bench.engine.carry_out(bench.engine.places.fill(number, saved))


def test_a_running_answer_goes_on_while_a_place_is_saved_and_restored():
    with Bench(**ROOMY) as bench:
        bench.submit(LONG, max_tokens=1, wanted_place=0).result()
        running = bench.submit([3], max_tokens=-1, wanted_place=1)
        generation = bench.last
        running.wait_for(lambda inbox: len(inbox.tokens) > 1)
        done = watch(bench)
        saved = copy(bench, 0).result(60)
        assert done.count("read_block") == len(saved.blocks) == 40 and longest_run(done, "read_block") == AT_ONCE
        in_engine(bench, lambda: bench.engine.places.erase(0))
        fill(bench, 2, saved).result(60)
        assert done.count("write_block") == 40 and longest_run(done, "write_block") == AT_ONCE
        bench.engine.cancel(generation)
        assert bench.submit(LONG, max_tokens=4).result().num_cached_tokens == len(LONG) - BLOCK


def test_a_running_answer_goes_on_while_a_prefix_comes_from_disk(tmp_path):
    with Bench(store=PrefixStore(tmp_path, bytes(32), 1 << 20), **ROOMY) as bench:
        bench.submit(LONG, max_tokens=1).result()
    with Bench(store=PrefixStore(tmp_path, bytes(32), 1 << 20), **ROOMY) as bench:
        bench.submit([3], max_tokens=-1).wait_for(lambda inbox: len(inbox.tokens) > 1)
        running, done = bench.last, watch(bench)
        assert bench.submit(LONG, max_tokens=1).result().num_cached_tokens == len(LONG) - BLOCK
        assert done.count("write_block") == 39 and longest_run(done, "write_block") == AT_ONCE
        bench.engine.cancel(running)


def test_what_is_being_saved_is_not_pushed_out_by_others():
    with Bench(**ROOMY | {"num_blocks": 64}) as bench:
        bench.submit(LONG, max_tokens=1, wanted_place=0).result()
        bench.model.gate.clear()
        bench.model.entered.clear()
        others = [bench.submit([40 + i, 3] * 50, max_tokens=20, wanted_place=i) for i in range(1, 4)]
        assert bench.model.entered.wait(60)
        saving = copy(bench, 0)
        bench.model.gate.set()
        assert len(saving.result(60).blocks) == 40
        for inbox in others:
            assert inbox.result().num_completion_tokens == 20
        bench.wait_until_idle()


def test_a_copy_that_would_keep_blocks_from_those_who_run_is_made_at_once():
    with Bench(**ROOMY | {"num_blocks": 48, "context_length": 192}) as bench:
        bench.submit(LONG, max_tokens=1, wanted_place=0).result()
        running = bench.submit([3], max_tokens=-1, wanted_place=1)
        running.wait_for(lambda inbox: len(inbox.tokens) > 1)
        done = watch(bench)
        copy(bench, 0).result(60)
        assert longest_run(done, "read_block") == 40
        bench.engine.cancel(bench.last)


def test_a_request_that_needs_the_whole_cache_is_served_while_it_is_saved():
    with Bench() as bench:
        bench.submit(PROMPT, max_tokens=4, wanted_place=0).result()
        saving = copy(bench, 0)
        whole = bench.submit([5] * 60, max_tokens=-1, wanted_place=1)
        assert len(saving.result(60).blocks) == 9
        assert whole.result().num_completion_tokens == 4
        bench.wait_until_idle()
    assert whole.tokens == alone([5] * 60, max_tokens=4).tokens


def test_what_the_model_failed_at_while_it_was_saved_is_not_saved():
    with Bench(**ROOMY) as bench:
        bench.model.fail_on = 1
        bench.submit(LONG, max_tokens=-1, wanted_place=0).wait_for(lambda inbox: len(inbox.tokens) > 1)
        bench.model.gate.clear()
        bench.model.entered.clear()
        assert bench.model.entered.wait(60)
        saving, failing = copy(bench, 0), bench.submit([*LONG[:80], 1], max_tokens=1)
        bench.model.gate.set()
        assert len(saving.result(60).blocks) < 40
        assert failing.has_ended
        bench.wait_until_idle()


def test_a_place_that_is_saved_while_the_engine_ends_is_saved():
    with Bench(**ROOMY) as bench:
        bench.submit(LONG, max_tokens=1).result()
        saving = copy(bench, 0)
    assert len(saving.result(60).blocks) == 40


def test_a_place_that_nobody_has_cannot_be_saved():
    with Bench() as bench, pytest.raises(InvalidRequest, match="Invalid slot ID"):
        copy(bench, 4).result(60)


def test_work_that_nobody_waits_for_any_more_is_left_out():
    with Bench(**ROOMY) as bench:
        bench.submit(LONG, max_tokens=1).result()
        bench.model.gate.clear()
        bench.model.entered.clear()
        bench.submit([3], max_tokens=1)
        assert bench.model.entered.wait(60)
        done, saving = watch(bench), copy(bench, 0)
        assert saving.cancel()
        bench.model.gate.set()
        assert in_engine(bench, lambda: "read_block" not in done)
