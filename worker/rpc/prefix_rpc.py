"""The RPC about prefixes: which beginnings a prompt has, and how much of it need not be computed.

service.py calls it, with a prompt in a text thread. Invariant: it asks nothing of the engine's thread, so that the
answer does not wait for a step.
"""

import numpy as np

from protos import inference_pb2 as pb
from worker.cache.kv_cache import chain
from worker.engine import Engine
from worker.rpc.generate_rpc import prompt_tokens
from worker.rpc.loaded import LoadedModel


def find_prefix(model: LoadedModel, prompt: pb.Prompt) -> pb.FindPrefixReply:
    """The names of a prompt's beginnings, all of which leave a token to compute, and how much of them is held.

    Raises InvalidRequest, ContextExceeded.
    """
    engine = model.engine
    tokens = prompt_tokens(model.prompts, prompt, engine.capacity.context_length)
    names = chain(np.array(tokens[:-1], np.int32), engine.capacity.block_size)
    found = find_named(engine, pb.PrefixNames(names=names))
    found.names.names[:] = names
    found.num_tokens_each = engine.capacity.block_size
    return found


def find_named(engine: Engine, wanted: pb.PrefixNames) -> pb.FindPrefixReply:
    """How much is held of a prompt that another worker has named."""
    block_size = engine.capacity.block_size
    return pb.FindPrefixReply(
        num_held=engine.prefixes.num_held(wanted.names) * block_size,
        num_free=engine.stats().num_free_blocks * block_size,
    )
