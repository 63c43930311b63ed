import re
from collections import Counter

import pytest

from router.errors import CommandError
from router.options.flagrows import Effect
from router.options.flags import Given, parse, usage
from router.options.flagtable import FLAGS


def test_no_name_and_no_variable_stands_in_two_rows() -> None:
    names = Counter(name for flag in FLAGS for name in (*flag.names, *flag.off))
    variables = Counter(variable for flag in FLAGS for variable in flag.variables)
    assert [name for name, count in (names + variables).items() if count > 1] == []


def test_every_flag_with_an_effect_is_in_the_help() -> None:
    text = usage()
    assert all(flag.names[-1] in text for flag in FLAGS if flag.effect not in (Effect.NONE, Effect.REFUSED))


def given_by(line: str) -> Given:
    return parse(line.split(), {})


ON_OFF = "on, off, auto"
OLD_COMMAND_LINES = [
    "-m model.gguf --verbose",
    "-m model.gguf --host 0.0.0.0 --port 8000 --threads 4 --ctx-size 4096 --batch-size 512 --ubatch-size 512 "
    "--gpu-layers 0 --flash-attn --mlock --parallel 1 --cont-batching --metrics --log-format json",
    "-m model.gguf --ctx-size 8192 --batch-size 2048 --flash-attn --mlock --no-mmap --numa",
    "--model a.gguf --model b.gguf --alias llama=a.gguf --alias code=b.gguf",
    "-m model.gguf --rope-scaling yarn --rope-scale 2.0 --yarn-ext-factor 1.0 --yarn-attn-factor 1.0 "
    "--yarn-beta-fast 32 --yarn-beta-slow 1",
    "-m model.gguf --cors --cors-origin http://localhost:3000,http://localhost:5173",
    "-m model.gguf --log-file server.log --log-verbosity 1",
    "-m model.gguf --gpu-layers 35 --main-gpu 0 --tensor-split 0,1",
    "-m model.gguf --gpu-layers 35 --metal --memory-f32",
]
NEW_COMMAND_LINES = [
    "-m model.gguf -fa on -ctk f16 -ctv f16 -ngl auto -lm mmap+mlock --numa distribute -np -1 -kvu --log-jsonl",
    "-m model.gguf --alias a,b,c --tags x --no-webui --no-slots --jinja --reasoning-format none -to 600 -cram 0",
    "-m model.gguf --cors-origins http://a --cors-methods GET --cors-headers X-A --cors-credentials --temp 0.8 -s -1",
    "-m model.gguf -hfd user/repo -md draft.gguf --spec-draft-n-max 4 --reasoning-budget -1 --fit off",
]


@pytest.mark.parametrize("line", OLD_COMMAND_LINES + NEW_COMMAND_LINES)
def test_llama_servers_command_lines_are_understood(line: str) -> None:
    assert given_by(line).values["model"]


def test_several_models_keep_their_order() -> None:
    assert given_by("-m a.gguf --model b.gguf -m c.gguf").values["model"] == ["a.gguf", "b.gguf", "c.gguf"]


def test_a_bare_flag_does_not_swallow_the_next_one() -> None:
    given = given_by("--flash-attn -m a.gguf --numa --port 1")
    assert given.values == {"model": ["a.gguf"], "numa": ["on"], "port": ["1"]}


def test_a_value_may_follow_an_equals_sign_and_may_be_negative() -> None:
    given = parse(["--port=81", "--threads", "-1", "--alias=x=y.gguf"], {})
    assert given.values == {"port": ["81"], "threads": ["-1"], "alias": ["x=y.gguf"]}


def test_flags_without_effect_are_noted_once_per_reason() -> None:
    notes = given_by("--metal -ngl 3 --swa-full -ngl 4 --cont-batching").notes()
    assert notes == (
        "no effect: --metal, -ngl (models run on the processor; there is no GPU backend)",
        "no effect: --swa-full (memory is managed by the worker itself)",
    )


def test_a_flag_without_which_answers_would_be_others_ends_the_start() -> None:
    for line, environment in (("--lora a.gguf", {}), ("--lora=a.gguf", {}), ("", {"CORRAL_LORA": "a.gguf"})):
        with pytest.raises(CommandError, match="merge the adapter into the file") as refused:
            parse(line.split(), environment)
        assert refused.value.exit_code == 2


@pytest.mark.parametrize("line", ["--lora=", "--reasoning-budget -1", "--api-prefix /", "-gan 1"])
def test_a_refused_flag_that_asks_for_nothing_is_harmless(line: str) -> None:
    given = given_by(line)
    assert not given.values and not given.notes()


def test_what_is_shown_instead_of_serving_is_for_the_command_line_only() -> None:
    assert given_by("--list-devices").on("list_devices")
    assert not parse([], {"CORRAL_VERSION": "0.1.0", "CORRAL_LIST_DEVICES": "1"}).values


def test_turning_off_what_is_always_on_is_noted() -> None:
    assert parse(["--no-cont-batching"], {}).notes() == ("no effect: --no-cont-batching (this is always on)",)
    (note,) = parse(["-fa", "off"], {}).notes()
    assert note == "no effect: -fa (attention never stores its scores: there is no other kind here)"
    assert parse(["-fa", "on"], {}).notes() == parse(["-fa", "auto"], {}).notes() == ()


def test_a_flag_beats_the_environment_and_the_environment_the_default() -> None:
    environment = {"LLAMA_ARG_PORT": "1", "LLAMA_ARG_CTX_SIZE": "7", "LLAMA_MODEL_PATH": "e.gguf"}
    given = parse(["--port", "2"], environment)
    assert given.values == {"port": ["2"], "ctx_size": ["7"], "model": ["e.gguf"]}


def test_a_word_that_is_not_known_is_refused_wherever_it_stands() -> None:
    with pytest.raises(CommandError, match=r"^LLAMA_ARG_REASONING must be one of on, off, auto, but is 'maybe'$"):
        parse([], {"LLAMA_ARG_REASONING": "maybe"})
    with pytest.raises(CommandError, match=r"^LLAMA_ARG_NUMA must be one of distribute, isolate, numactl, but is"):
        parse([], {"LLAMA_ARG_NUMA": "all"})
    assert parse(["-rea", "ON"], {"LLAMA_ARG_NUMA": ""}).values == {"reasoning": ["on"], "numa": [""]}
    assert parse(["-rea", "false"], {"LLAMA_ARG_NUMA": "1"}).values == {"reasoning": ["off"], "numa": ["on"]}


def test_switches_come_from_the_environment_too() -> None:
    assert parse([], {"LLAMA_ARG_ENDPOINT_METRICS": "1"}).on("metrics")
    assert not parse([], {"LLAMA_ARG_ENDPOINT_METRICS": "0"}).on("metrics")
    with pytest.raises(CommandError, match="LLAMA_ARG_ENDPOINT_METRICS must be 1 or 0"):
        parse([], {"LLAMA_ARG_ENDPOINT_METRICS": "perhaps"})


def test_the_last_of_several_values_counts() -> None:
    assert given_by("--no-slots --slots").on("slots", False)
    assert not given_by("--slots --no-slots").on("slots", True)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (["--ctxsize", "3"], "unknown flag '--ctxsize'; did you mean '--ctx-size'?"),
        (["--qqqqqqqqq"], "unknown flag '--qqqqqqqqq'"),
        (["model.gguf"], "unexpected argument 'model.gguf'; a model is given with -m FILE"),
        (["-fa", "nonsense"], f"-fa must be one of {ON_OFF}, but is 'nonsense'"),
        (["--flash-attn=nonsense"], f"--flash-attn must be one of {ON_OFF}, but is 'nonsense'"),
        (["--numa", "foo", "-m", "f"], "--numa must be one of distribute, isolate, numactl, but is 'foo'"),
        (["--log-colors", "model.gguf"], f"--log-colors must be one of {ON_OFF}, but is 'model.gguf'"),
        (["--port"], "--port needs a value"),
        (["-rea", "perhaps"], "-rea must be one of on, off, auto, but is 'perhaps'"),
        (["--control-vector-layer-range", "1"], "--control-vector-layer-range needs two values"),
    ],
)
def test_a_word_that_makes_no_sense_is_refused(line: list[str], message: str) -> None:
    with pytest.raises(CommandError, match=f"^{re.escape(message)}$") as refused:
        parse(line, {})
    assert refused.value.exit_code == 2
