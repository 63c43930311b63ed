"""What a request's numbers may be, as tables of ranges, and the Sampling that is made of them.

generate_rpc.py calls it; place_rpc.py shows the same fields. The gateway has checked the numbers; here they are checked
again, because kernels index with them and check nothing. Invariant: every number of a Sampling is within its range.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from secrets import randbits
from typing import Any

from worker.errors import InvalidRequest
from worker.prompt import PromptReader
from worker.sampling.breakers import DEFAULT_BREAKERS, MAX_BREAKER_BYTES, MAX_BREAKERS
from worker.sampling.settings import ALL_SAMPLERS, Memory, Sampling
from worker.sequence import Guessing

_HUGE = 1e9
INT32_MAX = (1 << 31) - 1
MOST_WEIGHT = 1e6  # of a client among clients
_FLOAT32_MAX = 3.4028234663852886e38

# Fields that the sampler takes as they come.
_SAMPLING_RANGES: Mapping[str, tuple[float, float]] = {
    "temperature": (-_HUGE, _HUGE),
    "top_k": (-INT32_MAX - 1, INT32_MAX),
    "top_p": (-_HUGE, _HUGE),
    "min_p": (-_HUGE, 1.0),
    "repeat_penalty": (0.999999e-6, _HUGE),  # 1e-6 of the wire is a little less
    "presence_penalty": (-_HUGE, _HUGE),
    "frequency_penalty": (-_HUGE, _HUGE),
    "repeat_last_n": (-1, INT32_MAX),
    "min_keep": (0, INT32_MAX),
}
# Fields that may be absent.
_OPTIONAL_RANGES: Mapping[str, tuple[float, float]] = {
    "dynatemp_range": (-_HUGE, _HUGE),
    "dynatemp_exponent": (-_HUGE, _HUGE),
    "typical_p": (-_HUGE, _HUGE),
    "top_n_sigma": (-_HUGE, _HUGE),
    "xtc_probability": (-_HUGE, _HUGE),
    "xtc_threshold": (-_HUGE, _HUGE),
    "dry_multiplier": (-_HUGE, _HUGE),
    "dry_base": (-_HUGE, _HUGE),
    "dry_allowed_length": (0, INT32_MAX),
    "dry_penalty_last_n": (-1, INT32_MAX),
    "mirostat": (0, 2),
    "mirostat_tau": (-_HUGE, _HUGE),
    "mirostat_eta": (-_HUGE, _HUGE),
    "adaptive_target": (-_HUGE, 1.0),
    "adaptive_decay": (0.0, 0.9900001),  # 0.99 of the wire is a little more
}
_GUESSING_RANGES: Mapping[str, tuple[str, float, float]] = {  # with what clients call them
    "most": ("speculative.n_max", 0, INT32_MAX),
    "fewest": ("speculative.n_min", 0, INT32_MAX),
    "least_probability": ("speculative.p_min", 0.0, 1.0),
}
_MAX_STEPS = 64  # samplers in a chain


def sampling_fields(sampling: Sampling) -> dict[str, Any]:
    """The fields that the sampler takes as they come, for showing what is in force."""
    return {field: getattr(sampling, field) for field in (*_SAMPLING_RANGES, *_OPTIONAL_RANGES, "ignore_eos")}


def check_range(field: str, value: float, low: float, high: float) -> None:
    """Raises InvalidRequest for a value outside, and for NaN."""
    if not low <= value <= high:
        raise InvalidRequest(
            f"Field '{field}': Value must be between {low:.10g} <= value <= {high:.10g}, but got {value:.10g}"
        )


def read_sampling(fields: Any, prompts: PromptReader) -> Sampling:
    """Sampling from an object with the fields of the proto's; None: llama-server's defaults."""
    if fields is None:
        return Sampling(randbits(32))
    present = [field for field in _OPTIONAL_RANGES if fields.HasField(field)]
    ranges = {**_SAMPLING_RANGES, **{field: _OPTIONAL_RANGES[field] for field in present}}
    for field, (low, high) in ranges.items():
        check_range(field, getattr(fields, field), low, high)
    sampling = Sampling(
        fields.seed if fields.has_seed else randbits(32),
        logit_bias=_read_biases(fields.logit_bias, prompts),
        ignore_eos=fields.ignore_eos,
        **{field: getattr(fields, field) for field in ranges},
    )
    if fields.HasField("samplers"):
        sampling = replace(sampling, samplers=_read_samplers(fields.samplers.names))
    strings = _read_breakers(fields.dry_sequence_breakers) or DEFAULT_BREAKERS
    return replace(sampling, dry_breakers=prompts.breakers.read(strings)) if sampling.dry_is_on else sampling


def _read_biases(biases: Sequence[Any], prompts: PromptReader) -> tuple[tuple[int, float], ...]:
    check_range("logit_bias (number of entries)", len(biases), 0, prompts.tokenizer.vocab_size)
    found: list[tuple[int, float]] = []
    for bias in biases:
        if bias.bias != -math.inf:
            check_range("logit_bias", bias.bias, -_HUGE, _HUGE)
        found += [(token, bias.bias) for token in _biased_tokens(bias, prompts)]
    return tuple(found)


def _biased_tokens(bias: Any, prompts: PromptReader) -> list[int]:
    if bias.text:
        return prompts.tokens([bias.text], add_special=False, parse_special=False)
    return prompts.checked("logit_bias", [bias.token])


def _read_samplers(names: Sequence[str]) -> tuple[str, ...]:
    check_range("samplers (number of entries)", len(names), 0, _MAX_STEPS)
    for name in names:
        if name not in ALL_SAMPLERS:
            raise InvalidRequest(f"Field 'samplers': there is none called '{name}' ({', '.join(ALL_SAMPLERS)})")
    return tuple(names)


def _read_breakers(strings: Sequence[str]) -> tuple[str, ...]:
    check_range("dry_sequence_breakers (number of entries)", len(strings), 0, MAX_BREAKERS)
    for string in strings:
        check_range("dry_sequence_breakers (bytes of an entry)", len(string.encode()), 1, MAX_BREAKER_BYTES)
    return tuple(strings)


def read_guessing(fields: Any) -> Guessing:
    """From an object with the fields of the proto's."""
    given = {name: getattr(fields, name) for name in _GUESSING_RANGES if fields.HasField(name)}
    for name, value in given.items():
        field, low, high = _GUESSING_RANGES[name]
        check_range(field, value, low, high)
    return Guessing(**given)


def read_memory(num_draws: int, fields: Any, num_tokens: int) -> Memory:
    """What a request's sampling remembers of `num_tokens` tokens emitted elsewhere; `fields` are the proto's."""
    check_range("num_draws", num_draws, 0, num_tokens)
    check_range("num_xtc_draws", fields.num_xtc_draws, 0, num_tokens * _MAX_STEPS)
    mu = fields.mirostat_mu if fields.HasField("mirostat_mu") else None
    check_range("mirostat_mu", mu or 0.0, -_FLOAT32_MAX, _FLOAT32_MAX)
    if not fields.HasField("adaptive_weight"):
        return Memory(num_draws, fields.num_xtc_draws, mu)
    check_range("adaptive_sum", fields.adaptive_sum, -_FLOAT32_MAX, _FLOAT32_MAX)
    check_range("adaptive_weight", fields.adaptive_weight, 0.5, _HUGE)
    return Memory(num_draws, fields.num_xtc_draws, mu, (fields.adaptive_sum, fields.adaptive_weight))
