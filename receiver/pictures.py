"""Makes pictures in worker threads, so that receiving goes on meanwhile."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final, TypeVar

from receiver.contract import ArrivedPatches
from receiver.metrics import ReceiverMetrics
from receiver.store import Entry, Picture, Store
from shared.arrays import UInt8Array
from shared.pictures import png_bytes

_WORKERS: Final = 2
"""Pictures in the making: bounds the memory, and lets a small one pass a huge one."""

_T = TypeVar("_T")
_U = TypeVar("_U")


class PictureMaker:
    """Makes the picture of a transmission as it stands, at most once per version of it.

    Args:
        store: keeps the pictures.
        metrics: times the stages.
        clock: gives seconds, monotonic.
    """

    def __init__(self, store: Store, metrics: ReceiverMetrics, clock: Callable[[], float]) -> None:
        self._store, self._metrics, self._clock = store, metrics, clock
        self._threads = ThreadPoolExecutor(_WORKERS, thread_name_prefix="picture")
        self._running: dict[tuple[Entry, int], _Making] = {}

    async def current(self, entry: Entry) -> Picture | None:
        """The picture of what had arrived at the call; None before the header."""
        arrived = entry.assembly.snapshot()
        if arrived is None:
            return None
        if entry.picture is not None and entry.picture.version == arrived.version:
            return entry.picture
        # Others may wait for the same picture: it is made even if this caller goes away.
        return await asyncio.shield(self._started(entry, arrived).picture)

    async def reconstruct_s(self, entry: Entry) -> float:
        """Waits until the picture of what had arrived is painted, though not yet encoded as a PNG.

        Returns:
            Seconds that decoding, restoration and assembly took; 0 before the header.
        """
        arrived = entry.assembly.snapshot()
        if arrived is None:
            return 0.0
        if entry.picture is not None and entry.picture.version == arrived.version:
            return entry.picture.reconstruct_s
        return await asyncio.shield(self._started(entry, arrived).painted)

    def _started(self, entry: Entry, arrived: ArrivedPatches) -> "_Making":
        key = (entry, arrived.version)
        making = self._running.get(key)
        if making is None:
            painted = asyncio.create_task(self._painted(entry, arrived))
            picture = asyncio.create_task(self._finish(entry, painted))
            making = self._running[key] = _Making(asyncio.create_task(_duration(painted)), picture)
            picture.add_done_callback(lambda _: self._running.pop(key))
        return making

    async def close(self) -> None:
        """Waits for the pictures in the making, drops those that wait for a thread, and lets the threads go."""
        await asyncio.to_thread(self._threads.shutdown, cancel_futures=True)
        tasks = [task for making in self._running.values() for task in (making.painted, making.picture)]
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _painted(self, entry: Entry, arrived: ArrivedPatches) -> "_Painted":
        painted = await self._in_thread(self._paint, arrived)
        entry.assembly.decoded(painted.version, painted.unreadable_patches)
        return painted

    async def _finish(self, entry: Entry, painted: "asyncio.Task[_Painted]") -> Picture:
        picture = await self._in_thread(self._encode, await painted)
        if entry.picture is None or entry.picture.version < picture.version:
            self._store.keep(entry, picture)
        return picture

    async def _in_thread(self, function: Callable[[_T], _U], argument: _T) -> _U:
        return await asyncio.get_running_loop().run_in_executor(self._threads, function, argument)

    def _paint(self, arrived: ArrivedPatches) -> "_Painted":
        start_s = self._clock()
        decoded = arrived.decode()
        decoded_s = self._clock()
        image = decoded.paint()
        restored_s = self._clock()
        self._metrics.observe_stage("decode", decoded_s - start_s)
        self._metrics.observe_stage("restore", restored_s - decoded_s)
        unreadable = arrived.patches - decoded.read_patches
        return _Painted(arrived.version, image, decoded.level_picture, unreadable, restored_s - start_s)

    def _encode(self, painted: "_Painted") -> Picture:
        start_s = self._clock()
        image_png, level_map_png = png_bytes(painted.image), png_bytes(painted.level_map)
        self._metrics.observe_stage("png", self._clock() - start_s)
        return Picture(painted.version, image_png, level_map_png, painted.reconstruct_s)


@dataclass(frozen=True)
class _Painted:
    """A picture before it is encoded."""

    version: int
    image: UInt8Array
    level_map: UInt8Array
    unreadable_patches: int
    reconstruct_s: float


@dataclass(frozen=True)
class _Making:
    """A picture in the making: what can be told when it is painted, and the picture itself."""

    painted: asyncio.Task[float]
    picture: asyncio.Task[Picture]


async def _duration(painted: "asyncio.Task[_Painted]") -> float:
    return (await painted).reconstruct_s
