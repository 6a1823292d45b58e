"""The transmitter's side of the channel: connection, memory of the link, and the transmissions that cross it."""

import asyncio
import math
import time
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import replace
from functools import partial
from typing import TypeVar

import grpc

from shared.connections import Connection
from shared.errors import UnavailableError
from shared.rpc_errors import from_rpc
from shared.stubs.mmsc.v1 import channel_pb2, channel_pb2_grpc
from transmitter.config import TransmitterConfig
from transmitter.course import Course, Ended, Event, Replanned, Sent
from transmitter.metrics import DEADLINES, TransportMetrics
from transmitter.pipeline import FirstPlan, Job, PlanStage
from transmitter.sending import Patience, pauses, send
from transmitter.streams import RelayStream, message_size
from transmitter.transport.contract import LinkEstimate, SenderSettings, SenderStats
from transmitter.transport.memory import LinkMemory
from transmitter.transport.pace import PlanningPace
from transmitter.transport.sender import Sender, first_budget, first_packet_bytes, scans_for
from transmitter.undertakings import Undertaking, Unfinished

_T = TypeVar("_T")


class Carrier:
    """Carries packed pictures over one channel.

    Args:
        channel: the connection.
        config: settings.
        metrics: counts.
    """

    def __init__(self, channel: Connection, config: TransmitterConfig, metrics: TransportMetrics) -> None:
        self._channel, self._config, self._metrics = channel, config, metrics
        self._stub = channel_pb2_grpc.ChannelServiceStub(channel.channel)
        # Who is sending does not wait behind those who have yet to begin.
        self._replanners = ThreadPoolExecutor(config.jobs, thread_name_prefix="replan")
        self._memory, self._claim = LinkMemory(), (0.0, 0.0)
        self.pace = PlanningPace()
        """How long new plans take."""
        self.unfinished = Unfinished()
        """Transmissions that were left before their end."""

    async def link(self) -> channel_pb2.LinkState:
        """What the channel says of its link.

        One that went away is waited for as long as one that does so later.

        Raises:
            UnavailableError: the channel does not answer, or nothing that makes sense.
            BusyError: it is full.
        """
        until_s = now_s() + self._config.resume_s
        for pause_s in pauses():
            try:
                response = await self._asked()
                break
            except UnavailableError:
                if now_s() + pause_s > until_s:
                    raise
            await asyncio.sleep(pause_s)
        return _checked(response)

    async def _asked(self) -> channel_pb2.GetLinkResponse | None:
        try:
            response: channel_pb2.GetLinkResponse | None = await self._stub.GetLink(
                channel_pb2.GetLinkRequest(),
                timeout=self._config.channel_timeout_s,
                metadata=self._channel.metadata(),
                wait_for_ready=False,
            )
        except grpc.aio.AioRpcError as error:
            raise from_rpc(error, "channel") from error
        return response

    def believed(self, link: channel_pb2.LinkSettings, within_s: float | None = None) -> LinkEstimate:
        """What is believed of the link, by what it claims and what earlier transmissions saw.

        Of one that claims another rate or delay than before, no other rate and delay are known.

        Args:
            link: what it claims.
            within_s: seconds that the transmission has; None: no deadline.
        """
        claim = (link.rate_bps, link.propagation_s)
        if claim != self._claim:
            self._claim = claim
            self._memory.forget_rate()
        return self._memory.estimate(link.rate_bps, link.propagation_s, now_s(), within_s)

    def opened(self, transmission_id: int, changed: Callable[[], None] = lambda: None) -> RelayStream:
        """A fresh stream to the receiver; see `RelayStream`."""
        return RelayStream(self._stub.Relay(metadata=self._channel.metadata()), transmission_id, changed)

    async def carry(self, undertaking: Undertaking, stream: RelayStream) -> AsyncGenerator[Event, None]:
        """Sends a picture, see `transmitter.sending.send`; what is left before its end can be taken up again."""
        course, claim = undertaking.course, self._claim
        before = replace(course.sender.stats) if course.sender is not None else SenderStats()
        resumed, messages, ended = course.resumed, course.heard.messages, False
        again = partial(self.opened, undertaking.job.transmission_id)
        patience = Patience(self._config.stall_timeout_s, self._config.resume_s)
        try:
            async with aclosing(send(stream, again, course, self._work, patience)) as events:
                async for event in events:
                    ended = ended or isinstance(event, Ended)
                    self._observe(event)
                    yield event
        finally:
            if not ended:
                self.unfinished.keep(undertaking, now_s())
            if course.sender is not None:
                self._metrics.sent(before, course.sender.stats)
                self._metrics.resumptions.inc(course.resumed - resumed)
                estimate = course.estimate or course.sender.estimate
                self._metrics.heard(course.heard.messages - messages, estimate, course.heard.rate_bps)
                self.pace.learn(undertaking.stage.plan.header.grid.raw_bytes, course.sender.replan_s)
                if claim == self._claim:
                    self._memory.learn(course.sender.evidence, now_s())

    def _observe(self, event: Event) -> None:
        if isinstance(event, Sent):
            self._metrics.believes(event.estimate)
        elif isinstance(event, Replanned):
            self._metrics.replans.labels(event.revised.reason.value).inc()
        elif event.deadline_met is not None:
            met, missed = DEADLINES
            self._metrics.deadlines.labels(met if event.deadline_met else missed).inc()

    async def _work(self, function: Callable[[], _T]) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._replanners, function)

    def close(self) -> None:
        """Gives the worker threads back."""
        self._replanners.shutdown(wait=False, cancel_futures=True)


def first_plan(job: Job, believed: LinkEstimate, pace: PlanningPace, limit_bytes: int, raw_bytes: int) -> FirstPlan:
    """Of the bytes that a transmission of a picture may take, what its first plan may."""
    settings = sender_settings(job, limit_bytes, 0.0, pace.replan_s(raw_bytes))
    size = min(first_budget(settings, believed, 0.0), limit_bytes)
    return FirstPlan(size, first_packet_bytes(settings, believed, 0.0), scans_for(settings))


def course_of(
    job: Job, stage: PlanStage, link: channel_pb2.LinkSettings, believed: LinkEstimate, replan_s: float
) -> Course:
    """A transmission at its beginning.

    Args:
        job: what was asked for.
        stage: its plan.
        link: says how much goes in a message.
        believed: of the link.
        replan_s: seconds that a new plan is expected to take.
    """

    def begin(now: float) -> Sender:
        settings = sender_settings(job, stage.limit_bytes, now, replan_s)
        return Sender(stage.packed, settings, believed, job.transmission_id, now)

    return Course(stage.replanner, begin, message_size(link), allowed_s=job.deadline_s, closed_loop=not job.open_loop)


def sender_settings(job: Job, limit_bytes: int, now: float, replan_s: float) -> SenderSettings:
    """What a transmission may take that begins now."""
    deadline_s = None if job.deadline_s is None else now + job.deadline_s
    return SenderSettings(limit_bytes, deadline_s, not job.open_loop, job.packet_bytes, replan_s)


def now_s() -> float:
    """The event loop's clock, which is time.monotonic()."""
    return time.monotonic()


def _checked(response: channel_pb2.GetLinkResponse | None) -> channel_pb2.LinkState:
    """The link that an answer tells of; gRPC gives None where the answer was no such message."""
    link = response.link if response is not None else channel_pb2.LinkState()
    rate_bps, propagation_s = link.settings.rate_bps, link.settings.propagation_s
    if not (0 < rate_bps < math.inf and 0 <= propagation_s < math.inf):  # false for NaN too
        raise UnavailableError("channel: what it says of its link makes no sense")
    return link
