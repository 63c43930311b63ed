"""The command line means what llama-bench's means."""

from pathlib import Path

import pytest

from worker.bench.loading import Setup
from worker.bench.options import numbers, parse, plan


def names(*flags: str) -> list[str]:
    return [test.trial.name for test in plan(parse(["-m", "x.gguf", *flags]))]


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("512", [512]),
        ("16,32", [16, 32]),
        ("2-4", [2, 3, 4]),
        ("128-512+128", [128, 256, 384, 512]),
        ("8-40*2", [8, 16, 32]),
        ("1,4-6,10", [1, 4, 5, 6, 10]),
    ],
)
def test_values_are_lists_and_ranges(text: str, values: list[int]) -> None:
    assert numbers(text) == values


@pytest.mark.parametrize("text", ["", "x", "2x", "-1", "1-", "1-4-8", "1-4+", "0-8*2", "1-8*1", "1-8+0", "1-9999999"])
def test_what_is_no_list_of_numbers_is_refused_with_the_flag(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse(["-m", "x.gguf", f"--n-prompt={text}"])
    assert ended.value.code == 2
    assert "argument -p/--n-prompt" in capsys.readouterr().err


def test_lists_ranges_and_repeated_flags_add_up() -> None:
    assert names("-p", "1-2", "-p", "8,16", "-n", "0") == ["pp1", "pp2", "pp8", "pp16"]


def test_nothing_said_is_a_prompt_of_512_and_a_generation_of_128() -> None:
    assert names() == ["pp512", "tg128"]


def test_each_depth_has_prompts_then_generations_then_both() -> None:
    planned = names("-p", "128,512", "-n", "32", "-pg", "16,4", "-d", "0,1024")
    each = ["pp128", "pp512", "tg32", "pp16+tg4"]
    assert planned == [*each, *(f"{name} @ d1024" for name in each)]


def test_zero_leaves_a_kind_of_test_out() -> None:
    assert names("-p", "0", "-n", "16") == ["tg16"]
    assert names("-p", "16", "-n", "0") == ["pp16"]


def test_parameters_multiply_and_the_depth_changes_fastest() -> None:
    options = parse(["-m", "x.gguf", "-p", "4", "-n", "0", "-b", "32,64", "-ub", "16", "-t", "1,2", "-d", "0,8"])
    found = [(test.trial.num_batch, test.setup.num_threads, test.trial.depth) for test in plan(options)]
    assert found == [(b, t, d) for b in (32, 64) for t in (1, 2) for d in (0, 8)]
    assert {test.trial.num_ubatch for test in plan(options)} == {16}


def test_several_models_are_measured_one_after_the_other() -> None:
    planned = plan(parse(["-m", "a.gguf,b.gguf", "-m", "c.gguf", "-p", "0"]))
    assert [test.model for test in planned] == [Path("a.gguf"), Path("b.gguf"), Path("c.gguf")]


def test_each_number_of_threads_and_each_type_of_cache_is_a_setup_of_its_own() -> None:
    planned = plan(parse(["-m", "x.gguf", "-p", "0", "-t", "1,2", "-ctk", "q8_0", "-ctv", "f16,q4_0"]))
    assert [test.setup for test in planned] == [
        Setup(1, "q8_0", "f16"), Setup(2, "q8_0", "f16"), Setup(1, "q8_0", "q4_0"), Setup(2, "q8_0", "q4_0")
    ]  # fmt: skip


def test_flags_about_other_devices_are_noted() -> None:
    options = parse(["-m", "x.gguf", "-ngl", "99", "--poll", "0", "-fa", "0,1"])
    assert options.without_effect == ["-ngl", "--poll", "-fa"]


@pytest.mark.parametrize(
    "flags", [["--bogus"], ["-embd", "1"], ["-r", "0"], ["-ub", "0"], ["-b", "8,0"], ["-pg", "16"], ["-o", "xml"]]
)
def test_what_cannot_be_obeyed_is_refused_by_name(flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse(["-m", "x.gguf", *flags])
    assert ended.value.code == 2
    assert flags[0] in capsys.readouterr().err


def test_a_model_is_needed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse([])
    assert "-m/--model" in capsys.readouterr().err
