"""Logits to what the client gets: the next token, its text, how likely it was, and whether the answer ends with it.

The engine calls it for each sequence that a step carried to its end. Invariant: what is written follows from the
request, its tokens and their logits, and nothing changes but that generation, the counters and the outbox.
"""

from collections.abc import Collection

import numpy as np
import numpy.typing as npt

from worker.generation import FinishReason, Generation, Logprobs, PromptScores, Token
from worker.mailbox import Outbox
from worker.sampler import Logprob, Sampler
from worker.stats import Counters

FloatArray = npt.NDArray[np.float32]


class Writer:
    """Owns the sampler."""

    def __init__(self, sampler: Sampler, eog_ids: Collection[int], counters: Counters, outbox: Outbox) -> None:
        self._sampler = sampler
        self._eog_ids = eog_ids
        self._counters = counters
        self._outbox = outbox

    def ended(self, generation: Generation) -> FinishReason | None:
        """Why it gets no token: it is full, or what it resumes had come to its end."""
        resumed = generation.request.resumed
        if resumed and not generation.num_predicted:
            if generation.detokenizer.stop_string is not None:
                return FinishReason.STOP_STRING
            if resumed[-1] in self._eog_ids:
                return FinishReason.END_OF_SEQUENCE
        return FinishReason.LENGTH if generation.sequence.is_full else None

    def write(self, generation: Generation, logits: FloatArray) -> FinishReason | None:
        """Chooses one token and emits it with its text; says whether it is the last. Raises BrokenLogits."""
        sequence, detokenizer = generation.sequence, generation.detokenizer
        token = self._sampler.sample(logits, sequence.tokens[: sequence.num_tokens], generation.sampler)
        logprob = self._logprob(generation.request.logprobs, logits, token)
        sequence.append(token)
        self._counters.predicted_tokens += 1
        reason = None
        if token in self._eog_ids:
            text, reason = detokenizer.finish(), FinishReason.END_OF_SEQUENCE
        else:
            text = detokenizer.push(token)
            if detokenizer.stop_string is not None:
                reason = FinishReason.STOP_STRING
            elif sequence.is_full or (generation.is_late and "\n" in text):
                text, reason = text + detokenizer.finish(), FinishReason.LENGTH
        generation.has_new_line = generation.has_new_line or "\n" in text
        self._outbox.put(generation.sink, Token(text, token, generation.sampler.memory, logprob))
        return reason

    def score_prompt(self, generation: Generation, logits: FloatArray) -> None:
        """Emits how likely each prompt token was after those before it; logits: of the tokens just computed."""
        sequence, wanted = generation.sequence, generation.request.logprobs
        assert wanted is not None
        tokens, first = sequence.tokens, sequence.num_computed - len(logits)
        begin = max(generation.num_scored, first + 1)
        end = min(sequence.num_prompt_tokens, sequence.num_computed + 1)
        scores = [Logprob(int(tokens[0]), 0.0, ())] if generation.num_scored == 0 else []
        for place in range(begin, end):
            scores.append(self._sampler.logprob(logits[place - 1 - first], int(tokens[place]), wanted.num_top))
        generation.num_scored = max(generation.num_scored, end)
        if scores:
            self._outbox.put(generation.sink, PromptScores(scores))

    def _logprob(self, wanted: Logprobs | None, logits: FloatArray, token: int) -> Logprob | None:
        """Of the token just sampled."""
        if wanted is None:
            return None
        if wanted.after_sampling:
            return self._sampler.logprob_after_sampling(wanted.num_top)
        return self._sampler.logprob(logits, token, wanted.num_top)
