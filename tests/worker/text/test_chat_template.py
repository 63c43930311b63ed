"""Conversations to prompts: what templates are given, what they are spared, what is refused."""

from typing import Any

import pytest

from tests.worker.text.vocabularies import byte_level
from worker.errors import InvalidRequest, NotSupported
from worker.text.chat_template import CHATML, LARGEST_TEMPLATE, ChatTemplate
from worker.text.tokenizer import Tokenizer

PLAIN = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}{% if add_generation_prompt %}[bot]{% endif %}"
THINKER = (
    "{% for m in messages %}[{{ m.role }}]"
    "{% if m.role == 'assistant' %}<t>{{ m.reasoning_content or '' }}</t>{% endif %}{{ m.content }}"
    "{% endfor %}{% if add_generation_prompt %}[assistant]<t>{% endif %}"
)
PARTS = "{% for m in messages %}{% for p in m.content %}<{{ p.text }}>{% endfor %}{% endfor %}"


def user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


def render(
    source: str,
    *messages: dict[str, Any],
    prompt: bool = True,
    continued: str = "",
    tools: Any = None,
    **arguments: Any,
) -> str:
    template = ChatTemplate(source, bos_token="<s>", eos_token="</s>")
    return template.render(
        list(messages), tools=tools, add_generation_prompt=prompt, continued=continued, arguments=arguments
    )


def test_a_conversation_is_rendered() -> None:
    assert render(PLAIN, user("hi")) == "[user]hi[bot]"
    assert render(PLAIN, user("hi"), prompt=False) == "[user]hi"


def test_templates_see_the_bos_and_eos_tokens() -> None:
    assert render("{{ bos_token }}|{{ eos_token }}") == "<s>|</s>"


def test_lines_that_hold_only_a_tag_leave_nothing() -> None:
    assert render("{% if true %}\n  {% if true %}\nx\n  {% endif %}\n{% endif %}\n") == "x\n"


def test_parts_of_content_become_lines_of_text() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert render(PLAIN, user(parts)) == "[user]a\nb[bot]"


def test_a_template_that_wants_parts_gets_them() -> None:
    assert render(PARTS, user("a")) == "<a>"
    assert render(PARTS, user([{"type": "text", "text": "a"}])) == "<a>"


def test_a_developer_is_the_system_to_a_template_that_knows_none() -> None:
    message = {"role": "developer", "content": "x"}
    assert render(PLAIN, message) == "[system]x[bot]"
    assert render("{# developer #}" + PLAIN, message) == "[developer]x[bot]"


def test_an_answer_is_left_open_where_it_is_to_be_continued() -> None:
    answer = {"role": "assistant", "content": "Sure"}
    assert render(PLAIN, user("hi"), answer) == "[user]hi[assistant]Sure[bot]"
    assert render(PLAIN, user("hi"), answer, continued="content") == "[user]hi[bot]Sure"
    assert render(PLAIN, user("hi"), answer, continued="content", prompt=False) == "[user]hi[bot]Sure"
    assert render(PLAIN, user("hi"), answer, continued="reasoning_content") == "[user]hi[bot]"


def test_an_answer_is_continued_to_the_letter() -> None:
    answer = {"role": "assistant", "content": [{"type": "text", "text": " a "}, {"type": "text", "text": "b\n"}]}
    assert render(PLAIN, user("hi"), answer, continued="content") == "[user]hi[bot] a \nb\n"
    assert render("{{ bos_token }}" + PARTS, user("hi"), answer, continued="content") == "<s><hi> a \nb\n"


def test_a_begun_answer_stands_behind_its_thoughts_where_a_template_shows_them() -> None:
    answer = {"role": "assistant", "content": "Sure", "reasoning_content": "hm"}
    assert render(THINKER, user("hi"), answer, continued="content") == "[user]hi[assistant]<t>hm</t>Sure"
    assert render(THINKER, user("hi"), answer, continued="reasoning_content") == "[user]hi[assistant]<t>hm"
    answer["reasoning_content"] = ""
    assert render(THINKER, user("hi"), answer, continued="content") == "[user]hi[assistant]<t></t>Sure"


def test_a_template_that_shows_no_thoughts_of_the_last_answer_is_asked_for_one() -> None:
    answer = {"role": "assistant", "content": "Sure", "reasoning_content": "hm"}
    assert render("{# reasoning_content #}" + PLAIN, user("hi"), answer, continued="content") == "[user]hi[bot]Sure"


def test_what_others_write_is_not_taken_for_the_answer() -> None:
    answer = {"role": "assistant", "content": "Sure", "reasoning_content": "hm"}
    before = (user("Sure"), answer, user("hm"))
    expected = "[user]Sure[assistant]<t>hm</t>Sure[user]hm[assistant]<t>hm</t>Sure"
    assert render(THINKER, *before, answer, continued="content") == expected


@pytest.mark.parametrize(("messages", "continued"), [((), "content"), ((user("hi"),), "tool_calls")])
def test_what_a_last_message_has_not_cannot_be_continued(messages: tuple[Any, ...], continued: str) -> None:
    with pytest.raises(InvalidRequest, match=continued):
        render(PLAIN, *messages, continued=continued)


def test_messages_are_not_changed() -> None:
    message = {"role": "developer", "content": [{"type": "text", "text": "x"}]}
    render(PLAIN, message)
    assert message == {"role": "developer", "content": [{"type": "text", "text": "x"}]}


@pytest.mark.parametrize(
    ("message", "error"),
    [
        ({"content": "x"}, "Missing 'role'"),
        ({"role": 3, "content": "x"}, "Missing 'role'"),
        ({"role": "user"}, "must contain 'content'"),
        ({"role": "user", "content": 5}, "a string or an array"),
        ({"role": "user", "content": [{"type": "image_url"}]}, r"unsupported content\[\]\.type"),
        ({"role": "user", "content": [{"type": "text", "text": 1}]}, r"unsupported content\[\]\.type"),
        ({"role": "user", "content": ["x"]}, r"unsupported content\[\]\.type"),
    ],
)
def test_messages_of_another_shape_are_refused(message: dict[str, Any], error: str) -> None:
    with pytest.raises(InvalidRequest, match=error):
        render(PLAIN, message)


@pytest.mark.parametrize("name", ["messages", "tools", "add_generation_prompt", "bos_token", "tokenize", "range"])
def test_reserved_arguments_are_refused(name: str) -> None:
    template = ChatTemplate(PLAIN, bos_token="", eos_token="")
    with pytest.raises(InvalidRequest, match=f"argument '{name}' is reserved"):
        template.render([user("x")], tools=None, add_generation_prompt=True, arguments={name: 1})


def test_other_arguments_reach_the_template() -> None:
    assert render("{{ enable_thinking }}", enable_thinking=False) == "False"


def test_tools_reach_the_template_and_no_tools_are_none() -> None:
    assert render("{{ tools is none }}", tools=[]) == "True"
    assert render("{{ tools[0].name }}", tools=[{"name": "f"}]) == "f"


def test_a_template_may_refuse_a_conversation() -> None:
    with pytest.raises(InvalidRequest, match=r"^roles must alternate$"):
        render("{{ raise_exception('roles must alternate') }}", user("x"))


@pytest.mark.parametrize(
    "source", ["{{ 1 // 0 }}", "{{ messages + 1 }}", "{{ missing.name }}", "{{ 'x'.center('y') }}"]
)
def test_errors_inside_a_template_are_one_line_for_the_client(source: str) -> None:
    with pytest.raises(InvalidRequest, match=r"^chat template: [^\n]+$"):
        render(source, user("x"))


@pytest.mark.parametrize(
    "source", ["{% if %}", "{{ x", "{% nonsense %}", "{{ x|nofilter }}", "a" * (LARGEST_TEMPLATE + 1)]
)
def test_a_template_that_does_not_compile_leaves_plain_completion(source: str) -> None:
    template = ChatTemplate(source, bos_token="", eos_token="")
    assert template.fault is not None
    with pytest.raises(NotSupported, match="/v1/completions"):
        template.render([user("x")], tools=None, add_generation_prompt=True, arguments={})


def test_json_is_written_as_transformers_writes_it() -> None:
    assert render("{{ tools|tojson }}", tools=[{"é": "<b>&'", "n": [1, 2.5, None, True]}]) == (
        '[{"é": "<b>&\'", "n": [1, 2.5, null, true]}]'
    )
    assert render("{{ {'b': 1, 'a': 2}|tojson(sort_keys=true, separators=(',', ':')) }}") == '{"a":2,"b":1}'
    assert render("{{ {'a': [1]}|tojson(indent=2) }}") == '{\n  "a": [\n    1\n  ]\n}'


def test_text_is_never_escaped_as_html() -> None:
    assert render("{{ '<b>'|safe ~ '&' }}{{ '<'|string }}") == "<b>&<"


def test_loop_controls_and_generation_marks_are_known() -> None:
    assert render("{% for i in range(9) %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}") == "01"
    assert render("{% generation %}a{{ 1 }}{% endgeneration %}b") == "a1b"


def test_dates_can_be_written() -> None:
    assert render("{{ strftime_now('%Y')|int > 2023 }}") == "True"


def test_a_file_without_a_template_gets_chatml() -> None:
    template = ChatTemplate.from_metadata({}, Tokenizer(byte_level()))
    assert template.source == CHATML
    prompt = template.render([user("hi")], tools=None, add_generation_prompt=True, arguments={})
    assert prompt == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"


def test_a_bos_the_tokenizer_adds_is_not_written_twice() -> None:
    metadata = byte_level(control=["<s>"]) | {"tokenizer.ggml.bos_token_id": 256}
    metadata["tokenizer.chat_template"] = "{{ bos_token }}{{ messages[0].content }}{{ bos_token }}"
    rendered = {}
    for adds in (True, False):
        tokenizer = Tokenizer(metadata | {"tokenizer.ggml.add_bos_token": adds})
        template = ChatTemplate.from_metadata(metadata, tokenizer)
        rendered[adds] = template.render([user("a")], tools=None, add_generation_prompt=True, arguments={})
        assert tokenizer.encode(rendered[adds]) == [256, ord("a"), 256]
    assert rendered == {True: "a<s>", False: "<s>a<s>"}


def test_common_idioms_of_real_templates_work() -> None:
    source = (
        "{%- set ns = namespace(found=false, text='') -%}"
        "{%- macro show(item, depth=0) -%}{{ '  ' * depth }}{{ item.name|upper }}"
        "{%- for child in item.children or [] %}{{ show(child, depth + 1) }}{% endfor -%}{%- endmacro -%}"
        "{%- for message in messages[1:] if message.role != 'system' -%}"
        "{%- set ns.found = true -%}{%- set ns.text = ns.text ~ message['content'] | trim -%}"
        "{{- '%s:%02d' % (message.role, loop.index) -}}{%- if not loop.last %}, {% endif -%}"
        "{%- endfor -%}|{{ ns.found }}|{{ ns.text }}|{{ show({'name': 'a', 'children': [{'name': 'b'}]}) }}"
        "|{{ ['x', 'y']|join(',') }}|{{ messages|selectattr('role', 'equalto', 'user')|list|length }}"
        "|{{ 'a,b'.split(',')[-1] }}|{{ {'k': 1}.items()|list }}|{{ 'abc' is string and 'b' in 'abc' }}"
    )
    system, first = {"role": "system", "content": "s"}, user(" hi ")
    assert render(source, system, first, user("you")) == ("user:01, user:02|True|hiyou|A  B|x,y|2|b|[('k', 1)]|True")
