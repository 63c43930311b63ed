"""What a `prompt` may be, and which parts it becomes."""

from typing import Any

import pytest

from protos import inference_pb2 as pb
from router.api.prompts import prompts
from router.errors import InvalidRequest


def shape(parts: pb.PromptParts) -> list[Any]:
    return [part.text if part.HasField("text") else list(part.tokens.ids) for part in parts.parts]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("a", [["a"]]),
        ("", [[""]]),
        ([1, 2, 3], [[[1, 2, 3]]]),
        ([1, "a", 2, 3, "b", "c"], [[[1], "a", [2, 3], "b", "c"]]),
        (["a", 1], [["a", [1]]]),
        (["a", "b"], [["a"], ["b"]]),
        (["a"], [["a"]]),
        ([[1, 2], [3]], [[[1, 2]], [[3]]]),
        ([[1, 2], "a", [3, "b"]], [[[1, 2]], ["a"], [[3], "b"]]),
        ({"prompt_string": "a"}, [["a"]]),
        ([{"prompt_string": "a"}, "b"], [["a"], ["b"]]),
        ([[]], [[]]),
    ],
)
def test_a_prompt_becomes_parts(value: Any, expected: list[Any]) -> None:
    assert [shape(prompt.parts) for prompt in prompts({"prompt": value})] == expected


@pytest.mark.parametrize("value", [None, [], 5, True, [True], [[["a"]]], [None], [1, None], [1, [2]], {"a": 1}, [-1]])
def test_anything_else_is_refused(value: Any) -> None:
    with pytest.raises(InvalidRequest, match="prompt"):
        prompts({"prompt": value})


def test_only_text_alone_is_remembered_as_text() -> None:
    assert [prompt.text for prompt in prompts({"prompt": ["a", [1], ["b"]]})] == ["a", None, None]
