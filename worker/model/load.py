"""From a GGUF file to a decoder that can answer: check the tensors, pack the weights, compile the kernels."""

import os
from collections.abc import Callable

from worker.config import WorkerConfig
from worker.errors import GGUFError
from worker.gguf import GGUF
from worker.kernels.jit import cache_folder, compile_all
from worker.model.architecture import Architecture, read_architecture
from worker.model.decoder import Decoder, kernels_for
from worker.model.weights import pack_weights

Progress = Callable[[str, float], None]  # stage, fraction done


def load_model(gguf: GGUF, config: WorkerConfig, progress: Progress) -> Decoder:
    """Raises UnsupportedModel or GGUFError naming what does not fit."""
    embedding = gguf.tensors.get("token_embd.weight")
    if embedding is None:
        raise GGUFError("tensor token_embd.weight is missing")
    architecture = read_architecture(gguf.metadata, embedding.shape[0])
    check_tensors(gguf, architecture)
    folder = cache_folder()
    weights = pack_weights(
        gguf, folder / "panels" if folder is not None else None, lambda done: progress("packing weights", done)
    )
    compile_all(kernels_for(weights), lambda done, total, name: progress("compiling kernels", done / total))
    return Decoder(architecture, weights, config.num_threads or usable_cores())


def usable_cores() -> int:
    """Cores this process may run on."""
    return len(os.sched_getaffinity(0))


def check_tensors(gguf: GGUF, a: Architecture) -> None:
    """Every tensor the decoder reads is there and has its shape."""
    width, q, kv = a.embedding_length, a.num_heads * a.head_dim, a.num_kv_heads * a.head_dim
    hidden = a.feed_forward_length
    layer: dict[str, tuple[int, ...]] = {
        "attn_norm": (width,), "attn_q": (q, width), "attn_k": (kv, width), "attn_v": (kv, width),
        "attn_output": (width, q), "ffn_norm": (width,), "ffn_gate": (hidden, width), "ffn_up": (hidden, width),
        "ffn_down": (width, hidden),
    }  # fmt: skip
    expected = {"token_embd.weight": (a.vocab_size, width), "output_norm.weight": (width,)}
    if "output.weight" in gguf.tensors:
        expected["output.weight"] = (a.vocab_size, width)
    for index in range(a.num_layers):
        expected |= {f"blk.{index}.{name}.weight": shape for name, shape in layer.items()}
    for name, shape in expected.items():
        tensor = gguf.tensors.get(name)
        if tensor is None:
            raise GGUFError(f"tensor {name} is missing")
        if tensor.shape != shape:
            raise GGUFError(f"tensor {name} has shape {tensor.shape}, expected {shape}")

