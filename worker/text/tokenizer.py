"""Text to token ids and back, exactly as llama.cpp reads the same GGUF file.

Used by prompt.py and service.py, by detokenizer.py and by chat templates. Immutable after construction but
for caches whose content does not matter. Invariant: the result depends on the text, the two flags and the file
alone.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from worker.cursor import shown
from worker.errors import GGUFError, InvalidRequest, UnsupportedModel
from worker.metadata import TOKENIZER, Entries
from worker.text.byte_pair import CHARACTER_TO_BYTE, BytePairEncoder, pre_tokenizer
from worker.text.sentencepiece import SentencePieceEncoder
from worker.text.vocabulary import Kind, Vocabulary

_SPACE = "▁"
_ASCII_WHITESPACE = " \t\n\v\f\r"


class Encoder(Protocol):
    def encode(self, text: str) -> list[int]: ...


@dataclass(frozen=True)
class _Special:
    """A token recognised in text before everything else, and the whitespace around it that it swallows."""

    id: int
    text: str
    is_control: bool
    strip_left: bool
    strip_right: bool


class Tokenizer:
    vocab_size: int
    vocab_type: int  # as llama.cpp numbers them: 1 SentencePiece, 2 byte-pair
    bos_id: int | None
    eos_id: int | None
    eog_ids: frozenset[int]
    add_bos: bool
    add_eos: bool
    longest_token: int  # in characters

    def __init__(self, metadata: Mapping[str, Any]) -> None:
        """Raises UnsupportedModel for a tokenizer we do not know, GGUFError for one that contradicts itself."""
        entries = Entries(metadata, TOKENIZER)
        model = entries.text("model")
        if model == "gpt2":
            self._load_byte_pair(entries)
        elif model == "llama":
            self._load_sentencepiece(entries)
        else:
            raise UnsupportedModel(f"unknown tokenizer {shown(model)} ({TOKENIZER}model); supported: gpt2, llama")

        self.vocab_size = len(self._vocabulary)
        self.longest_token = max(map(len, self._vocabulary.texts))
        self.bos_id = self._vocabulary.roles.get("bos")
        self.eos_id = self._vocabulary.roles.get("eos")
        self.eog_ids = self._vocabulary.eog_ids
        self.add_bos = entries.flag("add_bos_token", self.add_bos)
        self.add_eos = entries.flag("add_eos_token", False)
        for flag, name, token in ((self.add_bos, "bos", self.bos_id), (self.add_eos, "eos", self.eos_id)):
            if flag and token is None:
                key = f"{TOKENIZER}{name}_token_id"
                raise GGUFError(f"{TOKENIZER}add_{name}_token is true, but {key} is missing or no token")
        self._hidden = frozenset(self._vocabulary.of_kind(Kind.CONTROL, Kind.UNKNOWN))
        self._specials = _specials(metadata, self._vocabulary)
        self._special_prefixes = _by_prefix(self._specials)
        self._kinds: list[int] = self._vocabulary.kinds.tolist()  # NumPy's numbers are slow to compare, one by one
        self._pieces: list[bytes | None] = [None] * self.vocab_size

    def _load_byte_pair(self, entries: Entries) -> None:
        row = pre_tokenizer(entries)
        self.vocab_type = 2
        self._vocabulary = Vocabulary(entries, {"bos": 11, "eos": 11} if row.default_bos else {"eos": 11})
        self._encoder: Encoder = BytePairEncoder(entries, self._vocabulary, row)
        self._add_space_prefix = False
        self.add_bos = row.add_bos

    def _load_sentencepiece(self, entries: Entries) -> None:
        self.vocab_type = 1
        self._vocabulary = Vocabulary(entries, {"bos": 1, "eos": 2, "unk": 0})
        self._encoder = SentencePieceEncoder(entries, self._vocabulary)
        self._add_space_prefix = entries.flag("add_space_prefix", True)
        self.add_bos = True

    def encode(self, text: str, *, add_special: bool = True, parse_special: bool = True) -> list[int]:
        """Ids of `text`. `add_special` adds BOS and EOS where the model wants them; `parse_special` reads control
        tokens written out in the text. Raises InvalidRequest for text that is not valid Unicode, or absurd."""
        _check_unicode(text)
        ids: list[int] = [self.bos_id] if add_special and self.add_bos and self.bos_id is not None else []
        for fragment in self._fragments(text, parse_special):
            ids += [fragment] if isinstance(fragment, int) else self._encode_fragment(fragment)
        if add_special and self.add_eos and self.eos_id is not None:
            ids.append(self.eos_id)
        return ids

    def _encode_fragment(self, text: str) -> list[int]:
        """Every fragment stands at the beginning or after a special token: SentencePiece puts a space before each."""
        if self.vocab_type == 1:
            text = (" " + text if self._add_space_prefix else text).replace(" ", _SPACE)
        return self._encoder.encode(text)

    def _fragments(self, text: str, parse_special: bool) -> list[str | int]:
        """Text cut at special tokens: the longest token first, everywhere; then the next on what is left."""
        present = [
            place
            for prefix, places in self._special_prefixes.items()
            if prefix in text
            for place in places
            if self._specials[place].text in text
        ]
        fragments: list[str | int] = [text] if text else []
        for place in sorted(present):
            special = self._specials[place]
            if parse_special or not special.is_control:
                fragments = [part for fragment in fragments for part in _cut(fragment, special)]
        return fragments

    def piece(self, token: int, *, special: bool = True) -> bytes:
        """The bytes a token stands for; control tokens give their text, or nothing if not `special`."""
        if not 0 <= token < self.vocab_size:
            raise InvalidRequest(f"token {token} is not in the vocabulary (0 to {self.vocab_size - 1})")
        if not special and token in self._hidden:
            return b""
        found = self._pieces[token]
        if found is None:
            found = self._pieces[token] = self._make_piece(self._vocabulary.texts[token], self._kinds[token])
        return found

    def _make_piece(self, text: str, kind: int) -> bytes:
        if kind in (Kind.CONTROL, Kind.UNKNOWN, Kind.USER_DEFINED):
            return text.encode("utf-8", "surrogateescape")
        if kind == Kind.BYTE:
            return _byte_of(text)
        if kind != Kind.NORMAL:
            return b""
        if self.vocab_type == 1:
            return text.replace(_SPACE, " ").encode("utf-8", "surrogateescape")
        alphabet = CHARACTER_TO_BYTE
        return b"".join(alphabet.get(character) or character.encode("utf-8", "surrogateescape") for character in text)

    def decode(self, tokens: Sequence[int], *, special: bool = True) -> str:
        """The text of all pieces together. Bytes that are no UTF-8 become U+FFFD."""
        return b"".join(self.piece(token, special=special) for token in tokens).decode("utf-8", "replace")


def _check_unicode(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidRequest(f"text is not valid Unicode: lone surrogate at character {error.start}") from None


def _byte_of(text: str) -> bytes:
    """`<0x0A>` -> the byte 10."""
    try:
        return bytes([int(text[3:5], 16)])
    except ValueError:
        raise GGUFError(f"{TOKENIZER}tokens: byte token {text!r} is not of the form <0x0A>") from None


def _specials(metadata: Mapping[str, Any], vocabulary: Vocabulary) -> list[_Special]:
    """Longest first, in bytes."""
    strips_left, strips_right = _strips(metadata)
    found = []
    for token in vocabulary.of_kind(Kind.CONTROL, Kind.UNKNOWN, Kind.USER_DEFINED):
        text = vocabulary.texts[token]
        is_control = vocabulary.kinds[token] != Kind.USER_DEFINED
        found.append(_Special(token, text, is_control, strips_left(text), strips_right(text)))
    return sorted(found, key=lambda special: -len(special.text.encode("utf-8", "surrogateescape")))


def _strips(metadata: Mapping[str, Any]) -> tuple[Callable[[str], bool], Callable[[str], bool]]:
    """Which special tokens swallow whitespace to their left and right. GGUF does not say: known by family name."""
    pre = Entries(metadata, TOKENIZER).text("pre", "")
    name = Entries(metadata).text("general.name", "").lower()
    architecture = Entries(metadata).text("general.architecture", "")
    if "phi-3" in name or "phi3" in name:
        return (lambda text: False), (lambda text: text not in ("<unk>", "<s>", "<|endoftext|>"))
    if pre in ("jina-v2-de", "jina-v2-es", "jina-v2-code") or architecture in ("nomic-bert-moe", "jina-bert-v3"):
        return (lambda text: text == "<mask>"), (lambda text: False)
    if "modern-bert" in name:
        return (lambda text: text == "[MASK]"), (lambda text: False)
    return (lambda text: False), (lambda text: False)


def _by_prefix(specials: Sequence[_Special]) -> dict[str, list[int]]:
    """Places in `specials` by their first characters, so that most texts are searched for a few prefixes only."""
    places: dict[str, list[int]] = {}
    for place, special in enumerate(specials):
        places.setdefault(special.text[:4], []).append(place)
    return places


def _cut(fragment: str | int, special: _Special) -> list[str | int]:
    if isinstance(fragment, int) or special.text not in fragment:
        return [fragment]
    texts = fragment.split(special.text)
    parts: list[str | int] = []
    for place, text in enumerate(texts):
        if place > 0:
            parts.append(special.id)
            text = text.lstrip(_ASCII_WHITESPACE) if special.strip_right else text
        if place < len(texts) - 1 and special.strip_left:
            text = text.rstrip(_ASCII_WHITESPACE)
        if text:
            parts.append(text)
    return parts
