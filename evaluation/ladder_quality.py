"""Measures the ladder: PSNR of every photo with all its patches at one level, as decoded and after restoration.

Run with `python -m evaluation.ladder_quality --data ../shared/data/coco_query_dev --json out/quality/ladder.json`.
"""

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import click
import numpy as np
from PIL import Image

from receiver.restoration import Restorer
from shared.arrays import UInt8Array
from shared.codec.ladder import Ladder, load_ladder
from shared.levels import LEVEL_BYTES, SKIPPED
from shared.patches import PatchGrid, join, split
from shared.sketch import decode_sketch, encode_sketch

PSNR_BARS_DB: Final = {1: 30.0, 2: 33.0, 3: 38.0}
"""Mean PSNR that each coded level must reach over the development photos, restoration included."""

_SKETCH_BYTES: Final = 48
_SKIPPED_SHARE: Final = 0.5


def psnr_db(image: UInt8Array, truth: UInt8Array) -> float:
    """PSNR over all RGB samples; 100 dB where the two are the same."""
    error = float(np.mean((image.astype(np.float64) - truth) ** 2))
    return 10 * float(np.log10(255**2 / error)) if error else 100.0


@dataclass
class Figures:
    """PSNR in dB, one entry per photo."""

    decoded: dict[int, list[float]] = field(default_factory=lambda: {level: [] for level in PSNR_BARS_DB})
    """By level, before restoration."""

    restored: dict[int, list[float]] = field(default_factory=lambda: {level: [] for level in PSNR_BARS_DB})
    """By level, after restoration."""

    gaps_by_sketch: list[float] = field(default_factory=list)
    """Skipped patches alone, shown as the sketch."""

    gaps_restored: list[float] = field(default_factory=list)
    """Skipped patches alone, after restoration."""

    encode_s: list[float] = field(default_factory=list)
    """Time to encode at all levels."""

    decode_s: list[float] = field(default_factory=list)
    """Time to decode level 1 and restore."""


def measure(ladder: Ladder, restorer: Restorer, photos: list[UInt8Array]) -> Figures:
    """Encodes, decodes and restores every photo, (height, width, 3) RGB, at every level."""
    figures = Figures()
    for number, photo in enumerate(photos):
        grid = PatchGrid.of(photo)
        background = decode_sketch(encode_sketch(photo, _SKETCH_BYTES), grid)
        start_s = time.perf_counter()
        payloads = ladder.encode(split(photo)).payloads
        figures.encode_s.append(time.perf_counter() - start_s)
        for level in PSNR_BARS_DB:
            start_s = time.perf_counter()
            patches = ladder.decode(level, payloads[level])
            picture = restorer.restore(patches, np.full(grid.count, level, np.uint8), grid, background)
            figures.decode_s.append(time.perf_counter() - start_s)
            figures.decoded[level].append(psnr_db(join(patches, grid), photo))
            figures.restored[level].append(psnr_db(picture, photo))
        _measure_gaps(figures, restorer, photo, patches=ladder.decode(1, payloads[1]), seed=number)
    return figures


def _measure_gaps(figures: Figures, restorer: Restorer, photo: UInt8Array, *, patches: UInt8Array, seed: int) -> None:
    """Skips random patches of a photo at level 1 and looks at these alone."""
    grid = PatchGrid.of(photo)
    background = decode_sketch(encode_sketch(photo, _SKETCH_BYTES), grid)
    skipped = np.random.default_rng(seed).random(grid.count) < _SKIPPED_SHARE
    if not skipped.any():
        return
    levels = np.where(skipped, SKIPPED, 1).astype(np.uint8)
    restored = restorer.restore(patches, levels, grid, background)
    truth = split(photo)[skipped]
    figures.gaps_by_sketch.append(psnr_db(background[skipped], truth))
    figures.gaps_restored.append(psnr_db(split(restored)[skipped], truth))


def checks_of(figures: Figures) -> list[dict[str, Any]]:
    """The figures as rows of `name`, `value`, `unit`, `bar` (none where nothing is demanded) and `ok`."""
    rows: list[tuple[str, float, str, float | None]] = []
    for level, bar in PSNR_BARS_DB.items():
        decoded, restored = np.mean(figures.decoded[level]), np.mean(figures.restored[level])
        size = LEVEL_BYTES[level]
        rows += [
            (f"{size} bytes, as decoded", float(decoded), "dB", None),
            (f"{size} bytes, restored", float(restored), "dB", bar),
            (f"{size} bytes, gain of restoration", float(restored - decoded), "dB", 0.0),
        ]
    gaps, sketch = float(np.mean(figures.gaps_restored)), float(np.mean(figures.gaps_by_sketch))
    rows += [
        ("every second patch skipped, these alone, sketch", sketch, "dB", None),
        ("every second patch skipped, these alone, restored", gaps, "dB", sketch),
    ]
    return [
        {"name": name, "value": round(value, 3), "unit": unit, "bar": bar, "ok": bar is None or value >= bar}
        for name, value, unit, bar in rows
    ]


def read_photos(folder: Path) -> Iterator[UInt8Array]:
    """Photos of a dataset folder (its `images` folder if it has one), by name, as (height, width, 3) RGB."""
    images = folder / "images" if (folder / "images").is_dir() else folder
    for path in sorted(p for p in images.iterdir() if p.suffix in {".webp", ".png", ".jpg"}):
        with Image.open(path) as image:
            yield np.asarray(image.convert("RGB"))


@click.command()
@click.option("--data", type=click.Path(path_type=Path, exists=True, file_okay=False), required=True)
@click.option("--json", "report", type=click.Path(path_type=Path), required=True, help="Where the checks go.")
def main(data: Path, report: Path) -> None:
    """Measures the shipped ladder and restoration, prints a table and writes the checks as JSON."""
    photos = list(read_photos(data))
    if not photos:
        raise click.UsageError(f"--data: {data} holds no photos")
    figures = measure(load_ladder(), Restorer.load(), photos)
    checks = checks_of(figures)
    times = {"encode_s": float(np.median(figures.encode_s)), "decode_restore_s": float(np.median(figures.decode_s))}
    report.parent.mkdir(parents=True, exist_ok=True)
    report.write_text(json.dumps({"photos": len(photos), **times, "checks": checks}, indent=2) + "\n")
    for row in checks:
        bar = "" if row["bar"] is None else f"  bar {row['bar']:.2f}  {'ok' if row['ok'] else 'FAILS'}"
        click.echo(f"{row['name']:52}{row['value']:8.2f} {row['unit']}{bar}")
    click.echo("median time: " + ", ".join(f"{name} {value:.3f}" for name, value in times.items()))


if __name__ == "__main__":
    main()
