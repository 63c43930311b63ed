"""What a failed call to a worker means."""

import grpc
import pytest
from grpc.aio import AioRpcError, Metadata

from protos import inference_pb2 as pb
from router.errors import InternalError, WorkerFailed, WorkerLost
from router.rpc.workererrors import ERROR_DETAIL_KEY, failure


def failed(code: grpc.StatusCode, *details: pb.ErrorDetail) -> AioRpcError:
    trailing = Metadata(*((ERROR_DETAIL_KEY, detail.SerializeToString()) for detail in details))
    return AioRpcError(code, Metadata(), trailing)


@pytest.mark.parametrize("code", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED, grpc.StatusCode.INTERNAL])
def test_a_call_that_ends_without_the_workers_words_was_broken_off(code: grpc.StatusCode) -> None:
    """A killed worker's stream is refused, cancelled or reset, as it happens."""
    assert isinstance(failure("a", failed(code)), WorkerLost)


def test_the_workers_own_words_count_whatever_the_status() -> None:
    said = failure("a", failed(grpc.StatusCode.INTERNAL, pb.ErrorDetail(code=pb.INTERNAL)))
    assert isinstance(said, InternalError) and not isinstance(said, WorkerLost)
    assert isinstance(failure("a", failed(grpc.StatusCode.UNAUTHENTICATED)), WorkerFailed)
