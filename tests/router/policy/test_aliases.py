from collections import Counter
from pathlib import Path

import pytest

from router.config import AliasConfig, FallbackConfig, ModelConfig, Reason, ShadowConfig
from router.errors import InvalidRequest, ModelNotFound
from router.policy.aliases import AliasError, AliasTable, Route


def table(*names: tuple[str, ...], aliases: tuple[AliasConfig, ...] = ()) -> AliasTable:
    return AliasTable([ModelConfig(Path(f"/{each[0]}.gguf"), each) for each in names], aliases)


def alias(name: str, *targets: str, **policy: object) -> AliasConfig:
    return AliasConfig(name, tuple((target, 1.0) for target in targets), **policy)  # type: ignore[arg-type]


def to(name: str, *reasons: Reason) -> FallbackConfig:
    return FallbackConfig(name, frozenset(reasons or Reason))


def errors(*aliases: AliasConfig) -> list[tuple[str, str, str, str | None]]:
    with pytest.raises(ExceptionGroup) as refused:
        table(("small",), ("big",), aliases=aliases)
    found = [error for error in refused.value.exceptions if isinstance(error, AliasError)]
    return [(error.alias, error.part, error.message, error.nearest) for error in found]


def test_every_name_leads_to_its_model() -> None:
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


def test_at_most_five_names_are_named() -> None:
    with pytest.raises(ModelNotFound) as refused:
        table(*((f"model-{number}",) for number in range(9))).resolve("model-x")
    assert len(refused.value.nearest) == 5


def test_a_name_of_a_million_letters_is_shown_shortened() -> None:
    with pytest.raises(ModelNotFound) as refused:
        table(("a",)).resolve("x" * 1_000_000)
    assert len(refused.value.message) < 300


def test_weights_are_shares_of_the_requests() -> None:
    aliases = table(("old",), ("new",), aliases=(AliasConfig("chat", (("old", 9.0), ("new", 1.0))),))
    shares = Counter(aliases.resolve("chat", number / 1000).model for number in range(1000))
    assert shares == {"old": 900, "new": 100}


def test_the_same_number_chooses_the_same_target() -> None:
    aliases = table(("old",), ("new",), aliases=(alias("chat", "old", "new"),))
    assert [aliases.resolve("chat", draw).model for draw in (0.0, 0.49, 0.5, 0.999999)] == ["old", "old", "new", "new"]


def test_several_aliases_share_one_models_weights_with_overlays_of_their_own() -> None:
    exact = alias("exact", "small", forced={"temperature": 0})
    aliases = table(("small",), aliases=(exact, alias("free", "small", defaults={"temperature": 1.2})))
    assert aliases.resolve("exact") == Route("exact", "small", forced={"temperature": 0})
    assert aliases.resolve("free") == Route("free", "small", defaults={"temperature": 1.2})


def test_a_fallback_is_taken_for_its_reasons_only() -> None:
    aliases = table(
        ("small",),
        ("big",),
        aliases=(alias("chat", "small", fallbacks=(to("big", Reason.CONTEXT, Reason.OVERLOADED),)),),
    )
    route = aliases.resolve("chat")
    assert route.after(Reason.UNAVAILABLE) is None
    following = route.after(Reason.CONTEXT)
    assert following is not None and (following.alias, following.model) == ("chat", "big")
    assert following.after(Reason.CONTEXT) is None


def test_fallbacks_go_on_through_other_aliases_and_keep_the_overlay_of_the_first() -> None:
    chain = (
        alias("a", "one", fallbacks=(to("b"), to("four")), forced={"top_k": 1}),
        alias("b", "two", fallbacks=(to("three", Reason.OVERLOADED),)),
    )
    route: Route | None = table(("one",), ("two",), ("three",), ("four",), aliases=chain).resolve("a")
    models = []
    while route is not None:
        assert route.forced == {"top_k": 1}
        models.append(route.model)
        route = route.after(Reason.OVERLOADED)
    assert models == ["one", "two", "three", "four"]


def test_a_route_never_comes_back_to_a_model_that_could_not_serve() -> None:
    chain = (
        alias("chat", "small", fallbacks=(to("big"), to("default"))),
        alias("default", "small", fallbacks=(to("far"),)),
    )
    route = table(("small",), ("big",), ("far",), aliases=chain).resolve("chat").after(Reason.CONTEXT)
    assert route is not None and route.model == "big"
    further = route.after(Reason.CONTEXT)
    assert further is not None and further.model == "far"
    assert further.after(Reason.CONTEXT) is None


def test_a_reason_that_leads_into_an_alias_must_lead_on_in_it() -> None:
    chain = (
        alias("a", "one", fallbacks=(to("b", Reason.CONTEXT),)),
        alias("b", "two", fallbacks=(to("three", Reason.OVERLOADED),)),
    )
    route = table(("one",), ("two",), ("three",), aliases=chain).resolve("a").after(Reason.CONTEXT)
    assert route is not None and route.model == "two"
    assert route.after(Reason.OVERLOADED) is None


def test_a_shadow_gets_its_share_of_every_targets_requests() -> None:
    policy = AliasConfig("chat", (("a", 1.0), ("b", 1.0)), shadow=ShadowConfig("c", 0.25))
    aliases = table(("a",), ("b",), ("c",), aliases=(policy,))
    routes = [aliases.resolve("chat", number / 1000) for number in range(1000)]
    shares = Counter(route.model for route in routes if route.shadow == "c")
    assert shares == {"a": 125, "b": 125}


def test_a_hidden_name_answers_but_is_neither_listed_nor_guessed() -> None:
    aliases = table(("small",), aliases=(alias("internal", "small", hidden=True),))
    assert aliases.resolve("internal").model == "small"
    assert aliases.listed() == {"small": "small"}
    with pytest.raises(ModelNotFound) as refused:
        aliases.resolve("internol")
    assert refused.value.nearest == ()


def test_names_for_others_are_neither_listed_nor_guessed() -> None:
    aliases = table(("team-a",), ("team-b",))
    assert aliases.listed(["*-a"]) == {"team-a": "team-a"}
    with pytest.raises(ModelNotFound) as refused:
        aliases.resolve("team-x", patterns=["*-a"])
    assert refused.value.nearest == ("team-a",)


def test_an_alias_may_have_its_models_name() -> None:
    aliases = table(("small",), ("big",), aliases=(alias("small", "small", fallbacks=(to("big"),)),))
    assert aliases.resolve("small").after(Reason.UNAVAILABLE) is not None
    assert aliases.names == ("small", "big")


def test_names_that_are_not_there_are_all_refused_with_the_nearest() -> None:
    bad = alias("chat", "smal", fallbacks=(to("bigg"),), shadow=ShadowConfig("nothing"))
    assert errors(bad) == [
        ("chat", "targets", "no model is called 'smal'", "small"),
        ("chat", "fallbacks", "no model or alias is called 'bigg'", "big"),
        ("chat", "shadow", "no model or alias is called 'nothing'", None),
    ]


def test_a_circle_of_fallbacks_is_refused() -> None:
    found = errors(alias("a", "small", fallbacks=(to("b"),)), alias("b", "big", fallbacks=(to("a"),)))
    assert [(name, part) for name, part, _, _ in found] == [("a", "fallbacks"), ("b", "fallbacks")]
    assert found[0][2] == "the fallbacks go round in a circle: a -> b -> a"
    assert errors(alias("a", "small", fallbacks=(to("a"),)))[0][2].endswith("a -> a")


def test_an_alias_that_would_hide_a_model_is_refused() -> None:
    assert errors(alias("small", "big"))[0][2] == "a model has this name too, and is not among the alias' targets"
