"""Asks llama-server how it tokenizes, and saves its answers next to this file. Run by hand, when texts change:

python -m tests.parity.record_tokens LLAMA_SERVER smollm2=MODEL.gguf gemma3=MODEL.gguf pre spm
"""

import json
import socket
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import gguf
import httpx
import numpy as np

from tests.parity.corpus import Metadata, pair_vocabulary, score_texts, score_vocabulary, texts
from worker.text.pretokenizers import PRE_TOKENIZERS

HERE = Path(__file__).parent
SPECIALS = {
    "smollm2": ["<|im_start|>", "<|im_end|>", "<|endoftext|>", "<reponame>", "<jupyter_start>"],
    "gemma3": ["<bos>", "<start_of_turn>", "<end_of_turn>", "<unused7>", "\n\n\n", "<table>", "[multimodal]"],
    "pre": ["<|user|>", "<|end_of_text|>"],
}
EMBEDDING = 32


def checksum(ids: Sequence[int]) -> int:
    return zlib.crc32(np.asarray(ids, "<i4").tobytes())


@contextmanager
def llama_server(binary: str, model: Path) -> Iterator[httpx.Client]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [binary, "-m", str(model), "--port", str(port), "-t", "1", "-c", "256", "--no-warmup"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
            deadline = time.monotonic() + 60
            while not _is_ready(client):
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"{binary} does not serve {model}")
                time.sleep(0.1)
            yield client
    finally:
        process.terminate()
        process.wait()


def _is_ready(client: httpx.Client) -> bool:
    try:
        return client.get("/health").status_code == 200
    except httpx.TransportError:
        return False


def tokenize(client: httpx.Client, text: str, *, special: bool) -> list[int]:
    body = {"content": text, "add_special": special, "parse_special": special}
    ids: list[int] = client.post("/tokenize", json=body).raise_for_status().json()["tokens"]
    return ids


def record_model(binary: str, name: str, model: Path, corpus: Sequence[str]) -> None:
    with llama_server(binary, model) as client:
        cases = [
            {
                "text": text,
                "special": tokenize(client, text, special=True),
                "plain": tokenize(client, text, special=False),
            }
            for text in corpus
        ]
    lines = ",\n".join(json.dumps(case, separators=(",", ":")) for case in cases)
    (HERE / f"tokens_{name}.json").write_text(f"[\n{lines}\n]\n")
    print(f"{name}: {len(cases)} texts")


def record_pre_tokenizers(binary: str) -> None:
    """Checksums of the ids: one line of numbers for each pre-tokenizer, one number for each text."""
    corpus = [text for text in texts(SPECIALS["pre"]) if len(text) < 120]
    lines = []
    for name in PRE_TOKENIZERS:
        with (
            tempfile.TemporaryDirectory() as folder,
            _server_with(binary, Path(folder), pair_vocabulary(name)) as client,
        ):
            sums = [checksum(tokenize(client, text, special=True)) for text in corpus]
        lines.append(f"{json.dumps(name)}: {json.dumps(sums, separators=(',', ':'))}")
        print(name)
    expected = ",\n".join(lines)
    (HERE / "tokens_pre.json").write_text(f'{{"texts": {json.dumps(corpus)},\n"checksums": {{\n{expected}\n}}}}\n')


@contextmanager
def _server_with(binary: str, folder: Path, metadata: Metadata) -> Iterator[httpx.Client]:
    write_model(folder / "model.gguf", metadata)
    with llama_server(binary, folder / "model.gguf") as client:
        yield client


def write_model(path: Path, metadata: Metadata) -> None:
    """The smallest model a peer loads with this tokenizer. Its weights are zero."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(256)
    writer.add_embedding_length(EMBEDDING)
    writer.add_feed_forward_length(EMBEDDING)
    writer.add_block_count(1)
    writer.add_head_count(1)
    writer.add_layer_norm_rms_eps(1e-5)
    for key, value in metadata.items():
        if isinstance(value, str):
            writer.add_string(key, value)
        elif isinstance(value, int):
            writer.add_uint32(key, value)
        else:
            writer.add_array(
                key, value.tolist() if isinstance(value, np.ndarray) else [item.decode() for item in value]
            )
    square = np.zeros((EMBEDDING, EMBEDDING), np.float32)
    writer.add_tensor("token_embd.weight", np.zeros((len(metadata["tokenizer.ggml.tokens"]), EMBEDDING), np.float32))
    for name in ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"):
        writer.add_tensor(f"blk.0.{name}.weight", square)
    for name in ("blk.0.attn_norm", "blk.0.ffn_norm", "output_norm"):
        writer.add_tensor(f"{name}.weight", square[0])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main(binary: str, *wanted: str) -> None:
    for name, _, model in (item.partition("=") for item in wanted):
        if name == "pre":
            record_pre_tokenizers(binary)
        elif name == "spm":
            with tempfile.TemporaryDirectory() as folder:
                write_model(Path(folder) / "model.gguf", score_vocabulary())
                record_model(binary, name, Path(folder) / "model.gguf", score_texts())
        else:
            record_model(binary, name, Path(model), texts(SPECIALS[name]))


if __name__ == "__main__":
    main(*sys.argv[1:])
