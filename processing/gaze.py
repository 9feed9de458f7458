"""Radiologists' gaze as targets on a patch grid.

A fixation is a Gaussian on the radiograph. Its mass in a patch is a product of two differences of the normal CDF, so a
target needs no full-resolution heatmap, and resizing, cropping and the part of the image shown only move the edges.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch

# EGD gives no angular resolution. Its radiographs were shown with 1,024 screen pixels to their longer side, on a panel
# of 27 inches and 1920x1080 (Dell S2719DGF; Karargyris et al., Scientific Data 2021); at 71 cm, one degree of visual
# angle is 40 of its pixels (0.311 mm each).
EGD_SHOWN_SIDE = 1024
EGD_PIXELS_PER_DEGREE = 40.0

# Below this share of a row's maximum an 8-bit heatmap would show zero.
VISIBLE = 0.5 / 255


def default_sigma(image_size: tuple[int, int]) -> float:
    """One degree of visual angle in pixels of a radiograph (width, height) shown as EGD showed it."""
    return EGD_PIXELS_PER_DEGREE * max(image_size) / EGD_SHOWN_SIDE


def validate_reading(reading: Mapping, name: str = "reading") -> None:
    """Refuse a reading that no target can be made of.

    Args:
        reading: `{"sentences": [{text, begin, end}], "fixations": [{x, y, begin, end, sigma_x, sigma_y, shown}]}`,
            seconds and pixels of the original radiograph. Without sentences it is gaze that nobody spoke to: one map,
            for the whole report.
        name: what the error calls it, for example `gaze[3][0]`.

    Raises:
        ValueError: no fixations; a coordinate, time or sigma that is not a finite number; times out of order; a
            negative sigma; an empty `shown`; a sentence without text.
    """
    sentences, fixations = _sentences(reading, name), _fixations(reading, name)
    if len(fixations) == 0:
        there = "sentences alone" if len(sentences) else "nothing"
        raise ValueError(f"{name}: a reading needs fixations, and this one holds {there}; leave the reading out.")
    for index, sentence in enumerate(reading.get("sentences") or []):
        if not isinstance(sentence.get("text"), str) or not sentence["text"].strip():
            raise ValueError(f"{name}.sentences[{index}].text: it is empty; leave the sentence out.")


def gaze_targets(
    reading: Mapping,
    image_size: tuple[int, int],
    grid: int | tuple[int, int],
    crop: tuple[float, float, float, float] | None = None,
) -> np.ndarray:
    """Seconds of looking per patch, for each sentence of a reading and for all of it.

    With o[s, f] the seconds that fixation f overlaps sentence s, and mass_y, mass_x the shares of its Gaussian between
    the patch edges, the target is T[s, i, j] = sum over f of o[s, f] mass_y[f, i] mass_x[f, j]. Mass outside the image,
    the crop or the part shown is lost; nothing is renormalised.

    Args:
        reading: as in `validate_reading`; sentences or fixations may be empty here (no rows, or rows of zeros). A
            missing, NaN or zero sigma is `default_sigma(image_size)`; a missing or empty `shown` is the whole image.
        image_size: (width, height) of the original radiograph in pixels.
        grid: patches per side, or (rows, columns).
        crop: (x0, y0, x1, y1) in original pixels that the grid covers; it may reach beyond the image (padding).
            Default: the whole image.

    Returns:
        (n_sentences + 1, rows * columns) float32, row-major; the last row is the full transcript: all fixations.

    Raises:
        ValueError: as `validate_reading` for single fixations and sentences; an impossible size, grid or crop.
    """
    rows, columns = _grid(grid)
    x0, y0, x1, y1 = _crop(crop, image_size)
    sentences = _sentences(reading, "reading")
    fixations = _with_defaults(_fixations(reading, "reading"), image_size)
    x, y, begin, end, sigma_x, sigma_y, left, top, right, bottom = fixations.T

    mass_x = _mass(np.linspace(x0, x1, columns + 1), x, sigma_x, left, right)
    mass_y = _mass(np.linspace(y0, y1, rows + 1), y, sigma_y, top, bottom)
    overlap = np.minimum(end, sentences[:, 1:]) - np.maximum(begin, sentences[:, :1])
    seconds = np.concatenate([np.maximum(overlap, 0), (end - begin)[None]])
    targets = mass_y.T @ (seconds[:, :, None] * mass_x)
    return targets.reshape(len(seconds), rows * columns).astype(np.float32)


def rendered_targets(
    reading: Mapping,
    image_size: tuple[int, int],
    grid: int | tuple[int, int],
    crop: tuple[float, float, float, float] | None = None,
    size: tuple[int, int] | None = None,
) -> np.ndarray:
    """`gaze_targets` by way of 8-bit heatmaps, as the released code makes them.

    Each row is rendered at pixels, scaled to its maximum, rounded to 8 bit, and only then averaged over patches: what
    is below 0.5/255 of the brightest pixel is cut, not what is below that share of the brightest patch.

    Args:
        reading, image_size, grid, crop: as in `gaze_targets`.
        size: (width, height) of the heatmaps; default, the crop in pixels of the original.

    Returns:
        (n_sentences + 1, rows * columns) float32 between 0 and 1. Not seconds.
    """
    rows, columns = _grid(grid)
    x0, y0, x1, y1 = _crop(crop, image_size)
    width, height = size or (max(1, round(x1 - x0)), max(1, round(y1 - y0)))
    across = _pooling(np.linspace(0, width, columns + 1), width)
    down = _pooling(np.linspace(0, height, rows + 1), height)
    pixels = gaze_targets(reading, image_size, (height, width), crop).reshape(-1, height, width)
    peak = pixels.max(axis=(1, 2), keepdims=True)
    eight_bit = np.floor(255 * np.divide(pixels, peak, out=np.zeros_like(pixels), where=peak > 0) + 0.5) / 255
    return (down @ eight_bit @ across.T).reshape(len(pixels), -1).astype(np.float32)


def heatmap_targets(
    pictures: Sequence,
    grid: int | tuple[int, int],
    image_size: tuple[int, int] | None = None,
    crop: tuple[float, float, float, float] | None = None,
) -> np.ndarray:
    """Targets from rendered heatmaps: the second way in, for the CoGaze release.

    Luminance is averaged over each patch (exactly, also where patch and pixel edges do not meet). Then, as in the
    release, of the five most frequent values the one most frequent in the outer 10 % is the background, and all up to
    it become 0.

    Args:
        pictures: PIL images or (height, width[, 3]) uint8 arrays, each covering the whole radiograph, at any size: one
            per sentence, then the full transcript's.
        grid: patches per side, or (rows, columns).
        image_size: (width, height) that `crop` is measured in; default: each picture's own size.
        crop: (x0, y0, x1, y1) that the grid covers; default: the whole picture.

    Returns:
        (len(pictures), rows * columns) float32 between 0 and 1, row-major. Not seconds: a rendered heatmap has lost
        them.

    Raises:
        ValueError: a picture that is not a grey or RGB image; names its index.
    """
    rows, columns = _grid(grid)
    targets = np.zeros((len(pictures), rows * columns), np.float32)
    for index, picture in enumerate(pictures):
        luminance = _luminance(picture, f"pictures[{index}]")
        height, width = luminance.shape
        size = image_size or (width, height)
        x0, y0, x1, y1 = _crop(crop, size)
        across = _pooling(np.linspace(x0, x1, columns + 1) * (width / size[0]), width)
        down = _pooling(np.linspace(y0, y1, rows + 1) * (height / size[1]), height)
        pooled = (down @ luminance @ across.T).round(3)
        targets[index] = np.where(pooled <= _background(pooled), 0, pooled / 255).ravel()
    return targets


def outside(reading: Mapping, image_size: tuple[int, int]) -> np.ndarray:
    """(n_fixations,) bool: the fixation lies outside the image or outside the part of it then shown."""
    x, y, _, _, _, _, left, top, right, bottom = _with_defaults(_fixations(reading, "reading"), image_size).T
    return (x < left) | (x > right) | (y < top) | (y > bottom)


def clean_fixations(reading: Mapping, image_size: tuple[int, int]) -> tuple[dict, int]:
    """The reading without the fixations that `outside` finds (a look at the screen's margin), and their number."""
    dropped = outside(reading, image_size)
    if not dropped.any():
        return dict(reading), 0
    kept = [fixation for fixation, drop in zip(reading["fixations"], dropped, strict=True) if not drop]
    return {**reading, "fixations": kept}, int(dropped.sum())


def _mass(edges, centre, sigma, low, high) -> np.ndarray:
    """(F, n) shares of F Gaussians between n + 1 edges (pixels), those clipped to [low, high].

    Differences are taken between the tails on the side where they are smaller: far from the centre, differences of the
    CDF itself would cancel to nothing.
    """
    edges = np.clip(edges, low[:, None], high[:, None])
    z = (edges - centre[:, None]) / sigma[:, None]
    tail = 0.5 * torch.special.erfc(torch.from_numpy(np.abs(z) * np.sqrt(0.5))).numpy()
    near, far = tail[:, :-1], tail[:, 1:]
    return np.where(z[:, :-1] >= 0, near - far, np.where(z[:, 1:] <= 0, far - near, 1 - near - far))


def _pooling(edges: np.ndarray, pixels: int) -> np.ndarray:
    """(n, pixels) weights that average pixels between n + 1 edges; what lies beyond the picture counts as black."""
    starts = np.arange(pixels)
    covered = np.minimum(edges[1:, None], starts + 1) - np.maximum(edges[:-1, None], starts)
    return np.maximum(covered, 0) / np.diff(edges)[:, None]


def _luminance(picture, name: str) -> np.ndarray:
    if hasattr(picture, "convert"):
        picture = picture.convert("RGB")
    pixels = np.asarray(picture)
    if pixels.dtype != np.uint8 or not (pixels.ndim == 2 or pixels.ndim == 3 and pixels.shape[2] == 3):
        raise ValueError(
            f"{name}: a heatmap is an 8-bit grey or RGB picture, not {pixels.dtype} of shape {pixels.shape}."
        )
    return pixels.astype(np.float64) if pixels.ndim == 2 else pixels @ np.array([0.299, 0.587, 0.114])


def _background(pooled: np.ndarray) -> float:
    values, counts = np.unique(pooled, return_counts=True)
    frequent = values[np.argsort(-counts, kind="stable")[:5]]
    height, width = (max(1, side // 10) for side in pooled.shape)
    outer = np.ones(pooled.shape, bool)
    outer[height:-height, width:-width] = False
    return frequent[np.argmax([(pooled[outer] == value).sum() for value in frequent])]


def _grid(grid) -> tuple[int, int]:
    rows, columns = (grid, grid) if isinstance(grid, int | np.integer) else grid
    if rows < 1 or columns < 1:
        raise ValueError(f"grid: {grid} has no patches; give patches per side, or (rows, columns).")
    return int(rows), int(columns)


def _crop(crop, image_size) -> tuple[float, float, float, float]:
    width, height = image_size
    if not (width > 0 and height > 0):
        raise ValueError(f"image_size: {image_size} is not a (width, height) in pixels of the original radiograph.")
    if crop is None:
        return 0.0, 0.0, float(width), float(height)
    x0, y0, x1, y1 = map(float, crop)
    if not (np.isfinite([x0, y0, x1, y1]).all() and x0 < x1 and y0 < y1):
        raise ValueError(f"crop: {tuple(crop)} is not (x0, y0, x1, y1) with x0 < x1 and y0 < y1.")
    return x0, y0, x1, y1


def _with_defaults(fixations: np.ndarray, image_size) -> np.ndarray:
    """Missing sigmas filled in, and `shown` cut to the image."""
    _, _, width, height = _crop(None, image_size)
    fixations = fixations.copy()
    sigmas, shown = fixations[:, 4:6], fixations[:, 6:]
    sigmas[~(sigmas > 0)] = default_sigma(image_size)
    whole = np.array([0.0, 0.0, width, height])
    shown[:] = np.where(np.isnan(shown), whole, np.clip(shown, 0, whole[[2, 3, 2, 3]]))
    return fixations


def _sentences(reading: Mapping, name: str) -> np.ndarray:
    """(S, 2) float64: begin and end of each sentence in seconds."""
    name, sentences = f"{name}.sentences", reading.get("sentences") or []
    times = _numbers([(s.get("begin"), s.get("end")) for s in sentences], 2, name)
    _refuse(~np.isfinite(times), name, "a time that is missing or not finite", "leave the sentence out")
    _check_times(times, name)
    return times


def _fixations(reading: Mapping, name: str) -> np.ndarray:
    """(F, 10) float64: x, y, begin, end, sigma_x, sigma_y and shown, NaN where a sigma or `shown` is missing."""
    name, fixations = f"{name}.fixations", reading.get("fixations") or []
    fields = ("x", "y", "begin", "end", "sigma_x", "sigma_y")
    table = _numbers([[f.get(field) for field in fields] for f in fixations], 6, name)
    whole = (np.nan,) * 4
    shown = [f.get("shown") for f in fixations]
    shown = _numbers([whole if area is None or area == [] else area for area in shown], 4, f"{name} (shown)")

    _refuse(~np.isfinite(table[:, :4]), name, "a coordinate or time that is missing or not finite", "leave it out")
    _check_times(table[:, 2:4], name)
    sigmas = table[:, 4:]
    _refuse((sigmas < 0) | np.isinf(sigmas), name, "a sigma that is negative or infinite", "give one degree in pixels")
    area = (shown[:, 0] < shown[:, 2]) & (shown[:, 1] < shown[:, 3])
    _refuse(~(area | np.isnan(shown).all(1))[:, None], name, "a part shown that is empty", "give [x0, y0, x1, y1]")
    return np.concatenate([table, shown], axis=1)


def _numbers(rows: list, width: int, name: str) -> np.ndarray:
    """(len(rows), width) float64; None becomes NaN."""
    try:
        return np.array(rows, np.float64).reshape(len(rows), width)
    except (TypeError, ValueError) as error:
        for index, row in enumerate(rows):
            try:
                np.array(row, np.float64).reshape(width)
            except (TypeError, ValueError):
                raise ValueError(f"{name}[{index}]: {row} should be {width} numbers.") from error
        raise


def _check_times(times: np.ndarray, name: str) -> None:
    backwards = times[:, 1] < times[:, 0]
    _refuse(backwards[:, None], name, "an end before its begin", "times are seconds from the start of the reading")
    disorder = times[1:, 0] < times[:-1, 0]
    _refuse(np.pad(disorder, (1, 0))[:, None], name, "a begin before that of the one before it", "sort by begin")


def _refuse(broken: np.ndarray, name: str, what: str, advice: str) -> None:
    """broken: (n, k) bool; the first of n items with any is named."""
    if broken.any():
        raise ValueError(f"{name}[{int(np.argmax(broken.any(axis=1)))}]: it has {what}; {advice}.")
