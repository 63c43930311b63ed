"""Requests that are cancelled, refused or fail, and an engine that ends."""

import threading

import pytest

from tests.worker.engine.bench import Bench, alone
from worker.engine import ComputeFailed
from worker.errors import InvalidRequest, Overloaded, Unavailable
from worker.generation import Failed, Finished
from worker.sampling.settings import Sampling


def test_cancelling_while_running_frees_blocks_and_place():
    with Bench(max_running=1) as bench:
        inbox = bench.submit([3] * 9, max_tokens=-1)
        inbox.wait_for(lambda i: len(i.tokens) >= 2)
        bench.model.gate.clear()
        running = bench.last
        waiting = bench.submit([4] * 9, max_tokens=1)
        bench.engine.cancel(running)
        bench.model.gate.set()
        waiting.result()
        bench.wait_until_idle()
    assert not isinstance(inbox.events[-1], Finished)


def test_cancelling_takes_effect_before_the_next_step():
    with Bench(max_running=1) as bench:
        bench.model.gate.clear()
        bench.submit([3] * 9, max_tokens=50)
        assert bench.model.entered.wait(60)
        bench.engine.cancel(bench.last)
        bench.model.gate.set()
        bench.wait_until_idle()
        assert bench.engine.stats().num_steps == 1


def test_cancelling_while_waiting_leaves_the_line():
    with Bench(max_running=1) as bench:
        bench.model.gate.clear()
        first = bench.submit([3] * 9, max_tokens=2)
        bench.submit([4] * 9, max_tokens=2)
        bench.engine.cancel(bench.last)
        bench.model.gate.set()
        first.result()
        bench.wait_until_idle()
        assert max(bench.model.batch_sizes) == 1


def test_cancelling_a_finished_request_does_nothing():
    with Bench() as bench:
        bench.submit([3], max_tokens=1).result()
        bench.engine.cancel(bench.last)
        assert isinstance(bench.submit([3], max_tokens=1).result(), Finished)


def test_a_full_line_refuses_and_those_in_it_are_served():
    with Bench(max_running=1, max_waiting=2) as bench:
        bench.model.gate.clear()
        first = bench.submit([3], max_tokens=1)
        assert bench.model.entered.wait(60)
        inboxes = [bench.submit([3 + i], max_tokens=1) for i in range(4)]
        bench.model.gate.set()
        results = [first.result(), *[inbox.result() for inbox in inboxes]]
    assert [isinstance(r, Finished) for r in results] == [True, True, True, False, False]
    assert isinstance(results[-1].error, Overloaded)


def test_a_failing_step_fails_its_sequences_and_the_engine_goes_on():
    with Bench() as bench:
        bench.model.fail_on = 33
        inbox = bench.submit([3, 33], max_tokens=5)
        assert isinstance(inbox.result().error, ComputeFailed)
        assert "told to fail" not in str(inbox.events[-1].error)
        bench.model.fail_on = None
        assert bench.submit([3, 4], max_tokens=5).result().num_completion_tokens == 5
        bench.wait_until_idle()


def test_logits_that_are_no_numbers_fail_only_their_sequence():
    with Bench() as bench:
        bench.model.nan_on = 33
        bench.model.gate.clear()
        good, bad = bench.submit([3, 4], max_tokens=5), bench.submit([4, 33], max_tokens=5)
        bench.model.gate.set()
        assert isinstance(bad.result().error, ComputeFailed)
        assert isinstance(good.result(), Finished)
    assert good.tokens == alone([3, 4], max_tokens=5).tokens


def test_blocks_of_a_failed_sequence_are_never_reused():
    prompt = [*range(3, 12), 33]
    with Bench() as bench:
        bench.model.nan_on = 33
        assert isinstance(bench.submit(prompt, max_tokens=1).result(), Failed)
        bench.model.nan_on = None
        assert bench.submit(prompt, max_tokens=1).result().num_cached_tokens == 0


def test_a_bias_against_every_token_is_the_requests_own_fault():
    banned = tuple((token, float("-inf")) for token in range(48))
    with Bench() as bench:
        inbox = bench.submit([3], max_tokens=1, sampling=Sampling(1, logit_bias=banned))
        assert isinstance(inbox.result().error, InvalidRequest)


def test_stopping_fails_what_is_open():
    with Bench(max_running=1) as bench:
        bench.model.gate.clear()
        inboxes = [bench.submit([3], max_tokens=-1), bench.submit([4], max_tokens=-1)]
        stopper = threading.Thread(target=bench.engine.stop)
        stopper.start()
        bench.model.gate.set()
        stopper.join()
        assert all(isinstance(inbox.result().error, Unavailable) for inbox in inboxes)
        with pytest.raises(Unavailable):
            bench.submit([3])


def test_an_engine_that_cannot_go_on_says_so():
    bench = Bench()
    died = threading.Event()
    bench.engine._on_death = lambda error: died.set()
    bench.engine._scheduler.schedule = lambda drafts, spent: 1 / 0
    bench.engine.start()
    bench.submit([3])
    assert died.wait(60)
