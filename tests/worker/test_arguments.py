"""The worker's command line."""

import pytest

from worker.arguments import parser, worker_config
from worker.config import RopeConfig, WorkerConfig
from worker.cores.lease import host_path


def config(line: str = "") -> WorkerConfig:
    return worker_config(parser().parse_args(["-m", "f.gguf", "--listen", "unix:s", *line.split()]))


def test_nothing_given_leaves_everything_to_worker_and_model():
    plain = config()
    assert plain == WorkerConfig(plain.model_path, "unix:s", core_lease=host_path())
    assert plain.rope == RopeConfig()


@pytest.mark.parametrize(
    ("line", "step_tokens"),
    [
        ("", 512),
        ("-b 2048", 512),
        ("-b 128", 128),
        ("-ub 64", 64),
        ("-b 4096 -ub 4096", 4096),
        ("-ub 4096", 2048),
        ("-b 0 -ub 0", 512),
    ],
)
def test_a_step_holds_the_smaller_of_batch_and_micro_batch(line, step_tokens):
    assert config(line).step_tokens == step_tokens


def test_position_flags_are_kept_apart_and_a_scale_is_turned_round():
    line = (
        "--rope-scaling yarn --rope-scale 4 --rope-freq-base 5e4 --yarn-orig-ctx 2048 --yarn-ext-factor 0 "
        "--yarn-attn-factor 0.5 --yarn-beta-fast 16 --yarn-beta-slow 2"
    )
    assert config(line).rope == RopeConfig("yarn", 5e4, 0.25, 2048, 0.0, 0.5, 16.0, 2.0)
    assert config("--rope-freq-scale 0.5").rope == RopeConfig(scale=0.5)


def test_memory_flags_are_kept():
    given = config("-ctk q8_0 -ctv f16 --no-mmap --mlock --check-tensors --numa isolate -t 3 -tb 4")
    assert (given.kv_type_k, given.kv_type_v) == ("q8_0", "f16")
    assert (given.maps_weights, given.locks_weights, given.checks_tensors) == (False, True, True)
    assert (given.numa, given.num_threads, given.num_batch_threads) == ("isolate", 3, 4)


def test_guesses_are_made_in_all_ways_there_are_unless_a_line_says_none():
    by_model = config("-md small.gguf --spec-draft-n-max 5")
    assert (by_model.max_drafts, by_model.looks_up) == (5, True) and by_model.draft is not None
    for none in ("--spec-draft-n-max 0", "--spec-type none", "--spec-draft-n-max 5 --spec-type none"):
        silent = config(f"-md small.gguf {none}")
        assert (silent.max_drafts, silent.looks_up, silent.draft) == (0, False, None), none


@pytest.mark.parametrize(
    "line",
    [
        *("-t 513", "-c -1", "--rope-scale 0", "--rope-freq-base 1", "--rope-scale nan", "--rope-scaling longrope"),
        *("--core-weight 1e9", "--spec-draft-p-min nan", "--grace -1", "--grace nan"),
    ],
)
def test_a_value_outside_its_range_is_refused(line, capsys):
    with pytest.raises(SystemExit):
        config(line)
    assert line.split()[0] in capsys.readouterr().err
