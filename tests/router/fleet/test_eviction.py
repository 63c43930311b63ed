from collections.abc import Sequence

import pytest

from router.config import ResidencyConfig
from router.fleet.eviction import GIB, Cause, Resident, Room, cannot_grow, never_fits, room_for, too_many


def resident(name: str, gib: float = 1.0, last_used: float = 0.0, **fields: bool) -> Resident:
    return Resident(name, int(gib * GIB), last_used, **{"evictable": True, **fields})


WANTED = resident("wanted", 2.0)
FOUR_GIB = ResidencyConfig(memory=4 * GIB)


@pytest.mark.parametrize(
    ("residents", "limits", "room"),
    [
        ([], FOUR_GIB, Room(True)),
        ([resident("a", 2.0)], FOUR_GIB, Room(True)),
        ([resident("a", 100.0)], ResidencyConfig(), Room(True)),
        ([resident("a", 2.5)], FOUR_GIB, Room(False, {"a": Cause.MEMORY})),
        ([resident("a"), resident("b")], ResidencyConfig(max_models=2), Room(False, {"a": Cause.MODELS_MAX})),
    ],
)
def test_a_model_has_room_until_memory_or_their_number_is_used_up(
    residents: Sequence[Resident], limits: ResidencyConfig, room: Room
) -> None:
    assert room_for(WANTED, residents, limits) == room


def test_the_least_recently_used_go_first_and_no_more_than_it_takes() -> None:
    residents = [resident("new", 1.0, 9.0), resident("old", 1.0, 1.0), resident("middle", 1.5, 5.0)]
    assert list(room_for(WANTED, residents, FOUR_GIB).victims) == ["old", "middle"]
    assert list(room_for(WANTED, residents, ResidencyConfig(max_models=3)).victims) == ["old"]


def test_what_is_in_use_stays_and_nobody_goes_in_vain() -> None:
    residents = [resident("busy", 3.0, 1.0, evictable=False), resident("idle", 0.5, 2.0)]
    assert room_for(WANTED, residents, FOUR_GIB) == Room(False)


def test_nobody_else_goes_while_enough_is_on_its_way_out() -> None:
    residents = [resident("leaving", 2.0, 1.0, evictable=False, leaving=True), resident("idle", 1.0, 2.0)]
    assert room_for(WANTED, residents, FOUR_GIB) == Room(False)


def test_a_model_that_can_never_fit_is_told_both_numbers() -> None:
    why = never_fits(resident("huge", 4.5), [resident("a", 4.0)], FOUR_GIB)
    assert why == (
        "it needs about 4.50 GiB, but models may take 4.00 GiB (--models-memory); "
        "a smaller --ctx-size or --parallel needs less"
    )
    assert never_fits(resident("large", 4.0), [resident("a", 4.0)], FOUR_GIB) is None


def test_pinned_models_count_for_what_can_never_fit() -> None:
    pinned = resident("pinned", 2.5, pin=True, evictable=False)
    why = never_fits(WANTED, [pinned], FOUR_GIB)
    assert why is not None and "needs about 2.00 GiB" in why and "pinned ones take 2.50 GiB" in why
    assert "--models-max is 1" in str(never_fits(WANTED, [pinned], ResidencyConfig(max_models=1)))
    assert never_fits(WANTED, [resident("a", 2.5)], FOUR_GIB) is None


def test_those_that_have_grown_too_large_together_lose_the_ones_that_were_idle_longest() -> None:
    residents = [resident("grown", 2.5, 9.0), resident("old", 1.0, 1.0), resident("middle", 1.0, 5.0)]
    assert too_many(residents, FOUR_GIB) == {"old": Cause.MEMORY}
    assert too_many(residents, ResidencyConfig(max_models=1)) == dict.fromkeys(("old", "middle"), Cause.MODELS_MAX)
    assert too_many(residents, ResidencyConfig()) == too_many([], FOUR_GIB) == {}


def test_nobody_goes_where_it_would_not_be_enough_or_somebody_leaves_already() -> None:
    grown, idle = resident("grown", 3.5, 9.0), resident("idle", 0.5, 1.0)
    assert too_many([grown, resident("busy", 1.0, 5.0, evictable=False), idle], FOUR_GIB) == {}
    assert too_many([grown, resident("leaving", 1.0, 5.0, leaving=True), idle], FOUR_GIB) == {}
    assert too_many([resident("alone", 9.0)], FOUR_GIB) == {}


def test_a_model_may_grow_into_what_idle_ones_take() -> None:
    idle, leaving = resident("idle", 2.0), resident("leaving", 2.0, evictable=False, leaving=True)
    assert cannot_grow(resident("grown", 3.5), [idle, leaving], FOUR_GIB) is None
    why = cannot_grow(resident("grown", 3.5), [idle, resident("busy", 1.0, evictable=False)], FOUR_GIB)
    assert why is not None and "needs about 3.50 GiB" in why
    assert "may take 4.00 GiB, of which pinned or busy ones take 1.00 GiB" in why
