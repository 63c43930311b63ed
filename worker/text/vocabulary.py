"""What a GGUF file says about its tokens: texts, kinds, and which ids mean something.

Built by tokenizer.py, once per model. Invariant: kinds and end-of-generation ids are those llama.cpp settles on,
including its corrections by text: files are often wrong about which tokens are control tokens.
"""

from collections.abc import Iterable, Mapping
from enum import IntEnum
from typing import Any

import numpy as np

from worker.errors import GGUFError
from worker.metadata import TOKENIZER, Entries

_ANY = 1 << 64  # more than any number of a file


class Kind(IntEnum):
    """`tokenizer.ggml.token_type`."""

    UNDEFINED = 0
    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


# Roles a file may name by id; where it does not, a token with one of these texts takes the role and becomes control.
_ROLE_TEXTS: Mapping[str, tuple[str, ...]] = {
    role: tuple(texts.split())
    for role, texts in {
        "eot": "<|eot_id|> <|im_end|> <|end|> <end_of_turn> <|endoftext|> <|end_of_text|> <EOT> _<EOT> [EOT] "
        "<\uff5cend▁of▁sentence\uff5c> <end_of_utterance>",
        "eom": "<|eom_id|>",
        "fim_pre": "<|fim_prefix|> <fim-prefix> <fim_prefix> <\uff5cfim▁begin\uff5c> <PRE> ▁<PRE> "
        "<|code_prefix|> <|prefix|>",
        "fim_suf": "<|fim_suffix|> <fim-suffix> <fim_suffix> <\uff5cfim▁hole\uff5c> <SUF> ▁<SUF> "
        "<|code_suffix|> <|suffix|>",
        "fim_mid": "<|fim_middle|> <fim-middle> <fim_middle> <\uff5cfim▁end\uff5c> <MID> ▁<MID> "
        "<|code_middle|> <|middle|>",
        "fim_pad": "<|fim_pad|> <fim-pad> <fim_pad> <PAD> [PAD]",
        "fim_rep": "<|fim_repo|> <|repo_name|> <fim-repo> <REPO> <reponame>",
        "fim_sep": "<|file_sep|>",
    }.items()
}
_ROLE_KEYS: Mapping[str, tuple[str, ...]] = {
    "bos": ("bos_token_id",),
    "eos": ("eos_token_id",),
    "eot": ("eot_token_id",),
    "eom": ("eom_token_id",),
    "unk": ("unknown_token_id",),
    "fim_pre": ("fim_pre_token_id", "prefix_token_id"),
    "fim_suf": ("fim_suf_token_id", "suffix_token_id"),
    "fim_mid": ("fim_mid_token_id", "middle_token_id"),
    "fim_pad": ("fim_pad_token_id",),
    "fim_rep": ("fim_rep_token_id",),
    "fim_sep": ("fim_sep_token_id",),
}
_EOG_ROLES = ("eos", "eot", "eom", "fim_pad", "fim_rep", "fim_sep")
_EOG_TEXTS = (
    *("<|eot_id|>", "<|im_end|>", "<|end|>", "<|return|>", "<|call|>", "<|calls|>", "<|flush|>", "<end_of_turn>"),
    *("<|endoftext|>", "<|end_of_text|>", "</s>", "<|eom_id|>", "<EOT>", "_<EOT>", "[EOT]", "[EOS]", "<eos>"),
    *("<end_of_utterance>", "<turn|>", "<|tool_response>", "<\uff5cend▁of▁sentence\uff5c>", "[e~["),
)
_ALWAYS_SHOWN = ("<|channel|>", "<|message|>", "<|start|>", "<|constrain|>")  # gpt-oss: its parsers need to see them
# Vocabularies holding all of these use `<|end|>` between messages, not at the end.
_END_IS_INNER = (
    ("<|return|>", "<|call|>"),
    ("<|return|>", "<|calls|>"),
    ("<|call|>", "<|flush|>"),
    ("<|calls|>", "<|flush|>"),
)


class Vocabulary:
    """Token texts by id and back. `texts` are as in the file: byte-level or with ▁ for a space."""

    def __init__(self, entries: Entries, default_ids: Mapping[str, int]) -> None:
        self.texts = _texts(entries)
        self.ids = dict(zip(self.texts, range(len(self.texts)), strict=True))
        if len(self.ids) != len(self.texts):
            raise GGUFError(f"{TOKENIZER}tokens: token {_first_duplicate(self.texts)!r} occurs twice")
        self.kinds = _kinds(entries, len(self.texts))
        self.roles = self._named_roles(entries, default_ids)
        self._find_roles_by_text()
        self.eog_ids = frozenset(self._collect_eog())

    def __len__(self) -> int:
        return len(self.texts)

    def of_kind(self, *kinds: Kind) -> list[int]:
        """Ids of these kinds, ascending."""
        found: list[int] = np.flatnonzero(np.isin(self.kinds, kinds)).tolist()
        return found

    def _named_roles(self, entries: Entries, default_ids: Mapping[str, int]) -> dict[str, int]:
        size = len(self.texts)
        roles = {role: token for role, token in default_ids.items() if token < size}
        for role, keys in _ROLE_KEYS.items():
            for key in keys:
                token = entries.whole(key, -1, least=-_ANY, most=_ANY)
                if 0 <= token < size:
                    roles[role] = token
        return roles

    def _find_roles_by_text(self) -> None:
        for role, texts in _ROLE_TEXTS.items():
            found = [self.ids[text] for text in texts if text in self.ids]
            if role not in self.roles and found:
                self.roles[role] = found[0]
                self.kinds[found[0]] = Kind.CONTROL

    def _collect_eog(self) -> set[int]:
        eog = {self.ids[text] for text in _EOG_TEXTS if text in self.ids}
        self.kinds[list(eog)] = Kind.CONTROL
        for text in _ALWAYS_SHOWN:
            if text in self.ids:
                self.kinds[self.ids[text]] = Kind.USER_DEFINED
        eog.update(self.roles[role] for role in _EOG_ROLES if role in self.roles)

        texts = {self.texts[token] for token in eog}
        if "<|end|>" in texts and any(texts.issuperset(pair) for pair in _END_IS_INNER):
            self._demote(eog, "<|end|>", Kind.USER_DEFINED)
        if texts.issuperset(("<|tool_response>", "</s>")):
            self._demote(eog, "</s>", Kind.NORMAL)
        return eog

    def _demote(self, eog: set[int], text: str, kind: Kind) -> None:
        eog.discard(self.ids[text])
        self.kinds[self.ids[text]] = kind


def _texts(entries: Entries) -> list[str]:
    tokens = entries.texts("tokens")
    if not tokens:
        raise GGUFError(f"metadata key {TOKENIZER}tokens is empty")
    # Bytes that are no UTF-8 become lone surrogates: unique, and matched by no valid text.
    texts = [token.decode("utf-8", "surrogateescape") for token in tokens]
    if "" in texts:
        texts = [text or f"[EMPTY_{token}]" for token, text in enumerate(texts)]
    return texts


def _first_duplicate(texts: Iterable[str]) -> str:
    seen: set[str] = set()
    return next(text for text in texts if text in seen or seen.add(text))  # type: ignore[func-returns-value]


def _kinds(entries: Entries, size: int) -> np.ndarray[Any, np.dtype[np.int32]]:
    kinds = entries.numbers("token_type", size)
    if kinds is None:
        return np.full(size, Kind.NORMAL, np.int32)
    return np.where(np.isin(kinds, list(Kind)), kinds, Kind.UNDEFINED).astype(np.int32)
