"""Random crops and exposure that move gaze and masks along."""

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageOps

from processing.targets import mask_tensor


@dataclass
class AlignedAugmentation:
    """Random crops and exposure; fixations move with the crop, since targets are computed from them afterwards.

    crop: the least share of each side that is kept. exposure: brightness and contrast vary by this share.
    autocontrast: the share of pictures whose grey levels are stretched to the full range. Never flips: laterality is
    part of the report. Randomness is torch's, so that resuming restores it.
    """

    crop: float = 0.85
    exposure: float = 0.2
    autocontrast: float = 0.0

    def record(self, record: dict) -> dict:
        """The record with its picture, gaze and `masks` (C, h, w) cropped; stored sizes stay.

        Companions are cropped each for itself.
        """
        keep = 1 - (1 - self.crop) * torch.rand(1).item()
        left, top = ((1 - keep) * torch.rand(2)).tolist()
        image: Image.Image = record["image"]
        width, height = record["image_width"], record["image_height"]
        stored = (left * image.width, top * image.height, (left + keep) * image.width, (top + keep) * image.height)
        x0, y0 = left * width, top * height
        gaze = [_cropped(reading, x0, y0, (left, top, left + keep, top + keep)) for reading in record["gaze"] or []]
        image = image.resize(image.size, Image.Resampling.BILINEAR, box=stored)
        if "masks" in record:
            record = record | {"masks": _cropped_masks(record["masks"], (left, top, left + keep, top + keep))}
        if record.get("companions"):
            record = record | {"companions": [c | {"image": self._cropped(c["image"])} for c in record["companions"]]}
        if torch.rand(1).item() < self.autocontrast:
            image = ImageOps.autocontrast(image.convert("L"))
        return record | {
            "image": image,
            "image_width": max(1, round(keep * width)),
            "image_height": max(1, round(keep * height)),
            "gaze": gaze,
        }

    def _cropped(self, image: Image.Image) -> Image.Image:
        keep = 1 - (1 - self.crop) * torch.rand(1).item()
        left, top = ((1 - keep) * torch.rand(2)).tolist()
        box = (left * image.width, top * image.height, (left + keep) * image.width, (top + keep) * image.height)
        return image.resize(image.size, Image.Resampling.BILINEAR, box=box)

    def pixels(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Normalised pictures (B, 3, H, W), each with its own contrast and brightness."""
        contrast, brightness = (2 * torch.rand(2, len(pixel_values), 1, 1, 1) - 1) * self.exposure
        return pixel_values * (1 + contrast) + brightness


def _cropped(reading: dict, x0: float, y0: float, shares: tuple[float, float, float, float]) -> dict:
    """A reading whose origin is (x0, y0), or a rendered one cut to the same `shares` of its sides."""
    if "heatmaps" in reading:
        pictures = reading["heatmaps"]
        boxes = [[share * side for share, side in zip(shares, 2 * picture.size, strict=True)] for picture in pictures]
        return reading | {"heatmaps": [p.resize(p.size, box=box) for p, box in zip(pictures, boxes, strict=True)]}
    fixations = []
    for fixation in reading["fixations"]:
        shown = fixation["shown"]
        if shown:
            shown = [shown[0] - x0, shown[1] - y0, shown[2] - x0, shown[3] - y0]
        fixations.append(fixation | {"x": fixation["x"] - x0, "y": fixation["y"] - y0, "shown": shown})
    return reading | {"fixations": fixations}


def _cropped_masks(masks: np.ndarray, shares: tuple[float, float, float, float]) -> np.ndarray:
    height, width = masks.shape[-2:]
    box = [share * side for share, side in zip(shares, 2 * (width, height), strict=True)]
    return mask_tensor([masks], [(width, height)], [box], height, width)[0].numpy().astype(np.uint8)
