"""What the comparison makes of its samples."""

import json

from bench import tables
from bench.ceiling import Weights
from bench.engines import Sample
from bench.limits import Limits
from bench.tables import Median

LIMITS = [Limits(1, 10e9, 50e9), Limits(2, 20e9, 90e9), Limits(2, 18e9, 100e9)]
WEIGHTS = {"m.gguf": Weights(generated_bytes=100_000_000, prompt_products=100_000_000, head_products=0)}


def sample(engine: str, rate: float, foreign: float = 0.0, test: str = "tg128", setting: str = "") -> Sample:
    return Sample(engine, setting, "m.gguf", test, rate, foreign)


def table(*samples: Sample, names: tuple[str, ...] = ("llama.cpp", "ik", "corral")) -> list[str]:
    return tables.rates_table(tables.compare(samples, LIMITS, WEIGHTS), names, "corral").splitlines()


def test_runs_disturbed_by_others_do_not_count() -> None:
    found = tables.median([sample("a", 100), sample("a", 10, foreign=0.5), sample("a", 102)])
    assert found == Median(101.0, 2, noisy=False)


def test_where_every_run_was_disturbed_the_median_says_so() -> None:
    found = tables.median([sample("a", 10, foreign=0.5), sample("a", 30, foreign=0.9)])
    assert found == Median(20.0, 2, noisy=True)
    assert found.of(40) == "20 (noisy, 50%)"


def test_the_best_of_an_engines_settings_counts_and_is_named() -> None:
    slow = [sample("a", rate, setting="-fa 0") for rate in (50, 52, 90)]
    fast = [sample("a", rate, setting="-fa 1") for rate in (60, 61, 62)]
    assert tables.best([*slow, *fast]) == Median(61.0, 3, False, "-fa 1")


def test_a_quiet_setting_goes_before_a_faster_noisy_one() -> None:
    found = tables.best([sample("a", 60, setting="x"), sample("a", 70, foreign=0.5, setting="y")])
    assert (found.rate, found.setting) == (60, "x")


def test_limits_are_the_best_the_machine_showed() -> None:
    assert tables.fastest(LIMITS, 2) == Limits(2, 20e9, 100e9)


def test_the_table_shows_every_engine_how_near_the_limit_it_is_and_our_ratio_to_each() -> None:
    found = table(sample("llama.cpp", 50, setting="-fa 1"), sample("ik", 80), sample("corral", 160))
    assert found[0] == "| model | test | llama.cpp | ik | corral | corral / llama.cpp | corral / ik | limit |"
    assert found[2] == "| m.gguf | tg128 | 50 (25%, -fa 1) | 80 (40%) | 160 (80%) | 3.20 | 2.00 | 200 |"


def test_a_test_that_an_engine_left_out_is_an_empty_cell() -> None:
    samples = [sample("llama.cpp", 50), sample("corral", 160), sample("corral", 500, test="pp512")]
    assert table(*samples, names=("llama.cpp", "corral"))[3] == "| m.gguf | pp512 |  | 500 (50%) |  | 1000 |"


def test_others_can_be_shown_alone() -> None:
    found = table(sample("llama.cpp", 50), names=("llama.cpp",))
    assert found[0] == "| model | test | llama.cpp | limit |"


def test_a_ratio_of_disturbed_runs_says_so() -> None:
    found = table(sample("llama.cpp", 50, foreign=0.5), sample("corral", 100), names=("llama.cpp", "corral"))
    assert "| 2.00 (noisy) |" in found[2]


def test_the_limits_are_a_table_by_number_of_threads() -> None:
    assert tables.limits_table(LIMITS).splitlines()[2:] == ["| 1 | 10.0 | 50 |", "| 2 | 20.0 | 100 |"]


def test_json_has_the_table_and_what_it_was_made_from() -> None:
    samples = [sample("llama.cpp", 50), sample("corral", 160)]
    rows = tables.compare(samples, LIMITS, WEIGHTS)
    content = json.loads(tables.as_json(rows, samples, LIMITS))
    assert content["rows"][0]["engines"]["corral"]["rate"] == 160
    assert content["rows"][0]["limit"] == 200
    assert len(content["samples"]) == 2
    assert len(content["limits"]) == len(LIMITS)
