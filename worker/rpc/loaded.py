"""A model that can answer, as startup.py hands it to the service, and what its file says about it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from protos import inference_pb2 as pb
from worker.cache.slot_files import SlotFiles
from worker.engine import Engine
from worker.file_types import file_type_name
from worker.generation import Detokenizer
from worker.prompt import PromptReader


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model that can answer."""

    engine: Engine
    prompts: PromptReader
    make_detokenizer: Callable[[Sequence[str], Sequence[int]], Detokenizer]
    description: pb.DescribeReply
    slot_files: SlotFiles | None = None  # where clients may save prefixes


def describe(metadata: Mapping[str, Any], prompts: PromptReader, **facts: Any) -> pb.DescribeReply:
    """What the file says about its model, and `facts` that it does not know, named as in the proto."""
    architecture = str(metadata.get("general.architecture", ""))
    return pb.DescribeReply(
        architecture=architecture,
        name=str(metadata.get("general.name", "")),
        file_type=file_type_name(metadata),
        vocab_type=prompts.tokenizer.vocab_type,
        vocab_size=prompts.tokenizer.vocab_size,
        embedding_length=int(metadata.get(f"{architecture}.embedding_length", 0)),
        chat_template=prompts.template.source,
        bos_token=prompts.piece_text(prompts.tokenizer.bos_id),
        eos_token=prompts.piece_text(prompts.tokenizer.eos_id),
        **facts,
    )
