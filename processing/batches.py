"""What a processor is called with, as lists of one entry per image, checked."""

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np
import torch

from .targets import in_proportion


def as_batch(arguments: dict) -> dict:
    """Every argument as a list of one entry per image; what was given for one image becomes a list of one."""
    if "images" in arguments:
        arguments["images"] = _one_image_each(arguments["images"])
        single = not _is_batch_of_images(arguments["images"])
    else:
        single = any(isinstance(value, str | Mapping) for value in arguments.values()) or (
            "image_size" in arguments and _is_one_size(arguments["image_size"])
        )
    batch, count = {}, None
    for name, value in arguments.items():
        if single:
            value = [value]
        elif isinstance(value, str | Mapping) or not hasattr(value, "__len__"):
            raise ValueError(f"{name}: images is a list, so give a list with one entry per image.")
        if count is not None and len(value) != count:
            raise ValueError(f"{name}: {len(value)} entries for {count} images; give one per image.")
        count = len(value)
        batch[name] = list(value)
    if count == 0:
        raise ValueError("images: the list is empty; give at least one.")
    return batch


def _one_image_each(images):
    """A list of images out of one that holds a list of one image for each study, as chats do."""
    nested = isinstance(images, list | tuple) and images and all(isinstance(each, list | tuple) for each in images)
    if not nested:
        return images
    for i, each in enumerate(images):
        if len(each) != 1:
            raise ValueError(f"images[{i}]: {len(each)} images; give one for each study.")
    return [each[0] for each in images]


def _is_one_size(given) -> bool:
    """(width, height), and not a list of them."""
    try:
        return not isinstance(given[0], Sequence)
    except (TypeError, IndexError, KeyError):  # no size at all, which is said where its entries are counted or read
        return False


def _is_batch_of_images(images) -> bool:
    if isinstance(images, str | bytes | bytearray | memoryview):
        return False
    return isinstance(images, Sequence) or getattr(images, "ndim", 0) == 4


def given_sizes(given, stored, name: str = "image_size") -> list[tuple[int, int]]:
    """B pairs (width, height) in pixels; `stored` where none are given."""
    sizes = []
    for i, (size, own) in enumerate(zip(given or stored, stored, strict=True)):
        size = own if size is None else size
        try:
            width, height = map(float, size)
        except (TypeError, ValueError):
            width = height = 0.0
        if not (0 < width < np.inf and 0 < height < np.inf):
            raise ValueError(f"{name}[{i}]: {size} is not a (width, height) in pixels.")
        sizes.append((width, height))
    return sizes


def given_readings(value, name: str) -> list[Mapping]:
    """One reading or several, or none, as a list; their parts are lists of mappings."""
    readings = [] if value is None else [value] if isinstance(value, Mapping) else value
    if not isinstance(readings, Sequence) or isinstance(readings, str | bytes):
        raise ValueError(f"{name}: {type(value).__name__} is no reading; give a mapping, a list of them, or None.")
    for j, reading in enumerate(readings):
        if not isinstance(reading, Mapping):
            raise ValueError(f"{name}[{j}]: {type(reading).__name__} is no reading; give a mapping.")
        for part in ("sentences", "fixations"):
            items = reading.get(part) or []
            if not isinstance(items, Sequence) or not all(isinstance(item, Mapping) for item in items):
                raise ValueError(f"{name}[{j}].{part}: it is no list of mappings; see `validate_reading`.")
        if not isinstance(reading.get("heatmaps", []), Sequence):
            raise ValueError(f"{name}[{j}].heatmaps: it is no list; give one picture per sentence and the full one.")
    return list(readings)


def check_proportions(pictures: Sequence, sizes: Sequence, gaze: Sequence) -> None:
    """Gaze is measured in the original's pixels: a picture that was turned or cut would show it elsewhere."""
    for i, ((width, height), (across, down), readings) in enumerate(zip(pictures, sizes, gaze, strict=True)):
        if readings and not in_proportion(height, width, down, across):
            raise ValueError(
                f"image_size[{i}]: {across:g} x {down:g} for a picture of {width} x {height}; gaze needs the whole "
                "radiograph in its proportions: give the size that it was recorded on, or leave the gaze out."
            )


def whole_text(text: str) -> str:
    """The text without halves of surrogate pairs, which cannot be encoded."""
    return text.encode("utf-8", "ignore").decode()


def study_number(name: str) -> int:
    """A 63-bit number that is the same for the same study on every process and machine."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big") >> 1


def study_numbers(names: Sequence) -> torch.Tensor:
    """(B,) int64; the same name gives the same number.

    Raises:
        ValueError: a name that is missing, or that cannot be encoded; names its place.
    """
    for i, name in enumerate(names):
        if isinstance(name, str) and name != whole_text(name):
            raise ValueError(f"study_id[{i}]: it holds half of a surrogate pair; decode the text anew.")
        if name is None or name != name or str(name).strip().lower() in ("", "nan", "none"):
            raise ValueError(
                f"study_id[{i}]: {name!r} names no study; give each its own, since equal names are positives."
            )
    return torch.tensor([study_number(str(name)) for name in names])
