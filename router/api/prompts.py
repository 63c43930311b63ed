"""The `prompt` field: text, token ids, both mixed, an object around text, or an array of those.

Called by api/completions.py, native.py and text.py. Invariant: a part's text is text and its ids lie in 0..2^31-1;
whether the model's vocabulary has them, the worker decides.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from protos import inference_pb2 as pb
from router.api.fields import INT32_MAX, Body, out_of_range, shown, wrong_type
from router.errors import InvalidRequest, NotSupported

EXPECTED = "a string, an array of token ids and strings, or an array of those"


@dataclass(frozen=True, slots=True)
class PromptText:
    """One prompt; `text` where the client gave it as text alone."""

    parts: pb.PromptParts
    text: str | None = None

    @property
    def proto(self) -> pb.Prompt:
        return pb.Prompt(parts=self.parts)


def prompts(body: Body) -> list[PromptText]:
    """The prompts of a completion body, in order, at least one."""
    value = body.get("prompt")
    if value is None:
        raise InvalidRequest("'prompt' is required")
    if isinstance(value, list) and not _is_mixed(value):
        return [_single(f"prompt[{index}]", each) for index, each in enumerate(value)]
    return [_single("prompt", value)]


def _is_mixed(value: list[Any]) -> bool:
    """Ids make an array one prompt; an array of strings alone is several. An empty one is neither."""
    if not value:
        raise InvalidRequest("'prompt' must not be an empty array")
    return any(isinstance(item, int | float) for item in value)


def _single(name: str, value: Any) -> PromptText:
    if isinstance(value, dict):
        value = _prompt_string(name, value)
    if isinstance(value, str):
        return PromptText(pb.PromptParts(parts=[pb.PromptPart(text=value)]), value)
    if not isinstance(value, list):
        raise wrong_type(name, EXPECTED, value)
    return PromptText(parts(name, value))


def _prompt_string(name: str, value: dict[str, Any]) -> Any:
    if value.get("multimodal_data"):
        raise NotSupported(f"Field '{name}': multimodal_data is not supported")
    if not isinstance(value.get("prompt_string"), str):
        raise wrong_type(f"{name}.prompt_string", "a string", value.get("prompt_string"))
    return value["prompt_string"]


def parts(name: str, items: Sequence[Any]) -> pb.PromptParts:
    """An array of ids and strings; ids in a row become one part."""
    result = pb.PromptParts()
    ids: pb.TokenIds | None = None
    for index, item in enumerate(items):
        if isinstance(item, str):
            result.parts.add(text=item)
            ids = None
            continue
        if ids is None:
            ids = result.parts.add(tokens=pb.TokenIds()).tokens
        ids.ids.append(token_id(f"{name}[{index}]", item))
    return result


def token_id(name: str, value: Any) -> int:
    """A token id any vocabulary might have."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise wrong_type(name, "a token id or a string", value)
    if not 0 <= value <= INT32_MAX:
        raise out_of_range(name, 0, INT32_MAX, value)
    return value


def token_ids(name: str, value: Any) -> list[int]:
    """An array of nothing but ids."""
    if not isinstance(value, list):
        raise InvalidRequest(f"Field '{name}': expected an array of token ids, but got {shown(value)}")
    return [token_id(f"{name}[{index}]", item) for index, item in enumerate(value)]
