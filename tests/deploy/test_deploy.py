# ruff: noqa: ASYNC110 (polling with a deadline)
"""What deploy/ ships says only what exists: flags, paths, routes, metrics."""

import asyncio
import json
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from router.app import OPEN_PATHS
from router.config import AliasConfig, FallbackConfig, ShadowConfig
from router.configfile.loading import load
from router.fleet.footprint import NUM_RUNNING
from router.options.flags import parse
from router.remotes.addresses import parse_target
from router.remotes.credentials import TOKEN_VARIABLE
from tests.router.gateways import Gateway, config, running
from tests.router.mocks import DEADLINE
from worker.arguments import parser as worker_parser

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
MANIFESTS = sorted((DEPLOY / "kubernetes").glob("*.yaml"))
ADAPTER = DEPLOY / "kubernetes" / "prometheus-adapter" / "values.yaml"
UNIT = DEPLOY / "corral.service"
DASHBOARD = json.loads((DEPLOY / "grafana" / "corral.json").read_text())
METRICS = (DEPLOY / "metrics.md").read_text()
DOCKERFILE = (DEPLOY / "Dockerfile").read_text()


def documents() -> Iterator[Mapping[str, Any]]:
    for manifest in MANIFESTS:
        yield from yaml.safe_load_all(manifest.read_text())


def only(kind: str) -> Mapping[str, Any]:
    [found] = [document for document in documents() if document["kind"] == kind]
    return found


def containers() -> Iterator[Mapping[str, Any]]:
    for document in documents():
        yield from (
            document["spec"].get("template", {}).get("spec", {}).get("containers", ()) if "spec" in document else ()
        )


def dockerfile(instruction: str) -> list[str]:
    """The arguments of the last instruction of a kind that is written as JSON."""
    return json.loads(re.findall(rf"^{instruction} (\[.*\])$", DOCKERFILE, re.MULTILINE)[-1])


def test_the_image_copies_what_the_package_needs_and_starts_the_gateway_with_flags_it_has() -> None:
    for source in re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE, re.MULTILINE):
        assert all((ROOT / name).exists() for name in source.split())
    command, subcommand, *flags = dockerfile("ENTRYPOINT")
    assert (command, subcommand) == ("corral", "serve")
    assert parse([*flags, "--insecure-no-auth"], {}).last("host") == "0.0.0.0"
    [probe] = re.findall(r"http://127\.0\.0\.1:(\d+)(/\w+)", DOCKERFILE)
    assert probe == (flags[flags.index("--port") + 1], "/live")
    assert probe[1] in OPEN_PATHS


def test_the_unit_starts_the_gateway_with_flags_it_has() -> None:
    text = UNIT.read_text()
    [command] = re.findall(r"^ExecStart=(.+)$", text, re.MULTILINE)
    program, subcommand, *flags = command.split()
    assert (program, subcommand) == ("/opt/corral/bin/corral", "serve")
    parse(flags, {})
    assert "MemoryDenyWriteExecute=" not in text  # kernels are compiled while it runs
    [user] = re.findall(r"^User=(.+)$", text, re.MULTILINE)
    [keys] = set(re.findall(r"(/\S+/keys\.toml)", text))
    assert f"install -d -o {user} -m 700 {Path(keys).parent}" in text  # a file of keys is read by its owner alone
    assert f"StateDirectory={Path(keys).parent.name}" in text


def test_systemd_understands_the_unit(tmp_path: Path) -> None:
    unit = tmp_path / "corral.service"
    if not shutil.which("systemd-analyze"):
        sections = re.findall(r"^\[(\w+)\]$", UNIT.read_text(), re.MULTILINE)
        assert sections == ["Unit", "Service", "Install"]
        return
    unit.write_text(UNIT.read_text().replace("/opt/corral/bin/corral", "/bin/true"))
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", str(unit)], capture_output=True, text=True)
    assert [line for line in done.stderr.splitlines() if "corral" in line] == []


def test_compose_starts_two_gateways_with_flags_they_have_and_files_that_are_there() -> None:
    services = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
    users = {"keys.toml", "models", "corral.crt", "corral.key"}  # what the first lines ask for
    for name, service in services.items():
        for volume in service["volumes"]:
            source = volume.split(":")[0]
            assert not source.startswith(".") or Path(source).name in users or (DEPLOY / source).exists()
        if name.startswith("gateway"):
            assert (DEPLOY / service["build"]["context"] / service["build"]["dockerfile"]).is_file()
            given = parse(service["command"], {})
            mounted = {volume.split(":")[1] for volume in service["volumes"]}
            assert {given.last("config"), given.last("keys")} <= mounted  # without keys it would not listen at all
            wanted = float(given.last("drain_timeout") or 0)
            assert int(service["stop_grace_period"].removesuffix("s")) > wanted
    assert sum(name.startswith("gateway") for name in services) == 2


def test_every_container_of_kubernetes_is_started_with_flags_it_has() -> None:
    found = list(containers())
    assert {container["name"] for container in found} == {"gateway", "worker"}
    for container in found:
        if container["name"] == "gateway":
            given = parse(container["args"], {})
            assert given.last("config") == "/etc/corral/corral.toml"
        else:
            assert container["command"] == ["corral", "worker"]
            told = worker_parser().parse_args(container["args"])
            ports = {port["containerPort"] for port in container["ports"]}
            assert {told.listen, told.health_listen} == {f"0.0.0.0:{port}" for port in ports}
            for probe in ("startupProbe", "readinessProbe"):
                assert told.health_listen == f"0.0.0.0:{container[probe]['grpc']['port']}"


def test_probes_ask_what_the_gateway_answers_without_a_key() -> None:
    for container in containers():
        ports = {port["name"]: port["containerPort"] for port in container["ports"]}
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            asked = container.get(probe, {}).get("httpGet")
            assert asked is None or (asked["path"] in OPEN_PATHS and asked["port"] in ports)
    gateway = next(container for container in containers() if container["name"] == "gateway")
    assert gateway["livenessProbe"]["httpGet"]["path"] == "/live"
    assert gateway["readinessProbe"]["httpGet"]["path"] == "/ready"


def test_pods_get_longer_to_end_than_they_may_take() -> None:
    for document in documents():
        if document["kind"] == "Deployment":
            pod = document["spec"]["template"]["spec"]
            given = parse(pod["containers"][0]["args"], {})
            needed = float(given.last("lame_duck") or 0) + float(given.last("drain_timeout") or 0)
            assert pod["terminationGracePeriodSeconds"] > needed


def test_every_name_in_the_manifests_leads_somewhere() -> None:
    """Volumes are there for every mount; selectors of services, budgets and policies find the pods they mean."""
    pods = [document["spec"]["template"] for document in documents() if "template" in document.get("spec", {})]
    for pod in pods:
        volumes = {volume["name"] for volume in pod["spec"]["volumes"]}
        for container in (*pod["spec"]["containers"], *pod["spec"].get("initContainers", ())):
            assert {mount["name"] for mount in container["volumeMounts"]} <= volumes
    labels = [pod["metadata"]["labels"].items() for pod in pods]
    for document in documents():
        spec = document.get("spec", {})
        selector = spec.get("selector") or spec.get("podSelector") or {}
        wanted = selector.get("matchLabels", selector)
        selects = document["kind"] not in ("ConfigMap", "HorizontalPodAutoscaler")
        assert not selects or sum(wanted.items() <= each for each in labels) == 1, document


def test_the_autoscaler_scales_workers_that_are_there_within_what_a_disruption_leaves() -> None:
    scaler = only("HorizontalPodAutoscaler")
    assert scaler["apiVersion"] == "autoscaling/v2"
    workers, spec = only("StatefulSet"), scaler["spec"]
    assert spec["scaleTargetRef"] == {
        "apiVersion": workers["apiVersion"], "kind": workers["kind"], "name": workers["metadata"]["name"],
    }  # fmt: skip
    [budget] = [
        each["spec"]["minAvailable"]
        for each in documents()
        if each["kind"] == "PodDisruptionBudget" and each["metadata"]["name"] == workers["metadata"]["name"]
    ]
    assert budget < spec["minReplicas"] < spec["maxReplicas"]
    told = worker_parser().parse_args(workers["spec"]["template"]["spec"]["containers"][0]["args"])
    [metric] = spec["metrics"]
    at_once = told.parallel or NUM_RUNNING
    assert 0 < float(metric["external"]["target"]["averageValue"]) < at_once, "more come before all places are taken"


@pytest.mark.anyio
async def test_the_autoscalers_metric_is_made_of_what_the_gateway_tells_of_its_model() -> None:
    [metric] = only("HorizontalPodAutoscaler")["spec"]["metrics"]
    [rule] = yaml.safe_load(ADAPTER.read_text())["rules"]["external"]
    assert metric["external"]["metric"]["name"] == rule["name"]["as"]
    [(label, model)] = metric["external"]["metric"]["selector"]["matchLabels"].items()
    assert f"[models.{model}]" in only("ConfigMap")["data"]["corral.toml"]
    asked = {rule["seriesQuery"], *re.findall(r"[\w:]+(?={)", rule["metricsQuery"])}
    assert len(asked) == 2 and f"by ({label})" in rule["metricsQuery"]
    async with running(config(model, metrics=True)) as gateway:
        scrape = (await gateway.client.get("/metrics")).text
    families = text_string_to_metric_families(scrape)
    told = {sample.name: sample.labels for family in families for sample in family.samples if sample.name in asked}
    assert told == {name: {label: model} for name in asked}


def test_the_configuration_of_the_pods_is_one_the_gateway_reads(tmp_path: Path) -> None:
    kept = only("ConfigMap")
    keys = tmp_path / "keys.toml"
    keys.touch(0o600)
    file = tmp_path / "corral.toml"
    file.write_text(kept["data"]["corral.toml"].replace("/etc/corral-keys/keys.toml", str(keys)))
    read = load(parse(["--config", str(file)], {}))
    [model] = read.models
    assert model.path is None
    [target] = map(parse_target, model.settings["workers"])
    services = {document["metadata"]["name"]: document for document in documents() if document["kind"] == "Service"}
    named = services[target.host]["spec"]
    assert named["clusterIP"] == "None" and [port["port"] for port in named["ports"]] == [target.port]


def test_gateways_have_the_token_that_workers_ask_for() -> None:
    secrets = [
        variable["valueFrom"]["secretKeyRef"]
        for container in containers()
        for variable in container["env"]
        if variable["name"] == TOKEN_VARIABLE
    ]
    assert len(secrets) == 2 and secrets[0] == secrets[1]


def test_a_worker_gets_longer_to_end_than_its_answers_may_take() -> None:
    pod = only("StatefulSet")["spec"]["template"]["spec"]
    told = worker_parser().parse_args(pod["containers"][0]["args"])
    assert pod["terminationGracePeriodSeconds"] > told.grace


def table_of_metrics() -> dict[str, tuple[str, set[str]]]:
    """Kind and labels of every metric that deploy/metrics.md tells of."""
    rows = re.findall(r"^\| `([\w:]+)` \| (\w+) \| ([\w, ]*)\| .+ \|$", METRICS, re.MULTILINE)
    return {name: (kind, set(labels.replace(",", " ").split())) for name, kind, labels in rows}


@pytest.mark.anyio
async def test_the_table_of_metrics_is_what_the_gateway_tells() -> None:
    policy = AliasConfig("chat", (("tiny", 1.0),), shadow=ShadowConfig("other"), fallbacks=(FallbackConfig("other"),))
    async with running(config("tiny", "other", aliases=(policy,), metrics=True)) as gateway:
        for prompt in ("stop_at=2", "only_on=tiny refuse=OVERLOADED"):
            await gateway.client.post("/completion", json={"prompt": prompt, "model": "chat"})
        scrape = await until_told(gateway, "corral_shadow_copies_total{")
    table = table_of_metrics()
    assert dict(re.findall(r"^# TYPE (\S+) (\S+)$", scrape, re.MULTILINE)) == {
        name: kind for name, (kind, _) in table.items()
    }
    for line in scrape.splitlines():
        name, labels = re.split(r"[{ ]", line, maxsplit=1)[0], set(re.findall(r'[{,](\w+)="', line)) - {"le"}
        if name != "#":
            metric = name if name in table else re.sub(r"_(bucket|sum|count)$", "", name)
            assert labels == table[metric][1], line


async def until_told(gateway: Gateway, series: str) -> str:
    """The first scrape that has it."""
    async with asyncio.timeout(DEADLINE):
        while series not in (scrape := (await gateway.client.get("/metrics")).text):
            await asyncio.sleep(0.01)
    return scrape


def panel_targets() -> list[tuple[str, str]]:
    """What the dashboard asks for, and what it calls it."""
    return [(target["expr"], target["legendFormat"]) for panel in DASHBOARD["panels"] for target in panel["targets"]]


def metrics_in(query: str) -> set[str]:
    return {re.sub("_bucket$", "", name) for name in re.findall(r"\b((?:corral_|vllm:|llamacpp:)\w+)", query)}


def test_every_metric_and_label_of_the_dashboard_is_in_the_table() -> None:
    table = table_of_metrics()
    chosen = [str(variable["query"]) for variable in DASHBOARD["templating"]["list"]]
    assert all(metrics_in(query) <= table.keys() for query in chosen)
    for query, legend in panel_targets():
        metrics = metrics_in(query)
        assert metrics and metrics <= table.keys(), query
        labels = set(re.findall(r"[{,]\s*(\w+)=~?", query))
        grouped = {label for names in re.findall(r"by \(([^)]*)\)", query) for label in names.split(", ")}
        assert labels | grouped <= {"le", "instance"}.union(*(table[name][1] for name in metrics)), query
        assert set(re.findall(r"{{(\w+)}}", legend)) <= grouped, legend


def test_the_dashboard_shows_whatever_the_gateway_counts_of_its_own() -> None:
    shown = set().union(*(metrics_in(query) for query, _ in panel_targets()))
    assert {name for name in table_of_metrics() if name.startswith("corral_")} - shown == {
        "corral_request_seconds_total"
    }
