"""Prefixes and places: what was computed once is found again, in the cache, on disk or in a file."""

import numpy as np

from tests.worker.engine.bench import BLOCK, PROMPT, Bench, alone, in_engine
from worker.cache.kv_cache import chain
from worker.cache.prefix_store import PrefixStore
from worker.sampling.settings import Sampling


def test_a_prompt_read_before_is_not_computed_again():
    with Bench() as bench:
        bench.submit(PROMPT, max_tokens=1).result()
        before = bench.model.num_computed
        inbox = bench.submit(PROMPT, max_tokens=1)
        finished = inbox.result()
        assert bench.model.num_computed - before == 1
    assert inbox.events[0].num_cached_tokens == finished.num_cached_tokens == 32
    assert inbox.tokens == alone(PROMPT, max_tokens=1).tokens


def test_a_request_that_forbids_reuse_computes_everything():
    with Bench() as bench:
        bench.submit(PROMPT, max_tokens=1).result()
        inbox = bench.submit(PROMPT, max_tokens=1, cache_prompt=False)
        assert inbox.result().num_cached_tokens == 0


def stored(folder, **changes) -> Bench:
    return Bench(store=PrefixStore(folder, bytes(32), 1 << 20), **changes)


def test_a_prefix_survives_the_engine(tmp_path):
    with stored(tmp_path) as bench:
        bench.submit(PROMPT, max_tokens=4).result()
    with stored(tmp_path) as bench:
        inbox = bench.submit(PROMPT, max_tokens=4)
        assert inbox.result().num_cached_tokens == 32
        assert bench.model.num_computed == 1 + 3
        bench.wait_until_idle()
    assert inbox.tokens == alone(PROMPT, max_tokens=4).tokens


def test_a_prefix_that_was_evicted_comes_back_from_disk(tmp_path):
    with stored(tmp_path, num_blocks=16) as bench:
        bench.submit(PROMPT, max_tokens=4).result()
        bench.wait_until(lambda _: len(list(tmp_path.glob("*/*.kv"))) == 9)
        for i in range(4):
            bench.submit([40 + i] * 50, max_tokens=1).result()
        inbox = bench.submit(PROMPT, max_tokens=4)
        assert inbox.result().num_cached_tokens == 32
    assert inbox.tokens == alone(PROMPT, max_tokens=4).tokens


def test_damaged_files_cost_time_and_nothing_else(tmp_path):
    with stored(tmp_path) as bench:
        bench.submit(PROMPT, max_tokens=4).result()
    for number, file in enumerate(sorted(tmp_path.glob("*/*.kv"))):
        file.write_bytes(file.read_bytes()[: -1 - number] + b"?" * (number + 1))
    with stored(tmp_path) as bench:
        inbox = bench.submit(PROMPT, max_tokens=4)
        assert inbox.result().num_cached_tokens == 0
    assert inbox.tokens == alone(PROMPT, max_tokens=4).tokens


def test_a_request_may_leave_while_its_prefix_is_read(tmp_path):
    with stored(tmp_path) as bench:
        bench.submit(PROMPT, max_tokens=4).result()
    with stored(tmp_path) as bench:
        bench.submit(PROMPT, max_tokens=-1)
        bench.engine.cancel(bench.last)
        assert bench.submit([3], max_tokens=2).result().num_completion_tokens == 2
        bench.wait_until_idle()


def test_a_request_that_forbids_reuse_is_neither_stored_nor_looked_up(tmp_path):
    with stored(tmp_path) as bench:
        bench.submit(PROMPT, max_tokens=4, cache_prompt=False).result()
    assert not list(tmp_path.glob("*/*.kv"))


def test_numbers_of_places_start_anew_behind_the_last_one():
    with Bench() as bench:
        bench.submit([3], max_tokens=1, wanted_place=6).result()
        [state] = in_engine(bench, bench.engine.places.states)
    assert state.number == 2


def test_places_tell_what_their_latest_request_came_to():
    with Bench() as bench:
        bench.submit(PROMPT, max_tokens=4, wanted_place=2).result()
        bench.submit(PROMPT, max_tokens=2, wanted_place=2).result()
        bench.wait_until_idle()
        [state] = in_engine(bench, bench.engine.places.states)
    assert (state.number, state.task, state.is_running) == (2, 1, False)
    assert (state.num_prompt_tokens, state.num_prompt_computed, state.num_cached_tokens) == (33, 1, 32)
    assert (state.num_predicted, state.num_remaining, state.max_tokens, state.sampling) == (2, 0, 2, Sampling(1))


def test_a_running_place_says_so():
    with Bench() as bench:
        bench.submit([3] * 5, max_tokens=-1).wait_for(lambda inbox: len(inbox.tokens) > 2)
        [state] = in_engine(bench, bench.engine.places.states)
        assert state.is_running and state.num_predicted >= 2


def test_a_saved_place_is_found_again_in_another_engine():
    with Bench() as bench:
        bench.submit(PROMPT, max_tokens=4).result()
        saved = bench.engine.carry_out(bench.engine.places.copy(0)).result(60)
    assert list(saved.tokens[:33]) == PROMPT and len(saved.tokens) == BLOCK * len(saved.blocks) == 36
    with Bench() as bench:
        bench.engine.carry_out(bench.engine.places.fill(3, saved)).result(60)
        inbox = bench.submit(PROMPT, max_tokens=4)
        assert inbox.result().num_cached_tokens == 32
        assert bench.engine.carry_out(bench.engine.places.copy(3)).result(60) == saved
    assert inbox.tokens == alone(PROMPT, max_tokens=4).tokens


def test_an_erased_place_leaves_nothing_to_reuse():
    with Bench() as bench:
        bench.submit(PROMPT, max_tokens=4).result()
        assert in_engine(bench, lambda: bench.engine.places.erase(0)) == 37
        assert in_engine(bench, lambda: bench.engine.places.erase(0)) == 0
        assert bench.submit(PROMPT, max_tokens=4).result().num_cached_tokens == 0


def test_it_tells_how_much_of_a_prefix_is_held_in_the_cache_or_on_disk(tmp_path):
    names = chain(np.array([*PROMPT[:8], *range(2, 14)], np.int32), 4)
    with Bench(store=PrefixStore(tmp_path, bytes(32), 1 << 20)) as bench:
        assert bench.engine.prefixes.num_held(names) == 0
        bench.submit(PROMPT, max_tokens=1).result()
        assert bench.engine.prefixes.num_held(names) == 2
    with Bench(store=PrefixStore(tmp_path, bytes(32), 1 << 20)) as reborn:
        assert reborn.engine.prefixes.num_held(names) == 2
    with Bench() as forgetful:
        assert forgetful.engine.prefixes.num_held(names) == 0
