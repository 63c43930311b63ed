r"""How byte-level BPE text is cut into words before merging: one row per `tokenizer.ggml.pre`.

Read by byte_pair.py. Invariant: the patterns of a row cut every text exactly where llama.cpp cuts it. They run one
after the other, each on the pieces the one before left; text between two matches is a piece too.

The syntax is Oniguruma's. Where llama.cpp simplifies what a model's authors wrote (cased letters for `gpt-4o`), so do
we: a GGUF file is expected to read the same everywhere. `\s+(?!\S)|\s+` leaves one space to the next word.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class PreTokenizer:
    """Patterns in the order they run, and what this family of vocabularies implies when the file does not say."""

    patterns: tuple[str, ...]
    ignore_merges: bool = False  # a word that is a token is that token, whatever the merges would build
    add_bos: bool = False
    default_bos: bool = True  # False: without a bos_token_id there is no BOS


_CONTRACTION = r"'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD]"
_SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_SYMBOLS = r" ?[^\s\p{L}\p{N}]+[\r\n]*"
_SYMBOLS_SLASH = r" ?[^\s\p{L}\p{N}]+[\r\n/]*"
_WORD = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_ASCII_PUNCTUATION = r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~]"""

_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_LLAMA3 = rf"{_CONTRACTION}|{_WORD}|\p{{N}}{{1,3}}|{_SYMBOLS}|{_SPACES}"
_QWEN2 = rf"{_CONTRACTION}|{_WORD}|\p{{N}}|{_SYMBOLS}|{_SPACES}"

# Words of capitals, then of small letters. Only ASCII letters count as cased; every other letter is both.
_UPPER = r"[\p{L}&&[^a-z]]"
_LOWER = r"[\p{L}&&[^A-Z]]"
_UPPER_MARK = r"[[\p{L}\p{M}]&&[^a-z]]"
_LOWER_MARK = r"[[\p{L}\p{M}]&&[^A-Z]]"


def _cased(upper: str, lower: str, suffix: str = "") -> str:
    lead = r"[^\r\n\p{L}\p{N}]?"
    return f"{lead}{upper}*{lower}+{suffix}|{lead}{upper}+{lower}*{suffix}"


_TAIL = f"(?:{_CONTRACTION})?"
_TEKKEN = rf"{_cased(_UPPER, _LOWER)}|\p{{N}}|{_SYMBOLS_SLASH}|{_SPACES}"
_GPT4O = rf"{_cased(_UPPER, _LOWER, _TAIL)}|\p{{N}}{{1,3}}|{_SYMBOLS_SLASH}|{_SPACES}"
_GRANITE = rf"{_cased(_UPPER_MARK, _LOWER_MARK, _TAIL)}|\p{{N}}{{1,3}}|{_SYMBOLS_SLASH}|{_SPACES}"
_ANY_LETTER = r"[\p{L}\p{M}]"
_AYA = rf"{_cased(_ANY_LETTER, _ANY_LETTER, _TAIL)}|\p{{N}}{{1,3}}|{_SYMBOLS_SLASH}|{_SPACES}"
_YOUTU = rf"{_cased(_ANY_LETTER, _ANY_LETTER, _TAIL)}|\p{{N}}|{_SYMBOLS_SLASH}|{_SPACES}"

_LETTERS_MARKS = rf"{_ASCII_PUNCTUATION}[A-Za-z]+|[^\r\n\p{{L}}\p{{P}}\p{{S}}]?[\p{{L}}\p{{M}}]+"
_DEEPSEEK3 = rf"{_LETTERS_MARKS}| ?[\p{{P}}\p{{S}}]+[\r\n]*|{_SPACES}"
_CJK_KANA = r"[\u4E00-\u9FA5\u3040-\u309F\u30A0-\u30FF]+"
_CJK_HANGUL = r"(?:(?!\s)[\u0800-\u9FA5\uAC00-\uD7FF])+"

# Digits in threes from the right; the first group keeps what stands before it. A run is counted once, at its beginning.
_THOUSANDS = r"(?<=\p{N})\p{N}{3}|(?<![^\p{N}])[^\p{N}]*+\p{N}{1,3}(?=(?:\p{N}{3})*(?!\p{N}))"

# The letters DeepSeek's first tokenizer calls words: cased scripts of about Unicode 11.
_DEEPSEEK_LETTERS = (
    r"A-Za-z\u00B5\u00C0-\u00D6\u00D8-\u00F6\u00F8-\u01BA\u01BC-\u01BF\u01C4-\u0293\u0295-\u02AF\u0370-\u0373\u0376"
    r"\u0377\u037B-\u037D\u037F\u0386\u0388-\u038A\u038C\u038E-\u03A1\u03A3-\u03F5\u03F7-\u0481\u048A-\u052F"
    r"\u0531-\u0556\u10A0-\u10C5\u13A0-\u13F5\u13F8-\u13FD\u1C90-\u1CBA\u1CBD-\u1CBF\u1D00-\u1D2B\u1D6B-\u1D77"
    r"\u1D79-\u1D9A\u1E00-\u1F15\u1F18-\u1F1D\u1F20-\u1F45\u1F48-\u1F4D\u1F50-\u1F57\u1F59\u1F5B\u1F5D\u1F5F-\u1F7D"
    r"\u1F80-\u1FB4\u1FB6-\u1FBC\u1FBE\u1FC2-\u1FC4\u1FC6-\u1FCC\u1FD0-\u1FD3\u1FD6-\u1FDB\u1FE0-\u1FEC\u1FF2-\u1FF4"
    r"\u1FF6-\u1FFC\u2102\u2107\u210A-\u2113\u2115\u2119-\u211D\u2124\u2126\u2128\u212A-\u212D\u212F-\u2134\u2139"
    r"\u213C-\u213F\u2145-\u2149\u214E\u2183\u2184\u2C00-\u2C7B\u2C7E-\u2CE4\u2CEB-\u2CEE\u2CF2\u2CF3\uA640-\uA66D"
    r"\uA680-\uA69B\uA722-\uA76F\uA771-\uA787\uA78B-\uA78E\uAB70-\uABBF\uFB00-\uFB06\uFB13-\uFB17\uFF21-\uFF3A"
    r"\uFF41-\uFF5A\U00010400-\U0001044F\U000104B0-\U000104D3\U000104D8-\U000104FB\U00010C80-\U00010CB2"
    r"\U00010CC0-\U00010CF2\U000118A0-\U000118DF\U0001E900-\U0001E943"
)
_ASIAN = (
    r"[\u4E00-\u9FFF\u3400-\u4DBF\u8C48-\uFAFF\u3040-\u309F\u30A0-\u30FF\u2F00-\u2FDF\u0E40-\u0E7F\u0E80-\u0EFF"
    r"\u1780-\u17FF\u1000-\u109F\uFF65-\uFF9F\u1100-\u11FF]+"
)
_HAN = (
    r"\u4E00-\u9FFF\u3400-\u4DBF\U00020000-\U0002A6DF\U0002A700-\U0002B73F\U0002B740-\U0002B81F\U0002B820-\U0002CEAF"
    r"\U0002CEB0-\U0002EBEF\uF900-\uFAFF\U0002F800-\U0002FA1F"
)
_SENTENCE = r" ?[^(\s|.,!?\u2026\u3002\uFF0C\u3001\u0964\u06D4\u060C)]+"
_CASCADE = (
    r"(?<![^\S\r\n])\s*[\r\n]+|"  # not tried again inside a run of spaces: no line end can follow there
    + "|".join(rf"\s{{{count}}}(?!\S)" for count in (512, 256, 128, 64, 32, 16, 8, 4))
    + r"|\s{1,2}(?!\S)|\s"
)


# What Unicode 16 added. llama.cpp's tables are Unicode 15.1's and know none of these as letters, numbers or marks.
_UNICODE_16 = (
    r"\u0897\u1B4E\u1B4F\u1B7F\u1C89\u1C8A\u2427-\u2429\u31E4\u31E5\uA7CB-\uA7CD\uA7DA-\uA7DC"
    r"\U000105C0-\U000105F3\U00010D40-\U00010D65\U00010D69-\U00010D85\U00010D8E\U00010D8F\U00010EC2-\U00010EC4"
    r"\U00010EFC\U00011380-\U000113E2\U000116D0-\U000116E3\U00011BC0-\U00011BE1\U00011BF0-\U00011BF9\U00011F5A"
    r"\U00013460-\U000143FA\U00016100-\U00016139\U00016D40-\U00016D79\U00018CFF\U0001CC00-\U0001CCF9"
    r"\U0001CD00-\U0001CEB3\U0001E5D0-\U0001E5FA\U0001E5FF\U0001F8B2-\U0001F8BB\U0001F8C0\U0001F8C1\U0001FA89"
    r"\U0001FA8F\U0001FABE\U0001FAC6\U0001FADC\U0001FADF\U0001FAE9\U0001FBCB-\U0001FBEF"
)
_CATEGORY = re.compile(r"\\p\{[LMNPS]\}")


def _row(*patterns: str, ignore_merges: bool = False, add_bos: bool = False, default_bos: bool = True) -> PreTokenizer:
    dated = (_CATEGORY.sub(lambda match: f"[{match[0]}&&[^{_UNICODE_16}]]", pattern) for pattern in patterns)
    # The engine knows no \uXXXX, so those are put into the pattern as characters.
    plain = tuple(pattern.encode("ascii").decode("raw_unicode_escape") for pattern in dated)
    return PreTokenizer(plain, ignore_merges, add_bos, default_bos)


_ROWS: tuple[tuple[str, PreTokenizer], ...] = (
    ("default", _row(r"[\p{P}$+<=>^~|]+", _GPT2, r"\p{N}+", "[0-9][0-9][0-9]")),
    (
        "gpt-2 phi-2 jina-es jina-de jina-v1-en jina-v2-es jina-v2-de jina-v2-code roberta-bpe gigachat a.x-4.0 mellum "
        "modern-bert mpt olmo jais trillion granite-docling exaone4",
        _row(_GPT2),
    ),
    ("smollm starcoder refact command-r codeshell exaone minerva-7b mellum2", _row(r"\p{N}", _GPT2)),
    (
        "llama3 llama-v3 llama-bpe falcon3 falcon-h1 pixtral midm-2.0 lfm2 jina-v5-nano",
        _row(_LLAMA3, ignore_merges=True, add_bos=True),
    ),
    ("dbrx smaug-bpe", _row(_LLAMA3)),
    ("chatglm-bpe glm4", _row(_LLAMA3, default_bos=False)),
    ("qwen2 deepseek-r1-qwen kormo f2llmv2 megrez stablelm2 hunyuan grok-2 solar-open", _row(_QWEN2)),
    (
        "qwen35",
        _row(
            rf"{_CONTRACTION}|[^\r\n\p{{L}}\p{{N}}]?{_ANY_LETTER}+|\p{{N}}"
            rf"| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*|{_SPACES}"
        ),
    ),
    (
        "deepseek-llm",
        _row(
            r"[\r\n]",
            rf"\s?[{_DEEPSEEK_LETTERS}]+",
            r"\s?[!-/:-~\uFF01-\uFF0F\uFF1A-\uFF5E\u2018-\u201F\u3001\u3002]+",
            r"(?<!\s)\s+\z",  # looking behind changes no match; it keeps long runs of spaces linear
            _CJK_HANGUL,
            r"\p{N}+",
        ),
    ),
    ("deepseek-coder", _row(r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", _CJK_HANGUL, r"\p{N}")),
    ("deepseek-v3 hunyuan-dense joyai-llm hy_v4", _row(r"\p{N}{1,3}", _CJK_KANA, _DEEPSEEK3)),
    (
        "youtu",
        _row(
            r"[\uAC00-\uD7A3\u3131-\u318E]+|[\uFF01\u2026\u201C\u201D\u2018\u2019\u2014\uFF1A\uFF1B\uFF0C\u3001-\u303F"
            r"\uFE30-\uFE4F]+|[\u3105-\u312F]+|" + _CJK_KANA,
            _YOUTU,
            ignore_merges=True,
        ),
    ),
    ("falcon", _row(r"[\p{P}$+<=>^~|`]+", _GPT2, "[0-9][0-9][0-9]")),
    ("poro-chat bloom gpt3-finnish", _row(_SENTENCE)),
    ("viking", _row(_SENTENCE, r"\p{N}")),
    ("tekken", _row(_TEKKEN, ignore_merges=True, add_bos=True)),
    ("gpt-4o llama4 kanana2 talkie minimax-m2", _row(_GPT4O)),
    ("granite-embed-multi-97m", _row(_GRANITE, ignore_merges=True)),
    ("tiny_aya cohere2moe", _row(_THOUSANDS, _AYA)),
    ("jais-2", _row(rf"{_CONTRACTION}|{_WORD}|\p{{N}}{{1,3}}|{_SYMBOLS}|{_CASCADE}")),
    (
        "kimi-k2",
        _row(
            rf"[{_HAN}]+|[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}&&[^{_HAN}]]+(?:{_CONTRACTION})?|\p{{N}}{{1,3}}|{_SYMBOLS}|{_SPACES}"
        ),
    ),
    ("bailingmoe bailingmoe2 llada-moe", _row(rf"{_CONTRACTION}|{_WORD}|\p{{N}}|{_SYMBOLS}|\s*[\r\n]|\s+(?!\S)|\s+")),
    ("seed-coder", _row(rf"{_CONTRACTION}|{_WORD}|\p{{N}}| ?[^\s\p{{L}}\p{{N}}\r\n]+|{_SPACES}")),
    ("afmoe", _row(_THOUSANDS, _ASIAN, _DEEPSEEK3)),
    ("laguna", _row(r"[^\n]+|\n+", _QWEN2)),
    (
        "exaone-moe",
        _row(
            rf"{_CONTRACTION}|[^\r\n\p{{L}}\p{{N}}]?(?:\p{{L}}\p{{M}}*(?: \p{{L}}\p{{M}}*)*)+|\p{{N}}"
            r"| ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]|\s+(?!\S)|\s+"
        ),
    ),
    (
        "chameleon",
        _row(
            "<sentinel:[0-9]+>",
            "IMGIMG[A-I]{1,4}Z",
            "[\\t\\n]|    |  ",
            r"\p{N}",
            r"[\p{P}!-/:-@\[-`{-~]",
            _GPT2,
            add_bos=True,
        ),
    ),
    ("minicpm5", _row(r"\p{N}{1,3}", rf"{_CONTRACTION}|{_WORD}|\p{{N}}+|{_SYMBOLS}|{_SPACES}", ignore_merges=True)),
    ("ufakzeka", _row(rf"{_WORD}|\p{{N}}|{_SYMBOLS}|{_SPACES}")),
)

PRE_TOKENIZERS: Mapping[str, PreTokenizer] = {name: row for names, row in _ROWS for name in names.split()}
