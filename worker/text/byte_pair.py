"""Byte-level byte-pair encoding: text -> ids, for `tokenizer.ggml.model = gpt2`.

Called by tokenizer.py with stretches of text that hold no special tokens. The merging is done by the `tokenizers`
library. Invariant: a byte the vocabulary has no token for never disappears before merging, so its neighbours do not
meet.
"""

import re
from collections.abc import Mapping, Sequence

from tokenizers import Regex, Tokenizer, models, pre_tokenizers

from worker.cursor import shown
from worker.errors import InvalidRequest, UnsupportedModel
from worker.metadata import TOKENIZER, Entries
from worker.text.pretokenizers import PRE_TOKENIZERS, PreTokenizer
from worker.text.vocabulary import Vocabulary


def _byte_alphabet() -> dict[int, str]:
    """GPT-2's bytes as visible characters: printable Latin-1 stands for itself, the rest moves to U+0100 and on."""
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in visible]
    return {byte: chr(byte) for byte in visible} | {byte: chr(0x100 + n) for n, byte in enumerate(hidden)}


_LONGEST_RUN = 1_000_000  # characters; the regular expressions give up at about three times as many
_LONG_RUN = re.compile(rf"(?<!\s)\s{{{_LONGEST_RUN}}}")
_SURROGATE = re.compile("[\ud800-\udfff]")
BYTE_TO_CHARACTER = _byte_alphabet()
CHARACTER_TO_BYTE: Mapping[str, bytes] = {character: bytes([byte]) for byte, character in BYTE_TO_CHARACTER.items()}


def pre_tokenizer(entries: Entries) -> PreTokenizer:
    """The row for this file. Raises UnsupportedModel for a name we do not know: guessing would garble every prompt."""
    name = entries.text("pre", "default")
    row = PRE_TOKENIZERS.get(name)
    if row is None:
        known = ", ".join(sorted(PRE_TOKENIZERS))
        raise UnsupportedModel(f"unknown pre-tokenizer {shown(name)} ({TOKENIZER}pre); supported: {known}")
    return row


class BytePairEncoder:
    def __init__(self, entries: Entries, vocabulary: Vocabulary, row: PreTokenizer) -> None:
        self._num_tokens = len(vocabulary)
        ids = dict(vocabulary.ids)
        missing = [character for character in BYTE_TO_CHARACTER.values() if character not in ids]
        ids.update((character, self._num_tokens + n) for n, character in enumerate(missing))
        self._has_gaps = bool(missing)

        self._tokenizer = Tokenizer(_model(entries.texts("merges"), ids, row))
        splits = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in row.patterns]
        to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        self._tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*splits, to_bytes])

    def encode(self, text: str) -> list[int]:
        if len(text) > _LONGEST_RUN and _LONG_RUN.search(text):
            raise InvalidRequest(f"text has more than {_LONGEST_RUN} spaces in a row")
        # A batch of one: only for batches is the interpreter's lock let go, without which a long text stops the worker.
        [encoding] = self._tokenizer.encode_batch_fast([text], add_special_tokens=False)
        ids: list[int] = encoding.ids
        if self._has_gaps:
            ids = [token for token in ids if token < self._num_tokens]
        return ids


def _model(merges: Sequence[bytes], ids: Mapping[str, int], row: PreTokenizer) -> models.BPE:
    """What the library cannot take is left out: tokens that are no UTF-8, and pairs that build no token, on some of
    which it panics. Neither is ever needed."""
    known = {text: token for text, token in ids.items() if not _SURROGATE.search(text)}
    texts = [line.decode("utf-8", "surrogateescape") for line in merges]
    # In the order of their ranks; the first mention of a pair counts. From 1: a token may begin with a space.
    pairs = dict.fromkeys((text[:cut], text[cut + 1 :]) for text in texts if (cut := text.find(" ", 1)) > 0)
    useful = [(left, right) for left, right in pairs if left in known and right in known and left + right in known]
    return models.BPE(known, useful, ignore_merges=row.ignore_merges)
