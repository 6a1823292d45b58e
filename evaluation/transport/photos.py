"""Photos with what is asked of them, their plans, and how near to the truth a received picture is."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Final

import numpy as np
import skimage.data
from PIL import Image

from evaluation.datasets import PAPER_SIZE, open_dataset
from evaluation.transmission.metrics import mean_squared_error, psnr_db
from receiver.codecs import load_receiver
from receiver.contract import ArrivedPatches, Layout, ReceiverCodec, ReceiverCodecs, by_number
from shared.arrays import BoolArray, Float32Array, UInt8Array
from shared.errors import BudgetTooSmallError
from shared.packets import DEFAULT_PACKET_BYTES
from transmitter.codecs import load_sender
from transmitter.planning import Earlier, Plan, PlanRequest, PreparedPicture, SenderCodec

CAP_DB: Final = 60.0
"""What an exact region counts as, so that means are not of exactness alone."""

_GRID: Final = 2 ** (1 / 6)  # the oracle's quality is measured at budgets apart by this
_MID_GREY: Final = 128

_SAMPLES: Final = {
    # Ellipses over what is in the middle: rows and columns of the centre, radii, as parts of the side.
    "astronaut": (0.45, 0.45, 0.4, 0.28),
    "chelsea": (0.5, 0.5, 0.38, 0.3),
    "coffee": (0.47, 0.49, 0.3, 0.23),
}


@dataclass(frozen=True)
class Codecs:
    """Both halves of the codec that is measured with."""

    sender: SenderCodec
    receiver: ReceiverCodec

    @classmethod
    def load(cls, name: str = "entropy") -> "Codecs":
        """The codec of that name, with its shipped weights."""
        return cls(load_sender(name), load_receiver(name))


@dataclass(eq=False)
class AskedPhoto:
    """A photo and the region that counts, with its plans, each made once."""

    name: str
    image: UInt8Array
    """(height, width, 3) RGB."""
    mask: BoolArray
    """(height, width), at least one pixel: what is asked for; the relevance map that plans go by."""
    codecs: Codecs
    _plans: dict[PlanRequest, Plan] = field(default_factory=dict)
    _oracle_db: dict[int, float] = field(default_factory=dict)

    @cached_property
    def prepared(self) -> PreparedPicture:
        """As far as the codec prepares it."""
        return self.codecs.sender.prepare(self.image)

    @cached_property
    def relevance(self) -> Float32Array:
        """(height, width), 0 or 1."""
        return self.mask.astype(np.float32)

    @property
    def raw_bytes(self) -> int:
        """Of its pixels."""
        return self.image.nbytes

    @property
    def receivers(self) -> ReceiverCodecs:
        """What an assembly needs to take its packets in."""
        return by_number(self.codecs.receiver)

    def plan(self, request: PlanRequest) -> Plan:
        """The first plan for a budget.

        Raises:
            BudgetTooSmallError: not even the stream header fits.
        """
        if request not in self._plans:
            self._plans[request] = self.prepared.plan(self.relevance, request)
        return self._plans[request]

    def replan(self, request: PlanRequest, earlier: Sequence[Earlier]) -> Plan | None:
        """A plan for what is not there yet; None where nothing is worth its bytes."""
        try:
            return self.prepared.replan(self.relevance, request, earlier)
        except BudgetTooSmallError:
            return None

    # ---- quality -----------------------------------------------------------------------------------

    def masked_db(self, picture: UInt8Array) -> float:
        """PSNR within the region, at most CAP_DB."""
        return min(psnr_db(mean_squared_error(self.image, picture, self.mask)), CAP_DB)

    def shown(self, arrived: ArrivedPatches | None) -> UInt8Array:
        """The picture of what arrived; grey all over where there is none."""
        return np.full_like(self.image, _MID_GREY) if arrived is None else arrived.decode().paint()

    def shown_db(self, arrived: ArrivedPatches | None) -> float:
        """Its PSNR within the region."""
        return self.masked_db(self.shown(arrived))

    def whole(self, plan: Plan) -> ArrivedPatches:
        """A plan of which everything arrives."""
        receiver = self.codecs.receiver
        layout = Layout.of(receiver.open(plan.header), receiver.entry)
        pieces = [piece for body in plan.bodies for piece in receiver.pieces(layout, body.position, body.content)]
        return ArrivedPatches(receiver, plan.header, layout, tuple(pieces), 0)

    def oracle_db(self, budget_bytes: int, packet_bytes: int) -> float | None:
        """What one plan gives that has so many bytes and loses none; None where not even the header fits.

        Measured at budgets 12 % apart and interpolated over the logarithm of the bytes; near exactness, where the
        quality leaps, planned for just so many bytes.
        """
        if budget_bytes < 1:
            return None
        place = math.log(budget_bytes, _GRID)
        lower, upper = (
            self._grid_db(round(_GRID**step), packet_bytes) for step in (math.floor(place), math.ceil(place))
        )
        if lower is None or upper is None or max(lower, upper) >= CAP_DB:
            return self._grid_db(budget_bytes, packet_bytes)
        return lower + (upper - lower) * (place - math.floor(place))

    def oracle_picture(self, budget_bytes: int, packet_bytes: int = DEFAULT_PACKET_BYTES) -> UInt8Array:
        """That plan's picture; grey all over where there is none."""
        try:
            plan = self.plan(PlanRequest(budget_bytes, packet_bytes))
        except BudgetTooSmallError:
            return self.shown(None)
        return self.shown(self.whole(plan))

    def _grid_db(self, budget_bytes: int, packet_bytes: int) -> float | None:
        if budget_bytes not in self._oracle_db:
            try:
                plan = self.plan(PlanRequest(budget_bytes, packet_bytes))
                self._oracle_db[budget_bytes] = self.shown_db(self.whole(plan))
            except BudgetTooSmallError:
                self._oracle_db[budget_bytes] = math.nan
        found = self._oracle_db[budget_bytes]
        return None if math.isnan(found) else found


def sample_photos(codecs: Codecs, count: int = len(_SAMPLES)) -> list[AskedPhoto]:
    """The first of scikit-image's own photos at the paper's size, each with an ellipse that is asked for."""
    return [_sample(name, ellipse, codecs) for name, ellipse in list(_SAMPLES.items())[:count]]


def dataset_photos(folder: Path, codecs: Codecs, count: int) -> list[AskedPhoto]:
    """The first photos of a dataset, each with the true mask of its own query.

    Raises:
        InvalidInputError: the folder is no dataset.
    """
    dataset = open_dataset(folder, limit=count)
    samples = (dataset[index] for index in range(len(dataset)))
    return [AskedPhoto(sample.stem, sample.image, sample.mask(sample.asked), codecs) for sample in samples]


def _sample(name: str, ellipse: Sequence[float], codecs: Codecs) -> AskedPhoto:
    picture: UInt8Array = getattr(skimage.data, name)()
    image = np.asarray(Image.fromarray(picture).resize(PAPER_SIZE, Image.Resampling.LANCZOS))
    rows, columns = np.indices(image.shape[:2]) / np.array(image.shape[:2])[:, None, None]
    row, column, tall, wide = ellipse
    mask = ((rows - row) / tall) ** 2 + ((columns - column) / wide) ** 2 < 1
    return AskedPhoto(name, image, np.asarray(mask, np.bool_), codecs)
