"""Training sets on disk: pictures with the masks of the classes that are in them.

```
open_photos ─┬─ instances.json ──────────────── COCO instances; a class's mask is the union of its instances
             └─ images/ + labels/ + names.txt ─ COCO-Stuff: one label map per picture, its values named in a file
```
Files that are missing are named when a set is opened, damaged ones when they are read.
"""

import json
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from PIL import Image, UnidentifiedImageError

from shared.arrays import BoolArray, UInt8Array
from shared.errors import InvalidInputError
from shared.pictures import read_picture
from training.maft_plus.classes import IGNORED, Classes, read_names
from training.relevance.photos import draw_mask

_PICTURES: Final = {".jpg", ".jpeg", ".png", ".webp"}
_LIST: Final = "instances.json"
_FIELD: Final = "data"


@dataclass(frozen=True)
class Photo:
    """One picture, and what is in it."""

    pixels: UInt8Array
    """(height, width, 3) RGB."""

    masks: dict[int, BoolArray]
    """(height, width) by number of the class, ascending; of those that are in it."""


@dataclass(frozen=True)
class PhotoSet:
    """Pictures and their classes; read one at a time."""

    classes: Classes
    pictures: tuple[Path, ...]
    masks: Callable[[int, tuple[int, int]], dict[int, BoolArray]]
    """The masks of the picture of a number, which is (height, width)."""

    def __len__(self) -> int:
        """How many pictures there are."""
        return len(self.pictures)

    def read(self, number: int) -> Photo:
        """Reads one picture.

        Raises:
            InvalidInputError: one of its files is damaged, or they do not fit each other; the message names it.
        """
        path = self.pictures[number]
        try:
            pixels = read_picture(path.read_bytes(), _FIELD)
        except InvalidInputError as error:
            raise InvalidInputError(_FIELD, f"{path} {error.description}") from error
        except OSError as error:
            raise InvalidInputError(_FIELD, f"{path} cannot be read ({error.strerror})") from error
        return Photo(pixels, self.masks(number, (pixels.shape[0], pixels.shape[1])))


def open_photos(folder: Path, *, labels: Path | None = None, names: Path | None = None) -> PhotoSet:
    """Opens a training set.

    Args:
        folder: with `instances.json`, or with `images` (or the pictures themselves).
        labels: folder of the label maps, `labels` in the folder by default; a map is named as its picture, `.png`.
        names: the names file, `names.txt` in the folder by default.

    Raises:
        InvalidInputError: there is no such set, or it is not complete; the message names the path.
    """
    if not folder.is_dir():
        raise InvalidInputError(_FIELD, f"{folder} is no folder")
    if labels is None and (folder / _LIST).is_file():
        return _open_instances(folder)
    labels, names = labels or folder / "labels", names or folder / "names.txt"
    if not labels.is_dir():
        raise InvalidInputError(_FIELD, f"{folder} holds neither {_LIST} nor a folder of label maps ({labels})")
    return _open_label_maps(_image_folder(folder), labels, read_names(names))


def _image_folder(folder: Path) -> Path:
    return folder / "images" if (folder / "images").is_dir() else folder


# ---- label maps -------------------------------------------------------------


def _open_label_maps(images: Path, labels: Path, classes: Classes) -> PhotoSet:
    pictures = sorted(path for path in images.iterdir() if path.suffix.lower() in _PICTURES)
    if not pictures:
        raise InvalidInputError(_FIELD, f"{images} holds no pictures ({', '.join(sorted(_PICTURES))})")
    maps = {path.stem: path for path in labels.iterdir() if path.suffix.lower() == ".png"}
    lacking = [path for path in pictures if path.stem not in maps]
    if lacking:
        told = f"{labels / lacking[0].stem}.png is missing"
        raise InvalidInputError(_FIELD, f"{told}, and so are {len(lacking) - 1} more" if lacking[1:] else told)

    def masks(number: int, size: tuple[int, int]) -> dict[int, BoolArray]:
        return label_masks(maps[pictures[number].stem], size, classes)

    return PhotoSet(classes, tuple(pictures), masks)


def label_masks(path: Path, size: tuple[int, int], classes: Classes) -> dict[int, BoolArray]:
    """The masks of a label map.

    Args:
        path: a PNG of one channel of 8 bits (grey or palette); 255 is ignored.
        size: (height, width) that it must have.
        classes: whose values they are.

    Raises:
        InvalidInputError: damaged, of another kind or size, or with a value that no class has.
    """
    values = _label_map(path)
    if values.shape != size:
        told = f"{values.shape[1]}x{values.shape[0]}, its picture {size[1]}x{size[0]}"
        raise InvalidInputError("labels", f"{path} is {told}")
    found = [int(value) for value in np.unique(values) if value != IGNORED]
    known = {value: number for number, value in enumerate(classes.values)}
    if strange := [value for value in found if value not in known]:
        raise InvalidInputError("labels", f"{path} has the value {strange[0]}, which the names file does not name")
    return {number: values == value for number, value in sorted((known[value], value) for value in found)}


def _label_map(path: Path) -> UInt8Array:
    try:
        with Image.open(path, formats=("PNG",)) as image:
            if image.mode not in {"L", "P"}:
                raise InvalidInputError("labels", f"{path} is of mode {image.mode}, not one channel of 8 bits")
            return np.asarray(image)
    except UnidentifiedImageError as error:
        raise InvalidInputError("labels", f"{path} is no PNG") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise InvalidInputError("labels", f"{path} is damaged: {' '.join(str(error).split())}") from error


# ---- instances --------------------------------------------------------------


def _open_instances(folder: Path) -> PhotoSet:
    path = folder / _LIST
    try:
        content = json.loads(path.read_bytes())
        categories = {row["id"]: (number, str(row["name"])) for number, row in enumerate(content["categories"])}
        infos = [(row["id"], str(row["file_name"])) for row in content["images"]]
        segments: dict[Any, list[tuple[int, Any]]] = defaultdict(list)
        for row in content["annotations"]:
            segments[row["image_id"]].append((categories[row["category_id"]][0], row["segmentation"]))
    except OSError as error:
        raise InvalidInputError(_FIELD, f"{path} cannot be read ({error.strerror})") from error
    except (ValueError, TypeError, AttributeError) as error:
        raise InvalidInputError(_FIELD, f"{path} is no COCO annotation file: {error}") from error
    except KeyError as error:
        raise InvalidInputError(_FIELD, f"{path} lacks {error}, or refers to it in vain") from error
    if not infos or not categories:
        raise InvalidInputError(_FIELD, f"{path} has no {'categories' if infos else 'images'}")
    pictures = tuple(_image_folder(folder) / name for _, name in infos)
    if lacking := [picture for picture in pictures if not picture.is_file()]:
        raise InvalidInputError(_FIELD, f"{lacking[0]} is missing; {path} names it")

    def masks(number: int, size: tuple[int, int]) -> dict[int, BoolArray]:
        return instance_masks(segments[infos[number][0]], size, pictures[number])

    names = tuple((name,) for _, name in categories.values())
    return PhotoSet(Classes(names, tuple(range(len(names)))), pictures, masks)


def instance_masks(segments: list[tuple[int, Any]], size: tuple[int, int], picture: Path) -> dict[int, BoolArray]:
    """The masks of COCO's instances, crowds too: the union of each class.

    Args:
        segments: number of the class and COCO's segmentation (polygons, or run lengths as a list of numbers).
        size: (height, width) of the picture.
        picture: its file, for the error.

    Raises:
        InvalidInputError: an outline is damaged, or of another size.
    """
    masks: dict[int, BoolArray] = {}
    for number, segmentation in sorted(segments, key=lambda segment: segment[0]):
        try:
            drawn = draw_mask(segmentation, *size)
        except (ValueError, TypeError, KeyError) as error:
            said = " ".join(str(error).split())
            raise InvalidInputError(_FIELD, f"an outline on {picture} cannot be drawn: {said}") from error
        masks[number] = masks[number] | drawn if number in masks else drawn
    return {number: mask for number, mask in masks.items() if mask.any()}
