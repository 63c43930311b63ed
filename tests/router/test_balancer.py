from collections import Counter
from dataclasses import dataclass

from protos import inference_pb2 as pb
from router.balancer import SLOW_START, Balancer, Wish
from router.circuit import THRESHOLD
from router.prefixes import PREFIX_BYTES, prefixes


@dataclass(frozen=True)
class Replica:
    name: str
    since: float = 0.0


A, B, C = Replica("m/0"), Replica("m/1"), Replica("m/2")
ALL = (A, B, C)
LATER = 1000.0


def balancer(*chances: float) -> Balancer:
    return Balancer(iter(chances).__next__)


def prompt(text: str) -> tuple[bytes, ...]:
    return prefixes(pb.Prompt(parts=pb.PromptParts(parts=[pb.PromptPart(text=text)])))


def test_the_replica_with_the_least_outstanding_tokens_is_chosen() -> None:
    balanced = balancer()
    for replica, cost in ((A, 50), (B, 20), (C, 30)):
        balanced.begin(replica, Wish(cost), LATER)
    assert balanced.choose(ALL, Wish(1), "least-tokens", LATER).name == B.name
    balanced.end(A, Wish(50), LATER, failed=False)
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


def test_a_request_goes_where_its_prompt_was_read_unless_that_one_is_too_busy() -> None:
    balanced, text = balancer(), "x" * PREFIX_BYTES * 4
    first = Wish(300, prefixes=prompt(text))
    balanced.begin(B, first, LATER)
    balanced.end(B, first, LATER, failed=False)
    again = Wish(300, prefixes=prompt(text + "and more"))
    choice = balanced.choose(ALL, again, "prefix", LATER)
    assert choice.name == B.name
    assert [score.num_cached for score in choice.scores] == [0, 4 * PREFIX_BYTES / 4, 0]
    balanced.begin(B, Wish(1000), LATER)
    assert balanced.choose(ALL, again, "prefix", LATER).name != B.name


def test_prompts_share_as_many_digests_as_they_share_whole_stretches() -> None:
    one, two = prompt("a" * PREFIX_BYTES + "b" * PREFIX_BYTES), prompt("a" * PREFIX_BYTES + "c" * PREFIX_BYTES)
    assert (len(one), one[0] == two[0], one[1] == two[1]) == (2, True, False)
    assert prompt("short") == ()


def test_a_new_life_has_no_memory_and_no_load() -> None:
    balanced, wish = balancer(), Wish(300, prefixes=prompt("x" * PREFIX_BYTES))
    balanced.begin(B, wish, LATER)
    reborn = Replica(B.name, since=LATER)
    [score] = balanced.choose((reborn,), wish, "prefix", LATER + SLOW_START).scores
    assert (score.num_outstanding, score.num_cached) == (0, 0)
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


def test_when_all_have_failed_somebody_is_tried() -> None:
    balanced, wish = balancer(), Wish(0)
    for _ in range(THRESHOLD):
        balanced.begin(A, wish, LATER)
        balanced.end(A, wish, LATER, failed=True)
    choice = balanced.choose((A,), wish, "least-tokens", LATER)
    assert (choice.name, choice.scores[0].circuit) == (A.name, "open")
