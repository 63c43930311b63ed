"""The generation fields every completion route shares: one table, its way into the proto and back to the client.

Called by api/chat.py, completions.py and native.py. Names, defaults and ranges are llama-server's. Invariant: a field
that would change the answer and cannot be carried to the worker is refused, never dropped; the fields marked inert
change nothing while those that would give them a meaning are refused.
"""

import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import orjson

from protos import inference_pb2 as pb
from router.api.fields import (
    FLOAT32_MAX,
    INT32_MAX,
    Body,
    Field,
    anything,
    array,
    boolean,
    integer,
    long,
    mapping,
    number,
    out_of_range,
    read,
    string,
    strings,
    wrong_type,
)

MAX_STOPS = 16
MAX_CHOICES = 16
MAX_LOGPROBS = 128
MAX_BIASES = 4096
RANDOM_SEED = 2**32 - 1  # llama-server's "draw one", what -1 is in 32 bits
SAMPLERS = ["penalties", "dry", "top_n_sigma", "top_k", "typ_p", "top_p", "min_p", "xtc", "temperature"]
SAMPLER_LETTERS = "edskypmxt"


_ID = re.compile(r"[0-9]{1,10}")  # of a token, as a key of logit_bias


def _empty(value: Any) -> bool:
    return not value


def _one_or_more(value: float) -> bool:
    return value >= 1


def _zero_or_less(value: float) -> bool:
    return value <= 0


def _negative(value: float) -> bool:
    return value < 0


def _usual_samplers(value: Any) -> bool:
    return value in (SAMPLERS, SAMPLER_LETTERS)


def _logit_bias(field: Field, value: Any) -> dict[int, float]:
    """[[id, bias], ...] or {"id": bias}; false bans the token."""
    if not isinstance(value, list | dict):
        raise wrong_type(field.name, "an array or an object", value)
    pairs = list(value.items()) if isinstance(value, dict) else value
    if len(pairs) > MAX_BIASES:
        raise out_of_range(f"{field.name} (number of entries)", 0, MAX_BIASES, len(pairs))
    return dict(_bias(field, pair) for pair in pairs)


def _bias(field: Field, pair: Any) -> tuple[int, float]:
    if not isinstance(pair, list | tuple) or len(pair) != 2:
        raise wrong_type(field.name, "pairs of a token id and a bias", pair)
    token, bias = pair
    if isinstance(token, str) and _ID.fullmatch(token):
        token = int(token)
    entry = replace(field, low=0, high=INT32_MAX)
    token = integer(entry, token)
    return token, -float("inf") if bias is False else number(replace(field, low=-FLOAT32_MAX, high=FLOAT32_MAX), bias)


# What the proto carries.
CARRIED = (
    Field("temperature", number, 0.8),
    Field("top_k", integer, 40),
    Field("top_p", number, 0.95, 0, 1, hard=False),
    Field("min_p", number, 0.05, 0, 1, hard=False),
    Field("repeat_penalty", number, 1.0, 0.01, 100),
    Field("repeat_last_n", integer, 64, -1),
    Field("presence_penalty", number, 0.0),
    Field("frequency_penalty", number, 0.0),
    Field("min_keep", integer, 0, 0),
    Field("seed", long, -1),
    Field("ignore_eos", boolean, False),
    Field("logit_bias", _logit_bias),
    Field("n_predict", integer, -1, -1, aliases=("max_completion_tokens", "max_tokens")),
    Field("stop", strings, (), high=MAX_STOPS),
    Field("cache_prompt", boolean, True),
    Field("id_slot", integer, -1, -1),
    Field("n_keep", integer, 0, -1),
    Field("n_discard", integer, 0, 0),
    Field("priority", integer, 5, 0, 9, hard=False),
    Field("n_cmpl", integer, 1, 1, MAX_CHOICES, aliases=("n",)),
)

# What shapes the answer here, in the gateway.
SHAPING = (
    Field("stream", boolean, False),
    Field("stream_options", mapping),
    Field("timings_per_token", boolean, False),
    Field("sse_ping_interval", integer, 30, -1),
    Field("model", string),
)

# What no worker can do yet, with the values that do not ask for it.
NEUTRAL_ONLY = (
    Field("dynatemp_range", number, 0.0, neutral=_zero_or_less),
    Field("top_n_sigma", number, -1.0, neutral=_zero_or_less),
    Field("typical_p", number, 1.0, neutral=_one_or_more, aliases=("typ_p",)),
    Field("xtc_probability", number, 0.0, 0, 1, hard=False, neutral=_zero_or_less),
    Field("dry_multiplier", number, 0.0, neutral=_zero_or_less),
    Field("mirostat", integer, 0, 0, 2, neutral=_zero_or_less),
    Field("adaptive_target", number, -1.0, neutral=_negative),
    Field("samplers", anything, SAMPLERS, neutral=_usual_samplers),
    Field("grammar", string, "", neutral=_empty),
    Field("grammar_lazy", boolean, False, neutral=_empty),
    Field("grammar_triggers", array, [], neutral=_empty),
    Field("json_schema", anything, None, neutral=lambda value: False),
    Field("n_indent", integer, 0, 0, neutral=_zero_or_less),
    Field("t_max_predict_ms", integer, 0, neutral=_zero_or_less),
    Field("return_progress", boolean, False, neutral=_empty),
    Field("post_sampling_probs", boolean, False, neutral=_empty),
    Field("backend_sampling", boolean, False, neutral=_empty),
    Field("reasoning_control", boolean, False, neutral=_empty),
    Field("reasoning_budget_tokens", integer, -1, -1, neutral=_negative),
    Field("lora", array, [], neutral=_empty),
)

# Checked and shown, but inert: their switch above is off, or they steer memory that this engine manages itself.
INERT = (
    Field("dynatemp_exponent", number, 1.0),
    Field("xtc_threshold", number, 0.1),
    Field("dry_base", number, 1.75),
    Field("dry_allowed_length", integer, 2),
    Field("dry_penalty_last_n", integer, 64, -1),
    Field("dry_sequence_breakers", array, ["\n", ":", '"', "*"]),
    Field("mirostat_tau", number, 5.0),
    Field("mirostat_eta", number, 0.1),
    Field("adaptive_decay", number, 0.9),
    Field("preserved_tokens", array, []),
    Field("n_cache_reuse", integer, 0, 0),
)

_SAMPLING_NAMES = (
    *("temperature", "top_k", "top_p", "min_p", "repeat_penalty", "presence_penalty", "frequency_penalty"),
    *("repeat_last_n", "ignore_eos", "min_keep"),
)
TABLE = (*CARRIED, *SHAPING, *NEUTRAL_ONLY, *INERT)
INCLUDE_USAGE = (Field("include_usage", boolean, False),)


@dataclass(frozen=True, slots=True)
class Parameters:
    """A body's generation fields, read and checked."""

    values: Mapping[str, Any]
    include_usage: bool
    num_logprobs: int | None = None  # alternatives per token; None: no log probabilities at all

    def __getitem__(self, name: str) -> Any:
        return self.values[name]

    @property
    def seed(self) -> int | None:
        """In 32 bits, as llama-server folds it; None: the worker draws one."""
        seed = int(self.values["seed"]) % 2**32
        return None if seed == RANDOM_SEED else seed

    def request(self, request_id: str, prompt: pb.Prompt, choice: int, *, return_prompt: bool) -> pb.GenerateRequest:
        """The message for one of the `n` choices of a prompt; each choice has a seed of its own."""
        return pb.GenerateRequest(
            request_id=request_id,
            prompt=prompt,
            sampling=self._sampling(choice),
            stop=self.values["stop"],
            max_tokens=self.values["n_predict"],
            cache_prompt=self.values["cache_prompt"],
            place=self.values["id_slot"],
            num_kept=self.values["n_keep"],
            num_discarded=self.values["n_discard"],
            priority=self.values["priority"],
            logprobs=None if self.num_logprobs is None else pb.Logprobs(enabled=True, num_top=self.num_logprobs),
            return_prompt=return_prompt,
        )

    def _sampling(self, choice: int) -> pb.Sampling:
        biases = (self.values["logit_bias"] or {}).items()
        seed = None if self.seed is None else (self.seed + choice) % 2**32
        return pb.Sampling(
            seed=seed or 0,
            has_seed=seed is not None,
            logit_bias=[pb.LogitBias(token=token, bias=bias) for token, bias in biases],
            **{name: self.values[name] for name in _SAMPLING_NAMES},
        )


def parameters(body: Body, num_logprobs: int | None) -> Parameters:
    """Reads the table's fields of a body."""
    values = read(TABLE, body)
    options = read(INCLUDE_USAGE, values["stream_options"] or {})
    return Parameters(values, options["include_usage"], num_logprobs)


# ---- generation_settings ----------------------------------------------------------------------

_SETTINGS_ORDER = (
    *("seed", "temperature", "dynatemp_range", "dynatemp_exponent", "top_k", "top_p", "min_p", "top_n_sigma"),
    *("xtc_probability", "xtc_threshold", "typical_p", "repeat_last_n", "repeat_penalty", "presence_penalty"),
    *("frequency_penalty", "dry_multiplier", "dry_base", "dry_allowed_length", "dry_penalty_last_n"),
    *("dry_sequence_breakers", "mirostat", "mirostat_tau", "mirostat_eta", "stop", "max_tokens", "n_predict"),
    *("n_keep", "n_discard", "ignore_eos", "stream", "logit_bias", "n_probs", "min_keep", "grammar", "grammar_lazy"),
    *("grammar_triggers", "preserved_tokens", "chat_format", "reasoning_format", "reasoning_in_content"),
    *("generation_prompt", "samplers", "speculative.n_max", "speculative.n_min", "speculative.p_min"),
    *("timings_per_token", "post_sampling_probs", "backend_sampling", "lora"),
)
_SETTINGS_FIXED = {
    "chat_format": "Content-only",
    "reasoning_format": "none",
    "reasoning_in_content": False,
    "generation_prompt": "",
    "speculative.n_max": 0,
    "speculative.n_min": 0,
    "speculative.p_min": 0.0,
}
_NOT_IN_METRICS = {
    *("dry_sequence_breakers", "stop", "logit_bias", "grammar", "grammar_lazy", "grammar_triggers"),
    "preserved_tokens",
}


def generation_settings(given: Parameters, seed: int | None = None, *, brief: bool = False) -> dict[str, Any]:
    """llama-server's view of the parameters in force; `brief` leaves out what /props does not show."""
    biases = given["logit_bias"] or {}
    known = {
        **given.values,
        **_SETTINGS_FIXED,
        "seed": next(value for value in (seed, given.seed, RANDOM_SEED) if value is not None),
        "max_tokens": given["n_predict"],
        "n_probs": given.num_logprobs or 0,
        "logit_bias": [{"bias": bias, "token": token} for token, bias in biases.items()],
        "samplers": SAMPLERS,
        "stop": list(given["stop"]),
    }
    names = (name for name in _SETTINGS_ORDER if not (brief and name in _NOT_IN_METRICS))
    return {name: _widened(known[name]) for name in names}


def _widened(value: Any) -> Any:
    """A float as llama-server prints it: rounded to 32 bits, then shown in 64."""
    return struct.unpack("f", struct.pack("f", value))[0] if isinstance(value, float) else value


def optional_json(value: Sequence[Any] | Mapping[str, Any] | None) -> str:
    """JSON for a proto field in which the empty string means nothing."""
    return orjson.dumps(value).decode() if value else ""
