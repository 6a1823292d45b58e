"""Damage of protobuf messages that are still messages: fields with values that no client would send."""

import math
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from .mutations import Sample, mutated

_FLOATS: Final = (
    *(0.0, -0.0, 1.0, -1.0, 0.5, 1e-3, 1e-9, 5e-324, 1e6, 1e9, 1e12, 1e30, 1.7e308),
    *(math.inf, -math.inf, math.nan, 3_600.0, 86_400.0, 1_024.5),
)
_INTEGERS: Final = (0, 1, 2, 3, 7, 100, 255, 256, 1_200, 1_500, 65_000, 65_535, 65_536, 2**20, 2**30, 2**31 - 1)
_TEXTS: Final = (
    "",
    "x",
    "ladder",
    "entropy",
    "lte",
    "../../etc/passwd",
    "\0",
    "\u0663\u00b2 \ud7ff",
    "ffffffff",
    "1e999",
)
_BITS: Final = {
    FieldDescriptor.CPPTYPE_INT32: (True, 32),
    FieldDescriptor.CPPTYPE_INT64: (True, 64),
    FieldDescriptor.CPPTYPE_UINT32: (False, 32),
    FieldDescriptor.CPPTYPE_UINT64: (False, 64),
}
_MOST_ELEMENTS: Final = 3_000


def message_change(kinds: Sequence[type[Message] | None], seal: Callable[[bytes], bytes] | None = None) -> Any:
    """Damage for samples whose first string is the number of a message's kind, and the others such messages.

    Args:
        kinds: by number, taken modulo their count; None: bytes of no kind.
        seal: puts right what the bytes in the messages' fields have for checksums.
    """

    def change(rng: random.Random, sample: Sample) -> Sample:
        number, *parts = sample
        kind = kinds[(number + b"\0")[0] % len(kinds)]
        if kind is None or not parts:
            return sample
        at = rng.randrange(len(parts))
        parts[at] = damaged(rng, kind.FromString(parts[at]), seal).SerializeToString()
        return (number, *parts)

    return change


def damaged(rng: random.Random, message: Message, seal: Callable[[bytes], bytes] | None = None) -> Message:
    """The message, with some of its fields set to anything that their types hold."""
    for _ in range(rng.choice((1, 1, 2, 3, 6))):
        place = rng.choice(list(_within(message)))
        fields = place.DESCRIPTOR.fields
        if fields:
            _set(rng, place, rng.choice(fields), seal)
    return message


def _within(message: Message) -> Iterator[Message]:
    """The message and all that are in it."""
    yield message
    for field, value in message.ListFields():
        if field.message_type is not None:
            for part in value if field.is_repeated else (value,):
                yield from _within(part)


def _set(rng: random.Random, message: Any, field: FieldDescriptor, seal: Callable[[bytes], bytes] | None) -> None:
    if rng.random() < 0.1:
        message.ClearField(field.name)
    elif field.is_repeated:
        _set_repeated(rng, message, field, seal)
    elif field.message_type is not None:
        getattr(message, field.name).SetInParent()
        damaged(rng, getattr(message, field.name), seal)
    else:
        setattr(message, field.name, _value(rng, field, getattr(message, field.name), seal))


def _set_repeated(rng: random.Random, message: Any, field: FieldDescriptor, seal: Any) -> None:
    elements = getattr(message, field.name)
    if elements and rng.random() < 0.3:
        del elements[rng.randrange(len(elements)) :]
    elif rng.random() < 0.3:
        kept = list(elements)
        rng.shuffle(kept)
        del elements[:]
        elements.extend(kept)
    for _ in range(rng.choice((0, 1, 1, 2, 30, _MOST_ELEMENTS))):
        if field.message_type is not None:
            elements.add()
        else:
            elements.append(_value(rng, field, elements[0] if elements else b"", None))
    if elements:
        at = rng.randrange(len(elements))
        if field.message_type is not None:
            damaged(rng, elements[at], seal)
        else:
            elements[at] = _value(rng, field, elements[at], seal)


def _value(rng: random.Random, field: FieldDescriptor, old: Any, seal: Callable[[bytes], bytes] | None) -> Any:
    kind = field.cpp_type
    if kind in _BITS:
        return _integer(rng, *_BITS[kind], old)
    if kind == FieldDescriptor.CPPTYPE_BOOL:
        return rng.random() < 0.5
    if kind == FieldDescriptor.CPPTYPE_ENUM:
        return rng.choice((0, 1, 2, 3, 77, -1, 2**31 - 1))
    if kind in (FieldDescriptor.CPPTYPE_DOUBLE, FieldDescriptor.CPPTYPE_FLOAT):
        return _number(rng, old)
    if field.type == FieldDescriptor.TYPE_BYTES:
        return mutated(rng, [(old or b"",)], seal)[0]
    return rng.choice(_TEXTS) if rng.random() < 0.7 else rng.choice(("a", "\u00e9", "0,1\n")) * rng.choice((10, 5_000))


def _integer(rng: random.Random, signed: bool, bits: int, old: int) -> int:
    low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)
    value = rng.choice((rng.choice(_INTEGERS), old + rng.randint(-9, 9), high, low, rng.randrange(high)))
    return min(max(value, low), high)


def _number(rng: random.Random, old: float) -> float:
    return rng.choice((rng.choice(_FLOATS), -old, old * rng.choice((1e-3, 0.999, 1.001, 1e3)), rng.random()))
