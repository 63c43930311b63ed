"""The comparison itself: it must find every kind of wrong answer and forgive near ties alone."""

from dataclasses import replace
from pathlib import Path

import pytest

from tests.parity import oracle
from tests.parity.oracle import Answer, Case, Endpoint, Step, Verdict
from tests.parity.record_greedy import RECORD

END = frozenset({2})
CLEAR = Step(token=10, logprob=-0.1, second=11, second_logprob=-2.0)
TIE = Step(token=20, logprob=-0.70, second=21, second_logprob=-0.75)
STOP = Step(token=2, logprob=-0.1, second=30, second_logprob=-3.0)


def case(*steps: Step, ended: bool = False) -> Case:
    return Case("c", Endpoint.COMPLETION, {"prompt": "p"}, "p", 3, steps, ended, "text")


def answer(*tokens: int, ended: bool = False, num_prompt: int = 3, content: str = "text") -> Answer:
    return Answer(tokens, ended, num_prompt, content)


def test_equal_tokens_are_right() -> None:
    assert oracle.compare(case(CLEAR, TIE, CLEAR), answer(10, 20, 10), END) == Verdict(3)


def test_another_token_at_a_clear_choice_is_wrong() -> None:
    verdict = oracle.compare(case(CLEAR, CLEAR), answer(10, 99), END)
    assert verdict.num_equal == 1
    assert "token 99" in verdict.fault


def test_the_second_choice_at_a_clear_choice_is_wrong() -> None:
    assert oracle.compare(case(CLEAR), answer(11), END).fault


def test_the_second_choice_at_a_near_tie_ends_the_comparison() -> None:
    assert oracle.compare(case(CLEAR, TIE, CLEAR), answer(10, 21, 99), END) == Verdict(1, tied=True)


def test_a_third_choice_at_a_near_tie_is_wrong() -> None:
    assert oracle.compare(case(TIE), answer(99), END).fault


def test_a_difference_after_an_agreed_near_tie_is_wrong() -> None:
    assert oracle.compare(case(TIE, CLEAR), answer(20, 99), END).fault


def test_an_answer_that_breaks_off_is_wrong() -> None:
    assert "nothing" in oracle.compare(case(CLEAR, CLEAR), answer(10), END).fault


def test_an_answer_that_goes_on_is_wrong() -> None:
    assert "goes on" in oracle.compare(case(CLEAR), answer(10, 10), END).fault


@pytest.mark.parametrize("tokens", [(10,), (10, 2)], ids=["unlisted", "listed"])
def test_the_end_token_may_be_listed_or_not(tokens: tuple[int, ...]) -> None:
    assert oracle.compare(case(CLEAR, STOP, ended=True), answer(*tokens, ended=True), END) == Verdict(2)


def test_a_missed_end_is_wrong() -> None:
    assert oracle.compare(case(CLEAR, STOP, ended=True), answer(10, 30), END).fault


def test_an_early_end_is_wrong() -> None:
    assert oracle.compare(case(CLEAR, CLEAR), answer(10, ended=True), END).fault


def test_another_prompt_length_is_wrong() -> None:
    assert "prompt" in oracle.compare(case(CLEAR), answer(10, num_prompt=4), END).fault


def test_the_same_tokens_as_another_text_are_wrong() -> None:
    assert "other text" in oracle.compare(case(CLEAR), answer(10, content="Text"), END).fault


def test_a_character_cut_by_the_length_limit_may_show_as_a_replacement() -> None:
    assert not oracle.compare(case(CLEAR), answer(10, content="text\ufffd"), END).fault


def test_every_recorded_case_agrees_with_itself_and_notices_any_clear_change() -> None:
    recorded = oracle.load(RECORD)
    for one in recorded.cases:
        tokens = tuple(step.token for step in one.steps)
        same = Answer(tokens, one.ended, one.num_prompt, one.content)
        assert oracle.compare(one, same, recorded.end_tokens) == Verdict(len(tokens)), one.name
        for i, step in enumerate(one.steps):
            changed = replace(same, tokens=(*tokens[:i], step.second, *tokens[i + 1 :]))
            verdict = oracle.compare(one, changed, recorded.end_tokens)
            assert verdict.tied == (step.margin < oracle.NEAR_TIE), (one.name, i)
            assert bool(verdict.fault) != verdict.tied, (one.name, i)


def test_the_record_survives_saving(tmp_path: Path) -> None:
    recorded = oracle.load(RECORD)
    oracle.save(recorded, tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == RECORD.read_bytes()
