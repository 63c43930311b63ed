"""Writes tiny llama models with random weights: whole GGUF files, small enough to make one for each test.

The tokenizer is a real one, a byte-level BPE learnt from a page of text: every string can be encoded and decoded again.
The same arguments give the same file.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import tokenizers
from gguf import GGMLQuantizationType, TokenType

from worker.quants import BY_NAME, QuantType

SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
END_OF_TEXT, IM_START, IM_END = range(len(SPECIALS))

CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

CORPUS = """
A corral is a pen for horses, and this one is for models. Each model stands in its own stall, eats from its own trough
and answers to its own name. The gate is in front of them all: whoever comes to the gate and calls a name gets the model
of that name, and nobody has to know in which stall it stands. When one of them falls ill, the others go on; when it is
well again, it goes back to its place. In the morning the gate is opened, in the evening it is closed, and nobody is
thrown out in the middle of a sentence. The rain comes down from the hills in the year 1984, in 2001 and in 2026, and
the grass grows behind the fence: 1 horse, 2 horses, 10 horses. "Who is there?" asks the keeper. "It's me," says the
rider, "and I'm tired; we've been on the road since Monday, they're all asleep, I'll wait." The keeper doesn't mind.
def count(horses): return sum(1 for horse in horses if horse.name != "nobody")
for (int i = 0; i < n; i++) { total += values[i]; }
"""


@dataclass(frozen=True)
class Vocabulary:
    tokens: tuple[str, ...]
    types: tuple[int, ...]
    merges: tuple[str, ...]


@lru_cache
def byte_level_bpe(size: int = 384) -> Vocabulary:
    """`size` tokens: the specials, the 256 bytes, and what was learnt from CORPUS."""
    bpe = tokenizers.Tokenizer(tokenizers.models.BPE())
    byte_level = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    digits = tokenizers.pre_tokenizers.Digits(individual_digits=True)  # "smollm": no token joins two of them
    bpe.pre_tokenizer = tokenizers.pre_tokenizers.Sequence([digits, byte_level])
    bpe.train_from_iterator(
        [CORPUS],
        tokenizers.trainers.BpeTrainer(
            vocab_size=size, special_tokens=list(SPECIALS), initial_alphabet=byte_level.alphabet(), show_progress=False
        ),
    )
    model = json.loads(bpe.to_str())["model"]
    tokens = tuple(sorted(model["vocab"], key=model["vocab"].__getitem__))
    assert len(tokens) == size, f"the corpus gives {len(tokens)} tokens, not {size}"
    types = tuple(TokenType.CONTROL if token in SPECIALS else TokenType.NORMAL for token in tokens)
    return Vocabulary(tokens, types, tuple(" ".join(merge) for merge in model["merges"]))


def write_tiny_llama(
    path: Path,
    *,
    quant: str = "Q4_1",
    embedding_quant: str = "Q8_0",
    layers: int = 2,
    width: int = 64,
    feed_forward: int = 128,
    heads: int = 4,
    kv_heads: int = 2,
    vocab_size: int = 384,
    context_length: int = 256,
    tied: bool = False,
    seed: int = 0,
    tensors_per_part: int = 0,
    metadata: Mapping[str, Any] | None = None,
) -> Path:
    """Writes a model and returns its path, or that of its first part where `tensors_per_part` splits it.

    `quant` is the type of the matrices, `embedding_quant` that of token_embd and output; norms are F32. Rows must
    be whole blocks. `metadata` adds keys or replaces ours; a value of None leaves the key out.
    """
    writer = gguf.GGUFWriter(path, "llama", split_max_tensors=tensors_per_part)
    facts = _hyperparameters(layers, width, feed_forward, heads, kv_heads, vocab_size, context_length)
    facts |= tokenizer_metadata(byte_level_bpe(vocab_size)) | dict(metadata or {})
    for key, value in facts.items():
        add_value(writer, key, value)
    rng = np.random.default_rng(seed)
    kv_width = width // heads * kv_heads
    for name, (rows, columns) in _matrices(layers, width, feed_forward, kv_width, vocab_size, tied).items():
        embedding = name in ("token_embd.weight", "output.weight")
        data = random_tensor(rng, embedding_quant if embedding else quant, rows, columns)
        writer.add_tensor(name, data, raw_dtype=GGMLQuantizationType[embedding_quant if embedding else quant])
    for name in _norms(layers):
        writer.add_tensor(name, rng.uniform(0.5, 1.5, width).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path.with_name(writer.format_shard_names(path)[0].name) if tensors_per_part else path


def random_tensor(rng: np.random.Generator, quant: str, rows: int, columns: int) -> np.ndarray:
    """Weights of standard deviation 1.5 / sqrt(columns): (rows, bytes), F32 and F16 as (rows, columns)."""
    deviation = 1.5 / columns**0.5
    try:
        weights = rng.standard_normal((rows, columns), np.float32) * np.float32(deviation)
        return gguf.quantize(weights, GGMLQuantizationType[quant])
    except NotImplementedError:  # the package only reads this type
        return _random_blocks(rng, BY_NAME[quant], rows, columns, deviation)


def _random_blocks(rng: np.random.Generator, type: QuantType, rows: int, columns: int, deviation: float) -> np.ndarray:
    """Random codes, and scales that give the deviation and no mean."""
    blocks = rng.integers(0, 256, rows * type.row_bytes(columns), np.uint8).view(type.dtype)
    middle = {"Q2_K": 1.5, "Q4_K": 7.5, "Q5_K": 15.5}.get(type.name, 0.0)  # of the codes, where a minimum is taken off
    scale = 1.0
    for _ in range(2):
        blocks["d"] = scale
        if "dmin" in type.dtype.names:
            blocks["dmin"] = scale * middle
        scale = deviation / np.std(type.dequantize_blocks(blocks))
    return blocks.view(np.uint8).reshape(rows, -1)


def _hyperparameters(
    layers: int, width: int, feed_forward: int, heads: int, kv_heads: int, vocab_size: int, context_length: int
) -> dict[str, Any]:
    return {
        "general.name": "tiny",
        "llama.block_count": layers,
        "llama.context_length": context_length,
        "llama.embedding_length": width,
        "llama.feed_forward_length": feed_forward,
        "llama.attention.head_count": heads,
        "llama.attention.head_count_kv": kv_heads,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "llama.rope.freq_base": 10000.0,
        "llama.rope.dimension_count": width // heads,
        "llama.vocab_size": vocab_size,
    }


def tokenizer_metadata(vocabulary: Vocabulary) -> dict[str, Any]:
    """The keys of a tokenizer of this vocabulary."""
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.tokens": list(vocabulary.tokens),
        "tokenizer.ggml.token_type": [int(type) for type in vocabulary.types],
        "tokenizer.ggml.merges": list(vocabulary.merges),
        "tokenizer.ggml.bos_token_id": IM_START,
        "tokenizer.ggml.eos_token_id": IM_END,
        "tokenizer.ggml.unknown_token_id": END_OF_TEXT,
        "tokenizer.ggml.padding_token_id": IM_END,
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.ggml.add_space_prefix": False,
        "tokenizer.chat_template": CHAT_TEMPLATE,
    }


def add_value(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    """A metadata key in the type that files give such a value; None leaves it out."""
    match value:
        case None:
            pass
        case bool():
            writer.add_bool(key, value)
        case int():
            writer.add_uint32(key, value)
        case float():
            writer.add_float32(key, value)
        case str():
            writer.add_string(key, value)
        case _:
            writer.add_array(key, value)


def _matrices(
    layers: int, width: int, feed_forward: int, kv_width: int, vocab_size: int, tied: bool
) -> dict[str, tuple[int, int]]:
    """Name -> (rows, columns), in the order of the file."""
    shapes = {"token_embd.weight": (vocab_size, width)}
    if not tied:
        shapes["output.weight"] = (vocab_size, width)
    for layer in range(layers):
        shapes |= {
            f"blk.{layer}.attn_q.weight": (width, width),
            f"blk.{layer}.attn_k.weight": (kv_width, width),
            f"blk.{layer}.attn_v.weight": (kv_width, width),
            f"blk.{layer}.attn_output.weight": (width, width),
            f"blk.{layer}.ffn_gate.weight": (feed_forward, width),
            f"blk.{layer}.ffn_up.weight": (feed_forward, width),
            f"blk.{layer}.ffn_down.weight": (width, feed_forward),
        }
    return shapes


def _norms(layers: int) -> list[str]:
    per_layer = [f"blk.{layer}.{norm}.weight" for layer in range(layers) for norm in ("attn_norm", "ffn_norm")]
    return ["output_norm.weight", *per_layer]
