"""Random traffic: whatever comes together, everybody gets what one would get alone."""

import random

import pytest

from tests.worker.engine.bench import Bench, drafter_with
from worker.cache.prefix_store import PrefixStore
from worker.drafting.drafts import Alternatives
from worker.drafting.lookup import LookupDrafter
from worker.generation import Finished, Started


@pytest.mark.parametrize("seed", range(12))
def test_each_request_of_random_traffic_gets_the_tokens_it_gets_alone(seed, tmp_path):
    """Arrivals, cancellations, shared prefixes, saved and restored places, tiny pools; most runs preempt."""
    dice = random.Random(seed)
    stems = [[dice.randrange(2, 48) for _ in range(40)] for _ in range(3)]
    num_running = dice.randint(1, 6)
    repeats = dice.choice([0.0, 3.0, 5.0])
    model_drafter = drafter_with(dice.choice([repeats, 4.0]), num_blocks=dice.choice([12, 30]))
    drafter = Alternatives(LookupDrafter(), model_drafter) if seed % 2 else model_drafter
    with Bench(
        num_blocks=16,
        max_running=num_running,
        step_tokens=dice.choice([num_running, 9, 33]),
        step_seconds=dice.choice([1e9, 1e-9]),
        max_drafts=dice.choice([0, 3, 5]),
        eog_odds=0.02,
        repeats=repeats,
        store=PrefixStore(tmp_path, bytes(32), 1500) if seed % 2 else None,
        drafter=drafter if seed % 3 else None,
    ) as bench:
        traffic, copies = [], []
        for _ in range(40):
            prompt = dice.choice(stems)[: dice.randint(1, 40)] + [
                dice.randrange(2, 48) for _ in range(dice.randint(0, 9))
            ]
            request = {
                "max_tokens": dice.choice([1, 5, 20, -1]),
                "seed": dice.randrange(100),
                "cache_prompt": dice.random() < 0.8,
                "priority": dice.randrange(10),
                "client": dice.choice("ab"),
                "weight": dice.choice([0.5, 1, 4]),
            }
            traffic.append((bench.submit(prompt, **request), prompt, request))
            generation = bench.last
            if dice.random() < 0.2:
                num_events = dice.randint(0, 4)
                traffic.pop()[0].wait_for(lambda i, n=num_events: len(i.events) >= n or i.has_ended)
                bench.engine.cancel(generation)
            elif dice.random() < 0.2:
                traffic[dice.randrange(len(traffic))][0].wait_for(lambda i: len(i.events) > 0)
            elif dice.random() < 0.2:
                copies.append(bench.engine.carry_out(bench.engine.places.copy(dice.randrange(num_running))))
            elif copies and dice.random() < 0.2:
                number, saved = dice.randrange(num_running), dice.choice(copies).result(60)
                bench.engine.carry_out(bench.engine.places.fill(number, saved))
        for inbox, _, _ in traffic:
            inbox.result()
        bench.wait_until_idle()
    assert not model_drafter.pool.num_held
    with Bench(num_blocks=64, max_running=1, step_tokens=256, eog_odds=0.02, repeats=repeats) as lone:
        for inbox, prompt, request in traffic:
            expected = lone.submit(prompt, **request | {"cache_prompt": False})
            assert isinstance(expected.result(), Finished)
            assert [type(event) for event in inbox.events].count(Started) == 1
            assert (inbox.tokens, inbox.result().reason) == (expected.tokens, expected.result().reason)
