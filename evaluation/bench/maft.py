"""`python -m evaluation.bench.maft`: MAFT+ at full size, random weights, 320x480, on two cores; minutes.

The short way of inference against the whole graph with nothing skipped, as the original computes it: every prediction
with its in-vocabulary classes, 14 prompts of 77 tokens each, torch's own modules. Both end with the map of eq. 7
at the picture's size. They take turns in one process that is bound to two cores, so that whatever else the machine
does falls on both; ratios are the medians of the ratios of neighbours. Memory is that of another process, which only
goes the short way.
"""

import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, TypeVar

from evaluation.bench.memory import peak_resident_mb
from shared.arrays import UInt8Array

if TYPE_CHECKING:
    from transmitter.relevance.maft_plus.inference import Seen

_CORES: Final = 2
_ROUNDS: Final = 5
_QUERIES: Final = (
    "cup of coffee",
    "spoon",
    "wooden table",
    "saucer",
    "hand",
    "the dog on the left",
    "red car",
    "person with an umbrella",
    "sky",
    "traffic light",
)

_T = TypeVar("_T")


@dataclass
class Seconds:
    """Each a list with one entry per round."""

    short: list[float] = field(default_factory=list)
    short_cached: list[float] = field(default_factory=list)
    """Text cached."""
    whole: list[float] = field(default_factory=list)
    whole_cached: list[float] = field(default_factory=list)
    ten: list[float] = field(default_factory=list)
    """Ten queries, the short way."""
    apart: float = 0.0
    """Largest difference between the two maps of one query."""


class _Bench:
    """The model and the picture, in a process that is bound to its cores.

    Args:
        photo: (320, 480, 3) RGB.
    """

    def __init__(self, photo: UInt8Array) -> None:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:_CORES])
        # Imported when the process is bound, so that all of their threads are.
        import open_clip  # noqa: PLC0415
        import torch  # noqa: PLC0415

        from transmitter.relevance.maft_plus.config import LARGE  # noqa: PLC0415
        from transmitter.relevance.maft_plus.inference import MaftInference  # noqa: PLC0415
        from transmitter.relevance.maft_plus.model import MaftPlus, normalise_and_pad  # noqa: PLC0415

        torch.set_num_threads(_CORES)
        torch.manual_seed(0)
        self.model = MaftPlus(LARGE).eval()
        self.short = MaftInference(self.model)
        self.images = normalise_and_pad([torch.tensor(photo).permute(2, 0, 1)])
        self._tokenize = open_clip.SimpleTokenizer(context_length=LARGE.context_length)

    def tokens(self, queries: Sequence[str]) -> Any:
        """Of all prompts of all queries."""
        from transmitter.relevance.prompts import prompts_of  # noqa: PLC0415

        return self._tokenize([prompt for query in queries for prompt in prompts_of(query)])

    def texts(self, features: Any) -> Any:
        """One unit vector per query."""
        from transmitter.relevance.prompts import TEMPLATES, ensemble  # noqa: PLC0415

        return ensemble(features.view(-1, len(TEMPLATES), features.shape[-1]))

    def go_short(self, tokens: Any = None, texts: Any = None) -> Any:
        """Maps of eq. 7: (1, queries, 320, 480)."""
        import torch  # noqa: PLC0415

        with torch.inference_mode():
            seen: Seen = self.short.look(self.images)
            asked = self.texts(self.short.encode_text(tokens)) if texts is None else texts
            return self._maps(self.short.adapt(asked, seen), seen.visual, seen.masks)

    def go_whole(self, tokens: Any = None, texts: Any = None) -> Any:
        """The same of one query, with nothing skipped."""
        import torch  # noqa: PLC0415

        with torch.inference_mode():
            if texts is None:
                texts = self.texts(self.model.backbone.encode_text(tokens, trim=False))
            output = self.model(self.images, self.model.vocabulary(texts, [1] * len(texts)))
            return self._maps(output.texts[:, :-1], output.vectors, output.predictions[-1].mask_logits)

    def _maps(self, texts: Any, visual: Any, masks: Any) -> Any:
        from transmitter.relevance.maft_plus.relevance import mask_weights, spread_sum  # noqa: PLC0415

        return spread_sum(mask_weights(texts, visual, "unit-v"), masks, (self.images.shape[2], self.images.shape[3]))


def _times(photo: UInt8Array) -> Seconds:
    bench, seconds = _Bench(photo), Seconds()
    one, ten = bench.tokens(_QUERIES[:1]), bench.tokens(_QUERIES)
    texts = bench.texts(bench.short.encode_text(one))
    apart = bench.go_whole(one) - bench.go_short(one)
    seconds.apart = float(apart.abs().max())
    for _ in range(_ROUNDS):
        seconds.short.append(_seconds(lambda: bench.go_short(one)))
        seconds.whole.append(_seconds(lambda: bench.go_whole(one)))
        seconds.short_cached.append(_seconds(lambda: bench.go_short(texts=texts)))
        seconds.whole_cached.append(_seconds(lambda: bench.go_whole(texts=texts)))
        seconds.ten.append(_seconds(lambda: bench.go_short(ten)))
    return seconds


def _peak_mb(photo: UInt8Array) -> float:
    bench = _Bench(photo)
    bench.go_short(bench.tokens(_QUERIES[:1]))
    return peak_resident_mb(os.getpid())


def _seconds(function: Callable[[], Any]) -> float:
    start_s = time.perf_counter()
    function()
    return time.perf_counter() - start_s


def _apart(function: Callable[[UInt8Array], _T], photo: UInt8Array) -> _T:
    """Runs a function in a process of its own."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, photo).result()


def _ratio(numerators: Sequence[float], denominators: Sequence[float]) -> float:
    return statistics.median(a / b for a, b in zip(numerators, denominators, strict=True))


def main() -> None:
    """Measures, prints and writes out/bench/maft.json."""
    # Imported here, so that the measured processes, which import this module, do without them.
    from evaluation.bench.checks import Check, write  # noqa: PLC0415
    from evaluation.bench.photos import coffee_480x320  # noqa: PLC0415

    photo = coffee_480x320()
    seconds, peak_mb = _apart(_times, photo), _apart(_peak_mb, photo)
    included, cached = _ratio(seconds.short, seconds.whole), _ratio(seconds.short_cached, seconds.whole_cached)
    ten, short_s = _ratio(seconds.ten, seconds.short), statistics.median(seconds.short)
    reported = (
        ("one query, text cached", seconds.short_cached),
        ("the whole graph, text included", seconds.whole),
        ("the whole graph, text cached", seconds.whole_cached),
        ("ten queries, text included", seconds.ten),
    )
    write(
        "maft",
        [
            Check("one query over the whole graph, text included", included, "", "<= 0.6", included <= 0.6),
            Check("one query over the whole graph, text cached on both sides", cached, "", "<= 0.6", cached <= 0.6),
            Check("ten queries over one, text included", ten, "", "<= 1.5", ten <= 1.5),
            Check("one query, text included", short_s, "s", "<= 3", short_s <= 3),
            *(Check(name, statistics.median(values), "s", "", True) for name, values in reported),
            Check("largest difference of the two maps", seconds.apart, "", "<= 0.001", seconds.apart <= 1e-3),
            Check("peak memory of a process that goes the short way", peak_mb, "MB", "<= 2500", peak_mb <= 2_500),
        ],
    )


if __name__ == "__main__":
    main()
