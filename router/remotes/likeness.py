"""Whether two workers answer every request of a model alike, so that each can go on with what the other began. Pure.

Asked by remote.py of every worker on another host before requests go there, and by dispatch.py of those that a request
may go to, or that are to go on with an answer. Invariant: what may differ between hosts without a trace in an answer,
as threads, instruction sets and the number of places, is not compared.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from protos import inference_pb2 as pb
from router.rpc.replica import Replica

_SHOWN = 8  # digits of a digest

Facts = Mapping[str, Callable[[pb.DescribeReply], object]]

MODEL: Facts = {
    "architecture": lambda told: told.architecture,
    "weights": lambda told: told.file_type,
    "parameters": lambda told: told.num_parameters,
    "bytes of weights": lambda told: told.size_bytes,
    "tokeniser": lambda told: f"{told.vocab_type}/{told.vocab_size}",
    "chat template": lambda told: hashlib.sha256(told.chat_template.encode()).hexdigest()[:_SHOWN],
    "name": lambda told: told.name,
}
LIMITS: Facts = {
    "context length": lambda told: told.context_length,  # what one refuses the other must not take
    "context shift": lambda told: "on" if told.shifts_context else "off",  # where one goes on the other must not end
}
_DIGESTS: Mapping[str, Callable[[pb.DescribeReply], bytes]] = {  # empty where a worker does not tell
    "reads text by another vocabulary": lambda told: told.vocabulary,
    "computes something else (other weights, cache types or rotation)": lambda told: told.identity,
}
_DIFFERENCES: Mapping[str, Facts] = {
    "it serves another model than the others under this name": MODEL,
    "it serves the model within other limits than the others under this name": LIMITS,
}


def misfit(told: pb.DescribeReply, reference: pb.DescribeReply) -> str:
    """Why the worker that told cannot stand beside the other, with both values; empty: it can."""
    for difference, facts in _DIFFERENCES.items():
        for what, of in facts.items():
            if of(told) != of(reference):
                return f"{difference}: {what} {of(told)}, theirs {of(reference)}"
    for what, of in _DIGESTS.items():
        ours, theirs = of(told), of(reference)
        if ours and theirs and ours != theirs:
            return f"it {what} than the others under this name: {ours.hex()[:_SHOWN]}, theirs {theirs.hex()[:_SHOWN]}"
    return ""


def can_go_on(replica: Replica, other: Replica) -> bool:
    """Whether the one may go on with what the other has answered: by the files of both if both run on this host."""
    if replica.contents is not None and other.contents is not None:
        return replica.contents == other.contents
    if replica.description is None or other.description is None:
        return True
    return not misfit(replica.description, other.description)


def alike(replicas: Sequence[Replica]) -> Sequence[Replica]:
    """Those that have loaded the same files as most of them, and those on other hosts, of which that is not known.

    They differ where a file was replaced under its path and a worker has crashed since; a reload starts all of them
    anew. Where as many have loaded one thing as another, those stay that have served the longest.
    """
    local = [replica for replica in replicas if replica.contents is not None]
    if all(replica.contents == local[0].contents for replica in local):
        return replicas
    numbers = Counter(replica.contents for replica in local)
    chosen = max(local, key=lambda replica: (numbers[replica.contents], -replica.since)).contents
    return [replica for replica in replicas if replica.contents is None or replica.contents == chosen]
