"""A chat body's conversation, checked and put into the proto: messages, tools, template arguments.

Called by api/chat.py and api/text.py. Invariant: every message that leaves has a role and a string as content;
what the model's template cannot be given (images, sounds) is refused.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from protos import inference_pb2 as pb
from router.api.fields import (
    Body,
    Field,
    Fields,
    anything,
    array,
    boolean,
    kind_of,
    mapping,
    read,
    shown,
    string,
    wrong_type,
)
from router.api.sampling import optional_json
from router.errors import InvalidRequest, NotSupported

CONTENT, REASONING = "content", "reasoning_content"
ARGUMENTS = "chat_template_kwargs"


def _continuation(field: Field, value: Any) -> bool | str:
    """Whether the last message is continued, or which part of it."""
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value in (CONTENT, REASONING):
        return value
    raise wrong_type(field.name, f"a boolean, '{CONTENT}' or '{REASONING}'", value)


# Whether a last message by the assistant is the beginning of the answer, where nothing else says so.
PREFILL = Field("prefill_assistant", boolean, True)
TABLE = Fields(
    Field("tools", array, [], high=512),
    Field("tool_choice", anything, "auto"),
    Field("parallel_tool_calls", boolean, False),
    Field("response_format", mapping),
    Field(ARGUMENTS, mapping, {}),
    Field("reasoning_effort", string),
    Field("add_generation_prompt", boolean, True),
    Field("continue_final_message", _continuation, False),
    PREFILL,
    Field("functions", anything, None, neutral=lambda value: not value),
    Field("function_call", anything, None, neutral=lambda value: value in ("none", "auto")),
    Field("audio", anything, None, neutral=lambda value: False),
    Field("modalities", anything, ["text"], neutral=lambda value: value == ["text"]),
)
ECHO = Fields(Field("echo", boolean, False))
OTHER_MEDIA = {"image_url": "image", "input_audio": "audio", "input_video": "video"}


@dataclass(frozen=True, slots=True)
class Conversation:
    """What a template is given, and the beginning of the answer where the client has written it itself."""

    proto: pb.Chat
    opening: str
    opens_stream: bool  # a stream begins with the opening, too; any other answer does


def conversation(body: Body, defaults: Mapping[str, Any]) -> Conversation:
    """The conversation of a chat body; `defaults`, of the server's flags, are for fields that it does not have."""
    given = read(TABLE, body)
    if body.get(PREFILL.name) is None:
        given[PREFILL.name] = defaults.get(PREFILL.name, PREFILL.default)
    given[ARGUMENTS] = _arguments(given, defaults.get(ARGUMENTS, {}))
    messages = _messages(body.get("messages"))
    continued = _continued(given, messages)
    opening = messages[-1]["content"] if continued == CONTENT else ""
    opens_stream = not given["continue_final_message"] or read(ECHO, body)["echo"]
    return Conversation(_proto(given, messages, continued), opening, opens_stream)


def _proto(given: Mapping[str, Any], messages: Sequence[Mapping[str, Any]], continued: str) -> pb.Chat:
    _check_response_format(given["response_format"])
    return pb.Chat(
        messages_json=orjson.dumps(messages).decode(),
        tools_json=optional_json(_tools(given["tools"], given["tool_choice"])),
        template_arguments_json=optional_json(given[ARGUMENTS]),
        add_generation_prompt=given["add_generation_prompt"],
        continued=continued,
    )


def _arguments(given: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """The template's variables: those of flags, of the body's own field, of its table, the later before the earlier."""
    effort = {} if given["reasoning_effort"] is None else {"reasoning_effort": given["reasoning_effort"]}
    return {**defaults, **effort, **given[ARGUMENTS]}


def _continued(given: Mapping[str, Any], messages: Sequence[Mapping[str, Any]]) -> str:
    """The part of the last message that the answer goes on from; empty: it is a message of its own."""
    wanted = given["continue_final_message"]
    if not wanted and not (given[PREFILL.name] and _ends_with_answer(messages)):
        return ""
    if wanted and given["add_generation_prompt"]:
        raise InvalidRequest("Cannot set both add_generation_prompt and continue_final_message to true.")
    if not messages:
        raise InvalidRequest("continue_final_message: there is no final message, 'messages' is empty")
    last = messages[-1]
    if last.get("tool_calls"):
        raise InvalidRequest("Cannot continue an assistant message that contains tool calls.")
    if isinstance(wanted, str):
        return wanted
    return REASONING if last.get(REASONING) and not last[CONTENT] else CONTENT


def _ends_with_answer(messages: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the assistant is in the middle of its answer."""
    roles = [message["role"] for message in messages[-2:]]
    if roles == ["assistant", "assistant"]:
        raise InvalidRequest("Cannot have 2 or more assistant messages at the end of the list.")
    return roles[-1:] == ["assistant"]


def _messages(value: Any) -> list[dict[str, Any]]:
    if value is None:
        raise InvalidRequest("'messages' is required")
    if not isinstance(value, list):
        raise InvalidRequest(f"Expected 'messages' to be an array, but got {kind_of(value)}: {shown(value)}")
    return [_message(index, message) for index, message in enumerate(value)]


def _message(index: int, message: Any) -> dict[str, Any]:
    name = f"messages[{index}]"
    if not isinstance(message, dict):
        raise wrong_type(name, "an object", message)
    role = message.get("role")
    if not isinstance(role, str) or not role:
        raise wrong_type(f"{name}.role", "a string", role)
    content = message.get("content")
    if "content" not in message:
        _check_absent_content(role, message)
    return {**message, "role": "system" if role == "developer" else role, "content": _content(name, content)}


def _check_absent_content(role: str, message: Mapping[str, Any]) -> None:
    if role != "assistant":
        raise InvalidRequest("All non-assistant messages must contain 'content'")
    if not message.get("tool_calls"):
        raise InvalidRequest("Assistant message must contain either 'content' or 'tool_calls'!")


def _content(name: str, content: Any) -> str:
    """Text, or the text parts of an array, one below the other."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise InvalidRequest(f"Expected 'content' to be a string or an array ({name}), but got {kind_of(content)}")
    return "\n".join(_part(f"{name}.content[{index}]", part) for index, part in enumerate(content))


def _part(name: str, part: Any) -> str:
    if not isinstance(part, dict):
        raise wrong_type(name, "an object", part)
    kind = part.get("type")
    if isinstance(kind, str) and kind in OTHER_MEDIA:
        raise NotSupported(f"{OTHER_MEDIA[kind]} input is not supported ({name})")
    if kind != "text":
        raise InvalidRequest(f"unsupported content[].type ({name}): {shown(kind)}")
    text = part.get("text")
    if not isinstance(text, str):
        raise wrong_type(f"{name}.text", "a string", text)
    return text


def _tools(tools: list[Any], choice: Any) -> list[Any]:
    """The tools the template may see."""
    for index, tool in enumerate(tools):
        if not isinstance(tool, dict):
            raise wrong_type(f"tools[{index}]", "an object", tool)
    if choice in ("auto", "none"):
        return tools if choice == "auto" else []
    if choice == "required" or isinstance(choice, dict):
        if not tools:
            return []
        raise NotSupported(f"Field 'tool_choice': {shown(choice)} is not supported yet")
    raise InvalidRequest(f"Field 'tool_choice': expected auto, none or required, but got {shown(choice)}")


def _check_response_format(given: Mapping[str, Any] | None) -> None:
    if given is None:
        return
    kind = given.get("type")
    if kind in ("json_object", "json_schema"):
        raise NotSupported(f"Field 'response_format': type {shown(kind)} is not supported yet")
    if kind not in (None, "text"):
        raise InvalidRequest(f'response_format type must be one of "text" or "json_object", but got: {shown(kind)}')
