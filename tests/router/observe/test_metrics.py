from collections.abc import Callable

import pytest

from protos import inference_pb2 as pb
from router.observe.metrics import Metrics
from tests.router.api.test_metrics import samples


def delta(*tokens: int) -> pb.GenerateReply:
    return pb.GenerateReply(delta=pb.Delta(tokens=tokens))


def clock(*times: float) -> Callable[[], float]:
    return iter(times).__next__


def test_tokens_that_come_together_count_each_at_their_average_distance() -> None:
    metrics = Metrics(clock(10.0, 10.5, 10.8))
    watch = metrics.watch()
    metrics.goes_to(watch, "m")
    watch.replies([pb.GenerateReply(started=pb.Started(num_prompt_tokens=4)), delta(1)])
    watch.replies([delta(2), delta(3, 4)])
    found = samples(metrics.text())
    assert found["vllm:time_to_first_token_seconds_sum{model_name=m}"] == pytest.approx(0.5)
    assert found["vllm:inter_token_latency_seconds_count{model_name=m}"] == 3
    assert found["vllm:inter_token_latency_seconds_sum{model_name=m}"] == pytest.approx(0.3)
    assert (watch.num_prompt_tokens, watch.num_tokens) == (4, 4)


def test_the_tokens_an_end_tells_of_are_the_answers() -> None:
    metrics = Metrics(clock(0.0, 1.0))
    watch = metrics.watch()
    metrics.goes_to(watch, "m")
    end = pb.Finished(reason=pb.LENGTH, num_completion_tokens=2)
    watch.replies([delta(1), delta(2), pb.GenerateReply(finished=end)])
    assert (watch.num_tokens, watch.finish) == (2, "length")
