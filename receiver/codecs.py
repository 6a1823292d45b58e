"""The receiving halves of the codecs, each loaded when it is asked for."""

from collections.abc import Callable, Mapping
from typing import Final

from receiver.contract import ReceiverCodec, ReceiverCodecs, by_number
from shared.codec.registry import CODECS, codec_named


def _load_ladder() -> ReceiverCodec:
    # Imported here, so that one codec can be used without loading the others' libraries and weights.
    from receiver.ladder_receiver import LadderReceiver  # noqa: PLC0415
    from receiver.restoration import Restorer  # noqa: PLC0415
    from shared.codec.ladder import load_ladder  # noqa: PLC0415

    return LadderReceiver(load_ladder(), Restorer.load())


def _load_entropy() -> ReceiverCodec:
    from receiver.entropy_receiver import EntropyReceiver  # noqa: PLC0415
    from receiver.entropy_restoration import EntropyRestorer  # noqa: PLC0415
    from shared.codec.entropy.codec import load_entropy_codec  # noqa: PLC0415

    return EntropyReceiver(load_entropy_codec(), EntropyRestorer.load())


_LOADERS: Final[Mapping[str, Callable[[], ReceiverCodec]]] = {"ladder": _load_ladder, "entropy": _load_entropy}
"""By the names of `shared.codec.registry.CODECS`."""


def load_receiver(name: str) -> ReceiverCodec:
    """The receiving half of a codec, with the weights that ship with the project.

    Args:
        name: a key of `shared.codec.registry.CODECS`.

    Raises:
        InvalidInputError: there is no such codec.
        WeightsError: its weights are absent or damaged.
    """
    return _LOADERS[codec_named(name).name]()


def load_receivers() -> ReceiverCodecs:
    """Every codec's receiving half.

    Raises:
        WeightsError: weights are absent or damaged.
    """
    return by_number(*map(load_receiver, CODECS))
