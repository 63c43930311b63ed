"""Messages to the prompt text of a model, by the Jinja template in its file.

Used by prompt.py for Generate with messages and for ApplyTemplate. What a template cannot take is put into a
form it can: parts of content become text, a developer becomes the system, an answer begun by the client is left open.
Invariant: whatever a template does, `render` returns or raises one of our errors within about a second of its thread's
time.
"""

from collections.abc import Mapping
from datetime import datetime
from secrets import token_hex
from typing import Any, NoReturn

from jinja2 import Template
from jinja2.exceptions import SecurityError

from worker.errors import InvalidRequest, NotSupported
from worker.metadata import Entries
from worker.text.sandbox import BUDGET, Budget, Sandbox
from worker.text.tokenizer import Tokenizer

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
LARGEST_TEMPLATE = 256 * 1024  # bytes
LARGEST_PROMPT = 8_000_000  # characters
_RESERVED = frozenset(
    (
        *("messages", "tools", "add_generation_prompt", "bos_token", "eos_token", "tokenize", "chat_template"),
        *("raise_exception", "strftime_now", "namespace", "range", "dict", "cycler", "joiner"),
    )
)
_LONGEST_DATE_FORMAT = 100
_PROBE = "probe-4c1f"
_PROBE_BYTES = 16
CONTENT, REASONING = "content", "reasoning_content"


class ChatTemplate:
    """One template. `fault` says why it cannot be used, if it cannot; the model still completes plain text."""

    fault: str | None

    def __init__(
        self, source: str, *, bos_token: str, eos_token: str, strip_bos: bool = False, strip_eos: bool = False
    ) -> None:
        """`strip_bos` and `strip_eos`: the tokenizer adds these tokens itself, so the prompt goes without them."""
        self.source = source
        self.fault = None
        self._tokens = {"bos_token": bos_token, "eos_token": eos_token}
        self._strip_bos = strip_bos
        self._strip_eos = strip_eos
        self._wants_parts = False
        self._template = self._compile(source)
        if self._template is not None:
            self._wants_parts = not self._shows_probe(_PROBE) and self._shows_probe(_parts_of(_PROBE))

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, Any], tokenizer: Tokenizer, given: str = "") -> "ChatTemplate":
        """The one given, else the file's; ChatML where it has none. Raises GGUFError."""
        source = given or Entries(metadata).text("tokenizer.chat_template", "")
        bos, eos = (
            "" if token is None else tokenizer.decode([token]) for token in (tokenizer.bos_id, tokenizer.eos_id)
        )
        return cls(
            source or CHATML,
            bos_token=bos,
            eos_token=eos,
            strip_bos=tokenizer.add_bos,
            strip_eos=tokenizer.add_eos,
        )

    def render(
        self,
        messages: list[dict[str, Any]],
        *,
        tools: list[Any] | None,
        add_generation_prompt: bool,
        continued: str = "",
        arguments: Mapping[str, Any],
    ) -> str:
        """The prompt. Raises InvalidRequest for messages or arguments the template does not take, NotSupported if the
        template itself is unusable. With `continued`, "content" or "reasoning_content", it ends with that part of the
        last message, as the beginning of the assistant's answer."""
        if self._template is None:
            raise NotSupported(f"this model's chat template cannot be used ({self.fault}); use /v1/completions")
        reserved = sorted(_RESERVED.intersection(arguments))
        if reserved:
            raise InvalidRequest(f"chat template argument {reserved[0]!r} is reserved")
        prepared = [self._prepare(message) for message in messages]
        if continued:
            return self._strip(self._opened(self._template, prepared, tools, continued, arguments))
        return self._strip(self._run(self._template, prepared, tools, add_generation_prompt, arguments))

    def _compile(self, source: str) -> Template | None:
        if len(source.encode("utf-8", "replace")) > LARGEST_TEMPLATE:
            self.fault = f"it is larger than {LARGEST_TEMPLATE} bytes"
            return None
        try:
            return Sandbox({"raise_exception": _raise_exception, "strftime_now": _strftime_now}).from_string(source)
        except Exception as error:  # a template can fail to compile in any way Python can
            self.fault = _one_line(error)
            return None

    def _run(
        self,
        template: Template,
        messages: list[dict[str, Any]],
        tools: list[Any] | None,
        add_generation_prompt: bool,
        arguments: Mapping[str, Any],
    ) -> str:
        variables = {
            **arguments,
            **self._tokens,
            "messages": messages,
            "tools": tools or None,
            "add_generation_prompt": add_generation_prompt,
            BUDGET: Budget(),
        }
        try:
            prompt = template.render(variables)
        except InvalidRequest:
            raise
        except Exception as error:  # a template can raise anything
            raise InvalidRequest(f"chat template: {_one_line(error)}") from error
        if len(prompt) > LARGEST_PROMPT:
            raise InvalidRequest(f"chat template: its result is longer than {LARGEST_PROMPT} characters")
        return prompt

    def _opened(
        self,
        template: Template,
        messages: list[dict[str, Any]],
        tools: list[Any] | None,
        part: str,
        arguments: Mapping[str, Any],
    ) -> str:
        """The prompt up to the end of a part of the last message.

        Where the template shows an answer's thoughts, they are put where it shows them, before the content, be there
        any or not. Else the content follows what asks for an answer.
        """
        if part not in (CONTENT, REASONING) or not messages:
            raise InvalidRequest(f"there is no {part!r} of a last message to continue")
        *before, last = messages
        text, thoughts = _text_of(last["content"]), _text_of(last.get(REASONING))
        frame = self._frame_of_thoughts(template, [*before, {**last, "role": "assistant"}], tools, arguments)
        if frame is None:
            prompt = self._run(template, before, tools, True, arguments)
            return prompt + text if part == CONTENT else prompt
        start, end = frame
        return start + thoughts + end + text if part == CONTENT else start + thoughts

    def _frame_of_thoughts(
        self, template: Template, messages: list[dict[str, Any]], tools: list[Any] | None, arguments: Mapping[str, Any]
    ) -> tuple[str, str] | None:
        """What the template puts before the thoughts of the last message, and between them and its content; None if it
        does not show them there."""
        if REASONING not in self.source:
            return None
        thoughts, text = token_hex(_PROBE_BYTES), token_hex(_PROBE_BYTES)  # what no conversation says by chance
        probe = {**messages[-1], CONTENT: _parts_of(text) if self._wants_parts else text, REASONING: thoughts}
        prompt = self._run(template, [*messages[:-1], probe], tools, False, arguments)
        start, _, rest = prompt.partition(thoughts)
        end, has_both, _ = rest.partition(text)
        return (start, end) if has_both else None

    def _prepare(self, message: dict[str, Any]) -> dict[str, Any]:
        """A copy of the message in the form the template takes."""
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise InvalidRequest("Missing 'role' in message")
        role, content = message["role"], message.get("content")
        if content is None and role != "assistant":
            raise InvalidRequest("All non-assistant messages must contain 'content'")
        if role == "developer" and "developer" not in self.source:
            role = "system"
        text = _text_of(content)
        calls = message.get("tool_calls")
        shown = None if content is None and calls else _parts_of(text) if self._wants_parts else text
        return {**message, "role": role, "content": shown}

    def _shows_probe(self, content: Any) -> bool:
        """Whether a user's message in this form comes through. If even that is too much, the template is at fault."""
        messages = [{"role": "user", "content": content}]
        try:
            return self._template is not None and _PROBE in self._run(self._template, messages, None, False, {})
        except InvalidRequest as error:
            if isinstance(error.__cause__, SecurityError):
                self.fault = _one_line(error.__cause__)
                self._template = None
            return False

    def _strip(self, prompt: str) -> str:
        if self._strip_bos:
            prompt = prompt.removeprefix(self._tokens["bos_token"])
        return prompt.removesuffix(self._tokens["eos_token"]) if self._strip_eos else prompt


def _parts_of(text: str) -> list[dict[str, str]]:
    return [{"type": "text", "text": text}]


def _text_of(content: Any) -> str:
    """Content as one text: its parts, a line each."""
    if content is None or isinstance(content, str):
        return content or ""
    if not isinstance(content, list):
        raise InvalidRequest("Expected 'content' to be a string or an array")
    texts = [part.get("text") if isinstance(part, dict) and part.get("type") == "text" else None for part in content]
    if not all(isinstance(text, str) for text in texts):
        raise InvalidRequest("unsupported content[].type: this model reads text")
    return "\n".join(text for text in texts if isinstance(text, str))


def _raise_exception(message: str) -> NoReturn:
    raise InvalidRequest(str(message))


def _strftime_now(pattern: str) -> str:
    if len(pattern) > _LONGEST_DATE_FORMAT:
        raise InvalidRequest("chat template: the date format is too long")
    return datetime.now().strftime(pattern)


def _one_line(error: Exception) -> str:
    lines = str(error).splitlines()
    return lines[0][:200] if lines else type(error).__name__
