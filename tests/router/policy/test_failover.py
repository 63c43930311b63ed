import pytest

from protos import inference_pb2 as pb
from router import errors
from router.policy.failover import MAX_MOVES, Journal


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def request(**more: object) -> pb.GenerateRequest:
    return pb.GenerateRequest(request_id="r", max_tokens=9, sampling=pb.Sampling(temperature=1), **more)  # type: ignore[arg-type]


def started(num_prompt: int = 5, seed: int = 7, num_cached: int = 2) -> pb.GenerateReply:
    return pb.GenerateReply(started=pb.Started(num_prompt_tokens=num_prompt, seed=seed, num_cached_tokens=num_cached))


def delta(*tokens: int, num_draws: int) -> pb.GenerateReply:
    return pb.GenerateReply(delta=pb.Delta(tokens=tokens, num_draws=num_draws))


def lost(*, had_request: bool = True) -> errors.WorkerLost:
    return errors.WorkerLost("gone", had_request=had_request)


def test_what_was_not_begun_is_asked_for_as_it_was() -> None:
    journal, asked = Journal(request(), Clock()), request()
    journal.move(lost())
    assert journal.request() == asked


def test_the_next_worker_gets_the_tokens_the_draws_and_the_seed_in_force() -> None:
    journal = Journal(request(), Clock())
    for reply in (started(seed=7), delta(3, 4, num_draws=2), delta(5, num_draws=4)):
        assert journal.record(reply) == reply
    journal.move(lost())
    asked = journal.request()
    assert (list(asked.resume.tokens), asked.resume.num_draws) == ([3, 4, 5], 4)
    assert (asked.sampling.has_seed, asked.sampling.seed, asked.sampling.temperature) == (True, 7, 1)
    assert asked.max_tokens == 9


def test_a_client_is_told_of_one_start() -> None:
    journal = Journal(request(), Clock())
    journal.record(started())
    journal.move(lost())
    assert journal.record(started(num_cached=5)) is None
    assert journal.record(delta(6, num_draws=1)) is not None


def test_progress_of_the_prompt_is_told_until_there_is_a_token() -> None:
    journal, progress = Journal(request(), Clock()), pb.GenerateReply(progress=pb.PromptProgress(num_done=3))
    assert journal.record(progress) is progress
    journal.record(pb.GenerateReply(delta=pb.Delta(text="a", tokens=[5])))
    assert journal.record(progress) is None


def test_a_sampler_with_a_memory_takes_it_along() -> None:
    journal = Journal(request(), Clock())
    journal.record(started())
    memory = pb.SamplerMemory(num_xtc_draws=2, mirostat_mu=1.5)
    journal.record(pb.GenerateReply(delta=pb.Delta(tokens=[3], num_draws=1, memory=memory)))
    journal.move(lost())
    assert journal.request().resume.memory == memory


def test_log_probabilities_of_the_prompt_are_told_once() -> None:
    def scores(*tokens: int) -> pb.GenerateReply:
        return pb.GenerateReply(delta=pb.Delta(prompt_logprobs=[pb.TokenLogprob(token=token) for token in tokens]))

    journal = Journal(request(logprobs=pb.Logprobs(enabled=True, of_prompt=True)), Clock())
    for reply in (started(), scores(1, 2), scores(3)):
        journal.record(reply)
    journal.move(lost())
    assert [journal.record(reply) for reply in (started(), scores(1, 2))] == [None, None]
    assert journal.record(scores(3, 4)) == scores(4)
    assert not journal.request().resume.tokens


def test_another_reading_of_the_prompt_is_another_answer() -> None:
    journal = Journal(request(), Clock())
    journal.record(started(num_prompt=5))
    journal.move(lost())
    with pytest.raises(errors.WorkerFailed, match="5 tokens has 6"):
        journal.record(started(num_prompt=6))


def test_the_end_counts_both_parts() -> None:
    clock = Clock()
    journal = Journal(request(), clock)
    journal.record(started(num_prompt=5, num_cached=2))
    clock.now = 101.0
    journal.record(delta(3, num_draws=1))
    journal.move(lost())
    clock.now = 104.0
    end = pb.Finished(num_prompt_tokens=5, num_completion_tokens=4, timings=pb.Timings(num_predicted=3))
    reply = journal.record(pb.GenerateReply(finished=end))
    assert reply is not None
    assert reply.finished.timings == pb.Timings(
        num_cached=2, num_prompt=3, prompt_ms=1000, num_predicted=4, predicted_ms=3000
    )


def test_a_request_present_at_two_crashes_is_not_tried_again() -> None:
    journal = Journal(request(), Clock())
    journal.move(lost())
    with pytest.raises(errors.RequestPoisonous) as refused:
        journal.move(lost())
    assert refused.value.headers["x-should-retry"] == "false"


def test_a_worker_that_never_got_the_request_and_one_that_drains_are_not_held_against_it() -> None:
    journal = Journal(request(), Clock())
    for error in (lost(had_request=False), errors.Unavailable("it ends"), lost(), errors.Unavailable("it ends")):
        journal.move(error)
    assert journal.num_moves == 4


def test_moving_has_an_end() -> None:
    journal = Journal(request(), Clock())
    for _ in range(MAX_MOVES):
        journal.move(lost(had_request=False))
    with pytest.raises(errors.WorkerLost):
        journal.move(lost(had_request=False))


@pytest.mark.parametrize(
    "error",
    [errors.InvalidRequest("x"), errors.ContextExceeded("x", 2, 1), errors.InternalError(), errors.WorkerFailed("x")],
)
def test_what_would_fail_everywhere_goes_nowhere(error: errors.RouterError) -> None:
    journal = Journal(request(), Clock())
    journal.record(started())
    with pytest.raises(type(error)):
        journal.move(error)


def test_a_full_worker_refuses_what_is_new_and_is_left_by_what_has_begun() -> None:
    new, begun = Journal(request(), Clock()), Journal(request(), Clock())
    begun.record(started())
    begun.move(errors.Overloaded("full"))
    with pytest.raises(errors.Overloaded):
        new.move(errors.Overloaded("full"))
