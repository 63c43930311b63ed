"""llama-server's flags for how tokens are chosen and how many, as defaults of the fields of the same meaning.

settings.py calls it; api/sampling.py and api/messages.py use what it gives for the fields that a request lacks.
Invariant: a value passes the field's own checks before anything is started.
"""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import orjson

from router.api.fields import Field, integer, kind_of, long, mapping, number
from router.api.messages import ARGUMENTS, PREFILL
from router.api.sampling import DEFAULTED
from router.errors import CommandError, InvalidRequest
from router.options.flags import EXIT_USAGE, Given

_FIELDS: Mapping[str, Field] = {field.name: field for field in DEFAULTED}
_OTHERWISE_CALLED = {
    "dynatemp_exp": "dynatemp_exponent",
    "mirostat_lr": "mirostat_eta",
    "mirostat_ent": "mirostat_tau",
    "keep": "n_keep",
}
_NUMBERS = frozenset({integer, long, number})
_BIAS = re.compile(r"([0-9]+)([+-].+)")  # as 15043+1 or 15043-1.5
_NO_BREAKERS = "none"
_ESCAPED = re.compile(r"\\(?:x([0-7][0-9A-Fa-f])|([nrt'\"\\]))")
_LETTERS = {"n": "\n", "r": "\r", "t": "\t"}
_ARGUMENTS = Field(ARGUMENTS, mapping)
_TEMPLATES_OWN = "default"  # of --reasoning-effort


def sampling_defaults(given: Given) -> dict[str, Any]:
    """By field name. Raises CommandError."""
    return {field.name: _checked(given.called(key), field, value) for key, field, value in _given_values(given)}


def _given_values(given: Given) -> Iterator[tuple[str, Field, Any]]:
    """Flag, field and value, as a request would carry it."""
    for key in given.values:
        field = _FIELDS.get(_OTHERWISE_CALLED.get(key, key))
        if field is not None and field.reader in _NUMBERS:
            yield key, field, _number(given.called(key), field, given.last(key) or "")
    if names := given.last("samplers"):
        yield "samplers", _FIELDS["samplers"], [name.strip() for name in names.split(";") if name.strip()]
    elif letters := given.last("sampling_seq"):
        yield "sampling_seq", _FIELDS["samplers"], letters
    if stops := given.values.get("reverse_prompt"):
        yield "reverse_prompt", _FIELDS["stop"], _unescaped(given, stops)
    if breakers := given.values.get("dry_sequence_breaker"):
        wanted = [breaker for breaker in _unescaped(given, breakers) if breaker != _NO_BREAKERS]
        # A string that no text holds is the way to have no breakers at all.
        yield "dry_sequence_breaker", _FIELDS["dry_sequence_breakers"], wanted or ["\0"]
    if biases := given.values.get("logit_bias"):
        yield "logit_bias", _FIELDS["logit_bias"], [_bias(given.called("logit_bias"), bias) for bias in biases]
    if given.on("ignore_eos"):
        yield "ignore_eos", _FIELDS["ignore_eos"], True
    if not given.on("cache_prompt", True):
        yield "cache_prompt", _FIELDS["cache_prompt"], False
    if not given.on("prefill_assistant", True):
        yield "prefill_assistant", PREFILL, False
    if arguments := _template_arguments(given):
        yield ARGUMENTS, _ARGUMENTS, arguments


def _template_arguments(given: Given) -> dict[str, Any]:
    """Of conversations, as variables of the model's template."""
    found: dict[str, Any] = {}
    if (effort := given.last("reasoning_effort") or _TEMPLATES_OWN) != _TEMPLATES_OWN:
        found["reasoning_effort"] = effort
    if (thinks := given.last("reasoning") or "auto") != "auto":
        found["enable_thinking"] = thinks == "on"
    return found | _object(given, ARGUMENTS)


def _object(given: Given, key: str) -> dict[str, Any]:
    try:
        value = orjson.loads(given.last(key) or "{}")
    except orjson.JSONDecodeError as error:
        raise CommandError(f"{given.called(key)} is not valid JSON: {error}", EXIT_USAGE) from None
    if not isinstance(value, dict):
        raise CommandError(f"{given.called(key)} must be a JSON object, but is {kind_of(value)}", EXIT_USAGE)
    return value


def _unescaped(given: Given, texts: Sequence[str]) -> list[str]:
    """With what backslashes stand for, unless --no-escape says that they stand for themselves."""
    return [_ESCAPED.sub(_character, text) for text in texts] if given.on("escape", True) else list(texts)


def _character(found: re.Match[str]) -> str:
    return chr(int(found[1], 16)) if found[1] else _LETTERS.get(found[2], found[2])


def _number(flag: str, field: Field, text: str) -> float:
    try:
        value = int(text) if field.reader in (integer, long) else float(text)
    except ValueError:
        value = math.nan
    if math.isnan(value):
        kind = "a whole number" if field.reader in (integer, long) else "a number"
        raise CommandError(f"{flag} must be {kind}, but is '{text}'", EXIT_USAGE)
    return value


def _bias(flag: str, text: str) -> list[float]:
    """llama-server's TOKEN_ID+BIAS."""
    parts = _BIAS.fullmatch(text)
    try:
        if parts is not None and math.isfinite(bias := float(parts[2])):
            return [int(parts[1]), bias]
    except ValueError:
        pass
    raise CommandError(f"{flag} must be an id and a signed number, as 15043-1, but is '{text}'", EXIT_USAGE)


def _checked(flag: str, field: Field, value: Any) -> Any:
    try:
        return field.reader(field, value)
    except InvalidRequest as error:
        raise CommandError(f"{flag}: {error}", EXIT_USAGE) from None
