"""What workers are told of the flags, and that they would take it."""

import pytest

from router.errors import CommandError
from router.options.flagrows import Effect
from router.options.flags import parse
from router.options.flagtable import FLAGS
from router.options.workersettings import notes, worker_arguments
from worker.arguments import parser


def told(line: str) -> str:
    return " ".join(worker_arguments(parse(line.split(), {})))


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("-t 2 -tb 4 -c 4096 -np 3 -b 128 -ub 64",
         "--threads 2 --threads-batch 4 --ctx-size 4096 --parallel 3 --batch-size 128 --ubatch-size 64"),
        ("-t -1 -tb -1 -c 0 -np -1 -b 0 -ub 0", ""),
        ("--rope-scaling yarn --rope-scale 2.0", "--rope-scaling yarn --rope-scale 2.0"),
        ("--rope-freq-base 0 --rope-freq-scale 0 --yarn-orig-ctx 0", ""),
        ("--rope-freq-base 50000 --rope-freq-scale .5 --yarn-orig-ctx 2048",
         "--rope-freq-scale 0.5 --rope-freq-base 50000.0 --yarn-orig-ctx 2048"),
        ("--yarn-ext-factor -1.0 --yarn-attn-factor -1 --yarn-beta-slow -1 --yarn-beta-fast -1", ""),
        ("--yarn-ext-factor 0 --yarn-attn-factor 1.0 --yarn-beta-slow 1 --yarn-beta-fast 32",
         "--yarn-ext-factor 0.0 --yarn-attn-factor 1.0 --yarn-beta-slow 1.0 --yarn-beta-fast 32.0"),
        ("--yarn-beta-slow 0 --yarn-beta-fast 0", "--yarn-beta-slow 0.0 --yarn-beta-fast 0.0"),
        ("-ctk bf16 -ctv q8_0", "--cache-type-k bf16 --cache-type-v q8_0"),
        ("-ctv q4_0", "--cache-type-v q4_0"),
        ("--spec-type none", "--spec-type none"),
        ("--spec-type draft-simple,ngram-simple --draft-max 5",
         "--spec-draft-n-max 5 --spec-type draft-simple,ngram-simple"),
        ("-md /m/small.gguf -cd 512 -td 1 -tbd 2 -ctkd q8_0 --draft-min 2 --draft-p-min .5 -ngld 99 -devd none",
         "--spec-draft-n-min 2 --spec-draft-p-min 0.5 --model-draft /m/small.gguf --ctx-size-draft 512 "
         "--threads-draft 1 --threads-batch-draft 2 --cache-type-k-draft q8_0"),
        ("--spec-draft-model /m/small.gguf --memory-f32",
         "--model-draft /m/small.gguf --cache-type-k f32 --cache-type-v f32"),
        ("--draft-max 0", "--spec-draft-n-max 0"),
        ("--spec-type ngram-mod --spec-draft-n-max -1 --spec-default", ""),
        ("--memory-f32 -ctk f16", "--cache-type-k f32 --cache-type-v f32"),
        ("--no-mmap", "--no-mmap"),
        ("--mmap", ""),
        ("--mlock --no-mmap --numa --check-tensors", "--no-mmap --mlock --check-tensors --numa distribute"),
        ("--numa isolate", "--numa isolate"),
        ("-lm auto", ""),
        ("-lm none", "--no-mmap"),
        ("-lm dio", "--no-mmap"),
        ("-lm mlock", "--no-mmap --mlock"),
        ("-lm mmap+mlock", "--mlock"),
        ("-lm mmap --mlock", "--mlock"),
        ("-fa off", ""),
        ("--chat-template {{messages}}", "--chat-template {{messages}}"),
        ("--chat-template-file /m/chat.jinja", "--chat-template-file /m/chat.jinja"),
    ],
)  # fmt: skip
def test_flags_are_handed_on_without_what_is_left_to_the_worker(line: str, expected: str) -> None:
    assert told(line) == expected
    parser().parse_args(["-m", "f", "--listen", "unix:s", *expected.split()])


def test_variables_are_handed_on_too() -> None:
    environment = {"LLAMA_ARG_ROPE_SCALING_TYPE": "yarn", "LLAMA_ARG_MLOCK": "1", "LLAMA_ARG_MMAP": "0",
                   "LLAMA_ARG_UBATCH": "32", "LLAMA_ARG_NUMA": "numactl"}  # fmt: skip
    arguments = " ".join(worker_arguments(parse([], environment)))
    assert arguments == "--ubatch-size 32 --rope-scaling yarn --no-mmap --mlock --numa numactl"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--rope-scaling longrope", "--rope-scaling must be one of none, linear, yarn, but is 'longrope'"),
        ("--rope-scale 0", "--rope-scale must be at least 1e-06, but is 0"),
        ("--rope-scale x", "--rope-scale must be a number, but is 'x'"),
        ("--rope-freq-base 1", "--rope-freq-base must be at least 2, but is 1"),
        ("--yarn-beta-fast nan", "--yarn-beta-fast must be at least 0, but is nan"),
        ("-t 513", "--threads must be between -1 and 512, but is 513"),
        ("-ub many", "--ubatch-size must be a whole number, but is 'many'"),
        ("-ctk f8", "--cache-type-k must be one of f32, f16, bf16, q8_0, q4_0, but is 'f8'"),
        ("--spec-type guess", "--spec-type must be one of none, ngram-simple, draft-simple, but is 'guess'"),
        ("--spec-draft-p-min 1.5", "--spec-draft-p-min must be between 0 and 1, but is 1.5"),
        ("--chat-template chatml", "--chat-template 'chatml' is no Jinja template, and templates have no names here; "
         "leave it out for the one in the model's file, or give --chat-template-file FILE"),
        ("-ctkd f8", "--cache-type-k-draft must be one of f32, f16, bf16, q8_0, q4_0, but is 'f8'"),
        ("-lm fast", "--load-mode must be one of auto, mmap, none, dio, mlock, mmap+mlock, but is 'fast'"),
    ],
)  # fmt: skip
def test_a_wrong_value_is_refused_by_its_flag(line: str, message: str) -> None:
    with pytest.raises(CommandError) as refused:
        told(line)
    assert str(refused.value) == message


def test_a_cache_type_that_only_llama_server_has_is_noted_and_not_handed_on() -> None:
    given = parse(["-ctk", "iq4_nl", "-ctv", "q8_0"], {})
    assert worker_arguments(given) == ("--cache-type-v", "q8_0")
    assert notes(given) == ["no effect: --cache-type-k iq4_nl (a worker knows f32, f16, bf16, q8_0, q4_0)"]


def test_a_kind_of_guessing_that_only_llama_server_has_is_noted_and_not_handed_on() -> None:
    given = parse(["--spec-type", "ngram-mod"], {})
    assert worker_arguments(given) == ()
    assert notes(given) == ["no effect: --spec-type ngram-mod (a worker knows none, ngram-simple, draft-simple)"]


def test_guesses_by_a_model_that_is_not_named_are_noted() -> None:
    assert notes(parse(["--spec-type", "draft-simple"], {})) == [
        "no effect: --spec-type draft-simple (it needs --model-draft)"
    ]
    assert not notes(parse(["--spec-type", "draft-simple", "-md", "small.gguf"], {}))


def test_every_flag_for_workers_reaches_them() -> None:
    """Each row of the table, given alone with a value that is not its default, leaves a trace."""
    values = {"ctx_size": "64", "rope_scaling": "yarn", "cache_type_k": "q8_0", "cache_type_v": "q8_0",
              "load_mode": "none", "numa": "isolate", "spec_type": "none", "cache_type_k_draft": "q8_0",
              "cache_type_v_draft": "q8_0", "spec_draft_p_min": "0.5",
              "chat_template": "{{messages}}"}  # fmt: skip
    for flag in FLAGS:
        if flag.effect is Effect.WORKER:
            value = [values.get(flag.key, "3")] if flag.metavar else []
            names = [*flag.off[:1], flag.names[0]]
            assert any(told(" ".join([name, *value])) for name in names), flag.key
