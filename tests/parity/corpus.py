"""Texts that tokenizers stumble over, and vocabularies made to show where they cut.

Used by record_tokens.py, which saves the texts with a peer's answers; tests/worker/text builds the same vocabularies.
"""

# ruff: noqa: RUF001  (letters that look like others are the point)

import random
from typing import Any

import numpy as np

from worker.text.byte_pair import BYTE_TO_CHARACTER

Metadata = dict[str, Any]

_WORDS = "hello Hello HELLO I'm I'M we've WE'VE you'll they'd don't 'tis O'Brien naïve café Straße ÅNGSTRÖM ǅungla ﬁne"
_SCRIPTS = (
    "日本語のテキスト。、「」",
    "中文字符，标点。繁體",
    "한국어 텍스트 ㄱㄴㄷ",
    "Привет, мир! Ёлка",
    "Γειά σου Κόσμε",
    "مرحبا بالعالم ١٢٣",
    "שָׁלוֹם עולם",
    "नमस्ते दुनिया १२३",
    "สวัสดีชาวโลก ๑๒๓",
    "ထမင်းစားပြီးပြီလား",
    "ᚠᛇᚻ ᛒᛦᚦ",
    "ꙮ ꟻ ꭥ",
    "𝕳𝖊𝖑𝖑𝖔 𝟙𝟚𝟛",
    "𐍈 𒀀 𓀀 🀄",
    "e\u0301 n\u0303 a\u0308\u0323 \u0301",
    "각 가\u11a8 ﷺ ﷽",
)
_EMOJI = ("👍", "👍🏽", "👨‍👩‍👧‍👦", "🏳️‍🌈", "🇩🇪🇫🇷", "1️⃣", "❤️", "🤷🏿‍♀️", "☺︎", "🫠🫡")
_CODE = (
    'def f(x):\n    return x ** 2 if x else None  # "doc"\n',
    "\tfor (int i = 0; i < n; ++i) {\n\t\ta[i] += b->c;\n\t}\r\n",
    "SELECT * FROM t WHERE a <> 'b''c' AND d >= 10.5e-3;",
    '{"a": [1, 2.50, -3e10, null], "b": {"c": "\\u00e9\\n"}}',
    '<div class="x">&nbsp;<!-- c --></div>\n',
    'fn main() { println!("{:?}", vec![1u8; 3]); }',
    "$ rm -rf /tmp/*.txt && echo ${HOME:-none} | sed 's/a/b/g'",
    "\\frac{\\partial f}{\\partial x} = \\sum_{i=0}^{\\infty} x_i",
    "https://example.com/a%20b?c=d&e=f#g user@example.org",
    "0x1F 0b1010 1_000_000 3.14159 1e-9 ½ ² Ⅳ ① 12345678901234567890",
    "a+b-c*d/e%f^g|h&i~j!k=l<m>n?o:p;q,r.s",
    "...---===___***### !!!??? ((())) [[[]]] {{{}}}",
    "__init__ camelCase snake_case kebab-case SCREAMING_CASE x1y2z3",
)
_SPACES = (
    " ",
    "\t",
    "\n",
    "\r\n",
    "\r",
    "\v",
    "\f",
    "\u00a0",
    "\u3000",
    "\u2003",
    "\u200b",
    "\u2028",
    "\u0085",
    "\ufeff",
)
_CONTROL = (
    "\x00",
    "a\x00b",
    "\x01\x02\x03",
    "\x1b[31mred\x1b[0m",
    "\x7f",
    "\u0080\u009f",
    "\u200d\u200e\u202e",
    "\ufffd",
)
_ENDS = (
    "\uffff",
    "\ufdd0",
    "\U0010ffff",
    "\U000e0001\U000e0041",
    "\ue000",
    "\uf8ff",
    "\U0001fae9",
    "\u1c89",
    "\U00010d40",
)


def texts(specials: list[str]) -> list[str]:
    """A few hundred texts. `specials` are token texts that mean something to the model."""
    found = ["", "a", " ", "  a", "a  ", "\n", "\n\n\n", " \n ", "'", "''", "'s", " 's", "'S 'T 'RE 'LL 'D"]
    found += [*_WORDS.split(), _WORDS, _WORDS.upper(), _WORDS.replace(" ", "\n")]
    found += _SCRIPTS + _EMOJI + ("".join(_EMOJI), " ".join(_EMOJI)) + _CODE + _CONTROL + _ENDS
    found += [space * count for space in _SPACES for count in (1, 2, 3)]
    found += [f"a{space * count}b" for space in _SPACES for count in (1, 2, 5)]
    found += [" " * count + end for count in (1, 2, 3, 4, 7, 8, 15, 16, 31, 33, 64, 100) for end in ("", "x", "\n")]
    found += ["1" * count for count in (1, 2, 3, 4, 5, 9, 10)] + ["a1 1a 1,234.56 １２３ ٣٤"]
    found += ["a" * 500, "ab" * 300, "!" * 200, "é" * 100, "日" * 100, "👍" * 40, "\r\n" * 50, "x" * 65 + "\u0301" * 40]
    for special in specials:
        found += [special, f"a{special}b", f"a {special} b", f"{special}{special}", special[:-1], special[1:]]
        found += [f"\n{special}\n", special.upper(), special.replace("|", " |")]
    found += _random_texts(specials)
    return list(dict.fromkeys(found))


def _random_texts(specials: list[str]) -> list[str]:
    rng = random.Random(20240607)
    pools: list[Any] = [
        [chr(code) for code in range(32, 127)],
        [*_SPACES, "  ", "   ", "'s", "'LL", "123", "The", ".", "...", "e\u0301"],
        [chr(code) for code in range(0xA0, 0x3000)],
        [chr(code) for code in range(0x3000, 0xD800)],
        [chr(code) for code in range(0x1F000, 0x20000)],
        [chr(code) for code in range(0x10000, 0x110000, 97)],
        [*specials, *(special[: len(special) // 2] for special in specials), "<", "|>"],
    ]
    return ["".join(rng.choice(rng.choice(pools)) for _ in range(rng.randint(2, 24))) for _ in range(150)]


def pair_vocabulary(pre: str) -> Metadata:
    """Byte-level tokens for every byte and every two bytes: any two in one word are joined, so cuts show."""
    alphabet = [BYTE_TO_CHARACTER[byte] for byte in range(256)]
    pairs = [(left, right) for left in alphabet for right in alphabet]
    tokens = [*alphabet, *(left + right for left, right in pairs), "<|end_of_text|>", "<|user|>"]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": [token.encode() for token in tokens],
        "tokenizer.ggml.merges": [f"{left} {right}".encode() for left, right in pairs],
        "tokenizer.ggml.token_type": np.array([1] * (len(tokens) - 2) + [3, 4], np.int32),
        "tokenizer.ggml.bos_token_id": len(tokens) - 2,
        "tokenizer.ggml.eos_token_id": len(tokens) - 2,
    }


def score_vocabulary() -> Metadata:
    """A small SentencePiece vocabulary over few letters, with many equal scores and many ways to the same token."""
    rng = random.Random(7)
    letters = "ab▁é日"
    pieces = {"".join(rng.choice(letters) for _ in range(rng.randint(2, 6))) for _ in range(300)}
    special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "<user>", "<c>"]
    tokens = [*special, *letters, *sorted(pieces), "cd", "▁c"]  # no token for c or d alone
    normal = len(tokens) - len(special)
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": [token.encode() for token in tokens],
        "tokenizer.ggml.scores": np.array(
            [0.0] * len(special) + [-rng.randint(1, 40) for _ in range(normal)], np.float32
        ),
        "tokenizer.ggml.token_type": np.array([2, 3, 3] + [6] * 256 + [4, 3] + [1] * normal, np.int32),
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
    }


def score_texts() -> list[str]:
    rng = random.Random(11)
    parts = ["a", "b", " ", "é", "日", "c", "d", "z", "▁", "<user>", "<c>", "<0x41>", "\n", "👍"]
    weights = [30, 30, 20, 10, 10, 3, 3, 1, 2, 1, 1, 1, 1, 1]
    drawn = ["".join(rng.choices(parts, weights, k=rng.randint(1, 40))) for _ in range(200)]
    return ["", " ", "  ", "a" * 60, "ab" * 40, " a" * 30, "aéb日" * 20, *drawn]
