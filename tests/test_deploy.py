"""What the images and the compose files say to each other, to the documents and to the code."""

import asyncio
import json
import re
import subprocess
import sys
import tomllib
from contextlib import asynccontextmanager

import pytest
import yaml
from certificates import authority
from click.testing import CliRunner
from deployment_files import (
    COMMANDS,
    COMPOSE,
    DOCS,
    MODULES,
    PORTS,
    ROOT,
    SERVICES,
    instructions,
    options_of,
    settings_of,
    stages,
)
from prometheus_client import CollectorRegistry

from shared.health import main as health_main
from shared.options import access_settings, service_settings
from shared.service import ServiceConfig, running
from shared.tls import ServerTls

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


# ---- the document ---------------------------------------------------------------------------------


def test_the_document_names_every_setting_and_no_other():
    told = set(re.findall(r"^\| `(MMSC_\w+)`", DOCS, flags=re.MULTILINE))
    assert told == set().union(*(options_of(service) for service in SERVICES))
