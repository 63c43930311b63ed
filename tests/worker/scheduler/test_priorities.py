from tests.worker.scheduler.bench import Bench


def test_a_higher_priority_gets_the_next_place():
    bench = Bench(max_running=1)
    running, usual, urgent = bench.add(2), bench.add(2, 10), bench.add(2, 20, priority=9)
    assert list(bench.step()) == [urgent]
    bench.scheduler.remove(urgent)
    assert list(bench.step()) == [running]
    bench.scheduler.remove(running)
    assert list(bench.step()) == [usual]


def test_a_client_with_many_requests_leaves_places_to_another():
    bench = Bench(num_blocks=64, max_running=2)
    many = [bench.add(8, 100 * i, client="many") for i in range(9)]
    few = bench.add(8, 5000, client="few")
    assert list(bench.step()) == [many[0], few]


def test_tokens_computed_count_against_a_client_and_cached_ones_do_not():
    bench = Bench(num_blocks=64, max_running=1, step_tokens=100)
    dear = bench.add(40, client="a")
    bench.step()
    bench.scheduler.remove(dear)
    cheap, other, next_of_a = bench.add(40, client="a"), bench.add(30, 1000, client="b"), bench.add(9, 60, client="a")
    order = []
    for _ in range(3):
        [sequence] = bench.step()
        order.append(sequence)
        bench.scheduler.remove(sequence)
    assert order == [cheap, other, next_of_a]


def test_a_higher_priority_takes_the_place_of_a_lower_one_that_goes_on_later():
    bench = Bench(max_running=1)
    low = bench.add(6, priority=2)
    bench.step()
    high = bench.add(2, 100, priority=8)
    assert bench.step() == {high: 2} and low.num_blocks == 0
    bench.add(2, 200, priority=8, arrived=1)
    equal = bench.scheduler.schedule()
    assert list(equal.sequences) == [high]
    bench.scheduler.commit(equal, 0.01)
    bench.scheduler.remove(high)
    assert low not in bench.step()


def test_a_higher_priority_takes_the_blocks_of_a_lower_one_only_where_there_are_too_few():
    bench = Bench(num_blocks=10)
    low, lower = bench.add(9, priority=4), bench.add(9, 100, priority=3)
    bench.step()
    bench.step()
    small = bench.add(2, 200, priority=9)
    assert {low, lower, small} <= bench.step().keys()
    bench.scheduler.remove(small)
    large = bench.add(12, 300, priority=9)
    assert large not in bench.step()  # it is found to lack blocks
    step = bench.step()
    assert large in step and low in step and lower.num_blocks == 0


def test_whoever_makes_way_for_ever_new_ones_of_a_higher_priority_gets_its_turn():
    bench = Bench(max_running=1)
    low = bench.add(2, priority=0)
    num_steps, newcomers = 0, []
    while low.num_tokens < 10 and num_steps < 1000:
        if not newcomers or newcomers[-1].num_tokens >= 5:
            for done in newcomers[-1:]:
                bench.scheduler.remove(done)
            newcomers.append(bench.add(2, 100 + num_steps, priority=9, arrived=float(num_steps)))
        bench.step()
        num_steps += 1
    assert low.num_tokens == 10 and newcomers[1].num_tokens == 5


def test_nobody_makes_way_for_another_clients_priority():
    bench = Bench(max_running=1)
    low = bench.add(2, priority=0, client="a")
    bench.step()
    bench.add(2, 100, priority=9, client="b")
    assert bench.step() == {low: 1}
