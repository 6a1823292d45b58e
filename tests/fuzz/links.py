"""Settings of the link as messages, and the link that they make, in virtual time."""

import math
from typing import Final

from google.protobuf.message import DecodeError

from channel_emulator.bank import LinkBank
from channel_emulator.messages import changes, state_message
from channel_emulator.settings import LinkSettings
from shared.errors import InvalidInputError
from shared.stubs.mmsc.v1 import channel_pb2

from .mutations import Sample
from .protobuf import message_change
from .runner import Target

_MIB: Final = 1024 * 1024
_EVENTS: Final = 60
_PACKETS: Final = (bytes(1), bytes(900), bytes(1_500), bytes(65_000))

_Settings = channel_pb2.LinkSettings
_Model = channel_pb2.RateModel


def set_link_requests() -> list[channel_pb2.SetLinkRequest]:
    """Requests that use every field."""
    points = [channel_pb2.RatePoint(time_s=at, rate_bps=rate) for at, rate in ((0, 1e6), (0.5, 0), (2, 64_000))]
    fading = channel_pb2.Fading(kind=channel_pb2.FADING_KIND_RICIAN, mean_snr_db=12, bandwidth_hz=2e5, k_factor=3)
    fading.gap_db, fading.coherence_s, fading.threshold_db = 3, 0.02, -5
    chain = channel_pb2.GilbertElliott(good_to_bad=0.05, bad_to_good=0.3, good_loss_rate=0.01, bad_loss_rate=0.9)
    blackouts = channel_pb2.Blackouts(intervals=[channel_pb2.Interval(begin_s=1, end_s=1.5)], period_s=4)
    wrong = channel_pb2.Impairments(loss_rate=0.1, gilbert_elliott=chain, burst_rate=0.02, burst_packets=4)
    wrong.blackouts.CopyFrom(blackouts)
    late = channel_pb2.Impairments(bit_error_rate=1e-4, duplicate_rate=0.1, reorder_rate=0.1, reorder_s=0.05)
    late.jitter_s = 0.01
    constant, schedule = channel_pb2.ConstantRate(), channel_pb2.RateSchedule(points=points, period_s=3)
    found = [
        _Settings(rate_bps=1e6, propagation_s=0.02, queue_bytes=65_536, loss_rate=0.05, seed=7),
        _Settings(burst_bytes=3_000, queue_s=0.5, per_stream=True, rate_bps=2e5),
        _Settings(model=_Model(constant=constant), rate_bps=1e5, impairments=wrong, stream_impairments=late),
        _Settings(model=_Model(schedule=schedule), queue_s=1.0, impairments=late),
        _Settings(model=_Model(trace=channel_pb2.TraceReplay(name="lte"))),
        _Settings(
            model=_Model(trace=channel_pb2.TraceReplay(name="mine", content="0\n3\n3\n9\n", once=True)), queue_s=2
        ),
        _Settings(model=_Model(trace=channel_pb2.TraceReplay(content="time_s,rate_bps\n0,1000\n1,2e5\n2,0\n"))),
        _Settings(model=_Model(fading=fading), queue_s=0.2, stream_impairments=wrong),
    ]
    requests = [channel_pb2.SetLinkRequest(settings=settings) for settings in found]
    return [*requests, channel_pb2.SetLinkRequest(settings=found[0], backward=found[5])]


def link_settings() -> Target:
    """Changes of the settings, one after another, and packets between them; the first string is empty."""
    requests = [request.SerializeToString() for request in set_link_requests()]
    corpus: list[Sample] = [(b"", request) for request in requests]
    corpus += [(b"", *requests[start : start + 3]) for start in range(len(requests) - 2)]

    def decode(sample: Sample) -> None:
        bank, backward, now = LinkBank(LinkSettings(), 100.0), LinkSettings(), 100.0
        bank.open(0, now)
        refused: InvalidInputError | None = None
        for number, data in enumerate(sample[1:], 1):
            try:
                there, back = changes(bank.settings, backward, _request(data))
            except InvalidInputError as error:
                refused = error
                continue
            bank.configure(there.settings, now, restart_random=there.restart_random, restart_rate=there.restart_rate)
            backward = back.settings
            bank.open(number, now)
            now = _run(bank, number, now)
        state_message(LinkBank(backward), now).SerializeToString()
        if refused is not None:
            raise refused

    change = message_change([channel_pb2.SetLinkRequest])
    return Target("link-settings", corpus, decode, (InvalidInputError,), 2.0, 64 * _MIB, change=change)


def _request(data: bytes) -> channel_pb2.SetLinkRequest:
    try:
        return channel_pb2.SetLinkRequest.FromString(data)
    except DecodeError as error:  # the service never sees it
        raise InvalidInputError("request", "is no message") from error


def _run(bank: LinkBank, stream: int, now: float) -> float:
    """Packets of two streams, and what comes of them for a while; gives the time after that."""
    for at in (0, stream):
        bank.offer_all(at, _PACKETS, now)
    bank.finish(stream, now)
    for _ in range(_EVENTS):
        at_s = bank.next_event_s
        if at_s == math.inf:
            break
        assert at_s >= now - 1e-6
        now = max(at_s, now)
        bank.poll(now)
        assert 0 <= bank.account(stream).departed_bytes <= sum(map(len, _PACKETS))
    state = state_message(bank, now)
    assert channel_pb2.LinkState.FromString(state.SerializeToString()).settings.rate_bps >= 1
    return now
