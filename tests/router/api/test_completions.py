"""POST /v1/completions: golden transcripts (ids and times masked), both shapes of log probabilities, echo."""

from typing import Any

import pytest

from protos import inference_pb2 as pb
from router.api.completions import TextEvents, TextLogprobs, TextStream
from router.api.sampling import parameters
from router.api.wire import Head
from tests.router.api.clients import Gateway, events, masked

HEAD = '"created":0,"model":"tiny","system_fingerprint":"b0-corral","object":"text_completion"'
TIMINGS = (
    '"timings":{"cache_n":0,"prompt_n":2,"prompt_ms":0,"prompt_per_token_ms":0,"prompt_per_second":0,'
    '"predicted_n":2,"predicted_ms":0,"predicted_per_token_ms":0,"predicted_per_second":0}'
)
USAGE = '"usage":{"completion_tokens":2,"prompt_tokens":2,"total_tokens":4,"prompt_tokens_details":{"cached_tokens":0}}'


def test_a_stream_is_llama_servers_to_the_byte(tiny: Gateway) -> None:
    answer = tiny.post("/v1/completions", prompt="a b", max_tokens=2, stream=True)
    assert masked(answer.text) == (
        f'data: {{"choices":[{{"text":"w0","index":0,"logprobs":null,"finish_reason":null}}],{HEAD},"id":"ID"}}\n\n'
        f'data: {{"choices":[{{"text":" w1","index":0,"logprobs":null,"finish_reason":null}}],{HEAD},"id":"ID"}}\n\n'
        f'data: {{"choices":[{{"text":"","index":0,"logprobs":null,"finish_reason":"length"}}],{HEAD},{USAGE},'
        f'"id":"ID",{TIMINGS}}}\n\n'
        "data: [DONE]\n\n"
    )


def test_a_whole_answer_is_llama_servers_to_the_byte(tiny: Gateway) -> None:
    answer = tiny.post("/v1/completions", prompt="a b", max_tokens=2)
    assert masked(answer.text) == (
        f'{{"choices":[{{"text":"w0 w1","index":0,"logprobs":null,"finish_reason":"length"}}],{HEAD},{USAGE},'
        f'"id":"ID",{TIMINGS}}}'
    )


@pytest.mark.parametrize("stream", [False, True])
def test_choices_stand_in_prompt_order(tiny: Gateway, stream: bool) -> None:
    prompts = ["stop_at=1", "stop_at=2 b", "stop_at=3 b c"]
    texts = ["w0", "w0 w1", "w0 w1 w2"]
    answer = tiny.post("/v1/completions", prompt=prompts, n=2, stream=stream)
    found = joined(events(answer.text)[:-1]) if stream else [each["text"] for each in answer.json()["choices"]]
    assert found == [text for text in texts for _ in range(2)]


def test_usage_counts_a_prompt_once_however_many_choices_it_has(tiny: Gateway) -> None:
    asked: dict[str, Any] = {"prompt": ["stop_at=1", "stop_at=2 b"], "n": 2}
    whole = tiny.post("/v1/completions", **asked).json()["usage"]
    assert (whole["prompt_tokens"], whole["completion_tokens"]) == (3, 6)
    stream = events(tiny.post("/v1/completions", **asked, stream=True).text)[:-1]
    assert [event["usage"] for event in stream if "usage" in event] == [whole]
    assert "usage" in stream[-1]


def joined(stream: list[Any]) -> list[str]:
    texts: dict[int, str] = {}
    for event in stream:
        for choice in event["choices"]:
            texts[choice["index"]] = texts.get(choice["index"], "") + choice["text"]
    return [texts[index] for index in sorted(texts)]


@pytest.mark.parametrize("prompt", ["a b", ["a b"], [1, 2], [[1, 2]], [1, "b"], [[1, "b"]], {"prompt_string": "a b"}])
def test_a_prompt_may_be_text_or_token_ids_or_both(tiny: Gateway, prompt: Any) -> None:
    answer = tiny.post("/v1/completions", prompt=prompt, max_tokens=1).json()
    assert len(answer["choices"]) == 1
    assert answer["usage"]["prompt_tokens"] == 2


@pytest.mark.parametrize("stream", [False, True])
def test_echo_puts_the_prompt_before_the_text(tiny: Gateway, stream: bool) -> None:
    answer = tiny.post("/v1/completions", prompt=["a ", "b "], max_tokens=1, echo=True, stream=stream)
    found = joined(events(answer.text)[:-1]) if stream else [each["text"] for each in answer.json()["choices"]]
    assert found == ["a w0", "b w0"]


@pytest.mark.parametrize("echo", [False, True])
def test_a_prompt_of_no_tokens_is_answered_with_nothing(tiny: Gateway, echo: bool) -> None:
    whole = tiny.post("/v1/completions", prompt=["", "stop_at=1"], echo=echo, logprobs=1).json()
    assert whole["choices"][0] == {"text": "", "index": 0, "logprobs": None, "finish_reason": "length"}
    assert (whole["usage"]["prompt_tokens"], whole["usage"]["completion_tokens"]) == (1, 1)
    stream = events(tiny.post("/v1/completions", prompt="", echo=echo, stream=True).text)
    assert [choice["finish_reason"] for event in stream[:-1] for choice in event["choices"]] == ["length"]


def test_echo_of_token_ids_is_what_the_worker_reads_in_them(tiny: Gateway) -> None:
    answer = tiny.post("/v1/completions", prompt=["x ", 5], max_tokens=1, echo=True).json()
    assert answer["choices"][0]["text"] == "x w0"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("max_tokens", [0, 2])
def test_echo_with_log_probabilities_has_those_of_the_prompt(tiny: Gateway, stream: bool, max_tokens: int) -> None:
    body = {"prompt": "aé b ", "max_tokens": max_tokens, "echo": True, "logprobs": 0, "stream": stream}
    answer = tiny.post("/v1/completions", **body)
    if stream:
        chunks = [choice for event in events(answer.text)[:-1] for choice in event["choices"]]
        assert "".join(choice["text"] for choice in chunks) == "aé b w0 w1"[: 5 + 5 * max_tokens // 2]
        given = [choice["logprobs"] for choice in chunks if choice["logprobs"]]
        logprobs = {name: [value for each in given for value in each[name]] for name in given[0]}
    else:
        logprobs = answer.json()["choices"][0]["logprobs"]
    num = 3 + max_tokens
    assert logprobs["tokens"] == ["<s>", "aé ", "b ", "w0", " w1"][:num]
    assert logprobs["token_logprobs"] == [None, -1, -2, -0.5, -0.5][:num]
    assert logprobs["top_logprobs"] == [None, {"aé ": -1}, {"b ": -2}, {"w0": -0.5}, {" w1": -0.5}][:num]
    assert logprobs["text_offset"] == [0, 0, 3, 5, 7][:num]
    assert len(logprobs["content"]) == num - 1


def test_probabilities_after_sampling_have_names_of_their_own(tiny: Gateway) -> None:
    body = {"prompt": "a", "max_tokens": 1, "post_sampling_probs": True}
    [text] = tiny.post("/v1/completions", **body, logprobs=1).json()["choices"][0]["logprobs"]["content"]
    [native] = tiny.post("/completion", **body, n_probs=1).json()["completion_probabilities"]
    chat = {"messages": [{"role": "user", "content": "a"}], "max_tokens": 1, "post_sampling_probs": True}
    answer = tiny.post("/v1/chat/completions", **chat, logprobs=True, top_logprobs=1).json()
    for entry in (text, native, *answer["choices"][0]["logprobs"]["content"]):
        assert list(entry) == ["id", "token", "bytes", "prob", "top_probs"]
        assert entry["prob"] == pytest.approx(0.60653066)
        assert entry["top_probs"][0]["prob"] == pytest.approx(0.60653066)


def test_log_probabilities_come_in_both_shapes(tiny: Gateway) -> None:
    answer = tiny.post("/v1/completions", prompt="a", max_tokens=2, logprobs=1).json()
    logprobs = answer["choices"][0]["logprobs"]
    assert logprobs["tokens"] == ["w0", " w1"]
    assert logprobs["token_logprobs"] == [-0.5, -0.5]
    assert logprobs["top_logprobs"] == [{"t0": -0.5, "w0": -0.5}, {"t0": -0.5, " w1": -0.5}]
    assert logprobs["text_offset"] == [0, 2]
    assert [entry["id"] for entry in logprobs["content"]] == [0, 1]


def test_log_probabilities_of_the_chosen_tokens_alone_are_logprobs_zero(tiny: Gateway) -> None:
    logprobs = tiny.post("/v1/completions", prompt="a", max_tokens=1, logprobs=0).json()["choices"][0]["logprobs"]
    assert logprobs["token_logprobs"] == [-0.5]
    assert logprobs["content"][0]["top_logprobs"] == []


def test_streamed_text_offsets_go_on_from_chunk_to_chunk(tiny: Gateway) -> None:
    stream = events(tiny.post("/v1/completions", prompt="a", max_tokens=3, logprobs=1, stream=True).text)[:-1]
    found = [event["choices"][0]["logprobs"]["text_offset"] for event in stream[:-1]]
    assert found == [[0], [2], [5]]


def test_text_offsets_count_characters_even_when_a_token_holds_half_of_one() -> None:
    pieces = [b"a", b"\xc3", b"\xa9", b"b"]
    shown = TextLogprobs(parameters({}, 0, {})).add([pb.TokenLogprob(piece=piece, logprob=-1) for piece in pieces])
    assert shown["text_offset"] == [0, 1, 1, 2]


def test_an_impossible_token_has_the_lowest_float_as_its_log_probability() -> None:
    shown = TextLogprobs(parameters({}, 0, {})).add([pb.TokenLogprob(piece=b"a", logprob=-float("inf"))])
    assert shown["token_logprobs"] == [-3.4028234663852886e38]
    assert shown["content"][0]["logprob"] == -3.4028234663852886e38
    assert shown["top_logprobs"] == [{"a": -3.4028234663852886e38}]


def test_progress_through_the_prompt_comes_before_the_text(tiny: Gateway) -> None:
    asked = {"prompt": "a b", "max_tokens": 1, "stream": True, "return_progress": True}
    stream = events(tiny.post("/v1/completions", **asked).text)
    assert [event["choices"][0]["text"] for event in stream[:-1]] == ["", "w0", ""]
    told = [event["prompt_progress"] for event in stream[:-1] if "prompt_progress" in event]
    assert told == [{"total": 2, "cache": 1, "processed": 2, "time_ms": 3}]


def test_text_held_back_sends_nothing_and_its_log_probabilities_wait_for_it() -> None:
    given = parameters({}, 0, {})
    choice = TextEvents(TextStream(Head("tiny"), given, 1), 0, "")
    held = pb.Delta(tokens=[5], logprobs=[pb.TokenLogprob(token=5, piece=b"a", logprob=-0.5)])
    assert choice.delta(held) == b""
    chunk = events(choice.delta(pb.Delta(text="ab", tokens=[6])).decode())[0]["choices"][0]
    assert (chunk["text"], chunk["logprobs"]["tokens"]) == ("ab", ["a"])
