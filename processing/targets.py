"""Labels and masks as training targets, in the geometry of the pixels."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch

POSITIVE, UNCERTAIN = 1, 2
LABEL_CODES = (0, POSITIVE, UNCERTAIN, -1)
# Of a source that does not know the label, beside others that do; in no source's own records.
NOT_ANNOTATED = -2


def label_tensor(labels: Sequence) -> torch.Tensor:
    """Label codes to training targets (B, C) float32, or class indices (B,) int64.

    Uncertain counts as positive, not mentioned as negative; not annotated (-2, where sources are joined) is NaN.

    Raises:
        ValueError: rows of different length, a code or index outside the set; names the image.
    """
    rows = [np.asarray([] if label is None else label) for label in labels]
    for i, row in enumerate(rows):
        if row.shape != rows[0].shape or row.size == 0:
            raise ValueError(f"labels[{i}]: {row.size} entries, but labels[0] has {rows[0].size}; give one per name.")
    codes = np.stack(rows)
    if codes.dtype.kind not in "iuf":
        raise ValueError(f"labels: {codes.dtype} are no label codes; give whole numbers.")
    if codes.ndim > 1:
        known = np.isin(codes, (*LABEL_CODES, NOT_ANNOTATED))
    else:
        known = (codes >= 0) & (codes < 2**31) & (codes % 1 == 0)
    if not known.all():
        i = int(np.argwhere(~known)[0, 0])
        allowed = "1 positive, 0 negative, 2 uncertain, -1 not mentioned" if codes.ndim > 1 else "class indices"
        raise ValueError(f"labels[{i}]: {codes[i].tolist()} is outside the set ({allowed}).")
    if codes.ndim == 1:
        return torch.from_numpy(codes.astype(np.int64))
    targets = np.isin(codes, (POSITIVE, UNCERTAIN)).astype(np.float32)
    return torch.from_numpy(np.where(codes == NOT_ANNOTATED, np.float32(np.nan), targets))


def mask_tensor(
    masks: Sequence, sizes: Sequence[tuple[float, float]], boxes: Sequence[tuple], height: int, width: int
) -> torch.Tensor:
    """Masks of whole radiographs, cut to what the pixels show, each pixel the nearest one of the mask.

    Args:
        masks: per image (h, w) class indices, or 0 and 255, or (C, h, w) of 0 and 1 (or 255) for C independent labels,
            at any size of the radiograph's proportions; None: nothing to segment.
        sizes: (width, height) of each original radiograph.
        boxes: (x0, y0, x1, y1) in its pixels that the pixel values show; what lies beyond it is background.
        height, width: of the pixel values.
    Returns:
        (B, height, width) int64, or (B, C, height, width) float32.
    Raises:
        ValueError: no such array, another number of labels than the first mask has, or proportions that are not the
            radiograph's; names the image.
    """
    arrays = [None if mask is None else _mask_array(mask, i) for i, mask in enumerate(masks)]
    labels = next((array.shape[:-2] for array in arrays if array is not None), ())
    targets = np.zeros((len(arrays), *labels, height, width), np.float32 if labels else np.int64)
    for i, (mask, (across, down), box) in enumerate(zip(arrays, sizes, boxes, strict=True)):
        if mask is None:
            continue
        if mask.shape[:-2] != labels:
            raise ValueError(f"masks[{i}]: shape {mask.shape}; give all masks as many labels, {(*labels, 'h', 'w')}.")
        rows, columns = mask.shape[-2:]
        if not in_proportion(rows, columns, down, across):
            raise ValueError(
                f"masks[{i}]: {columns} x {rows} pixels for a radiograph of {across:g} x {down:g}; give the mask of the"
                " whole radiograph, in its proportions."
            )
        y, x = _nearest(box[1], box[3], height, down, rows), _nearest(box[0], box[2], width, across, columns)
        targets[i] = np.pad(mask, [(0, 0)] * len(labels) + [(1, 1)] * 2)[..., y[:, None], x]
    return torch.from_numpy(targets)


def masks_of_original(
    probabilities: torch.Tensor, size: tuple[int, int], box: tuple[float, float, float, float]
) -> torch.Tensor:
    """A prediction in the geometry of the pixels, back on the whole radiograph, interpolated bilinearly.

    Args:
        probabilities: (C, H, W) over what the pixels show.
        size: (width, height) of the original radiograph. box: (x0, y0, x1, y1) in its pixels that the pixels show.
    Returns:
        (C, height, width), zero outside the box.
    """
    # Pixel centres of the original, -1 and 1 being the box's edges.
    x, y = (
        ((torch.arange(round(side)) + 0.5 - start) / (end - start) * 2 - 1).to(probabilities)
        for side, start, end in zip(size, box[:2], box[2:], strict=True)
    )
    grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)
    sampled = torch.nn.functional.grid_sample(
        probabilities[None], grid[None], padding_mode="border", align_corners=False
    )[0]
    inside = (y.abs() <= 1)[:, None] & (x.abs() <= 1)
    return torch.where(inside, sampled, 0)


def region_masks(record: Mapping, labels: Sequence[str] | None = None) -> np.ndarray:
    """A record's regions as masks of the whole radiograph, the union of all that bear a label.

    A region is its mask, or without one its box.

    Args:
        labels: names of regions, in any case, one mask each; None: one mask of all regions.
    Returns:
        (C, h, w) uint8 of 0 and 1, as large as the record's largest mask, or as the stored picture.
    Raises:
        ValueError: a mask whose proportions are not the radiograph's; names the region.
    """
    regions = record["regions"] or []
    masks = [None if region["mask"] is None else np.asarray(region["mask"]) > 0 for region in regions]
    for number, (region, mask) in enumerate(zip(regions, masks, strict=True)):
        size = record["image_height"], record["image_width"]
        if mask is not None and not in_proportion(mask.shape[0], mask.shape[1], *size):
            raise ValueError(
                f"regions[{number}]: the mask of {region['label']!r} has {mask.shape[1]} x {mask.shape[0]} pixels for "
                f"a radiograph of {record['image_width']} x {record['image_height']}; give it in its proportions."
            )
    sizes = [mask.shape for mask in masks if mask is not None] or [record["image"].size[::-1]]
    height, width = max(sizes)
    rows = [None] if labels is None else [name.casefold() for name in labels]
    union = np.zeros((len(rows), height, width), np.uint8)
    for region, mask in zip(regions, masks, strict=True):
        for row, name in enumerate(rows):
            if name is None or region["label"].casefold() == name:
                union[row] |= _filled(region, mask, record, height, width)
    return union


def _filled(region: Mapping, mask: np.ndarray | None, record: Mapping, height: int, width: int) -> np.ndarray:
    """(height, width) bool of one region."""
    if mask is not None:
        y, x = (_nearest(0, 1, count, 1, stored) - 1 for count, stored in zip((height, width), mask.shape, strict=True))
        return mask[y[:, None], x]
    x0, y0, x1, y1 = region["box"]
    x = (np.arange(width) + 0.5) * (record["image_width"] / width)
    y = (np.arange(height) + 0.5) * (record["image_height"] / height)
    return ((y >= y0) & (y < y1))[:, None] & ((x >= x0) & (x < x1))


def in_proportion(rows: int, columns: int, height: float, width: float) -> bool:
    """Whether a mask has a radiograph's proportions; either side may have been rounded by a pixel."""
    return abs(rows * width - columns * height) <= width + height


def _mask_array(mask, index: int) -> np.ndarray:
    mask = np.asarray(mask)
    if mask.ndim not in (2, 3) or mask.dtype.kind not in "bui" or mask.size == 0:
        raise ValueError(
            f"masks[{index}]: {mask.dtype} of shape {mask.shape}; give (height, width) class indices, or "
            "(labels, height, width) of 0 and 1."
        )
    binary = mask == 255 if np.isin(mask, (0, 255)).all() else mask
    if mask.ndim == 3 and (binary.max() > 1 or binary.min() < 0):
        raise ValueError(f"masks[{index}]: values up to {mask.max()}; masks of independent labels hold 0 and 1.")
    return binary


def _nearest(start: float, end: float, count: int, original: float, stored: int) -> np.ndarray:
    """(count,) indices into a mask side padded by one on both ends, for the centres of the pixels shown."""
    centres = start + (np.arange(count) + 0.5) * (end - start) / count
    return np.clip(np.floor(centres * stored / original).astype(np.int64), -1, stored) + 1


def resized(width: int, height: int, size) -> tuple[int, int]:
    """Width and height of a picture that an image processor resizes to `size`, before it is cropped."""
    if size.get("height") and size.get("width"):
        return size["width"], size["height"]
    edge = size["shortest_edge"]
    if width <= height:
        return edge, int(edge * height / width)
    return int(edge * width / height), edge


def centred(side: int, crop: int) -> int:
    """Where a crop in the middle of a side begins; below 0 where it is larger, and padded."""
    return int((side - crop) / 2) if crop <= side else -((crop - side) // 2)
