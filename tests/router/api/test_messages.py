"""A conversation on its way to the template: roles, content parts, tools, template arguments."""

import json
from typing import Any

import pytest

from router.api.messages import chat

HELLO = [{"role": "user", "content": "hi"}]
TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {}}}]


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
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    messages = [*HELLO, {"role": "assistant", "content": None, "tool_calls": [call]}]
    messages += [{"role": "tool", "tool_call_id": "1", "content": "42"}]
    shown = sent(messages=messages)
    assert shown[1] == {"role": "assistant", "content": "", "tool_calls": [call]}
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


@pytest.mark.parametrize("kind", [None, {"type": "text"}])
def test_a_text_response_is_what_there_is(kind: Any) -> None:
    assert chat({"messages": HELLO, "response_format": kind})
