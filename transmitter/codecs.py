"""The sending halves of the codecs, each loaded when it is asked for."""

from collections.abc import Callable, Mapping
from typing import Final

from shared.codec.registry import codec_named
from transmitter.planning import SenderCodec


def _load_ladder() -> SenderCodec:
    # Imported here, so that one codec can be used without loading the others' libraries and weights.
    from shared.codec.ladder import load_ladder  # noqa: PLC0415
    from transmitter.ladder.sender import LadderSender  # noqa: PLC0415

    return LadderSender(load_ladder())


def _load_entropy() -> SenderCodec:
    from shared.codec.entropy.codec import load_entropy_codec  # noqa: PLC0415
    from transmitter.entropy.sender import EntropySender  # noqa: PLC0415

    return EntropySender(load_entropy_codec())


_LOADERS: Final[Mapping[str, Callable[[], SenderCodec]]] = {"ladder": _load_ladder, "entropy": _load_entropy}
"""By the names of `shared.codec.registry.CODECS`."""


def load_sender(name: str, field: str = "codec") -> SenderCodec:
    """The sending half of a codec, with the weights that ship with the project.

    Args:
        name: a key of `shared.codec.registry.CODECS`.
        field: the request's field, for the error.

    Raises:
        InvalidInputError: there is no such codec.
        WeightsError: its weights are absent or damaged.
    """
    return _LOADERS[codec_named(name, field).name]()
