"""Each check, on a machine and with a configuration that is not as it should be."""

import resource
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

from router.config import GatewayConfig, ModelConfig, ResidencyConfig
from router.doctor import checks
from router.doctor.checks import CHECKS, Finding, Patient, Verdict, examine
from router.errors import CommandError
from tests.tiny_models import MODELS, write_model
from worker.kernels import instruction_sets

SYSTEM = {
    "proc/cpuinfo": "processor : 0\nflags : fpu fma f16c avx2\n",
    "sys/fs/cgroup/cpu.max": "max 100000\n",
    "sys/kernel/mm/transparent_hugepage/enabled": "always [madvise] never\n",
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The files of a system that is as it should be."""
    return system(tmp_path / "root")


def system(root: Path, **changed: str) -> Path:
    for name, text in SYSTEM.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(changed.get(Path(name).name.partition(".")[0], text))
    return root


def patient(root: Path, config: GatewayConfig | None = None, fault: CommandError | None = None) -> Patient:
    (root / "cache").mkdir(mode=0o700, exist_ok=True)
    return Patient(config, fault, {"CORRAL_CACHE": str(root / "cache")}, root)


def found(patient: Patient) -> Mapping[str, Finding]:
    return {check.name: finding for check, finding in examine(patient)}


@pytest.fixture
def model(tmp_path: Path) -> ModelConfig:
    return ModelConfig(write_model(tmp_path / "tiny.gguf", MODELS["llama"]), ("tiny",))


def serving(*models: ModelConfig, **settings: object) -> GatewayConfig:
    return GatewayConfig(models=models, port=0, **settings)  # type: ignore[arg-type]


def test_a_good_machine_with_a_good_configuration_has_no_finding(root: Path, model: ModelConfig) -> None:
    looked = found(patient(root, serving(model)))
    assert list(looked) == [check.name for check in CHECKS]
    assert {name for name, finding in looked.items() if finding.verdict is not Verdict.GOOD} <= {"open files"}


def test_without_a_configuration_only_the_machine_is_looked_at(root: Path) -> None:
    looked = found(patient(root))
    assert not {"disk", "model files", "memory"} & looked.keys()
    assert "no ./corral.toml" in looked["configuration"].text


@pytest.mark.parametrize(
    ("check", "changed", "says"),
    [
        ("processor", {"cpuinfo": "flags : fpu sse2\n"}, "without AVX2"),
        ("processor", {"cpuinfo": ""}, "without AVX2"),
        ("cores", {"cpu": "50000 100000"}, "gives the time of 0.5"),
        ("large pages", {"enabled": "always madvise [never]"}, "large pages are off"),
    ],
)
def test_a_machine_that_is_slower_than_it_could_be_is_doubtful(
    tmp_path: Path, check: str, changed: dict[str, str], says: str
) -> None:
    finding = found(patient(system(tmp_path / "root", **changed)))[check]
    assert finding.verdict is Verdict.DOUBTFUL and says in finding.text


@pytest.mark.parametrize("name", checks.INSTRUCTION_SETS)
def test_the_kernels_are_told_as_workers_choose_them(tmp_path: Path, name: str) -> None:
    flags = " ".join(checks.INSTRUCTION_SETS[name])
    finding = found(patient(system(tmp_path / "root", cpuinfo=f"flags : {flags}\n")))["processor"]
    assert finding == (Verdict.GOOD, f"the kernels for {name}")


def test_few_open_files_are_doubtful(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1024, 4096))
    assert found(patient(root))["open files"] == (Verdict.DOUBTFUL, "a process may open 1024")


def test_a_package_that_is_missing_is_named(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(checks, "version", version)
    assert found(patient(root))["packages"] == (Verdict.BAD, "corral is not installed")


def test_without_a_folder_for_sockets_nothing_would_start(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(_: Mapping[str, str]) -> Path:
        raise CommandError("no writable folder")

    monkeypatch.setattr(checks, "writable_base", none)
    assert found(patient(root))["run folder"] == (Verdict.BAD, "no writable folder")


def test_a_cache_into_which_others_may_write_is_refused(root: Path) -> None:
    sick = patient(root)
    (root / "cache").chmod(0o777)
    assert found(sick)["cache folder"].verdict is Verdict.BAD


def test_a_cache_that_is_not_there_yet_is_judged_by_where_it_would_be(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sick = Patient(None, None, {"CORRAL_CACHE": str(root / "not" / "yet")}, root)
    assert found(sick)["cache folder"] == (Verdict.GOOD, str(root / "not" / "yet"))
    monkeypatch.setattr(checks.os, "access", lambda *_: False)
    assert found(sick)["cache folder"] == (
        Verdict.DOUBTFUL,
        f"{root} cannot be written: kernels are compiled at every start",
    )
    assert not (root / "not").exists()


def test_room_on_disk_is_compared_with_what_weights_take(
    root: Path, model: ModelConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checks.shutil, "disk_usage", lambda _: checks.shutil._ntuple_diskusage(10, 9, 1))  # type: ignore[attr-defined]
    assert found(patient(root, serving(model)))["disk"].verdict is Verdict.DOUBTFUL


def test_a_configuration_that_is_refused_is_told_in_its_own_words(root: Path) -> None:
    assert found(patient(root, None, CommandError("corral.toml:3: no")))["configuration"] == (
        Verdict.BAD,
        "corral.toml:3: no",
    )


def test_what_has_no_effect_is_doubtful(root: Path, model: ModelConfig) -> None:
    notes = ("configuration: corral.toml", "no effect: --metal")
    assert found(patient(root, serving(model, notes=notes)))["configuration"] == (Verdict.DOUBTFUL, notes[1])


def test_a_file_that_is_no_model_is_named(root: Path, model: ModelConfig, tmp_path: Path) -> None:
    (tmp_path / "cut.gguf").write_bytes(b"GGUF")
    other = ModelConfig(tmp_path / "cut.gguf", ("cut",))
    finding = found(patient(root, serving(model, other)))["model files"]
    assert finding == (Verdict.BAD, f"not GGUF, or cut off: {other.path}")


@pytest.mark.parametrize(
    ("share", "verdict"), [(0.9, Verdict.BAD), (1.5, Verdict.DOUBTFUL), (2.5, Verdict.GOOD)], ids=str
)
def test_memory_is_foretold_for_each_model_and_for_those_of_the_start(
    root: Path, model: ModelConfig, share: float, verdict: Verdict
) -> None:
    one = checks.footprint(model, forked=checks.are_forked(serving().supervision)).of(1)
    other = ModelConfig(model.path, ("other",))
    residency = ResidencyConfig(memory=int(share * one))
    assert found(patient(root, serving(model, other, residency=residency)))["memory"].verdict is verdict


def test_a_port_in_use_is_doubtful_for_it_may_be_the_gateways(
    root: Path, model: ModelConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = serving(model)
    with checks.bind(config)[0] as taken:
        port = taken.getsockname()[1]
        finding = found(patient(root, GatewayConfig(models=(model,), port=port)))["port"]
        assert finding.verdict is Verdict.DOUBTFUL and f"port {port} on 127.0.0.1 is in use" in finding.text


def test_a_check_that_fails_by_itself_has_found_something(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(_: object) -> Finding:
        raise PermissionError(13, "not allowed")

    failing: Callable[[checks.Check], checks.Check] = lambda check: check._replace(look=fails)  # noqa: E731
    monkeypatch.setattr(checks, "CHECKS", [*map(failing, CHECKS[:1])])
    assert [finding.verdict for _, finding in examine(patient(root))] == [Verdict.BAD]


def test_the_kernels_it_tells_of_are_the_workers_in_their_order() -> None:
    assert [*checks.INSTRUCTION_SETS, "portable"] == list(instruction_sets.INSTRUCTION_SETS)
