"""What the deployment's files say of each service, and what its code understands."""

import re
import shlex
from functools import cache
from pathlib import Path

import yaml

from channel_emulator.__main__ import main as channel_main
from receiver.__main__ import main as receiver_main
from transmitter.__main__ import main as transmitter_main

ROOT = Path(__file__).parent.parent
DOCS = "".join((ROOT / "docs" / name).read_text() for name in ("deploy.md", "receiver_store.md"))
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
COMMANDS = {"transmitter": transmitter_main, "channel": channel_main, "receiver": receiver_main}
MODULES = {"transmitter": "transmitter", "channel": "channel_emulator", "receiver": "receiver"}
PORTS = {"transmitter": ("50051", "9101"), "channel": ("50052", "9102"), "receiver": ("50053", "9103")}
SERVICES = sorted(COMMANDS)


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
