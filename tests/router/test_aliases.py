from pathlib import Path

import pytest

from router.aliases import AliasTable, Route
from router.config import ModelConfig
from router.errors import InvalidRequest, ModelNotFound


def table(*names: tuple[str, ...]) -> AliasTable:
    return AliasTable([ModelConfig(Path(f"/{names[0]}.gguf"), names) for names in names])


def test_every_alias_leads_to_its_model() -> None:
    aliases = table(("llama", "chat"), ("code",))
    assert aliases.resolve("llama") == Route("llama", "llama")
    assert aliases.resolve("chat") == Route("chat", "llama")
    assert aliases.resolve("code") == Route("code", "code")


@pytest.mark.parametrize("name", [None, ""])
def test_no_name_means_the_only_model(name: str | None) -> None:
    assert table(("llama", "chat")).resolve(name) == Route("llama", "llama")


def test_no_name_among_several_models_is_an_error_that_lists_them() -> None:
    with pytest.raises(InvalidRequest, match=r"^model name is missing from the request \(models: llama, chat, code\)$"):
        table(("llama", "chat"), ("code",)).resolve(None)


def test_an_unknown_name_is_never_answered_by_another_model() -> None:
    with pytest.raises(ModelNotFound) as refused:
        table(("smollm2",)).resolve("gpt-4")
    assert refused.value.nearest == ()
    assert refused.value.message == "model 'gpt-4' not found (GET /v1/models lists the models)"


def test_an_unknown_name_names_the_nearest_whatever_their_case() -> None:
    with pytest.raises(ModelNotFound) as refused:
        table(("SmolLM2-135M",), ("gemma3",)).resolve("smollm2-135m-instruct")
    assert refused.value.nearest == ("SmolLM2-135M",)
    assert "did you mean 'SmolLM2-135M'?" in refused.value.message


def test_at_most_five_names_are_suggested() -> None:
    with pytest.raises(ModelNotFound) as refused:
        table(*((f"model-{number}",) for number in range(9))).resolve("model-x")
    assert len(refused.value.nearest) == 5


def test_a_huge_unknown_name_makes_a_short_message() -> None:
    with pytest.raises(ModelNotFound) as refused:
        table(("a",)).resolve("x" * 1_000_000)
    assert len(refused.value.message) < 300
