import random
import threading
import time

import numpy as np
import pytest

from tests.worker.fake_model import EOG, FakeDetokenizer, FakeModel
from tests.worker.inbox import Inbox
from worker.cache.kv_cache import block_digest, chain
from worker.cache.prefix_store import PrefixStore
from worker.context import Capacity
from worker.cores.lease import Cores, OwnCores
from worker.drafting.draft_model import DraftLimits, ModelDrafter
from worker.drafting.drafts import Alternatives
from worker.drafting.lookup import LookupDrafter
from worker.engine import ComputeFailed, Engine
from worker.errors import ContextExceeded, InvalidRequest, Overloaded, Unavailable
from worker.generation import Failed, Finished, FinishReason, Logprobs, PromptScores, Request, Started, Token
from worker.sampling.settings import Memory, Sampling

BLOCK = 4


class Bench:
    """An engine with a fake model, and the ends of its wires."""

    def __init__(self, **changes) -> None:
        defaults = {"eog_odds": 0.0, "repeats": 0.0, "cores": None, "store": None, "drafter": None}
        eog_odds, repeats, cores, store, drafter = (changes.pop(name, default) for name, default in defaults.items())
        settings = {"context_length": 64, "num_blocks": 16, "max_running": 4, "max_waiting": 100, "step_tokens": 8}
        self.capacity = Capacity(block_size=BLOCK, **settings | changes)
        self.model = FakeModel(self.capacity.num_blocks, BLOCK, eog_odds=eog_odds)
        self.model.repeats = repeats
        self.deaths: list[BaseException] = []
        self.posts: list[list] = []
        self.engine = Engine(self.model, self.capacity, {EOG}, self._post, self.deaths.append, store, cores, drafter)

    def _post(self, events) -> None:
        self.posts.append(events)
        for sink, event in events:
            sink(event)

    def __enter__(self) -> "Bench":
        self.engine.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.model.gate.set()
        self.engine.stop()
        assert not self.deaths

    def submit(self, prompt, seed=1, **request) -> Inbox:
        self.last, inbox = None, Inbox()
        sampling = request.pop("sampling", Sampling(seed))
        request.setdefault("detokenizer", FakeDetokenizer())
        self.last = self.engine.submit(Request(prompt, sampling, **request), inbox.put)
        return inbox

    def wait_until(self, condition, timeout: float = 60) -> None:
        deadline = time.monotonic() + timeout
        while not condition(self.engine.stats()):
            assert time.monotonic() < deadline, self.engine.stats()
            threading.Event().wait(0.001)

    def wait_until_idle(self) -> None:
        self.wait_until(
            lambda s: s.num_running == s.num_waiting == 0 and s.num_free_blocks + s.num_cached_blocks == s.num_blocks
        )


def alone(prompt, **request) -> Inbox:
    """What the request gives with the engine for itself, its prompt in one piece and nothing to reuse."""
    with Bench(step_tokens=256, max_running=1, num_blocks=64) as bench:
        inbox = bench.submit(prompt, **request)
        inbox.result()
    return inbox


def test_a_request_starts_gives_its_tokens_and_finishes():
    with Bench() as bench:
        inbox = bench.submit([5, 6, 7], max_tokens=5)
        finished = inbox.result()
    assert inbox.events[0] == Started(3, 0, 1, 0)
    assert len(inbox.tokens) == 5
    assert finished.reason is FinishReason.LENGTH
    assert (finished.num_prompt_tokens, finished.num_completion_tokens, finished.num_predicted) == (3, 5, 5)
    assert finished.prompt_seconds > 0 and finished.predicted_seconds > 0


def test_each_delta_counts_the_draws_made_so_far():
    with Bench() as bench:
        inbox = bench.submit([5], max_tokens=3)
        inbox.result()
        greedy = bench.submit([5], max_tokens=3, sampling=Sampling(1, temperature=0))
        greedy.result()
    assert [e.memory.num_draws for e in inbox.events if isinstance(e, Token)] == [1, 2, 3]
    assert [e.memory.num_draws for e in greedy.events if isinstance(e, Token)] == [0, 0, 0]


def test_chunks_of_a_prompt_give_what_the_whole_prompt_gives():
    prompt = [2 + i % 40 for i in range(50)]
    with Bench(step_tokens=4) as bench:
        inbox = bench.submit(prompt, max_tokens=10)
        inbox.result()
    assert inbox.tokens == alone(prompt, max_tokens=10).tokens


def test_a_prompt_read_before_is_not_computed_again():
    prompt = [2 + i % 40 for i in range(33)]
    with Bench() as bench:
        bench.submit(prompt, max_tokens=1).result()
        before = bench.model.num_computed
        inbox = bench.submit(prompt, max_tokens=1)
        finished = inbox.result()
        assert bench.model.num_computed - before == 1
    assert inbox.events[0].num_cached_tokens == finished.num_cached_tokens == 32
    assert inbox.tokens == alone(prompt, max_tokens=1).tokens


def test_a_request_that_forbids_reuse_computes_everything():
    prompt = [2 + i % 40 for i in range(33)]
    with Bench() as bench:
        bench.submit(prompt, max_tokens=1).result()
        inbox = bench.submit(prompt, max_tokens=1, cache_prompt=False)
        assert inbox.result().num_cached_tokens == 0


def test_a_full_context_ends_with_length():
    with Bench() as bench:
        inbox = bench.submit([3] * 60, max_tokens=-1)
        finished = inbox.result()
    assert (finished.reason, finished.num_completion_tokens) == (FinishReason.LENGTH, 4)


def test_no_tokens_wanted_computes_the_prompt_and_ends():
    with Bench() as bench:
        inbox = bench.submit([3] * 9, max_tokens=0)
        assert inbox.result().num_completion_tokens == 0
        assert inbox.tokens == []
        assert bench.submit([3] * 9, max_tokens=1).result().num_cached_tokens == 8


@pytest.mark.parametrize("length", [64, 65, 1000])
def test_a_prompt_that_does_not_fit_is_refused_with_its_numbers(length):
    with Bench() as bench:
        with pytest.raises(ContextExceeded) as caught:
            bench.submit([3] * length)
        assert (caught.value.num_prompt_tokens, caught.value.context_length) == (length, 64)


def test_an_empty_prompt_is_refused():
    with Bench() as bench, pytest.raises(InvalidRequest, match="prompt"):
        bench.submit([])


def test_resumed_tokens_beyond_the_context_are_refused():
    with Bench() as bench, pytest.raises(InvalidRequest, match="resume"):
        bench.submit([3] * 60, resumed=[3] * 5)


def test_an_end_token_ends_the_sequence_without_text():
    with Bench(eog_odds=1.0) as bench:
        inbox = bench.submit([3, 4], max_tokens=10)
        finished = inbox.result()
    assert (inbox.tokens, inbox.text) == ([EOG], "")
    assert (finished.reason, finished.num_completion_tokens) == (FinishReason.END_OF_SEQUENCE, 1)


def test_ignoring_the_end_goes_on_to_the_length():
    with Bench(eog_odds=1.0) as bench:
        inbox = bench.submit([3, 4], max_tokens=10, sampling=Sampling(1, ignore_eos=True))
        assert inbox.result().reason is FinishReason.LENGTH
    assert len(inbox.tokens) == 10 and EOG not in inbox.tokens


def test_a_stop_string_ends_the_sequence_and_is_not_sent():
    text = alone([9, 8], max_tokens=20).text
    stop = text[6:8]
    with Bench() as bench:
        inbox = bench.submit([9, 8], max_tokens=20, detokenizer=FakeDetokenizer([stop]))
        finished = inbox.result()
    assert (finished.reason, finished.stop_string) == (FinishReason.STOP_STRING, stop)
    assert inbox.text == text[: text.index(stop)]


def test_what_was_held_back_is_sent_at_the_length():
    text = alone([9, 8], max_tokens=5).text
    with Bench() as bench:
        inbox = bench.submit([9, 8], max_tokens=5, detokenizer=FakeDetokenizer([text[4] + "never"]))
        inbox.result()
    assert inbox.text == text


@pytest.mark.parametrize("num_resumed", [1, 7, 19, 20])
def test_a_resumed_request_goes_on_where_the_other_worker_stopped(num_resumed):
    whole = alone([4, 5, 6], max_tokens=20)
    emitted = whole.tokens[:num_resumed]
    with Bench() as bench:
        inbox = bench.submit([4, 5, 6], max_tokens=20, resumed=emitted, memory=Memory(num_resumed))
        finished = inbox.result()
    assert inbox.tokens == whole.tokens[num_resumed:]
    assert (finished.num_prompt_tokens, finished.num_completion_tokens) == (3, 20)
    assert finished.num_predicted == 20 - num_resumed


def test_an_answer_resumed_after_its_last_token_only_ends():
    with Bench() as bench:
        ended = bench.submit([4, 5, 6], max_tokens=20, resumed=[7, EOG], memory=Memory(2))
        stopped = FakeDetokenizer(resumed=[7, 8])
        stopped.stop_string = "ab"
        at_stop = bench.submit([4, 5, 6], max_tokens=20, resumed=[7, 8], memory=Memory(2), detokenizer=stopped)
        assert ended.result().reason is FinishReason.END_OF_SEQUENCE
        finished = at_stop.result()
    assert (finished.reason, finished.stop_string) == (FinishReason.STOP_STRING, "ab")
    assert ended.tokens == at_stop.tokens == []


def test_log_probabilities_come_with_each_token():
    with Bench() as bench:
        inbox = bench.submit([4, 5], max_tokens=3, logprobs=Logprobs(2))
        inbox.result()
    for event in inbox.events[1:-1]:
        assert event.logprob.token == event.token
        assert len(event.logprob.top) == 2
        assert event.logprob.top[0][1] >= event.logprob.top[1][1]


@pytest.mark.parametrize(("num_prompt", "max_tokens"), [(1, 2), (2, 2), (8, 0), (9, 2), (30, 3)])
def test_prompt_tokens_are_as_likely_as_when_they_are_the_answer(num_prompt, max_tokens):
    prompt = [2 + i * 7 % 40 for i in range(num_prompt)]
    with Bench() as bench:
        bench.submit(prompt, max_tokens=1).result()  # nothing that it has computed may be missing below
        beside = [bench.submit([9, place], max_tokens=20) for place in range(3)]
        inbox = bench.submit(prompt, max_tokens=max_tokens, logprobs=Logprobs(2, of_prompt=True))
        inbox.result()
        [each.result() for each in beside]
        scores = [logprob for event in inbox.events if isinstance(event, PromptScores) for logprob in event.logprobs]
        assert [score.token for score in scores] == prompt
        for place in range(1, num_prompt):
            forced = Sampling(1, temperature=0, logit_bias=((prompt[place], 1e6),))
            answer = bench.submit(prompt[:place], max_tokens=1, sampling=forced, logprobs=Logprobs(2))
            answer.result()
            assert scores[place] == answer.events[1].logprob
    kinds = [type(event) for event in inbox.events]
    assert kinds[-1 - max_tokens :] == [Token] * max_tokens + [Finished]
    assert len(inbox.tokens) == max_tokens


def test_a_preempted_prompt_is_scored_once():
    prompt = list(range(2, 40))
    wanted = Logprobs(0, of_prompt=True)
    with Bench(num_blocks=16, max_running=4) as bench:
        older = bench.submit([4] * 4, max_tokens=55)
        inbox = bench.submit(prompt, max_tokens=4, logprobs=wanted)
        older.result(), inbox.result()
    scores = [logprob.token for event in inbox.events if isinstance(event, PromptScores) for logprob in event.logprobs]
    assert scores == prompt


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


def test_all_events_of_a_step_leave_in_one_post():
    with Bench() as bench:
        bench.model.gate.clear()
        bench.submit([2], max_tokens=1)
        assert bench.model.entered.wait(60)
        inboxes = [bench.submit([3 + i], max_tokens=3) for i in range(3)]
        bench.model.gate.set()
        for inbox in inboxes:
            inbox.result()
    assert [sum(isinstance(event, Token) for _, event in post) for post in bench.posts] == [1, 3, 3, 3]


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


def shifting(**changes) -> Bench:
    return Bench(context_length=32, num_blocks=8, shifts_context=True, **changes)


def test_with_context_shift_an_answer_outgrows_the_context():
    with shifting() as bench:
        inbox = bench.submit([3] * 10, max_tokens=100)
        finished = inbox.result()
        bench.wait_until_idle()
    assert (finished.reason, finished.num_completion_tokens, finished.truncated) == (FinishReason.LENGTH, 100, True)
    assert len(inbox.tokens) == 100


def test_an_answer_without_an_end_stops_after_another_context():
    with shifting() as bench:
        assert bench.submit([3] * 10, max_tokens=-1).result().num_completion_tokens == 32


def test_an_answer_that_fits_is_not_shifted():
    with shifting() as bench:
        inbox = bench.submit([3] * 10, max_tokens=22)
        assert not inbox.result().truncated
    assert inbox.tokens == alone([3] * 10, max_tokens=22).tokens


def test_a_shifted_answer_goes_on_as_if_the_shortened_text_had_been_the_prompt():
    prompt = list(range(2, 12))
    with shifting() as bench:
        inbox = bench.submit(prompt, max_tokens=30, num_kept=5)
        inbox.result()
    before = prompt + inbox.tokens[:22]
    shortened = before[:5] + before[5 + 27 // 2 :]
    rest = alone(shortened, max_tokens=8, resumed=(), memory=Memory(22))
    assert inbox.tokens[22:] == rest.tokens


@pytest.mark.parametrize("num_resumed", [5, 21, 22, 23, 40, 60, 79, 80])
@pytest.mark.parametrize("shift", [{}, {"num_kept": -1}, {"num_kept": 7, "num_discarded": 3}], ids=str)
def test_a_shifted_answer_is_resumed_elsewhere_with_the_same_tokens(num_resumed, shift):
    with shifting() as bench:
        whole = bench.submit([3] * 10, max_tokens=80, **shift)
        whole.result()
    with shifting() as other:
        resumed = {"resumed": whole.tokens[:num_resumed], "memory": Memory(num_resumed)}
        rest = other.submit([3] * 10, max_tokens=80, **resumed, **shift)
        rest.result()
    assert rest.tokens == whole.tokens[num_resumed:]


@pytest.mark.parametrize("shift", [{"num_kept": 1000}, {"num_kept": 31, "num_discarded": 1000}], ids=str)
def test_a_shift_leaves_room_whatever_is_asked_for(shift):
    with shifting() as bench:
        assert bench.submit([3] * 31, max_tokens=50, **shift).result().num_completion_tokens == 50


def test_shifting_requests_disturb_nobody():
    with shifting(max_running=3) as bench:
        inboxes = [bench.submit([3 + i] * 10, max_tokens=60) for i in range(6)]
        for inbox in inboxes:
            inbox.result()
        bench.wait_until_idle()
    for i, inbox in enumerate(inboxes):
        with shifting() as lone:
            expected = lone.submit([3 + i] * 10, max_tokens=60)
            expected.result()
        assert inbox.tokens == expected.tokens


def stored(folder, **changes) -> Bench:
    return Bench(store=PrefixStore(folder, bytes(32), 1 << 20), **changes)


PROMPT = [2 + i % 40 for i in range(33)]


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


def test_a_place_that_nobody_has_cannot_be_wanted():
    with Bench() as bench, pytest.raises(InvalidRequest, match=r"id_slot.*-1 <= value <= 3, but got 4"):
        bench.submit([3], wanted_place=4)


def in_engine(bench: Bench, function):
    return bench.engine.call(function).result(60)


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
        saved = in_engine(bench, lambda: bench.engine.places.copy(0))
    assert list(saved.tokens[:33]) == PROMPT and len(saved.tokens) == BLOCK * len(saved.blocks) == 36
    with Bench() as bench:
        in_engine(bench, lambda: bench.engine.places.fill(3, saved))
        inbox = bench.submit(PROMPT, max_tokens=4)
        assert inbox.result().num_cached_tokens == 32
        assert in_engine(bench, lambda: bench.engine.places.copy(3)) == saved
    assert inbox.tokens == alone(PROMPT, max_tokens=4).tokens


def test_an_erased_place_leaves_nothing_to_reuse():
    with Bench() as bench:
        bench.submit(PROMPT, max_tokens=4).result()
        assert in_engine(bench, lambda: bench.engine.places.erase(0)) == 37
        assert in_engine(bench, lambda: bench.engine.places.erase(0)) == 0
        assert bench.submit(PROMPT, max_tokens=4).result().num_cached_tokens == 0


def test_steps_are_counted_by_how_long_they_took():
    with Bench() as bench:
        bench.submit([3] * 5, max_tokens=10).result()
        bench.wait_until_idle()
        stats = bench.engine.stats()
    assert sum(stats.step_counts) == stats.num_steps > 9
    assert stats.step_seconds > 0


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


@pytest.mark.parametrize("seed", range(12))
def test_each_request_of_random_traffic_gets_the_tokens_it_gets_alone(seed, tmp_path):
    """Arrivals, cancellations, shared prefixes, tiny pools and tiny budgets; most runs preempt."""
    dice = random.Random(seed)
    stems = [[dice.randrange(2, 48) for _ in range(40)] for _ in range(3)]
    num_running = dice.randint(1, 6)
    repeats = dice.choice([0.0, 3.0, 5.0])
    model_drafter = drafter_with(dice.choice([repeats, 4.0]), num_blocks=dice.choice([12, 30]))
    drafter = Alternatives(LookupDrafter(), model_drafter) if seed % 2 else model_drafter
    with Bench(
        num_blocks=16,
        max_running=num_running,
        step_tokens=dice.choice([num_running, 9, 33]),
        step_seconds=dice.choice([1e9, 1e-9]),
        max_drafts=dice.choice([0, 3, 5]),
        eog_odds=0.02,
        repeats=repeats,
        store=PrefixStore(tmp_path, bytes(32), 1500) if seed % 2 else None,
        drafter=drafter if seed % 3 else None,
    ) as bench:
        traffic = []
        for _ in range(40):
            prompt = dice.choice(stems)[: dice.randint(1, 40)] + [
                dice.randrange(2, 48) for _ in range(dice.randint(0, 9))
            ]
            request = {
                "max_tokens": dice.choice([1, 5, 20, -1]),
                "seed": dice.randrange(100),
                "cache_prompt": dice.random() < 0.8,
                "priority": dice.randrange(10),
                "client": dice.choice("ab"),
                "weight": dice.choice([0.5, 1, 4]),
            }
            traffic.append((bench.submit(prompt, **request), prompt, request))
            generation = bench.last
            if dice.random() < 0.2:
                num_events = dice.randint(0, 4)
                traffic.pop()[0].wait_for(lambda i, n=num_events: len(i.events) >= n or i.has_ended)
                bench.engine.cancel(generation)
            elif dice.random() < 0.2:
                traffic[dice.randrange(len(traffic))][0].wait_for(lambda i: len(i.events) > 0)
        for inbox, _, _ in traffic:
            inbox.result()
        bench.wait_until_idle()
    assert not model_drafter.pool.num_held
    with Bench(num_blocks=64, max_running=1, step_tokens=256, eog_odds=0.02, repeats=repeats) as lone:
        for inbox, prompt, request in traffic:
            expected = lone.submit(prompt, **request | {"cache_prompt": False})
            assert isinstance(expected.result(), Finished)
            assert [type(event) for event in inbox.events].count(Started) == 1
            assert (inbox.tokens, inbox.result().reason) == (expected.tokens, expected.result().reason)


def drafter_with(repeats: float, num_blocks: int = 64, cores: Cores | None = None) -> ModelDrafter:
    """One whose model is as the engine's, as far as `repeats` is."""
    model = FakeModel(num_blocks, BLOCK)
    model.repeats = repeats
    limits = DraftLimits(256, num_blocks, BLOCK, max_sequences=3, step_tokens=64, step_seconds=1e9)
    return ModelDrafter(model, limits, 0.1, cores or OwnCores())


class Drafting:
    """One request with guesses computed behind its tokens, and without."""

    def __init__(self, max_tokens: int, stop=(), eog_odds: float = 0.0, **request) -> None:
        self.plain, self.drafted = (self._answer(count, max_tokens, stop, eog_odds, request) for count in (0, 4))
        self.finished = self.drafted.result()

    def _answer(self, max_drafts, max_tokens, stop, eog_odds, request) -> Inbox:
        changes = {"context_length": 256, "num_blocks": 64, "step_tokens": 64, "eog_odds": eog_odds, "repeats": 5.0}
        with Bench(max_drafts=max_drafts, **changes) as bench:
            inbox = bench.submit([5, 6, 7], max_tokens=max_tokens, detokenizer=FakeDetokenizer(stop), **request)
            inbox.result()
            bench.wait_until_idle()
            self.names, self.num_steps = bench.engine._pool.names(), len(bench.model.batch_sizes)
            stats = bench.engine.stats()
        ended = inbox.result()
        assert (stats.drafted_tokens, stats.accepted_tokens) == (ended.num_drafted, ended.num_accepted)
        assert (stats.num_drafts > 0) is (ended.num_drafted > 0)
        return inbox

    @property
    def gave_the_same(self) -> bool:
        plain, drafted = self.plain.result(), self.drafted.result()
        return (
            self.plain.events[:-1] == self.drafted.events[:-1]
            and (plain.reason, plain.stop_string, plain.num_predicted)
            == (drafted.reason, drafted.stop_string, drafted.num_predicted)
            and plain.num_drafted == 0 < drafted.num_drafted >= drafted.num_accepted
        )


@pytest.mark.parametrize("temperature", [0, 0.8])
def test_drafts_save_steps_and_change_no_token_draw_or_probability(temperature):
    sampling = Sampling(7, temperature=temperature, repeat_penalty=1.02)
    drafting = Drafting(150, logprobs=Logprobs(3), sampling=sampling)
    assert drafting.gave_the_same
    assert drafting.finished.num_accepted > (10 if temperature else 90)
    assert drafting.num_steps + drafting.finished.num_accepted == 150


@pytest.mark.parametrize("max_tokens", range(20, 30))
def test_the_length_ends_an_answer_within_drafts(max_tokens):
    assert Drafting(max_tokens, sampling=Sampling(1, temperature=0)).gave_the_same


@pytest.mark.parametrize("seed", [0, 3, 4, 5, 6, 7, 8, 9, 10, 11])  # those that do not end at once
def test_an_end_token_ends_an_answer_within_drafts(seed):
    drafting = Drafting(240, seed=seed, eog_odds=0.02)
    assert drafting.gave_the_same and drafting.finished.reason is FinishReason.END_OF_SEQUENCE


@pytest.mark.parametrize("seed", range(6))
def test_a_stop_string_ends_an_answer_within_drafts(seed):
    text = Drafting(60, seed=seed).plain.text
    for first in range(30, 58):
        stop = text[first : first + 2]
        if text.index(stop) == first:
            drafting = Drafting(60, [stop], seed=seed)
            assert drafting.gave_the_same and drafting.finished.stop_string == stop


def test_what_was_computed_for_wrong_guesses_is_never_reused():
    drafting = Drafting(150)
    tokens = np.array([5, 6, 7, *drafting.drafted.tokens], np.int32)
    names = [b""]
    for first in range(0, len(tokens) - BLOCK, BLOCK):
        names.append(block_digest(names[-1], tokens[first : first + BLOCK]))
    assert drafting.finished.num_accepted < drafting.finished.num_drafted
    assert sorted(drafting.names) == sorted(names[1:])


def test_nobody_guesses_where_many_run():
    with Bench(max_drafts=4, max_running=4, repeats=9.0, context_length=256, num_blocks=256) as bench:
        bench.model.gate.clear()
        inboxes = [bench.submit([5, 6, 7], max_tokens=40) for _ in range(4)]
        bench.model.gate.set()
        assert {inbox.result().num_drafted for inbox in inboxes[:3]} == {0}


def test_a_context_is_shifted_at_the_same_token_with_drafts():
    answers = []
    for max_drafts in (0, 4):
        with shifting(repeats=6.0, max_drafts=max_drafts) as bench:
            answers.append(bench.submit([3] * 10, max_tokens=150, num_kept=5))
            answers[-1].result()
    assert answers[0].tokens == answers[1].tokens
    assert answers[1].result().num_accepted > 20


@pytest.mark.parametrize("temperature", [0, 0.8])
def test_a_small_model_that_guesses_saves_steps_and_changes_nothing(temperature):
    request = {"sampling": Sampling(7, temperature=temperature), "max_tokens": 150, "logprobs": Logprobs(3)}
    answers, num_steps = [], []
    for changes in ({}, {"max_drafts": 4, "drafter": drafter_with(5.0)}):
        with Bench(context_length=256, num_blocks=64, step_tokens=64, repeats=5.0, **changes) as bench:
            answers.append(bench.submit(PROMPT, **request))
            answers[-1].result()
            bench.wait_until_idle()
            num_steps.append(len(bench.model.batch_sizes))
    plain, drafted = answers
    assert plain.events[:-1] == drafted.events[:-1]
    assert drafted.result().num_accepted > (20 if temperature else 100)
    assert num_steps[0] - num_steps[1] == drafted.result().num_accepted


def test_a_context_is_shifted_at_the_same_token_with_a_small_model():
    answers = []
    for changes in ({}, {"max_drafts": 4, "drafter": drafter_with(6.0)}):
        with shifting(repeats=6.0, **changes) as bench:
            answers.append(bench.submit([3] * 10, max_tokens=150, num_kept=5))
            answers[-1].result()
    assert answers[0].tokens == answers[1].tokens
    assert answers[1].result().num_accepted > 20


def test_a_small_model_that_fails_is_not_asked_again_and_no_answer_suffers():
    drafter, changes = drafter_with(5.0), {"context_length": 256, "num_blocks": 64, "repeats": 5.0}
    with Bench(**changes) as bench:
        plain = bench.submit([5, 6, 7], max_tokens=100)
        plain.result()
    with Bench(**changes, max_drafts=4, drafter=drafter) as bench:
        inbox = bench.submit([5, 6, 7], max_tokens=100)
        inbox.wait_for(lambda i: len(i.tokens) > 10)
        drafter.propose = lambda wanted: 1 / 0
        assert isinstance(inbox.result(), Finished)
        del drafter.propose
        assert bench.submit([5, 6, 7], max_tokens=50).result().num_drafted == 0
    assert inbox.tokens == plain.tokens


def test_the_time_of_guessing_counts_in_the_step():
    drafter, spent = drafter_with(5.0), []
    with Bench(max_drafts=4, drafter=drafter) as bench:
        schedule = bench.engine._scheduler.schedule
        bench.engine._scheduler.schedule = lambda drafts, seconds: spent.append(seconds) or schedule(drafts, seconds)
        propose, drafter.propose = drafter.propose, lambda wanted: threading.Event().wait(0.02) or propose(wanted)
        bench.submit([5, 6, 7], max_tokens=3).result()
        bench.wait_until_idle()
        stats = bench.engine.stats()
    assert min(spent) >= 0.02 and stats.step_seconds > sum(spent)


class CountedCores:
    """Notes when they were taken and given back."""

    def __init__(self) -> None:
        self.log: list[str] = []

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


def test_a_step_that_fails_gives_the_cores_back():
    cores = CountedCores()
    with Bench(cores=cores) as bench:
        bench.model.fail_on = 9
        assert isinstance(bench.submit([9], max_tokens=3).result(), Failed)
        bench.wait_until(lambda stats: cores.log[-1] == "released")
        assert cores.log == ["released", "taken", "passed on", "released"]
