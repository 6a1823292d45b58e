"""What people and callers write: queries, units, tokens, and what other services say of their errors."""

from collections.abc import Callable
from typing import Final

import grpc
import torch

from shared.auth import TokenCheck, parse_tokens
from shared.errors import BusyError, InvalidInputError, UnauthenticatedError
from shared.rpc_errors import DETAILS_KEY, retry_after_s, status_details
from shared.units import parse_duration_s, parse_rate_bps
from transmitter.pipeline import MAX_QUERY_CHARACTERS
from transmitter.relevance.phrases import MAX_PHRASES, MAX_WORDS, split_query
from transmitter.relevance.prompts import phrase_of, prompts_of, rivals
from transmitter.relevance.weights import load

from .mutations import Sample
from .runner import Target

_MIB: Final = 1024 * 1024
_ALPHABETS: Final = (
    *(b"the", b"and", b"a dog", b",", b";", b".", b" of ", b"{}", b"{0", b"\0", b"\n", b"'s", b"-", b"  "),
    *("\u2019 \ufdfa \u0130 \u00df \u1e9b\u0323 \U0001f436 \u0e01\u0e33 \uff21 \u200d \u0301").encode().split(b" "),
)


def queries() -> Target:
    """Queries, down to the vectors of their phrases."""
    asked = ("the cat", "a red umbrella, the woman's shoes; and two dogs", "", "Zebra\u2019s {0} \u0130", "x" * 2_100)
    corpus: list[Sample] = [(query.encode(),) for query in asked]
    tower = load().tower

    def decode(sample: Sample) -> None:
        query = sample[0].decode("utf-8", "replace")[:MAX_QUERY_CHARACTERS]
        phrases = split_query(query)
        assert len(phrases) <= MAX_PHRASES
        assert all(1 <= len(phrase.split()) <= MAX_WORDS for phrase in phrases)
        assert all(phrase_of(query) in prompt for prompt in prompts_of(phrase_of(query)))
        assert bool(rivals([query]).any())
        if phrases:
            with torch.no_grad():
                assert bool(tower.encode(phrases).isfinite().all())

    return Target("queries", corpus, decode, (), 1.0, 64 * _MIB, tokens=_ALPHABETS)


def units() -> Target:
    """Rates and durations as typed."""
    corpus: list[Sample] = [(text,) for text in (b"64kbit", b"8 Mbit/s", b"1e6", b"20ms", b"0.5 min", b"7us", b"2kbps")]
    parsers: tuple[Callable[[str], float], ...] = (parse_rate_bps, parse_duration_s)

    def decode(sample: Sample) -> None:
        refusals = []
        for parse in parsers:
            try:
                assert 0 <= parse(sample[0].decode("utf-8", "replace")) < float("inf")
            except InvalidInputError as error:
                refusals.append(error)
        if len(refusals) == len(parsers):
            raise refusals[0]

    tokens = (b"k", b"M", b"bit", b"bps", b"/s", b"e999", b"inf", b"nan", b"-", b"_", b" ", "\u0663\u00b5".encode())
    return Target("units", corpus, decode, (InvalidInputError,), 0.5, 32 * _MIB, tokens=tokens)


def tokens() -> Target:
    """The file of tokens, and what a caller brings: the first string is the file."""
    file = b"# who\n0123456789abcdef0123456789abcdef alice\nABCDEFGHIJKLMNOPQRSTUVWXYZ._~+/-\n\n"
    brought = (b"Bearer 0123456789abcdef0123456789abcdef", b"bearer ABCDEFGHIJKLMNOPQRSTUVWXYZ._~+/-", b"bearer x", b"")
    corpus: list[Sample] = [(file, each) for each in brought]

    def decode(sample: Sample) -> None:
        known = parse_tokens(sample[0].decode("utf-8", "replace"), "tokens")
        brought = b"".join(sample[1:]).decode("utf-8", "surrogateescape")
        assert TokenCheck(known).name_of(brought or None) in {each.name for each in known}

    errors = (InvalidInputError, UnauthenticatedError)
    words = (b"Bearer ", b"\n", b":", b"#", b"0123456789abcdef", b"\r", b"\t", b"=")
    return Target("tokens", corpus, decode, errors, 0.5, 32 * _MIB, tokens=words)


def status_messages() -> Target:
    """The details that another service gives to its error."""
    found = (BusyError("later", 1.5), InvalidInputError("image", "is none"), UnauthenticatedError("who?"))
    corpus: list[Sample] = [(status_details(error),) for error in found]

    def decode(sample: Sample) -> None:
        trailing = grpc.aio.Metadata((DETAILS_KEY, sample[0]))
        error = grpc.aio.AioRpcError(grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.aio.Metadata(), trailing)
        retry_s = retry_after_s(error)
        assert retry_s is None or abs(retry_s) < float("inf")

    return Target("status-details", corpus, decode, (), 0.5, 32 * _MIB)
