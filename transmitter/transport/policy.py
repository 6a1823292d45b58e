"""The rules of sending: how much at first, how much at a time, what is held back, when a new plan is worth having."""

import math
from typing import Final

from shared.packets import MIN_PACKET_BYTES, PACKET_HEADER_BYTES
from shared.repair import REPAIR_OVERHEAD_BYTES
from transmitter.transport.contract import LinkEstimate, SenderSettings
from transmitter.transport.estimates import PRIOR_LOST, cases_of, upper_bound
from transmitter.transport.protection import share_of_sources

POLL_BYTES: Final = PACKET_HEADER_BYTES
"""A POLL has no body."""

POLL_SPARE_BYTES: Final = 3 * POLL_BYTES
"""Kept for asking."""

QUEUE_S: Final = 0.05
"""What waits in the channel's queue, so that the link does not idle while nobody looks."""

FEEDBACK_S: Final = 0.25
"""A receiver that gets packets is never silent for longer."""

NO_HEADER: Final = 1e-3
"""How often a transmission may end without its header."""

NO_REVISION: Final = 1e-2
"""How often a later revision's header may be missing."""

MAX_COPIES: Final = 4
"""Of a header before anything is known."""

WORTH_REPAIR: Final = 0.005
"""Fewer losses are not worth repair packets."""

MAY_LOSE_PACKETS: Final = 0.05
"""A link that loses no more in nine cases of ten is taken for clean."""

LEAST_PLAN_BYTES: Final = 150
"""What a new plan is worth having for: one of eight packets of 9 kB planned again in so many gave back 4 of 8 dB."""

SCANS: Final = 4
"""Of a plan before a deadline: without its last tenth it loses 2 to 3.5 dB instead of 5.5 to 10; more gain nothing."""

_KEPT: Final = 40.0  # times the square of the share that may get lost: of the bytes under way; with 45 clean links wait
_BEFORE_SEEN: Final = 0.5  # what losses count that are only believed, while there is time to find out
_HEARD_S: Final = 0.025  # half the time between two words of the receiver
_EARLY_PACKETS: Final = 8  # after which a receiver is asked that would say nothing yet
_HEADER_BYTES: Final = 60  # of a first header, beside a fortieth of the plan
_MOST_HEADER_BYTES: Final = 600
_MAY_LOSE: Final = 0.2  # packets that a plan may lose before anything is kept back for them
_DOUBT_OF_LOSS: Final = 0.3  # of the way from the loss that is expected to the one that is hardly exceeded
_COARSE: Final = 0.6  # of what comes by a deadline, at least, that the first plan takes
_NO_TIME: Final = 0.65  # with more of it sent when a finer plan can be there, it comes too late
_STEADY: Final = 0.15  # with less spread the rate is known, and one plan for all that comes is best
_ALONE: Final = 0.8  # of what comes by a deadline, that the only plan takes
_ALONE_DOUBT: Final = 0.7  # standard deviations that it is below the mean rate, otherwise
_LEAST_FIRST_BYTES: Final = 400  # a first plan has a header and a packet, whatever the rate was of late
_PACKETS: Final = 28  # of a plan before a deadline, unless they would be
_PACKET_S: Final = 0.03  # likewise, that one takes on the link
_SMALL_BYTES: Final = MIN_PACKET_BYTES
_WINDOW_SPARE_S: Final = FEEDBACK_S + 0.05
_WINDOW_PACKETS: Final = 4
_CAUTION: Final = 0.3  # a plan is made for so many standard deviations below the mean rate
_LEAST_SPREAD: Final = 0.2  # a rate that was steady so far may still drop
_DOUBT: Final = 8.0  # by so many standard deviations the rate may be lower while packets wait for each other
_MARGIN_S: Final = 0.01  # of the last packet before the deadline


def first_budget(settings: SenderSettings, link: LinkEstimate, now: float) -> int:
    """Bytes that the first plan may take.

    Args:
        settings: of the transmission.
        link: what is believed of the link.
        now: when sending begins.

    Returns:
        At most `settings.budget_bytes`, at least 0. Without closed loop nothing is kept for repair or questions.
    """
    budget = settings.budget_bytes - (POLL_BYTES if settings.closed_loop else 0)
    if settings.closed_loop and expects_loss(link, budget / settings.packet_bytes):
        budget -= math.ceil(_first_reserve(settings, link, budget)) + POLL_SPARE_BYTES
    if settings.deadline_s is not None:
        carried = carried_bytes(settings, link, now, cautious=False)
        share = _first_share(settings, link, now) if settings.closed_loop else 1.0
        least = _LEAST_FIRST_BYTES if settings.closed_loop and carried else 0
        budget = min(budget, max(int(carried * share), least))
    return max(budget, 0)


def _first_reserve(settings: SenderSettings, link: LinkEstimate, budget_bytes: float) -> float:
    """Bytes that the first plan leaves for what may get lost.

    What is lost early is planned again together with what is still to be sent. Only of the last flight is nothing
    heard before all has been sent; by then the link is known better, and if it loses little, little is kept.
    """
    usual = budget_bytes * feared_loss(link)
    if settings.deadline_s is not None:
        return usual
    if is_short(settings, link):
        return max(usual, min(_HEADER_BYTES + budget_bytes / 40, _MOST_HEADER_BYTES))
    flight = min(link.rate_bps / 8 * (link.round_trip_s + _HEARD_S), budget_bytes)
    lost, arrived = cases_of(link)
    arrived += (budget_bytes - flight) / settings.packet_bytes / link.burst_packets
    expected = (lost - _BEFORE_SEEN * min(PRIOR_LOST, lost)) / (lost + arrived) * budget_bytes
    return min(usual, max(expected + doubt_of_loss(upper_bound(lost, arrived)) * flight, LEAST_PLAN_BYTES))


def is_short(settings: SenderSettings, link: LinkEstimate) -> bool:
    """Whether all of the budget is sent before anything is heard of it; waiting would take longer than sending."""
    return 8 * settings.budget_bytes < link.rate_bps * link.round_trip_s


def doubt_of_loss(at_most: float) -> float:
    """Share of the bytes under way that must be left to plan them again.

    The square, for it is how likely losses are, times how much is lost.

    Args:
        at_most: share of the packets that is lost in one case of ten.
    """
    return min(_KEPT * at_most**2, 1.0)


def _first_share(settings: SenderSettings, link: LinkEstimate, now: float) -> float:
    """Part of what the link carries by the deadline that the first plan takes.

    It lasts until a finer plan can be there, which knows the rate; what does not come of that is missed least. Where
    there is no time for it, or the rate is known, the first plan takes nearly all that is going to be on time: of its
    scans the last may stay away.
    """
    assert settings.deadline_s is not None
    time_s = max(settings.deadline_s - now - one_way_s(link), 1e-3)
    coarse = (settings.replan_s + link.round_trip_s + QUEUE_S) / time_s
    if link.rate_spread <= _STEADY:
        packet_s = 8 * first_packet_bytes(settings, link, now) / link.rate_bps
        last_s = _MARGIN_S + QUEUE_S / 5 + packet_s
        share = max(1 - _CAUTION * link.rate_spread - last_s / time_s, _ALONE)
    elif coarse < _NO_TIME:
        share = max(coarse, _COARSE)
    else:
        share = max(1 - _ALONE_DOUBT * link.rate_spread, _ALONE)
    return share * share_that_counts(settings, link, now)


def scans_for(settings: SenderSettings) -> int:
    """In how many scans plans are sent of patches of which nothing is there; where time is short, more than one."""
    return SCANS if settings.closed_loop and settings.deadline_s is not None else 1


def first_packet_bytes(settings: SenderSettings, link: LinkEstimate, now: float) -> int:
    """Largest packet that the first plan should have.

    Args:
        settings: of the transmission.
        link: what is believed of the link.
        now: when sending begins.

    Returns:
        `settings.packet_bytes`, or less where there is a deadline.
    """
    if not settings.closed_loop:
        return settings.packet_bytes
    carried = min(settings.budget_bytes, carried_bytes(settings, link, now, cautious=True))
    return packet_bytes_for(settings, link, carried)


def packet_bytes_for(settings: SenderSettings, link: LinkEstimate, carried: float) -> int:
    """Largest packet of a plan of so many bytes.

    Before a deadline what is lost with the last packet, and what one packet too many costs, must not be much; as bodies
    go on from scan to scan, shorter packets cost little but their headers. Where they may need repair, its packets must
    not be too large.
    """
    largest = settings.packet_bytes
    if settings.deadline_s is None:
        return largest
    if link.loss_rate >= WORTH_REPAIR:
        largest = max(largest - REPAIR_OVERHEAD_BYTES, MIN_PACKET_BYTES)
    wanted = min(int(carried / _PACKETS), int(link.rate_bps / 8 * _PACKET_S))
    return max(min(largest, wanted), min(largest, _SMALL_BYTES))


def carried_bytes(settings: SenderSettings, link: LinkEstimate, now: float, *, cautious: bool) -> float:
    """What the link brings there by the deadline, infinity without one.

    Args:
        settings: of the transmission.
        link: what is believed of it.
        now: from when on.
        cautious: somewhat less than expected.
    """
    if settings.deadline_s is None:
        return math.inf
    rate_bps = link.rate_bps * (1 - _CAUTION * min(link.rate_spread, 1.0) if cautious else 1.0)
    return max(settings.deadline_s - now - one_way_s(link), 0.0) * rate_bps / 8


def one_way_s(link: LinkEstimate) -> float:
    """Seconds from departure to arrival."""
    return link.round_trip_s / 2


def expects_loss(link: LinkEstimate, packets: float) -> bool:
    """Whether of so many packets one may well get lost."""
    return link.loss_at_most * packets >= _MAY_LOSE


def feared_loss(link: LinkEstimate) -> float:
    """Share of many packets that a plan keeps bytes for."""
    return (1 - _DOUBT_OF_LOSS) * link.loss_rate + _DOUBT_OF_LOSS * link.loss_at_most


def asks_early(link: LinkEstimate, packet_bytes: int, packets: int) -> bool:
    """Whether to ask after so many packets since the last question, rather than wait for what is told unasked.

    On a fast link the receiver tells too seldom to show in time that nothing gets lost.
    """
    told_packets = link.rate_bps / 8 * 2 * _HEARD_S / packet_bytes
    return link.loss_at_most >= MAY_LOSE_PACKETS and packets >= _EARLY_PACKETS and told_packets > packets


def window_bytes(link: LinkEstimate, packet_bytes: int) -> float:
    """What may be under way, arrived but not yet heard of included."""
    carried = link.rate_bps / 8 * (link.round_trip_s + _WINDOW_SPARE_S)
    return max(carried, _WINDOW_PACKETS * packet_bytes)


def queue_bytes(link: LinkEstimate) -> float:
    """With more than this waiting in the channel's queue, nothing is handed over."""
    return link.rate_bps / 8 * QUEUE_S


def in_time(
    settings: SenderSettings,
    link: LinkEstimate,
    recent_bps: float,
    waiting_bytes: float,
    now: float,
    *,
    sure: bool = True,
) -> bool:
    """Whether what waits will have arrived by the deadline.

    Args:
        settings: of the transmission.
        link: what is believed of the link.
        recent_bps: its rate of late.
        waiting_bytes: in the channel's queue.
        now: the time.
        sure: even at a rate that is clearly lower than of late.
    """
    if settings.deadline_s is None:
        return True
    slow_bps = recent_bps / (1 + _doubt(link) * sure)
    return now + 8 * waiting_bytes / slow_bps + one_way_s(link) + _MARGIN_S <= settings.deadline_s


def _doubt(link: LinkEstimate) -> float:
    """By how much longer than expected a packet may take, as a part of that."""
    return _DOUBT * min(max(link.rate_spread, _LEAST_SPREAD), 1.0)


def rounds_left(settings: SenderSettings, link: LinkEstimate, now: float) -> float:
    """How often something can still be sent, found lost, and sent again."""
    if settings.deadline_s is None:
        return math.inf
    return max((settings.deadline_s - now - one_way_s(link)) / (link.round_trip_s + QUEUE_S), 0.0)


def share_that_counts(settings: SenderSettings, link: LinkEstimate, now: float) -> float:
    """Share of the bytes from now on that neither gets lost nor repairs; above 0.

    What can still be sent again costs what is lost; the last flight before the deadline costs its repair packets.
    """
    arrives = 1 - min(link.loss_rate, 0.95)
    if settings.deadline_s is None:
        return arrives
    rounds = rounds_left(settings, link, now)
    last_part = min(1 / rounds, 1.0) if rounds else 1.0
    packets = carried_bytes(settings, link, now, cautious=True) * last_part / settings.packet_bytes
    return (1 - last_part) * arrives + last_part * max(share_of_sources(packets, link), 0.05)


def sends_needed(loss_rate: float, failure: float) -> int:
    """How many copies make it so improbable that none arrives."""
    if loss_rate <= failure:
        return 1
    return math.ceil(math.log(failure) / math.log(min(loss_rate, 0.9)) - 1e-9)


def header_copies(settings: SenderSettings, link: LinkEstimate, now: float, number: int = 0) -> int:
    """How many copies of a revision's header to send before anything is known."""
    if settings.deadline_s is None or not settings.closed_loop:
        return 1
    rounds = max(math.floor(rounds_left(settings, link, now)), 1)
    needed = sends_needed(link.loss_rate, NO_REVISION) if number else sends_needed(link.loss_at_most, NO_HEADER)
    return min(math.ceil(needed / rounds), MAX_COPIES)
