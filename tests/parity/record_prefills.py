"""Records the prompts that the peer's server makes of conversations that end with an answer, for test_prefills.py:

    python -m tests.parity.record_prefills PATH/TO/llama-server MODEL.gguf

Left out is what the peer gets wrong: of an answer begun with nothing it leaves out the header, too, and it puts two
line breaks between the parts of one. Invariant: the record depends on the templates here and the peer alone; of the
model it needs that it loads.
"""

import argparse
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx

from tests.parity.record_greedy import running_peer, version

RECORD = Path(__file__).with_name("prefills.json")

_TURNS = """\
{%- for message in messages %}
{%- if message.role == 'assistant' %}
{{- '<|im_start|>assistant\\n' }}
{%- if message.reasoning_content is string and message.reasoning_content %}
{{- '<think>\\n' + message.reasoning_content + '\\n</think>\\n\\n' }}
{%- endif %}
{{- message.content + '<|im_end|>\\n' }}
{%- else %}
{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
{%- endif %}
{%- endfor %}
"""
_ASKS = "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}"
_NO_THOUGHTS = "{%- if enable_thinking is defined and not enable_thinking %}{{- '<think>\\n\\n</think>\\n\\n' }}"
TEMPLATES = {
    "plain": "{%- for message in messages %}{{- '[' + message.role + ']' + message.content + '[end]' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '[assistant]' }}{%- endif %}",
    "may think": f"{_TURNS}{_ASKS}{_NO_THOUGHTS}{{%- endif %}}{{%- endif %}}",
    "thinks": f"{_TURNS}{_ASKS}{_NO_THOUGHTS}{{%- else %}}{{{{- '<think>\\n' }}}}{{%- endif %}}{{%- endif %}}",
}

_USER = {"role": "user", "content": "Count: 1 2 3"}
_BEGUN = {"role": "assistant", "content": "4 5"}
_SPACED = {"role": "assistant", "content": " 4 \n"}
_THOUGHT = {"role": "assistant", "content": "4 5", "reasoning_content": "hm"}
_THINKING = {"role": "assistant", "content": "", "reasoning_content": "hm"}
_RAW = {"role": "assistant", "content": "<think>\nhm\n</think>\n\n4 5"}
_CALL = {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}
_CALLING = {"role": "assistant", "content": "hm", "tool_calls": [_CALL]}
_NOT_ASKED = {"add_generation_prompt": False}
BODIES: Sequence[dict[str, Any]] = (
    *({"messages": [_USER, last]} for last in (_BEGUN, _SPACED, _THOUGHT, _THINKING, _RAW, _CALLING)),
    *(
        {"messages": [_USER, last], "continue_final_message": part, **_NOT_ASKED}
        for last in (_BEGUN, _THOUGHT, _THINKING, _CALLING)
        for part in (True, "content", "reasoning_content", False)
    ),
    {"messages": [_BEGUN]},
    {"messages": [_USER], "continue_final_message": True, **_NOT_ASKED},
    {"messages": [_USER], "continue_final_message": True},
    {"messages": [_USER, _BEGUN], "continue_final_message": True},
    {"messages": [_USER, _BEGUN], "chat_template_kwargs": {"enable_thinking": False}},
    {"messages": [_USER, _BEGUN, _BEGUN]},
    {"messages": [_USER, _BEGUN, _BEGUN], "continue_final_message": True, **_NOT_ASKED},
    {"messages": [_USER, _BEGUN, _USER]},
    {"messages": [_USER, _BEGUN, {"role": "user", "content": None}]},
    {"messages": []},
)
# With and without the server going on from a last answer on its own.
FLAGS = {True: (), False: ("--no-prefill-assistant",)}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="record_prefills", description="Record how answers are continued.")
    parser.add_argument("server", type=Path, help="llama-server's executable")
    parser.add_argument("model", type=Path, help="the GGUF file")
    options = parser.parse_args(arguments)
    lines = []
    for name, source in TEMPLATES.items():
        for prefills, flags in FLAGS.items():
            with tempfile.NamedTemporaryFile("w", suffix=".jinja") as file:
                file.write(source)
                file.flush()
                template = ("--jinja", "--chat-template-file", file.name)
                with running_peer(options.server, options.model, flags=(*template, *flags)) as client:
                    lines += [_line(name, prefills, body, client) for body in BODIES]
    peer = json.dumps(version(options.server))
    RECORD.write_text(f'{{"peer":{peer},"cases":[\n' + ",\n".join(lines) + "\n]}\n", "utf-8")
    return 0


def _line(template: str, prefills: bool, body: dict[str, Any], client: httpx.Client) -> str:
    answer = client.post("/apply-template", json=body).json()
    said = {"prompt": answer["prompt"]} if "prompt" in answer else {"error": answer["error"]["message"]}
    return json.dumps({"template": template, "prefills": prefills, "body": body, **said}, ensure_ascii=False)


if __name__ == "__main__":
    raise SystemExit(main())
