"""The three services as one in-process server that answers from a script, for the tests of the client."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field

import grpc
import numpy as np

from shared.errors import MmscError
from shared.levels import LEVEL_BYTES
from shared.patches import PatchGrid
from shared.pictures import png_bytes, read_picture
from shared.rpc_errors import status_code, status_details
from shared.stubs.mmsc.v1 import (
    channel_pb2,
    channel_pb2_grpc,
    common_pb2,
    receiver_pb2,
    receiver_pb2_grpc,
    transmitter_pb2,
    transmitter_pb2_grpc,
)

TRANSMISSION = "0badcafe"


def photo(width: int = 120, height: int = 80) -> np.ndarray:
    """Smooth colours with a bright square in the middle."""
    y, x = np.mgrid[0:height, 0:width]
    image = np.stack([x * 255 // width, y * 255 // height, (x + y) % 256], axis=2).astype(np.uint8)
    image[height // 3 : 2 * height // 3, width // 3 : 2 * width // 3] = (250, 240, 60)
    return image


@dataclass
class Script:
    """What the services do, and what they were asked."""

    error: MmscError | None = None
    outcome: int = common_pb2.OUTCOME_COMPLETE
    exact: bool = False
    ends_early: bool = False
    stall_s: float = 0.0
    lost_rows: int = 0
    present: bool = True
    replanned: bool = False
    breaks: MmscError | None = None
    requests: list = field(default_factory=list)
    settings: dict = field(default_factory=lambda: {"rate_bps": 64_000.0, "propagation_s": 0.02})


class _Transmitter(transmitter_pb2_grpc.TransmitterServiceServicer):
    def __init__(self, script: Script, store: dict) -> None:
        self.script, self.store = script, store
        self.stalled = threading.Event()

    def Transmit(self, request, context):
        self.script.requests.append(request)
        _fail(self.script, context)
        self.stalled.wait(self.script.stall_s)
        image = read_picture(request.image)
        grid = PatchGrid.of(image)
        relevance = np.zeros(image.shape[:2], np.uint8)
        relevance[grid.height // 3 : 2 * grid.height // 3, grid.width // 3 : 2 * grid.width // 3] = 230
        levels = np.zeros((grid.rows, grid.columns), np.uint8)
        levels[:, grid.columns // 3 : 2 * grid.columns // 3] = np.arange(grid.rows)[:, None] % 5
        self.store.update(image=image, levels=levels)
        yield transmitter_pb2.TransmitResponse(relevance=_relevance(relevance, self.script.present))
        plan = _plan(grid, levels, request.budget.wire_bytes or 1000)
        plan.spread_by_content = not self.script.present
        yield transmitter_pb2.TransmitResponse(plan=plan)
        progress = transmitter_pb2.Progress(sent_bytes=plan.wire_bytes, departed_bytes=plan.wire_bytes // 2)
        yield transmitter_pb2.TransmitResponse(progress=progress)
        if self.script.breaks is not None:
            self.script.error = self.script.breaks
            _fail(self.script, context)
        if self.script.replanned:
            # The last row is given up, and comes after all at the lowest level.
            levels[-1], again = 0, np.zeros_like(levels)
            again[-1, grid.columns // 3 : 2 * grid.columns // 3] = 1
            self.store["levels"] = levels + again
            yield transmitter_pb2.TransmitResponse(replanned=_replanned(again))
        if not self.script.ends_early:
            yield transmitter_pb2.TransmitResponse(delivered=_delivered(plan, self.script))

    def GetRelevance(self, request, context):
        self.script.requests.append(request)
        _fail(self.script, context)
        grey = np.full(read_picture(request.image).shape[:2], 77, np.uint8)
        return transmitter_pb2.GetRelevanceResponse(relevance=_relevance(grey, self.script.present))

    def GetTransmitterInfo(self, request, context):
        return transmitter_pb2.GetTransmitterInfoResponse(version="0.1.0", default_extractor="embedded")


class _Receiver(receiver_pb2_grpc.ReceiverServiceServicer):
    def __init__(self, script: Script, store: dict) -> None:
        self.script, self.store = script, store

    def Receive(self, request_iterator, context):
        raise NotImplementedError

    def GetReconstruction(self, request, context):
        if request.transmission_id != TRANSMISSION:
            context.abort(grpc.StatusCode.NOT_FOUND, "no such transmission")
        return receiver_pb2.GetReconstructionResponse(reconstruction=self._reconstruction())

    def WatchReconstruction(self, request, context):
        for _ in range(2):
            yield receiver_pb2.WatchReconstructionResponse(reconstruction=self._reconstruction())

    def ListReconstructions(self, request, context):
        return receiver_pb2.ListReconstructionsResponse()

    def _reconstruction(self):
        image, levels = self.store["image"], self.store["levels"].copy()
        levels[: self.script.lost_rows] = 0
        failed = self.script.outcome == common_pb2.OUTCOME_FAILED
        shown = image if self.script.exact else np.clip(image, 20, 235)
        return receiver_pb2.Reconstruction(
            transmission_id=TRANSMISSION,
            outcome=self.script.outcome,
            image_png=b"" if failed else png_bytes(shown),
            level_map_png=b"" if failed else png_bytes(levels),
        )


class _Channel(channel_pb2_grpc.ChannelServiceServicer):
    def __init__(self, script: Script) -> None:
        self.script = script

    def Relay(self, request_iterator, context):
        raise NotImplementedError

    def GetLink(self, request, context):
        return channel_pb2.GetLinkResponse(link=_link(self.script))

    def SetLink(self, request, context):
        self.script.requests.append(request)
        _fail(self.script, context)
        self.script.settings.update({field.name: value for field, value in request.settings.ListFields()})
        return channel_pb2.SetLinkResponse(link=_link(self.script))


def _fail(script: Script, context) -> None:
    if script.error is not None:
        context.set_trailing_metadata((("grpc-status-details-bin", status_details(script.error)),))
        context.abort(status_code(script.error), str(script.error))


def _link(script: Script):
    return channel_pb2.LinkState(settings=channel_pb2.LinkSettings(**script.settings), streams=1)


def _relevance(grey: np.ndarray, present: bool):
    mean = float(grey.mean() / 255)
    return transmitter_pb2.RelevanceReady(
        extractor="fake", present=present, mean_relevance=mean, relevance_png=png_bytes(grey)
    )


def _plan(grid: PatchGrid, levels: np.ndarray, budget_bytes: int):
    counts = np.bincount(levels.ravel(), minlength=5)
    return transmitter_pb2.PlanMade(
        transmission_id=TRANSMISSION,
        budget_bytes=budget_bytes,
        wire_bytes=int(counts @ LEVEL_BYTES) + 100,
        packets=3,
        width=grid.width,
        height=grid.height,
        levels=[
            common_pb2.LevelCount(level=level, patch_bytes=size, patches=int(counts[level]))
            for level, size in enumerate(LEVEL_BYTES)
        ],
        level_map_bytes=40,
        level_map_png=png_bytes(levels),
    )


def _replanned(levels: np.ndarray):
    estimate = transmitter_pb2.LinkEstimate(rate_bps=48_000, loss_rate=0.04, round_trip_s=0.05)
    return transmitter_pb2.Replanned(
        revision=1,
        reason=transmitter_pb2.REPLAN_REASON_LESS_ROOM,
        budget_bytes=900,
        wire_bytes=800,
        level_map_png=png_bytes(levels),
        estimate=estimate,
        elapsed_s=0.7,
    )


def _delivered(plan, script: Script):
    stages = {"decode_s": 0.01, "relevance_s": 0.3, "encode_s": 0.1, "allocate_s": 0.05, "pack_s": 0.01}
    link = {"serialization_s": 0.7, "propagation_s": 0.04, "reconstruct_s": 0.1, "overhead_s": 0.03}
    return transmitter_pb2.Delivered(
        transmission_id=TRANSMISSION,
        outcome=script.outcome,
        budget_bytes=plan.budget_bytes,
        wire_bytes=plan.wire_bytes,
        received_bytes=plan.wire_bytes,
        elapsed_s=1.34,
        stages=transmitter_pb2.StageSeconds(**stages, **link),
        link=_link(script),
        **(_TROUBLED if script.replanned else {"revisions": 1}),
    )


_TROUBLED = {
    "revisions": 2,
    "again_bytes": 40,
    "repair_bytes": 30,
    "poll_bytes": 12,
    "lost_packets": 3,
    "dropped_patches": 5,
    "resumed": 1,
    "deadline_met": True,
    "estimate": transmitter_pb2.LinkEstimate(rate_bps=52_000, loss_rate=0.03),
}


@contextmanager
def services(script: Script) -> Iterator[str]:
    """Serves all three on one address while the context lasts."""
    store: dict = {}
    server = grpc.server(ThreadPoolExecutor(4), options=[("grpc.max_receive_message_length", 64 << 20)])
    transmitter = _Transmitter(script, store)
    transmitter_pb2_grpc.add_TransmitterServiceServicer_to_server(transmitter, server)
    receiver_pb2_grpc.add_ReceiverServiceServicer_to_server(_Receiver(script, store), server)
    channel_pb2_grpc.add_ChannelServiceServicer_to_server(_Channel(script), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        transmitter.stalled.set()
        server.stop(None).wait()
