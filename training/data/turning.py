"""A record turned in its frame and made smaller: its picture, gaze, boxes and masks by one affine map."""

from dataclasses import dataclass

import numpy as np
from PIL import Image


@dataclass(frozen=True)
class Turn:
    """A map of shares of the picture: (u, v) -> `matrix` @ (u - 1/2, v - 1/2) + 1/2.

    matrix: (2, 2), a rotation in the picture's own pixels with a factor. Sizes of pictures do not matter to it.
    """

    matrix: np.ndarray

    @classmethod
    def of(cls, degrees: float, scale: float, size: tuple[int, int]) -> "Turn":
        """Clockwise by `degrees` about the middle of a picture of `size` (width, height), to `scale` of its size."""
        angle = np.deg2rad(degrees)
        rotation = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        return cls(rotation * np.array([[1, size[1] / size[0]], [size[0] / size[1], 1]]))

    def points(self, points: np.ndarray, size: tuple[float, float]) -> np.ndarray:
        """(..., 2) x and y in pixels of a picture of `size` (width, height), moved."""
        return ((np.asarray(points, float) / size - 0.5) @ self.matrix.T + 0.5) * size

    def box(self, box, size: tuple[float, float]) -> list[float]:
        """The upright box about a moved box [x0, y0, x1, y1]; it may reach beyond the picture."""
        x0, y0, x1, y1 = box
        corners = self.points([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], size)
        return [*map(float, corners.min(0)), *map(float, corners.max(0))]

    def sigmas(self, sigma_x: float, sigma_y: float, size: tuple[float, float]) -> tuple[float, float]:
        """Standard deviations along the axes of a Gaussian that is moved."""
        factors = self.matrix * np.array([[1, size[0] / size[1]], [size[1] / size[0], 1]])
        return tuple(map(float, np.hypot(*(factors * (sigma_x, sigma_y)).T)))

    def picture(self, picture: Image.Image, resample=Image.Resampling.BILINEAR) -> Image.Image:
        """The picture moved, black where it had nothing."""
        size = np.array(picture.size, float)
        inverse = np.linalg.inv(self.matrix) * size[:, None] / size
        offset = size / 2 - inverse @ (size / 2)
        coefficients = (*inverse[0], offset[0], *inverse[1], offset[1])
        return picture.transform(picture.size, Image.Transform.AFFINE, coefficients, resample)

    def masks(self, masks: np.ndarray) -> np.ndarray:
        """(C, h, w) masks moved, each pixel that of its nearest place."""
        return np.stack([np.asarray(self.picture(Image.fromarray(m), Image.Resampling.NEAREST)) for m in masks])

    def reading(self, reading: dict, size: tuple[float, float]) -> dict:
        """A reading moved. What of the picture was shown becomes the upright rectangle about it."""
        if "heatmaps" in reading:
            return reading | {"heatmaps": [self.picture(heatmap) for heatmap in reading["heatmaps"]]}
        fixations = []
        for fixation in reading["fixations"]:
            x, y = map(float, self.points([fixation["x"], fixation["y"]], size))
            moved = {"x": x, "y": y, "shown": fixation["shown"] and self.box(fixation["shown"], size)}
            if fixation.get("sigma_x") and fixation.get("sigma_y"):
                sigmas = self.sigmas(fixation["sigma_x"], fixation["sigma_y"], size)
                moved |= dict(zip(("sigma_x", "sigma_y"), sigmas, strict=True))
            fixations.append(fixation | moved)
        return reading | {"fixations": fixations}

    def region(self, region: dict, size: tuple[float, float]) -> dict:
        moved = {}
        if region.get("box"):
            moved["box"] = self.box(region["box"], size)
        if region.get("mask") is not None:
            moved["mask"] = self.picture(region["mask"], Image.Resampling.NEAREST)
        return region | moved

    def record(self, record: dict) -> dict:
        """A record with its picture, gaze, regions and `masks` (C, h, w) moved; its companions stay."""
        size = (record["image_width"], record["image_height"])
        moved = {
            "image": self.picture(record["image"]),
            "gaze": [self.reading(reading, size) for reading in record["gaze"] or []],
        }
        if record.get("regions"):
            moved["regions"] = [self.region(region, size) for region in record["regions"]]
        if "masks" in record:
            moved["masks"] = self.masks(record["masks"])
        return record | moved
