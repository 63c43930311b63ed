"""What a request's numbers may be. The gateway has checked them; here they are checked again, because kernels index
with them and check nothing. service.py calls it.
"""

from collections.abc import Mapping
from secrets import randbits
from typing import Any

from worker.errors import InvalidRequest
from worker.prompt import PromptReader
from worker.sampler import Sampling

_HUGE = 1e9
INT32_MAX = (1 << 31) - 1
MOST_WEIGHT = 1e6  # of a client among clients

# Fields that the sampler takes as they come.
_SAMPLING_RANGES: Mapping[str, tuple[float, float]] = {
    "temperature": (-_HUGE, _HUGE),
    "top_k": (-INT32_MAX - 1, INT32_MAX),
    "top_p": (-_HUGE, _HUGE),
    "min_p": (-_HUGE, 1.0),
    "repeat_penalty": (1e-6, _HUGE),
    "presence_penalty": (-_HUGE, _HUGE),
    "frequency_penalty": (-_HUGE, _HUGE),
    "repeat_last_n": (-1, INT32_MAX),
    "min_keep": (0, INT32_MAX),
}


def sampling_fields(sampling: Sampling) -> dict[str, Any]:
    """The fields that the sampler takes as they come, for showing what is in force."""
    return {field: getattr(sampling, field) for field in (*_SAMPLING_RANGES, "ignore_eos")}


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
    for field, (low, high) in _SAMPLING_RANGES.items():
        check_range(field, getattr(fields, field), low, high)
    check_range("logit_bias", len(fields.logit_bias), 0, prompts.tokenizer.vocab_size)
    prompts.checked("logit_bias", [bias.token for bias in fields.logit_bias])
    for bias in fields.logit_bias:
        if bias.bias != float("-inf"):
            check_range("logit_bias", bias.bias, -_HUGE, _HUGE)
    return Sampling(
        fields.seed if fields.has_seed else randbits(32),
        logit_bias=tuple((bias.token, bias.bias) for bias in fields.logit_bias),
        ignore_eos=fields.ignore_eos,
        **{field: getattr(fields, field) for field in _SAMPLING_RANGES},
    )
