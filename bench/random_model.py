"""Writes a model of Llama 3.2 1B's shape with random weights, to measure speed with: speed does not depend on values.

    python -m bench.random_model FOLDER [--mixture Q4_K_M] [--mixture Q4_0] [--mixture Q8_0]

Types are mixed as llama-quantize mixes them. Codes are random bytes, scales are chosen so that activations stay finite;
nothing is quantised, so that writing a gigabyte takes seconds. The tokenizer is a real one as far as loading goes: byte
tokens, one merge, and fillers. Invariant: the same arguments give the same file.
"""

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray

from worker.quants import BY_NAME, QuantType
from worker.text.byte_pair import BYTE_TO_CHARACTER


@dataclass(frozen=True, slots=True)
class Shape:
    """Of a llama; the head is the embedding."""

    name: str
    num_layers: int
    width: int
    hidden: int
    num_heads: int
    num_kv_heads: int
    vocab_size: int
    num_specials: int  # the vocabulary's last tokens

    @property
    def head_dim(self) -> int:
        return self.width // self.num_heads


LLAMA_1B = Shape("random-1b", 16, 2048, 8192, 32, 8, 128256, 256)

_CONTEXT = 131072
_ROPE_BASE = 500000.0
_ROPE_FACTOR, _ROPE_LOW, _ROPE_HIGH, _ROPE_CONTEXT = 32.0, 1.0, 4.0, 8192  # Llama 3's scaling of frequencies
_SAMPLE_BLOCKS = 4096  # of which the deviation is taken


@dataclass(frozen=True, slots=True)
class Mixture:
    """Which type a tensor gets in a file of one kind."""

    file_type: int  # general.file_type
    type_of: Callable[[str, int, int], str]  # name without `blk.N.`, layer, layers


def _q4_k_m(tensor: str, layer: int, num_layers: int) -> str:
    """More bits for values and for what leaves the feed-forward part, in the first and last eighth and every third."""
    eighth = num_layers // 8
    precise = layer < eighth or layer >= 7 * num_layers // 8 or (layer - eighth) % 3 == 2
    if tensor == "token_embd" or (tensor in ("attn_v", "ffn_down") and precise):
        return "Q6_K"
    return "Q4_K"


MIXTURES: Mapping[str, Mixture] = {
    "Q4_K_M": Mixture(15, _q4_k_m),
    "Q4_0": Mixture(2, lambda tensor, layer, num_layers: "Q6_K" if tensor == "token_embd" else "Q4_0"),
    "Q8_0": Mixture(7, lambda tensor, layer, num_layers: "Q8_0"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="bench.random_model", description="Write random models for measuring speed.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--mixture", choices=MIXTURES, action="append", help="default: all")
    options = parser.parse_args(arguments)
    for mixture in options.mixture or MIXTURES:
        path = options.folder / f"{LLAMA_1B.name}-{mixture.lower()}.gguf"
        print(write(path, LLAMA_1B, mixture), file=sys.stdout, flush=True)
    return 0


def write(path: Path, shape: Shape, mixture: str) -> Path:
    """Writes the file, and returns its path."""
    writer = gguf.GGUFWriter(path, "llama")
    _add_facts(writer, shape, MIXTURES[mixture].file_type)
    _add_tokenizer(writer, shape)
    random = np.random.default_rng(0)
    for name, rows, columns, type_name in _matrices(shape, MIXTURES[mixture]):
        blocks = random_blocks(random, BY_NAME[type_name], rows, columns)
        writer.add_tensor(name, blocks, raw_dtype=gguf.GGMLQuantizationType[type_name])
    for name in _norms(shape):
        writer.add_tensor(name, np.ones(shape.width, np.float32))
    writer.add_tensor("rope_freqs.weight", frequency_factors(shape.head_dim))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_facts(writer: gguf.GGUFWriter, shape: Shape, file_type: int) -> None:
    writer.add_name(shape.name)
    writer.add_file_type(file_type)
    writer.add_quantization_version(2)
    writer.add_block_count(shape.num_layers)
    writer.add_context_length(_CONTEXT)
    writer.add_embedding_length(shape.width)
    writer.add_feed_forward_length(shape.hidden)
    writer.add_head_count(shape.num_heads)
    writer.add_head_count_kv(shape.num_kv_heads)
    writer.add_key_length(shape.head_dim)
    writer.add_value_length(shape.head_dim)
    writer.add_rope_dimension_count(shape.head_dim)
    writer.add_rope_freq_base(_ROPE_BASE)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(shape.vocab_size)


def _add_tokenizer(writer: gguf.GGUFWriter, shape: Shape) -> None:
    """Byte-level, with Llama 3's cutting of words. Fillers are never made by a merge, so they never occur."""
    known = [*(BYTE_TO_CHARACTER[byte] for byte in range(256)), "he"]
    first_special = shape.vocab_size - shape.num_specials
    fillers = [f"filler{number}" for number in range(first_special - len(known))]
    specials = [f"<|special_{number}|>" for number in range(shape.num_specials)]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("llama-bpe")
    writer.add_token_list([*known, *fillers, *specials])
    writer.add_token_types([gguf.TokenType.NORMAL] * first_special + [gguf.TokenType.CONTROL] * shape.num_specials)
    writer.add_token_merges(["h e"])
    writer.add_bos_token_id(first_special)
    writer.add_eos_token_id(first_special + 1)


def _matrices(shape: Shape, mixture: Mixture) -> Iterator[tuple[str, int, int, str]]:
    """Name, rows, columns, type."""
    kv_width = shape.num_kv_heads * shape.head_dim
    yield "token_embd.weight", shape.vocab_size, shape.width, mixture.type_of("token_embd", 0, shape.num_layers)
    sizes = {
        "attn_q": (shape.width, shape.width), "attn_k": (kv_width, shape.width), "attn_v": (kv_width, shape.width),
        "attn_output": (shape.width, shape.width), "ffn_gate": (shape.hidden, shape.width),
        "ffn_up": (shape.hidden, shape.width), "ffn_down": (shape.width, shape.hidden),
    }  # fmt: skip
    for layer in range(shape.num_layers):
        for tensor, (rows, columns) in sizes.items():
            yield f"blk.{layer}.{tensor}.weight", rows, columns, mixture.type_of(tensor, layer, shape.num_layers)


def _norms(shape: Shape) -> Iterator[str]:
    yield "output_norm.weight"
    for layer in range(shape.num_layers):
        yield f"blk.{layer}.attn_norm.weight"
        yield f"blk.{layer}.ffn_norm.weight"


def random_blocks(random: np.random.Generator, type: QuantType, rows: int, columns: int) -> NDArray[np.uint8]:
    """(rows, bytes of a row): random codes, and scales that give values a deviation of 1 / sqrt(columns)."""
    blocks: NDArray[Any] = np.frombuffer(random.bytes(rows * type.row_bytes(columns)), np.uint8).copy().view(type.dtype)
    scales = [name for name in ("d", "dmin") if name in (type.dtype.names or ())]
    for name in scales:
        blocks[name] = 1
    deviation = float(np.std(type.dequantize_blocks(blocks[:_SAMPLE_BLOCKS])))
    for name in scales:
        blocks[name] = 1 / (deviation * columns**0.5)
    return blocks.view(np.uint8).reshape(rows, -1)


def frequency_factors(head_dim: int) -> NDArray[np.float32]:
    """Llama 3's: long waves are slowed down by the factor, short ones not, those between in part. Source: Llama 3.1."""
    frequencies = _ROPE_BASE ** (-np.arange(0, head_dim, 2) / head_dim)
    turns = _ROPE_CONTEXT * frequencies / (2 * np.pi)  # of a pair, over the context of the first training
    smooth = np.clip((turns - _ROPE_LOW) / (_ROPE_HIGH - _ROPE_LOW), 0, 1)
    factors: NDArray[np.float32] = (1 / ((1 - smooth) / _ROPE_FACTOR + smooth)).astype(np.float32)
    return factors


if __name__ == "__main__":
    raise SystemExit(main())
