"""Records what the peer's server says about its candidates after sampling, for test_sampling.py:

    python -m tests.parity.record_sampling PATH/TO/llama-server MODEL.gguf

Invariant: each case stores the candidates of every step in the peer's own numbers, so that the test of the draws needs
no model.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx

from tests.parity import oracle
from tests.parity.record_greedy import running_peer, version

RECORD = Path(__file__).with_name("sampling_smollm2.json")
_NUM_TOP = 100

_STORY = "Once upon a time there was a fox who lived in a deep forest."
_CAPITAL = "The capital of France is"  # no two of the likely tokens are as likely
_REPEATING = "one two three four five, one two three four five, one two three four five, one two three"

# What each case asks for beside its prompt; one token each, whose candidates are compared. Nothing is banned here:
# the peer's entropy of a vocabulary with a banned token is not a number.
ALONE: dict[str, tuple[str, dict[str, Any]]] = {
    "temperature": (_CAPITAL, {"samplers": ["temperature"], "temperature": 0.3}),
    "top_k": (_CAPITAL, {"samplers": ["top_k"], "top_k": 7}),
    "top_p": (_CAPITAL, {"samplers": ["top_p"], "top_p": 0.8}),
    "min_p": (_CAPITAL, {"samplers": ["min_p"], "min_p": 0.04}),
    "typ_p": (_CAPITAL, {"samplers": ["typ_p"], "typical_p": 0.5}),
    "top_n_sigma": (_CAPITAL, {"samplers": ["top_n_sigma"], "top_n_sigma": 1.5}),
    "xtc": (_CAPITAL, {"samplers": ["xtc"], "xtc_probability": 1.0, "xtc_threshold": 0.03}),
    "penalties": (_REPEATING, {"samplers": ["penalties"], "repeat_penalty": 1.3, "presence_penalty": 0.5,
                               "frequency_penalty": 0.3}),
    "dry": (_REPEATING, {"samplers": ["dry", "top_k"], "dry_multiplier": 1.0, "dry_sequence_breakers": ["\n"]}),
    "dry_breaker": (_REPEATING, {"samplers": ["dry", "top_k"], "dry_multiplier": 1.0, "dry_allowed_length": 1,
                                 "dry_sequence_breakers": [", one", "three f"]}),
    "dynatemp": (_STORY, {"samplers": ["top_k", "temperature"], "dynatemp_range": 0.6, "dynatemp_exponent": 1.5}),
    "mirostat_1": (_STORY, {"mirostat": 1, "mirostat_tau": 3.0}),
    "mirostat_2": (_STORY, {"mirostat": 2, "mirostat_tau": 3.0}),
    "adaptive_p": (_STORY, {"samplers": ["top_k", "adaptive_p"], "top_k": 20, "adaptive_target": 0.3}),
    "all": (_REPEATING, {"dry_multiplier": 0.5, "top_n_sigma": 3.0, "typical_p": 0.95, "xtc_probability": 1.0,
                         "dynatemp_range": 0.3, "repeat_penalty": 1.1, "temperature": 1.0}),
}  # fmt: skip

# These go on for a while, so the text must not end early: from the peer's candidates, a seed must give its tokens.
DRAWN: dict[str, dict[str, Any]] = {
    "default": {},
    "few_candidates": {"min_p": 0.3},
    "xtc": {"xtc_probability": 0.5},
    "mirostat_1": {"mirostat": 1, "mirostat_tau": 2.0},
    "mirostat_2": {"mirostat": 2, "mirostat_tau": 2.0},
    "adaptive_p": {"samplers": ["top_k", "adaptive_p"], "top_k": 20, "adaptive_target": 0.4},
}
SEEDS = (1, 42)


def body(prompt: str, changes: dict[str, Any], num_tokens: int, seed: int) -> dict[str, Any]:
    return {
        "prompt": prompt, "n_predict": num_tokens, "seed": seed, "n_probs": _NUM_TOP, "post_sampling_probs": True,
        "cache_prompt": False, **changes,
    }  # fmt: skip


def steps(client: httpx.Client, asked: dict[str, Any]) -> list[list[Any]]:
    """[[token, [candidate, probability, ...]], ...], likeliest first."""
    reply = oracle.post(client, "/completion", asked)
    return [
        [item["id"], [value for top in item["top_probs"] for value in (top["id"], float(f"{top['prob']:.7g}"))]]
        for item in reply["completion_probabilities"]
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="record_sampling", description="Record probabilities after sampling.")
    parser.add_argument("server", type=Path)
    parser.add_argument("model", type=Path)
    options = parser.parse_args(arguments)
    with running_peer(options.server, options.model) as client:
        record = {
            "peer": f"llama-server {version(options.server)}",
            "alone": {name: steps(client, body(*case, 1, 1))[0][1] for name, case in ALONE.items()},
            "drawn": {
                f"{name} {seed}": steps(client, body(_STORY, {"ignore_eos": True, **changes}, 40, seed))
                for name, changes in DRAWN.items()
                for seed in SEEDS
            },
        }
    lines = (json.dumps(record, separators=(",", ":"))).replace('],"', '],\n"')
    RECORD.write_text(lines + "\n", "utf-8")
    print(RECORD, len(lines), file=sys.stderr)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
