"""Boxes of what a sentence is about, out of its gaze map."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch.nn import functional

from .batches import given_sizes
from .processor_parts import ProcessorPart
from .statements import affirms

UPSAMPLED = 4  # pixels per patch, across and down, in which a region's border is found


@dataclass(frozen=True)
class BoxSettings:
    """How a map becomes boxes; `cogaze calibrate_boxes` chooses them on validation images.

    Args:
        threshold: share of the smoothed map's peak from which on a place belongs to a region.
        smoothing: standard deviation of the Gaussian that the map is smoothed with, in patches; 0: none.
        min_share: a region needs this share of what lies in all regions.
        min_confidence: a map whose confidence is lower has no box.
        max_boxes: the best ones are kept.

    Raises:
        ValueError: a value outside its range; names it.
    """

    threshold: float = 0.5
    smoothing: float = 1.0
    min_share: float = 0.2
    min_confidence: float = 0.0
    max_boxes: int = 4

    def __post_init__(self):
        for name, low, high in (
            ("threshold", 0, 1),
            ("smoothing", 0, 10),
            ("min_share", 0, 1),
            ("min_confidence", 0, 1),
            ("max_boxes", 1, 100),
        ):
            value = getattr(self, name)
            if not (isinstance(value, int | float) and math.isfinite(value) and low <= value <= high):
                raise ValueError(f"{name}: {value!r} is not within {low} and {high}.")


def map_confidence(maps: torch.Tensor) -> torch.Tensor:
    """(N,) 1 - H(map) / log P of distributions (N, P): 0 for a map that is alike everywhere, 1 for a single patch."""
    entropy = -torch.special.xlogy(maps, maps).sum(dim=-1)
    return 1 - entropy / math.log(max(maps.shape[-1], 2))


def map_boxes(
    maps: torch.Tensor, grid_size: Sequence[int], settings: BoxSettings | None = None
) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """None, one or several boxes of each map.

    The map is smoothed and interpolated to `UPSAMPLED` pixels per patch; regions are the 8-connected places above the
    threshold. A region's score is its share of the whole map, times the map's confidence.

    Args:
        maps: (N, P) distributions over the patches, row by row.
        grid_size: (rows, columns) of the patches.
    Returns:
        N tensors (K, 4), x0, y0, x1, y1 in shares of what the map covers, best first, and N tensors (K,) of scores.

    Raises:
        ValueError: maps of another grid, or that are not finite and 0 or more.
    """
    settings = settings or BoxSettings()
    rows, columns = grid_size
    if maps.ndim != 2 or maps.shape[1] != rows * columns:
        raise ValueError(f"gaze_maps: shape {tuple(maps.shape)} for a grid of {rows} x {columns}; give (N, P).")
    if not bool(torch.isfinite(maps).all()) or bool((maps < 0).any()):
        raise ValueError("gaze_maps: give finite numbers from 0 up.")
    maps = maps.detach().float()
    if not len(maps):
        return [], []
    fine = _smoothed(maps.reshape(-1, 1, rows, columns), settings.smoothing)
    size = (rows * UPSAMPLED, columns * UPSAMPLED)
    fine = functional.interpolate(fine, size=size, mode="bilinear", align_corners=False)[:, 0]
    peak = fine.amax(dim=(1, 2), keepdim=True)
    regions = _components((fine >= settings.threshold * peak) & (peak > 0))
    sure = map_confidence(maps)
    whole = fine.sum(dim=(1, 2)).clamp(min=1e-12)
    boxes, scores = [], []
    for values, labels, total, confidence in zip(fine, regions, whole, sure.tolist(), strict=True):
        found, shares = _region_boxes(values, labels, settings)
        kept = slice(settings.max_boxes if confidence >= settings.min_confidence else 0)
        boxes.append(found[kept])
        scores.append((shares / total * confidence)[kept])
    return boxes, scores


def _smoothed(maps: torch.Tensor, sigma: float) -> torch.Tensor:
    """(N, 1, rows, columns) under a Gaussian, what lies beyond the border mirrored by its edge."""
    if not sigma:
        return maps
    reach = max(1, math.ceil(3 * sigma))
    places = torch.arange(-reach, reach + 1, device=maps.device, dtype=maps.dtype)
    kernel = torch.exp(-(places**2) / (2 * sigma**2))
    kernel = kernel / kernel.sum()
    padded = functional.pad(maps, (reach, reach, reach, reach), mode="replicate")
    return functional.conv2d(functional.conv2d(padded, kernel[None, None, None]), kernel[None, None, :, None])


def _components(mask: torch.Tensor) -> torch.Tensor:
    """(N, H, W) the 8-connected regions of a mask, each with a number of its own; 0 outside.

    The greatest number of each region spreads to all of it.
    """
    numbers = torch.arange(1, mask[0].numel() + 1, device=mask.device, dtype=torch.float32).reshape(mask.shape[1:])
    labels = numbers * mask
    while True:
        spread = functional.max_pool2d(labels[:, None], 3, stride=1, padding=1)[:, 0] * mask
        if torch.equal(spread, labels):
            return labels.long()
        labels = spread


def _region_boxes(values: torch.Tensor, labels: torch.Tensor, settings: BoxSettings):
    """Boxes (K, 4) of one map's regions and what lies in each (K,), most first."""
    y, x = (labels > 0).nonzero(as_tuple=True)
    _, region = labels[y, x].unique(return_inverse=True)
    count = int(region.max()) + 1 if len(region) else 0
    mass = values.new_zeros(count).index_add_(0, region, values[y, x])
    places = torch.stack([x, y], dim=1).to(values.dtype)
    index = region[:, None].expand(-1, 2)
    low = values.new_zeros(count, 2).scatter_reduce_(0, index, places, "amin", include_self=False)
    high = values.new_zeros(count, 2).scatter_reduce_(0, index, places + 1, "amax", include_self=False)
    size = torch.tensor([labels.shape[1], labels.shape[0]], device=values.device, dtype=values.dtype)
    boxes = torch.cat([low / size, high / size], dim=1)
    order = mass.argsort(descending=True, stable=True)
    order = order[mass[order] >= settings.min_share * mass.sum()]
    return boxes[order], mass[order]


class BoxMixin(ProcessorPart):
    """For a processor with `grid_size` and `crop_box`."""

    def sentence_boxes(
        self, gaze_maps: torch.Tensor, sentences: Sequence[str] | None = None, **settings
    ) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """`map_boxes` of maps (N, P); a sentence that states nothing as present (`statements.affirms`) has none.

        Args:
            settings: fields of `BoxSettings`, such as a model's `config.box_settings`.

        Raises:
            ValueError: as `map_boxes` and `BoxSettings`; another number of sentences than maps; an unknown setting.
        """
        unknown = sorted(settings.keys() - {each.name for each in fields(BoxSettings)})
        if unknown:
            raise ValueError(f"box_settings: {unknown[0]!r} is no field of BoxSettings.")
        boxes, scores = map_boxes(gaze_maps, self.grid_size, BoxSettings(**settings))
        if sentences is None:
            return boxes, scores
        if len(sentences) != len(boxes):
            raise ValueError(f"sentences: {len(sentences)} for {len(boxes)} maps; give one for each.")
        kept = [None if affirms(sentence) else 0 for sentence in sentences]
        boxes = [each[:end] for each, end in zip(boxes, kept, strict=True)]
        return boxes, [each[:end] for each, end in zip(scores, kept, strict=True)]

    def boxes_of_original(
        self, boxes: torch.Tensor, image_size: Sequence[float], picture_size: Sequence[float] | None = None
    ) -> torch.Tensor:
        """Boxes (K, 4) in shares of the pixel values, in pixels of the original radiograph, cut to it.

        Args:
            image_size: (width, height) of the original. picture_size: of the stored picture; default: the same.

        Raises:
            ValueError: a box that lies outside what the pixel values show, or whose sides are in the wrong order.
        """
        ((width, height),) = given_sizes([image_size], [None])
        x0, y0, x1, y1 = self.crop_box(picture_size or (width, height), (width, height))
        boxes = boxes.detach().float()
        ends = torch.cat([boxes[:, :2], 1 - boxes[:, 2:]], dim=1)
        if bool((ends < -1e-4).any()) or bool((boxes[:, 2:] < boxes[:, :2]).any()):
            raise ValueError(f"boxes: {boxes.tolist()} are not x0, y0, x1, y1 in shares, within 0 and 1.")
        start, span = boxes.new_tensor([x0, y0] * 2), boxes.new_tensor([x1 - x0, y1 - y0] * 2)
        limit = boxes.new_tensor([width, height] * 2)
        return (start + boxes * span).clamp(min=0).minimum(limit)

    def post_process_grounding(
        self, reports, image_size: Sequence, picture_size: Sequence | None = None
    ) -> list[list[dict]]:
        """The sentences of generated reports with their boxes, in pixels of the original radiographs.

        Args:
            reports: the `GroundedReports` that `generate(..., return_grounding=True)` gives.
            image_size: per image (width, height) of the original, in pixels; images have equal numbers of reports.
            picture_size: the same of the stored pictures, where their proportions differ; default: `image_size`.
        Returns:
            Report by report a list of {"text", "boxes" [[x0, y0, x1, y1], ...], "scores", "map_confidence",
            "text_confidence"}, with "support" and "left_out" where the model gives them.

        Raises:
            ValueError: reports that do not divide among the images; a box outside the picture.
        """
        count, images = len(reports.sequences), len(image_size)
        if not images or count % images:
            raise ValueError(f"image_size: {images} for {count} reports; give one for each image.")
        found: list[list[dict]] = [[] for _ in range(count)]
        for place, row in enumerate(reports.sentence_report_index.tolist()):
            image = row // (count // images)
            stored = None if picture_size is None else picture_size[image]
            boxes = self.boxes_of_original(reports.boxes[place], image_size[image], stored)
            entry = {
                "text": reports.sentences[place],
                "boxes": boxes.tolist(),
                "scores": reports.box_scores[place].tolist(),
            }
            for name in ("map_confidence", "text_confidence", "support", "left_out"):
                values = reports.get(name)
                if values is not None:
                    entry[name] = values[place].item()
            found[row].append(entry)
        return found


__all__ = ["BoxMixin", "BoxSettings", "map_boxes", "map_confidence"]
