"""What every service has: health, reflection, metrics, error statuses, and a clean end."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

import grpc
import pytest
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from prometheus_client import CollectorRegistry

from shared.errors import (
    BudgetTooSmallError,
    BusyError,
    DeadlineError,
    InvalidInputError,
    MmscError,
    PacketError,
    StreamError,
    UnauthenticatedError,
    UnavailableError,
    WeightsError,
)
from shared.rpc_errors import explain, from_rpc, status_code
from shared.service import ServiceConfig, running
from shared.stubs.mmsc.v1 import channel_pb2, channel_pb2_grpc
from shared.telemetry import new_registry

CONFIG = ServiceConfig("127.0.0.1:0", grace_s=0.0)
NAME = "mmsc.v1.ChannelService"
SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


class Misbehaving(channel_pb2_grpc.ChannelServiceServicer):
    """A service of ours whose unary RPC ends as it is told to, and whose stream echoes."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.closed = False

    async def GetLink(self, request, context):
        if self.error is not None:
            raise self.error
        return channel_pb2.GetLinkResponse()

    async def Relay(self, request_iterator, context):
        try:
            async for request in request_iterator:
                if request.packets[0] == b"bad":
                    raise InvalidInputError("packets", "spoilt")
                yield channel_pb2.RelayResponse(packets=request.packets)
            # The end of a cancelled stream can arrive before the news of its cancellation.
            await asyncio.sleep(0.5)
        finally:
            self.closed = True


@asynccontextmanager
async def serving(
    servicer: Misbehaving, config: ServiceConfig = CONFIG, registry: CollectorRegistry | None = None
) -> AsyncIterator[grpc.aio.Channel]:
    """A channel to a service that runs while the context lasts."""

    @asynccontextmanager
    async def register(server: grpc.aio.Server, _: CollectorRegistry) -> AsyncIterator[Sequence[str]]:
        channel_pb2_grpc.add_ChannelServiceServicer_to_server(servicer, server)
        yield (NAME,)

    async with (
        running(config, registry or CollectorRegistry(), register) as address,
        grpc.aio.insecure_channel(address) as channel,
    ):
        yield channel


async def call(channel: grpc.aio.Channel) -> None:
    await channel_pb2_grpc.ChannelServiceStub(channel).GetLink(channel_pb2.GetLinkRequest(), timeout=10)


async def eventually(registry: CollectorRegistry, name: str, labels: dict[str, str], value: float) -> None:
    async with asyncio.timeout(20):
        while registry.get_sample_value(name, labels) != value:
            await asyncio.sleep(0.005)


def handled(code: str, method: str = "GetLink", kind: str = "unary") -> dict[str, str]:
    return {"grpc_type": kind, "grpc_service": NAME, "grpc_method": method, "grpc_code": code}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.parametrize("service", ["", NAME])
async def test_health_is_serving_until_the_shutdown(service):
    changes = []
    released = asyncio.Event()

    async def watch(address: str) -> None:
        async with grpc.aio.insecure_channel(address) as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            async for response in stub.Watch(health_pb2.HealthCheckRequest(service=service)):
                changes.append(response.status)
                released.set()
                if response.status == NOT_SERVING:
                    return

    @asynccontextmanager
    async def register(server: grpc.aio.Server, _: CollectorRegistry) -> AsyncIterator[Sequence[str]]:
        yield (NAME,)

    async with running(replace(CONFIG, grace_s=10.0), CollectorRegistry(), register) as address:
        watcher = asyncio.create_task(watch(address))
        await asyncio.wait_for(released.wait(), 10)
        async with grpc.aio.insecure_channel(address) as channel:
            check = health_pb2_grpc.HealthStub(channel).Check
            assert (await check(health_pb2.HealthCheckRequest(service=service))).status == SERVING
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await check(health_pb2.HealthCheckRequest(service="mmsc.v1.Unknown"))
            assert caught.value.code() == grpc.StatusCode.NOT_FOUND
    await asyncio.wait_for(watcher, 10)
    assert changes == [SERVING, NOT_SERVING]


async def test_reflection_lists_the_services():
    async with serving(Misbehaving()) as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        request = reflection_pb2.ServerReflectionRequest(list_services="")
        responses = [response async for response in stub.ServerReflectionInfo(iter([request]))]
    names = {service.name for service in responses[0].list_services_response.service}
    assert names == {NAME, "grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection"}


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (InvalidInputError("query", "is empty"), grpc.StatusCode.INVALID_ARGUMENT),
        (BudgetTooSmallError("budget_bytes", "too small"), grpc.StatusCode.INVALID_ARGUMENT),
        (PacketError("no packet"), grpc.StatusCode.DATA_LOSS),
        (StreamError("no header"), grpc.StatusCode.DATA_LOSS),
        (WeightsError("damaged"), grpc.StatusCode.FAILED_PRECONDITION),
        (UnauthenticatedError("no token"), grpc.StatusCode.UNAUTHENTICATED),
        (BusyError("full", retry_s=2.5), grpc.StatusCode.RESOURCE_EXHAUSTED),
        (UnavailableError("gone"), grpc.StatusCode.UNAVAILABLE),
        (DeadlineError("late"), grpc.StatusCode.DEADLINE_EXCEEDED),
        (MmscError("otherwise"), grpc.StatusCode.INTERNAL),
    ],
)
async def test_our_errors_become_statuses_with_details(error, code):
    assert status_code(error) == code
    async with serving(Misbehaving(error)) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(channel)
    assert (caught.value.code(), caught.value.details()) == (code, str(error))
    status = status_pb2.Status.FromString(dict(caught.value.trailing_metadata())["grpc-status-details-bin"])
    assert (status.code, status.message) == (getattr(code_pb2, code.name), str(error))
    if isinstance(error, InvalidInputError):
        bad = error_details_pb2.BadRequest()
        assert status.details[0].Unpack(bad)
        assert [(bad.field, bad.description) for bad in bad.field_violations] == [(error.field, error.description)]
    elif isinstance(error, BusyError):
        retry = error_details_pb2.RetryInfo()
        assert status.details[0].Unpack(retry)
        assert retry.retry_delay.ToMilliseconds() == 2500
    else:
        assert not status.details


async def test_an_error_in_a_stream_becomes_a_status_after_what_came_before():
    servicer = Misbehaving()
    registry = CollectorRegistry()
    async with serving(servicer, registry=registry) as channel:
        requests = [channel_pb2.RelayRequest(packets=[packet]) for packet in (b"good", b"bad")]
        stream = channel_pb2_grpc.ChannelServiceStub(channel).Relay(iter(requests))
        assert (await stream.read()).packets == [b"good"]
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stream.read()
        assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
        await eventually(registry, "grpc_server_handled_total", handled("InvalidArgument", "Relay", "bidi_stream"), 1.0)
    assert servicer.closed


async def test_a_cancelled_stream_is_closed_and_counted_as_cancelled():
    servicer = Misbehaving()
    registry = CollectorRegistry()
    async with serving(servicer, registry=registry) as channel:
        stream = channel_pb2_grpc.ChannelServiceStub(channel).Relay()
        await stream.write(channel_pb2.RelayRequest(packets=[b"good"]))
        await stream.read()
        stream.cancel()
        await eventually(registry, "grpc_server_handled_total", handled("Canceled", "Relay", "bidi_stream"), 1.0)
    assert servicer.closed


async def test_a_bug_is_counted_as_unknown(caplog):
    registry = CollectorRegistry()
    async with serving(Misbehaving(KeyError("oops")), registry=registry) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(channel)
        assert caught.value.code() == grpc.StatusCode.UNKNOWN
        await eventually(registry, "grpc_server_handled_total", handled("Unknown"), 1.0)


async def test_the_metrics_page_has_the_rpcs_and_the_build():
    port = free_port()
    config = replace(CONFIG, metrics_listen=f"127.0.0.1:{port}")
    registry = new_registry("channel")
    async with serving(Misbehaving(), config, registry) as channel:
        await call(channel)
        await eventually(registry, "grpc_server_handled_total", handled("OK"), 1.0)
        page = await asyncio.to_thread(_fetch, f"http://127.0.0.1:{port}/metrics")
    labels = f'grpc_method="GetLink",grpc_service="{NAME}",grpc_type="unary"'
    assert f"grpc_server_started_total{{{labels}}} 1.0" in page
    assert f"grpc_server_handling_seconds_count{{{labels}}} 1.0" in page
    assert 'mmsc_build_info{service="channel",version="' in page
    assert "process_resident_memory_bytes" in page
    assert "grpc.health" not in page
    with socket.socket() as probe:  # the page is gone with the service
        assert probe.connect_ex(("127.0.0.1", port)) != 0


def _fetch(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as response:
        return str(response.read().decode())


@pytest.mark.parametrize("listen", ["nowhere", "127.0.0.1:notaport", "203.0.113.1:0"])
async def test_an_address_that_cannot_be_listened_on_is_refused(listen):
    with pytest.raises(InvalidInputError) as caught:
        async with serving(Misbehaving(), replace(CONFIG, listen=listen)):
            pass
    assert caught.value.field == "listen"


async def test_a_taken_address_is_refused():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        for change in ({"listen": address}, {"metrics_listen": address}):
            with pytest.raises(InvalidInputError) as caught:
                async with serving(Misbehaving(), replace(CONFIG, **change)):
                    pass
            assert caught.value.field == next(iter(change))


async def test_a_failed_call_means_something_to_the_caller():
    async with serving(Misbehaving(StreamError("no header"))) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(channel)
    assert explain(caught.value) == "data loss: no header"
    assert isinstance(from_rpc(caught.value, "receiver"), StreamError)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call(channel_to_nowhere := grpc.aio.insecure_channel(f"127.0.0.1:{free_port()}"))
    await channel_to_nowhere.close()
    assert isinstance(from_rpc(caught.value, "receiver"), UnavailableError)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_process_tells_when_it_is_ready_and_ends_cleanly_at_a_signal(number):
    arguments = [sys.executable, "-m", "channel_emulator", "--listen", "127.0.0.1:0"]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        ready = json.loads(process.stdout.readline())
        assert ready["service"] == "channel"
        with socket.create_connection(ready["listen"].split(":"), timeout=10):
            pass
        os.kill(process.pid, number)
        _, errors = process.communicate(timeout=30)
    assert (process.returncode, errors) == (0, "")
