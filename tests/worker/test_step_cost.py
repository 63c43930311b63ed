import random

import pytest

from worker.step_cost import StepCost, Work

TARGET = 0.05


class Machine:
    """Takes seconds for work by fixed prices, give or take its noise."""

    def __init__(self, fixed: float, per_token: float, per_pair: float, noise: float = 0.0) -> None:
        self.prices = fixed, per_token, per_pair
        self.noise = noise
        self.dice = random.Random(1)

    def seconds(self, work: Work) -> float:
        fixed, per_token, per_pair = self.prices
        exact = fixed + per_token * work.num_tokens + per_pair * work.num_pairs
        return exact * self.dice.uniform(1 - self.noise, 1 + self.noise)


def read_a_prompt(cost: StepCost, machine: Machine, num_steps: int) -> list[float]:
    """Seconds of each step that reads as much as fits beside one running answer."""
    position, taken = 0, []
    for _ in range(num_steps):
        work = Work()
        work.add(300, 1)
        count = max(cost.fitting(work, position, TARGET), 1)
        work.add(position, count)
        position += count
        taken.append(machine.seconds(work))
        cost.observe(work, taken[-1])
    return taken


MACHINES = [(0.005, 0.001, 1e-7), (0.003, 0.0005, 2e-7), (0.002, 0.0002, 1e-8), (0.001, 0.00002, 1e-9)]


@pytest.mark.parametrize("prices", MACHINES, ids=str)
def test_steps_come_close_to_the_target_whatever_the_machine_costs(prices):
    taken = read_a_prompt(StepCost(), Machine(*prices), 120)[10:]
    assert all(0.8 * TARGET < seconds < 1.1 * TARGET for seconds in taken)


def test_noise_is_averaged_out():
    taken = read_a_prompt(StepCost(), Machine(0.005, 0.001, 1e-7, noise=0.2), 200)[20:]
    assert 0.9 * TARGET < sum(taken) / len(taken) < 1.1 * TARGET


def test_a_step_that_was_held_up_for_seconds_does_not_stop_the_reading():
    cost, machine = StepCost(), Machine(0.005, 0.001, 1e-7)
    read_a_prompt(cost, machine, 50)
    held_up = Work()
    held_up.add(2000, 40)
    cost.observe(held_up, 30.0)
    assert sum(read_a_prompt(cost, machine, 20)) > 15 * TARGET


def test_a_machine_that_becomes_slower_is_noticed():
    cost = StepCost()
    read_a_prompt(cost, Machine(0.005, 0.001, 1e-7), 100)
    taken = read_a_prompt(cost, Machine(0.02, 0.004, 4e-7), 60)
    assert taken[0] > 2 * TARGET
    assert 0.8 * TARGET < sum(taken[10:]) / 50 < 1.2 * TARGET


def test_nothing_fits_into_a_step_that_is_full():
    work = Work()
    work.add(0, 100_000)
    assert StepCost().fitting(work, 0, TARGET) == 0


def test_what_fits_is_the_most_that_stays_under_the_target():
    cost = StepCost()
    read_a_prompt(cost, Machine(0.005, 0.001, 1e-6), 40)
    for position in (0, 100, 5000):
        count = cost.fitting(Work(), position, TARGET)
        fitting, larger = Work(), Work()
        fitting.add(position, count)
        larger.add(position, count + 1)
        assert cost.seconds(fitting) <= TARGET < cost.seconds(larger)


def test_a_chunk_attends_to_what_is_before_it_and_to_itself():
    work = Work()
    work.add(10, 3)
    assert (work.num_tokens, work.num_pairs) == (3, 11 + 12 + 13)
