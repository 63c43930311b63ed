"""From a request's settings to the samplers that act on its candidates, in its order, and the one that takes a token.

sampler.py makes one Chain per sequence. Invariant: samplers that cannot change the outcome are left out; what is left
does what llama-server's chain of the same settings does.
"""

from collections.abc import Callable, Mapping
from functools import partial

from worker.sampling import penalties, truncation
from worker.sampling.candidates import Candidates, Ints
from worker.sampling.choice import AdaptiveP, Best, Choice, Drawn, Mirostat
from worker.sampling.mt19937 import Generator
from worker.sampling.settings import Memory, Sampling

_Step = Callable[[Candidates, Ints], None]  # of the candidates and the tokens so far

_IS_ON: Mapping[str, Callable[[Sampling], bool]] = {
    "penalties": lambda s: s.penalises,
    "dry": lambda s: s.dry_is_on,
    "top_n_sigma": lambda s: s.top_n_sigma > 0.0,
    "top_k": lambda s: s.top_k > 0,
    "typ_p": lambda s: s.typical_p < 1.0,
    "top_p": lambda s: s.top_p < 1.0,
    "min_p": lambda s: s.min_p > 0.0,
    "xtc": lambda s: s.xtc_is_on,
    "temperature": lambda s: s.temperature != 1.0 or s.dynatemp_range > 0.0,
    "plain_temperature": lambda s: s.temperature != 1.0,
}
_BY_HISTORY: Mapping[str, Callable[[Sampling], _Step]] = {
    "penalties": lambda s: partial(
        penalties.lower_repeated,
        last_n=s.repeat_last_n, repeat=s.repeat_penalty, frequency=s.frequency_penalty, presence=s.presence_penalty,
    ),
    "dry": lambda s: partial(
        penalties.dry,
        last_n=s.dry_penalty_last_n, multiplier=s.dry_multiplier, base=s.dry_base,
        allowed_length=s.dry_allowed_length, breakers=s.dry_breakers,
    ),
}  # fmt: skip
_BY_CHANCES: Mapping[str, Callable[[Sampling, Generator], Callable[[Candidates], None]]] = {
    "top_n_sigma": lambda s, _: partial(truncation.keep_top_n_sigma, num_sigma=s.top_n_sigma),
    "top_k": lambda s, _: partial(truncation.keep_top_k, top_k=s.top_k),
    "typ_p": lambda s, _: partial(truncation.keep_typical, typical_p=s.typical_p, min_keep=s.min_keep),
    "top_p": lambda s, _: partial(truncation.keep_top_p, top_p=s.top_p, min_keep=s.min_keep),
    "min_p": lambda s, _: partial(truncation.keep_min_p, min_p=s.min_p, min_keep=s.min_keep),
    "xtc": lambda s, xtc: partial(
        truncation.exclude_top_choices,
        probability=s.xtc_probability, threshold=s.xtc_threshold, min_keep=s.min_keep, generator=xtc,
    ),
    "temperature": lambda s, _: partial(
        truncation.change_temperature,
        temperature=s.temperature, spread=s.dynatemp_range, exponent=s.dynatemp_exponent,
    ),
    "plain_temperature": lambda s, _: partial(
        truncation.change_temperature, temperature=s.temperature, spread=0.0, exponent=1.0
    ),
}  # fmt: skip

# What never drops the most likely candidate.
_KEEPS_BEST = frozenset({"top_n_sigma", "top_k", "top_p", "min_p"})


class Chain:
    """One sequence's samplers and what they remember."""

    def __init__(self, sampling: Sampling, memory: Memory) -> None:
        self._memory = memory
        self._xtc = Generator(sampling.seed, 1, memory.num_xtc_draws)
        names, self._choice = _outline(sampling, memory)
        steps = [(name, step) for name in names if (step := _step(name, sampling, self._xtc)) is not None]
        if isinstance(self._choice, Best):
            _drop_idle(steps)
        if sampling.min_keep <= 1:
            _join_limits(steps, sampling)
        self._steps = [step for _, step in steps]

    def choose(self, candidates: Candidates, history: Ints) -> int:
        """The index of the candidate taken, among those left; at least one must have a chance."""
        for step in self._steps:
            step(candidates, history)
        return self._choice.take(candidates)

    @property
    def memory(self) -> Memory:
        """For another to go on from here."""
        return self._choice.remember(self._memory._replace(num_xtc_draws=self._xtc.num_draws))


def _outline(sampling: Sampling, memory: Memory) -> tuple[list[str], Choice]:
    """The samplers to act, and the last one."""
    if sampling.mirostat:
        return ["plain_temperature"], Mirostat(sampling, Generator(sampling.seed, 2, memory.num_draws), memory)
    names = [name for name in sampling.samplers if name != "adaptive_p"]
    if "temperature" in names and sampling.temperature <= 0.0 and sampling.dynatemp_range <= 0.0:
        return names[: names.index("temperature")], Best()
    generator = Generator(sampling.seed, 2, memory.num_draws)
    if "adaptive_p" in sampling.samplers:
        return names, AdaptiveP(sampling, generator, memory)
    return names, Drawn(generator)


def _drop_idle(steps: list[tuple[str, _Step]]) -> None:
    """Takes those off the end that have no say in which candidate is the most likely."""
    while steps and steps[-1][0] in _KEEPS_BEST:
        steps.pop()


def _join_limits(steps: list[tuple[str, _Step]], s: Sampling) -> None:
    """Makes one step of each top-p with a min-p behind it: the second spares the first most of its search."""
    both = partial(truncation.keep_top_p_then_min_p, top_p=s.top_p, min_p=s.min_p)
    for i in reversed(range(len(steps) - 1)):
        if [name for name, _ in steps[i : i + 2]] == ["top_p", "min_p"]:
            steps[i : i + 2] = [("top_p", lambda candidates, history: both(candidates))]


def _step(name: str, s: Sampling, xtc: Generator) -> _Step | None:
    """The sampler of that name; None if it is off."""
    if not _IS_ON[name](s):
        return None
    if name in _BY_HISTORY:
        return _BY_HISTORY[name](s)
    keep = _BY_CHANCES[name](s, xtc)
    return lambda candidates, history: keep(candidates)
