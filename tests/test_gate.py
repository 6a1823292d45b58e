"""The door of a service: tokens, limits, TLS and the end, over real sockets."""

import asyncio
import gc
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

import grpc
import pytest
from certificates import access, authority, server_tls
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from prometheus_client import CollectorRegistry

from shared import boundary, gate
from shared.auth import bearer
from shared.errors import BusyError, InvalidInputError, UnavailableError
from shared.limits import RpcLimits
from shared.rpc_errors import from_rpc, retry_after_s
from shared.service import ServiceConfig, running
from shared.stubs.mmsc.v1 import channel_pb2, channel_pb2_grpc
from shared.tls import Access, ServerTls

CONFIG = ServiceConfig("127.0.0.1:0", grace_s=0.0)
NAME = "mmsc.v1.ChannelService"
TOKENS = "secret-of-camera-1 camera 1\nsecret-of-camera-2\n"
PATIENCE_S = 20.0


class Service(channel_pb2_grpc.ChannelServiceServicer):
    """Its unary RPC waits to be released, its stream echoes."""

    def __init__(self) -> None:
        self.released = asyncio.Event()
        self.entered = 0

    async def GetLink(self, request, context):
        self.entered += 1
        await self.released.wait()
        return channel_pb2.GetLinkResponse()

    async def SetLink(self, request, context):
        self.entered += 1
        return channel_pb2.SetLinkResponse()

    async def Relay(self, request_iterator, context):
        self.entered += 1
        async for request in request_iterator:
            yield channel_pb2.RelayResponse(packets=request.packets)


@asynccontextmanager
async def serving(config=CONFIG, registry=None, servicer=None) -> AsyncIterator[str]:
    """The address of a service that runs while the context lasts."""

    @asynccontextmanager
    async def register(server: grpc.aio.Server, _: CollectorRegistry) -> AsyncIterator[Sequence[str]]:
        channel_pb2_grpc.add_ChannelServiceServicer_to_server(servicer or Service(), server)
        yield (NAME,)

    async with running(config, registry or CollectorRegistry(), register) as address:
        yield address


@asynccontextmanager
async def connected(address: str, through: Access | None = None) -> AsyncIterator[channel_pb2_grpc.ChannelServiceStub]:
    credentials = through.credentials() if through else None
    if credentials is None:
        channel = grpc.aio.insecure_channel(address)
    else:
        channel = grpc.aio.secure_channel(address, credentials, options=through.options())
    async with channel:
        stub = channel_pb2_grpc.ChannelServiceStub(channel)
        stub.channel = channel
        yield stub


async def set_link(stub, metadata=()) -> None:
    await stub.SetLink(channel_pb2.SetLinkRequest(), timeout=PATIENCE_S, metadata=metadata)


async def healthy(stub) -> bool:
    check = health_pb2_grpc.HealthStub(stub.channel).Check
    return (await check(health_pb2.HealthCheckRequest(), timeout=PATIENCE_S)).status == 1


async def failure(awaitable) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await awaitable
    return caught.value


async def eventually(condition) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():
            await asyncio.sleep(0.005)


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


# ---- TLS ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mutual", [False, True])
async def test_tls_lets_in_who_trusts_and_is_trusted(mutual):
    config = replace(CONFIG, tls=server_tls(mutual=mutual))
    async with serving(config) as address:
        async with connected(address, access(cert="ours")) as stub:
            await set_link(stub)
            assert await healthy(stub)
        for through in (None, access(ca="foreign", cert="ours"), access(cert="foreign"), access()):
            trusted = not mutual and through is not None and through.ca == access().ca
            async with connected(address, through) as stub:
                if trusted:
                    await set_link(stub)
                else:
                    assert (await failure(set_link(stub))).code() == grpc.StatusCode.UNAVAILABLE
        async with connected(address, replace(access(cert="ours"), server_name="elsewhere")) as stub:
            assert (await failure(set_link(stub))).code() == grpc.StatusCode.UNAVAILABLE


async def test_a_peer_is_known_by_its_certificate():
    config = replace(CONFIG, tls=server_tls(mutual=True), limits=RpcLimits(per_peer=1))
    other = replace(access(), cert=authority("ours") / "service.pem", key=authority("ours") / "service.key")
    servicer = Service()
    async with (
        serving(config, servicer=servicer) as address,
        connected(address, access(cert="ours")) as stub,
        connected(address, other) as another,
    ):
        waiting = stub.GetLink(channel_pb2.GetLinkRequest())
        await eventually(lambda: servicer.entered)
        assert (await failure(set_link(stub))).code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        await set_link(another)
        servicer.released.set()
        await waiting


@pytest.mark.parametrize(
    ("settings", "field", "reason"),
    [
        ({"cert": "service.pem"}, "tls_key", "is missing: tls_cert needs it"),
        ({"key": "service.key"}, "tls_cert", "is missing: tls_key needs it"),
        ({"client_ca": "ca.pem"}, "tls_client_ca", "needs a tls_cert"),
        ({"cert": "absent.pem", "key": "service.key"}, "tls_cert", "cannot read .*absent.pem: No such file"),
        ({"cert": "service.pem", "key": "client.key"}, "tls_key", "is not the key of"),
        ({"cert": "service.key", "key": "service.key"}, "tls_cert", "no certificate and plain key in PEM"),
        (
            {"cert": "service.pem", "key": "service.key", "client_ca": "ca.key"},
            "tls_client_ca",
            "holds no certificates",
        ),
    ],
)
def test_files_that_do_not_fit_are_told_before_anything_listens(settings, field, reason):
    with pytest.raises(InvalidInputError, match=reason) as caught:
        ServerTls(**{name: authority("ours") / file for name, file in settings.items()}).credentials()
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("settings", "field"),
    [({"cert": "client.pem"}, "key"), ({"cert": "client.pem", "key": "client.key"}, "cert"), ({"ca": "ca.key"}, "ca")],
)
def test_what_a_caller_brings_is_checked_too(settings, field):
    with pytest.raises(InvalidInputError) as caught:
        Access(**{name: authority("ours") / file for name, file in settings.items()}).credentials()
    assert caught.value.field == field


def test_a_token_crosses_no_network_in_the_clear(tmp_path):
    path = tmp_path / "token"
    path.write_text("secret-of-camera-1")
    expected = (("authorization", "Bearer secret-of-camera-1"),)
    assert Access(token_file=path).metadata("127.0.0.1:50051") == expected
    assert access(token_file=path).metadata("receiver:50053") == expected
    with pytest.raises(InvalidInputError, match="would go to receiver:50053 in the clear"):
        Access(token_file=path).metadata("receiver:50053")


@pytest.mark.parametrize(
    ("listen", "tls", "warned"), [("0.0.0.0:0", False, True), ("0.0.0.0:0", True, False), ("127.0.0.1:0", False, False)]
)
async def test_listening_to_others_without_tls_is_told(capsys, listen, tls, warned):
    async with serving(replace(CONFIG, listen=listen, tls=server_tls() if tls else ServerTls())):
        pass
    assert ("warning: listening on 0.0.0.0:0 without TLS" in capsys.readouterr().err) == warned
