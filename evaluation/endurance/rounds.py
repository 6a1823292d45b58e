"""One round: transmissions at once, a fault in their midst, and whether all that was promised holds afterwards."""

import math
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from random import Random
from typing import Final

import skimage.data

from evaluation.endurance.calls import TYPED, Ending, Shown, Watch, set_link, settled, show, transmit
from evaluation.endurance.clock import JumpingClock
from evaluation.endurance.disk import Disk
from evaluation.endurance.draws import Job, Round
from evaluation.endurance.inject import Injector, good_link
from evaluation.endurance.log import Log
from evaluation.endurance.services import Services
from evaluation.endurance.stored import Fingerprint, JournalCheck, Ledger
from shared.arrays import UInt8Array
from shared.errors import InvalidInputError, UnavailableError
from shared.pictures import png_bytes, read_picture
from shared.stubs.mmsc.v1 import transmitter_pb2

DEADLINE_S: Final = 60.0
"""A client's patience, beyond any time that the services give themselves: what reaches it hangs."""

STALL_TIMEOUT_S: Final = 6.0
"""What the transmitter is started with, so that a transmission on which nothing moves ends within a round."""

RECOVERY_S: Final = 5.0
"""So long after everything is mended, a transmission must get through."""

_LAST_MOMENT_S: Final = 0.3
"""What came so shortly before a kill need not be on the disk yet."""

_PROGRESS_S: Final = 0.1
"""The transmitter tells how far it is so often."""

_MOMENT_BYTES: Final = 3_000
"""So much may have been acknowledged in the last moment before a kill, and sent again."""

_TICK_S: Final = 2.5
"""After this, what a full disk had refused has been written."""

_PROBE: Final = Job(100, 150, 64, 64, 3_000, "ladder", "cat")
_PROBE_BPS: Final = 2e6


@dataclass
class Result:
    """What a round showed."""

    kind: str
    broken: dict[str, list[str]] = field(default_factory=dict)
    """Promises that did not hold, by their name, and how."""
    codes: dict[str, int] = field(default_factory=dict)
    """How the transmissions ended: an outcome, or the name of a gRPC status."""
    errors: list[str] = field(default_factory=list)
    """The others' statuses in full."""
    accepted: int = 0
    lost: int = 0
    """Delivered, but not yet on the disk when the receiver was killed."""
    taken_up: dict[str, int] = field(default_factory=dict)
    """How those that had failed ended when they were asked for once more."""
    resumed: int = 0
    """Broke, were taken up again, and came to a picture."""
    longest_s: float = 0.0
    """Of all transmissions."""

    def blame(self, promise: str, words: str) -> None:
        """Notes a promise that did not hold."""
        self.broken.setdefault(promise, []).append(words)


PROMISES: Final = (
    "accepted transmissions that ended in neither a picture nor a typed error",
    "calls that ended in an untyped error",
    "calls that hung",
    "transmissions that were still open at the receiver",
    "stored pictures that changed or went",
    "journals that were damaged",
    "stack traces and deaths",
    "faults after which a transmission did not succeed",
    "budgets that were exceeded",
    "transmissions taken up again that sent what had been acknowledged",
)
"""What may never happen, by the names in a result."""

_ENDED, _TYPED, _HUNG, _OPEN, _CHANGED, _JOURNALS, _DIED, _RECOVERED, _BUDGET, _AGAIN = PROMISES


class Rounds:
    """Runs rounds against services.

    Args:
        services: those that run.
        disk: of the receiver.
        clock: the services'; None where it cannot be set.
        log: what the services say.
    """

    def __init__(self, services: Services, disk: Disk, clock: JumpingClock | None, log: Log) -> None:
        self._services, self._log = services, log
        self._injector = Injector(services, disk, clock)
        self.ledger = Ledger(services.addresses["receiver"])
        self.journals = JournalCheck(disk.store)
        self._threads = ThreadPoolExecutor(16)
        self._watch: Watch | None = None

    def run(self, drawn: Round) -> Result:
        """Runs a round; the services are well again when it ends, unless the result says otherwise."""
        result = Result(drawn.fault.kind)
        self._watch = None
        set_link(self._services.addresses["channel"], good_link(drawn))
        running = [self._threads.submit(self._send, job, number == 0) for number, job in enumerate(drawn.jobs)]
        time.sleep(drawn.fault.at_s)
        struck_s = time.monotonic()
        with self._injector.struck(drawn):
            time.sleep(drawn.fault.hold_s)
        mended_s = time.monotonic()
        endings = self._ended(running, result)
        self._check_endings(endings, result)
        self._check_watch(result)
        endings = [self._taken_up(job, ending, result) for job, ending in zip(drawn.jobs, endings, strict=True)]
        if drawn.fault.kind.startswith("full disk"):
            time.sleep(max(mended_s + _TICK_S - time.monotonic(), 0))
        self._check_bytes(drawn, endings, struck_s, result)
        self._check_pictures(drawn, endings, (struck_s, mended_s), result)
        self._check_services(drawn, result)
        return result

    def check_all(self, result: Result) -> None:
        """Asks for every picture that there ever was, and reads all journals."""
        for words in self.ledger.changed():
            result.blame(_CHANGED, words)
        for words in self.journals.faults():
            result.blame(_JOURNALS, words)

    # ---- transmissions -------------------------------------------------------------------------

    def _send(self, job: Job, watched: bool) -> Ending:
        address = self._services.addresses["transmitter"]
        return transmit(address, request_of(job), DEADLINE_S, self._start_watch if watched else lambda _: None)

    def _start_watch(self, transmission_id: str) -> None:
        self._watch = Watch(self._services.addresses["receiver"], transmission_id, DEADLINE_S)

    def _ended(self, running: Sequence[Future[Ending]], result: Result) -> list[Ending]:
        endings = [future.result() for future in running]
        result.accepted = sum(bool(ending.transmission_id) for ending in endings)
        result.codes = dict(Counter(ending.outcome or ending.code for ending in endings))
        errors = [ending for ending in endings if ending.code != "OK"]
        result.errors = [f"{each.code} after {each.elapsed_s:.1f} s: {each.words}" for each in errors]
        result.longest_s = max(ending.elapsed_s for ending in endings)
        return endings

    def _check_endings(self, endings: Sequence[Ending], result: Result) -> None:
        for ending in endings:
            if ending.code not in TYPED or "\n" in ending.words or "Traceback" in ending.words:
                result.blame(_TYPED, f"Transmit: {ending.code} {ending.words!r}")
            if ending.elapsed_s >= DEADLINE_S - 1:
                result.blame(_HUNG, f"Transmit {ending.transmission_id}: {ending.elapsed_s:.1f} s")
            if ending.code == "OK" and not ending.outcome:
                result.blame(_ENDED, f"{ending.transmission_id} ended without a summary")

    def _check_watch(self, result: Result) -> None:
        if self._watch is None:
            return
        self._watch.join(DEADLINE_S)
        if not self._watch.code or self._watch.code == "DEADLINE_EXCEEDED":
            result.blame(_HUNG, "WatchReconstruction")
        elif self._watch.code not in TYPED:
            result.blame(_TYPED, f"WatchReconstruction: {self._watch.code}")

    def _check_bytes(self, drawn: Round, endings: Sequence[Ending], struck_s: float, result: Result) -> None:
        for ending, job in zip(endings, drawn.jobs, strict=True):
            if (delivered := ending.delivered) is None:
                continue
            name = f"{ending.transmission_id}: "
            if delivered.wire_bytes > job.wire_bytes:
                result.blame(_BUDGET, f"{name}{delivered.wire_bytes} of {job.wire_bytes}")
            result.resumed += delivered.resumed > 0
            # Nothing else was lost where the receiver alone was killed.
            under_way = under_way_bytes(drawn, ending, struck_s)
            if drawn.fault.kind == "kill receiver" and delivered.again_bytes > under_way:
                result.blame(_AGAIN, f"{name}{delivered.again_bytes} bytes again, {under_way} were under way")

    def _taken_up(self, job: Job, ending: Ending, result: Result) -> Ending:
        """Asks for what failed once more, now that everything is mended; how it ended in the end."""
        if not ending.transmission_id or ending.code == "OK":
            return ending
        request = request_of(job)
        request.options.transmission_id = ending.transmission_id
        again = transmit(self._services.addresses["transmitter"], request, DEADLINE_S)
        self._check_endings([again], result)
        word = again.outcome or again.code
        result.taken_up[word] = result.taken_up.get(word, 0) + 1
        return again if again.outcome else ending

    # ---- what the receiver has -----------------------------------------------------------------

    def _check_pictures(
        self, drawn: Round, endings: Sequence[Ending], struck_s: tuple[float, float], result: Result
    ) -> None:
        begin_s, end_s = struck_s
        fault = drawn.fault
        killed = "kill" in fault.kind and "receiver" in fault.services
        # What a full disk refused was in memory alone.
        unsafe_s = -math.inf if fault.kind.startswith("full disk") else begin_s - _LAST_MOMENT_S
        for ending, job in zip(endings, drawn.jobs, strict=True):
            if ending.transmission_id:
                shown = settled(self._services.addresses["receiver"], ending.transmission_id, DEADLINE_S / 2)
                may_be_lost = killed and unsafe_s < ending.ended_s < end_s
                self._check_picture(ending, job, shown, result, may_be_lost=may_be_lost)

    def _check_picture(self, ending: Ending, job: Job, shown: Shown, result: Result, *, may_be_lost: bool) -> None:
        name = f"{ending.transmission_id} ({ending.outcome or ending.code})"
        if shown.code not in TYPED:
            result.blame(_TYPED, f"GetReconstruction {name}: {shown.code}")
        elif shown.code not in {"OK", "NOT_FOUND"}:
            result.blame(_HUNG, f"GetReconstruction {name}: {shown.code}")
        elif shown.outcome == "receiving":
            result.blame(_OPEN, name)
        elif shown.image_png and not _is_picture(shown.image_png, job):
            result.blame(_ENDED, f"{name} has a picture that cannot be read, or of another size")
        elif may_be_lost:
            result.lost += _short_of(ending, shown)
        elif _short_of(ending, shown):
            result.blame(_ENDED, f"{name} is less than {_counts(ending)}: {Fingerprint.of(shown)}")
        if shown.image_png and shown.outcome != "receiving":
            self.ledger.add(ending.transmission_id, shown)

    # ---- the services --------------------------------------------------------------------------

    def _check_services(self, drawn: Round, result: Result) -> None:
        good = good_link(drawn)
        good.rate_bps = _PROBE_BPS
        set_link(self._services.addresses["channel"], good)
        probe = self._recovered()
        if probe.outcome != "complete":
            words = f"{probe.outcome} {probe.code} {probe.words} after {probe.elapsed_s:.1f} s"
            result.blame(_RECOVERED, words)
        if probe.transmission_id:
            shown = show(self._services.addresses["receiver"], probe.transmission_id, DEADLINE_S / 2)
            self._check_picture(probe, _PROBE, shown, result, may_be_lost=False)
        random = Random(drawn.number)  # noqa: S311 - no secret
        for words in self.ledger.changed(self.ledger.sample(random, newest=8, others=4)):
            result.blame(_CHANGED, words)
        for words in self.journals.faults():
            result.blame(_JOURNALS, words)
        time.sleep(_LAST_MOMENT_S)
        try:
            self._services.check()
        except UnavailableError as error:
            result.blame(_DIED, str(error))
        for words in self._log.traces():
            result.blame(_DIED, words)

    def _recovered(self) -> Ending:
        """Sends a picture over a good link, again while it does not get through and the services may recover."""
        until_s = time.monotonic() + RECOVERY_S
        while True:
            probe = self._send(_PROBE, False)
            if probe.outcome == "complete" or time.monotonic() > until_s:
                return probe
            time.sleep(0.2)


def under_way_bytes(drawn: Round, ending: Ending, struck_s: float) -> int:
    """What may have been on its way, or not yet on the receiver's disk, when the receiver was killed."""
    told = [progress for progress in ending.progress if progress.at_s <= struck_s + _PROGRESS_S]
    sent_bytes = max((progress.sent_bytes for progress in told), default=0)
    known_bytes = max((each.acknowledged_bytes for each in told if each.at_s <= struck_s), default=0)
    since_told_bytes = drawn.queue_bytes + int(drawn.rate_bps / 8 * 2 * _PROGRESS_S)
    return sent_bytes - known_bytes + since_told_bytes + _MOMENT_BYTES


def request_of(job: Job) -> transmitter_pb2.TransmitRequest:
    """The request of a job: a cut from scikit-image's `chelsea`."""
    photo: UInt8Array = skimage.data.chelsea()  # type: ignore[no-untyped-call]
    cut = photo[job.top : job.top + job.height, job.left : job.left + job.width]
    options = transmitter_pb2.TransmitOptions(codec=job.codec)
    budget = transmitter_pb2.Budget(wire_bytes=job.wire_bytes)
    return transmitter_pb2.TransmitRequest(image=png_bytes(cut), query=job.query, budget=budget, options=options)


def _is_picture(image_png: bytes, job: Job) -> bool:
    try:
        return read_picture(image_png).shape == (job.height, job.width, 3)
    except InvalidInputError:
        return False


def _short_of(ending: Ending, shown: Shown) -> bool:
    """Whether less is shown than was said to have been delivered.

    It may be more: where the receiver's last report was lost, the transmitter goes by what it was told before.
    """
    if ending.delivered is None or ending.outcome == "failed":
        return False
    told, there = ending.delivered.received_patches, shown.received_patches
    return not shown.image_png or there < told or (ending.outcome == "complete" != shown.outcome)


def _counts(ending: Ending) -> str:
    delivered = ending.delivered
    return "" if delivered is None else f"the {delivered.received_patches} patches that were delivered"
