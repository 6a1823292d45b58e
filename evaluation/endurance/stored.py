"""Is what was stored still what it was: the pictures that were once shown, and the journals on the disk."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from random import Random

from evaluation.endurance.calls import Shown, show
from receiver.journal import read_journal
from shared.errors import StreamError

_SHOW_S = 30.0


@dataclass(frozen=True)
class Fingerprint:
    """What a transmission looked like when it had ended."""

    outcome: str
    received_bytes: int
    received_patches: int
    picture: str
    """SHA-256 of the PNG."""

    @classmethod
    def of(cls, shown: Shown) -> "Fingerprint":
        """Of what the receiver shows."""
        picture = hashlib.sha256(shown.image_png).hexdigest()
        return cls(shown.outcome, shown.received_bytes, shown.received_patches, picture)


class Ledger:
    """The transmissions that ended, and what they looked like.

    Args:
        receiver: HOST:PORT.
    """

    def __init__(self, receiver: str) -> None:
        self._receiver = receiver
        self._known: dict[str, Fingerprint] = {}

    def __len__(self) -> int:
        return len(self._known)

    def add(self, transmission_id: str, shown: Shown) -> None:
        """Notes a transmission that is on the disk by now."""
        self._known[transmission_id] = Fingerprint.of(shown)

    def sample(self, random: Random, newest: int, others: int) -> list[str]:
        """Some of the transmissions: the newest, and others drawn by chance."""
        known = list(self._known)
        older = known[:-newest]
        return [*known[-newest:], *random.sample(older, min(others, len(older)))]

    def changed(self, transmission_ids: Iterable[str] | None = None) -> list[str]:
        """Asks for pictures again, and tells in words which are not what they were; by default all."""
        wanted = self._known if transmission_ids is None else transmission_ids
        found = [(number, self._known[number], show(self._receiver, number, _SHOW_S)) for number in wanted]
        return [
            f"{number} was {before}, is {shown.code} {Fingerprint.of(shown)}"
            for number, before, shown in found
            if shown.code != "OK" or Fingerprint.of(shown) != before
        ]


class JournalCheck:
    """Reads the journals of a store, each again only when it has changed.

    Args:
        store: the receiver's folder.
    """

    def __init__(self, store: Path) -> None:
        self._store = store
        self._seen: dict[str, tuple[int, int]] = {}

    def faults(self) -> list[str]:
        """What is wrong, in words; a journal that ends in the midst of a packet is right."""
        fresh = {path: stamp for path, stamp in self._stamps().items() if self._seen.get(path.name) != stamp}
        self._seen |= {path.name: stamp for path, stamp in fresh.items()}
        return [f"{path.name} {fault}" for path in fresh if (fault := _fault(path))]

    @property
    def journals(self) -> int:
        """How many were seen."""
        return len(self._seen)

    def _stamps(self) -> Mapping[Path, tuple[int, int]]:
        paths = [path for path in self._store.iterdir() if path.suffix in {".journal", ".damaged"}]
        return {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in paths}


def _fault(path: Path) -> str:
    """What is wrong with a journal; empty if nothing."""
    if path.suffix == ".damaged":
        return "was set aside"
    data = path.read_bytes()
    try:
        journal = read_journal(data)
    except StreamError as error:
        return str(error)
    if f"{journal.transmission_id:08x}" != path.stem:
        return f"is of {journal.transmission_id:08x}"
    cut_off = journal.sound_bytes < len(data)
    return f"is damaged in {journal.damages} places" if journal.damages > cut_off else ""
