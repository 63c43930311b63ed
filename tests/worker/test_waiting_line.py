import random

import pytest

from worker.sequence import Sequence, Standing
from worker.waiting_line import HEAD_START, WaitingLine, outranked


def make(arrived=0.0, client="", weight=1.0, priority=5) -> Sequence:
    return Sequence([1], (), 9, shares_prefix=True, standing=Standing(client, weight, priority, arrived))


def drained(line: WaitingLine) -> list[Sequence]:
    return [line.pop() for _ in range(len(line))]


def line_of(*sequences: Sequence) -> WaitingLine:
    line = WaitingLine()
    for sequence in sequences:
        line.add(sequence)
    return line


def test_who_came_first_goes_first():
    sequences = [make(arrived=i) for i in range(5)]
    assert drained(line_of(*sequences)) == sequences


def test_those_who_came_together_keep_their_order():
    sequences = [make() for _ in range(5)]
    assert drained(line_of(*sequences)) == sequences


def test_a_higher_priority_goes_first():
    low, usual, high = make(0, priority=0), make(1), make(2, priority=9)
    assert drained(line_of(low, usual, high)) == [high, usual, low]


def test_a_low_priority_that_has_waited_long_goes_first():
    old, new = make(0, priority=0), make(9 * HEAD_START + 1, priority=9)
    assert drained(line_of(new, old)) == [old, new]


def test_one_who_gave_up_its_place_goes_first_and_the_oldest_of_several():
    waiting, older, younger = make(priority=9), make(), make()
    line = line_of(older, younger)
    assert drained(line) == [older, younger]
    line.add(waiting)
    line.put_back(younger)
    line.put_back(older)
    assert drained(line) == [older, younger, waiting]


@pytest.mark.parametrize("weights", [(1, 1), (3, 1), (1, 5)])
def test_clients_get_turns_by_their_weights_however_many_requests_they_send(weights):
    line = WaitingLine()
    for number in range(400):
        line.add(make(number, "many", weights[0]))
    for number in range(100):
        line.add(make(1000 + number, "few", weights[1]))
    served = {"many": 0, "few": 0}
    dice = random.Random(3)
    while served["few"] < 60:
        sequence = line.pop()
        num_tokens = dice.randint(1, 200)
        line.charge(sequence, num_tokens)
        served[sequence.standing.client] += 1
    assert served["many"] / served["few"] == pytest.approx(weights[0] / weights[1], rel=0.3)


def test_a_client_that_comes_back_has_saved_up_nothing():
    line = WaitingLine()
    busy = [make(i, "busy") for i in range(10)]
    for sequence in busy:
        line.add(sequence)
    for _ in range(5):
        line.charge(line.pop(), 1000)
    late = [make(100 + i, "late") for i in range(5)]
    for sequence in late:
        line.add(sequence)
    order = []
    for _ in range(4):
        order.append(line.pop().standing.client)
        line.charge(make(client=order[-1]), 1000)
    assert sorted(order) == ["busy", "busy", "late", "late"]


def test_a_client_without_requests_is_forgotten():
    line = WaitingLine()
    for number in range(100):
        sequence = make(client=str(number))
        line.add(sequence)
        if number % 2:
            line.remove(sequence)
        else:
            line.leave(line.pop())
    assert not line._clients and len(line) == 0


def test_removing_takes_out_one_and_leaves_the_order():
    sequences = [make(arrived=i) for i in range(6)]
    line = line_of(*sequences)
    line.put_back(line.pop())
    for gone in (sequences[0], sequences[3]):
        assert gone in line
        line.remove(gone)
        assert gone not in line
    assert drained(line) == [sequences[i] for i in (1, 2, 4, 5)]


def test_who_runs_is_outranked_by_a_higher_priority_that_comes_before_it_in_the_order_of_its_client():
    running = [make(0, priority=2), make(1, priority=4), make(0, "other", priority=0)]
    assert outranked(make(5, priority=9), running) is running[0]
    assert outranked(make(2, priority=4), running) is running[0]
    assert outranked(make(2, priority=2), running) is None
    assert outranked(make(7 * HEAD_START + 1, priority=9), running) is None


def test_who_made_way_waits_in_its_order():
    old, newer, newest = make(0, priority=3), make(1, priority=3), make(2, priority=9)
    line = line_of(old, newest)
    assert line.pop() is newest
    assert line.pop() is old
    line.add(newer)
    line.put_in_turn(old)
    assert drained(line) == [old, newer]


def test_who_is_set_aside_counts_but_has_no_turn_until_it_is_called_back():
    early, late = make(0), make(1)
    early.wanted_place = 3
    line = line_of(early, late)
    line.set_aside()
    line.call_back(2)
    assert (line.first(), len(line), early in line) == (late, 2, True)
    assert (line.first_aside(3), line.first_aside(2)) == (early, None)
    line.call_back(3)
    assert drained(line) == [early, late]


def test_who_is_set_aside_may_leave():
    one, other = make(0), make(1)
    one.wanted_place = other.wanted_place = 3
    line = line_of(one, other)
    line.set_aside()
    line.set_aside()
    line.remove(one)
    assert (one in line, line.first(), line.first_aside(3)) == (False, None, other)
    line.call_back(3)
    assert drained(line) == [other]
