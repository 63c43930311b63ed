"""The comparison itself: it must find every kind of wrong answer, and forgive what rounding explains."""

from dataclasses import replace
from pathlib import Path

import pytest

from tests.parity import oracle
from tests.parity.oracle import Answer, Case, Endpoint, Step, Verdict
from tests.parity.record_greedy import RECORD

END = frozenset({2})
CLEAR = Step(token=10, logprob=-0.1, others=((11, -2.0), (12, -3.0)))
DRIFTING = Step(token=15, logprob=-0.5, others=((16, -0.75), (17, -1.5)))
TIE = Step(token=20, logprob=-0.70, others=((21, -0.75), (22, -0.78), (23, -2.0)))
STOP = Step(token=2, logprob=-0.1, others=((30, -3.0),))


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


@pytest.mark.parametrize("token", [21, 22])
def test_a_candidate_of_a_near_tie_ends_the_comparison(token: int) -> None:
    verdict = oracle.compare(case(CLEAR, TIE, CLEAR), answer(10, token, 99), END)
    assert (verdict.num_equal, verdict.fault, verdict.drifted) == (1, "", False)
    assert 0 < verdict.margin < oracle.NEAR_TIE


@pytest.mark.parametrize("token", [23, 99])
def test_an_unlikely_token_at_a_near_tie_is_wrong(token: int) -> None:
    assert oracle.compare(case(TIE), answer(token), END).fault


def test_a_difference_beyond_a_near_tie_is_noted_as_drift() -> None:
    verdict = oracle.compare(case(CLEAR, DRIFTING), answer(10, 16), END)
    assert verdict.drifted
    assert not verdict.fault
    assert oracle.compare(case(CLEAR, DRIFTING), answer(10, 17), END).fault


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
            changed = replace(same, tokens=(*tokens[:i], step.others[0][0], *tokens[i + 1 :]), ended=False)
            verdict = oracle.compare(one, changed, recorded.end_tokens)
            assert verdict.num_equal == i, one.name
            assert bool(verdict.fault) == (step.margin >= oracle.DRIFT), (one.name, i)


def test_the_record_survives_saving(tmp_path: Path) -> None:
    recorded = oracle.load(RECORD)
    oracle.save(recorded, tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == RECORD.read_bytes()
