"""How likely tokens were: those of the answer, and those of the prompt."""

import pytest

from tests.worker.engine.bench import Bench
from tests.worker.inbox import Inbox
from worker.generation import Finished, Logprobs, PromptScores, Token
from worker.sampler import Logprob
from worker.sampling.settings import Sampling


def prompt_scores(inbox: Inbox) -> list[Logprob]:
    return [logprob for event in inbox.events if isinstance(event, PromptScores) for logprob in event.logprobs]


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
        for each in beside:
            each.result()
        scores = prompt_scores(inbox)
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
    with Bench(num_blocks=16, max_running=4) as bench:
        older = bench.submit([4] * 4, max_tokens=55)
        inbox = bench.submit(prompt, max_tokens=4, logprobs=Logprobs(0, of_prompt=True))
        older.result()
        inbox.result()
    assert [score.token for score in prompt_scores(inbox)] == prompt
