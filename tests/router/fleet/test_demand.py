from pathlib import Path

from router.config import ModelConfig
from router.fleet.demand import Demand
from router.fleet.lifecycle import NEVER

MODEL = ModelConfig(Path("/models/a.gguf"), ("a",), ttl=60.0)


def entered(demand: Demand, now: float) -> Demand:
    """As a request comes."""
    if demand.enter():
        demand.note(now)
    return demand


def test_a_model_is_wanted_since_the_first_of_those_who_want_it_came() -> None:
    demand = entered(entered(Demand(MODEL, 0.0), 3.0), 5.0)
    demand.leave(6.0, None)
    demand.note(6.5)
    assert (demand.is_there, demand.since) == (True, 3.0)
    demand.leave(7.0, None)
    assert (demand.is_there, demand.since, demand.last_used) == (False, None, 7.0)


def test_who_stays_while_it_is_unloaded_wants_it_from_then_on() -> None:
    demand = entered(Demand(MODEL, 0.0), 3.0)
    demand.loaded()
    demand.note(4.0)
    demand.ask_to_go()
    demand.unloaded()
    assert (demand.leaves, demand.since) == (False, None)
    demand.note(9.0)
    assert demand.since == 9.0


def test_what_was_asked_for_by_name_is_wanted_without_users_until_it_is_loaded_or_given_up() -> None:
    for end in (Demand.loaded, Demand.give_up, Demand.ask_to_go):
        demand = Demand(MODEL, 0.0)
        demand.ask(yields=True)
        assert demand.is_there and demand.yields
        end(demand)
        assert not demand.is_there


def test_what_somebody_uses_makes_others_go_for_it() -> None:
    demand = Demand(MODEL, 0.0)
    demand.ask(yields=True)
    assert not entered(demand, 1.0).yields


def test_users_alone_load_nothing_without_autoload_and_nothing_loads_a_model_of_other_hosts() -> None:
    demand = entered(Demand(MODEL, 0.0), 1.0)
    demand.autoload = False
    assert not demand.is_there
    elsewhere = entered(Demand(ModelConfig(None, ("a",), workers=("h:1",)), 0.0), 1.0)
    elsewhere.ask(yields=False)
    assert not elsewhere.is_there and elsewhere.since is None


def test_the_last_user_says_how_long_it_stays_and_a_pin_is_stronger() -> None:
    demand = entered(Demand(MODEL, 0.0), 1.0)
    assert demand.keep_alive == 60.0
    demand.leave(2.0, 5.0)
    assert demand.keep_alive == 5.0
    entered(demand, 3.0).leave(4.0, None)
    assert demand.keep_alive == 60.0 and demand.is_idleness_news
    demand.follow(ModelConfig(Path("/models/a.gguf"), ("a",), pin=True, ttl=60.0))
    assert demand.keep_alive == NEVER
