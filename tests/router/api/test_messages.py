"""A conversation on its way to the template: roles, content parts, tools, template arguments."""

import json
from typing import Any

import orjson
import pytest

from protos import inference_pb2 as pb
from router.api.messages import conversation
from router.errors import InvalidRequest

HELLO = [{"role": "user", "content": "hi"}]
TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {}}}]


BEGUN = [*HELLO, {"role": "assistant", "content": "well"}]
CALL = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}


def chat(body: dict[str, Any]) -> pb.Chat:
    return conversation(body, {}).proto


def sent(**body: Any) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = json.loads(chat(body).messages_json)
    return messages


def test_messages_arrive_as_they_are() -> None:
    messages = [{"role": "system", "content": "be kind"}, {"role": "user", "content": "hé\n", "name": "me"}]
    assert sent(messages=messages) == messages


def test_a_developer_is_the_system() -> None:
    assert sent(messages=[{"role": "developer", "content": "x"}, *HELLO])[0] == {"role": "system", "content": "x"}


def test_text_parts_stand_one_below_the_other() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert sent(messages=[{"role": "user", "content": parts}]) == [{"role": "user", "content": "a\nb"}]


def test_a_call_of_a_tool_needs_no_content() -> None:
    messages = [*HELLO, {"role": "assistant", "content": None, "tool_calls": [CALL]}]
    messages += [{"role": "tool", "tool_call_id": "1", "content": "42"}]
    shown = sent(messages=messages)
    assert shown[1] == {"role": "assistant", "content": "", "tool_calls": [CALL]}
    assert shown[2] == messages[2]


@pytest.mark.parametrize(("choice", "given"), [(None, TOOLS), ("auto", TOOLS), ("none", None)])
def test_tools_reach_the_template_unless_the_choice_is_none(choice: str | None, given: list[Any] | None) -> None:
    tools = chat({"messages": HELLO, "tools": TOOLS, "tool_choice": choice}).tools_json
    assert (json.loads(tools) if tools else None) == given


def test_template_arguments_are_passed_on_and_the_effort_joins_them() -> None:
    assert chat({"messages": HELLO}).template_arguments_json == ""
    given = chat({"messages": HELLO, "chat_template_kwargs": {"a": 1}, "reasoning_effort": "low"})
    assert json.loads(given.template_arguments_json) == {"reasoning_effort": "low", "a": 1}


def test_a_generation_prompt_is_added_unless_refused() -> None:
    assert chat({"messages": HELLO}).add_generation_prompt
    assert not chat({"messages": HELLO, "add_generation_prompt": False}).add_generation_prompt


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "f"}}])
def test_a_choice_among_no_tools_asks_for_nothing(choice: Any) -> None:
    for tools in ({}, {"tools": []}, {"tools": None}):
        assert chat({"messages": HELLO, "tool_choice": choice, **tools}).tools_json == ""


@pytest.mark.parametrize("kind", [None, {}, {"type": None}, {"type": "text"}])
def test_a_text_response_is_what_there_is(kind: Any) -> None:
    assert chat({"messages": HELLO, "response_format": kind})


@pytest.mark.parametrize("role", ["user", "assistant", "system", "tool"])
def test_content_of_null_is_no_text_and_absent_content_is_refused(role: str) -> None:
    assert sent(messages=[{"role": role, "content": None}, *HELLO])[0] == {"role": role, "content": ""}
    with pytest.raises(InvalidRequest, match="'content'"):
        sent(messages=[{"role": role}, *HELLO])


def test_no_messages_at_all_are_for_the_template_to_judge() -> None:
    assert sent(messages=[]) == []


def test_a_last_answer_is_continued_and_opens_the_answer_whole_and_streamed() -> None:
    for body in ({}, {"add_generation_prompt": False}, {"echo": False}, {"continue_final_message": False}):
        given = conversation({"messages": BEGUN, **body}, {})
        assert (given.proto.continued, given.opening, given.opens_stream) == ("content", "well", True)
    given = conversation({"messages": HELLO}, {})
    assert (given.proto.continued, given.opening) == ("", "")


def test_a_last_answer_is_a_message_like_others_if_the_server_or_the_body_says_so() -> None:
    off = {"prefill_assistant": False}
    for given in (conversation({"messages": BEGUN}, off), conversation({"messages": BEGUN, **off}, {})):
        assert (given.proto.continued, given.opening, given.proto.add_generation_prompt) == ("", "", True)
    assert conversation({"messages": BEGUN, "prefill_assistant": True}, off).opening == "well"
    assert conversation({"messages": [*BEGUN, BEGUN[-1]]}, off).proto.continued == ""


def test_the_templates_variables_are_the_servers_but_for_those_that_the_body_gives() -> None:
    defaults = {"chat_template_kwargs": {"a": 1, "b": 1, "reasoning_effort": "high"}}

    def variables(**body: object) -> object:
        return orjson.loads(conversation({"messages": HELLO, **body}, defaults).proto.template_arguments_json)

    assert variables() == {"a": 1, "b": 1, "reasoning_effort": "high"}
    assert variables(reasoning_effort="low") == {"a": 1, "b": 1, "reasoning_effort": "low"}
    assert variables(chat_template_kwargs={"b": 2}) == {"a": 1, "b": 2, "reasoning_effort": "high"}


@pytest.mark.parametrize(("echo", "opens"), [({}, False), ({"echo": False}, False), ({"echo": True}, True)])
def test_a_stream_that_was_told_to_continue_opens_with_the_rest_unless_told_to_echo(
    echo: dict[str, bool], opens: bool
) -> None:
    asked = {"continue_final_message": True, "add_generation_prompt": False}
    given = conversation({"messages": BEGUN, **asked, **echo}, {"prefill_assistant": False})
    assert (given.proto.continued, given.opening, given.opens_stream) == ("content", "well", opens)


def test_the_part_that_is_continued_is_the_one_that_was_being_written() -> None:
    asked = {"add_generation_prompt": False, "continue_final_message": True}
    thought = {"role": "assistant", "content": "", "reasoning_content": "hm"}
    both = {**thought, "content": "well"}
    for last, part in ((thought, "reasoning_content"), (both, "content")):
        assert conversation({"messages": [*HELLO, last], **asked}, {}).proto.continued == part
    chosen = conversation({"messages": [*HELLO, both], **asked, "continue_final_message": "reasoning_content"}, {})
    assert (chosen.proto.continued, chosen.opening) == ("reasoning_content", "")


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ({"messages": [*BEGUN, BEGUN[-1]]}, "2 or more assistant messages"),
        ({"messages": BEGUN, "continue_final_message": True}, "both add_generation_prompt and continue_final_message"),
        ({"messages": [*HELLO, {**BEGUN[-1], "tool_calls": [CALL]}]}, "contains tool calls"),
        ({"messages": [], "continue_final_message": True, "add_generation_prompt": False}, "'messages' is empty"),
        ({"messages": BEGUN, "continue_final_message": "thoughts"}, "a boolean, 'content' or 'reasoning_content'"),
        ({"messages": BEGUN, "continue_final_message": 1}, "a boolean, 'content' or 'reasoning_content'"),
    ],
)
def test_what_cannot_be_continued_is_refused(body: dict[str, Any], error: str) -> None:
    with pytest.raises(InvalidRequest, match=error):
        conversation(body, {})
