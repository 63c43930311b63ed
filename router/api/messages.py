"""A chat body's conversation, checked and put into the proto: messages, tools, template arguments.

Called by api/chat.py and api/text.py. Invariant: every message that leaves has a role and a string as content;
what the model's template cannot be given (images, prefilled answers) is refused.
"""

from collections.abc import Mapping
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

TABLE = Fields(
    Field("tools", array, [], high=512),
    Field("tool_choice", anything, "auto"),
    Field("parallel_tool_calls", boolean, False),
    Field("response_format", mapping),
    Field("chat_template_kwargs", mapping, {}),
    Field("reasoning_effort", string),
    Field("add_generation_prompt", boolean, True),
    Field("continue_final_message", boolean, False, neutral=lambda value: not value),
    Field("functions", anything, None, neutral=lambda value: not value),
    Field("function_call", anything, None, neutral=lambda value: value in ("none", "auto")),
    Field("audio", anything, None, neutral=lambda value: False),
    Field("modalities", anything, ["text"], neutral=lambda value: value == ["text"]),
)
OTHER_MEDIA = {"image_url": "image", "input_audio": "audio", "input_video": "video"}


def chat(body: Body) -> pb.Chat:
    """The conversation of a chat body."""
    given = read(TABLE, body)
    _check_response_format(given["response_format"])
    arguments = given["chat_template_kwargs"]
    if given["reasoning_effort"] is not None:
        arguments = {"reasoning_effort": given["reasoning_effort"], **arguments}
    return pb.Chat(
        messages_json=orjson.dumps(_messages(body.get("messages"))).decode(),
        tools_json=optional_json(_tools(given["tools"], given["tool_choice"])),
        template_arguments_json=optional_json(arguments),
        add_generation_prompt=given["add_generation_prompt"],
    )


def _messages(value: Any) -> list[dict[str, Any]]:
    if value is None:
        raise InvalidRequest("'messages' is required")
    if not isinstance(value, list):
        raise InvalidRequest(f"Expected 'messages' to be an array, but got {kind_of(value)}: {shown(value)}")
    if not value:
        raise InvalidRequest("'messages' must not be empty")
    messages = [_message(index, message) for index, message in enumerate(value)]
    _check_end(messages)
    return messages


def _message(index: int, message: Any) -> dict[str, Any]:
    name = f"messages[{index}]"
    if not isinstance(message, dict):
        raise wrong_type(name, "an object", message)
    role = message.get("role")
    if not isinstance(role, str) or not role:
        raise wrong_type(f"{name}.role", "a string", role)
    content = message.get("content")
    if content is None:
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


def _check_end(messages: list[dict[str, Any]]) -> None:
    roles = [message["role"] for message in messages[-2:]]
    if roles == ["assistant", "assistant"]:
        raise InvalidRequest("Cannot have 2 or more assistant messages at the end of the list.")
    if roles[-1] == "assistant":
        raise NotSupported("continuing an assistant message at the end of 'messages' is not supported yet")


def _tools(tools: list[Any], choice: Any) -> list[Any]:
    """The tools the template may see."""
    for index, tool in enumerate(tools):
        if not isinstance(tool, dict):
            raise wrong_type(f"tools[{index}]", "an object", tool)
    if choice in ("auto", "none"):
        return tools if choice == "auto" else []
    if choice == "required" or isinstance(choice, dict):
        raise NotSupported(f"Field 'tool_choice': {shown(choice)} is not supported yet")
    raise InvalidRequest(f"Field 'tool_choice': expected auto, none or required, but got {shown(choice)}")


def _check_response_format(given: Mapping[str, Any] | None) -> None:
    if given is None:
        return
    kind = given.get("type")
    if kind in ("json_object", "json_schema"):
        raise NotSupported(f"Field 'response_format': type {shown(kind)} is not supported yet")
    if kind != "text":
        raise InvalidRequest(f'response_format type must be one of "text" or "json_object", but got: {shown(kind)}')
