"""Hostile templates: each must end by itself, with an error, whatever it tries to make large or long.

Nothing here is interrupted from outside; a template that is not stopped hangs or exhausts memory, and so fails.
"""

from typing import Any

import pytest

from worker.errors import InvalidRequest, NotSupported
from worker.text.chat_template import ChatTemplate
from worker.text.growth import LARGEST, size_of

DOUBLING = "{% set ns = namespace(x=START) %}{% for i in range(200) %}BODY{% endfor %}{{ ns.x }}"


def doubling(body: str, start: str = "'x'") -> str:
    return DOUBLING.replace("BODY", body).replace("START", start)


WORK = {
    "nested loops": "{% for a in range(90000) %}{% for b in range(90000) %}{% endfor %}{% endfor %}",
    "nested loops that filter": "{% for a in range(90000) %}{% for b in range(90000) if 0 %}{% endfor %}{% endfor %}",
    "loops that continue": "{% for a in range(9**5) %}{% for b in range(9**5) %}{% continue %}{% endfor %}{% endfor %}",
    "loops over text": "{% set s = 'x' * 3000000 %}{% for a in s %}{% for b in s %}{% endfor %}{% endfor %}",
    "macros that call themselves twice": (
        "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(70) }}"
    ),
    "plain text in a loop": "{% for i in range(90000) %}" + "x" * 20000 + "{% endfor %}",
    "generators in generators": (
        "{% for a in range(90000)|map('string') %}{% for b in range(90000)|map('string') %}{% endfor %}{% endfor %}"
    ),
    "comparing long texts": (
        "{% set a = 'x' * 4000000 %}{% set b = a ~ '' %}{% for i in range(999) %}{% if a == b %}{% endif %}{% endfor %}"
    ),
    "searching a long list": "{% set a = range(50000)|list %}{% for i in a %}{{ -1 in a }}{% endfor %}",
    "slices": "{% set a = 'x' * 4000000 %}{% for i in range(90000) %}{% set b = a[1:] %}{% endfor %}",
}
SIZE = {
    "repeated text": "{{ 'x' * 10**9 }}",
    "repeated list": "{{ 10**9 * [1] }}",
    "power": "{{ 10**10000000 }}",
    "power of a power": "{{ 10**(10**7) }}",
    "products of integers": doubling("{% set ns.x = ns.x * ns.x %}", "2 ** 4000"),
    "center": "{{ 'x'|center(500000000) }}",
    "center method": "{{ 'x'.center(500000000) }}",
    "ljust": "{{ 'x'.ljust(500000000) }}",
    "zfill": "{{ 'x'.zfill(500000000) }}",
    "expandtabs": "{{ '\t'.expandtabs(500000000) }}",
    "width": "{{ '%0900000000d' % 1 }}",
    "precision": "{{ '%.900000000f' % 1.5 }}",
    "width by argument": "{{ '%*d' % (900000000, 1) }}",
    "width in the filter": "{{ '%0900000000d'|format(1) }}",
    "str.format": "{{ '{:>900000000}'.format(1) }}",
    "str.format_map": "{{ '{a:>900000000}'.format_map({'a': 1}) }}",
    "many fields": "{{ ('%(a)s' * 100000) % {'a': 'x' * 100000} }}",
    "joined text": doubling("{% set ns.x = ns.x ~ ns.x %}"),
    "added text": doubling("{% set ns.x = ns.x + ns.x %}"),
    "captured text": doubling("{% set t %}{{ ns.x }}{{ ns.x }}{% endset %}{% set ns.x = t %}"),
    "added lists": doubling("{% set ns.x = ns.x + ns.x %}", "[1]"),
    "lists of lists": doubling("{% set ns.x = [ns.x, ns.x] %}"),
    "tuples of tuples": doubling("{% set ns.x = (ns.x, ns.x) %}"),
    "dicts of dicts": doubling("{% set ns.x = {'a': ns.x, 'b': ns.x} %}"),
    "dicts by call": doubling("{% set ns.x = dict(a=ns.x, b=ns.x) %}"),
    "replace": "{% set a = 'x' * 100000 %}{{ a|replace('x', a) }}",
    "replace method": "{% set a = 'x' * 100000 %}{{ a.replace('', a) }}",
    "join": "{% set a = 'x' * 100000 %}{{ a|join(a) }}",
    "join method": "{% set a = 'x' * 100000 %}{{ a.join(a) }}",
    "join of a generator": "{% set a = 'x' * 100000 %}{{ a.join(a|map('upper')) }}",
    "indent": "{{ ('a\n' * 10000)|indent(1000000) }}",
    "indent by text": "{{ ('a\n' * 10000)|indent('x' * 10000) }}",
    "indented json": "{{ [1]|tojson(indent=1000000000) }}",
    "batch": "{{ [1]|batch(1000000000, 1)|list }}",
    "slice": "{{ [1]|slice(1000000000)|list }}",
    "round": "{{ 1.5|round(100000000, 'ceil') }}",
    "sum of lists": "{{ ([[1]] * 10000)|sum(start=[]) }}",
    "strip": "{% set a = 'x' * 4000000 %}{{ a.strip('y' * 4000000 ~ 'x') }}",
    "trim": "{% set a = 'x' * 4000000 %}{{ a|trim('y' * 4000000 ~ 'x') }}",
    "title": "{{ ('x y' * 2000000)|title }}",
    "large numbers from text": "{{ ('f' * 4000000)|int(base=16) }}",
    "bytes of a number": "{{ (1).to_bytes(1000000000, 'big') }}",
    "range": "{{ range(10**9)|list }}",
    "date": "{{ strftime_now('%Y' * 10000) }}",
}
ESCAPES = {
    "class": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "globals": "{{ raise_exception.__globals__['os'] }}",
    "attr": "{{ (''|attr('__class__')).x }}",
    "append": "{{ messages.append(1) }}",
    "update": "{{ messages[0].update({}) }}",
    "include": "{% include '/etc/passwd' %}",
    "import": "{% import '/etc/passwd' as x %}",
    "lipsum": "{{ lipsum(1000) }}",
    "context": "{{ self._TemplateReference__context.parent }}",
    "format": "{{ '{0.__class__.__mro__}'.format(1) }}",
}
DEEP = {
    "a macro that calls itself": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "a block that shows itself": "{% block a %}{{ self.a() }}{% endblock %}",
    "a loop that calls itself": "{% for x in [[1]] recursive %}{{ loop([[1]]) }}{% endfor %}",
    "parentheses": "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
    "loops": "{% for a in [1] %}" * 100 + "{% endfor %}" * 100,
    "filters": "{{ range(10)" + "|map('string')" * 2000 + "|list }}",
}


def refusal(source: str) -> Exception:
    template = ChatTemplate(source, bos_token="", eos_token="")
    messages: list[dict[str, Any]] = [{"role": "user", "content": "x"}]
    with pytest.raises((InvalidRequest, NotSupported)) as caught:
        template.render(messages, tools=None, add_generation_prompt=True, arguments={})
    return caught.value


@pytest.mark.parametrize("source", WORK.values(), ids=WORK)
def test_work_without_end_is_stopped(source: str) -> None:
    assert "it does too much work" in str(refusal(source))


@pytest.mark.parametrize("source", SIZE.values(), ids=SIZE)
def test_what_would_grow_without_bound_is_refused(source: str) -> None:
    assert "MemoryError" not in str(refusal(source))


@pytest.mark.parametrize("source", ESCAPES.values(), ids=ESCAPES)
def test_python_is_out_of_reach(source: str) -> None:
    assert "object at 0x" not in str(refusal(source))


@pytest.mark.parametrize("source", DEEP.values(), ids=DEEP)
def test_depth_without_end_is_an_error(source: str) -> None:
    refusal(source)


def test_a_bomb_set_off_by_a_message_fails_that_request_only() -> None:
    template = ChatTemplate("{{ 'x' * (messages[0].content|int) }}", bos_token="", eos_token="")
    assert template.fault is None

    def render(content: str) -> str:
        message = {"role": "user", "content": content}
        return template.render([message], tools=None, add_generation_prompt=True, arguments={})

    with pytest.raises(InvalidRequest, match="too large a value"):
        render("1000000000")
    assert render("3") == "xxx"


def test_a_template_that_always_explodes_is_tried_once() -> None:
    template = ChatTemplate(WORK["nested loops"], bos_token="", eos_token="")
    assert template.fault == "it does too much work"
    assert isinstance(refusal(WORK["nested loops"]), NotSupported)


def test_namespaces_that_hold_each_other_print_nothing_of_it() -> None:
    source = "{% set a = namespace() %}{% set b = namespace(x=a, y=a) %}{% set a.x = b %}{{ [a, b] }}"
    template = ChatTemplate(source, bos_token="", eos_token="")
    rendered = template.render([], tools=None, add_generation_prompt=False, arguments={})
    assert rendered == "[<Namespace>, <Namespace>]"


def test_long_conversations_are_within_the_budget() -> None:
    source = "{% for m in messages %}{{ '<' + m.role + '>' + (m['content']|trim) + '\n' }}{% endfor %}"
    template = ChatTemplate(source, bos_token="", eos_token="")
    messages = [{"role": "user", "content": "word " * 100} for _ in range(4096)]
    rendered = template.render(messages, tools=None, add_generation_prompt=False, arguments={})
    assert len(rendered) == 4096 * (len("<user>\n") + 499)


def test_a_value_held_twice_counts_twice() -> None:
    inner = ["x" * 1000] * 10
    assert size_of([inner, inner]) > 2 * 10 * 1000
    assert size_of("x" * 1000) < LARGEST
