"""Gaze maps painted over radiographs."""

import numpy as np
from PIL import Image

# From dark violet through red to light yellow, even in lightness; the colours of matplotlib's "inferno" at six places.
_COLOURS = np.array([(0, 0, 4), (66, 10, 104), (147, 38, 103), (221, 81, 58), (252, 165, 10), (252, 255, 164)])


def paint_gaze(
    image: Image.Image, gaze_map: np.ndarray, box: tuple[float, float, float, float] | None = None
) -> Image.Image:
    """A radiograph with a map over its patches, smoothed, and transparent where it is low.

    Args:
        image: of any mode and size.
        gaze_map: (rows, columns), not negative; scaled to its maximum.
        box: (x0, y0, x1, y1), the part of the image that the map covers, in its pixels; it may reach beyond. By
            default all of it. `CoGazeProcessor.crop_box(image.size, image.size)` gives it.
    Returns:
        An RGB picture of the image's size.

    Raises:
        ValueError: the map is no (rows, columns) of finite numbers from 0 up.
    """
    x0, y0, x1, y1 = (round(side) for side in box or (0, 0, *image.size))
    heat = Image.new("F", image.size)
    heat.paste(_heat(gaze_map, (x1 - x0, y1 - y0)), (x0, y0))
    colours, opacity = _painted(heat)
    covered = Image.new("F", image.size)
    covered.paste(1.0, (x0, y0, x1, y1))
    opacity = opacity * np.asarray(covered)[..., None]
    grey = np.asarray(image.convert("L"), dtype=np.float32)[..., None]
    return Image.fromarray((grey * (1 - opacity) + colours * opacity).round().astype(np.uint8))


def gaze_layer(gaze_map: np.ndarray, size: tuple[int, int]) -> Image.Image:
    """What `paint_gaze` lays over a radiograph, by itself: an RGBA picture of `size`, (width, height).

    Raises:
        ValueError: as `paint_gaze`.
    """
    colours, opacity = _painted(_heat(gaze_map, size))
    return Image.fromarray(np.concatenate([colours, 255 * opacity], axis=-1).round().astype(np.uint8))


def _heat(gaze_map: np.ndarray, size: tuple[int, int]) -> Image.Image:
    values = np.asarray(gaze_map, dtype=np.float32)
    if values.ndim != 2 or not np.isfinite(values).all() or (values < 0).any():
        raise ValueError(f"gaze_map: shape {values.shape}; give (rows, columns) of finite numbers from 0 up.")
    peak = float(values.max())
    return Image.fromarray(values / peak if peak > 0 else values).resize(size, Image.Resampling.BICUBIC)


def _painted(heat: Image.Image) -> tuple[np.ndarray, np.ndarray]:
    """Colours (H, W, 3) from 0 to 255 and opacity (H, W, 1) of a map from 0 to 1."""
    values = np.clip(np.asarray(heat), 0, 1)[..., None]
    places = np.linspace(0, 1, len(_COLOURS))
    colours = np.concatenate([np.interp(values, places, channel) for channel in _COLOURS.T], axis=-1)
    return colours, 0.15 + 0.55 * values
