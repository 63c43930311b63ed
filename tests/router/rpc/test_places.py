from dataclasses import dataclass

import pytest

from protos import inference_pb2 as pb
from router.errors import InvalidRequest
from router.rpc import places


@dataclass(frozen=True)
class Replica:
    place_numbers: range


FIRST, SECOND = Replica(range(4)), Replica(range(4, 6))
ALONE = Replica(places.ALL)


def request(place: int | None) -> pb.GenerateRequest:
    return pb.GenerateRequest(place=place)


@pytest.mark.parametrize(
    ("place", "expected"), [(0, [FIRST]), (5, [SECOND]), (-1, [FIRST, SECOND]), (None, [FIRST, SECOND])]
)
def test_a_request_goes_where_the_place_is_that_it_would_like(place: int | None, expected: list[Replica]) -> None:
    assert places.wished([FIRST, SECOND], request(place)) == expected


def test_a_place_that_cannot_be_had_now_is_no_obstacle_but_one_that_never_was_is_a_mistake() -> None:
    third = Replica(range(6, 8))
    assert places.wished([FIRST, third], request(5)) == [FIRST, third]
    with pytest.raises(InvalidRequest, match="-1 <= value <= 5, but got 6"):
        places.wished([FIRST, SECOND], request(6))
    assert places.wished([ALONE], request(99)) == [ALONE]  # its worker says how many it has


@pytest.mark.parametrize(
    ("place", "replica", "sent"),
    [(5, SECOND, 1), (3, FIRST, 3), (5, FIRST, -1), (0, SECOND, -1), (-1, SECOND, -1), (7, ALONE, 7)],
)
def test_a_worker_is_asked_in_its_own_numbers(place: int, replica: Replica, sent: int) -> None:
    asked = request(place)
    assert places.own(asked, replica.place_numbers).place == sent
    assert asked.place == place


def test_a_request_without_a_wish_is_sent_as_it_is() -> None:
    asked = request(None)
    assert places.own(asked, SECOND.place_numbers) is asked


def test_an_answer_tells_the_place_in_everybodys_numbers() -> None:
    def started() -> pb.GenerateReply:
        return pb.GenerateReply(started=pb.Started(place=1))

    assert places.everyones([started()], SECOND.place_numbers)[0].started.place == 5
    assert places.everyones([started()], ALONE.place_numbers)[0].started.place == 1
