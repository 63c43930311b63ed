"""One numbering of the places of all replicas of a model, as clients see them: GET /slots, id_slot. Pure.

The first replica's places come first, then the second one's, and so on: with one replica they are the worker's own
numbers, which start anew behind the last one as llama-server's do; among several a number behind the last is a mistake,
because how many there are changes. crew.py gives each replica its numbers, dispatch.py translates.
Invariant: no number stands for two places.
"""

from collections.abc import Sequence
from typing import Protocol, TypeVar

from protos import inference_pb2 as pb
from router.errors import InvalidRequest

ALL = range(1 << 31)  # of a replica whose numbers are its worker's own
ANY = -1


class Numbered(Protocol):
    @property
    def place_numbers(self) -> range: ...


_Replica = TypeVar("_Replica", bound=Numbered)


def having(replicas: Sequence[_Replica], place: int) -> Sequence[_Replica]:
    """The one that has the place, or none."""
    return [replica for replica in replicas if place in replica.place_numbers]


def wished(replicas: Sequence[_Replica], request: pb.GenerateRequest) -> Sequence[_Replica]:
    """The one that has the place the request would like; all, if it has no wish or that one cannot be called."""
    if len(replicas) < 2 or not request.HasField("place") or request.place == ANY:
        return replicas
    last = max(replica.place_numbers.stop for replica in replicas) - 1
    if request.place > last:
        raise InvalidRequest(f"Field 'id_slot': Value must be between -1 <= value <= {last}, but got {request.place}")
    return having(replicas, request.place) or replicas


def own(request: pb.GenerateRequest, numbers: range) -> pb.GenerateRequest:
    """The request in the worker's own numbers; a place of another worker is no wish."""
    has_wish = request.HasField("place") and request.place != ANY
    if not has_wish or numbers == ALL or (numbers.start == 0 and request.place in numbers):
        return request
    copy = pb.GenerateRequest()
    copy.CopyFrom(request)
    copy.place = request.place - numbers.start if request.place in numbers else ANY
    return copy


def everyones(replies: list[pb.GenerateReply], numbers: range) -> list[pb.GenerateReply]:
    """The replies in the numbers of all; changes them."""
    for reply in replies if numbers.start else ():
        if reply.HasField("started"):
            reply.started.place += numbers.start
    return replies
