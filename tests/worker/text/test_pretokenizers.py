"""Every pre-tokenizer against recorded answers of a peer, with a vocabulary that shows where words are cut."""

import json
from collections import defaultdict
from pathlib import Path

import pytest

from tests.parity.corpus import pair_vocabulary
from tests.parity.record_tokens import checksum
from worker.text.pretokenizers import PRE_TOKENIZERS
from worker.text.tokenizer import Tokenizer

RECORD = json.loads((Path(__file__).parents[2] / "parity" / "tokens_pre.json").read_text())


def names_by_row() -> list[list[str]]:
    rows: dict[int, list[str]] = defaultdict(list)
    for name, row in PRE_TOKENIZERS.items():
        rows[id(row)].append(name)
    return list(rows.values())


@pytest.mark.parametrize("names", names_by_row(), ids=lambda names: names[0])
def test_words_are_cut_where_the_peer_cuts_them(names: list[str]) -> None:
    tokenizer = Tokenizer(pair_vocabulary(names[0]))
    sums = [checksum(tokenizer.encode(text)) for text in RECORD["texts"]]
    for name in names:
        expected = RECORD["checksums"][name]
        assert [
            text for text, mine, theirs in zip(RECORD["texts"], sums, expected, strict=True) if mine != theirs
        ] == []


def test_every_name_was_recorded() -> None:
    assert set(RECORD["checksums"]) == set(PRE_TOKENIZERS)


@pytest.mark.parametrize("name", ["deepseek-llm", "llama-bpe", "afmoe", "jais-2"])
def test_long_runs_take_time_in_proportion_to_their_length(name: str) -> None:
    tokenizer = Tokenizer(pair_vocabulary(name))
    for unit in (" ", "a", "\n", " \n", "'", "1", "\u3000"):
        text = unit * (100_000 // len(unit)) + "x"
        assert tokenizer.decode(tokenizer.encode(text, add_special=False)) == text
