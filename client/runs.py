"""One run from the picture file to the measured result, as the command line and the demo both do it."""

import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf.message import Message
from PIL import Image

from client.api import Budget, Client, OnEvent, Options, Reconstruction, Transmission
from client.quality import Quality, measure
from client.requests import DEFAULT_PERCENT_OF_RAW, clean_text
from shared.arrays import Float32Array, UInt8Array
from shared.patches import PATCH_SIZE
from shared.pictures import png_bytes, read_picture
from shared.stubs.mmsc.v1 import transmitter_pb2

LOST_COLOUR = "#e0314b"
"""Colour of a patch that was sent and did not arrive."""

LOST = 255
"""What stands in a run's levels for a patch that was sent and did not arrive."""

_SKIPPED_COLOUR = "#20203a"
# Evenly spaced along viridis, which stays readable in grey and to colour-blind eyes.
_RISING_COLOURS = ("#3b528b", "#2c728e", "#21918c", "#28ae80", "#5ec962", "#addc30", "#fde725")
_TOLD = ("revisions", "again_bytes", "repair_bytes", "poll_bytes", "lost_packets", "dropped_patches", "resumed")
_BASE_PATIENCE_S = 60.0
_PATIENCE_FACTOR = 4.0


@dataclass(frozen=True)
class Question:
    """What to send and what matters in it."""

    name: str
    """The picture's name for people."""
    image: bytes
    """The encoded picture."""
    query: str
    budget: Budget
    options: Options


@dataclass(frozen=True)
class Run:
    """What was asked, what came back, and how good it is."""

    question: Question
    original: UInt8Array
    """(height, width, 3) RGB, upright."""
    transmission: Transmission
    reconstruction: Reconstruction
    picture: UInt8Array | None
    """(height, width, 3) RGB; None where nothing can be shown."""
    relevance: Float32Array
    """(height, width), 0 to 1."""
    levels: UInt8Array
    """(rows, columns) of the patch grid: level that arrived, LOST for what was planned and did not arrive."""
    quality: Quality | None
    """None where nothing can be shown."""


def carry_out(client: Client, question: Question, on_event: OnEvent | None = None) -> Run:
    """Sends a picture, fetches what the receiver made of it, and measures that.

    Args:
        client: connected to the three services.
        question: picture, query, budget and options; the maps are needed and must be asked for.
        on_event: told each event.

    Raises:
        MmscError: as `Client.transmit`.
    """
    asked = question
    original = read_picture(asked.image)
    patience_s = _patience_s(asked.budget, original.nbytes, client.link().settings.rate_bps)
    sent = client.transmit(
        asked.image, asked.query, asked.budget, asked.options, on_event=on_event, timeout_s=patience_s
    )
    received = client.reconstruction(sent.transmission_id)
    picture = read_picture(received.image_png, "reconstruction") if received.image_png else None
    relevance = np.divide(decode_grey(sent.relevance.relevance_png), 255, dtype=np.float32)
    levels = _with_losses(sent, received)
    quality = None if picture is None else measure(original, picture, relevance)
    return Run(asked, original, sent, received, picture, relevance, levels, quality)


def to_json(run: Run) -> dict[str, Any]:
    """The run as plain values: bytes, seconds, levels and quality; infinite decibels are null."""
    sent, plan, delivered = run.transmission, run.transmission.plan, run.transmission.delivered
    absent = {"psnr_db": None, "exact": False, "masked_psnr_db": None, "masked_exact": False}
    return {
        "image": run.question.name,
        "query": clean_text(run.question.query),
        "transmission_id": sent.transmission_id,
        "outcome": sent.outcome,
        "extractor": sent.relevance.extractor,
        "present": sent.relevance.present,
        "mean_relevance": sent.relevance.mean_relevance,
        "spread_by_content": plan.spread_by_content,
        "width": plan.width,
        "height": plan.height,
        "raw_bytes": run.original.nbytes,
        "budget_bytes": plan.budget_bytes,
        "wire_bytes": delivered.wire_bytes,
        "plan_bytes": plan.wire_bytes,
        "received_bytes": delivered.received_bytes,
        **{name: getattr(delivered, name) for name in _TOLD},
        "deadline_met": delivered.deadline_met if delivered.HasField("deadline_met") else None,
        "estimate": plain(delivered.estimate) if delivered.HasField("estimate") else None,
        "replanned": [_replan(event) for event in sent.replanned],
        "packets": plan.packets,
        "level_map_bytes": plan.level_map_bytes,
        "content_bytes": plan.content_bytes,
        "codec": plan.codec,
        "levels": [plain(count) for count in plan.levels],
        "sent_patches": delivered.sent_patches,
        "received_patches": delivered.received_patches,
        "elapsed_s": delivered.elapsed_s,
        "stages_s": plain(delivered.stages),
        "link": plain(delivered.link.settings),
        **(absent if run.quality is None else run.quality.to_json()),
    }


def _replan(event: transmitter_pb2.Replanned) -> dict[str, Any]:
    """A plan made anew as plain values, without its picture."""
    values = plain(event)
    del values["level_map_png"]
    return {**values, "reason": transmitter_pb2.ReplanReason.Name(event.reason).removeprefix("REPLAN_REASON_").lower()}


def plain(message: Message) -> dict[str, Any]:
    """A message as a dictionary, numbers as numbers (protobuf's JSON writes some as text).

    Messages in it are dictionaries too, and absent unless they are set; repeated fields are lists.
    """
    values: dict[str, Any] = {}
    for field in message.DESCRIPTOR.fields:
        value = getattr(message, field.name)
        if field.is_repeated:
            values[field.name] = [plain(item) if isinstance(item, Message) else item for item in value]
        elif not isinstance(value, Message):
            values[field.name] = value
        elif message.HasField(field.name):
            values[field.name] = plain(value)
    return values


def write_pictures(run: Run, directory: Path) -> dict[str, str]:
    """Writes original.png, relevance.png, levels.png and, where there is one, reconstruction.png.

    Returns:
        The paths by name.
    """
    contents = {
        "original": png_bytes(run.original),
        "relevance": run.transmission.relevance.relevance_png,
        "levels": png_bytes(paint_levels(run)),
        "reconstruction": run.reconstruction.image_png,
    }
    paths = {name: directory / f"{name}.png" for name, data in contents.items() if data}
    for name, path in paths.items():
        path.write_bytes(contents[name])
    return {name: str(path) for name, path in paths.items()}


def write_json(path: Path, value: Any) -> None:
    """Writes a value as indented JSON."""
    path.write_text(json.dumps(value, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def paint_levels(run: Run) -> UInt8Array:
    """The level map in colours, (height, width, 3) of the picture's own size."""
    palette = np.zeros((LOST + 1, 3), np.uint8)
    colours = level_colours(len(run.transmission.plan.levels))
    palette[: len(colours)] = [list(bytes.fromhex(colour[1:])) for colour in colours]
    palette[LOST] = list(bytes.fromhex(LOST_COLOUR[1:]))
    enlarged = run.levels.repeat(PATCH_SIZE, axis=0).repeat(PATCH_SIZE, axis=1)
    height, width = run.original.shape[:2]
    painted: UInt8Array = palette[enlarged[:height, :width]]
    return painted


def level_colours(levels: int) -> tuple[str, ...]:
    """The colours of a codec's levels, 0 to the exact one, in every picture of a level map.

    Args:
        levels: how many there are, at least 2; their colours rise evenly.
    """
    known = np.array([list(bytes.fromhex(colour[1:])) for colour in _RISING_COLOURS], np.float64)
    places = np.linspace(len(known) - 1, 0, levels - 1)[::-1]
    channels = [np.interp(places, np.arange(len(known)), channel) for channel in known.T]
    rising = np.rint(np.stack(channels, axis=1)).astype(np.uint8)
    return (_SKIPPED_COLOUR, *(f"#{colour.tobytes().hex()}" for colour in rising))


def _patience_s(budget: Budget, raw_bytes: int, rate_bps: float) -> float:
    """How long to wait for a transmission: a slow link is no failure, a stuck one is."""
    percent = budget.percent_of_raw or DEFAULT_PERCENT_OF_RAW
    size_bytes = budget.wire_bytes or percent / 100 * raw_bytes
    on_link_s = budget.deadline_s or 8 * size_bytes / max(rate_bps, 1.0)
    return _BASE_PATIENCE_S + _PATIENCE_FACTOR * on_link_s


def decode_grey(png: bytes) -> UInt8Array:
    """(height, width) of a grey PNG from one of our services."""
    with Image.open(io.BytesIO(png)) as image:
        return np.array(image.convert("L"))


def _with_losses(sent: Transmission, received: Reconstruction) -> UInt8Array:
    """The level of each patch that arrived, and LOST for those of any plan of which nothing did."""
    maps = (sent.plan.level_map_png, *(event.level_map_png for event in sent.replanned))
    planned = np.maximum.reduce([decode_grey(png) for png in maps])
    arrived = decode_grey(received.level_map_png) if received.level_map_png else np.zeros_like(planned)
    return np.where((planned > 0) & (arrived == 0), LOST, arrived).astype(np.uint8)
