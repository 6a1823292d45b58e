"""What the deployment's files say to each other and to the code."""

import asyncio
import importlib.util
import json
import re
import shlex
import socket
import subprocess
import sys
import tomllib
from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path

import grpc
import pytest
import yaml
from certificates import authority
from click.testing import CliRunner
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from prometheus_client import CollectorRegistry

from channel_emulator.__main__ import main as channel_main
from channel_emulator.bank import LinkBank
from channel_emulator.metrics import LinkCollector
from channel_emulator.settings import LinkSettings
from receiver.__main__ import main as receiver_main
from shared.boundary import RpcBoundary
from shared.health import main as health_main
from shared.health import probe
from shared.options import access_settings, service_settings
from shared.service import ServiceConfig, running
from shared.telemetry import new_registry
from shared.tls import ServerTls
from transmitter.__main__ import main as transmitter_main

ROOT = Path(__file__).parent.parent
DOCS = "".join((ROOT / "docs" / name).read_text() for name in ("deploy.md", "receiver_store.md"))
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
PROMETHEUS = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text())
RULES = [
    rule
    for group in yaml.safe_load((ROOT / "deploy/prometheus/rules.yml").read_text())["groups"]
    for rule in group["rules"]
]
COMMANDS = {"transmitter": transmitter_main, "channel": channel_main, "receiver": receiver_main}
MODULES = {"transmitter": "transmitter", "channel": "channel_emulator", "receiver": "receiver"}
PORTS = {"transmitter": ("50051", "9101"), "channel": ("50052", "9102"), "receiver": ("50053", "9103")}
SERVICES = sorted(COMMANDS)

# ---- readers of the files -------------------------------------------------------------------------


@cache
def stages():
    """The Dockerfile: stage name to (parent, [(instruction, arguments), ...])."""
    text = (ROOT / "deploy/Dockerfile").read_text()
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    found = {}
    for line in "\n".join(lines).replace("\\\n", " ").splitlines():
        instruction, _, arguments = line.strip().partition(" ")
        if instruction == "FROM":
            parent, _, name = arguments.split()
            found[name] = (parent, current := [])
        elif instruction:
            current.append((instruction, arguments.strip()))
    return found


def instructions(target, kind):
    """Arguments of the instructions of one kind that make up an image, parents first."""
    if target not in stages():
        return []
    parent, own = stages()[target]
    return [*instructions(parent, kind), *(arguments for name, arguments in own if name == kind)]


def image_environment(target):
    words = [word for arguments in instructions(target, "ENV") for word in shlex.split(arguments)]
    return dict(word.split("=", 1) for word in words)


def settings_of(service):
    """The environment of a service's container, with the defaults that the compose file names."""
    composed = COMPOSE["services"][service]["environment"]
    defaults = {name: re.sub(r"\$\{\w+:-(.*?)\}", r"\1", str(value)) for name, value in composed.items()}
    own = {name: value for name, value in image_environment(service).items() if name.startswith("MMSC_")}
    return own | defaults


def options_of(service):
    """The environment variables that a service understands."""
    command = COMMANDS[service]
    prefix = command.context_settings["auto_envvar_prefix"]
    return {f"{prefix}_{option.name.upper()}" for option in command.params}


@cache
def series():
    """The services' own series and gRPC's: name to (type, names of the labels)."""
    pages = metrics_pages()
    link = new_registry("channel")
    link.register(LinkCollector(LinkBank(LinkSettings()), LinkBank(LinkSettings(), name="backward")))
    RpcBoundary(link)
    return {
        f"{metric.name}{suffix}": (metric.type, labels)
        for registry in (link, pages.registry("transmitter"), pages.registry("receiver"))
        for metric, labels in described(registry)
        for suffix in {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"]}.get(metric.type, [""])
        if metric.name.startswith(("mmsc_", "grpc_")) and metric.type != "info"
    }


def described(registry):
    for collector in registry._collector_to_names:
        declared = set(getattr(collector, "_labelnames", ()))
        for metric in collector.collect():
            yield metric, declared | {label for sample in metric.samples for label in sample.labels} - {"le"}


def metrics_pages():
    spec = importlib.util.spec_from_file_location("metrics_page", ROOT / "deploy/metrics_page.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# ---- images ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("service", SERVICES)
def test_each_image_runs_its_service_as_nobody_in_particular(service):
    assert json.loads(instructions(service, "ENTRYPOINT")[-1]) == ["python", "-m", MODULES[service]]
    user, group = instructions(service, "USER")[-1].split(":")
    assert int(user) > 0
    assert int(group) > 0
    assert instructions(service, "STOPSIGNAL") == ["SIGTERM"]


@pytest.mark.parametrize("service", SERVICES)
def test_each_image_exposes_and_probes_the_ports_that_it_listens_on(service):
    port, metrics_port = PORTS[service]
    listens = {name: value for name, value in settings_of(service).items() if name.endswith("LISTEN")}
    prefix = f"MMSC_{service.upper()}"
    assert listens == {f"{prefix}_LISTEN": f"0.0.0.0:{port}", f"{prefix}_METRICS_LISTEN": f"0.0.0.0:{metrics_port}"}
    assert instructions(service, "EXPOSE") == [f"{port} {metrics_port}"]
    probed = json.loads(instructions(service, "HEALTHCHECK")[-1].partition("CMD")[2])
    assert probed == ["python", "-m", "shared.health", f"127.0.0.1:{port}"]


def test_everything_is_installed_from_hashed_locks_and_the_emulator_from_its_own():
    installs = [line for name in stages() for kind, line in stages()[name][1] if kind == "RUN" and "install" in line]
    assert all("--require-hashes" in line or "--no-index --no-deps" in line for line in installs)
    copied = [line for line in instructions("channel", "COPY") if not line.startswith("--from")]
    assert copied == ["requirements/channel.txt /opt/requirements/"]
    assert [line for line in instructions("channel-code", "COPY") if "requirements" not in line] == [
        "LICENSE README.md pyproject.toml ./",
        "shared shared",
        "channel_emulator channel_emulator",
    ]


def test_the_emulator_imports_nothing_but_its_requirements():
    program = """
import json, sys
before = set(sys.modules)  # what .pth files load
import channel_emulator.__main__, shared.health
# grpc looks for grpc_tools, and does without.
loaded = {name.partition(".")[0] for name in set(sys.modules) - before} - {"grpc_tools"}
from importlib.metadata import packages_distributions
print(json.dumps([owners for name, owners in packages_distributions().items() if name in loaded]))
"""
    owners = json.loads(subprocess.run([sys.executable, "-c", program], check=True, capture_output=True).stdout)
    allowed = {normal(name) for name in locked("channel")} | {"mmsc"}
    assert {"grpcio"} <= {normal(name) for names in owners for name in names}
    assert [names for names in owners if not {normal(name) for name in names} & allowed] == []


def normal(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def locked(lock):
    """Names and versions of a lock's packages."""
    text = (ROOT / f"requirements/{lock}.txt").read_text()
    return dict(re.findall(r"^([A-Za-z0-9._-]+)==(\S+) \\\n    --hash=sha256:", text, flags=re.MULTILINE))


@pytest.mark.parametrize("lock", ["build", "channel", "dev", "receiver", "transmitter"])
def test_locks_are_hashed_throughout_and_agree_with_the_tested_versions(lock):
    text = (ROOT / f"requirements/{lock}.txt").read_text()
    pinned = re.findall(r"^\S+==", text, flags=re.MULTILINE)
    assert len(pinned) == len(locked(lock)) > 0
    assert "://" not in text
    assert locked(lock).items() <= locked("dev").items()


def test_the_build_lock_holds_what_the_build_asks_for():
    asked = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]
    assert (ROOT / "requirements/build.in").read_text().split() == asked


# ---- compose --------------------------------------------------------------------------------------


def test_compose_builds_a_target_of_the_dockerfile_for_each_service():
    built = {name: service["build"] for name, service in COMPOSE["services"].items() if "build" in service}
    assert sorted(built) == SERVICES
    assert all(build["target"] == name and name in stages() for name, build in built.items())
    assert all((ROOT / build["dockerfile"]).is_file() for build in built.values())


@pytest.mark.parametrize("name", sorted(COMPOSE["services"]))
def test_every_container_is_confined(name):
    service = COMPOSE["services"][name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert set(service["deploy"]["resources"]["limits"]) == {"cpus", "memory", "pids"}
    assert service["restart"] == "unless-stopped"
    assert all(port.startswith("127.0.0.1:") for port in service["ports"])
    assert service["healthcheck"]["test"][0] == "CMD"


@pytest.mark.parametrize("service", SERVICES)
def test_services_understand_every_setting_they_are_given(service, monkeypatch):
    settings = settings_of(service)
    assert settings.keys() <= options_of(service)
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    # Reads the environment as the service will, and raises on a value that it cannot read.
    values = COMMANDS[service].make_context(service, []).params
    assert values["listen"] == settings[f"MMSC_{service.upper()}_LISTEN"]


def test_packets_are_led_from_the_transmitter_through_the_channel_to_the_receiver():
    assert settings_of("transmitter")["MMSC_TRANSMITTER_CHANNEL"] == f"channel:{PORTS['channel'][0]}"
    assert settings_of("channel")["MMSC_CHANNEL_RECEIVER"] == f"receiver:{PORTS['receiver'][0]}"
    waits = {name: service.get("depends_on", {}) for name, service in COMPOSE["services"].items()}
    assert waits["transmitter"] == {"channel": {"condition": "service_healthy"}}
    assert waits["channel"] == {"receiver": {"condition": "service_healthy"}}


def test_the_override_gives_the_transmitter_alone_a_gpu():
    override = yaml.safe_load((ROOT / "docker-compose.gpu.yml").read_text())
    assert list(override["services"]) == ["transmitter"]
    (device,) = override["services"]["transmitter"]["deploy"]["resources"]["reservations"]["devices"]
    assert device == {"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}


# ---- TLS ------------------------------------------------------------------------------------------

TLS = yaml.safe_load((ROOT / "docker-compose.tls.yml").read_text())


@pytest.fixture(scope="module")
def secrets():
    """What stands at /run/secrets: the files that the documented commands make."""
    files = authority("deployed", *SERVICES, "client")
    (files / "tokens").write_text("0123456789abcdef0123456789abcdef\n")
    return files


def test_the_override_takes_the_files_that_the_script_makes(secrets):
    assert sorted(TLS["services"]) == SERVICES
    for name, secret in TLS["secrets"].items():
        assert secret == {"file": f"${{MMSC_TLS_DIR:-./deploy/tls}}/{name}"}
        assert (secrets / name).is_file()
    ignored = subprocess.run(["git", "check-ignore", "-q", "deploy/tls/ca.key"], cwd=ROOT, check=False)
    assert ignored.returncode in {0, 128}  # 128: not a checkout


@pytest.mark.parametrize("service", SERVICES)
def test_the_override_secures_both_sides_of_each_service(service, secrets, monkeypatch):
    settings, granted = TLS["services"][service]["environment"], TLS["services"][service]["secrets"]
    assert settings.keys() <= options_of(service)
    assert {value.removeprefix("/run/secrets/") for value in settings.values()} == set(granted)
    assert not any(other in name for name in granted for other in SERVICES if other != service)
    for name, value in settings.items():
        monkeypatch.setenv(name, value.replace("/run/secrets", str(secrets)))
    values = COMMANDS[service].make_context(service, []).params
    common = service_settings(values)
    assert common["tls"].credentials() is not None
    assert common["tls"].client_ca == secrets / "ca.pem"
    assert common["tokens"] == secrets / "tokens"
    if service != "receiver":
        through = access_settings(values)
        assert through.credentials() is not None
        assert through.metadata("receiver:50053")


@pytest.mark.parametrize("service", SERVICES)
async def test_the_override_s_probe_gets_through_mutual_tls(service, secrets):
    command = TLS["services"][service]["healthcheck"]["test"]
    assert command[:4] == ["CMD", "python", "-m", "shared.health"]
    assert command[4] == f"127.0.0.1:{PORTS[service][0]}"
    options = [word.replace("/run/secrets", str(secrets)) for word in command[5:]]
    tls = ServerTls(secrets / f"{service}.pem", secrets / f"{service}.key", secrets / "ca.pem")
    config = ServiceConfig("127.0.0.1:0", grace_s=0, tls=tls, tokens=secrets / "tokens")
    async with running(config, CollectorRegistry(), nothing) as address:
        through = await asyncio.to_thread(CliRunner().invoke, health_main, [address, *options])
        without = await asyncio.to_thread(CliRunner().invoke, health_main, [address])
    assert (through.exit_code, through.output) == (0, "")
    assert without.exit_code == 1


@asynccontextmanager
async def nothing(_server, _registry):
    yield ()


# ---- Prometheus -----------------------------------------------------------------------------------


def test_prometheus_scrapes_the_metrics_port_of_each_service():
    scraped = {job["job_name"]: job["static_configs"][0]["targets"] for job in PROMETHEUS["scrape_configs"]}
    assert scraped == {name: [f"{name}:{metrics_port}"] for name, (_, metrics_port) in PORTS.items()}
    assert all(COMPOSE["services"][name]["expose"] == [PORTS[name][1]] for name in SERVICES)


def test_rules_use_series_and_labels_that_exist():
    recorded = {rule["record"] for rule in RULES if "record" in rule}
    used = set()
    for rule in RULES:
        names = re.findall(r"(?<![\w:])(?:mmsc|grpc_server)_\w+", strip_records(rule["expr"], recorded))
        used |= set(names)
        labels = set(re.findall(r"(\w+)=~?\"", rule["expr"]))
        labels |= {label for by in re.findall(r"by \(([^)]*)\)", rule["expr"]) for label in by.split(", ")}
        known = {"job", "instance", "le"}.union(*(series()[name][1] for name in names if name in series()))
        known |= {"outcome"} if set(re.findall(r"[\w:]+", rule["expr"])) & recorded else set()
        assert labels <= known, rule
    assert used <= series().keys()
    assert len(used) > 10


def strip_records(expression, recorded):
    for name in recorded:
        expression = expression.replace(name, "")
    return expression


def test_rules_ask_for_outcomes_that_are_counted():
    pages = metrics_pages()
    counted = {
        sample.labels["outcome"]
        for name in ("transmitter", "receiver")
        for metric in pages.registry(name).collect()
        for sample in metric.samples
        if "outcome" in sample.labels
    } | {"overflow"}
    assert {value for rule in RULES for value in re.findall(r"outcome=\"(\w+)\"", rule["expr"])} <= counted


def test_series_follow_the_conventions():
    for name, (kind, labels) in series().items():
        assert (kind == "counter") == name.endswith("_total"), name
        assert not re.search(r"_(ms|millis\w*|minutes|bits|kb|kib|mb|percent)(_|$)", name), name
        # Labels with few values: nothing that a client chooses.
        assert labels <= {
            "outcome",
            "reason",
            "codec",
            "level",
            "stage",
            "grpc_type",
            "grpc_service",
            "grpc_method",
            "grpc_code",
        }, name


# ---- the document ---------------------------------------------------------------------------------


def test_the_document_names_every_series_and_no_other():
    told = set(re.findall(r"^\| `((?:mmsc|grpc)_\w+)", DOCS, flags=re.MULTILINE))
    bases = {
        re.sub(r"_(bucket|sum|count)$", "", name) if kind == "histogram" else name
        for name, (kind, _) in series().items()
    }
    assert told == bases | {"mmsc_build_info", "mmsc_transmitter_relevance_info"}


def test_the_document_names_every_setting_and_no_other():
    told = set(re.findall(r"^\| `(MMSC_\w+)`", DOCS, flags=re.MULTILINE))
    assert told == set().union(*(options_of(service) for service in SERVICES))


# ---- the health probe -----------------------------------------------------------------------------


@asynccontextmanager
async def serving(statuses):
    server = grpc.aio.server()
    servicer = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    for service, status in statuses.items():
        await servicer.set(service, status)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(0)


SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


@pytest.mark.parametrize(("status", "code", "said"), [(SERVING, 0, ""), (NOT_SERVING, 1, "{}: not serving\n")])
async def test_the_probe_s_exit_code_tells_whether_the_server_serves(status, code, said):
    async with serving({"": status}) as address:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "shared.health", address, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        output, _ = await process.communicate()
    assert process.returncode == code
    assert output.decode() == said.format(address)


async def test_the_probe_can_ask_for_one_service():
    async with serving({"": SERVING, "sick": NOT_SERVING}) as address:
        told = [await asyncio.to_thread(probe, address, service) for service in ("", "sick", "strange")]
    assert told[:2] == ["", "not serving"]
    assert told[2].startswith("not found: ")


def test_the_probe_fails_where_nothing_listens():
    with socket.socket() as taken:  # bound, but not listening
        taken.bind(("127.0.0.1", 0))
        result = CliRunner().invoke(health_main, [f"127.0.0.1:{taken.getsockname()[1]}"])
    assert result.exit_code == 1
    assert "unavailable: " in result.stderr


def test_the_probe_gives_up_on_a_server_that_does_not_answer():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        result = CliRunner().invoke(health_main, [f"127.0.0.1:{silent.getsockname()[1]}", "--timeout", "0.05"])
    assert result.exit_code == 1
    assert "deadline exceeded: " in result.stderr
