"""The tiny models of all architectures against what a peer said of the same files, made again from their seed."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from tests.naive import Floats
from tests.naive_models import Model
from tests.parity.architectures import CASES, LENGTHS, PROMPT, Answers, case_name, fingerprint, load, write_case
from tests.worker.model.models import all_logits, loaded
from worker.gguf import GGUF

RECORDED = load()
FLOAT_CASES = [(model, quant) for model, quant in CASES if quant == "F32"]
QUANTISED_CASES = [(model, quant) for model, quant in CASES if quant != "F32"]

# Of log-probabilities. The peer reads GELU from a table of f16, which all but the gemmas do without.
EXACT, EXACT_GELU = 5e-5, 2.5e-3
# Our cache is of f16, the peer's was of f32.
OURS = 1e-2
# Both round activations to int8, in ways of their own: measured, by the root of the mean square.
QUANTISED = 0.08


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("architectures")


def case_id(case: tuple[str, str]) -> str:
    return case_name(*case)


def differences(logits: Floats, answers: Answers) -> Mapping[int, Floats]:
    """By length of the prefix: ours less the peer's, of the tokens that the peer found likeliest."""
    found = {}
    for length, tops in answers.logprobs.items():
        row = logits[length - 1] - logits[length - 1].max()
        ours = row - np.log(np.exp(row).sum())
        found[length] = np.array([ours[token] - logprob for token, logprob in tops.items()])
    return found


def largest(differences: Mapping[int, Floats]) -> float:
    return max(float(np.abs(difference).max()) for difference in differences.values())


@pytest.mark.parametrize("case", CASES, ids=case_id)
def test_the_file_is_the_one_that_the_peer_was_asked_about(folder: Path, case: tuple[str, str]) -> None:
    recorded = RECORDED[case_id(case)]
    assert fingerprint(write_case(folder, *case)) == recorded.fingerprint
    assert tuple(recorded.logprobs) == LENGTHS


@pytest.mark.parametrize("case", FLOAT_CASES, ids=case_id)
def test_the_slow_twin_computes_what_the_peer_does(folder: Path, case: tuple[str, str]) -> None:
    with GGUF.open(write_case(folder, *case)) as gguf:
        logits = Model(gguf, exact=True, context_length=2048).logits(PROMPT)
    tolerance = EXACT_GELU if case[0].startswith("gemma") else EXACT
    assert largest(differences(logits, RECORDED[case_id(case)])) < tolerance


@pytest.mark.parametrize("case", FLOAT_CASES, ids=case_id)
def test_the_decoder_computes_what_the_peer_does(folder: Path, case: tuple[str, str]) -> None:
    with loaded(write_case(folder, *case), cache=folder) as decoder:
        logits = all_logits(decoder, PROMPT).astype(np.float64)
    assert largest(differences(logits, RECORDED[case_id(case)])) < OURS


@pytest.mark.parametrize("case", QUANTISED_CASES, ids=case_id)
def test_quantised_models_are_as_far_from_the_peer_as_rounding_takes_them(folder: Path, case: tuple[str, str]) -> None:
    with loaded(write_case(folder, *case), cache=folder) as decoder:
        found = differences(all_logits(decoder, PROMPT).astype(np.float64), RECORDED[case_id(case)])
    assert np.sqrt(np.mean(np.concatenate(list(found.values())) ** 2)) < QUANTISED
