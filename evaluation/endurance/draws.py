"""What goes wrong in which round, drawn from a seed. Pure: the same seed gives the same rounds on every machine.

A round is a handful of transmissions at once and one fault in their midst. Kinds are dealt like cards: each deck
holds every kind once, in a new order.
"""

from dataclasses import dataclass
from random import Random
from typing import Final

SERVICES: Final = ("transmitter", "channel", "receiver")

KINDS: Final = (
    "kill transmitter",
    "kill channel",
    "kill receiver",
    "kill several",
    "stall",
    "cut link",
    "corrupt packets",
    "lose packets",
    "full disk",
    "full disk, kill receiver",
    "clock jump",
)
"""Every kind of fault; `kill` is SIGKILL, `stall` SIGSTOP and, later, SIGCONT."""

LONGEST_HOLD_S: Final = 8.0
"""No fault lasts longer, but for the time that a service takes to start again."""

_YEAR_S: Final = 365 * 86_400


@dataclass(frozen=True)
class Fault:
    """One thing that goes wrong."""

    kind: str
    """One of KINDS."""

    services: tuple[str, ...]
    """Which of SERVICES it strikes; empty for the link."""

    at_s: float
    """Seconds after the round's beginning."""

    hold_s: float
    """Seconds until it is mended: the service is started again or goes on, the link is good, the disk has room."""

    amount: float
    """Probability of a bit error or a loss, seconds of a clock jump, bytes of the largest file; 0 where none fits."""


@dataclass(frozen=True)
class Job:
    """One transmission."""

    top: int
    """First row of the cut from the photo, in pixels; as all numbers here, the same for every machine."""
    left: int
    height: int
    width: int
    wire_bytes: int
    """Budget."""
    codec: str
    query: str


@dataclass(frozen=True)
class Round:
    """Transmissions at once, and what happens meanwhile."""

    number: int
    fault: Fault
    jobs: tuple[Job, ...]
    rate_bps: float
    """Of the link that they share."""
    propagation_s: float
    queue_bytes: int
    """Of each of them; a short one keeps most of a transmission from being under way when the fault strikes."""


def draw(seed: int, number: int, kinds: tuple[str, ...] = KINDS, clients: int = 4) -> Round:
    """A round.

    Args:
        seed: of all rounds.
        number: of this one, from 0.
        kinds: those that may happen.
        clients: transmissions at once.
    """
    random = Random(f"{seed}/{number}")  # noqa: S311 - no secret
    jobs = tuple(_job(random) for _ in range(clients))
    # So that the link is busy for about as long as the fault may wait.
    busy_s = random.uniform(0.4, 1.2)
    rate_bps = 8 * sum(job.wire_bytes for job in jobs) / busy_s
    fault = _fault(random, _kind(seed, number, kinds), busy_s)
    return Round(
        number, fault, jobs, rate_bps, random.choice((0.001, 0.01, 0.05)), random.choice((2_400, 6_000, 65_536))
    )


def _kind(seed: int, number: int, kinds: tuple[str, ...]) -> str:
    deck = list(kinds)
    Random(f"{seed}/deck {number // len(kinds)}").shuffle(deck)  # noqa: S311 - no secret
    return deck[number % len(kinds)]


def _job(random: Random) -> Job:
    height, width = random.randint(40, 160), random.randint(40, 160)
    top, left = random.randint(0, 300 - height), random.randint(0, 450 - width)
    wire_bytes = random.randint(1_500, 24_000)
    codec = random.choice(("ladder", "ladder", "ladder", "entropy"))
    return Job(top, left, height, width, wire_bytes, codec, random.choice(("cat", "", "eye of the cat")))


def _fault(random: Random, kind: str, busy_s: float) -> Fault:
    at_s, hold_s = random.uniform(0, 1.2 * busy_s), random.uniform(0, 1)
    services: tuple[str, ...] = ()
    amount = 0.0
    match kind:
        case "kill several":
            services = tuple(random.sample(SERVICES, random.randint(2, 3)))
        case "full disk, kill receiver" | "full disk":
            services, amount = ("receiver",), random.choice((0, 0, 30, 3_000))
            hold_s += 1
        case "stall":
            services = (random.choice(SERVICES),)
            hold_s = random.uniform(0.2, 2) if random.random() < 0.8 else random.uniform(7, LONGEST_HOLD_S)
        case "corrupt packets":
            amount = 10 ** random.uniform(-6, -2.5)
        case "lose packets":
            amount = random.uniform(0.05, 1)
        case "clock jump":
            services = SERVICES
            amount = random.choice((-1, 1)) * 10 ** random.uniform(0, 7.5)
            amount = max(min(amount, _YEAR_S), -_YEAR_S)
        case _ if kind.startswith("kill "):
            services = (kind.removeprefix("kill "),)
    return Fault(kind, services, at_s, hold_s, amount)
