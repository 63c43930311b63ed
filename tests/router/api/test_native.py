"""POST /completion: llama-server's own shape, whole and streamed."""

from typing import Any

import pytest

from protos import inference_pb2 as pb
from router.api.native import NativeEvents
from router.api.sampling import parameters
from router.api.wire import Head, timings
from tests.router.api.clients import Gateway, events, masked

SETTINGS = (
    '{"seed":42,"temperature":0.800000011920929,"dynatemp_range":0.0,"dynatemp_exponent":1.0,"top_k":40,'
    '"top_p":0.949999988079071,"min_p":0.05000000074505806,"top_n_sigma":-1.0,"xtc_probability":0.0,'
    '"xtc_threshold":0.10000000149011612,"typical_p":1.0,"repeat_last_n":64,"repeat_penalty":1.0,'
    '"presence_penalty":0.0,"frequency_penalty":0.0,"dry_multiplier":0.0,"dry_base":1.75,"dry_allowed_length":2,'
    '"dry_penalty_last_n":64,"dry_sequence_breakers":["\\n",":","\\"","*"],"mirostat":0,"mirostat_tau":5.0,'
    '"mirostat_eta":0.10000000149011612,"adaptive_target":-1.0,"adaptive_decay":0.8999999761581421,'
    '"stop":["x"],"max_tokens":2,"n_predict":2,"n_keep":0,"n_discard":0,'
    '"ignore_eos":false,"stream":%s,"logit_bias":[{"bias":1.5,"token":7}],"n_probs":0,"min_keep":0,"grammar":"",'
    '"grammar_lazy":false,"grammar_triggers":[],"preserved_tokens":[],"chat_format":"Content-only",'
    '"reasoning_format":"none","reasoning_in_content":false,"generation_prompt":"",'
    '"samplers":["penalties","dry","top_n_sigma","top_k","typ_p","top_p","min_p","xtc","temperature"],'
    '"speculative.types":"none","timings_per_token":false,'
    '"post_sampling_probs":false,"backend_sampling":false,"lora":[]}'
)
TIMINGS = (
    '{"cache_n":0,"prompt_n":2,"prompt_ms":0,"prompt_per_token_ms":0,"prompt_per_second":0,'
    '"predicted_n":2,"predicted_ms":0,"predicted_per_token_ms":0,"predicted_per_second":0}'
)
HELLO = [{"role": "user", "content": "hi"}]
ASKED: dict[str, Any] = {"prompt": "a b", "n_predict": 2, "seed": 42, "stop": "x", "logit_bias": [[7, 1.5]]}


def final(content: str, stream: str) -> str:
    return (
        f'{{"index":0,"content":"{content}","tokens":[],"id_slot":0,"stop":true,"model":"tiny","tokens_predicted":2,'
        f'"tokens_evaluated":2,"generation_settings":{SETTINGS % stream},"prompt":"a b","has_new_line":false,'
        f'"truncated":false,"stop_type":"limit","stopping_word":"","tokens_cached":3,"timings":{TIMINGS}}}'
    )


@pytest.mark.parametrize("path", ["/completion", "/completions"])
def test_a_whole_answer_is_llama_servers_to_the_byte(tiny: Gateway, path: str) -> None:
    assert masked(tiny.post(path, **ASKED).text) == final("w0 w1", "false")


def test_a_stream_is_llama_servers_to_the_byte_and_has_no_end_mark(tiny: Gateway) -> None:
    middle = '"stop":false,"id_slot":0,'
    assert masked(tiny.post("/completion", **ASKED, stream=True).text) == (
        f'data: {{"index":0,"content":"w0","tokens":[0],{middle}"tokens_predicted":1,"tokens_evaluated":2}}\n\n'
        f'data: {{"index":0,"content":" w1","tokens":[1],{middle}"tokens_predicted":2,"tokens_evaluated":2}}\n\n'
        f"data: {final('', 'true')}\n\n"
    )


@pytest.mark.parametrize("name", ["max_tokens", "n_predict"])
def test_no_token_asked_for_is_answered_with_one_as_llama_server_does_on_every_route(tiny: Gateway, name: str) -> None:
    native = tiny.post("/completion", prompt="a", **{name: 0}).json()
    assert (native["content"], native["tokens_predicted"], native["stop_type"]) == ("w0", 1, "limit")
    assert native["generation_settings"]["n_predict"] == native["generation_settings"]["max_tokens"] == 0
    for path, prompt in (("/v1/completions", {"prompt": "a"}), ("/v1/chat/completions", {"messages": HELLO})):
        answer = tiny.post(path, **prompt, **{name: 0}).json()
        assert (answer["choices"][0]["finish_reason"], answer["usage"]["completion_tokens"]) == ("length", 1)


def test_tokens_are_returned_when_asked_for(tiny: Gateway) -> None:
    assert tiny.post("/completion", prompt="a", n_predict=3, return_tokens=True).json()["tokens"] == [0, 1, 2]


def test_an_end_of_the_models_own_is_told_as_such(tiny: Gateway) -> None:
    assert tiny.post("/completion", prompt="stop_at=2").json()["stop_type"] == "eos"


def test_several_prompts_make_an_array_in_their_order(tiny: Gateway) -> None:
    answer = tiny.post("/completion", prompt=["stop_at=1", "stop_at=2", [1, 2, 3]], n_predict=3).json()
    assert [(each["index"], each["content"]) for each in answer] == [(0, "w0"), (1, "w0 w1"), (2, "w0 w1 w2")]


def test_several_streamed_prompts_share_a_stream_each_with_its_index(tiny: Gateway) -> None:
    stream = events(tiny.post("/completion", prompt=["stop_at=1", "stop_at=2"], stream=True).text)
    ends = {event["index"]: event["tokens_predicted"] for event in stream if event["stop"]}
    assert ends == {0: 1, 1: 2}


def test_probabilities_stand_at_the_end_or_in_their_chunks(tiny: Gateway) -> None:
    top = [{"id": 0, "token": "t0", "bytes": [116, 48], "logprob": -0.5}]
    expected = [{"id": 0, "token": "w0", "bytes": [119, 48], "logprob": -0.5, "top_logprobs": top}]
    for name in ("n_probs", "logprobs"):
        asked = {"prompt": "a", "n_predict": 1, name: 1}
        assert tiny.post("/completion", **asked).json()["completion_probabilities"] == expected
        stream = events(tiny.post("/completion", **asked, stream=True).text)
        assert stream[0]["completion_probabilities"] == expected


def test_response_fields_select_and_lift(tiny: Gateway) -> None:
    fields = ["content", "generation_settings/n_predict", "timings/prompt_n", "absent", "content/deeper"]
    answer = tiny.post("/completion", prompt="a", n_predict=1, response_fields=fields)
    assert answer.json() == {"content": "w0", "generation_settings/n_predict": 1, "timings/prompt_n": 1}


@pytest.mark.parametrize("wanted", ["content", 5, {}, {"content": 1}, ["content", 5], [None], [], None])
def test_response_fields_that_are_no_array_of_strings_select_nothing(tiny: Gateway, wanted: Any) -> None:
    everything = tiny.post("/completion", prompt="a", n_predict=1).json().keys()
    assert tiny.post("/completion", prompt="a", n_predict=1, response_fields=wanted).json().keys() == everything


def test_a_prompt_of_no_tokens_is_answered_with_nothing(tiny: Gateway) -> None:
    first, second = tiny.post("/completion", prompt=["", "a stop_at=1"]).json()
    assert (first["content"], first["stop_type"], first["tokens_evaluated"], first["stop"]) == ("", "none", 0, True)
    assert second["content"] == "w0"
    stream = events(tiny.post("/completion", prompt="", stream=True).text)
    assert [(event["content"], event["stop"], event["stop_type"]) for event in stream] == [("", True, "none")]


def test_timings_of_every_token_come_when_asked_for(tiny: Gateway) -> None:
    stream = events(tiny.post("/completion", prompt="a", n_predict=2, stream=True, timings_per_token=True).text)
    assert [event["timings"]["predicted_n"] for event in stream] == [1, 2, 2]


def test_progress_through_the_prompt_is_told_to_streams_that_ask(tiny: Gateway) -> None:
    asked = {"prompt": "a b", "n_predict": 1, "return_progress": True}
    first, second, last = events(tiny.post("/completion", **asked, stream=True).text)
    assert first == {
        "index": 0, "content": "", "tokens": [], "stop": False, "id_slot": 0, "tokens_predicted": 0,
        "tokens_evaluated": 2, "prompt_progress": {"total": 2, "cache": 1, "processed": 2, "time_ms": 3},
    }  # fmt: skip
    assert "prompt_progress" not in second and last["tokens_predicted"] == 1
    assert tiny.post("/completion", **asked).json()["content"] == "w0"


def test_without_a_seed_the_drawn_one_is_reported(tiny: Gateway) -> None:
    assert tiny.post("/completion", prompt="a", n_predict=1).json()["generation_settings"]["seed"] == 7


def test_the_place_and_a_shifted_context_are_told() -> None:
    stream = NativeEvents(Head("tiny"), 0, parameters({}, None, {}), ())
    stream.started(pb.Started(place=3))
    assert events(stream.delta(pb.Delta(tokens=[5])).decode())[0]["id_slot"] == 3
    last = events(stream.finished(pb.Finished(reason=pb.LENGTH, truncated=True)).decode())[0]
    assert (last["id_slot"], last["truncated"]) == (3, True)


def test_the_time_in_line_is_told_to_those_who_waited() -> None:
    assert timings(pb.Timings(queued_ms=1500.0))["queue_ms"] == 1500
    assert "queue_ms" not in timings(pb.Timings(queued_ms=0.2))


def test_tokens_guessed_ahead_are_told_if_there_were_any() -> None:
    told = timings(pb.Timings(num_drafted=9, num_accepted=4))
    assert (told["draft_n"], told["draft_n_accepted"]) == (9, 4)
    assert not {"draft_n", "draft_n_accepted"} & timings(pb.Timings()).keys()


def test_tokens_whose_text_is_held_back_are_sent_at_once() -> None:
    stream = NativeEvents(Head("tiny"), 0, parameters({}, None, {}), ())
    event = events(stream.delta(pb.Delta(tokens=[5])).decode())[0]
    assert (event["content"], event["tokens"], event["tokens_predicted"]) == ("", [5], 1)


@pytest.mark.parametrize(
    ("reason", "stop_type", "word"),
    [(pb.END_OF_SEQUENCE, "eos", ""), (pb.STOP_STRING, "word", "x"), (pb.LENGTH, "limit", "")],
)
def test_the_last_event_tells_why_it_ended_and_whether_there_was_a_new_line(
    reason: pb.FinishReason, stop_type: str, word: str
) -> None:
    stream = NativeEvents(Head("tiny"), 0, parameters({}, None, {}), ())
    stream.delta(pb.Delta(text="a\nb", tokens=[1]))
    event = events(stream.finished(pb.Finished(reason=reason, stop_string=word)).decode())[0]
    assert (event["stop_type"], event["stopping_word"], event["has_new_line"]) == (stop_type, word, True)
