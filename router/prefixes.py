"""Digests of ever longer beginnings of a prompt, by which requests that begin alike are recognised. Pure.

Made by dispatch.py, compared by balancer.py. The gateway knows no tokens, so these run over the bytes of the prompt.
Invariant: two prompts share their n-th digest exactly if their first n * PREFIX_BYTES bytes are the same.
"""

import hashlib
from collections.abc import Iterator

from protos import inference_pb2 as pb

PREFIX_BYTES = 256
MAX_DIGESTS = 256  # of one prompt: its first 64 KiB
_DIGEST_SIZE = 8


def prefixes(prompt: pb.Prompt) -> tuple[bytes, ...]:
    """A digest for each whole PREFIX_BYTES, the shortest beginning first."""
    data = b"".join(_bytes(prompt))[: MAX_DIGESTS * PREFIX_BYTES]
    running = hashlib.blake2b(digest_size=_DIGEST_SIZE)
    digests = []
    for end in range(PREFIX_BYTES, len(data) + 1, PREFIX_BYTES):
        running.update(data[end - PREFIX_BYTES : end])
        digests.append(running.digest())
    return tuple(digests)


def _bytes(prompt: pb.Prompt) -> Iterator[bytes]:
    if prompt.HasField("chat"):
        yield prompt.chat.tools_json.encode()
        yield prompt.chat.messages_json.encode()
        return
    for part in prompt.parts.parts:
        if part.HasField("text"):
            yield part.text.encode()
        else:
            yield b"".join(token.to_bytes(4, "little", signed=True) for token in part.tokens.ids)
