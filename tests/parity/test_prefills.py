"""A conversation that ends with an answer becomes the prompt, or the error, that the peer makes of it."""

import json
from typing import Any

import pytest

from router.api.messages import conversation
from router.errors import InvalidRequest
from tests.parity.record_prefills import RECORD, TEMPLATES
from worker.text.chat_template import ChatTemplate

CASES: list[dict[str, Any]] = json.loads(RECORD.read_text("utf-8"))["cases"]


def prompt_of(template: str, body: dict[str, Any], prefills: bool) -> str:
    """Through the gateway's reading of the body and the worker's template, as a request goes."""
    chat = conversation(body, {} if prefills else {"prefill_assistant": False}).proto
    return ChatTemplate(TEMPLATES[template], bos_token="<s>", eos_token="</s>").render(
        json.loads(chat.messages_json),
        tools=None,
        add_generation_prompt=chat.add_generation_prompt,
        continued=chat.continued,
        arguments=json.loads(chat.template_arguments_json or "{}"),
    )


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['template']}, {CASES.index(case)}")
def test_an_answer_goes_on_where_the_peers_does(case: dict[str, Any]) -> None:
    if "error" in case:
        with pytest.raises(InvalidRequest) as refused:
            prompt_of(case["template"], case["body"], case["prefills"])
        assert refused.value.message == case["error"]
    else:
        assert prompt_of(case["template"], case["body"], case["prefills"]) == case["prompt"]
