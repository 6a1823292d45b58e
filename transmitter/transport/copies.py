"""Packets that go once more before anything is known of them: headers at first, and in the end the last ones."""

import math
from typing import Final

from shared.packets import PacketKind
from transmitter.transport import policy
from transmitter.transport.contract import PackedRevision
from transmitter.transport.entries import Entry, State
from transmitter.transport.standing import Standing

_APART: Final = 3  # packets between two copies of a header


class Copies:
    """How often the headers of each revision go.

    Args:
        standing: of the transmission.
    """

    def __init__(self, standing: Standing) -> None:
        self._standing, self._ledger = standing, standing.ledger
        self._times: list[int] = []

    def expect(self, plan: PackedRevision, now: float) -> None:
        """Says how often the headers of a plan and its scans go before anything is known of them."""
        for scan in (plan, *plan.scans):
            self._times.append(policy.header_copies(self._standing.settings, self._standing.estimate, now, scan.number))

    def due(self) -> Entry | None:
        """A header once more, before anything is known, with some packets between."""
        for number, times in enumerate(self._times):
            for entry in self._ledger.planned.headers[number] if times > 1 else ():
                if entry.state is State.FLYING and entry.sends < times and self._far_enough(entry):
                    return entry
        return None

    def last(self) -> Entry | None:
        """Of the last packets one once more, for bytes that are of no other use: a header, or the finest."""
        fitting = (entry for entry in reversed(self._ledger.sent_once()) if len(entry.data) <= self._standing.left)
        return min(fitting, key=lambda entry: (entry.kind is not PacketKind.HEADER, -entry.revision), default=None)

    def give_up_hearing(self) -> None:
        """Nothing will be heard any more: headers that may be missing go several times."""
        needed = policy.sends_needed(self._standing.estimate.loss_at_most, policy.NO_HEADER)
        # Those that went before the silence may have been lost with the answers.
        sends = (max(entry.sends for entry in header) for header in self._ledger.planned.headers)
        self._times = [max(times, before + needed - 1) for times, before in zip(self._times, sends, strict=True)]

    def _far_enough(self, entry: Entry) -> bool:
        """Whether enough packets lie between, so that one row of losses does not take both."""
        apart = max(_APART, math.ceil(self._standing.estimate.burst_packets))
        return self._ledger.handed_since(entry) >= apart or self._ledger.planned.next_open() is None
