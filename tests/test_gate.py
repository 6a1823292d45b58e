"""The door of a service: tokens, limits and the end, over real sockets."""

import asyncio
import gc
from contextlib import asynccontextmanager
from dataclasses import replace

import grpc
import pytest
from gate_fakes import CONFIG, NAME, Service, connected, failure, healthy, serving, set_link
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from prometheus_client import CollectorRegistry
from servers import PATIENCE_S, eventually

from shared import boundary, gate
from shared.auth import bearer
from shared.errors import BusyError, InvalidInputError, UnavailableError
from shared.limits import RpcLimits
from shared.rpc_errors import from_rpc, retry_after_s
from shared.stubs.mmsc.v1 import channel_pb2

TOKENS = "secret-of-camera-1 camera 1\nsecret-of-camera-2\n"


def refusals(registry: CollectorRegistry) -> dict[str, float]:
    """Refusals by reason, those that there were."""
    counted = {
        reason: registry.get_sample_value("mmsc_rpc_refused_total", {"reason": reason}) for reason in gate.REASONS
    }
    return {reason: count for reason, count in counted.items() if count}


# ---- tokens ---------------------------------------------------------------------------------------


@pytest.fixture
def with_tokens(tmp_path):
    path = tmp_path / "tokens"
    path.write_text(TOKENS)
    return replace(CONFIG, tokens=path)


@pytest.mark.parametrize("metadata", [(), (bearer("secret-of-camera-3"),), (("authorization", "secret-of-camera-1"),)])
async def test_without_a_known_token_nothing_is_done_but_health(with_tokens, metadata):
    registry, servicer = CollectorRegistry(), Service()
    async with serving(with_tokens, registry, servicer) as address, connected(address) as stub:
        for call in (set_link(stub, metadata), stub.Relay(metadata=metadata).read()):
            assert (await failure(call)).code() == grpc.StatusCode.UNAUTHENTICATED
        reflection = reflection_pb2_grpc.ServerReflectionStub(stub.channel)
        requests = iter([reflection_pb2.ServerReflectionRequest(list_services="")])
        error = await failure(reflection.ServerReflectionInfo(requests, metadata=metadata).read())
        assert error.code() == grpc.StatusCode.UNAUTHENTICATED
        assert await healthy(stub)
    assert servicer.entered == 0
    assert refusals(registry) == {"unauthenticated": 3}
    labels = {"grpc_type": "unary", "grpc_service": NAME, "grpc_method": "SetLink", "grpc_code": "Unauthenticated"}
    assert registry.get_sample_value("grpc_server_handled_total", labels) == 1


async def test_each_known_token_opens(with_tokens):
    async with serving(with_tokens) as address, connected(address) as stub:
        for token in ("secret-of-camera-1", "secret-of-camera-2"):
            await set_link(stub, (bearer(token),))


async def test_a_token_has_its_own_places_wherever_it_comes_from(with_tokens):
    config = replace(with_tokens, limits=RpcLimits(per_peer=1))
    servicer = Service()
    async with serving(config, servicer=servicer) as address, connected(address) as one, connected(address) as other:
        first, second = (bearer("secret-of-camera-1"),), (bearer("secret-of-camera-2"),)
        waiting = one.GetLink(channel_pb2.GetLinkRequest(), metadata=first)
        await eventually(lambda: servicer.entered)
        assert (await failure(set_link(other, first))).code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        await set_link(one, second)
        servicer.released.set()
        await waiting


async def test_the_picture_of_who_may_not_call_is_not_even_read(with_tokens, monkeypatch):
    """What is sent along with a refused call never becomes a message."""
    read = []
    only = boundary._only
    monkeypatch.setattr(boundary, "_only", lambda context: read.append(context) or only(context))
    async with serving(with_tokens) as address, connected(address) as stub:
        await failure(set_link(stub))
        assert not read
        await set_link(stub, (bearer("secret-of-camera-1"),))
        assert len(read) == 1


# ---- limits ---------------------------------------------------------------------------------------


async def test_the_excess_is_refused_at_once_and_counted_and_told_when_to_come_back():
    registry, servicer = CollectorRegistry(), Service()
    config = replace(CONFIG, limits=RpcLimits(total=3))
    async with serving(config, registry, servicer) as address, connected(address) as stub:
        calls = [stub.GetLink(channel_pb2.GetLinkRequest(), timeout=PATIENCE_S) for _ in range(3)]
        await eventually(lambda: servicer.entered == 3)
        error = await failure(set_link(stub))
        assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert retry_after_s(error) == 1.0
        meaning = from_rpc(error, "channel")
        assert isinstance(meaning, BusyError)
        assert (meaning.retry_s, str(meaning)) == (1.0, "channel: resource exhausted: all 3 places are taken")
        assert await healthy(stub)
        servicer.released.set()
        await asyncio.gather(*calls)
        await set_link(stub)
    assert refusals(registry) == {"concurrency": 1}


async def test_two_hundred_at_once_are_served_or_told_to_come_back():
    registry = CollectorRegistry()
    config = replace(CONFIG, limits=RpcLimits(total=20))
    servicer = Service()
    async with serving(config, registry, servicer) as address, connected(address) as stub:
        calls = [stub.GetLink(channel_pb2.GetLinkRequest(), timeout=PATIENCE_S) for _ in range(200)]
        await eventually(lambda: sum(refusals(registry).values()) == 180)
        servicer.released.set()
        ends = await asyncio.gather(*calls, return_exceptions=True)
    errors = [end for end in ends if isinstance(end, grpc.aio.AioRpcError)]
    assert len(errors) == 180
    assert {error.code() for error in errors} == {grpc.StatusCode.RESOURCE_EXHAUSTED}
    assert all(retry_after_s(error) for error in errors)


async def test_the_rate_of_a_peer_is_limited():
    registry = CollectorRegistry()
    config = replace(CONFIG, limits=RpcLimits(per_peer_rate=0.5))
    async with serving(config, registry) as address, connected(address) as one, connected(address) as other:
        await set_link(one)
        error = await failure(set_link(other))  # another port of the same host
    assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert 1 < retry_after_s(error) <= 2
    assert refusals(registry) == {"peer_rate": 1}


async def test_who_asks_for_health_without_end_is_refused_too(monkeypatch):
    monkeypatch.setattr(gate, "HEALTH_RPCS", 2)
    registry = CollectorRegistry()
    async with serving(registry=registry) as address, connected(address) as stub:
        health = health_pb2_grpc.HealthStub(stub.channel)
        watching = [health.Watch(health_pb2.HealthCheckRequest()) for _ in range(2)]
        for watch in watching:
            await watch.read()
        error = await failure(health.Watch(health_pb2.HealthCheckRequest()).read())
        assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        await set_link(stub)
        for watch in watching:
            watch.cancel()


async def test_a_request_that_never_comes_gives_its_place_back(monkeypatch):
    monkeypatch.setattr(boundary, "UPLOAD_TIMEOUT_S", 0.05)
    async with serving() as address, connected(address) as stub:
        # A client that opens the call as a stream may stay silent in it.
        silent = stub.channel.stream_unary(f"/{NAME}/SetLink")()
        assert (await failure(silent)).code() == grpc.StatusCode.DEADLINE_EXCEEDED
        none = stub.channel.stream_unary(f"/{NAME}/SetLink")(iter([]))
        assert (await failure(none)).code() == grpc.StatusCode.INVALID_ARGUMENT


async def test_bytes_that_are_no_message_are_the_caller_s_fault():
    async with serving() as address, connected(address) as stub:
        for kind, method in (("unary_unary", "SetLink"), ("stream_stream", "Relay")):
            call = getattr(stub.channel, kind)(f"/{NAME}/{method}")
            error = await failure(call(b"\xff\xff\xff") if kind == "unary_unary" else call(iter([b"\xff\xff"])).read())
            assert error.code() == grpc.StatusCode.INVALID_ARGUMENT


async def test_an_error_leaves_nothing_of_the_request_behind():
    """Not even until the garbage collector comes, before which a thousand uploads may have."""

    class Refusing(Service):
        async def SetLink(self, request, context):
            raise InvalidInputError("settings", "spoilt")

    def left() -> list[InvalidInputError]:
        return [each for each in gc.get_objects() if type(each) is InvalidInputError and each.description == "spoilt"]

    gc.disable()
    try:
        async with serving(servicer=Refusing()) as address, connected(address) as stub:
            for _ in range(3):
                assert (await failure(set_link(stub))).code() == grpc.StatusCode.INVALID_ARGUMENT
            await eventually(lambda: not left())
    finally:
        gc.enable()


# ---- the end --------------------------------------------------------------------------------------


@asynccontextmanager
async def draining(grace_s: float):
    """A service with one call in, which is just about to end; gives what there is to look at."""
    registry, servicer = CollectorRegistry(), Service()
    context = serving(replace(CONFIG, grace_s=grace_s), registry, servicer)
    address = await context.__aenter__()
    async with connected(address) as stub:
        call = stub.GetLink(channel_pb2.GetLinkRequest(), timeout=PATIENCE_S)
        await eventually(lambda: servicer.entered)
        ending = asyncio.create_task(context.__aexit__(None, None, None))
        yield registry, servicer, stub, call, ending


async def test_a_draining_service_ends_what_runs_and_refuses_what_comes():
    async with draining(PATIENCE_S) as (registry, servicer, stub, call, ending):
        async with asyncio.timeout(PATIENCE_S):
            while await healthy(stub):  # told while calls still run, on connections old and new
                await asyncio.sleep(0.005)
        error = await failure(set_link(stub))
        assert (error.code(), error.details()) == (grpc.StatusCode.UNAVAILABLE, "the service is shutting down")
        assert isinstance(from_rpc(error, "channel"), UnavailableError)
        assert not ending.done()
        servicer.released.set()
        assert isinstance(await call, channel_pb2.GetLinkResponse)
        await asyncio.wait_for(ending, PATIENCE_S)
    assert refusals(registry) == {"draining": 1}


async def test_what_outlives_the_grace_ends_in_an_error():
    async with draining(0.1) as (_, _, _, call, ending):
        error = await failure(call)
        assert error.code() in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}
        assert isinstance(from_rpc(error, "channel"), UnavailableError)
        await asyncio.wait_for(ending, PATIENCE_S)
