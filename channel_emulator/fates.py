"""The fates of a link's packets: the link's own losses and impairments, and those of each stream, in one place."""

import random
from functools import partial

from channel_emulator.impairments import Copy, Impairer, Impairments
from channel_emulator.settings import LinkSettings


class Fates:
    """Deals what becomes of packets that depart.

    The link's impairments and the stream's own both draw for every packet, whatever the other does to it.

    Args:
        settings: what goes wrong, and the seed.
        name: whose random sequences they are; the plain seed's own losses are those of `forward`.
        now: when blackouts begin to count.
    """

    def __init__(self, settings: LinkSettings, name: str, now: float) -> None:
        self._name = name
        self._streams: dict[int, Impairer] = {}
        self.restart(settings, now)

    def restart(self, settings: LinkSettings, now: float) -> None:
        """Begins all random sequences again, as for a new link on which the open streams are opened in turn."""
        self._settings = settings
        # The forward losses are those of the plain seed, as they have always been.
        seed = settings.seed if self._name == "forward" else f"{settings.seed}/{self._name}"
        self._losses = random.Random(seed).random  # noqa: S311 - a simulation must repeat; nothing here is a secret
        self._link = Impairer(settings.impairments, self._numbers, now)
        self._opened = 0
        self.impaired = _impairs(settings)
        """Whether there are impairments at all."""
        for stream in self._streams:
            self.open(stream, now)

    def change(self, settings: LinkSettings, now: float) -> None:
        """Goes on with other settings and the same random sequences."""
        self._settings, self.impaired = settings, _impairs(settings)
        self._link.change(settings.impairments, now)
        for impairer in self._streams.values():
            impairer.change(settings.stream_impairments, now)

    def open(self, stream: int, now: float) -> None:
        """Adds a stream; its random sequences depend on how many were opened before it."""
        self._opened += 1
        numbers = partial(self._numbers, owner=f"/stream {self._opened}")
        self._streams[stream] = Impairer(self._settings.stream_impairments, numbers, now)

    def close(self, stream: int) -> None:
        """Forgets a stream."""
        del self._streams[stream]

    def lost(self) -> bool:
        """Whether the next packet is lost by the loss rate alone; to be asked once for every packet."""
        # Drawn for every packet, so that the fate of the others does not depend on the rate of loss.
        return self._losses() < self._settings.loss_rate

    def copies(self, stream: int, packet: bytes, at_s: float) -> list[Copy]:
        """What the impairments leave of a stream's packet that departs at at_s: nothing, one copy, or several."""
        copies = [Copy(packet)]
        for impairer in (self._link, self._streams[stream]):
            if impairer.acts:
                after = impairer.apply(copies[0].packet if copies else packet, at_s)
                copies = [Copy(b.packet, a.late_s + b.late_s, a.held_s + b.held_s) for a in copies for b in after]
        return copies

    def _numbers(self, process: str, owner: str = "") -> random.Random:
        return random.Random(f"{self._settings.seed}/{self._name}{owner}/{process}")  # noqa: S311 - as above


def _impairs(settings: LinkSettings) -> bool:
    return settings.impairments != Impairments() or settings.stream_impairments != Impairments()
