"""Pictures that are no chest radiographs: generated here, or packaged with libraries; none of a patient of ours.

Each kind gives (N, SIDE, SIDE) uint8 grey pictures. Packaged ones are split in two by file: what the guard is fitted
on, and what it is judged by.
"""

import io
from importlib.resources import files

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from processing.datasets.phantom.anatomy import DATA

SIDE = 96
# Of scikit-image, scikit-learn and matplotlib.
FITTED_PHOTOGRAPHS = (
    "skimage.data/astronaut.png",
    "skimage.data/chelsea.png",
    "skimage.data/coffee.png",
    "skimage.data/rocket.jpg",
    "skimage.data/motorcycle_left.png",
    "skimage.data/retina.jpg",
    "skimage.data/ihc.png",
    "skimage.data/hubble_deep_field.jpg",
    "skimage.data/brick.png",
    "skimage.data/gravel.png",
)
JUDGED_PHOTOGRAPHS = (
    "skimage.data/camera.png",
    "skimage.data/coins.png",
    "skimage.data/moon.png",
    "skimage.data/cell.png",
    "skimage.data/clock_motion.png",
    "skimage.data/grass.png",
    "sklearn.datasets.images/china.jpg",
    "sklearn.datasets.images/flower.jpg",
    "matplotlib/mpl-data/sample_data/grace_hopper.jpg",
)
WORDS = (
    "patient report of the department for radiology date name findings impression heart lungs clear normal no "
    "evidence effusion left right dose invoice address number page total chapter method results table figure and or "
    "is was were with without in on at by from to a an this that these"
).split()


def opened(name: str) -> Image.Image:
    """A packaged picture, "package/path", in grey.

    Raises:
        ValueError: the package is not there; names it.
    """
    package, _, path = name.partition("/")
    try:
        data = (files(package) / path).read_bytes()
    except (ModuleNotFoundError, FileNotFoundError) as error:
        raise ValueError(f"pictures: {name} is missing ({error}); install scikit-image and matplotlib.") from error
    return Image.open(io.BytesIO(data)).convert("L")


def squared(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture.resize((SIDE, SIDE), Image.Resampling.BOX), np.uint8)


def photographs(names, count: int, rng: np.random.Generator) -> np.ndarray:
    """Whole pictures, then parts of them, turned and mirrored."""
    pictures = [opened(name) for name in names]
    found = [squared(picture) for picture in pictures]
    while len(found) < count:
        picture = pictures[rng.integers(len(pictures))]
        side = int(min(picture.size) * rng.uniform(0.25, 1))
        x, y = (int(rng.integers(0, length - side + 1)) for length in picture.size)
        part = np.asarray(picture.crop((x, y, x + side, y + side)).resize((SIDE, SIDE), Image.Resampling.BOX))
        part = np.rot90(part, rng.integers(4)) if rng.random() < 0.5 else part
        found.append(part[:, ::-1] if rng.random() < 0.5 else part)
    return np.stack(found[:count])


def faces(begin: int, end: int) -> np.ndarray:
    """Of scikit-image's sample of Labeled Faces in the Wild, 25 x 25 pixels."""
    table = np.load(io.BytesIO((files("skimage.data") / "lfw_subset.npy").read_bytes()))[begin:end]
    return np.stack([squared(Image.fromarray((255 * face / face.max()).astype(np.uint8))) for face in table])


def pages(count: int, rng: np.random.Generator) -> np.ndarray:
    """Pages of text, on white or on black."""
    found = []
    for _ in range(count):
        width, height = int(rng.integers(300, 620)), int(rng.integers(300, 800))
        ink, paper = (0, 255) if rng.random() < 0.8 else (235, 15)
        picture = Image.new("L", (width, height), paper)
        draw, size = ImageDraw.Draw(picture), int(rng.integers(9, 28))
        font, margin = ImageFont.load_default(size), int(rng.integers(10, 50))
        y = margin
        while y < height - margin - size:
            line, wide = "", rng.uniform(0.3, 1) if rng.random() < 0.3 else 1
            while font.getlength(line) < (width - 2 * margin) * wide:
                line += rng.choice(WORDS) + " "
            if rng.random() < 0.92:
                draw.text((margin, y), line, fill=ink, font=font)
            y += int(size * rng.uniform(1.15, 1.8))
        found.append(squared(picture))
    return np.stack(found)


def drawings(count: int, rng: np.random.Generator) -> np.ndarray:
    """Lines, shapes, diagrams and curves, in few grey levels."""
    found = []
    for _ in range(count):
        side = int(rng.integers(200, 500))
        ground = int(rng.choice([0, 255, 255, 255, 240, 30]))
        picture = Image.new("L", (side, side), ground)
        draw = ImageDraw.Draw(picture)
        for _ in range(int(rng.integers(3, 25))):
            ends = np.sort(rng.integers(0, side, (2, 2)), axis=0).ravel().tolist()
            ends[2:] = [max(end, begin + 2) for begin, end in zip(ends[:2], ends[2:], strict=True)]
            level = int(rng.choice([0, 255, rng.integers(0, 256)]))
            width = int(rng.integers(1, 8))
            kind = rng.integers(5)
            if kind == 0:
                draw.line(rng.integers(0, side, 4).tolist(), fill=level, width=width)
            elif kind == 1:
                draw.rectangle(ends, outline=level, width=width, fill=level if rng.random() < 0.4 else None)
            elif kind == 2:
                draw.ellipse(ends, outline=level, width=width, fill=level if rng.random() < 0.4 else None)
            elif kind == 3:
                draw.polygon(rng.integers(0, side, 6).tolist(), fill=level)
            else:
                x = np.linspace(0, side, 60)
                y = side * (0.5 + 0.3 * np.sin(x / side * rng.uniform(3, 30) + rng.uniform(0, 6)) * rng.uniform(0.3, 1))
                draw.line(np.stack([x, y], axis=1).ravel().tolist(), fill=level, width=width)
        found.append(squared(picture))
    return np.stack(found)


def noise(count: int, rng: np.random.Generator) -> np.ndarray:
    """White, smoothed, power-law, striped and salted noise."""
    found = []
    for number in range(count):
        field = rng.normal(size=(SIDE, SIDE))
        kind = number % 5
        if kind == 1:
            field = ndimage.gaussian_filter(field, rng.uniform(0.5, 6))
        elif kind == 2:
            spectrum = np.fft.rfft2(field)
            radius = np.hypot(np.fft.fftfreq(SIDE)[:, None], np.fft.rfftfreq(SIDE)[None])
            field = np.fft.irfft2(spectrum / np.maximum(radius, 1 / SIDE) ** rng.uniform(0.3, 2), (SIDE, SIDE))
        elif kind == 3:
            field = field[:, :1] + 0.2 * field if rng.random() < 0.5 else field[:1] + 0.2 * field
        elif kind == 4:
            field = (rng.random((SIDE, SIDE)) < rng.uniform(0.02, 0.5)).astype(float)
        found.append(_levels(field))
    return np.stack(found)


def ct_slices(count: int, rng: np.random.Generator, magnetic: bool = False) -> np.ndarray:
    """Axial, coronal and sagittal slices of the embedded CT under different windows; `magnetic`: as an MR would show
    them, bone and air dark and soft tissue in an order of its own."""
    with np.load(DATA.with_suffix(".npz")) as arrays:
        volume = arrays["hu_q"].astype(np.float32) * 12 - 1024
    windows = ((-600, 1500), (40, 400), (50, 350), (300, 1500), (-50, 900))
    found = []
    for _ in range(count):
        axis = rng.choice(3, p=[0.2, 0.2, 0.6])
        length = volume.shape[axis]
        place = int(rng.integers(int(0.12 * length), int(0.88 * length)))
        plane = volume.take(place, axis)
        # Rows from the top of the display: the front of an axial slice, the head of the others.
        plane = plane.T[::-1] if rng.random() < 0.85 else plane
        if magnetic:
            shown = _magnetic(plane, rng)
        else:
            centre, width = windows[rng.integers(len(windows))]
            width = width * rng.uniform(0.8, 1.3)
            shown = np.clip((plane - centre + rng.normal(0, 30)) / width + 0.5, 0, 1)
        shown = ndimage.rotate(shown, rng.uniform(-10, 10), reshape=False, order=1, mode="nearest")
        margin = int(rng.integers(0, 40))
        shown = np.pad(shown, margin, constant_values=float(shown.min()))
        if rng.random() < 0.5:
            x, y = rng.integers(0, 1 + shown.shape[1] // 4), rng.integers(0, 1 + shown.shape[0] // 4)
            shown = shown[y : shown.shape[0] - y, x : shown.shape[1] - x]
        picture = Image.fromarray((255 * shown).astype(np.uint8))
        found.append(_levels(squared(picture) + rng.normal(0, rng.uniform(0, 8), (SIDE, SIDE)), stretch=False))
    return np.stack(found)


def _magnetic(plane: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    points = np.array([-1100, -950, -500, -150, -60, 0, 40, 80, 200, 500, 1500])
    levels = np.array([0, 0.02, 0.08, 0.5, 0.9, 0.3, 0.5, 0.6, 0.35, 0.1, 0.03])
    levels = np.clip(levels * rng.uniform(0.6, 1.3, len(levels)) + rng.normal(0, 0.08, len(levels)), 0, 1)
    levels[:2] = rng.uniform(0, 0.04)
    field = ndimage.zoom(rng.uniform(0.5, 1.3, (3, 3)), [n / 3 for n in plane.shape], order=1)
    return np.clip(np.interp(ndimage.gaussian_filter(plane, 0.6), points, levels) * field, 0, 1)


def ultrasound(count: int, rng: np.random.Generator) -> np.ndarray:
    """Speckle within a fan or a rectangle on black, with marks at its side."""
    rows, columns = np.mgrid[:SIDE, :SIDE] / SIDE
    found = []
    for _ in range(count):
        x, y = rng.uniform(0.4, 0.6), rng.uniform(-0.15, 0.08)
        radius, angle = np.hypot(columns - x, rows - y), np.arctan2(columns - x, rows - y)
        inside = (
            (np.abs(angle) < rng.uniform(0.4, 0.9)) & (radius < rng.uniform(0.7, 1.0)) & (radius > rng.uniform(0, 0.2))
        )
        if rng.random() < 0.3:
            left, top = rng.uniform(0, 0.2, 2)
            inside = (columns > left) & (columns < 1 - left) & (rows > top) & (rows < rng.uniform(0.7, 1))
        tissue = ndimage.gaussian_filter(rng.normal(size=(SIDE, SIDE)), (rng.uniform(2, 6), rng.uniform(3, 10)))
        tissue = 0.35 + 0.25 * tissue / max(tissue.std(), 1e-6)
        speckle = ndimage.gaussian_filter(rng.exponential(1, (SIDE, SIDE)), (0.4, rng.uniform(0.5, 1.2)))
        shown = np.clip(tissue, 0.02, 1) * speckle * inside
        for _ in range(int(rng.integers(0, 4))):
            cx, cy, size = rng.uniform(0.3, 0.7), rng.uniform(0.3, 0.8), rng.uniform(0.05, 0.18)
            shown[np.hypot(columns - cx, (rows - cy) * rng.uniform(0.7, 1.4)) < size] *= 0.1
        picture = Image.fromarray((255 * np.clip(shown, 0, 1)).astype(np.uint8))
        draw = ImageDraw.Draw(picture)
        for _ in range(int(rng.integers(0, 6))):
            place = rng.choice([2, SIDE - 22]), int(rng.integers(0, SIDE - 8))
            draw.text((int(place[0]), place[1]), rng.choice(["10", "MI 1.2", "GE", "2D", "TIS"]), fill=220)
        found.append(np.asarray(picture))
    return np.stack(found)


def _levels(field: np.ndarray, stretch: bool = True) -> np.ndarray:
    field = np.asarray(field, float)
    if stretch:
        low, high = np.percentile(field, [0.5, 99.5])
        field = 255 * (field - low) / max(high - low, 1e-9)
    return np.clip(field, 0, 255).astype(np.uint8)
