from protos import inference_pb2 as pb
from router.fleet.totals import COUNTS, GAUGES, total

A = pb.StatsReply(
    num_steps=1, num_running=2, busy=True, step_bounds=[0.1], step_counts=[3, 4], expected_wait=5.0, longest_sequence=9
)
B = pb.StatsReply(num_steps=10, num_waiting=20, step_bounds=[0.1], step_counts=[30, 40], expected_wait=0.5)


def test_one_reply_is_its_own_total() -> None:
    assert total([A]) == A


def test_replicas_count_together() -> None:
    together = total([A, B])
    assert (together.num_steps, together.num_running, together.num_waiting, together.busy) == (11, 2, 20, True)
    assert (list(together.step_bounds), list(together.step_counts), together.expected_wait) == ([0.1], [33, 44], 0.5)
    assert together.longest_sequence == 9
    assert A.num_steps == 1


def test_what_the_processes_share_is_told_once_all_have_counted() -> None:
    counted, counts = pb.StatsReply(proportional_bytes=5), pb.StatsReply()
    assert total([counted, counted]).proportional_bytes == 10
    assert total([counted, counts]).proportional_bytes == 0


def test_every_field_has_a_way_to_be_put_together() -> None:
    names = {field.name for field in pb.StatsReply.DESCRIPTOR.fields}
    of_their_own = {"busy", "step_bounds", "step_counts", "expected_wait", "longest_sequence", "prefix_digest"}
    assert names == {*COUNTS, *GAUGES, *of_their_own}


def test_the_digest_of_several_changes_with_each_of_theirs() -> None:
    digests = [total([pb.StatsReply(prefix_digest=a), pb.StatsReply(prefix_digest=b)]).prefix_digest
               for a, b in ((0, 0), (2**64 - 1, 2**64 - 1), (2**64 - 1, 1), (5, 5))]  # fmt: skip
    assert digests == [0, 2**64 - 2, 0, 10]
