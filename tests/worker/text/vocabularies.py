"""Small tokenizers for tests: every byte is a token, and whatever else a test names."""

from collections.abc import Sequence

import numpy as np

from tests.parity.corpus import Metadata
from worker.text.byte_pair import BYTE_TO_CHARACTER
from worker.text.vocabulary import Kind


def spell(text: str | bytes) -> str:
    """Text as byte-level tokens spell it."""
    return "".join(BYTE_TO_CHARACTER[byte] for byte in (text.encode() if isinstance(text, str) else text))


def byte_level(words: Sequence[str | bytes] = (), control: Sequence[str] = (), user: Sequence[str] = ()) -> Metadata:
    """Token i is byte i for i < 256; then the words, the control tokens, the user-defined ones. Nothing merges."""
    spelled = [*(spell(bytes([byte])) for byte in range(256)), *map(spell, words)]
    kinds = [Kind.NORMAL] * len(spelled) + [Kind.CONTROL] * len(control) + [Kind.USER_DEFINED] * len(user)
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": [token.encode() for token in (*spelled, *control, *user)],
        "tokenizer.ggml.token_type": np.array(kinds, np.int32),
        "tokenizer.ggml.merges": [],
    }
