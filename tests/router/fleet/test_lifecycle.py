from dataclasses import replace

from router.config import ResidencyConfig
from router.fleet.eviction import GIB, Cause
from router.fleet.lifecycle import ModelState, Plan, Standing, growth_refusal, most_alive, plan

ONE = ResidencyConfig(max_models=1)
FREE = ResidencyConfig()
TURN = FREE.turn


def standing(name: str, state: ModelState = ModelState.UNLOADED, **fields: object) -> Standing:
    return Standing(name, state, **{"num_bytes": GIB, **fields})  # type: ignore[arg-type]


def ready(name: str, **fields: object) -> Standing:
    return standing(name, ModelState.READY, **fields)


def test_a_model_is_as_alive_as_its_liveliest_replica() -> None:
    assert most_alive({ModelState.CRASHED, ModelState.READY, ModelState.FAILED}) is ModelState.READY
    assert most_alive({ModelState.CRASHED, ModelState.FAILED}) is ModelState.CRASHED


def test_what_is_wanted_is_loaded_and_nothing_else() -> None:
    models = [standing("a"), standing("b", wanted_since=3.0), standing("c", ModelState.LOADING, wanted_since=1.0)]
    assert plan(models, FREE, 10.0) == Plan(load=("b",))


def test_those_that_wait_for_room_get_it_in_the_order_in_which_they_came() -> None:
    models = [
        standing("late", wanted_since=5.0),
        standing("early", wanted_since=3.0),
        standing("mid", wanted_since=4.0),
    ]
    assert plan(models, ResidencyConfig(max_models=2), 10.0).load == ("early", "mid")


def test_a_small_model_does_not_overtake_a_large_one_that_waits() -> None:
    models = [
        ready("busy", num_bytes=2 * GIB, num_users=1),
        standing("large", num_bytes=3 * GIB, wanted_since=1.0),
        standing("small", wanted_since=2.0),
    ]
    assert plan(models, ResidencyConfig(memory=4 * GIB), 10.0) == Plan(due=1.0 + TURN)


def test_an_idle_model_is_pushed_out_and_the_wanted_one_waits_until_it_has_gone() -> None:
    idle, wanted = ready("idle"), standing("wanted", wanted_since=1.0)
    assert plan([idle, wanted], ONE, 10.0) == Plan(unload={"idle": Cause.MODELS_MAX})
    assert plan([standing("idle", ModelState.DRAINING), wanted], ONE, 10.0) == Plan()
    assert plan([standing("idle"), wanted], ONE, 10.0) == Plan(load=("wanted",))


def test_a_model_that_loads_or_is_pinned_is_never_pushed_out() -> None:
    wanted = standing("wanted", wanted_since=1.0)
    assert plan([standing("a", ModelState.LOADING), wanted], ONE, 1e9) == Plan()
    refused = plan([ready("a", pin=True), wanted], ONE, 10.0)
    assert (refused.unload, refused.load, list(refused.refuse)) == ({}, (), ["wanted"])


def test_a_busy_model_keeps_its_place_for_its_turn_and_then_makes_room() -> None:
    wanted = standing("wanted", wanted_since=100.0)
    for serves_since, end in ((5.0, 100.0 + TURN), (110.0, 110.0 + TURN)):
        busy = ready("busy", num_users=9, serves_since=serves_since, last_used=end)
        assert plan([busy, wanted], ONE, end - 0.1) == Plan(due=end)
        assert plan([busy, wanted], ONE, end) == Plan(unload={"busy": Cause.MODELS_MAX})
        assert plan([replace(busy, pin=True), wanted], ONE, end + TURN).unload == {}
        crashed = replace(busy, state=ModelState.CRASHED)
        assert plan([crashed, wanted], ONE, end) == Plan(unload={"busy": Cause.MODELS_MAX})


def test_busy_models_go_only_where_idle_ones_do_not_make_room() -> None:
    busy = ready("busy", num_users=1)
    wanted = standing("wanted", wanted_since=1.0)
    two = ResidencyConfig(max_models=2)
    assert plan([busy, ready("idle", last_used=900.0), wanted], two, 1000.0) == Plan(unload={"idle": Cause.MODELS_MAX})
    assert plan([busy, standing("idle", ModelState.DRAINING), wanted], two, 1000.0) == Plan()


def test_models_that_are_always_busy_take_turns() -> None:
    """Three of them, and room for one: whoever is wanted has it for a turn, in the order in which they came."""
    served, now = list[str](), 2.0
    state = {name: standing(name, wanted_since=float(i), num_users=1) for i, name in enumerate("abc")}
    while len(served) < 7:
        decided = plan(list(state.values()), ONE, now)
        for name in decided.load:
            served.append(name)
            state[name] = replace(state[name], state=ModelState.READY, wanted_since=None, serves_since=now)
        for name in decided.unload:
            state[name] = replace(state[name], state=ModelState.UNLOADED, wanted_since=now)
        if not (decided.load or decided.unload):
            assert decided.due is not None and now < decided.due <= now + TURN
            now = decided.due
    assert "".join(served) == "abcabca"


def test_a_model_goes_when_it_was_idle_too_long_and_not_before() -> None:
    models = [ready("a", last_used=100.0, keep_alive=60.0), ready("b", last_used=130.0, keep_alive=60.0)]
    assert plan(models, FREE, 159.0) == Plan(due=160.0)
    assert plan(models, FREE, 160.0) == Plan(unload={"a": Cause.TTL}, due=190.0)


def test_a_model_in_use_is_never_idle() -> None:
    assert plan([ready("a", num_users=1, keep_alive=0.0)], FREE, 1e9) == Plan()


def test_room_freed_by_idleness_is_waited_for_before_others_are_pushed_out() -> None:
    models = [ready("tired", last_used=0.0, keep_alive=5.0), ready("idle"), standing("wanted", wanted_since=1.0)]
    assert plan(models, ResidencyConfig(max_models=2), 10.0).unload == {"tired": Cause.TTL}


def test_a_model_that_was_told_to_go_goes_in_every_state_it_can_go_from() -> None:
    for state in (ModelState.READY, ModelState.LOADING, ModelState.CRASHED, ModelState.FAILED):
        assert plan([standing("a", state, leaves=True, num_users=3)], FREE, 0.0).unload == {"a": Cause.ASKED}
    for state in (ModelState.UNLOADED, ModelState.DRAINING, ModelState.STOPPED):
        assert plan([standing("a", state, leaves=True)], FREE, 0.0).unload == {}


def test_at_the_start_nothing_goes_to_make_room() -> None:
    models = [standing("first", wanted_since=0.0, yields=True), standing("second", wanted_since=0.0, yields=True)]
    assert plan(models, ONE, 0.0) == Plan(load=("first",), drop=("second",))


def test_a_model_that_can_never_fit_is_refused_and_holds_up_nobody() -> None:
    models = [standing("huge", num_bytes=9 * GIB, wanted_since=1.0), standing("small", wanted_since=2.0)]
    decided = plan(models, ResidencyConfig(memory=4 * GIB), 10.0)
    assert decided.load == ("small",)
    assert "needs about 9.00 GiB, but models may take 4.00 GiB" in decided.refuse["huge"]


FOUR_GIB = ResidencyConfig(memory=4 * GIB)


def test_idle_models_go_when_one_has_grown_and_busy_pinned_and_loading_ones_stay() -> None:
    grown = ready("grown", num_bytes=3 * GIB, last_used=9.0)
    models = [grown, ready("idle", last_used=2.0), ready("older", last_used=1.0)]
    assert plan(models, FOUR_GIB, 10.0).unload == {"older": Cause.MEMORY}
    for kept in (ready("a", num_users=1), ready("a", pin=True), standing("a", ModelState.LOADING)):
        assert plan([grown, kept, ready("idle", last_used=2.0)], FOUR_GIB, 1e9).unload == {"idle": Cause.MEMORY}
        assert plan([grown, kept, ready("busy", num_users=1)], FOUR_GIB, 1e9).unload == {}


def test_a_model_that_goes_anyway_is_enough_for_one_that_has_grown() -> None:
    models = [ready("grown", num_bytes=3 * GIB, last_used=9.0), ready("idle"), ready("told", num_users=1, leaves=True)]
    assert plan(models, FOUR_GIB, 10.0).unload == {"told": Cause.ASKED}


def test_growth_is_refused_only_where_idle_models_cannot_make_room() -> None:
    before = {"grown": GIB, "other": 2 * GIB}
    grown = ready("grown", num_bytes=3 * GIB)
    assert growth_refusal(before, [grown, ready("other", num_bytes=2 * GIB)], FOUR_GIB) is None
    busy = ready("other", num_bytes=2 * GIB, num_users=1)
    why = growth_refusal(before, [grown, busy], FOUR_GIB)
    assert why is not None and why.startswith("model grown: it needs about 3.00 GiB")
    assert growth_refusal({**before, "grown": 3 * GIB}, [grown, busy], FOUR_GIB) is None, "as large as it was"
    assert growth_refusal(before, [standing("grown", num_bytes=9 * GIB), busy], FOUR_GIB) is None, "it is not loaded"


def test_two_that_grow_do_not_count_on_each_others_room() -> None:
    both = [ready(name, num_bytes=3 * GIB) for name in "ab"]
    assert growth_refusal({"a": GIB, "b": GIB}, both, FOUR_GIB) is not None
