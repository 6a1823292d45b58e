"""The transmitter service: the edge where the pipeline meets gRPC, clocks and the channel."""

import asyncio
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from typing import Any, TypeAlias, TypeVar

import grpc
from prometheus_client import CollectorRegistry

from shared.connections import Connection
from shared.errors import InvalidInputError, MmscError
from shared.pictures import read_picture
from shared.service import LINK_OPTIONS, MAX_UPLOAD_BYTES, running
from shared.stubs.mmsc.v1 import channel_pb2, transmitter_pb2, transmitter_pb2_grpc
from shared.telemetry import new_registry
from shared.tracing import Tracer, span, tracer_for
from transmitter.carrying import Carrier, course_of, first_plan
from transmitter.config import TransmitterConfig
from transmitter.course import Ended, Event, Sent
from transmitter.messages import (
    delivered_message,
    job_from,
    plan_message,
    progress_message,
    relevance_message,
    replanned_message,
    taken_up,
)
from transmitter.metrics import TransmitterMetrics
from transmitter.pipeline import MAX_QUERY_CHARACTERS, Job, Pipeline, PlanStage, RelevanceStage, StageClock
from transmitter.transport.contract import LinkEstimate
from transmitter.undertakings import Undertaking, request_digest

SERVICE_NAME = transmitter_pb2.DESCRIPTOR.services_by_name["TransmitterService"].full_name

_T = TypeVar("_T")
_Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]


class TransmitterServicer(transmitter_pb2_grpc.TransmitterServiceServicer):
    """Runs jobs in worker threads and has their packets carried."""

    def __init__(
        self,
        pipeline: Pipeline,
        channel: Connection,
        config: TransmitterConfig,
        metrics: TransmitterMetrics,
    ) -> None:
        self._pipeline, self._config, self._metrics = pipeline, config, metrics
        self._carrier = Carrier(channel, config, metrics.transport)
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
            async with aclosing(self._transmit(request)) as responses:
                async for response in responses:
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
    ) -> AsyncGenerator[transmitter_pb2.TransmitResponse, None]:
        start_s, digest, known = time.monotonic(), request_digest(request), taken_up(request.options)
        begun = (
            await self._drafted(request, digest)
            if known is None
            else self._carrier.unfinished.take(known, digest, start_s)
        )
        with_maps = request.options.return_maps
        yield transmitter_pb2.TransmitResponse(relevance=begun.relevance)
        # Opened while the patches are still being encoded, the stream has its credit by the time the packets are there.
        async with aclosing(self._carrier.opened(begun.job.transmission_id)) as stream:
            undertaking = await self._planned(begun, with_maps=with_maps) if isinstance(begun, _Draft) else begun
            yield transmitter_pb2.TransmitResponse(plan=undertaking.made)
            with span("sending", transmission=undertaking.name, packets=undertaking.made.packets):
                async with aclosing(self._carrier.carry(undertaking, stream)) as events:
                    async for event in events:
                        elapsed_s = time.monotonic() - start_s
                        yield self._response(event, undertaking, elapsed_s, with_maps=with_maps)

    async def _drafted(self, request: transmitter_pb2.TransmitRequest, digest: bytes) -> "_Draft":
        """Everything before the plan."""
        job = job_from(request, secrets.randbits(32))
        link = await self._carrier.link()
        if job.packet_bytes > link.settings.queue_bytes:
            reason = f"{job.packet_bytes} is more than the channel's queue of {link.settings.queue_bytes} bytes holds"
            raise InvalidInputError("options.packet_bytes", reason)
        clock, believed = StageClock(time.monotonic), self._carrier.believed(link.settings, job.deadline_s)
        allowance = partial(first_plan, job, believed, self._carrier.pace)
        stages = self._pipeline.run(job, link.settings.rate_bps, clock, allowance)

        def relevance_ready() -> transmitter_pb2.RelevanceReady:
            return relevance_message(_next(stages, RelevanceStage), with_map=request.options.return_maps)

        with span("relevance", transmission=f"{job.transmission_id:08x}") as traced:
            relevance = await self._work(relevance_ready)
            traced.set(extractor=relevance.extractor, present=relevance.present)
        return _Draft(job, digest, link, believed, clock, stages, relevance)

    async def _planned(self, draft: "_Draft", *, with_maps: bool) -> Undertaking:
        """The plan, and all that sending it takes."""
        job, name = draft.job, f"{draft.job.transmission_id:08x}"

        def plan_made() -> tuple[PlanStage, transmitter_pb2.PlanMade]:
            plan = _next(draft.stages, PlanStage)
            return plan, plan_message(plan, name, with_map=with_maps)

        with span("planning", transmission=name) as traced:
            stage, made = await self._work(plan_made)
            traced.set(codec=made.codec, budget_bytes=made.budget_bytes, wire_bytes=made.wire_bytes)
        self._metrics.planned(stage.plan, stage.budget_bytes)
        raw_bytes, first_s = stage.plan.header.grid.raw_bytes, draft.clock.seconds["allocate"]
        replan_s = self._carrier.pace.after_first(raw_bytes, first_s)
        course = course_of(job, stage, draft.link.settings, draft.believed, replan_s)
        return Undertaking(job, draft.digest, draft.relevance, made, stage, draft.clock.seconds, draft.link, course)

    def _response(
        self, event: Event, undertaking: Undertaking, elapsed_s: float, *, with_maps: bool
    ) -> transmitter_pb2.TransmitResponse:
        if isinstance(event, Sent):
            return transmitter_pb2.TransmitResponse(progress=progress_message(event, elapsed_s))
        if isinstance(event, Ended):
            delivered = delivered_message(undertaking, event, elapsed_s)
            self._observe(delivered)
            return transmitter_pb2.TransmitResponse(delivered=delivered)
        self._metrics.planned(event.revised.plan, 0)
        return transmitter_pb2.TransmitResponse(replanned=replanned_message(event, elapsed_s, with_map=with_maps))

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

    async def _work(self, function: Callable[[], _T]) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._workers, function)

    def _observe(self, delivered: transmitter_pb2.Delivered) -> None:
        self._metrics.end_to_end_seconds.observe(delivered.elapsed_s)
        for field, seconds in delivered.stages.ListFields():
            self._metrics.stage_seconds.labels(field.name.removesuffix("_s")).observe(seconds)

    def close(self) -> None:
        """Gives the worker threads back."""
        self._workers.shutdown(wait=False, cancel_futures=True)
        self._carrier.close()


@dataclass(frozen=True, eq=False)
class _Draft:
    """A request on its way to a plan."""

    job: Job
    digest: bytes
    link: channel_pb2.LinkState
    believed: LinkEstimate
    clock: StageClock
    stages: Iterator[RelevanceStage | PlanStage]
    relevance: transmitter_pb2.RelevanceReady


def _next(stages: Iterator[RelevanceStage | PlanStage], kind: type[_T]) -> _T:
    stage = next(stages)
    assert isinstance(stage, kind)
    return stage


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
