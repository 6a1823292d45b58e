"""Makes pictures in worker threads, so that receiving goes on meanwhile."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from receiver.assembly import ArrivedPatches
from receiver.metrics import ReceiverMetrics
from receiver.reconstruction import Restorer, decode, level_picture, restore
from receiver.store import Entry, Picture, Store
from shared.codec.contract import PatchCodec
from shared.pictures import png_bytes

_WORKERS: Final = 2
"""Pictures in the making: bounds the memory, and lets a small one pass a huge one."""


class PictureMaker:
    """Makes the picture of a transmission as it stands, at most once per version of it.

    Args:
        codec: decodes patches.
        restorer: paints the picture.
        store: keeps the pictures.
        metrics: times the stages.
        clock: gives seconds, monotonic.
    """

    def __init__(
        self, codec: PatchCodec, restorer: Restorer, store: Store, metrics: ReceiverMetrics, clock: Callable[[], float]
    ) -> None:
        self._codec, self._restorer, self._store = codec, restorer, store
        self._metrics, self._clock = metrics, clock
        self._threads = ThreadPoolExecutor(_WORKERS, thread_name_prefix="picture")
        self._running: dict[tuple[Entry, int], asyncio.Task[Picture]] = {}

    async def current(self, entry: Entry) -> Picture | None:
        """The picture of what had arrived at the call; None before the header."""
        arrived = entry.assembly.snapshot()
        if arrived is None:
            return None
        if entry.picture is not None and entry.picture.version == arrived.version:
            return entry.picture
        key = (entry, arrived.version)
        task = self._running.get(key)
        if task is None:
            task = self._running[key] = asyncio.create_task(self._make(entry, arrived))
            task.add_done_callback(lambda _: self._running.pop(key))
        # Others may wait for the same picture: it is made even if this caller goes away.
        return await asyncio.shield(task)

    async def close(self) -> None:
        """Waits for the pictures in the making, drops those that wait for a thread, and lets the threads go."""
        await asyncio.to_thread(self._threads.shutdown, cancel_futures=True)
        await asyncio.gather(*self._running.values(), return_exceptions=True)

    async def _make(self, entry: Entry, arrived: ArrivedPatches) -> Picture:
        loop = asyncio.get_running_loop()
        picture = await loop.run_in_executor(self._threads, self._paint, arrived)
        if entry.picture is None or entry.picture.version < picture.version:
            self._store.keep(entry, picture)
        return picture

    def _paint(self, arrived: ArrivedPatches) -> Picture:
        start_s = self._clock()
        decoded = decode(arrived, self._codec)
        decoded_s = self._clock()
        image = restore(decoded, self._restorer)
        restored_s = self._clock()
        image_png, level_map_png = png_bytes(image), png_bytes(level_picture(decoded))
        self._metrics.observe_stages((start_s, decoded_s, restored_s, self._clock()))
        return Picture(arrived.version, image_png, level_map_png, restored_s - start_s)
