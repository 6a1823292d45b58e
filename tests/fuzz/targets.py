"""Every decoder of bytes from outside, by name, with real inputs made on the spot."""

from collections.abc import Callable

from .answers import channel_answers
from .files import journals, models, pictures, relevance_maps, traces, weights
from .links import link_settings
from .packets import containers, fragments, headers, packets, pictures_of_files, reports, stream
from .patches import (
    backgrounds,
    entropy_bodies,
    entropy_cut,
    entropy_maps,
    ladder_bodies,
    ladder_maps,
    lossless,
    sketches,
)
from .revisions import replanning, stream_of_revisions
from .runner import Target
from .sender import sender
from .services import (
    channel_calls,
    receiver_calls,
    set_link_calls,
    taking_up,
    transmit_requests,
    transmitter_calls,
    whole_transmitter_calls,
)
from .texts import queries, status_messages, tokens, units
from .transport import feedback, repair_blocks, repair_making

TARGETS: dict[str, Callable[[], Target]] = {
    "packets": packets,
    "reports": reports,
    "feedback": feedback,
    "sender": sender,
    "repair": repair_blocks,
    "repair-making": repair_making,
    "headers": headers,
    "fragments": fragments,
    "level-map-ladder": ladder_maps,
    "level-map-entropy": entropy_maps,
    "sketch": sketches,
    "background": backgrounds,
    "bodies-ladder": ladder_bodies,
    "bodies-entropy": entropy_bodies,
    "bodies-entropy-cut": entropy_cut,
    "lossless": lossless,
    "stream-ladder": lambda: stream("ladder"),
    "stream-entropy": lambda: stream("entropy"),
    "revisions-ladder": lambda: stream_of_revisions("ladder"),
    "revisions-entropy": lambda: stream_of_revisions("entropy"),
    "replanning-ladder": lambda: replanning("ladder"),
    "replanning-entropy": lambda: replanning("entropy"),
    "container": containers,
    "files": pictures_of_files,
    "pictures": pictures,
    "relevance-maps": relevance_maps,
    "journal": journals,
    "transmit-ladder": lambda: transmit_requests("ladder"),
    "transmit-entropy": lambda: transmit_requests("entropy"),
    "rpc-receiver": receiver_calls,
    "rpc-channel": channel_calls,
    "rpc-set-link": set_link_calls,
    "rpc-transmitter": transmitter_calls,
    "rpc-taking-up": taking_up,
    "rpc-answers": channel_answers,
    "rpc-transmitter-whole": whole_transmitter_calls,
    "weights": weights,
    "models": models,
    "traces": traces,
    "queries": queries,
    "units": units,
    "tokens": tokens,
    "status-details": status_messages,
    "link-settings": link_settings,
}
"""By name, each made when it is asked for."""
