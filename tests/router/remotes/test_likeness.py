from dataclasses import dataclass
from typing import cast

import pytest

from protos import inference_pb2 as pb
from router.remotes.likeness import alike, misfit
from router.rpc.replica import Replica

REFERENCE = {
    "architecture": "llama",
    "file_type": "Q4_1",
    "num_parameters": 1000,
    "size_bytes": 600,
    "vocab_type": 2,
    "vocab_size": 320,
    "chat_template": "{{ messages }}",
    "name": "One",
    "context_length": 2048,
    "identity": b"\x01" * 32,
    "vocabulary": b"\x03" * 32,
}


def told(**changes: object) -> pb.DescribeReply:
    return pb.DescribeReply(**{**REFERENCE, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"architecture": "qwen2"}, "architecture qwen2, theirs llama"),
        ({"file_type": "Q8_0"}, "weights Q8_0, theirs Q4_1"),
        ({"size_bytes": 601}, "bytes of weights 601, theirs 600"),
        ({"vocab_size": 321}, "tokeniser 2/321, theirs 2/320"),
        ({"chat_template": "x"}, "chat template 2d711642, theirs "),
        ({"name": "Two"}, "name Two, theirs One"),
        ({"context_length": 1024}, "other limits than the others under this name: context length 1024, theirs 2048"),
        ({"shifts_context": True}, "context shift on, theirs off"),
        ({"identity": b"\x02" * 32}, "cache types or rotation) than the others under this name: 02020202, theirs 01"),
        ({"vocabulary": b"\x04" * 32}, "another vocabulary than the others under this name: 04040404, theirs 03030303"),
    ],
)
def test_another_model_is_told_with_both_values(changes: dict[str, object], reason: str) -> None:
    assert reason in misfit(told(**changes), told())


def test_hosts_may_differ_in_what_does_not_change_answers() -> None:
    there = told(num_threads=64, instruction_set="avx512-vnni", num_parallel=32, model_path="/x")
    assert misfit(there, told()) == ""


def test_a_worker_that_does_not_tell_what_it_computes_is_judged_by_the_rest() -> None:
    assert misfit(told(identity=b"", vocabulary=b""), told()) == ""


@dataclass(frozen=True)
class Loaded:
    """As much of a replica as is asked for."""

    contents: tuple[object, ...] | None
    since: float = 0.0


def chosen(*replicas: Loaded) -> list[int]:
    """The indices of those that are alike."""
    found = alike(cast("list[Replica]", list(replicas)))
    return [index for index, each in enumerate(replicas) if any(each is other for other in found)]


OLD, NEW = ("old",), ("new",)


def test_replicas_are_alike_whose_files_most_have_loaded_or_those_that_served_longest() -> None:
    assert chosen() == []
    assert chosen(Loaded(OLD), Loaded(OLD)) == [0, 1]
    assert chosen(Loaded(NEW, 9.0), Loaded(OLD, 1.0), Loaded(OLD, 2.0)) == [1, 2]
    assert chosen(Loaded(NEW, 9.0), Loaded(OLD, 1.0)) == [1]
    assert chosen(Loaded(OLD, 1.0), Loaded(NEW, 9.0), Loaded(NEW, 8.0)) == [1, 2]


def test_nothing_is_known_of_the_files_of_other_hosts() -> None:
    assert chosen(Loaded(None), Loaded(None)) == [0, 1]
    assert chosen(Loaded(NEW, 9.0), Loaded(None), Loaded(OLD, 1.0)) == [1, 2]
