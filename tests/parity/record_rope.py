"""Records what the peer's server answers with position flags, for test_rope.py:

    python -m tests.parity.record_rope PATH/TO/llama-server MODEL.gguf

Invariant: each case is the same long prompt, so that cases differ by their flags alone.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.parity import cases, oracle
from tests.parity.oracle import Oracle
from tests.parity.record_greedy import record_raw, running_peer, version

RECORD = Path(__file__).with_name("rope_smollm2.json")
PROMPT = cases.RAW["long_prose"]

FLAGS: Mapping[str, str] = {
    "yarn": "--rope-scaling yarn --rope-scale 4",
    "yarn_with_all_factors": (
        "--rope-scaling yarn --rope-scale 8 --yarn-orig-ctx 512 --yarn-ext-factor 0.7 --yarn-attn-factor 0.8 "
        "--yarn-beta-fast 16 --yarn-beta-slow 2"
    ),
    "yarn_without_extrapolation": "--rope-scaling yarn --rope-scale 4 --yarn-ext-factor 0 --yarn-attn-factor 1.1",
    "yarn_that_shrinks": "--rope-scaling yarn --rope-freq-scale 1.5",
    "linear": "--rope-scaling linear --rope-scale 4",
    "scale_without_scaling": "--rope-freq-scale 0.5",
    "extrapolation_without_scaling": "--rope-scale 2 --yarn-ext-factor 1",
    "base": "--rope-freq-base 50000",
    "none_beats_a_scale": "--rope-scaling none --rope-scale 4 --rope-freq-base 20000",
    "magnitude": "--yarn-attn-factor 0.9",
}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="record_rope", description="Record answers with position flags.")
    parser.add_argument("server", type=Path, help="llama-server's executable")
    parser.add_argument("model", type=Path, help="the GGUF file")
    options = parser.parse_args(arguments)
    recorded = []
    for name, flags in FLAGS.items():
        print(f"{name}: {flags}", file=sys.stderr)
        with running_peer(options.server, options.model, flags=flags.split()) as client:
            recorded.append(record_raw(client, name, PROMPT))
    peer = f"llama-server {version(options.server)}"
    oracle.save(Oracle(peer, options.model.stat().st_size, frozenset(), tuple(recorded), ()), RECORD)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
