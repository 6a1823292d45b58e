"""One trace per transmission: its spans, what passes between services, and OpenTelemetry where it is installed."""

import asyncio
import itertools
import re
import sys
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

import grpc
import pytest
import skimage.data
from click.testing import CliRunner
from fakes import LeftHalf, MeanCodec, mean_sender
from prometheus_client import CollectorRegistry
from receiver_fakes import FakeRestorer

from channel_emulator.__main__ import main as channel_main
from channel_emulator.config import ChannelConfig
from channel_emulator.server import channel_service
from channel_emulator.settings import LinkSettings
from receiver.config import ReceiverConfig
from receiver.contract import by_number
from receiver.ladder_receiver import LadderReceiver
from receiver.server import receiver_service
from shared import tracing
from shared.errors import InvalidInputError
from shared.pictures import png_bytes
from shared.service import LINK_OPTIONS, running
from shared.stubs.mmsc.v1 import common_pb2, transmitter_pb2, transmitter_pb2_grpc
from shared.tracing import outgoing, rpc_span, span, tracer_for
from transmitter.config import TransmitterConfig
from transmitter.pipeline import Pipeline
from transmitter.server import transmitter

CLIENT = "00-000000000000000000000000000000aa-00000000000000bb-01"
SERVICE = "mmsc.v1"
PATIENCE_S = 20.0


@dataclass
class Recorded:
    """A span, as a tracer sees it."""

    tracer: "Recorder"
    name: str
    trace: str
    parent: str
    number: str
    attributes: dict = field(default_factory=dict)
    error: BaseException | None = None
    ended: bool = False

    @property
    def traceparent(self) -> str:
        return f"00-{self.trace}-{self.number}-01"

    def child(self, name: str) -> "Recorded":
        return self.tracer.add(name, self.trace, self.number)

    def set(self, **attributes) -> None:
        self.attributes |= attributes

    def end(self, error: BaseException | None = None) -> None:
        assert not self.ended
        self.ended, self.error = True, error


class Recorder:
    """Keeps the spans of all services."""

    def __init__(self) -> None:
        self.spans: list[Recorded] = []
        self.closed = 0
        self._numbers = itertools.count(1)

    def begin(self, name: str, traceparent: str) -> Recorded:
        match = re.fullmatch(r"00-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}", traceparent)
        return self.add(name, *(match.groups() if match else (f"{next(self._numbers):032x}", "")))

    def add(self, name: str, trace: str, parent: str) -> Recorded:
        self.spans.append(Recorded(self, name, trace, parent, f"{next(self._numbers):016x}"))
        return self.spans[-1]

    def close(self) -> None:
        self.closed += 1

    def path(self, recorded: Recorded) -> str:
        """The names from the trace's root to a span."""
        above = [each for each in self.spans if each.number == recorded.parent]
        return f"{self.path(above[0])} > {recorded.name}" if above else recorded.name


@pytest.fixture
async def stack():
    """A transmitter before a channel before a receiver, and the tracer of all three."""
    recorder = Recorder()
    async with AsyncExitStack() as services:
        codecs = by_number(LadderReceiver(MeanCodec(), FakeRestorer()))
        receiving = receiver_service(ReceiverConfig(listen="127.0.0.1:0", grace_s=1.0), codecs, tracer=recorder)
        receiver = await services.enter_async_context(receiving)
        config = ChannelConfig("127.0.0.1:0", grace_s=1.0, receiver=receiver, link=LinkSettings(8e6, 0.001))
        emulating = running(config, CollectorRegistry(), channel_service(config), LINK_OPTIONS, recorder)
        channel = await services.enter_async_context(emulating)
        pipeline = Pipeline({"ladder": mean_sender()}, {"left-half": LeftHalf()})
        sending = TransmitterConfig(listen="127.0.0.1:0", channel=channel, grace_s=1.0)
        address = await services.enter_async_context(transmitter(sending, pipeline, recorder))
        connection = await services.enter_async_context(grpc.aio.insecure_channel(address))
        yield transmitter_pb2_grpc.TransmitterServiceStub(connection), recorder
    assert recorder.closed == 3
    assert all(each.ended for each in recorder.spans)


async def transmit(stub, traceparent: str = "", image: bytes = b"") -> transmitter_pb2.Delivered:
    image = image or png_bytes(skimage.data.chelsea()[:60, :80])
    request = transmitter_pb2.TransmitRequest(image=image, query="cat", budget={"wire_bytes": 3000})
    metadata = (("traceparent", traceparent),) if traceparent else ()
    return [event async for event in stub.Transmit(request, timeout=PATIENCE_S, metadata=metadata)][-1].delivered


async def test_a_transmission_is_one_trace_through_the_three_services(stack):
    stub, recorder = stack
    delivered = await transmit(stub, CLIENT)
    assert delivered.outcome == common_pb2.OUTCOME_COMPLETE
    async with asyncio.timeout(PATIENCE_S):
        while not all(each.ended for each in recorder.spans):
            await asyncio.sleep(0.005)
    sending, relaying, receiving = (
        f"{SERVICE}.TransmitterService/Transmit",
        "ChannelService/Relay",
        "ReceiverService/Receive",
    )
    relaying = f"{sending} > {SERVICE}.{relaying}"
    assert {recorder.path(each) for each in recorder.spans} == {
        sending,
        f"{sending} > relevance",
        f"{sending} > planning",
        f"{sending} > sending",
        f"{sending} > {SERVICE}.ChannelService/GetLink",
        relaying,
        f"{relaying} > {SERVICE}.{receiving}",
        f"{relaying} > {SERVICE}.{receiving} > assembling",
        f"{relaying} > {SERVICE}.{receiving} > reconstructing",
    }
    assert {each.trace for each in recorder.spans} == {CLIENT.split("-")[1]}
    assert recorder.spans[0].parent == CLIENT.split("-")[2]
    named = {each.name: each.attributes for each in recorder.spans}
    assert named["relevance"] == {"transmission": delivered.transmission_id, "extractor": "left-half", "present": True}
    plans_bytes = delivered.wire_bytes - delivered.poll_bytes
    assert named["planning"]["wire_bytes"] == named["reconstructing"]["received_bytes"] == plans_bytes
    assert named["reconstructing"]["outcome"] == "COMPLETE"
    assert "cat" not in repr([each.attributes for each in recorder.spans])


async def test_transmissions_have_traces_of_their_own(stack):
    stub, recorder = stack
    await asyncio.gather(transmit(stub), transmit(stub), transmit(stub, "no traceparent"))
    roots = [each for each in recorder.spans if each.name.endswith("/Transmit")]
    assert len({each.trace for each in roots}) == 3
    for name in ("relevance", "sending", "assembling"):
        assert {each.trace for each in recorder.spans if each.name == name} == {each.trace for each in roots}


async def test_a_failure_is_in_the_trace(stack):
    stub, recorder = stack
    with pytest.raises(grpc.aio.AioRpcError):
        await transmit(stub, image=b"no picture")
    failed = {each.name.rpartition("/")[2]: type(each.error) for each in recorder.spans if each.error}
    assert failed == {"Transmit": InvalidInputError, "relevance": InvalidInputError}


def test_without_a_tracer_there_is_nothing_to_trace():
    with rpc_span(None, "/a/B", {}), span("stage", size=1) as began:
        began.set(more=2)
        assert outgoing() == ()


# ---- OpenTelemetry --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": ""},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://a:1", "OTEL_SDK_DISABLED": "true"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://a:1", "OTEL_TRACES_EXPORTER": "none"},
    ],
)
def test_nobody_asked_for_traces(environment):
    assert tracer_for("channel", "", environment) is None


@pytest.mark.parametrize(
    ("endpoint", "environment", "service"),
    [
        ("http://a:4317", {}, "mmsc-channel"),
        ("", {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://a:4317"}, "mmsc-channel"),
        ("", {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://a:4317", "OTEL_SERVICE_NAME": "link-3"}, "link-3"),
    ],
)
def test_traces_are_asked_for(monkeypatch, endpoint, environment, service):
    made = []
    monkeypatch.setattr(tracing, "otel_tracer", lambda *asked: made.append(asked))
    tracer_for("channel", endpoint, environment)
    assert made == [(service, endpoint)]


def test_traces_without_the_packages_end_the_service_in_one_clear_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    result = CliRunner().invoke(channel_main, ["--listen", "127.0.0.1:0", "--otlp", "http://127.0.0.1:4317"])
    assert result.exit_code == 2
    assert (
        "otlp: traces were asked for, but OpenTelemetry is not installed: pip install 'mmsc[tracing]'" in result.stderr
    )


def test_an_endpoint_that_is_none_is_refused():
    with pytest.raises(InvalidInputError, match="'collector:4317' is not http://HOST:PORT"):
        tracer_for("channel", "collector:4317", {})


async def test_opentelemetry_gets_the_spans():
    """Where the extra `tracing` is installed: with the real SDK, into memory."""
    reason = "the extra `tracing` is not installed"
    pytest.importorskip("opentelemetry.exporter.otlp.proto.grpc.trace_exporter", reason=reason)
    export = pytest.importorskip("opentelemetry.sdk.trace.export", reason=reason)
    memory = pytest.importorskip("opentelemetry.sdk.trace.export.in_memory_span_exporter", reason=reason)
    sdk = pytest.importorskip("opentelemetry.sdk.trace", reason=reason)
    exporter, provider = memory.InMemorySpanExporter(), sdk.TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(export.SimpleSpanProcessor(exporter))
    tracer = tracing.OtelTracer(provider.get_tracer("mmsc"), provider.shutdown)

    async def answer() -> tuple[tuple[str, str], ...]:  # in a task, as an RPC is
        with rpc_span(tracer, "/a.B/C", {"traceparent": CLIENT}):
            with pytest.raises(KeyError), span("stage", size=3):
                raise KeyError
            return outgoing()

    ((key, traceparent),) = await asyncio.create_task(answer())
    stage, rpc = exporter.get_finished_spans()
    assert (key, traceparent) == ("traceparent", f"00-{rpc.context.trace_id:032x}-{rpc.context.span_id:016x}-01")
    assert (rpc.name, f"{rpc.context.trace_id:032x}", f"{rpc.parent.span_id:016x}") == (
        "a.B/C",
        *CLIENT.split("-")[1:3],
    )
    assert (stage.name, stage.parent.span_id, dict(stage.attributes)) == (
        "stage",
        rpc.context.span_id,
        {"mmsc.size": 3},
    )
    assert (stage.status.is_ok, rpc.status.is_ok) == (False, True)
    tracer.close()
    tracing.otel_tracer("mmsc-test", "http://127.0.0.1:1").close()
