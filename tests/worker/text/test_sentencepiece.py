"""The queue of pairs against the definition: look at all neighbours, join the best, the leftmost first."""

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.parity.corpus import score_vocabulary
from worker.metadata import TOKENIZER, Entries
from worker.text.sentencepiece import SentencePieceEncoder
from worker.text.vocabulary import Vocabulary

METADATA = score_vocabulary()
VOCABULARY = Vocabulary(Entries(METADATA, TOKENIZER), {"unk": 0})
ENCODER = SentencePieceEncoder(Entries(METADATA, TOKENIZER), VOCABULARY)
SCORES = METADATA["tokenizer.ggml.scores"].tolist()


def naive(text: str) -> list[int]:
    symbols = list(text)
    while True:
        unions = [(left, symbols[left] + symbols[left + 1]) for left in range(len(symbols) - 1)]
        known = [(-SCORES[VOCABULARY.ids[union]], left) for left, union in unions if union in VOCABULARY.ids]
        if not known:
            break
        left = min(known)[1]
        symbols[left : left + 2] = [symbols[left] + symbols[left + 1]]
    as_bytes = ([3 + byte for byte in symbol.encode()] for symbol in symbols)
    return [
        token
        for symbol, fallback in zip(symbols, as_bytes, strict=True)
        for token in ([VOCABULARY.ids[symbol]] if symbol in VOCABULARY.ids else fallback)
    ]


@settings(max_examples=500, deadline=None)
@given(st.text(alphabet="ab▁é日cdz👍", max_size=60))
def test_joins_are_those_of_the_definition(text: str) -> None:
    assert ENCODER.encode(text) == naive(text)


def test_cutting_a_text_where_no_token_reaches_across_changes_nothing() -> None:
    rng = random.Random(3)
    text = "".join(rng.choice("ab▁zz日") for _ in range(2000))
    pieces = [ENCODER.encode(piece + "z") for piece in text.split("z")]
    assert ENCODER.encode(text + "z") == [token for piece in pieces for token in piece]


def test_a_hundred_thousand_characters_without_a_cut_are_read() -> None:
    text = "ab" * 50_000
    ids = ENCODER.encode(text)
    assert "".join(VOCABULARY.texts[token] for token in ids) == text
