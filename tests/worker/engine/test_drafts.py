"""Tokens guessed ahead save steps and change no answer."""

import threading

import numpy as np
import pytest

from tests.worker.engine.bench import BLOCK, PROMPT, Bench, drafter_with, shifting
from tests.worker.fake_model import FakeDetokenizer
from tests.worker.inbox import Inbox
from worker.cache.kv_cache import block_digest
from worker.generation import Finished, FinishReason, Logprobs
from worker.sampling.settings import Sampling
from worker.sequence import Guessing


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


def test_a_request_that_wants_no_guesses_gets_the_same_answer_without():
    sampling = Sampling(7, temperature=0)
    guessed, plain = Drafting(100, sampling=sampling), Drafting(100, sampling=sampling, guessing=Guessing(most=0))
    assert plain.finished.num_drafted == 0 < guessed.finished.num_drafted
    assert plain.drafted.tokens == guessed.drafted.tokens


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


@pytest.mark.parametrize("asks_small_model", [False, True])
def test_a_context_is_shifted_at_the_same_token_with_drafts(asks_small_model):
    answers = []
    for changes in ({}, {"max_drafts": 4, "drafter": drafter_with(6.0) if asks_small_model else None}):
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
