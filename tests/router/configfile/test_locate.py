import tomllib

from hypothesis import given
from hypothesis import strategies as st

from router.configfile.locate import locate

TEXT = '''# a comment with = and [brackets]
[server]
port = 80 # more
"ctx-size" = 4
a.b = """
[not.a.table]
x = 1
"""
[models.x]
worker = { t = 1, "u v" = [1,
  2] }
list = [ # comment ]
  "a", 'b]', {z = 1},
]
[[many]]
k = 1979-05-27T07:32:00Z
[[many]]
q = 'it # is'
'''


def test_every_key_stands_on_its_line() -> None:
    tomllib.loads(TEXT)
    assert locate(TEXT) == {
        ("server",): 2,
        ("server", "port"): 3,
        ("server", "ctx-size"): 4,
        ("server", "a"): 5,
        ("server", "a", "b"): 5,
        ("models",): 9,
        ("models", "x"): 9,
        ("models", "x", "worker"): 10,
        ("models", "x", "worker", "t"): 10,
        ("models", "x", "worker", "u v"): 10,
        ("models", "x", "worker", "u v", "0"): 10,
        ("models", "x", "worker", "u v", "1"): 11,
        ("models", "x", "list"): 12,
        ("models", "x", "list", "0"): 13,
        ("models", "x", "list", "1"): 13,
        ("models", "x", "list", "2"): 13,
        ("models", "x", "list", "2", "z"): 13,
        ("many",): 15,
        ("many", "k"): 16,
        ("many", "q"): 18,
    }


PIECES = [
    "[a]",
    "[a.'b c']",
    "k = 1",
    'k2 = "x # y"',
    "l = [\n1, 2 ]",
    "t = {x = 1, y = {z = 2}}",
    "# c",
    "",
    "m = '''\n]'''",
]


@given(st.lists(st.sampled_from(PIECES), max_size=12))
def test_whatever_tomllib_reads_has_a_line_for_each_key(pieces: list[str]) -> None:
    text = "\n".join(pieces)
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return
    lines = locate(text)
    assert {path for path in _paths(document, ())} <= set(lines)


def _paths(value: object, path: tuple[str, ...]) -> list[tuple[str, ...]]:
    if not isinstance(value, dict):
        return [path]
    return [found for key, each in value.items() for found in _paths(each, (*path, key))] + ([path] if path else [])
