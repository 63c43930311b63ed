"""The fields that say how tokens are chosen, and their way into the proto.

api/sampling.py has them in its table; settings.py reads the flags that set their defaults with the same rows. Names,
defaults and ranges are llama-server's. Invariant: what leaves here, a worker can do.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from operator import itemgetter
from typing import Any

from protos import inference_pb2 as pb
from router.api.fields import (
    FLOAT32_MAX,
    INT32_MAX,
    Field,
    array,
    boolean,
    integer,
    long,
    number,
    out_of_range,
    string,
    wrong_type,
)
from router.errors import InvalidRequest

MAX_BIASES = 4096
MAX_STEPS = 64  # samplers in a chain
MAX_BREAKERS = 64
MAX_BREAKER_BYTES = 40
DEFAULT_DRY_BASE = 1.75

LETTERS = {
    "penalties": "e",
    "dry": "d",
    "top_n_sigma": "s",
    "top_k": "k",
    "typ_p": "y",
    "top_p": "p",
    "min_p": "m",
    "xtc": "x",
    "temperature": "t",
    "adaptive_p": "a",
}
SAMPLERS = [name for name in LETTERS if name != "adaptive_p"]  # the default, in this order
BREAKERS = ["\n", ":", '"', "*"]  # the default
_BY_LETTER = {letter: name for name, letter in LETTERS.items()}
_OTHER_NAMES = {"nucleus": "top_p", "typical_p": "typ_p", "typical": "typ_p", "typ": "typ_p", "temp": "temperature"}

_ID = re.compile(r"[0-9]+")  # of a token, as a key of logit_bias
_MOST_DIGITS = 10


def samplers(field: Field, value: Any) -> list[str]:
    """Names in an array, or a letter for each in a string."""
    if isinstance(value, str):
        named = [(letter, _BY_LETTER.get(letter)) for letter in value]
    else:
        named = [(item, _sampler_name(field, item)) for item in array(field, value)]
    if len(named) > field.high:
        raise InvalidRequest(f"Field '{field.name}': at most {field.high:.0f} samplers, but got {len(named)}")
    for given, name in named:
        if name is None:
            known = ", ".join(f"{name} ({letter})" for name, letter in LETTERS.items())
            raise InvalidRequest(f"Field '{field.name}': there is no sampler '{given[:40]}'; there are {known}")
    return [name for _, name in named if name is not None]


def _sampler_name(field: Field, item: Any) -> str | None:
    name = string(field, item).replace("-", "_")
    name = _OTHER_NAMES.get(name, name)
    return name if name in LETTERS else None


def _breakers(field: Field, value: Any) -> list[str]:
    items = array(field, value)
    if not items:
        raise InvalidRequest(f"Field '{field.name}': it must be an array of at least one string")
    for index, item in enumerate(items):
        num_bytes = len(string(replace(field, name=f"{field.name}[{index}]"), item).encode())
        if num_bytes > MAX_BREAKER_BYTES:
            raise out_of_range(f"{field.name}[{index}] (number of bytes)", 1, MAX_BREAKER_BYTES, num_bytes)
    return [item for item in items if item]


def _dry_base(field: Field, value: Any) -> float:
    """Below 1 it would reward repetition, and means the default."""
    base = number(field, value)
    return base if base >= 1.0 else DEFAULT_DRY_BASE


def _logit_bias(field: Field, value: Any) -> dict[int | str, float]:
    """[[id or text, bias], ...] or {"id or text": bias}; false bans the token."""
    if not isinstance(value, list | dict):
        raise wrong_type(field.name, "an array or an object", value)
    if len(value) > MAX_BIASES:
        raise out_of_range(f"{field.name} (number of entries)", 0, MAX_BIASES, len(value))
    if isinstance(value, dict):
        value = [[_id_or_text(field, key), bias] for key, bias in value.items()]
    return dict(_bias(field, pair) for pair in value)


def _id_or_text(field: Field, key: str) -> int | str:
    if not _ID.fullmatch(key):
        return key
    if len(key) > _MOST_DIGITS:
        raise out_of_range(field.name, 0, INT32_MAX, key)
    return int(key)


def _bias(field: Field, pair: Any) -> tuple[int | str, float]:
    if not isinstance(pair, list) or len(pair) != 2:
        raise wrong_type(field.name, "pairs of a token id or a text and a bias", pair)
    token, bias = pair
    if not isinstance(token, str):
        token = integer(replace(field, low=0, high=INT32_MAX), token)
    return token, -float("inf") if bias is False else number(replace(field, low=-FLOAT32_MAX, high=FLOAT32_MAX), bias)


_PLAIN = (  # what has the same name and form in the proto
    Field("temperature", number, 0.8),
    Field("dynatemp_range", number, 0.0),
    Field("dynatemp_exponent", number, 1.0),
    Field("top_k", integer, 40),
    Field("top_p", number, 0.95, 0, 1, hard=False),
    Field("min_p", number, 0.05, 0, 1, hard=False),
    Field("typical_p", number, 1.0, aliases=("typ_p",)),
    Field("top_n_sigma", number, -1.0),
    Field("xtc_probability", number, 0.0, 0, 1, hard=False),
    Field("xtc_threshold", number, 0.1, 0, 1, hard=False),
    Field("repeat_penalty", number, 1.0, 1e-6, 10**9),
    Field("repeat_last_n", integer, 64, -1),
    Field("presence_penalty", number, 0.0),
    Field("frequency_penalty", number, 0.0),
    Field("dry_multiplier", number, 0.0),
    Field("dry_base", _dry_base, DEFAULT_DRY_BASE),
    Field("dry_allowed_length", integer, 2, 0),
    Field("dry_penalty_last_n", integer, 64, -1),
    Field("mirostat", integer, 0, 0, 2, hard=False),
    Field("mirostat_tau", number, 5.0),
    Field("mirostat_eta", number, 0.1),
    Field("adaptive_target", number, -1.0, high=1, hard=False),
    Field("adaptive_decay", number, 0.9, 0, 0.99),
    Field("min_keep", integer, 0, 0),
    Field("ignore_eos", boolean, False),
)
SAMPLING = (
    *_PLAIN,
    Field("seed", long, -1),
    Field("samplers", samplers, SAMPLERS, high=MAX_STEPS),
    Field("dry_sequence_breakers", _breakers, BREAKERS, high=MAX_BREAKERS),
    Field("logit_bias", _logit_bias),
)
_USUAL_VALUES = {field.name: field.default for field in _PLAIN}
_plain_values = itemgetter(*_USUAL_VALUES)
_USUAL = pb.Sampling(**_USUAL_VALUES)


def sampling_message(values: Mapping[str, Any], seed: int | None) -> pb.Sampling:
    """The message of fields that were read. Most requests leave most of them alone: the usual message is copied.

    Lists are left out where they are the defaults, which a worker knows.
    """
    message = pb.Sampling()
    message.CopyFrom(_USUAL)
    message.seed, message.has_seed = seed or 0, seed is not None
    if (plain := _plain_values(values)) != _plain_values(_USUAL_VALUES):
        for name, value in zip(_USUAL_VALUES, plain, strict=True):
            setattr(message, name, value)
    if values["samplers"] != SAMPLERS:
        message.samplers.CopyFrom(pb.SamplerOrder(names=values["samplers"]))  # none at all is an order, too
    if values["dry_sequence_breakers"] != BREAKERS:
        message.dry_sequence_breakers[:] = values["dry_sequence_breakers"]
    message.logit_bias.extend(_bias_message(token, bias) for token, bias in (values["logit_bias"] or {}).items())
    return message


def _bias_message(token: int | str, bias: float) -> pb.LogitBias:
    return pb.LogitBias(text=token, bias=bias) if isinstance(token, str) else pb.LogitBias(token=token, bias=bias)


def shown_biases(values: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The biases as llama-server shows them; a text stands for its tokens, which only the worker knows."""
    return [{"bias": bias, "token": token} for token, bias in (values["logit_bias"] or {}).items()]
