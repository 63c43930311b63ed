import pytest

from router.policy.fairqueue import HEAD_START, FairQueue, Ticket


def served(queue: FairQueue, num_tokens: float | None = None) -> list[str]:
    """Serves everybody, one after the other, a second each; the keys in the order of service."""
    order, now = [], 0.0
    while ticket := queue.next(now):
        order.append(ticket.key)
        now += 1.0
        queue.finish(ticket, ticket.cost if num_tokens is None else num_tokens, now)
    return order


def line(*tickets: Ticket, capacity: int = 1) -> FairQueue:
    queue = FairQueue(capacity)
    for ticket in tickets:
        queue.join(ticket)
    return queue


def test_one_key_is_served_in_order() -> None:
    tickets = [Ticket("a", 1) for _ in range(3)]
    queue = line(*tickets)
    assert [queue.position(ticket) for ticket in tickets] == [0, 1, 2]
    first = queue.next(0)
    assert first is tickets[0]
    assert queue.next(0) is None
    queue.finish(first, 1, 1)
    assert queue.next(1) is tickets[1]


def test_a_key_with_many_requests_does_not_hold_up_one_with_few() -> None:
    queue = line(*[Ticket("flood", 100) for _ in range(10)], Ticket("a", 100), Ticket("b", 100))
    assert served(queue)[:4] == ["flood", "a", "b", "flood"]


def test_shares_are_counted_in_tokens_and_not_in_requests() -> None:
    queue = line(*[Ticket("long", 300) for _ in range(4)], *[Ticket("short", 100) for _ in range(12)])
    assert served(queue)[:8].count("short") == 6


def test_a_weight_is_a_share() -> None:
    queue = line(*[Ticket("light", 10) for _ in range(9)], *[Ticket("heavy", 10, weight=2) for _ in range(18)])
    assert served(queue)[:9].count("heavy") == 6


def test_a_higher_priority_goes_first_whatever_it_has_had() -> None:
    queue = line(Ticket("a", 1), Ticket("a", 1), Ticket("b", 1000, priority=1), Ticket("b", 1000, priority=1))
    assert served(queue) == ["b", "b", "a", "a"]


def test_the_real_count_takes_the_place_of_the_estimate() -> None:
    queue = line(*[Ticket("honest", 10) for _ in range(4)], *[Ticket("liar", 10) for _ in range(4)])
    order = []
    while ticket := queue.next(0):
        order.append(ticket.key)
        queue.finish(ticket, 10 if ticket.key == "honest" else 30, 1)
    assert order == ["honest", "liar", "honest", "honest", "honest", "liar", "liar", "liar"]


def test_idleness_is_not_saved_up() -> None:
    queue = line(*[Ticket("busy", 10) for _ in range(20)], capacity=1)
    for now in range(10):
        queue.finish(queue.next(now), 10, now + 1)
    for _ in range(10):
        queue.join(Ticket("late", 10))
    assert served(queue)[:6].count("late") == 3


def test_the_position_is_the_order_of_service() -> None:
    tickets = [Ticket("a", 5), Ticket("a", 5), Ticket("a", 5), Ticket("b", 1), Ticket("b", 1, priority=2)]
    queue = line(*tickets)
    expected = sorted(tickets, key=queue.position)
    got = []
    while ticket := queue.next(0):
        got.append(ticket)
        queue.finish(ticket, ticket.cost, 1)
    assert got == expected


def test_who_leaves_is_forgotten() -> None:
    leaving, staying = Ticket("a", 1), Ticket("b", 1)
    queue = line(leaving, staying)
    queue.leave(leaving)
    assert served(queue) == ["b"]
    assert queue.num_waiting == queue.num_running == 0


def test_as_many_run_as_there_are_places() -> None:
    queue = line(*[Ticket("a", 1) for _ in range(5)], capacity=3)
    assert [queue.next(0) is not None for _ in range(4)] == [True, True, True, False]
    assert (queue.num_running, queue.num_waiting) == (3, 2)


def test_a_free_place_is_entered_at_once_but_never_before_one_who_waits() -> None:
    queue, first, second, third = FairQueue(1), Ticket("a", 1), Ticket("b", 1), Ticket("c", 1)
    assert queue.enter(first, 0.0) and not queue.enter(second, 0.0)
    queue.join(second)
    queue.finish(first, 1, 1.0)
    assert not queue.enter(third, 1.0), "the second one waits for the place"
    assert queue.next(1.0) is second


def test_the_wait_follows_from_how_fast_requests_end() -> None:
    queue = line(Ticket("a", 1), capacity=2)
    queue.finish(queue.next(0), 1, 4.0)
    assert queue.wait_seconds(position=0) == pytest.approx(2.0)
    assert queue.wait_seconds(position=9) == pytest.approx(20.0)


def test_a_place_that_was_not_used_says_nothing_about_speed() -> None:
    queue = line(Ticket("a", 1), Ticket("a", 1))
    queue.finish(queue.next(0), 1, 4.0)
    queue.give_back(queue.next(5))
    assert queue.wait_seconds(0) == pytest.approx(4.0)
    assert queue.num_running == 0


def test_a_more_urgent_request_of_a_key_goes_before_its_others() -> None:
    usual, urgent = Ticket("a", 1, arrived=1), Ticket("a", 1, urgency=6, arrived=2)
    queue = line(usual, Ticket("b", 1, arrived=0, priority=1), urgent)
    order = [queue.next(0)]
    while queue.num_waiting:
        queue.finish(order[-1], 1, 1)
        order.append(queue.next(1))
    assert [ticket.key for ticket in order] == ["b", "a", "a"] and order[1:] == [urgent, usual]


def test_urgency_is_worth_no_more_than_its_head_start() -> None:
    old, urgent = Ticket("a", 1, urgency=0, arrived=0), Ticket("a", 1, urgency=9, arrived=9 * HEAD_START + 1)
    assert line(old, urgent).next(200) is old


def test_a_more_urgent_request_overtakes_one_that_is_served_and_nobody_else_goes_in_its_stead() -> None:
    queue = FairQueue(capacity=1)
    low, other, urgent, late = (
        Ticket("a", 1, urgency=0), Ticket("b", 1), Ticket("a", 1, urgency=9, arrived=1), Ticket("a", 1, arrived=2),
    )  # fmt: skip
    assert queue.enter(low, 0)
    queue.join(other)
    assert queue.enter(urgent, 1) and not queue.enter(late, 2)
    queue.finish(urgent, 1, 3)
    assert queue.next(3) is None  # the place is the overtaken one's again
    queue.finish(low, 1, 4)
    assert queue.next(4) is other


def test_one_is_overtaken_by_one_at_a_time() -> None:
    queue = FairQueue(capacity=1)
    low, urgent, next_urgent = (Ticket("a", 1, urgency=urgency) for urgency in (0, 9, 9))
    assert queue.enter(low, 0) and queue.enter(urgent, 0) and not queue.enter(next_urgent, 0)
    queue.join(next_urgent)
    assert queue.next(1) is None
    queue.finish(urgent, 1, 2)
    assert queue.next(2) is next_urgent and low.overtaken_by is next_urgent


@pytest.mark.parametrize("first", [Ticket("b", 1, urgency=0), Ticket("a", 1), Ticket("a", 1, urgency=0, arrived=-99)])
def test_nobody_overtakes_other_keys_its_equals_or_those_who_came_long_before(first: Ticket) -> None:
    queue = FairQueue(capacity=1)
    assert queue.enter(first, 0) and not queue.enter(Ticket("a", 1), 1)


def test_overtaking_can_be_forbidden() -> None:
    queue = FairQueue(capacity=1)
    queue.allows_overtaking = False
    assert queue.enter(Ticket("a", 1, urgency=0), 0) and not queue.enter(Ticket("a", 1, urgency=9), 0)


def test_who_waits_for_a_slot_holds_up_only_those_who_want_the_same() -> None:
    queue = FairQueue(capacity=1)
    served, follower, waiting = (Ticket("a", 1, slot=3) for _ in range(3))
    assert queue.enter(served, 0) and queue.enter(follower, 0) and not queue.enter(waiting, 0)
    queue.join(waiting)
    assert queue.enter(Ticket("a", 1, slot=2), 0) and queue.enter(Ticket("a", 1), 0)
    assert queue.next(0) is None
    queue.finish(served, 1, 1)
    assert queue.next(1) is waiting
