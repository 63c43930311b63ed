from collections import Counter
from dataclasses import dataclass

from router.policy.balancer import SLOW_START, Balancer, Wish
from router.policy.circuit import THRESHOLD
from router.rpc.prefixes import Holding, Holdings


@dataclass(frozen=True)
class Replica:
    name: str
    since: float = 0.0


A, B, C = Replica("m/0"), Replica("m/1"), Replica("m/2")
ALL = (A, B, C)
LATER = 1000.0


def balancer(*chances: float) -> Balancer:
    return Balancer(iter(chances).__next__)


def holdings(*names: str, num_free: int = 1000, **num_held: int) -> Holdings:
    """A prompt of 100 tokens for each name, of which m/0 holds `a`, m/1 `b` and m/2 `c` tokens."""
    replicas = {"a": A.name, "b": B.name, "c": C.name}
    told = {name: Holding(num_held.get(letter, 0), num_free) for letter, name in replicas.items()}
    return Holdings(tuple(name.encode() for name in names), 100, told)


def test_the_replica_with_the_least_outstanding_tokens_is_chosen() -> None:
    balanced = balancer()
    wishes = {A: Wish(50), B: Wish(20), C: Wish(30)}
    for replica, wish in wishes.items():
        balanced.begin(replica, wish, LATER)
    assert balanced.choose(ALL, Wish(1), "least-tokens", LATER).name == B.name
    balanced.end(A, wishes[A], LATER, failed=False)
    assert balanced.choose(ALL, Wish(1), "least-tokens", LATER).name == A.name


def test_equals_take_turns() -> None:
    balanced, wish, chosen = balancer(), Wish(0), Counter[str]()
    for _ in range(9):
        choice = balanced.choose(ALL, wish, "least-tokens", LATER)
        chosen[choice.name] += 1
        balanced.begin(next(replica for replica in ALL if replica.name == choice.name), wish, LATER)
    assert set(chosen.values()) == {3}


def test_asking_changes_nothing() -> None:
    balanced = balancer()
    assert len({balanced.choose(ALL, Wish(9), "round-robin", LATER).name for _ in range(5)}) == 1


def test_round_robin_goes_round() -> None:
    balanced, order = balancer(), []
    for _ in range(6):
        order.append(balanced.choose(ALL, Wish(1), "round-robin", LATER).name)
        balanced.begin(A, Wish(1), LATER)
    assert order == ["m/0", "m/1", "m/2"] * 2


def test_of_two_by_chance_the_better_one_is_chosen() -> None:
    balanced = balancer(0.0, 0.0)  # the first, and the first of the others
    balanced.begin(A, Wish(50), LATER)
    assert balanced.choose(ALL, Wish(1), "two-choices", LATER).name == B.name


def test_a_session_stays_where_it_is_when_another_replica_goes() -> None:
    sessions = [Wish(1, session=f"s{number}") for number in range(60)]
    before = [balancer().choose(ALL, wish, "session", LATER).name for wish in sessions]
    after = [balancer().choose((A, C), wish, "session", LATER).name for wish in sessions]
    assert len(set(before)) == 3
    assert all(new == old for old, new in zip(before, after, strict=True) if old != B.name)


def test_a_request_goes_where_its_prompt_is_held_unless_that_one_is_too_busy() -> None:
    balanced, wish = balancer(), Wish(300, holdings=holdings("x", "xy", b=200))
    choice = balanced.choose(ALL, wish, "prefix", LATER)
    assert choice.name == B.name
    assert [(score.num_held, score.score) for score in choice.scores] == [(0, 300), (200, 100), (0, 300)]
    balanced.begin(B, Wish(199), LATER)
    assert balanced.choose(ALL, wish, "prefix", LATER).name == B.name
    balanced.begin(B, Wish(2), LATER)
    assert balanced.choose(ALL, wish, "prefix", LATER).name != B.name


def test_a_second_copy_of_a_prompt_is_dear_where_it_pushes_others_out() -> None:
    balanced = balancer()
    balanced.begin(B, Wish(300), LATER)
    for num_free, name, pushed in ((300, A.name, [0, 0]), (100, B.name, [200, 0]), (0, B.name, [300, 100])):
        wish = Wish(300, holdings=holdings("x", "xy", num_free=num_free, b=200))
        choice = balanced.choose((A, B), wish, "prefix", LATER)
        assert (choice.name, [score.num_pushed for score in choice.scores]) == (name, pushed)


def test_requests_that_begin_alike_go_together_before_anything_is_computed() -> None:
    balanced, first = balancer(), Wish(300, holdings=holdings("x", "xy"))
    balanced.begin(C, first, LATER)
    alike = Wish(700, holdings=holdings("x", "xy", "xyz"))
    choice = balanced.choose(ALL, alike, "prefix", LATER)
    assert [(score.num_coming, score.score) for score in choice.scores] == [(0, 700), (0, 700), (200, 800)]
    longer = Wish(700, holdings=holdings("x", "xy", "xyw", b=100))
    balanced.begin(C, longer, LATER)
    other = balanced.choose(ALL, Wish(5, holdings=holdings("z")), "prefix", LATER)
    assert [score.num_outstanding for score in other.scores] == [0, 0, 300 + 500], "what is shared is computed once"
    balanced.end(C, first, LATER, failed=False)
    balanced.end(C, longer, LATER, failed=False)
    again = balanced.choose(ALL, alike, "prefix", LATER)
    assert [(score.num_outstanding, score.num_coming) for score in again.scores] == [(0, 0)] * 3


def test_holding_more_than_a_request_costs_is_worth_no_more_than_it_costs() -> None:
    [score] = balancer().choose((A,), Wish(50, holdings=holdings("x", a=100)), "prefix", LATER).scores
    assert score.score == 0


def test_requests_that_look_alike_are_told_apart() -> None:
    balanced, wishes = balancer(), [Wish(10, holdings=holdings("x", a=number)) for number in (0, 4, 0)]
    for wish in wishes:
        balanced.begin(A, wish, LATER)
    balanced.end(A, wishes[2], LATER, failed=False)
    balanced.end(A, wishes[0], LATER, failed=False)
    [score] = balanced.choose((A,), Wish(0), "prefix", LATER).scores
    assert score.num_outstanding == 0, "the second one's prompt was coming already"
    balanced.end(A, wishes[1], LATER, failed=False)


def test_a_new_life_has_no_load() -> None:
    balanced, wish = balancer(), Wish(300, holdings=holdings("x"))
    balanced.begin(B, wish, LATER)
    reborn = Replica(B.name, since=LATER)
    [score] = balanced.choose((reborn,), wish, "prefix", LATER + SLOW_START).scores
    assert (score.num_outstanding, score.num_coming) == (0, 0)
    balanced.end(B, wish, LATER, failed=True)
    [score] = balanced.choose((reborn,), wish, "prefix", LATER + SLOW_START).scores
    assert score.num_outstanding == 0


def test_a_new_replica_is_loaded_slowly() -> None:
    balanced, new = balancer(), Replica("m/1", since=LATER)
    balanced.begin(A, Wish(10), LATER)
    assert balanced.choose((A, new), Wish(10), "least-tokens", LATER).name == A.name
    assert balanced.choose((A, new), Wish(10), "least-tokens", LATER + SLOW_START).name == new.name


def test_a_replica_that_fails_is_left_out_and_comes_back_by_a_probe() -> None:
    balanced, wish = balancer(), Wish(0)
    for _ in range(THRESHOLD):
        balanced.begin(A, wish, LATER)
        balanced.end(A, wish, LATER, failed=True)
    balanced.begin(B, Wish(100), LATER)
    assert balanced.choose((A, B), wish, "least-tokens", LATER).name == B.name
    soon = LATER + 6
    assert balanced.choose((A, B), wish, "least-tokens", soon).name == A.name
    balanced.begin(A, wish, soon)
    assert balanced.choose((A, B), wish, "least-tokens", soon).name == B.name, "one probe at a time"
    balanced.end(A, wish, soon, failed=False)
    assert balanced.choose((A, B), wish, "least-tokens", soon).name == A.name


def test_ejections_and_returns_are_counted_once_however_often_a_probe_fails() -> None:
    balanced, wish, counted = balancer(), Wish(0), []
    for now, failed in ((LATER, True), (LATER, True), (LATER, True), (LATER + 6, True), (LATER + 60, False)):
        balanced.begin(A, wish, now)
        balanced.end(A, wish, now, failed=failed)
        counted.append(tuple(balanced.ejections))
    assert counted == [(0, 0), (0, 0), (1, 0), (1, 0), (1, 1)]


def test_when_all_have_failed_somebody_is_tried() -> None:
    balanced, wish = balancer(), Wish(0)
    for _ in range(THRESHOLD):
        balanced.begin(A, wish, LATER)
        balanced.end(A, wish, LATER, failed=True)
    choice = balanced.choose((A,), wish, "least-tokens", LATER)
    assert (choice.name, choice.scores[0].circuit) == (A.name, "open")


def test_replicas_that_have_gone_are_forgotten_but_for_those_with_requests() -> None:
    balanced, wish, gone = balancer(), Wish(7), Replica("m/gone")
    balanced.begin(gone, wish, LATER)
    num_made = 0
    while not balanced.is_crowded:
        num_made += 1
        balanced.choose((A, Replica(f"m/10.0.0.{num_made}")), wish, "least-tokens", LATER)
        assert num_made < 1000
    balanced.keep({A.name})
    assert not balanced.is_crowded
    scores = balanced.choose((A, gone), wish, "least-tokens", LATER).scores
    assert [each.num_outstanding for each in scores] == [0, 7]
    balanced.end(gone, wish, LATER, failed=False)
