"""`corral bench`, or `python -m worker.bench`: how fast the decoder is on this machine, in llama-bench's words.

Called by people and by bench/peers.py. It drives the decoder alone, without scheduler, sampler and gateway, as
llama-bench does: pp is one prompt read in steps with the logits of its last token, tg is one token a step with its
logits. Invariant: a row is printed as soon as it is measured.
"""

import argparse
import itertools
import sys
import time
from collections.abc import Callable, Iterator, Sequence

from worker.bench import batched
from worker.bench.loading import Loaded, loaded, say, status_of
from worker.bench.options import DEFAULTS, Measurement, parse, plan
from worker.bench.report import FORMATS, OPTIONAL, Row, facts, row
from worker.bench.workload import measure


def main(arguments: Sequence[str] | None = None) -> int:
    """Status 0, or 1 with one line about a model that cannot be measured; argparse ends with 2."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if "--batched" in given:
        given.remove("--batched")
        return batched.main(given)
    options = parse(given)
    if options.without_effect:
        print(f"note: without effect here: {', '.join(options.without_effect)}", file=sys.stderr)
    optional = [name for name in OPTIONAL if getattr(options, name) != list(DEFAULTS[name])]

    def run() -> None:
        for text in FORMATS[options.output](_rows(options), optional):
            print(text, end="", flush=True)

    return status_of(run)


def _rows(options: argparse.Namespace) -> Iterator[Row]:
    planned = plan(options)
    announce = _announcer(len(planned), options.progress)
    for (model, setup), group in itertools.groupby(planned, key=lambda test: (test.model, test.setup)):
        together = list(group)
        with loaded(model, setup, say) as found:
            _reserve(found, together)
            for test in together:
                announce(test)
                samples = measure(found.decoder, test.trial, options.repetitions, not options.no_warmup)
                say("")
                yield row(facts(found), test.trial, samples)
                time.sleep(options.delay)


def _reserve(model: Loaded, planned: Sequence[Measurement]) -> None:
    """Room for the largest of the tests."""
    trials = [test.trial for test in planned]
    model.reserve(
        num_blocks=max(trial.num_blocks for trial in trials),
        max_tokens=max(trial.step_tokens for trial in trials),
        max_sequences=1,
    )


def _announcer(num_tests: int, progress: bool) -> Callable[[Measurement], None]:
    """Which test is running: a line for each if asked for, else on a terminal's last line."""
    numbers = itertools.count(1)

    def announce(test: Measurement) -> None:
        text = f"test {next(numbers)}/{num_tests}: {test.model.name} {test.trial.name}"
        if progress:
            print(text, file=sys.stderr, flush=True)
        else:
            say(text)

    return announce


if __name__ == "__main__":
    raise SystemExit(main())
