"""Logits to a token: llama-server's samplers in the order asked for, with their defaults and generator.

    logit bias -> penalties, DRY, top-n-sigma, top-k, typical, top-p, min-p, XTC, temperature -> draw

The engine owns one Sampler (scratch memory) and each sequence a SamplerState; worker/sampling/ has the samplers.
Invariant: the token follows from the logits, the tokens so far, the settings and the state's Memory, and from nothing
else.
"""

import math
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from worker.errors import InvalidRequest, WorkerError
from worker.sampling import ranking, thinning, vocabulary
from worker.sampling.candidates import Candidates
from worker.sampling.chain import Chain
from worker.sampling.penalties import add_biases
from worker.sampling.settings import NOTHING_YET, Memory, Sampling

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int32]

KERNELS = (*vocabulary.KERNELS, *thinning.KERNELS, *ranking.KERNELS)  # to be compiled before the first request

_LEAST = float(np.finfo(np.float64).tiny)
_LARGEST = float(np.finfo(np.float32).max)


class BrokenLogits(WorkerError):
    """The model computed something that is not a number."""


@dataclass(frozen=True, slots=True)
class Logprob:
    """Natural logarithms of probabilities: of the token chosen and of the most likely ones."""

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...]


class SamplerState:
    """What one sequence's sampling depends on besides its tokens."""

    __slots__ = ("_chain", "bias_tokens", "biases")

    def __init__(self, sampling: Sampling, eog_ids: Collection[int] = (), memory: Memory = NOTHING_YET) -> None:
        """`memory`: of the sequence this one goes on with."""
        biases: dict[int, float] = {}
        for token, bias in sampling.logit_bias:
            biases[token] = biases.get(token, 0.0) + bias
        if sampling.ignore_eos:
            biases |= dict.fromkeys(eog_ids, -math.inf)
        self.bias_tokens = np.array(list(biases), np.int32)
        self.biases = np.array(list(biases.values()), np.float32)
        self._chain = Chain(sampling, memory)

    @property
    def memory(self) -> Memory:
        return self._chain.memory

    def choose(self, candidates: Candidates, history: IntArray) -> int:
        """The candidate taken, after everybody's say but the biases'."""
        return self._chain.choose(candidates, history)


class Sampler:
    """Chooses tokens. Owns scratch memory of the vocabulary's size; one thread at a time."""

    def __init__(self, vocab_size: int) -> None:
        self._candidates = Candidates(vocab_size)
        self._taken = 0

    def sample(self, logits: FloatArray, history: IntArray, state: SamplerState) -> int:
        """The next token after `history`, from its row of logits. Raises BrokenLogits, InvalidRequest."""
        candidates = self._candidates
        self._start(logits)
        if state.biases.size:
            add_biases(candidates, state.bias_tokens, state.biases)
        if candidates.peak == -math.inf:
            raise InvalidRequest("Field 'logit_bias': it leaves no token to choose from")
        self._taken = state.choose(candidates, history)
        return candidates.token(self._taken)

    def logprob(self, logits: FloatArray, token: int, num_top: int) -> Logprob:
        """Log probabilities of the unmodified logits. Raises BrokenLogits."""
        candidates = self._candidates
        self._start(logits)
        log_total = candidates.peak + math.log(candidates.weigh()[1])
        logprob = _finite(float(logits[token]) - log_total)
        if num_top <= 0:
            return Logprob(token, logprob, ())
        candidates.keep_largest(min(num_top, logits.size))
        candidates.settle()
        ids, picked = candidates.ids.tolist(), candidates.logits.tolist()
        return Logprob(token, logprob, tuple((i, _finite(x - log_total)) for i, x in zip(ids, picked, strict=True)))

    def logprob_after_sampling(self, num_top: int) -> Logprob:
        """Log probabilities among the candidates that the last `sample` chose from; none of what had no chance."""
        candidates = self._candidates
        weights, total = candidates.weigh()

        def logprob(place: int) -> float:
            return math.log(max(float(weights[place]) / total, _LEAST))

        top = tuple((candidates.token(place), logprob(place)) for place in candidates.most_likely(num_top).tolist())
        return Logprob(candidates.token(self._taken), logprob(self._taken), top)

    def _start(self, logits: FloatArray) -> None:
        if not self._candidates.start(logits):
            raise BrokenLogits("the model computed logits that are not numbers")


def _finite(logprob: float) -> float:
    return max(logprob, -_LARGEST)
