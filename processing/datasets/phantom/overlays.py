"""What lies on patients and films: leads, snaps, necklaces; letters, words, arrows; blades and frames."""

import functools

import numpy as np
from scipy import ndimage

GLYPHS = {  # 5 x 7, one number per row
    "A": (14, 17, 17, 31, 17, 17, 17),
    "B": (30, 17, 17, 30, 17, 17, 30),
    "C": (14, 17, 16, 16, 16, 17, 14),
    "E": (31, 16, 16, 30, 16, 16, 31),
    "I": (14, 4, 4, 4, 4, 4, 14),
    "L": (16, 16, 16, 16, 16, 16, 31),
    "M": (17, 27, 21, 21, 17, 17, 17),
    "N": (17, 25, 21, 19, 17, 17, 17),
    "O": (14, 17, 17, 17, 17, 17, 14),
    "P": (30, 17, 17, 30, 16, 16, 16),
    "R": (30, 17, 17, 30, 20, 18, 17),
    "S": (15, 16, 16, 14, 1, 1, 30),
    "T": (31, 4, 4, 4, 4, 4, 4),
    "U": (17, 17, 17, 17, 17, 17, 14),
    "^": (4, 14, 31, 4, 4, 4, 4),
}
WORDS = {"AP": ("AP", "PORTABLE", "SUPINE", "SEMI", "^"), "PA": ("PA", "ERECT", "CR", "^"), "LATERAL": ("L", "ERECT")}


def objects(image_size: int, view: str, anatomy: dict, pixel: float, rng) -> np.ndarray:
    """Path lengths (S, S) in mm of water of what a patient wears: ECG leads, snaps, a necklace. pixel: mm."""
    added = np.zeros((image_size, image_size))
    if view != "LATERAL":
        if rng.random() < (0.4 if view == "AP" else 0.06):
            _leads(added, pixel, rng)
        if rng.random() < 0.08:
            _necklace(added, anatomy, pixel, rng)
    if rng.random() < 0.12:
        for _ in range(rng.integers(1, 7)):
            place = rng.uniform(0.05, 0.95, 2) * image_size
            radius = rng.uniform(2, 5) / pixel
            _disc(added, place, radius, rng.uniform(6, 30), rng.choice((0.0, 0.55)) * radius)
    return added


def _leads(added, pixel, rng):
    """Electrodes with a ring or snap, and their wires to a common side of the picture."""
    size = len(added)
    leave = np.array([rng.choice((-0.05, 1.05)), rng.uniform(0.2, 0.9)]) * size
    value = rng.uniform(8, 30)
    for _ in range(rng.integers(2, 6)):
        place = np.array([rng.uniform(0.12, 0.88), rng.uniform(0.12, 0.9)]) * size
        radius = rng.uniform(4, 8) / pixel
        _disc(added, place, radius, value, rng.choice((0.0, 0.6)) * radius)
        bend = (place + leave) / 2 + rng.normal(0, 0.12 * size, 2)
        t = np.linspace(0, 1, int(2.5 * size))[:, None]
        curve = (1 - t) ** 2 * place + 2 * t * (1 - t) * bend + t * t * leave
        _line(added, curve, 0.9 / pixel, 0.5 * value)


def _necklace(added, anatomy, pixel, rng):
    size = len(added)
    middle = float((np.average(np.arange(64), weights=anatomy["trachea"].sum(0) + 1e-6) + 0.5) / 64)
    half, depth, top = rng.uniform(0.14, 0.24), rng.uniform(0.08, 0.3), rng.uniform(-0.02, 0.06)
    t = np.linspace(-1, 1, 3 * size)
    curve = np.stack([middle + half * t, top + depth * (1 - np.abs(t) ** rng.uniform(1.4, 2.4))], 1) * size
    beads = 1 + (np.arange(len(t)) // max(int(2.5 / pixel), 1) % 2) * rng.choice((0.0, 0.7))
    _line(added, curve, 0.8 / pixel, rng.uniform(8, 25) * beads)


def _disc(added, place, radius, value, inner):
    reach = int(np.ceil(radius + 1.5))
    x, y = (int(round(float(p))) for p in place)
    rows, columns = (np.arange(max(p - reach, 0), min(p + reach + 1, len(added))) for p in (y, x))
    if not (len(rows) and len(columns)):
        return
    distance = np.hypot(columns - place[0], rows[:, None] - place[1])
    cover = np.clip(radius + 0.5 - distance, 0, 1) * np.clip(distance - inner + 0.5, 0 if inner else 1, 1)
    added[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] += value * cover


def _line(added, points, radius, value):
    """A curve through `points` (N, 2: column, row), dense enough to touch every pixel; fainter where below a pixel."""
    soft = max(radius, 0.6)
    cells = np.rint(points).astype(int)[:, None] + np.stack(np.meshgrid(*[np.arange(-2, 3)] * 2), -1).reshape(-1, 2)
    distance = np.sqrt(((cells - points[:, None]) ** 2).sum(-1))
    cover = np.clip(soft + 0.5 - distance, 0, 1) * np.broadcast_to(value, len(points))[:, None] * min(radius / soft, 1)
    inside = ((cells >= 0) & (cells < len(added))).all(-1) & (cover > 0)
    layer = np.zeros(added.size)
    np.maximum.at(layer, (cells[..., 1] * len(added) + cells[..., 0])[inside], cover[inside])
    added += layer.reshape(added.shape)


@functools.lru_cache(maxsize=64)
def _glyphs(word: str) -> np.ndarray:
    """A word as (9, 6n + 1) float64, one row and column of margin."""
    letters = [[[row >> (4 - bit) & 1 for bit in range(5)] for row in GLYPHS[letter]] for letter in word]
    spaced = [np.pad(np.array(letter, float), ((0, 0), (0, 1))) for letter in letters]
    return np.pad(np.concatenate(spaced, 1), 1)


def _stamp(grey, word, place, height, angle, value, plate=0):
    """Write a word `height` pixels high about `place` (column, row), turned by `angle` degrees.

    plate: 1 for dark letters on a bright disc, -1 for a bright ring around them, 0 for letters alone.
    """
    glyphs = _glyphs(word)
    scale = max(height / glyphs.shape[0], 0.5)
    size = tuple(max(int(round(n * scale)), 1) for n in glyphs.shape)
    rows, columns = ((np.arange(n) + 0.5) / scale - 0.5 for n in size)
    patch = np.clip(ndimage.map_coordinates(glyphs, np.meshgrid(rows, columns, indexing="ij"), order=1) * 1.3, 0, 1)
    if angle:
        patch = np.clip(ndimage.rotate(patch, angle, order=1), 0, 1)
    if plate:
        side = int(1.7 * max(patch.shape))
        y, x = np.ogrid[:side, :side]
        distance = np.hypot(x - (side - 1) / 2, y - (side - 1) / 2)
        disc = np.clip(side / 2 - distance, 0, 1) * (1 if plate > 0 else np.clip(distance - side / 2 + 2, 0, 1))
        top, left = ((side - n) // 2 for n in patch.shape)
        sign = -1 if plate > 0 else 1
        disc[top : top + patch.shape[0], left : left + patch.shape[1]] += sign * patch
        patch = np.clip(disc, 0, 1)
    _blend(grey, patch, place, value)


def _blend(grey, patch, place, value):
    """Mix `value` into `grey` by the shares of `patch`, whose middle lies at `place` (column, row)."""
    left, top = (int(round(p - n / 2)) for p, n in zip(place, patch.shape[::-1], strict=True))
    rows = slice(max(top, 0), min(top + patch.shape[0], len(grey)))
    columns = slice(max(left, 0), min(left + patch.shape[1], len(grey)))
    if rows.start >= rows.stop or columns.start >= columns.stop:
        return
    share = patch[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
    grey[rows, columns] += share * (value - grey[rows, columns])


def mark(grey: np.ndarray, view: str, rng) -> np.ndarray:
    """Letters of the side, words and arrows, blades, frames; on a film (S, S) of grey levels 0 to 1, in place.

    The patient's left is on the right of frontal views.
    """
    size = len(grey)
    if rng.random() < 0.35:
        _collimate(grey, rng)
    value = rng.uniform(0.75, 1.0)
    if view != "LATERAL" and rng.random() < 0.85:
        letter = "LR"[int(rng.random() < 0.25)]
        inset, down = rng.uniform(0.03, 0.14), rng.uniform(0.03, 0.25) if rng.random() < 0.85 else rng.uniform(0.3, 0.9)
        across = inset if letter == "R" else 1 - inset
        angle = rng.normal(0, 12) if rng.random() < 0.6 else 0
        plate = int(rng.choice((0, 1, -1), p=(0.65, 0.2, 0.15)))
        height = size * rng.uniform(0.025, 0.06) * (0.75 if plate else 1)
        _stamp(grey, letter, (across * size, down * size), height, angle, value, plate)
    if rng.random() < 0.45:
        words = WORDS[view]
        side, row, height = rng.choice((0.09, 0.91)), rng.uniform(0.05, 0.6), size * rng.uniform(0.02, 0.032)
        for word in rng.permutation(words)[: rng.integers(1, 4)]:
            _stamp(grey, str(word), (side * size, row * size), height * (2 if word == "^" else 1), 0, value)
            row += 0.055
    return grey


def _collimate(grey, rng):
    """Dark or pale outside an upright or slightly turned rectangle, beyond some of the picture's edges."""
    size = len(grey)
    low, high = rng.uniform(-0.25, 0.09, 2), 1 + rng.uniform(-0.09, 0.25, 2)
    angle = np.deg2rad(rng.normal(0, 1.2)) if rng.random() < 0.5 else 0.0
    down, across = (np.mgrid[:size, :size] + 0.5) / size - 0.5
    u = across * np.cos(angle) + down * np.sin(angle) + 0.5
    v = down * np.cos(angle) - across * np.sin(angle) + 0.5
    inside = np.minimum.reduce([u - low[0], high[0] - u, v - low[1], high[1] - v])
    share = np.clip(inside * size / rng.uniform(1, 4) + 0.5, 0, 1)
    outside = rng.choice((0.0, 0.06, 0.97), p=(0.7, 0.22, 0.08))
    grey *= share
    grey += outside * (1 - share)
