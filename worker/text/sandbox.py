"""Jinja for templates we did not write: every step is paid from a fixed budget, every growing operation measured first.

The only place in the project that makes a Jinja environment; chat_template.py renders with it. A template comes with a
model file and is as hostile as the file. Jinja's sandbox keeps it from Python's internals but does not bound its work:

- loops, output, comparisons, literals and joined strings are rewritten after parsing to charge a `Budget`;
- operators, calls, filters and tests charge it for the size of what goes in and of what comes out;
- methods, filters and tests are those on a list, and what they would return is measured before (growth.py).

Invariant: between two charges a template does a bounded amount of work, so nothing has to be interrupted from outside.
"""

import time
from collections.abc import Callable, Mapping
from types import BuiltinMethodType
from typing import Any

from jinja2 import nodes
from jinja2.exceptions import SecurityError, TemplateSyntaxError
from jinja2.ext import Extension
from jinja2.filters import FILTERS
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.tests import TESTS
from jinja2.utils import Namespace, pass_context
from jinja2.visitor import NodeTransformer

from worker.text.growth import PER_ITEM, growth, operator_growth, size_of
from worker.text.template_filters import CHAT_FILTERS

BUDGET = "(budget)"  # a variable no template can name

_TOTAL = 64_000_000  # characters one rendering may produce or look at
_PER_ITERATION = 200  # what a turn of a loop counts for, in characters
_DEEPEST_LOOP = 16  # Python allows 20; compiling more than that takes Jinja seconds before Python refuses
_CPU_SECONDS = 1.0  # of the rendering thread: for machines slower than the numbers above were chosen on

_FILTERS = (
    "abs attr batch capitalize center count d default dictsort first float format groupby indent int items last "
    "length list lower map max min reject rejectattr replace reverse round select selectattr slice sort sum title "
    "trim truncate unique upper urlencode wordcount"
)
_TESTS = (
    "!= < <= == > >= boolean callable defined divisibleby eq equalto even false float ge greaterthan gt in integer "
    "iterable le lessthan lower lt mapping ne none number odd sameas sequence string true undefined upper"
)
_STRING_METHODS = (
    "capitalize casefold center count endswith expandtabs find index isalnum isalpha isascii isdecimal isdigit "
    "islower isnumeric isspace istitle isupper join ljust lower lstrip partition removeprefix removesuffix replace "
    "rfind rindex rjust rpartition rsplit rstrip split splitlines startswith strip swapcase title upper zfill"
)
_METHODS: Mapping[type, frozenset[str]] = {
    str: frozenset(_STRING_METHODS.split()),
    dict: frozenset(("get", "items", "keys", "values")),
    list: frozenset(("count", "index")),
    tuple: frozenset(("count", "index")),
}


class Budget:
    """What is left of one rendering."""

    def __init__(self) -> None:
        self._left = _TOTAL
        self._deadline = time.thread_time() + _CPU_SECONDS

    def spend(self, amount: int) -> None:
        self._left -= amount
        if self._left < 0 or time.thread_time() > self._deadline:
            raise SecurityError("it does too much work")


class QuietNamespace(Namespace):
    """`namespace()`, printed without its content: namespaces can hold each other, and printing would explode."""

    def __repr__(self) -> str:
        return "<Namespace>"


class GenerationTag(Extension):
    """`{% generation %}` marks the assistant's text for training. Here it means nothing."""

    tags = {"generation"}  # noqa: RUF012  (declared so by the base class)

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _budget_of(context: Context) -> Budget:
    budget: Budget = context.parent[BUDGET]
    return budget


@pass_context
def _charge(context: Context, amount: int) -> bool:
    _budget_of(context).spend(amount)
    return True


@pass_context
def _weigh(context: Context, value: Any) -> Any:
    _budget_of(context).spend(size_of(value))
    return value


@pass_context
def _concatenate(context: Context, parts: tuple[Any, ...]) -> str:
    _budget_of(context).spend(size_of(parts))
    return "".join(map(str, parts))


class _Metering(NodeTransformer):
    """Rewrites a parsed template so that it pays as it goes. The filters it adds have names no template can write."""

    def __init__(self) -> None:
        self._depth = 0

    def visit_For(self, node: nodes.For) -> nodes.Node:
        if self._depth == _DEEPEST_LOOP:
            raise TemplateSyntaxError("loops are nested too deeply", node.lineno)
        self._depth += 1
        self.generic_visit(node)
        self._depth -= 1
        node.body.insert(0, nodes.ExprStmt(_added("(charge)", nodes.Const(_PER_ITERATION))))
        if node.test is not None:
            node.test = nodes.And(_added("(charge)", nodes.Const(_PER_ITERATION)), node.test)
        return node

    def visit_Output(self, node: nodes.Output) -> nodes.Node | list[nodes.Node]:
        self.generic_visit(node)
        size = sum(len(child.data) for child in node.nodes if isinstance(child, nodes.TemplateData))
        return [nodes.ExprStmt(_added("(charge)", nodes.Const(size))), node] if size else node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        return _added("(concatenate)", nodes.Tuple(node.nodes, "load"))

    def visit_Compare(self, node: nodes.Compare) -> nodes.Node:
        self.generic_visit(node)
        node.expr = _weighed(node.expr)
        for operand in node.ops:
            operand.expr = _weighed(operand.expr)
        return node

    def visit_List(self, node: nodes.List) -> nodes.Node:
        self.generic_visit(node)
        return _weighed(node)

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Node:
        self.generic_visit(node)
        return _weighed(node) if node.ctx == "load" else node

    def visit_Dict(self, node: nodes.Dict) -> nodes.Node:
        self.generic_visit(node)
        return _weighed(node)

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:
        self.generic_visit(node)
        return _weighed(node) if isinstance(node.arg, nodes.Slice) else node


def _added(name: str, value: nodes.Expr) -> nodes.Filter:
    return nodes.Filter(value, name, [], [], None, None)


def _weighed(node: nodes.Expr) -> nodes.Expr:
    return node if isinstance(node, nodes.Const) else _added("(weigh)", node)


class Sandbox(ImmutableSandboxedEnvironment):
    """The environment. Holds nothing of a rendering: one serves any number of renderings and threads.

    `functions` are what templates may call besides range, dict, namespace, joiner and cycler.
    """

    intercepted_binops = frozenset(ImmutableSandboxedEnvironment.default_binop_table)

    def __init__(self, functions: Mapping[str, Callable[..., Any]]) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            optimized=False,  # constant expressions would be computed while compiling, unpaid
            extensions=["jinja2.ext.loopcontrols", GenerationTag],
            finalize=_weigh,
        )
        tests: Mapping[str, Callable[..., Any]] = dict(TESTS)  # type: ignore[arg-type]  # some are builtins
        own = {name: self.globals[name] for name in ("cycler", "dict", "joiner", "range")}
        self.globals = {**own, "namespace": QuietNamespace, **functions}
        self.tests = {name: _metered(name, tests[name]) for name in _TESTS.split()}
        self.filters = {name: _metered(name, FILTERS[name]) for name in _FILTERS.split()}
        self.filters |= {name: _metered(f"our {name}", function) for name, function in CHAT_FILTERS.items()}
        self.filters |= {"(charge)": _charge, "(weigh)": _weigh, "(concatenate)": _concatenate}

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree: nodes.Template = _Metering().visit(super()._parse(source, name, filename))
        tree.set_lineno(1)  # of what was added; the rest keeps its own
        return tree

    def wrap_str_format(self, value: Any) -> None:
        """No str.format, whose result cannot be measured beforehand: `%` and `~` do the same."""

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        if isinstance(value, BuiltinMethodType) and attr not in _METHODS.get(type(obj), ()):
            return False
        return super().is_safe_attribute(obj, attr, value)

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        budget = _budget_of(__context)
        budget.spend(size_of((args, kwargs)))
        if isinstance(__obj, BuiltinMethodType) and isinstance(__obj.__self__, str):
            budget.spend(growth(__obj.__name__, __obj.__self__, *args, **kwargs))
        result = super().call(__context, __obj, *args, **kwargs)
        budget.spend(size_of(result))
        return result

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        budget = _budget_of(context)
        budget.spend(size_of(left) + size_of(right))
        budget.spend(operator_growth(operator, left, right))
        return super().call_binop(context, operator, left, right)


def _metered(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """A filter or test that pays for what it is given, and for what it returns."""
    wanted = getattr(getattr(function, "jinja_pass_arg", None), "name", None)

    @pass_context
    def metered(context: Context, *args: Any, **kwargs: Any) -> Any:
        budget = _budget_of(context)
        budget.spend(PER_ITEM + size_of((args, kwargs)) + growth(name, *args, **kwargs))
        passed = {"context": context, "eval_context": context.eval_ctx, "environment": context.environment}
        result = function(*([passed[wanted]] if wanted else []), *args, **kwargs)
        budget.spend(size_of(result))
        return result

    return metered
