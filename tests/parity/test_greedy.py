"""Greedy text from the whole path, gateway and worker, equals what the peer recorded, as far as rounding allows."""

from collections.abc import Callable, Iterator

import pytest

from tests.e2e.serving import Serving, serving
from tests.models import smollm2
from tests.parity import oracle
from tests.parity.oracle import Case, Verdict
from tests.parity.record_greedy import RECORD

RECORDED = oracle.load(RECORD)
PEER_DRIFT = 11  # cases in which the peer differs from itself by more than a near tie, with its flash attention off


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    assert smollm2().stat().st_size == RECORDED.model_size
    with serving(tmp_path_factory.mktemp("parity") / "serve.log", "-m", smollm2()) as served:
        yield served


@pytest.fixture(scope="module")
def verdict(server: Serving) -> Callable[[Case], Verdict]:
    """Asks each case once, whichever test wants to know."""
    known: dict[str, Verdict] = {}

    def judge(case: Case) -> Verdict:
        if case.name not in known:
            known[case.name] = oracle.compare(case, oracle.ask(server.http, case), RECORDED.end_tokens)
        return known[case.name]

    return judge


@pytest.mark.parametrize("case", RECORDED.cases, ids=lambda case: case.name)
def test_greedy_tokens_equal_the_recorded_ones(verdict: Callable[[Case], Verdict], case: Case) -> None:
    found = verdict(case)
    assert not found.fault, f"{found.num_equal} of {len(case.steps)} steps equal, then {found.fault}"


def test_no_more_cases_differ_beyond_a_near_tie_than_between_two_runs_of_the_peer(
    verdict: Callable[[Case], Verdict],
) -> None:
    drifted = {case.name: verdict(case).margin for case in RECORDED.cases if verdict(case).drifted}
    assert len(drifted) <= PEER_DRIFT, drifted
