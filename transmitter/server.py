"""The transmitter service: the edge where the pipeline meets gRPC, clocks and the channel."""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Any, TypeVar

import grpc
from prometheus_client import CollectorRegistry

from shared.connections import Connection
from shared.errors import InvalidInputError, MmscError
from shared.pictures import read_picture
from shared.reports import Report
from shared.rpc_errors import from_rpc
from shared.service import LINK_OPTIONS, MAX_UPLOAD_BYTES, running
from shared.stubs.mmsc.v1 import channel_pb2, channel_pb2_grpc, transmitter_pb2, transmitter_pb2_grpc
from shared.telemetry import new_registry
from shared.tracing import Tracer, span, tracer_for
from transmitter.config import TransmitterConfig
from transmitter.messages import delivered_message, job_from, plan_message, relevance_message
from transmitter.metrics import TransmitterMetrics
from transmitter.pipeline import MAX_QUERY_CHARACTERS, Job, Pipeline, PlanStage, RelevanceStage, StageClock
from transmitter.sending import RelayCall, Sent, message_size, relay, relay_call

SERVICE_NAME = transmitter_pb2.DESCRIPTOR.services_by_name["TransmitterService"].full_name
_PROGRESS_INTERVAL_S = 0.1

_T = TypeVar("_T")
_Context = grpc.aio.ServicerContext[Any, Any]


class TransmitterServicer(transmitter_pb2_grpc.TransmitterServiceServicer):
    """Runs jobs in worker threads and relays their packets."""

    def __init__(
        self,
        pipeline: Pipeline,
        channel: Connection,
        config: TransmitterConfig,
        metrics: TransmitterMetrics,
    ) -> None:
        self._pipeline, self._config, self._metrics = pipeline, config, metrics
        self._channel = channel
        self._stub = channel_pb2_grpc.ChannelServiceStub(channel.channel)
        self._workers = ThreadPoolExecutor(config.jobs, thread_name_prefix="job")

    async def Transmit(
        self,
        request: transmitter_pb2.TransmitRequest,
        context: _Context,  # noqa: ARG002
    ) -> AsyncIterator[transmitter_pb2.TransmitResponse]:
        """Carries one picture to the receiver."""
        outcome = "failed"
        self._metrics.active.inc()
        try:
            async for response in self._transmit(request):
                yield response
            outcome = "delivered"
        except MmscError as error:
            outcome = "refused" if isinstance(error, InvalidInputError) else "failed"
            raise
        except (asyncio.CancelledError, GeneratorExit):
            outcome = "cancelled"
            raise
        finally:
            self._metrics.active.dec()
            self._metrics.transmissions.labels(outcome).inc()

    async def _transmit(
        self, request: transmitter_pb2.TransmitRequest
    ) -> AsyncIterator[transmitter_pb2.TransmitResponse]:
        start_s = time.monotonic()
        job = job_from(request, secrets.randbits(32))
        transmission = f"{job.transmission_id:08x}"
        with_maps = request.options.return_maps
        link = await self._link()
        clock = StageClock(time.monotonic)
        stages = self._pipeline.run(job, link.settings.rate_bps, clock)

        def relevance_ready() -> transmitter_pb2.RelevanceReady:
            return relevance_message(_next(stages, RelevanceStage), with_map=with_maps)

        def plan_made() -> tuple[PlanStage, transmitter_pb2.PlanMade]:
            plan = _next(stages, PlanStage)
            return plan, plan_message(plan, transmission, with_map=with_maps)

        with span("relevance", transmission=transmission) as traced:
            relevance = await self._work(relevance_ready)
            traced.set(extractor=relevance.extractor, present=relevance.present)
        yield transmitter_pb2.TransmitResponse(relevance=relevance)
        with relay_call(self._stub, self._channel.metadata()) as call:
            with span("planning", transmission=transmission) as traced:
                plan, event = await self._work(plan_made)
                traced.set(codec=event.codec, budget_bytes=event.budget_bytes, wire_bytes=event.wire_bytes)
            yield transmitter_pb2.TransmitResponse(plan=event)
            self._metrics.planned(plan.plan, plan.budget_bytes)
            with span("sending", transmission=transmission, packets=event.packets):
                async for progress in self._send(call, plan, job, link):
                    elapsed_s = time.monotonic() - start_s
                    if isinstance(progress, Report):
                        delivered = delivered_message(plan, progress, link, clock.seconds, elapsed_s)
                        self._observe(delivered)
                        yield transmitter_pb2.TransmitResponse(delivered=delivered)
                    else:
                        yield transmitter_pb2.TransmitResponse(progress=_progress(progress, elapsed_s))

    async def _send(
        self, call: RelayCall, plan: PlanStage, job: Job, link: channel_pb2.LinkState
    ) -> AsyncIterator[Sent | Report]:
        """Progress at most every _PROGRESS_INTERVAL_S, then the receiver's report."""
        queue_bytes = link.settings.queue_bytes
        if job.packet_bytes > queue_bytes:
            reason = f"{job.packet_bytes} is more than the channel's queue of {queue_bytes} bytes holds"
            raise InvalidInputError("options.packet_bytes", reason)
        size, timeout_s = message_size(link.settings), self._config.stall_timeout_s
        events = relay(call, plan.packets, job.transmission_id, message_bytes=size, stall_timeout_s=timeout_s)
        next_s = 0.0
        async for event in events:
            now_s = time.monotonic()
            if isinstance(event, Report):
                yield event
            elif now_s >= next_s:
                next_s = now_s + _PROGRESS_INTERVAL_S
                yield event

    async def GetRelevance(
        self,
        request: transmitter_pb2.GetRelevanceRequest,
        context: _Context,  # noqa: ARG002
    ) -> transmitter_pb2.GetRelevanceResponse:
        """Computes a relevance map and sends nothing."""
        extractor = self._pipeline.extractor(request.extractor, "extractor")

        def compute() -> transmitter_pb2.RelevanceReady:
            clock = StageClock(time.monotonic)
            with clock.stage("relevance"):
                relevance = extractor(read_picture(request.image), request.query[:MAX_QUERY_CHARACTERS])
            return relevance_message(RelevanceStage(extractor.name, relevance, clock.total_s), with_map=True)

        return transmitter_pb2.GetRelevanceResponse(relevance=await self._work(compute))

    async def GetTransmitterInfo(
        self,
        request: transmitter_pb2.GetTransmitterInfoRequest,  # noqa: ARG002
        context: _Context,  # noqa: ARG002
    ) -> transmitter_pb2.GetTransmitterInfoResponse:
        """Tells what this transmitter runs."""
        extractors = list(self._pipeline.extractors)
        return transmitter_pb2.GetTransmitterInfoResponse(
            version=version("mmsc"),
            extractors=extractors,
            default_extractor=extractors[0],
            codec_weights=self._pipeline.codec("").weights_hash.hex(),
            codecs=list(self._pipeline.codecs),
            default_codec=self._pipeline.codec("").entry.name,
            device=self._config.device,
        )

    async def _link(self) -> channel_pb2.LinkState:
        try:
            response = await self._stub.GetLink(
                channel_pb2.GetLinkRequest(),
                timeout=self._config.channel_timeout_s,
                metadata=self._channel.metadata(),
                wait_for_ready=False,
            )
        except grpc.aio.AioRpcError as error:
            raise from_rpc(error, "channel") from error
        return response.link

    async def _work(self, function: Callable[[], _T]) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._workers, function)

    def _observe(self, delivered: transmitter_pb2.Delivered) -> None:
        self._metrics.end_to_end_seconds.observe(delivered.elapsed_s)
        for field, seconds in delivered.stages.ListFields():
            self._metrics.stage_seconds.labels(field.name.removesuffix("_s")).observe(seconds)

    def close(self) -> None:
        """Gives the worker threads back."""
        self._workers.shutdown(wait=False, cancel_futures=True)


def _next(stages: Iterator[RelevanceStage | PlanStage], kind: type[_T]) -> _T:
    stage = next(stages)
    assert isinstance(stage, kind)
    return stage


def _progress(sent: Sent, elapsed_s: float) -> transmitter_pb2.Progress:
    return transmitter_pb2.Progress(sent_bytes=sent.sent_bytes, departed_bytes=sent.departed_bytes, elapsed_s=elapsed_s)


@asynccontextmanager
async def transmitter(
    config: TransmitterConfig, pipeline: Pipeline, tracer: Tracer | None = None
) -> AsyncIterator[str]:
    """Runs the service while the context lasts; gives the HOST:PORT that it listens on.

    Args:
        config: settings.
        pipeline: the stages' tools.
        tracer: where the traces go; if None, where `config` and the environment say, if they do.
    """
    tracer = tracer or tracer_for("transmitter", config.otlp)

    @asynccontextmanager
    async def register(server: grpc.aio.Server, registry: CollectorRegistry) -> AsyncIterator[Sequence[str]]:
        async with Connection(config.channel, config.access, LINK_OPTIONS) as channel:
            metrics = TransmitterMetrics(registry)
            metrics.runs(list(pipeline.extractors), config.device)
            servicer = TransmitterServicer(pipeline, channel, config, metrics)
            transmitter_pb2_grpc.add_TransmitterServiceServicer_to_server(servicer, server)
            try:
                yield (SERVICE_NAME,)
            finally:
                servicer.close()

    options = (("grpc.max_receive_message_length", MAX_UPLOAD_BYTES + 65_536),)
    async with running(config, new_registry("transmitter"), register, options, tracer) as address:
        yield address
