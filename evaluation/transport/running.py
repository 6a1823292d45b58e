"""Many tasks in several processes, each with its own codec and photos."""

import multiprocessing
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

import torch

from evaluation.transport.experiment import SYNTHETIC, Row, Task, run_task
from evaluation.transport.photos import AskedPhoto, Codecs, dataset_photos, sample_photos
from evaluation.transport.synthetic import SyntheticPhoto
from evaluation.transport.trials import Subject


@dataclass(frozen=True)
class PhotoSource:
    """Which photos are sent; a few words, so that another process can be handed it."""

    count: int
    folder: Path | None = None
    """A dataset; None: scikit-image's own."""

    def load(self) -> list[AskedPhoto]:
        """Reads them, and loads the codec.

        Raises:
            InvalidInputError: the folder is no dataset.
            WeightsError: the codec's weights are absent or damaged.
        """
        codecs = Codecs.load()
        if self.folder is None:
            return sample_photos(codecs, self.count)
        return dataset_photos(self.folder, codecs, self.count)


def run_all(
    tasks: Sequence[Task], source: PhotoSource, jobs: int, progress: Callable[[int, int], None]
) -> Iterator[list[Row]]:
    """The rows of each task, in no order.

    Args:
        tasks: what is to be measured.
        source: the photos that the tasks number.
        jobs: processes.
        progress: told how many tasks are done, and of how many.
    """
    # Not forked: the threads of torch do not survive that.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, context, _start, (source,)) as pool:
        futures = [pool.submit(_in_process, task) for task in tasks]
        try:
            for done, future in enumerate(as_completed(futures), start=1):
                yield future.result()
                progress(done, len(futures))
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


_subjects: dict[int, Subject] = {}


def _start(source: PhotoSource) -> None:
    # Ctrl-C goes to all processes of a terminal; the first one ends the others in order.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    _subjects.update({SYNTHETIC: SyntheticPhoto(), **dict(enumerate(source.load()))})


def _in_process(task: Task) -> list[Row]:
    return run_task(task, _subjects[task.photo])
