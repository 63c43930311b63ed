import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
COMMANDS = ([sys.executable, "-m", "router"], [str(Path(sys.executable).with_name("corral"))])


def run(*arguments: str, command: list[str] = COMMANDS[0]) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*command, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("command", COMMANDS)
def test_the_command_and_the_module_are_the_same(command: list[str]) -> None:
    assert run("--version", command=command).stdout == f"corral {version('corral')}\n"
    told = run("--help", command=command)
    assert told.returncode == 0
    assert all(name in told.stdout for name in ("serve", "worker", "pull", "bench", "perplexity"))


def test_no_command_at_all_shows_the_help_and_fails() -> None:
    assert (run().returncode, run().stdout) == (2, run("--help").stdout)


def test_an_unknown_command_is_one_line() -> None:
    done = run("sreve")
    told = "error: no command 'sreve' (commands: serve, worker, ps, top, logs, config, doctor, keys, pull, "
    told += "bench, perplexity)\n"
    assert (done.returncode, done.stderr) == (2, told)


def test_help_of_serve_lists_the_flags() -> None:
    assert "--alias NAME=FILE" in run("serve", "--help").stdout


def test_a_subcommands_status_is_the_commands() -> None:
    assert run("pull", "nothing-like-it").returncode == 2


@pytest.mark.parametrize(
    "module", ["router.__main__", "router.serve", "router.downloads.pull", "router.keys.keycommand"]
)
def test_the_gateway_never_imports_the_worker_or_its_libraries(module: str) -> None:
    program = f"import sys, {module}; print(*sorted({{'worker', 'numba', 'numpy', 'tokenizers'}} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True).stdout == "\n"


def test_the_top_of_the_command_imports_none_of_the_heavy_libraries() -> None:
    program = "import sys, router.__main__; print(*sorted({'grpc', 'fastapi', 'rich', 'httpx'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True).stdout == "\n"


@pytest.mark.parametrize(
    ("name", "module"), [("worker", "__main__"), ("bench", "bench/__main__"), ("perplexity", "perplexity")]
)
def test_commands_of_the_worker_become_its_process(tmp_path: Path, name: str, module: str) -> None:
    program = (tmp_path / "worker" / module).with_suffix(".py")
    program.parent.mkdir(parents=True)
    program.write_text("import os, sys; print(os.getpid(), *sys.argv[1:])")
    command = [sys.executable, "-m", "router", name, "-m", "x.gguf"]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
    assert process.communicate(timeout=60)[0] == f"{process.pid} -m x.gguf\n"


@pytest.mark.parametrize(("given", "told"), [({}, "-event_engine_client"), ({"GRPC_EXPERIMENTS": "mine"}, "mine")])
def test_grpc_is_told_how_to_wait_unless_the_environment_says_otherwise(
    tmp_path: Path, given: dict[str, str], told: str
) -> None:
    (tmp_path / "worker").mkdir()
    (tmp_path / "worker" / "__main__.py").write_text("import os; print(os.environ['GRPC_EXPERIMENTS'])")
    inherited = {name: value for name, value in os.environ.items() if name != "GRPC_EXPERIMENTS"}
    command = [sys.executable, "-m", "router", "worker"]
    environment = {**inherited, "PYTHONPATH": str(tmp_path), **given}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip().split(",")[0] == told
