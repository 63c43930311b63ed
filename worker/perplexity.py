"""`corral perplexity`, or `python -m worker.perplexity`: how well a model foretells a text.

The text is cut into windows of n_ctx tokens, the first token of each is replaced by BOS where the model wants one, and
the second half of each window is scored: a token's surprise is its negative log-probability given what stands before it
in the window. Perplexity is the exponential of the mean. Source of windows, error estimate and words: llama-perplexity.
Invariant: the result does not depend on how a window is cut into steps.
"""

import argparse
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from worker.bench.loading import Loaded, Setup, loaded, say, status_of
from worker.bench.workload import Forward
from worker.errors import InvalidRequest
from worker.model.decoder import BLOCK_SIZE
from worker.text.tokenizer import Tokenizer
from worker.values import MOST_THREADS, Whole

Ints = NDArray[np.int32]
Floats = NDArray[np.float64]

_SCORED_AT_ONCE = 64  # tokens whose logits are held at a time: 64 MiB for a vocabulary of 262144


@dataclass(frozen=True, slots=True)
class Estimate:
    """The sums over the tokens scored so far."""

    num_scored: int = 0
    total: float = 0.0  # of surprises
    squares: float = 0.0

    def plus(self, surprises: Floats) -> "Estimate":
        return Estimate(
            self.num_scored + surprises.size,
            self.total + float(surprises.sum()),
            self.squares + float((surprises**2).sum()),
        )

    @property
    def perplexity(self) -> float:
        return math.exp(self.total / self.num_scored)

    @property
    def uncertainty(self) -> float:
        """One standard error of the perplexity; 0 where the surprises do not differ."""
        mean = self.total / self.num_scored
        variance = max(self.squares / self.num_scored - mean**2, 0.0)
        return self.perplexity * math.sqrt(variance / max(self.num_scored - 1, 1))


def main(arguments: Sequence[str] | None = None) -> int:
    """Status 0, or 1 with one line about a model or text that will not do; argparse ends with 2."""
    options = _parser().parse_args(arguments)

    def run() -> None:
        text = _text(options.file)
        wanted = Setup(options.threads, options.cache_type_k, options.cache_type_v)
        with loaded(options.model, wanted, say) as model:
            _run(model, text, options)

    return status_of(run)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="corral perplexity", allow_abbrev=False, description="Measure how well a model foretells a text."
    )
    parser.add_argument("-m", "--model", type=Path, required=True, metavar="FILE")
    parser.add_argument("-f", "--file", type=Path, required=True, metavar="FILE", help="UTF-8 text")
    parser.add_argument("-c", "--ctx-size", type=Whole(least=3), default=512, metavar="N",
                        help="tokens of a window")  # fmt: skip
    parser.add_argument("--chunks", type=int, default=-1, metavar="N", help="windows to read (default: all)")
    parser.add_argument("-b", "--batch-size", type=Whole(least=1), default=2048, metavar="N")
    parser.add_argument("-ub", "--ubatch-size", type=Whole(least=1), default=512, metavar="N", help="tokens of a step")
    parser.add_argument("-t", "--threads", type=Whole(MOST_THREADS), default=0, metavar="N",
                        help="0: one for each usable core")  # fmt: skip
    parser.add_argument("-ctk", "--cache-type-k", default="f16", metavar="TYPE")
    parser.add_argument("-ctv", "--cache-type-v", default="f16", metavar="TYPE")
    return parser


def _text(path: Path) -> str:
    """Without the newline at its end."""
    try:
        return path.read_text("utf-8").removesuffix("\n")
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"{path} is not UTF-8: byte {error.start} cannot be read") from None


def _run(model: Loaded, text: str, options: argparse.Namespace) -> None:
    decoder, size = model.decoder, options.ctx_size
    cut = windows(Tokenizer(model.gguf.metadata), text, size, options.chunks)
    if size > decoder.context_length:
        print(f"note: the model was trained on {decoder.context_length} tokens, not {size}", file=sys.stderr)
    step_tokens = min(options.batch_size, options.ubatch_size)
    model.reserve(-(-size // BLOCK_SIZE), step_tokens, min(step_tokens, _SCORED_AT_ONCE))
    print(f"perplexity: calculating perplexity over {len(cut)} chunks, n_ctx={size}", file=sys.stderr)
    estimate, started = Estimate(), time.monotonic()
    for number, window in enumerate(cut, 1):
        estimate = estimate.plus(score(decoder, window, step_tokens))
        print(f"[{number}]{estimate.perplexity:.4f},", end="", flush=True)
        if number == 1:
            seconds = time.monotonic() - started
            print(f"perplexity: {seconds:.2f} seconds per pass - ETA {seconds * len(cut):.0f} s", file=sys.stderr)
    print(f"\nFinal estimate: PPL = {estimate.perplexity:.4f} +/- {estimate.uncertainty:.5f}")


def windows(tokenizer: Tokenizer, text: str, size: int, most: int = -1) -> Ints:
    """(windows, size): the text's tokens, at most `most` windows if that is not negative, as the model is to read them.

    Raises InvalidRequest if they are fewer than two windows, of which no estimate should be made.
    """
    tokens = np.array(tokenizer.encode(text, parse_special=False), np.int32)
    if len(tokens) < 2 * size:
        raise InvalidRequest(
            f"the text has {len(tokens)} tokens, windows of {size} need at least {2 * size}: "
            "give a longer text or a smaller --ctx-size"
        )
    num_windows = len(tokens) // size
    if most >= 0:
        num_windows = min(num_windows, most)
    if not num_windows:
        raise InvalidRequest("--chunks 0 leaves nothing to read, the least is 1")
    cut = tokens[: num_windows * size].reshape(num_windows, size)
    if tokenizer.add_bos and tokenizer.bos_id is not None:
        cut[:, 0] = tokenizer.bos_id
    return cut


def score(decoder: Forward, window: Ints, step_tokens: int) -> Floats:
    """The surprises of the tokens behind the middle one, (size - 1 - size // 2,), in nats."""
    last, middle = len(window) - 1, len(window) // 2  # the last token foretells nothing that is known
    for begin in range(0, middle, step_tokens):
        _forward(decoder, window, begin, min(begin + step_tokens, middle), scored=False)
    at_once = min(step_tokens, _SCORED_AT_ONCE)
    found = [
        surprises(_forward(decoder, window, begin, end, scored=True), window[begin + 1 : end + 1])
        for begin in range(middle, last, at_once)
        for end in (min(begin + at_once, last),)
    ]
    return np.concatenate(found) if found else np.zeros(0)


def _forward(decoder: Forward, window: Ints, begin: int, end: int, scored: bool) -> NDArray[np.float32]:
    """Positions [begin, end); logits of all of them, or of none."""
    num = end - begin
    blocks = np.arange(-(-len(window) // BLOCK_SIZE), dtype=np.int32)[None]
    rows = np.arange(num if scored else 0, dtype=np.int32)
    return decoder.forward(window[begin:end], np.array([0, num], np.int32), np.array([begin], np.int32), blocks, rows)


def surprises(logits: NDArray[np.float32], tokens: Ints) -> Floats:
    """Negative log-probabilities, (R,), of one token for each row of logits (R, vocab)."""
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    normalizers: Floats = np.log(np.exp(shifted).sum(axis=1))
    chosen: Floats = shifted[np.arange(len(tokens)), tokens]
    return normalizers - chosen


if __name__ == "__main__":
    raise SystemExit(main())
