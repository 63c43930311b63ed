"""Records what the peer's server says of the tiny models of all architectures, for test_architectures.py:

    python -m tests.parity.record_architectures PATH/TO/llama-server

The peer is asked for its most exact arithmetic: a cache of f32, no flash attention.
"""

import sys
import tempfile
from pathlib import Path

import httpx

from tests.parity.architectures import (
    CASES,
    LENGTHS,
    NUM_TOP,
    PROMPT,
    Answers,
    case_name,
    fingerprint,
    save,
    write_case,
)
from tests.parity.oracle import Endpoint, completion_body, post
from tests.parity.record_greedy import running_peer, version

EXACT = ("-ctk", "f32", "-ctv", "f32", "-fa", "off")


def main(server: Path) -> None:
    answers = {}
    for model, quant in CASES:
        with tempfile.TemporaryDirectory() as folder:
            path = write_case(Path(folder), model, quant)
            with running_peer(server, path, context_length=2048, flags=EXACT) as client:
                logprobs = {length: _top(client, PROMPT[:length]) for length in LENGTHS}
            answers[case_name(model, quant)] = Answers(fingerprint(path), logprobs)
        print(case_name(model, quant), file=sys.stderr)
    save(f"llama-server {version(server)}", answers)


def _top(client: httpx.Client, prompt: list[int]) -> dict[int, float]:
    """A whole word is forced, because only then are probabilities reported; they are those before the bias."""
    word = post(client, "/tokenize", {"content": "a"})["tokens"][0]
    asked = {"n_predict": 1, "n_probs": NUM_TOP, "logit_bias": [[word, 1000.0]]}
    reply = post(client, Endpoint.COMPLETION, completion_body(prompt) | asked)
    return {top["id"]: round(top["logprob"], 5) for top in reply["completion_probabilities"][0]["top_logprobs"]}


if __name__ == "__main__":
    main(Path(sys.argv[1]))
