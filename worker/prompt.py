"""Prompts as tokens: text is tokenised, ids are checked, conversations go through the model's template.

service.py and generate_rpc.py call it in text threads. Invariant: no token that leaves here is outside the vocabulary.
"""

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any, Protocol

import orjson

from worker.errors import ContextExceeded, InvalidRequest
from worker.sampling.breakers import BreakerReader


class Tokenizer(Protocol):
    """What is needed of worker/text/tokenizer.py."""

    vocab_size: int
    vocab_type: int
    bos_id: int | None
    eos_id: int | None
    eog_ids: frozenset[int]
    add_bos: bool
    add_eos: bool
    longest_token: int  # in characters

    def encode(self, text: str, *, add_special: bool = True, parse_special: bool = True) -> list[int]: ...

    def piece(self, token: int, *, special: bool = True) -> bytes: ...

    def decode(self, tokens: Any, *, special: bool = True) -> str: ...


class Template(Protocol):
    """What is needed of worker/text/chat_template.py."""

    source: str

    def render(
        self,
        messages: list[dict[str, Any]],
        *,
        tools: list[Any] | None,
        add_generation_prompt: bool,
        continued: str,
        arguments: Mapping[str, Any],
    ) -> str: ...


class PromptReader:
    """Owns nothing that changes; any thread may use it."""

    def __init__(self, tokenizer: Tokenizer, template: Template) -> None:
        self.tokenizer = tokenizer
        self.template = template
        self.breakers = BreakerReader(
            tokenizer.vocab_size, tokenizer.piece, partial(tokenizer.encode, add_special=False, parse_special=False)
        )

    def tokens(self, parts: Iterable[str | list[int]], *, add_special: bool, parse_special: bool) -> list[int]:
        """Texts and ids in turn, as one prompt. The model's first and last tokens go to a text that comes first."""
        tokens: list[int] = []
        for number, part in enumerate(parts):
            if isinstance(part, str):
                first = add_special and number == 0
                tokens += self.tokenizer.encode(part, add_special=first, parse_special=parse_special)
            else:
                tokens += self.checked("prompt", part)
        return tokens

    def check_length(self, parts: Iterable[str | list[int]], limit: int) -> None:
        """Refuses, before any work is spent on it, a prompt that is too long however few tokens it becomes."""
        num_least = sum(
            -(-len(part) // self.tokenizer.longest_token) if isinstance(part, str) else len(part) for part in parts
        )
        if num_least > limit:
            raise ContextExceeded(num_least, limit, at_least=True)

    def checked(self, field: str, tokens: list[int]) -> list[int]:
        """The tokens, if the vocabulary has them all."""
        for token in tokens:
            if not 0 <= token < self.tokenizer.vocab_size:
                last = self.tokenizer.vocab_size - 1
                raise InvalidRequest(f"Field '{field}': Value must be between 0 <= value <= {last}, but got {token}")
        return tokens

    def render(
        self,
        messages_json: str,
        tools_json: str,
        arguments_json: str,
        *,
        add_generation_prompt: bool,
        continued: str,
    ) -> str:
        """The conversation as text. Raises InvalidRequest, NotSupported."""
        messages = _parsed("messages", messages_json, list)
        if not all(isinstance(message, dict) for message in messages):
            raise InvalidRequest("Field 'messages': each message must be an object")
        return self.template.render(
            messages,
            tools=_parsed("tools", tools_json, list) if tools_json else None,
            add_generation_prompt=add_generation_prompt,
            continued=continued,
            arguments=_parsed("chat_template_kwargs", arguments_json, dict) if arguments_json else {},
        )

    def piece_text(self, token: int | None) -> str:
        return "" if token is None else self.tokenizer.piece(token, special=True).decode("utf-8", "replace")


def _parsed(field: str, source: str, kind: type[Any]) -> Any:
    try:
        value = orjson.loads(source)
    except orjson.JSONDecodeError as error:
        raise InvalidRequest(f"Field '{field}': not valid JSON ({error})") from None
    if not isinstance(value, kind):
        raise InvalidRequest(f"Field '{field}': must be an {'array' if kind is list else 'object'}")
    return value
