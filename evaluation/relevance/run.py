"""The run over a dataset: photo by photo, in one process or several, continued where an earlier one stopped.

```
Dataset ── Sample ── score_photo ── PhotoRow ──► F.partial.jsonl ── summarise ──► F
             several processes ─┘   in the dataset's order
```
"""

import hashlib
import importlib.resources
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

from tqdm import tqdm

from evaluation.datasets import Dataset
from evaluation.partial import Note, Partial, check_result, write_whole
from evaluation.relevance.photo import METRIC_VERSION, PhotoRow, score_photo, wrong_entry
from evaluation.relevance.report import checks_of, per_category, summarise
from evaluation.relevance.synonyms import Synonyms
from shared.errors import InvalidInputError
from shared.weights import default_path, sha256_of
from transmitter.relevance import RelevanceExtractor, load_extractor
from transmitter.relevance.registry import parse_options

RESULT_KEYS: Final = ("mean", "per_category", "images", "dataset", "extractor", "checks")
"""What a result file holds at its top."""


@dataclass(frozen=True)
class Backend:
    """Which extractor is measured; callable, so that every process loads its own."""

    name: str
    """As requests call it."""

    weights: Path | None = None
    """Its weights file; none means the shipped one."""

    device: str = "cpu"
    """Where it computes."""

    options: tuple[str, ...] = ()
    """What else was chosen, as KEY=VALUE."""

    def __call__(self) -> RelevanceExtractor:
        """Loads it.

        Raises:
            InvalidInputError: there is no such extractor, device or option.
            WeightsError: its weights are absent or damaged.
        """
        options = parse_options(self.options)
        return load_extractor(self.name, device=self.device, weights=self.weights, options=options)

    def weights_hash(self) -> str | None:
        """SHA-256 of the weights file, in hexadecimal; none where the extractor finds its weights elsewhere."""
        path = self.weights or (default_path("relevance.safetensors") if self.name == "embedded" else None)
        return sha256_of(path) if path is not None and path.is_file() else None


@dataclass(frozen=True)
class Job:
    """Everything that a process needs to score a photo by its number."""

    dataset: Dataset
    """The photos."""

    load: Callable[[], RelevanceExtractor]
    """Makes the extractor."""

    synonyms: Synonyms
    """Phrases that are asked instead of names."""

    def score(self, extractor: RelevanceExtractor, index: int) -> PhotoRow:
        """Reads and scores one photo."""
        return score_photo(extractor, self.dataset[index], wrong_entry(self.dataset, index), self.synonyms)


def evaluate(
    job: Job, extractor: RelevanceExtractor, identity: dict[str, Any], result: Path, note: Note,
    *, processes: int = 1, restart: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """Scores every photo and writes the result file.

    Args:
        job: what is measured on what.
        extractor: as loaded by the job, for this process.
        identity: what of the extractor the figures depend on, as plain values.
        result: the file to write; what is done so far stands beside it until then.
        note: told what a person should know.
        processes: how many photos are scored at a time.
        restart: forgets what an earlier run left.

    Returns:
        The content of the file.

    Raises:
        InvalidInputError: a photo or mask is unusable, or the file cannot be written or is of something else.
    """
    check_result(result, RESULT_KEYS, note)
    words = hashlib.sha256(repr(sorted(job.synonyms.items())).encode()).hexdigest()
    header = {"metric": f"relevance {METRIC_VERSION}", "dataset": job.dataset.fingerprint, "extractor": identity}
    with Partial(result, header | {"synonyms": words}, note, restart=restart) as partial:
        done = len(partial.records)
        if tuple(record.get("image") for record in partial.records) != job.dataset.stems[:done]:
            raise InvalidInputError("--json", f"{partial.path} has other photos in it; --restart computes all anew")
        if done:
            note(f"{partial.path}: goes on after {done} of {len(job.dataset)} photos")
        with _kept_on_interrupt(partial, len(job.dataset), note):
            for row in tqdm(
                _rows(job, extractor, done, processes), desc=extractor.name, initial=done, total=len(job.dataset),
                unit="photo", disable=None, leave=False,
            ):  # fmt: skip
                partial.append([cast("dict[str, Any]", row)])
        report = report_of(job.dataset, cast("list[PhotoRow]", partial.records), identity)
        write_whole(result, report)
        partial.path.unlink(missing_ok=True)
    return report


def report_of(dataset: Dataset, rows: list[PhotoRow], identity: dict[str, Any]) -> dict[str, Any]:
    """The content of the result file."""
    means, counts = summarise(rows)
    facts = {"name": dataset.name, "photos": len(rows), "fingerprint": dataset.fingerprint, "counts": counts}
    return {
        "mean": means,
        "per_category": per_category(rows),
        "images": rows,
        "dataset": facts,
        "extractor": identity,
        "checks": checks_of(means),
    }


def identity_of(backend: Backend) -> dict[str, Any]:
    """What of a backend the figures depend on; the device only rounds differently."""
    return {
        "name": backend.name,
        "options": parse_options(backend.options),
        "weights_sha256": backend.weights_hash(),
        "code_sha256": _code_hash(),
    }


def _code_hash() -> str:
    """SHA-256 over the extractors' modules: lines from before a change are not to be mixed with those after it."""
    folder = Path(str(importlib.resources.files("transmitter.relevance")))
    total = hashlib.sha256()
    for module in sorted(folder.rglob("*.py")):
        total.update(f"{module.relative_to(folder).as_posix()}\0".encode() + module.read_bytes())
    return total.hexdigest()


@contextmanager
def _kept_on_interrupt(partial: Partial, photos: int, note: Note) -> Iterator[None]:
    try:
        yield
    except BaseException:
        if partial.records:
            count = len(partial.records)
            note(f"{count} of {photos} photos are kept in {partial.path}; the same command goes on there")
        raise


def _rows(job: Job, extractor: RelevanceExtractor, first: int, processes: int) -> Iterator[PhotoRow]:
    numbers = range(first, len(job.dataset))
    if processes == 1 or len(numbers) < 2:
        yield from (job.score(extractor, index) for index in numbers)
        return
    # Not forked: the threads of torch do not survive that.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(processes, context, _start, (job, max(1, (os.cpu_count() or 1) // processes)))
    try:
        for outcome in pool.map(_score_in_process, numbers):
            if isinstance(outcome, _BadPhoto):
                raise InvalidInputError(outcome.field, outcome.description)
            yield outcome
    finally:
        pool.shutdown(cancel_futures=True)


@dataclass(frozen=True)
class _BadPhoto:
    """An `InvalidInputError` on its way between processes, which errors of two arguments do not survive."""

    field: str
    description: str


_of_process: tuple[Job, RelevanceExtractor] | None = None


def _start(job: Job, threads: int) -> None:
    global _of_process  # noqa: PLW0603 - the one way in which a pool hands its processes anything
    # Ctrl-C goes to all processes of a terminal; the first one ends the others in order.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _of_process = (job, job.load())
    # Extractors that compute with torch have imported it by now; each gets its share of the cores.
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(threads)


def _score_in_process(index: int) -> PhotoRow | _BadPhoto:
    assert _of_process is not None
    job, extractor = _of_process
    try:
        return job.score(extractor, index)
    except InvalidInputError as error:
        return _BadPhoto(error.field, error.description)
