"""What a request gets: tokens, text, the reason it ended, and refusals of what can never be computed."""

import pytest

from tests.worker.engine.bench import Bench, alone
from tests.worker.fake_model import EOG, FakeDetokenizer
from worker.errors import ContextExceeded, InvalidRequest
from worker.generation import FinishReason, PromptProgress, Started, Token
from worker.sampling.settings import Memory, Sampling


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


def test_a_full_context_ends_with_length():
    with Bench() as bench:
        inbox = bench.submit([3] * 60, max_tokens=-1)
        finished = inbox.result()
    assert (finished.reason, finished.num_completion_tokens) == (FinishReason.LENGTH, 4)


def test_progress_through_the_prompt_is_told_from_what_is_cached_to_the_first_token():
    with Bench() as bench:
        bench.submit([5, 6, 7, 8, 9], max_tokens=1).result()
        inbox = bench.submit([5, 6, 7, 8, *range(10, 26)], max_tokens=3, tells_progress=True)
        inbox.result()
        silent = bench.submit([5, 6, 7], max_tokens=1)
        silent.result()
    told = [event for event in inbox.events if isinstance(event, PromptProgress)]
    assert inbox.events[1 : 1 + len(told)] == told
    assert [event[:3] for event in told] == [(20, 4, done) for done in (4, 12, 20)]
    assert told[0].seconds == 0 < told[1].seconds < told[2].seconds
    assert not any(isinstance(event, PromptProgress) for event in silent.events)


class LineDetokenizer(FakeDetokenizer):
    """Ends a line with every third token."""

    def push(self, token: int) -> str:
        return super().push(token) + ("\n" if len(self.pushed) % 3 == 0 else "")


@pytest.mark.parametrize(
    ("max_seconds", "detokenizer", "num_tokens"),
    [(1e-9, LineDetokenizer, 3), (1e9, LineDetokenizer, 8), (-1, LineDetokenizer, 8), (1e-9, FakeDetokenizer, 8)],
    ids=["late", "in time", "no limit", "no end of a line"],
)
def test_an_answer_that_takes_too_long_ends_with_its_line(max_seconds, detokenizer, num_tokens):
    with Bench() as bench:
        inbox = bench.submit([5, 6, 7], max_tokens=8, max_seconds=max_seconds, detokenizer=detokenizer())
        finished = inbox.result()
    assert (finished.reason, finished.num_completion_tokens) == (FinishReason.LENGTH, num_tokens)
    assert inbox.text.endswith("\n") or num_tokens == 8


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
