"""The generation fields every completion route shares: one table, its way into the proto and back to the client.

Called by api/chat.py, completions.py and native.py. Names, defaults and ranges are llama-server's. Invariant: a field
that would change the answer and cannot be carried to the worker is refused, never dropped; the fields marked inert
change nothing while those that would give them a meaning are refused.
"""

import struct
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
    integer,
    mapping,
    number,
    read,
    string,
    strings,
)
from router.api.samplers import SAMPLING, sampling_message, shown_biases
from router.errors import InvalidRequest
from router.policy.fairqueue import ANY_SLOT

MAX_STOPS = 64
MAX_CHOICES = 16
MAX_LOGPROBS = 128
RANDOM_SEED = 2**32 - 1  # llama-server's "draw one", what -1 is in 32 bits


def _empty(value: Any) -> bool:
    return not value


def _zero_or_less(value: float) -> bool:
    return value <= 0


def _negative(value: float) -> bool:
    return value < 0


def _priority(field: Field, value: Any) -> int:
    """Of a request among those of its client. vLLM has a field of that name whose lowest goes first, with no bounds."""
    try:
        return integer(field, value)
    except InvalidRequest as error:
        raise InvalidRequest(f"{error} (the highest goes first)") from None


# What flags of the server may set for the bodies that lack it.
DEFAULTED = (
    *SAMPLING,
    Field("n_predict", integer, -1, -1, aliases=("max_completion_tokens", "max_tokens")),
    Field("n_keep", integer, 0, -1),
    Field("cache_prompt", boolean, True),
    Field("stop", strings, (), high=MAX_STOPS),
    Field("sse_ping_interval", integer, 30, -1),
)

# What the proto carries beside those.
CARRIED = (
    Field("id_slot", integer, -1, -1),
    Field("n_discard", integer, 0, 0),
    Field("priority", _priority, 5, 0, 9),
    Field("t_max_predict_ms", integer, 0),
    Field("return_progress", boolean, False),
    Field("post_sampling_probs", boolean, False),
    Field("n_cmpl", integer, 1, 1, MAX_CHOICES, aliases=("n",)),
    Field("speculative.n_max", integer, None, 0),
    Field("speculative.n_min", integer, None, 0),
    Field("speculative.p_min", number, None, 0, 1),
)

# What shapes the answer here, in the gateway.
SHAPING = (
    Field("stream", boolean, False),
    Field("stream_options", mapping),
    Field("timings_per_token", boolean, False),
    Field("model", string),
)

# What no worker can do yet, with the values that do not ask for it.
NEUTRAL_ONLY = (
    Field("grammar", string, "", neutral=_empty),
    Field("grammar_lazy", boolean, False, neutral=_empty),
    Field("grammar_triggers", array, [], neutral=_empty),
    Field("json_schema", anything, None, neutral=lambda value: False),
    Field("n_indent", integer, 0, 0, neutral=_zero_or_less),
    Field("backend_sampling", boolean, False, neutral=_empty),
    Field("reasoning_control", boolean, False, neutral=_empty),
    Field("reasoning_budget_tokens", integer, -1, -1, neutral=_negative),
    Field("lora", array, [], neutral=_empty),
)

# Checked and shown, but inert: their switch above is off, or they steer memory that this engine manages itself.
INERT = (
    Field("preserved_tokens", array, []),
    Field("n_cache_reuse", integer, 0, 0),
)

TABLE = Fields(*DEFAULTED, *CARRIED, *SHAPING, *NEUTRAL_ONLY, *INERT)
INCLUDE_USAGE = Fields(Field("include_usage", boolean, False))


@dataclass(frozen=True, slots=True)
class Parameters:
    """A body's generation fields, read and checked."""

    values: Mapping[str, Any]
    include_usage: bool
    num_logprobs: int | None = None  # alternatives per token; None: no log probabilities at all
    scores_prompt: bool = False  # log probabilities of the prompt's tokens, too

    def __getitem__(self, name: str) -> Any:
        return self.values[name]

    @property
    def after_sampling(self) -> bool:
        """Whether probabilities are those among the candidates that samplers left."""
        return bool(self.values["post_sampling_probs"])

    @property
    def seed(self) -> int | None:
        """In 32 bits, as llama-server folds it; None: the worker draws one."""
        seed = int(self.values["seed"]) % 2**32
        return None if seed == RANDOM_SEED else seed

    @property
    def max_tokens(self) -> int:
        """Of an answer: llama-server counts when it has the first one, so 0 means 1, but not where the prompt is it."""
        limit = int(self.values["n_predict"])
        return limit if limit or self.scores_prompt else 1

    def request(self, request_id: str, prompt: pb.Prompt, choice: int, *, return_prompt: bool) -> pb.GenerateRequest:
        """The message for one of the `n` choices of a prompt; each has a seed of its own, the first one the slot."""
        return pb.GenerateRequest(
            request_id=request_id,
            prompt=prompt,
            sampling=sampling_message(self.values, self._seed_of(choice)),
            stop=self.values["stop"],
            max_tokens=self.max_tokens,
            cache_prompt=self.values["cache_prompt"],
            place=ANY_SLOT if choice else self.values["id_slot"],
            num_kept=self.values["n_keep"],
            num_discarded=self.values["n_discard"],
            priority=self.values["priority"],
            max_predict_ms=self.values["t_max_predict_ms"],
            return_progress=self.values["return_progress"] and self.values["stream"],
            guessing=self._guessing(),
            logprobs=self._logprobs(),
            return_prompt=return_prompt,
        )

    def _seed_of(self, choice: int) -> int | None:
        return None if self.seed is None else (self.seed + choice) % 2**32

    def _guessing(self) -> pb.Guessing | None:
        most, fewest, least = (self.values[f"speculative.{name}"] for name in ("n_max", "n_min", "p_min"))
        if most is fewest is least is None:
            return None
        return pb.Guessing(most=most, fewest=fewest, least_probability=least)

    def _logprobs(self) -> pb.Logprobs | None:
        if self.num_logprobs is None:
            return None
        return pb.Logprobs(
            enabled=True,
            num_top=self.num_logprobs,
            after_sampling=self.after_sampling,
            of_prompt=self.scores_prompt,
        )


def parameters(body: Body, num_logprobs: int | None, defaults: Mapping[str, Any]) -> Parameters:
    """Reads the table's fields of a body; `defaults`, of the server's flags, are for those that it does not have."""
    values = read(TABLE, body)
    absent = [field for field in DEFAULTED if all(body.get(name) is None for name in field.names)] if defaults else []
    values |= {field.name: defaults[field.name] for field in absent if field.name in defaults}
    values["stop"] = values["stop"] or defaults.get("stop", ())  # no text is as good as no field
    options = read(INCLUDE_USAGE, values["stream_options"] or {})
    return Parameters(values, options["include_usage"], num_logprobs)


# ---- generation_settings ----------------------------------------------------------------------

_SETTINGS_ORDER = (
    *("seed", "temperature", "dynatemp_range", "dynatemp_exponent", "top_k", "top_p", "min_p", "top_n_sigma"),
    *("xtc_probability", "xtc_threshold", "typical_p", "repeat_last_n", "repeat_penalty", "presence_penalty"),
    *("frequency_penalty", "dry_multiplier", "dry_base", "dry_allowed_length", "dry_penalty_last_n"),
    *("dry_sequence_breakers", "mirostat", "mirostat_tau", "mirostat_eta", "adaptive_target", "adaptive_decay"),
    *("stop", "max_tokens", "n_predict"),
    *("n_keep", "n_discard", "ignore_eos", "stream", "logit_bias", "n_probs", "min_keep", "grammar", "grammar_lazy"),
    *("grammar_triggers", "preserved_tokens", "chat_format", "reasoning_format", "reasoning_in_content"),
    *("generation_prompt", "samplers", "speculative.types"),
    *("timings_per_token", "post_sampling_probs", "backend_sampling", "lora"),
)
_SETTINGS_FIXED = {
    "chat_format": "Content-only",
    "reasoning_format": "none",
    "reasoning_in_content": False,
    "generation_prompt": "",
    "speculative.types": "none",  # by the request: it has no say in it
}
_NOT_IN_METRICS = {
    *("dry_sequence_breakers", "stop", "logit_bias", "grammar", "grammar_lazy", "grammar_triggers"),
    "preserved_tokens",
}


def generation_settings(given: Parameters, seed: int | None = None, *, brief: bool = False) -> dict[str, Any]:
    """llama-server's view of the parameters in force; `brief` leaves out what /props does not show."""
    known = {
        **given.values,
        **_SETTINGS_FIXED,
        "seed": next(value for value in (seed, given.seed, RANDOM_SEED) if value is not None),
        "max_tokens": given["n_predict"],
        "n_probs": given.num_logprobs or 0,
        "logit_bias": shown_biases(given.values),
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
