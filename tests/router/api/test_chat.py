"""POST /v1/chat/completions: golden transcripts (ids and times masked) and what varies from them."""

import json
from typing import Any

import pytest

from protos import inference_pb2 as pb
from router.api.chat import ChatEvents
from router.api.sampling import parameters
from router.api.wire import Head
from tests.router.api.clients import Gateway, events, masked

HELLO = [{"role": "user", "content": "say stop_at=2 please"}]
HEAD = '"created":0,"id":"ID","model":"tiny","system_fingerprint":"b0-corral","object":"chat.completion.chunk"'
TIMINGS = (
    '"timings":{"cache_n":0,"prompt_n":3,"prompt_ms":0,"prompt_per_token_ms":0,"prompt_per_second":0,'
    '"predicted_n":2,"predicted_ms":0,"predicted_per_token_ms":0,"predicted_per_second":0}'
)
USAGE = '"usage":{"completion_tokens":2,"prompt_tokens":3,"total_tokens":5,"prompt_tokens_details":{"cached_tokens":0}}'
ROLE = f'data: {{"choices":[{{"finish_reason":null,"index":0,"delta":{{"role":"assistant","content":null}}}}],{HEAD}}}'
FIRST = f'data: {{"choices":[{{"finish_reason":null,"index":0,"delta":{{"content":"w0"}}}}],{HEAD}}}'
SECOND = f'data: {{"choices":[{{"finish_reason":null,"index":0,"delta":{{"content":" w1"}}}}],{HEAD}}}'
END = f'data: {{"choices":[{{"finish_reason":"stop","index":0,"delta":{{}}}}],{HEAD}'
DONE = "data: [DONE]"


def transcript(*blocks: str) -> str:
    return "".join(block + "\n\n" for block in blocks)


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/chat/completions"])
def test_a_stream_is_llama_servers_to_the_byte(tiny: Gateway, path: str) -> None:
    answer = tiny.post(path, messages=HELLO, stream=True)
    assert masked(answer.text) == transcript(ROLE, FIRST, SECOND, f"{END},{TIMINGS}}}", DONE)
    assert answer.headers["content-type"] == "text/event-stream"
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["x-accel-buffering"] == "no"


def test_usage_comes_in_a_last_chunk_without_choices_and_takes_the_timings_along(tiny: Gateway) -> None:
    answer = tiny.post("/v1/chat/completions", messages=HELLO, stream=True, stream_options={"include_usage": True})
    usage = f'data: {{"choices":[],{HEAD},{USAGE},{TIMINGS}}}'
    assert masked(answer.text) == transcript(ROLE, FIRST, SECOND, f"{END}}}", usage, DONE)


def test_a_whole_answer_is_llama_servers_to_the_byte(tiny: Gateway) -> None:
    answer = tiny.post("/v1/chat/completions", messages=HELLO)
    assert answer.headers["content-type"] == "application/json; charset=utf-8"
    assert masked(answer.text) == (
        '{"choices":[{"finish_reason":"stop","index":0,'
        '"message":{"role":"assistant","content":"w0 w1","refusal":null}}],'
        '"created":0,"model":"tiny","system_fingerprint":"b0-corral","object":"chat.completion",'
        f'{USAGE},"id":"ID",{TIMINGS}}}'
    )


BEGUN = [*HELLO, {"role": "assistant", "content": "so:"}]
OPENED = {"messages": BEGUN, "continue_final_message": True, "add_generation_prompt": False}


def contents(answer: str) -> list[str]:
    deltas = [choice["delta"] for event in events(answer)[:-1] for choice in event["choices"]]
    return [delta["content"] for delta in deltas if delta.get("content") is not None]


@pytest.mark.parametrize("body", [{"messages": BEGUN}, OPENED, {**OPENED, "echo": True}])
def test_a_whole_answer_has_what_the_client_began_and_its_usage_has_not(tiny: Gateway, body: dict[str, Any]) -> None:
    answer = tiny.post("/v1/chat/completions", n=2, logprobs=True, **body).json()
    assert [choice["message"]["content"] for choice in answer["choices"]] == ["so:w0 w1"] * 2
    assert [len(choice["logprobs"]["content"]) for choice in answer["choices"]] == [2, 2]
    assert answer["usage"]["completion_tokens"] == 4


@pytest.mark.parametrize(
    ("body", "shown"),
    [
        ({"messages": BEGUN}, ["so:w0", " w1"]),
        (OPENED, ["w0", " w1"]),
        ({**OPENED, "echo": True}, ["so:w0", " w1"]),
        ({"messages": BEGUN, "max_tokens": 0}, ["so:w0"]),
    ],
)
def test_a_stream_begins_with_what_the_client_began_unless_it_was_told_to_continue(
    tiny: Gateway, body: dict[str, Any], shown: list[str]
) -> None:
    assert contents(tiny.post("/v1/chat/completions", stream=True, **body).text) == shown


def test_one_id_runs_through_a_stream_and_differs_between_answers(tiny: Gateway) -> None:
    streams = [events(tiny.post("/v1/chat/completions", messages=HELLO, stream=True).text) for _ in range(2)]
    ids = [{event["id"] for event in stream[:-1]} for stream in streams]
    assert [len(each) for each in ids] == [1, 1]
    assert ids[0] != ids[1]


def test_a_length_limit_is_told_as_such(tiny: Gateway) -> None:
    for name in ("max_tokens", "max_completion_tokens", "n_predict"):
        answer = tiny.post("/v1/chat/completions", messages=[{"role": "user", "content": "hi"}], **{name: 3}).json()
        assert answer["choices"][0]["finish_reason"] == "length"
        assert answer["usage"]["completion_tokens"] == 3


def test_every_choice_has_its_own_index_role_and_end(tiny: Gateway) -> None:
    asked = {"messages": HELLO, "n": 3}
    whole = tiny.post("/v1/chat/completions", **asked).json()
    assert [choice["index"] for choice in whole["choices"]] == [0, 1, 2]
    assert whole["usage"] == {
        "completion_tokens": 6,
        "prompt_tokens": 3,
        "total_tokens": 9,
        "prompt_tokens_details": {"cached_tokens": 0},
    }
    stream = events(tiny.post("/v1/chat/completions", **asked, stream=True).text)
    assert stream.pop() == "[DONE]"
    for index in range(3):
        choices = [event["choices"][0] for event in stream if event["choices"][0]["index"] == index]
        assert [choice["delta"] for choice in choices] == [
            {"role": "assistant", "content": None},
            {"content": "w0"},
            {"content": " w1"},
            {},
        ]
        assert [choice["finish_reason"] for choice in choices] == [None, None, None, "stop"]


def entry(token: int, piece: str, top: list[dict[str, Any]]) -> dict[str, Any]:
    return {"id": token, "token": piece, "bytes": list(piece.encode()), "logprob": -0.5, "top_logprobs": top}


TOP = [{"id": 0, "token": "t0", "bytes": [116, 48], "logprob": -0.5}]


def test_log_probabilities_stand_in_the_choice_whole_and_streamed(tiny: Gateway) -> None:
    asked = {"messages": HELLO, "logprobs": True, "top_logprobs": 1}
    whole = tiny.post("/v1/chat/completions", **asked).json()["choices"][0]["logprobs"]
    assert whole == {"content": [entry(0, "w0", TOP), entry(1, " w1", TOP)], "refusal": None}
    stream = events(tiny.post("/v1/chat/completions", **asked, stream=True).text)[:-1]
    shown = [choice["logprobs"]["content"] for event in stream for choice in event["choices"] if "logprobs" in choice]
    assert shown == [[entry(0, "w0", TOP)], [entry(1, " w1", TOP)]]


@pytest.mark.parametrize(("asked", "num_top"), [({}, 20), ({"top_logprobs": 0}, 0), ({"top_logprobs": 3}, 3)])
def test_without_a_number_there_are_twenty_alternatives(tiny: Gateway, asked: dict[str, int], num_top: int) -> None:
    answer = tiny.post("/v1/chat/completions", messages=HELLO, logprobs=True, **asked).json()
    assert len(answer["choices"][0]["logprobs"]["content"][0]["top_logprobs"]) == num_top


def test_timings_of_every_token_count_up(tiny: Gateway) -> None:
    stream = events(tiny.post("/v1/chat/completions", messages=HELLO, stream=True, timings_per_token=True).text)[:-1]
    counts = [event["timings"]["predicted_n"] for event in stream if "timings" in event]
    assert counts == [1, 2, 2]


def test_progress_through_the_prompt_comes_with_the_role(tiny: Gateway) -> None:
    stream = events(tiny.post("/v1/chat/completions", messages=HELLO, stream=True, return_progress=True).text)
    role = {"role": "assistant", "content": None}
    assert [event["choices"][0]["delta"] for event in stream[:3]] == [role, role, {"content": "w0"}]
    told = [event["prompt_progress"] for event in stream[:-1] if "prompt_progress" in event]
    assert told == [{"total": told[0]["total"], "cache": 1, "processed": 2, "time_ms": 3}]


def test_the_model_is_the_alias_that_serves(two: Gateway) -> None:
    answer = two.post("/v1/chat/completions", messages=HELLO, model="other").json()
    assert answer["model"] == "other"


def test_with_several_models_a_request_must_name_one(two: Gateway) -> None:
    answer = two.post("/v1/chat/completions", messages=HELLO)
    assert answer.status_code == 400
    assert "tiny, other" in answer.json()["error"]["message"]


def test_a_refusal_of_the_worker_before_the_first_reply_is_a_plain_error_even_for_streams(tiny: Gateway) -> None:
    for stream in (False, True):
        messages = [{"role": "user", "content": "refuse=CONTEXT_EXCEEDED"}]
        answer = tiny.post("/v1/chat/completions", messages=messages, stream=stream)
        assert answer.status_code == 400
        assert answer.headers["content-type"] == "application/json; charset=utf-8"
        assert json.loads(answer.text)["error"] == {
            "code": 400,
            "message": "refused with CONTEXT_EXCEEDED",
            "type": "exceed_context_size_error",
            "n_prompt_tokens": 5000,
            "n_ctx": 2048,
        }


@pytest.mark.parametrize(
    ("code", "status", "kind"),
    [
        ("INVALID_REQUEST", 400, "invalid_request_error"),
        ("NOT_SUPPORTED", 501, "not_supported_error"),
        ("OVERLOADED", 429, "rate_limit_error"),
        ("INTERNAL", 500, "server_error"),
    ],
)
def test_each_error_code_has_its_status(tiny: Gateway, code: str, status: int, kind: str) -> None:
    for stream in (False, True):
        messages = [{"role": "user", "content": f"refuse={code}"}]
        answer = tiny.post("/v1/chat/completions", messages=messages, stream=stream)
        assert (answer.status_code, answer.json()["error"]["type"]) == (status, kind)


def test_text_held_back_sends_nothing_and_its_log_probabilities_wait_for_it() -> None:
    choice = ChatEvents(Head("tiny"), 0, parameters({}, 0, {}))
    held = pb.Delta(tokens=[5], logprobs=[pb.TokenLogprob(token=5, piece=b"\xc3", logprob=-0.5)])
    shown = pb.Delta(text="é", tokens=[6], logprobs=[pb.TokenLogprob(token=6, piece=b"\xa9", logprob=-0.5)])
    assert choice.delta(held) == b""
    chunk = events(choice.delta(shown).decode())[0]["choices"][0]
    assert chunk["delta"] == {"content": "é"}
    assert [entry["id"] for entry in chunk["logprobs"]["content"]] == [5, 6]
    assert choice.delta(held) == b""
    last = events(choice.finished(pb.Finished(reason=pb.LENGTH)).decode())[0]["choices"][0]
    assert [entry["id"] for entry in last["logprobs"]["content"]] == [5]


def test_text_is_escaped_for_json_and_for_the_event() -> None:
    choice = ChatEvents(Head("tiny"), 0, parameters({}, None, {}))
    text = 'a"\\\n\r\n\n\x00\u2028é🤖'
    frame = choice.delta(pb.Delta(text=text)).decode()
    assert frame.count("\n") == 2
    assert events(frame)[0]["choices"][0]["delta"]["content"] == text
