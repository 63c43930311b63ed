"""What several replicas of a model tell, as if they were one. Pure.

Called by dispatch.py; tally.py adds up the COUNTS of workers that come and go. Invariant: one reply alone comes out as
it went in.
"""

from collections.abc import Sequence

from protos import inference_pb2 as pb

COUNTS = (
    "num_steps",
    "prompt_tokens_total",
    "cached_tokens_total",
    "predicted_tokens_total",
    "prompt_seconds_total",
    "predicted_seconds_total",
    "step_seconds_total",
    "advanced_sequences_total",
    "draft_rounds_total",
    "drafted_tokens_total",
    "accepted_tokens_total",
)  # since a worker began: they only grow
GAUGES = (
    "num_running",
    "num_waiting",
    "num_blocks",
    "num_free_blocks",
    "num_cached_blocks",
    "resident_bytes",
    "proportional_bytes",
    "num_prefix_blocks",
    "num_prefixes",
)  # of now


def total(replies: Sequence[pb.StatsReply]) -> pb.StatsReply:
    """At least one reply. The wait is that of the replica where it is shortest."""
    result = pb.StatsReply()
    result.CopyFrom(replies[0])
    for reply in replies[1:]:
        for name in (*COUNTS, *GAUGES):
            setattr(result, name, getattr(result, name) + getattr(reply, name))
        result.busy |= reply.busy
        result.prefix_digest = (result.prefix_digest + reply.prefix_digest) % (1 << 64)  # changes with each of them
        result.step_counts[:] = [a + b for a, b in zip(result.step_counts, reply.step_counts, strict=True)]
        result.longest_sequence = max(result.longest_sequence, reply.longest_sequence)
        result.expected_wait = min(result.expected_wait, reply.expected_wait)
    if not all(reply.proportional_bytes for reply in replies):
        result.proportional_bytes = 0  # not known of all
    return result
