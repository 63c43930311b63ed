"""Position flags mean what they mean to the peer: from the gateway's command line to the probabilities of the model.

The peer's own tokens are fed to the model, so that every step is compared, not only those up to the first near tie.
"""

from collections.abc import Iterator

import numpy as np
import pytest

from router.options import workersettings
from router.options.flags import parse
from tests.models import smollm2
from tests.parity import oracle
from tests.parity.oracle import Case
from tests.parity.record_rope import FLAGS, RECORD
from tests.worker.model.models import Running, Step, blocks_for
from worker.arguments import parser, worker_config
from worker.gguf import GGUF
from worker.model.decoder import Decoder
from worker.model.load import load_model
from worker.text.tokenizer import Tokenizer

RECORDED = oracle.load(RECORD)
# Root mean square of the differences of margins, natural logarithms: activations and cache are rounded on both sides.
ROUNDING = 0.2
UNMISTAKABLE = 1.5  # times as far is the model that knows nothing of the flags


def loaded(flags: str) -> Decoder:
    """As `corral serve` with these flags loads it, room reserved for one case."""
    handed_on = workersettings.worker_arguments(parse(flags.split(), {}))
    arguments = parser().parse_args(["-m", str(smollm2()), "--listen", "unix:none", *handed_on])
    with GGUF.open(smollm2()) as gguf:
        decoder = load_model(gguf, worker_config(arguments), lambda stage, done: None)
    decoder.reserve(len(blocks_for(1024)), 1024, 64)
    return decoder


@pytest.fixture(scope="module")
def plain() -> Iterator[Decoder]:
    decoder = loaded("")
    yield decoder
    decoder.close()


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    with GGUF.open(smollm2()) as gguf:
        return Tokenizer(gguf.metadata)


def distance(decoder: Decoder, prompt: list[int], case: Case) -> float:
    """How far our margins of the peer's choices over its other candidates are from its own."""
    tokens = [*prompt, *(step.token for step in case.steps)]
    step = Step()
    step.add(Running(tokens, blocks_for(len(tokens))), len(tokens), range(len(prompt) - 1, len(tokens) - 1))
    differences = [
        float(row[choice.token] - row[other]) - (choice.logprob - logprob)
        for row, choice in zip(step.compute(decoder), case.steps, strict=True)
        for other, logprob in choice.others
    ]
    return float(np.sqrt(np.mean(np.square(differences))))


@pytest.mark.parametrize("case", RECORDED.cases, ids=lambda case: case.name)
def test_probabilities_are_the_peers_with_the_same_flags(case: Case, plain: Decoder, tokenizer: Tokenizer) -> None:
    prompt = tokenizer.encode(case.rendered)
    assert len(prompt) == case.num_prompt
    decoder = loaded(FLAGS[case.name])
    found, without = distance(decoder, prompt, case), distance(plain, prompt, case)
    decoder.close()
    assert found < ROUNDING and without > UNMISTAKABLE * found, (found, without)
