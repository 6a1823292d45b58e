"""The health probe that the containers run: `python -m shared.health`."""

import asyncio
import socket
import subprocess
import sys
from contextlib import asynccontextmanager

import pytest
from click.testing import CliRunner
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from servers import serving

from shared.health import main as health_main
from shared.health import probe


@asynccontextmanager
async def reporting(statuses):
    """A server that says these of its services."""
    servicer = health.aio.HealthServicer()
    for service, status in statuses.items():
        await servicer.set(service, status)
    async with serving(lambda server: health_pb2_grpc.add_HealthServicer_to_server(servicer, server)) as address:
        yield address


SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


@pytest.mark.parametrize(("status", "code", "said"), [(SERVING, 0, ""), (NOT_SERVING, 1, "{}: not serving\n")])
async def test_the_probe_s_exit_code_tells_whether_the_server_serves(status, code, said):
    async with reporting({"": status}) as address:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "shared.health", address, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        output, _ = await process.communicate()
    assert process.returncode == code
    assert output.decode() == said.format(address)


async def test_the_probe_can_ask_for_one_service():
    async with reporting({"": SERVING, "sick": NOT_SERVING}) as address:
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
