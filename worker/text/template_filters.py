"""The filters of chat templates that differ from Jinja's: `tojson` as transformers has it, and text that is never HTML.

Put into the environment by sandbox.py, which meters them. Invariant: what is `str` stays `str`; nothing is escaped
unless a template asks for it.
"""

import html
import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from jinja2 import Environment
from jinja2.exceptions import SecurityError
from jinja2.filters import make_attrgetter
from jinja2.utils import pass_environment

from worker.text.growth import check_size, size_of

_WIDEST_INDENT = 16


def to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    if indent is not None and not (isinstance(indent, int) and indent <= _WIDEST_INDENT):
        raise SecurityError(f"tojson indents by at most {_WIDEST_INDENT} spaces")
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


@pass_environment
def join(environment: Environment, value: Iterable[Any], d: str = "", attribute: str | int | None = None) -> str:
    if attribute is not None:
        value = map(make_attrgetter(environment, attribute), value)
    parts = list(value)
    check_size(size_of(parts) + len(d) * len(parts))
    return d.join(map(str, parts))


def escape(value: Any) -> str:
    return html.escape(str(value))


CHAT_FILTERS: Mapping[str, Callable[..., Any]] = {
    "e": escape,
    "escape": escape,
    "join": join,
    "safe": str,
    "string": str,
    "tojson": to_json,
}
