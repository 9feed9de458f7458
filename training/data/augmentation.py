"""Random crops, turns, fields, exposure and films that move gaze, boxes and masks along."""

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageOps

from processing.targets import mask_tensor

from .film_styles import other_film
from .turning import Turn


@dataclass
class AlignedAugmentation:
    """Random crops and exposure; fixations move with the crop, since targets are computed from them afterwards.

    crop: the least share of each side that is kept. exposure: brightness and contrast vary by this share.
    autocontrast: the share of pictures whose grey levels are stretched to the full range. rotation: the most degrees
    that a picture is turned by, either way. widen: the greatest share by which it shrinks within a black frame. films:
    the share of pictures shown as another film would (`film_styles`). Turned or widened, boxes and masks of `regions`
    move as well; crops leave `regions` as they are. Never flips: laterality is part of the report. Randomness is
    torch's, so that resuming restores it.

    Raises:
        ValueError: a share outside 0 and 1, degrees outside 0 and 180, or a crop that keeps nothing.
    """

    crop: float = 0.85
    exposure: float = 0.2
    autocontrast: float = 0.0
    rotation: float = 0.0
    widen: float = 0.0
    films: float = 0.0

    def __post_init__(self):
        if not 0 < self.crop <= 1:
            raise ValueError(f"crop: {self.crop} is not above 0 and at most 1.")
        for name, most in (("autocontrast", 1), ("films", 1), ("widen", 0.9), ("rotation", 180)):
            if not 0 <= getattr(self, name) <= most:
                raise ValueError(f"{name}: {getattr(self, name)} is not within 0 and {most}.")

    @property
    def turns(self) -> bool:
        return self.rotation > 0 or self.widen > 0

    def record(self, record: dict) -> dict:
        """The record with its picture, gaze and `masks` (C, h, w) turned and cropped; stored sizes stay.

        Companions are cropped each for itself.
        """
        if self.turns:
            record = self._turn(record["image"]).record(record)
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
        image = self._as_other_film(image, record.get("view_position") or "")
        return record | {
            "image": image,
            "image_width": max(1, round(keep * width)),
            "image_height": max(1, round(keep * height)),
            "gaze": gaze,
        }

    def _turn(self, image: Image.Image) -> Turn:
        degrees, shrunk = (2 * torch.rand(1).item() - 1) * self.rotation, torch.rand(1).item() * self.widen
        return Turn.of(degrees, 1 - shrunk, image.size)

    def _as_other_film(self, image: Image.Image, view_position: str) -> Image.Image:
        if not self.films or torch.rand(1).item() >= self.films:
            return image
        seed = int(torch.randint(2**31, (1,)).item())
        return other_film(image, view_position, np.random.default_rng(seed))

    def _cropped(self, image: Image.Image) -> Image.Image:
        if self.turns:
            image = self._turn(image).picture(image)
        keep = 1 - (1 - self.crop) * torch.rand(1).item()
        left, top = ((1 - keep) * torch.rand(2)).tolist()
        box = (left * image.width, top * image.height, (left + keep) * image.width, (top + keep) * image.height)
        return self._as_other_film(image.resize(image.size, Image.Resampling.BILINEAR, box=box), "")

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
