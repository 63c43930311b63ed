import re
from pathlib import Path

import pytest

from router.commands.client import KEY_VARIABLE
from router.config import CorsConfig, GatewayConfig, KeyConfig, ResidencyConfig, Scope
from router.configfile.loading import load
from router.errors import CommandError
from router.fleet.memory import usable_bytes
from router.keys.keyfile import write_keys_file
from router.keys.keys import key_digest
from router.options.flags import OF_CLIENTS, parse
from router.options.settings import gateway_config
from tests.secretfiles import write_secret


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current folder with three model files."""
    for name in ("a.gguf", "b.gguf", "other/a.gguf"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"GGUF")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def configured(line: str, environment: dict[str, str] | None = None) -> GatewayConfig:
    return gateway_config(parse(line.split(), environment or {}))


def refusal(line: str) -> str:
    with pytest.raises(CommandError) as refused:
        configured(line)
    assert refused.value.exit_code == 2
    assert "\n" not in str(refused.value)
    return str(refused.value)


def names(config: GatewayConfig) -> list[tuple[str, tuple[str, ...]]]:
    return [(model.path.name, model.names) for model in config.models]


def test_a_model_is_called_by_its_stem(files: Path) -> None:
    config = configured("-m a.gguf")
    assert names(config) == [("a.gguf", ("a",))]
    assert config.models[0].path == files / "a.gguf"


def test_an_alias_means_a_model_by_base_name_or_by_path(files: Path) -> None:
    config = configured(f"-m other/a.gguf -m b.gguf --alias x=a.gguf --alias y={files}/b.gguf --alias z=b.gguf")
    assert names(config) == [("a.gguf", ("x",)), ("b.gguf", ("y", "z"))]


def test_an_alias_alone_brings_its_model_along(files: Path) -> None:
    assert names(configured("--alias x=a.gguf --alias y=b.gguf")) == [("a.gguf", ("x",)), ("b.gguf", ("y",))]


def test_a_list_of_aliases_names_the_only_model(files: Path) -> None:
    assert names(configured("-m a.gguf --alias x,y,z")) == [("a.gguf", ("x", "y", "z"))]
    assert "with several models say which" in refusal("-m a.gguf -m b.gguf --alias x")


def test_a_model_given_twice_is_one_model(files: Path) -> None:
    assert names(configured(f"-m a.gguf -m {files}/a.gguf --alias x=a.gguf --alias x=a.gguf")) == [("a.gguf", ("x",))]


def test_two_models_of_one_name_are_refused_naming_both(files: Path) -> None:
    message = refusal("-m a.gguf -m other/a.gguf")
    assert f"two models are called 'a': {files}/a.gguf and {files}/other/a.gguf" in message
    assert "two models have that name" in refusal("-m a.gguf -m other/a.gguf --alias x=a.gguf")
    assert "two models are called 'x'" in refusal("--alias x=a.gguf --alias x=b.gguf")


def test_an_absent_file_is_refused_by_its_path(files: Path) -> None:
    assert refusal("-m a.gguf -m nowhere.gguf") == f"cannot read model {files}/nowhere.gguf: No such file or directory"
    assert refusal("-m other") == f"cannot read model {files}/other: Is a directory"


def test_no_model_at_all_says_how_to_give_one() -> None:
    assert "give one with -m FILE" in refusal("--port 1")
    assert refusal("--models-dir nothing").startswith("no model in --models-dir nothing or its folders: give one")


def test_worker_settings_reach_every_worker_and_automatic_ones_do_not(files: Path) -> None:
    config = configured("-m a.gguf -m b.gguf -t 2 -c 4096 -np -1 -b 0 --memory-f32")
    expected = ("--threads", "2", "--ctx-size", "4096", "--cache-type-k", "f32", "--cache-type-v", "f32")
    assert [model.worker_arguments for model in config.models] == [expected, expected]


def test_folders_for_prefixes_reach_the_worker_as_whole_paths(files: Path) -> None:
    flags = "--context-shift --slot-save-path slots --kv-store /var/kv --kv-store-size 9 --step-target-ms 20"
    expected = ("--step-target-ms", "20", "--slot-save-path", f"{files}/slots", "--kv-store", "/var/kv")
    expected += ("--kv-store-size", "9", "--context-shift")
    assert configured(f"-m a.gguf {flags}").models[0].worker_arguments == expected
    assert configured("-m a.gguf --no-context-shift").models[0].worker_arguments == ()


def test_a_cache_type_no_worker_knows_is_noted_and_not_passed_on(files: Path) -> None:
    config = configured("-m a.gguf -ctk iq4_nl")
    assert config.models[0].worker_arguments == ()
    assert config.notes == ("no effect: --cache-type-k iq4_nl (a worker knows f32, f16, bf16, q8_0, q4_0)",)


@pytest.mark.parametrize(
    "line", ["--port x", "--port 70000", "-t many", "--lame-duck soon", "--drain-timeout nan", "--body-limit 0"]
)
def test_bad_numbers_are_refused_by_their_flag(files: Path, line: str) -> None:
    assert refusal(f"-m a.gguf {line}").startswith("--")


def test_an_empty_file_of_keys_locks_the_gateway_and_lets_it_listen_beyond_loopback(files: Path) -> None:
    Path("keys.toml").touch(0o600)
    given = parse(["-m", "a.gguf", "--host", "0.0.0.0", "--keys", "keys.toml"], {})
    config = gateway_config(given, (), load(given))
    assert (config.keys, config.locked, config.asks_for_keys) == ((), True, True)
    assert not configured("-m a.gguf").asks_for_keys


def test_the_key_with_which_clients_call_gets_no_rights_by_it() -> None:
    assert KEY_VARIABLE in OF_CLIENTS
    assert parse([], {KEY_VARIABLE: "of team", "CORRAL_PORT": "1"}).values == {"port": ["1"]}


def test_keys_come_from_the_flag_the_environment_and_a_file(files: Path) -> None:
    write_secret("keys", "# ours\n\n  one \ntwo # not a comment\n")
    config = configured("-m a.gguf --api-key k1,k2 --api-key-file keys")
    assert [key.digest for key in config.keys] == [
        key_digest(key) for key in (b"k1", b"k2", b"one", b"two # not a comment")
    ]
    assert all(key.scopes == set(Scope) and key.requests_per_minute is None for key in config.keys)
    assert configured("-m a.gguf", {"LLAMA_API_KEY": "k3"}).keys[0].digest == key_digest(b"k3")


def with_keys(line: str = "") -> GatewayConfig:
    given = parse(["-m", "a.gguf", "--keys", "keys.toml", *line.split()], {})
    return gateway_config(given, (), load(given))


def test_a_key_with_rights_of_its_own_is_not_given_every_right_as_well(files: Path) -> None:
    write_keys_file(Path("keys.toml"), [KeyConfig("team", key_digest(b"k1"))])
    write_secret("plain", "k0\nk1\n")
    for line in ("--api-key k0,k1", "--api-key-file plain"):
        with pytest.raises(CommandError, match=r"every right to the key 'team'.* corral keys revoke team"):
            with_keys(line)
    assert [key.digest for key in with_keys("--api-key k0").keys] == [key_digest(key) for key in (b"k1", b"k0")]


def test_one_key_has_one_name(files: Path) -> None:
    write_keys_file(Path("keys.toml"), [KeyConfig(name, key_digest(b"k")) for name in ("team", "ops")])
    with pytest.raises(CommandError, match="'team' and 'ops' are the same key; revoke one of them"):
        with_keys()


def test_a_key_file_without_a_key_is_refused_rather_than_open(files: Path) -> None:
    write_secret("keys", "# nothing\n")
    assert "no key in it" in refusal("-m a.gguf --api-key-file keys")
    assert "cannot read --api-key-file absent" in refusal("-m a.gguf --api-key-file absent")
    Path("keys").write_text("one")
    Path("keys").chmod(0o644)
    message = refusal("-m a.gguf --api-key-file keys")
    assert re.search(r"cannot read --api-key-file keys:.*\(mode 0644\).*chmod 600 keys", message)
    with pytest.raises(CommandError, match="--api-key is empty"):
        gateway_config(parse(["-m", "a.gguf", "--api-key", ""], {}))


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.1", "example.org", "127.0.0.1,0.0.0.0"])
def test_an_open_port_without_a_key_is_refused_naming_both_ways_out(files: Path, host: str) -> None:
    message = refusal(f"-m a.gguf --host {host}")
    assert "--api-key-file" in message and "--insecure-no-auth" in message
    assert configured(f"-m a.gguf --host {host} --api-key k").hosts == tuple(host.split(","))
    assert configured(f"-m a.gguf --host {host} --insecure-no-auth").keys == ()


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.9", "::1", "localhost", "gateway.sock"])
def test_loopback_needs_no_key(files: Path, host: str) -> None:
    assert configured(f"-m a.gguf --host {host}").hosts == (host,)


def test_cors_is_off_unless_asked_for(files: Path) -> None:
    assert configured("-m a.gguf").cors == CorsConfig()
    assert configured("-m a.gguf --cors").cors.origins == ("*",)
    assert configured("-m a.gguf --cors --cors-origin http://a/,http://b").cors.origins == ("http://a", "http://b")


def test_credentials_need_listed_origins(files: Path) -> None:
    listed = configured("-m a.gguf --cors-origins http://a --cors-credentials")
    assert listed.cors.credentials and listed.notes == ()
    every = configured("-m a.gguf --cors --cors-credentials")
    assert not every.cors.credentials
    assert "--cors-credentials" in every.notes[0]


def test_log_flags_choose_level_form_and_file(files: Path) -> None:
    assert configured("-m a.gguf").log.level == "INFO"
    assert configured("-m a.gguf -lv 1").log.level == "ERROR"
    assert configured("-m a.gguf -lv 9").log.level == "DEBUG"
    assert configured("-m a.gguf --verbose --log-format json --log-file x.log").log.json
    assert re.match("--log-format must be", refusal("-m a.gguf --log-format xml"))


def test_tls_needs_both_files(files: Path) -> None:
    assert "go together" in refusal("-m a.gguf --ssl-key-file a.gguf")
    write_secret("key.pem", "")
    message = refusal("-m a.gguf --ssl-key-file key.pem --ssl-cert-file no.pem")
    assert message == "cannot read --ssl-cert-file no.pem: No such file or directory"
    assert "(mode 0644)" in refusal("-m a.gguf --ssl-key-file a.gguf --ssl-cert-file b.gguf")
    assert configured("-m a.gguf --ssl-key-file key.pem --ssl-cert-file b.gguf").tls is not None


def test_the_worker_command_is_split_like_a_shell_would(files: Path) -> None:
    command = gateway_config(parse(["-m", "a.gguf", "--worker-command", "nice -n 5 'my python' -m worker"], {}))
    assert command.supervision.worker_command == ("nice", "-n", "5", "my python", "-m", "worker")


def test_models_take_turns_unless_told_otherwise_and_as_weighted(files: Path) -> None:
    config = configured("-m a.gguf -m b.gguf --alias x=a.gguf --core-weight x=2.5 --threads 2")
    assert config.supervision.core_lease == "auto"
    assert [model.weight for model in config.models] == [2.5, 1.0]
    assert configured("-m a.gguf --core-lease off").supervision.core_lease == "off"


def test_turns_and_weights_that_make_no_sense_are_refused(files: Path) -> None:
    assert "auto, on or off, but is 'maybe'" in refusal("-m a.gguf --core-lease maybe")
    assert "NAME=WEIGHT is needed" in refusal("-m a.gguf --core-weight 2")
    assert "NAME=WEIGHT is needed" in refusal("-m a.gguf --core-weight b=2")
    for weight in ("0", "-1", "nan", "inf", "much", "1e3"):
        assert f"between 0.01 and 100, but is '{weight}'" in refusal(f"-m a.gguf --core-weight a={weight}")


def test_what_may_be_in_memory_at_the_same_time(files: Path) -> None:
    found = configured("-m a.gguf --models-max 2 --models-memory 1.5G --no-models-autoload").residency
    assert found == ResidencyConfig(max_models=2, memory=3 << 29, autoload=False)
    assert configured("-m a.gguf", {"LLAMA_ARG_MODELS_MAX": "3"}).residency.max_models == 3


def test_models_may_take_most_of_the_memory_unless_told_otherwise(files: Path) -> None:
    found = configured("-m a.gguf").residency
    assert (found.max_models, found.autoload) == (0, True)
    assert 0.8 * usable_bytes() < found.memory < usable_bytes()
    assert configured("-m a.gguf --models-memory 0").residency.memory == 0


@pytest.mark.parametrize(("text", "size"), [("800M", 800 << 20), ("12GiB", 12 << 30), ("4096", 4096), ("1tb", 1 << 40)])
def test_sizes_have_letters_that_count_in_1024s(files: Path, text: str, size: int) -> None:
    assert configured(f"-m a.gguf --models-memory {text}").residency.memory == size


def test_limits_that_make_no_sense_are_refused(files: Path) -> None:
    assert "--models-max must be between 0" in refusal("-m a.gguf --models-max -1")
    for text in ("much", "-1G", "12X"):
        assert f"must be a size such as 800M or 12G, but is '{text}'" in refusal(f"-m a.gguf --models-memory {text}")


def test_idle_models_sleep_after_the_time_of_all_unless_they_have_their_own(files: Path) -> None:
    (files / "corral.toml").write_text('[models.a]\npath = "a.gguf"\nttl = "1m"\n[models.b]\npath = "b.gguf"\n')
    given = parse(["--sleep-idle-seconds", "30"], {})
    assert [model.ttl for model in gateway_config(given, file=load(given)).models] == [60.0, 30.0]
    assert configured("-m a.gguf --sleep-idle-seconds -1").models[0].ttl is None


def test_nothing_that_a_model_is_told_is_without_effect(files: Path) -> None:
    (files / "corral.toml").write_text(
        '[models.a]\npath = "a.gguf"\nreplicas = 2\npin = true\nttl = 9\nweight = 2.0\nload-on-start = false\n'
    )
    given = parse([], {})
    config = gateway_config(given, file=load(given))
    assert config.notes == ("configuration: corral.toml",)
    [model] = config.models
    assert (model.replicas, model.pin, model.ttl, model.weight, model.load_on_start) == (2, True, 9.0, 2.0, False)
