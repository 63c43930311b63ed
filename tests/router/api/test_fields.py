"""Bad bodies, over real HTTP: always a 4xx or 501 in llama-server's envelope that names the field and the value."""

import json
from typing import Any

import pytest
from starlette.requests import Request
from starlette.types import Message

from router.api.fields import json_body
from router.errors import InvalidRequest
from tests.router.api.clients import Gateway

TOOLS = [{"type": "function", "function": {"name": "f"}}]
HELLO = [{"role": "user", "content": "hi"}]
BASES = {
    "/v1/chat/completions": {"messages": HELLO},
    "/v1/completions": {"prompt": "hi"},
    "/completion": {"prompt": "hi"},
}

# (body, what the message must contain), refused by every completion route with 400
WRONG_VALUES: list[tuple[dict[str, Any], list[str]]] = [
    ({"temperature": "hot"}, ["'temperature'", "a number", '"hot"']),
    ({"temperature": True}, ["'temperature'", "a number", "true"]),
    ({"temperature": [1]}, ["'temperature'", "an array"]),
    ({"temperature": 1e300}, ["'temperature'", "must be between", "1e+300"]),
    ({"top_k": 1.5}, ["'top_k'", "an integer", "1.5"]),
    ({"top_k": 2**31}, ["'top_k'", "<= 2147483647", "2147483648"]),
    ({"top_k": True}, ["'top_k'", "a boolean"]),
    ({"top_p": "0.9"}, ["'top_p'", "a number"]),
    ({"min_p": {}}, ["'min_p'", "an object"]),
    ({"repeat_penalty": 0}, ["'repeat_penalty'", "1e-06 <= value <= 1000000000", "got 0"]),
    ({"repeat_last_n": -2}, ["'repeat_last_n'", "-1 <= value", "got -2"]),
    ({"presence_penalty": "x"}, ["'presence_penalty'"]),
    ({"frequency_penalty": []}, ["'frequency_penalty'"]),
    ({"seed": 2**64}, ["'seed'", "64-bit"]),
    ({"seed": "42"}, ["'seed'", '"42"']),
    ({"seed": 1.5}, ["'seed'", "1.5"]),
    ({"seed": 2.0**53}, ["'seed'", "64-bit"]),
    ({"max_tokens": "ten"}, ["'max_tokens'", '"ten"']),
    ({"max_tokens": -2}, ["'max_tokens'", "-1 <= value", "got -2"]),
    ({"max_tokens": 2**31}, ["'max_tokens'", "2147483648"]),
    ({"max_tokens": 1.5}, ["'max_tokens'", "1.5"]),
    ({"max_completion_tokens": []}, ["'max_completion_tokens'"]),
    ({"n_predict": 2**64}, ["'n_predict'"]),
    ({"n": 0}, ["'n'", "1 <= value <= 16", "got 0"]),
    ({"n": 129}, ["'n'", "1 <= value <= 16", "got 129"]),
    ({"n": "2"}, ["'n'", "an integer"]),
    ({"stop": 5}, ["'stop'", "5"]),
    ({"stop": ["a", 5]}, ["'stop[1]'", "a string", "5"]),
    ({"stop": ["a"] * 65}, ["'stop'", "64", "65"]),
    ({"stop": {"a": 1}}, ["'stop'", "an object"]),
    ({"stream": "yes"}, ["'stream'", "a boolean", '"yes"']),
    ({"stream": 1}, ["'stream'", "a boolean"]),
    ({"stream_options": []}, ["'stream_options'", "an object"]),
    ({"stream_options": {"include_usage": "yes"}}, ["'include_usage'", "a boolean"]),
    ({"ignore_eos": 0}, ["'ignore_eos'", "a boolean"]),
    ({"cache_prompt": "no"}, ["'cache_prompt'"]),
    ({"timings_per_token": 3}, ["'timings_per_token'"]),
    ({"min_keep": -1}, ["'min_keep'", "0 <= value"]),
    ({"n_discard": -5}, ["'n_discard'", "0 <= value", "got -5"]),
    ({"n_keep": -2}, ["'n_keep'"]),
    ({"id_slot": "a"}, ["'id_slot'"]),
    ({"logit_bias": 5}, ["'logit_bias'", "an array or an object"]),
    ({"logit_bias": [[-1, 1]]}, ["'logit_bias'", "0 <= value", "-1"]),
    ({"logit_bias": [[1]]}, ["'logit_bias'", "pairs"]),
    ({"logit_bias": {"1": "x"}}, ["'logit_bias'", "a number", '"x"']),
    ({"logit_bias": {"9" * 10: 1}}, ["'logit_bias'", "2147483647", "9999999999"]),
    ({"logit_bias": {"9" * 5000: 1}}, ["'logit_bias'", '"9999']),
    ({"logit_bias": [[1, True]]}, ["'logit_bias'", "a number"]),
    ({"grammar": 5}, ["'grammar'", "a string"]),
    ({"dry_sequence_breakers": "x"}, ["'dry_sequence_breakers'"]),
    ({"model": 5}, ["'model'", "a string", "5"]),
]

# refused by every completion route with 501: they would change the answer, and no worker can do them yet
UNSUPPORTED: list[tuple[dict[str, Any], str]] = [
    ({"grammar": 'root ::= "a"'}, "'grammar'"),
    ({"json_schema": {}}, "'json_schema'"),
    ({"lora": [{"id": 0, "scale": 1.0}]}, "'lora'"),
    ({"n_indent": 2}, "'n_indent'"),
]

# one route's own fields: (path, whole body, status, what the message must contain)
OWN: list[tuple[str, dict[str, Any], int, list[str]]] = [
    ("/v1/chat/completions", {}, 400, ["'messages' is required"]),
    ("/v1/chat/completions", {"messages": None}, 400, ["'messages' is required"]),
    ("/v1/chat/completions", {"messages": "hi"}, 400, ["Expected 'messages' to be an array", '"hi"']),
    ("/v1/chat/completions", {"messages": ["hi"]}, 400, ["'messages[0]'", "an object"]),
    ("/v1/chat/completions", {"messages": [{"content": "hi"}]}, 400, ["'messages[0].role'"]),
    ("/v1/chat/completions", {"messages": [{"role": 5, "content": "hi"}]}, 400, ["'messages[0].role'", "5"]),
    ("/v1/chat/completions", {"messages": [{"role": "user"}]}, 400, ["All non-assistant messages must contain"]),
    ("/v1/chat/completions", {"messages": [{"role": "assistant"}]}, 400, ["either 'content' or 'tool_calls'"]),
    (
        "/v1/chat/completions",
        {"messages": [{"role": "user", "content": 5}]},
        400,
        ["Expected 'content'"],
    ),
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": ["x"]}]}, 400, ["'messages[0].content[0]'"]),
    (
        "/v1/chat/completions",
        {"messages": [{"role": "user", "content": [{"type": "odd"}]}]},
        400,
        ["unsupported content[].type", '"odd"'],
    ),
    (
        "/v1/chat/completions",
        {"messages": [{"role": "user", "content": [{"type": "text", "text": 5}]}]},
        400,
        ["content[0].text", "a string"],
    ),
    (
        "/v1/chat/completions",
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
        501,
        ["image input is not supported"],
    ),
    (
        "/v1/chat/completions",
        {"messages": [*HELLO, *[{"role": "assistant", "content": "a"}] * 2]},
        400,
        ["Cannot have 2 or more assistant messages"],
    ),
    ("/v1/chat/completions", {"messages": HELLO, "logprobs": 5}, 400, ["'logprobs'", "a boolean"]),
    ("/v1/chat/completions", {"messages": HELLO, "top_logprobs": 2}, 400, ["top_logprobs requires logprobs"]),
    ("/v1/chat/completions", {"messages": HELLO, "logprobs": True, "top_logprobs": 129}, 400, ["<= 128", "129"]),
    ("/v1/chat/completions", {"messages": HELLO, "tools": {}}, 400, ["'tools'", "an array"]),
    ("/v1/chat/completions", {"messages": HELLO, "tools": ["x"]}, 400, ["'tools[0]'", "an object"]),
    ("/v1/chat/completions", {"messages": HELLO, "tool_choice": "maybe"}, 400, ["'tool_choice'", '"maybe"']),
    ("/v1/chat/completions", {"messages": HELLO, "tools": TOOLS, "tool_choice": "required"}, 501, ["'tool_choice'"]),
    ("/v1/chat/completions", {"messages": HELLO, "tools": TOOLS, "tool_choice": {}}, 501, ["'tool_choice'"]),
    ("/v1/chat/completions", {"messages": HELLO, "response_format": "json"}, 400, ["'response_format'"]),
    (
        "/v1/chat/completions",
        {"messages": HELLO, "response_format": {"type": "x"}},
        400,
        ['"x"'],
    ),
    ("/v1/chat/completions", {"messages": HELLO, "response_format": {"type": "json_object"}}, 501, ["response_format"]),
    ("/v1/chat/completions", {"messages": HELLO, "response_format": {"type": "json_schema"}}, 501, ["response_format"]),
    ("/v1/chat/completions", {"messages": HELLO, "chat_template_kwargs": 1}, 400, ["'chat_template_kwargs'"]),
    ("/v1/chat/completions", {"messages": HELLO, "functions": [{"name": "f"}]}, 501, ["'functions'"]),
    ("/v1/chat/completions", {"messages": HELLO, "continue_final_message": True}, 400, ["add_generation_prompt"]),
    ("/v1/completions", {}, 400, ["'prompt' is required"]),
    ("/v1/completions", {"prompt": 5}, 400, ["'prompt'", "a string", "5"]),
    ("/v1/completions", {"prompt": []}, 400, ["'prompt' must not be an empty array"]),
    ("/v1/completions", {"prompt": [-1]}, 400, ["'prompt[0]'", "0 <= value", "-1"]),
    ("/v1/completions", {"prompt": [1, 2**31]}, 400, ["'prompt[1]'", "2147483648"]),
    ("/v1/completions", {"prompt": [1, True]}, 400, ["'prompt[1]'", "a boolean"]),
    ("/v1/completions", {"prompt": [1.5]}, 400, ["'prompt[0]'", "1.5"]),
    ("/v1/completions", {"prompt": ["a", {"x": 1}]}, 400, ["'prompt[1].prompt_string'"]),
    ("/v1/completions", {"prompt": [None]}, 400, ["'prompt[0]'", "null"]),
    ("/v1/completions", {"prompt": ["a"] * 100, "n": 16}, 400, ["'prompt", "512", "1600"]),
    ("/v1/completions", {"prompt": "a", "logprobs": True}, 400, ["'logprobs'", "an integer"]),
    ("/v1/completions", {"prompt": "a", "logprobs": -1}, 400, ["'logprobs'", "0 <= value <= 128"]),
    ("/v1/completions", {"prompt": "a", "echo": 1}, 400, ["'echo'", "a boolean"]),
    ("/v1/completions", {"prompt": "a", "suffix": "b"}, 501, ["'suffix'"]),
    ("/v1/completions", {"prompt": "a", "best_of": 3}, 501, ["'best_of'"]),
    ("/completion", {}, 400, ["'prompt' is required"]),
    ("/completion", {"prompt": {"prompt_string": "a", "multimodal_data": ["x"]}}, 501, ["multimodal_data"]),
    ("/completion", {"prompt": "a", "n_probs": 129}, 400, ["'n_probs'", "0 <= value <= 128"]),
    ("/completion", {"prompt": "a", "return_tokens": "x"}, 400, ["'return_tokens'"]),
    ("/tokenize", {"content": 5}, 400, ["'content'", "5"]),
    ("/tokenize", {"content": ["a", -1]}, 400, ["'content[1]'", "-1"]),
    ("/tokenize", {"content": "a", "add_special": 1}, 400, ["'add_special'"]),
    ("/detokenize", {"tokens": "a"}, 400, ["'tokens'"]),
    ("/detokenize", {"tokens": [1, "a"]}, 400, ["'tokens[1]'", '"a"']),
    ("/detokenize", {"tokens": [-1]}, 400, ["'tokens[0]'", "-1"]),
    ("/apply-template", {}, 400, ["'messages' is required"]),
]

NOT_JSON_OBJECTS = [
    b"",
    b"   ",
    b"{",
    b'{"prompt": "a"',
    b"prompt=a",
    b"[1, 2]",
    b'"text"',
    b"null",
    b"12",
    b'{"prompt": NaN}',
    b'{"temperature": Infinity}',
    b'{"prompt": "a", "temperature": 1e999}',
    b'{"prompt": "a",}',
    b"{'prompt': 'a'}",
    b'{"prompt": "\xff\xfe"}',
    b'{"prompt": "\\ud800"}',
    b'{"messages": [{"role": "user", "content": "a", "x": ' + b"[" * 300 + b"]" * 300 + b"}]}",
    b'{"prompt": "a", "temperature": ' + b"[" * 1000 + b"]" * 1000 + b"}",
    b'{"prompt": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
]

KINDS = {400: "invalid_request_error", 501: "not_supported_error"}


def assert_refused(answer: Any, status: int, parts: list[str]) -> None:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json; charset=utf-8"
    error = answer.json()["error"]
    assert list(error) == ["code", "message", "type"]
    assert (error["code"], error["type"]) == (status, KINDS[status])
    for part in parts:
        assert part in error["message"]
    assert "\n" not in error["message"] and "Traceback" not in error["message"]


@pytest.mark.parametrize("path", BASES)
@pytest.mark.parametrize(("body", "parts"), WRONG_VALUES, ids=lambda value: json.dumps(value)[:40])
def test_a_wrong_value_names_its_field_and_the_allowed_range(
    tiny: Gateway, path: str, body: dict[str, Any], parts: list[str]
) -> None:
    assert_refused(tiny.post(path, **BASES[path], **body), 400, parts)


@pytest.mark.parametrize("path", BASES)
@pytest.mark.parametrize(("body", "part"), UNSUPPORTED, ids=lambda value: json.dumps(value)[:40])
def test_what_no_worker_can_do_is_refused_and_named(tiny: Gateway, path: str, body: dict[str, Any], part: str) -> None:
    assert_refused(tiny.post(path, **BASES[path], **body), 501, [part, "not supported"])


@pytest.mark.parametrize(("path", "body", "status", "parts"), OWN, ids=lambda value: json.dumps(value)[:60])
def test_a_route_checks_its_own_fields(
    tiny: Gateway, path: str, body: dict[str, Any], status: int, parts: list[str]
) -> None:
    assert_refused(tiny.post(path, **body), status, parts)


def test_a_whole_number_may_be_written_as_a_float(tiny: Gateway) -> None:
    settings = tiny.post("/completion", prompt="a", seed=42.0, top_k=5.0, n_predict=1.0).json()["generation_settings"]
    assert (settings["seed"], settings["top_k"], settings["n_predict"]) == (42, 5, 1)


def test_a_byte_order_mark_before_a_body_is_passed_over(tiny: Gateway) -> None:
    assert tiny.http.post("/completion", content=b'\xef\xbb\xbf{"prompt": "a"}').status_code == 200


@pytest.mark.parametrize("path", [*BASES, "/tokenize", "/detokenize", "/apply-template"])
@pytest.mark.parametrize("body", NOT_JSON_OBJECTS, ids=lambda body: repr(body[:25]))
def test_a_body_that_is_no_json_object_is_refused(tiny: Gateway, path: str, body: bytes) -> None:
    assert_refused(tiny.http.post(path, content=body), 400, ["request body"])


@pytest.mark.parametrize("path", BASES)
def test_null_is_absent_and_unknown_fields_are_ignored(tiny: Gateway, path: str) -> None:
    nulls = dict.fromkeys(["temperature", "stop", "max_tokens", "stream", "logit_bias", "logprobs", "grammar", "model"])
    unknown = {"service_tier": "auto", "store": True, "metadata": {"a": 1}, "user": "me", "": 5}
    answer = tiny.post(path, **BASES[path], **nulls, **unknown)
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize("path", BASES)
def test_values_that_ask_for_nothing_special_are_accepted(tiny: Gateway, path: str) -> None:
    neutral = {
        "mirostat": 0,
        "grammar": "",
        "dry_multiplier": 0.0,
        "dry_base": 1.75,
        "xtc_probability": 0,
        "typical_p": 1.0,
        "top_n_sigma": -1,
        "lora": [],
        "samplers": ["penalties", "dry", "top_n_sigma", "top_k", "typ_p", "top_p", "min_p", "xtc", "temperature"],
        "id_slot": 3,
        "n_keep": 5,
        "top_k": 40.0,
    }
    answer = tiny.post(path, **BASES[path], **neutral)
    assert answer.status_code == 200, answer.text


def test_a_long_value_is_not_repeated_in_full(tiny: Gateway) -> None:
    answer = tiny.post("/v1/completions", prompt="a", temperature="x" * 10_000)
    assert len(answer.json()["error"]["message"]) < 300


async def test_a_client_that_leaves_in_the_middle_of_its_body_is_no_fault_of_ours() -> None:
    received = iter([{"type": "http.request", "body": b'{"a"', "more_body": True}, {"type": "http.disconnect"}])

    async def receive() -> Message:
        return next(received)

    with pytest.raises(InvalidRequest, match="before the request was complete"):
        await json_body(Request({"type": "http"}, receive))
