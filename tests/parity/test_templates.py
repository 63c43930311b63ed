"""Conversations render through the model's own template to the text the peer makes of them."""

import pytest

from tests.models import smollm2
from tests.parity import oracle
from tests.parity.oracle import Case, Endpoint
from tests.parity.record_greedy import RECORD
from worker.gguf import GGUF
from worker.text.chat_template import ChatTemplate

CHATS = [case for case in oracle.load(RECORD).cases if case.endpoint is Endpoint.CHAT]


@pytest.fixture(scope="module")
def template() -> ChatTemplate:
    with GGUF.open(smollm2()) as gguf:
        source = str(gguf.metadata["tokenizer.chat_template"])
    return ChatTemplate(source, bos_token="<|im_start|>", eos_token="<|im_end|>")


@pytest.mark.parametrize("case", CHATS, ids=lambda case: case.name)
def test_a_conversation_renders_as_the_peer_renders_it(template: ChatTemplate, case: Case) -> None:
    rendered = template.render(case.body["messages"], tools=None, add_generation_prompt=True, arguments={})
    assert rendered == case.rendered
