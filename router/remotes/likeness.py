"""Whether two workers serve the same model, so that each can go on with what the other has begun. Pure.

Asked by remote.py of every worker on another host before requests go there. Invariant: what may differ between hosts,
as threads, instruction sets and the length of the context, is not compared.
"""

import hashlib
from collections.abc import Callable, Mapping

from protos import inference_pb2 as pb

_SHOWN = 8  # digits of a digest

FACTS: Mapping[str, Callable[[pb.DescribeReply], object]] = {
    "architecture": lambda told: told.architecture,
    "weights": lambda told: told.file_type,
    "parameters": lambda told: told.num_parameters,
    "bytes of weights": lambda told: told.size_bytes,
    "tokeniser": lambda told: f"{told.vocab_type}/{told.vocab_size}",
    "chat template": lambda told: hashlib.sha256(told.chat_template.encode()).hexdigest()[:_SHOWN],
    "name": lambda told: told.name,
}


def misfit(told: pb.DescribeReply, reference: pb.DescribeReply) -> str:
    """Why the worker that told cannot stand beside the other, with both values; empty: it can."""
    for what, of in FACTS.items():
        if of(told) != of(reference):
            return f"it serves another model than the others under this name: {what} {of(told)}, theirs {of(reference)}"
    if told.identity and reference.identity and told.identity != reference.identity:
        ours, theirs = (each.identity.hex()[:_SHOWN] for each in (told, reference))
        return (
            "it computes something else than the others under this name (other weights, cache types or rotation): "
            f"{ours}, theirs {theirs}"
        )
    return ""
