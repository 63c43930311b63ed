"""Flags of sampling become defaults of a body's fields, checked as the body's are."""

from typing import Any

import pytest

from router.errors import CommandError
from router.options.flags import parse
from router.options.samplingflags import sampling_defaults


@pytest.mark.parametrize(
    ("line", "defaults"),
    [
        ("--temp 0.5 --top-k 7 --seed 3", {"temperature": 0.5, "top_k": 7, "seed": 3}),
        ("-s -1 --typical 0.25 --top-nsigma 1", {"seed": -1, "typical_p": 0.25, "top_n_sigma": 1.0}),
        ("--mirostat 2 --mirostat-lr 0.5 --mirostat-ent 3", {"mirostat": 2, "mirostat_eta": 0.5, "mirostat_tau": 3.0}),
        ("--dynatemp-range 0.5 --dynatemp-exp 2", {"dynatemp_range": 0.5, "dynatemp_exponent": 2.0}),
        ("--samplers top-k;temp", {"samplers": ["top_k", "temperature"]}),
        ("--sampler-seq kt", {"samplers": ["top_k", "temperature"]}),
        ("--ignore-eos", {"ignore_eos": True}),
        ("-n 256 --keep -1 --no-cache-prompt", {"n_predict": 256, "n_keep": -1, "cache_prompt": False}),
        ("--cache-prompt --n-predict -1", {"n_predict": -1}),
        ("--no-prefill-assistant", {"prefill_assistant": False}),
        ("--prefill-assistant", {}),
        ("--keep -2", None),
        ("-l 5+1.5 -l 6-inf", None),
        ("-l 5+1.5 -l 6-2", {"logit_bias": {5: 1.5, 6: -2.0}}),
        ("--dry-sequence-breaker x --dry-sequence-breaker y", {"dry_sequence_breakers": ["x", "y"]}),
        ("--dry-sequence-breaker none", {"dry_sequence_breakers": ["\0"]}),
        ("-r User: -r \\n\\x41\\\\", {"stop": ["User:", "\nA\\"]}),
        ("--no-escape -r \\n --dry-sequence-breaker \\t", {"stop": ["\\n"], "dry_sequence_breakers": ["\\t"]}),
        ("--dry-sequence-breaker \\t", {"dry_sequence_breakers": ["\t"]}),
        ("--sse-ping-interval 5", {"sse_ping_interval": 5}),
        ("--sse-ping-interval -2", None),
        ("--chat-template-kwargs {\"a\":1}", {"chat_template_kwargs": {"a": 1}}),
        ("--chat-template-kwargs [1]", None),
        ("--chat-template-kwargs {", None),
        ("-rea off --reasoning-effort high",
         {"chat_template_kwargs": {"enable_thinking": False, "reasoning_effort": "high"}}),
        ("-rea on --chat-template-kwargs {\"enable_thinking\":false}",
         {"chat_template_kwargs": {"enable_thinking": False}}),
        ("--reasoning auto --reasoning-effort default", {}),
        ("--dry-multiplier x", None),
        ("--top-k 1.5", None),
        ("--adaptive-decay 1", None),
        ("--samplers nothing", None),
        ("--min-p nan", None),
        ("-l 5", None),
        ("", {}),
    ],
)  # fmt: skip
def test_flags_become_defaults(line: str, defaults: dict[str, Any] | None) -> None:
    given = parse(line.split(), {})
    if defaults is None:
        flag = "--logit-bias" if line.startswith("-l") else line.split()[0]
        with pytest.raises(CommandError, match=flag):
            sampling_defaults(given)
    else:
        assert sampling_defaults(given) == defaults
