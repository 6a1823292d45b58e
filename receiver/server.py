# ruff: noqa: ARG002 - the .proto file names the methods, gRPC their arguments
"""The receiver's gRPC service: sockets, clock and tasks around the plain modules.

```
Receive ─► Receiving ─► Store of assemblies ─► PictureMaker (threads) ─► feedback and report packets
                            ▲     │  ▲
Get / Watch / List ─────────┘     ▼  │ what is not in memory any more
                                Recorder (a thread, the disk)
```
"""

import asyncio
import math
import re
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager, suppress
from typing import Any, Final, TypeAlias

import grpc
import torch
from prometheus_client import CollectorRegistry

from receiver.archive import Limits
from receiver.config import ReceiverConfig
from receiver.contract import ReceiverCodecs
from receiver.metrics import ReceiverMetrics
from receiver.pictures import PictureMaker
from receiver.receiving import Receiving
from receiver.recorder import Recorder, open_archive
from receiver.store import Entry, Picture, Store
from shared.errors import InvalidInputError, NotFoundError
from shared.service import LINK_OPTIONS, MAX_PICTURE_MESSAGE_BYTES, running
from shared.stubs.mmsc.v1 import common_pb2, receiver_pb2, receiver_pb2_grpc
from shared.telemetry import new_registry
from shared.tracing import Tracer, tracer_for

_Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]

_ID: Final = re.compile("[0-9a-fA-F]{8}")
_SWEEP_S: Final = 1.0  # how often silent transmissions are looked for
_DEFAULT_INTERVAL_S: Final = 0.5
_OPTIONS: Final = (*LINK_OPTIONS, ("grpc.max_send_message_length", MAX_PICTURE_MESSAGE_BYTES))


class ReceiverServicer(receiver_pb2_grpc.ReceiverServiceServicer):
    """Answers the RPCs of `mmsc.v1.ReceiverService`.

    Args:
        store: the transmissions.
        maker: makes their pictures.
        recorder: keeps them over a restart.
        metrics: counts.
        clock: gives seconds, monotonic.
    """

    def __init__(
        self,
        store: Store,
        maker: PictureMaker,
        recorder: Recorder,
        metrics: ReceiverMetrics,
        clock: Callable[[], float],
    ) -> None:
        self._store, self._maker, self._recorder, self._metrics, self._clock = store, maker, recorder, metrics, clock
        self._changed = asyncio.Event()

    async def Receive(
        self, request_iterator: AsyncIterator[receiver_pb2.ReceiveRequest], context: _Context
    ) -> AsyncIterator[receiver_pb2.ReceiveResponse]:
        """Takes packets; answers with feedback while a transmission goes on, and with its report when it has ended."""
        services = (self._store, self._maker, self._recorder, self._metrics, self._clock)
        receiving = Receiving(*services, recall=self._recall, announce=self._announce)
        async with aclosing(receiving.answers(request_iterator)) as answers:
            async for packets in answers:
                yield receiver_pb2.ReceiveResponse(packets=packets)

    async def GetReconstruction(
        self, request: receiver_pb2.GetReconstructionRequest, context: _Context
    ) -> receiver_pb2.GetReconstructionResponse:
        """The picture of what has arrived."""
        entry = await self._find(request.transmission_id)
        reconstruction = await self._reconstruction(entry, with_map=request.return_level_map)
        return receiver_pb2.GetReconstructionResponse(reconstruction=reconstruction)

    async def WatchReconstruction(
        self, request: receiver_pb2.WatchReconstructionRequest, context: _Context
    ) -> AsyncIterator[receiver_pb2.WatchReconstructionResponse]:
        """The picture as it grows."""
        interval_s = request.interval_s or _DEFAULT_INTERVAL_S
        if not (math.isfinite(interval_s) and interval_s > 0):
            raise InvalidInputError("interval_s", f"{interval_s} is no number of seconds above 0")
        entry = await self._find(request.transmission_id)
        ended = False
        while not ended:
            ended, version = entry.ended, entry.assembly.version
            reconstruction = await self._reconstruction(entry, with_map=False)
            yield receiver_pb2.WatchReconstructionResponse(reconstruction=reconstruction)
            if not ended:
                # Not wait_for: in Python 3.11 it swallows a cancellation that comes together with the end.
                with suppress(TimeoutError):
                    async with asyncio.timeout(interval_s):
                        await self._until(lambda: entry.ended)
                await self._until(lambda: entry.ended or entry.assembly.version != version)  # noqa: B023

    async def ListReconstructions(
        self, request: receiver_pb2.ListReconstructionsRequest, context: _Context
    ) -> receiver_pb2.ListReconstructionsResponse:
        """What is in the store, without pictures."""
        found = [_described(entry) for entry in self._store.newest_first()]
        return receiver_pb2.ListReconstructionsResponse(reconstructions=found)

    async def sweep(self) -> None:
        """Ends silent transmissions for as long as the service runs."""
        while True:
            await asyncio.sleep(_SWEEP_S)
            for entry in self._store.expire(self._clock()):
                self._metrics.count_end(entry)
                self._recorder.end(entry.assembly.report(0.0))
                self._announce()

    async def take_back(self, count: int, most_bytes: int) -> None:
        """Takes what came last before a restart back into memory; the rest is read when it is asked for.

        Args:
            count: how many transmissions at most.
            most_bytes: memory beyond which no further ones are taken.
        """
        for number in self._recorder.newest(count):
            if self._store.stored_bytes > most_bytes:
                break
            assembly = await self._recorder.recall(number)
            if assembly is not None:
                self._store.adopt(assembly, assembly.last_s)
        self._announce()

    # ---- watching ------------------------------------------------------------------------------

    def _announce(self) -> None:
        """Wakes whoever waits for a change."""
        self._metrics.show_stored(self._store.stored_bytes)
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def _until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            await self._changed.wait()

    async def _recall(self, number: int) -> Entry | None:
        assembly = await self._recorder.recall(number)
        return None if assembly is None else self._store.adopt(assembly, self._clock())

    async def _find(self, transmission_id: str) -> Entry:
        if not _ID.fullmatch(transmission_id):
            raise InvalidInputError("transmission_id", f"{transmission_id[:40]!r} is not 8 hexadecimal digits")
        number = int(transmission_id, 16)
        entry = self._store.get(number)
        if entry is None and self._recorder.knows(number):
            entry = await self._recall(number)
        if entry is None:
            raise NotFoundError(f"transmission {transmission_id} is unknown or forgotten")
        return entry

    async def _reconstruction(self, entry: Entry, *, with_map: bool) -> receiver_pb2.Reconstruction:
        """The counts are those of the picture: they are read before it is made."""
        described = _described(entry)
        picture = await self._maker.current(entry)
        if picture is not None:
            _add_picture(described, picture, with_map=with_map)
        return described


def _described(entry: Entry) -> receiver_pb2.Reconstruction:
    assembly = entry.assembly
    grid = assembly.header.grid if assembly.header else None
    return receiver_pb2.Reconstruction(
        transmission_id=f"{assembly.transmission_id:08x}",
        outcome=common_pb2.Outcome.ValueType(assembly.outcome),
        width=grid.width if grid else 0,
        height=grid.height if grid else 0,
        received_bytes=assembly.received_bytes,
        expected_patches=assembly.expected_patches,
        received_patches=assembly.received_patches,
        reconstruct_s=entry.picture.reconstruct_s if entry.picture else 0.0,
        codec=assembly.codec.name if assembly.codec else "",
    )


def _add_picture(described: receiver_pb2.Reconstruction, picture: Picture, *, with_map: bool) -> None:
    described.image_png = picture.image_png
    described.reconstruct_s = picture.reconstruct_s
    if with_map:
        described.level_map_png = picture.level_map_png


def receiver_service(
    config: ReceiverConfig,
    codecs: ReceiverCodecs,
    clock: Callable[[], float] = time.monotonic,
    registry: CollectorRegistry | None = None,
    tracer: Tracer | None = None,
) -> AbstractAsyncContextManager[str]:
    """Runs the receiver while the context lasts.

    Args:
        config: settings.
        codecs: decode patches and paint pictures; theirs are the only numbers and weights that headers may name.
        clock: gives seconds, monotonic.
        registry: where the metrics go; a new one if None.
        tracer: where the traces go; if None, where `config` and the environment say, if they do.

    Returns:
        A context that yields the HOST:PORT of the service, which is warm when it is entered.

    Raises:
        InvalidInputError: traces are asked for and cannot be made, or the folder of the store cannot be used.
    """
    tracer = tracer or tracer_for("receiver", config.otlp)

    @asynccontextmanager
    async def register(server: grpc.aio.Server, registry: CollectorRegistry) -> AsyncIterator[Sequence[str]]:
        torch.set_num_threads(config.threads or torch.get_num_threads())
        for codec in codecs.values():
            codec.warm_up()
        metrics = ReceiverMetrics(registry)
        store = Store(config.max_transmissions, config.max_stored_bytes, config.idle_s, codecs)
        maker = PictureMaker(store, metrics, clock)
        limits = Limits(config.store_bytes, config.store_age_s)
        archive = open_archive(config.store, limits, metrics, now_s=clock(), epoch_s=time.time())
        recorder = Recorder(archive, codecs, clock)
        servicer = ReceiverServicer(store, maker, recorder, metrics, clock)
        await servicer.take_back(config.max_transmissions, config.max_stored_bytes // 2)
        receiver_pb2_grpc.add_ReceiverServiceServicer_to_server(servicer, server)
        tasks = [asyncio.create_task(work) for work in (servicer.sweep(), recorder.run())]
        try:
            yield (receiver_pb2.DESCRIPTOR.services_by_name["ReceiverService"].full_name,)
        finally:
            for task in tasks:
                task.cancel()
            await maker.close()
            await recorder.close()

    return running(config, registry or new_registry("receiver"), register, _OPTIONS, tracer)
