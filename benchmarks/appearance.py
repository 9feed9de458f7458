"""How near rendered radiographs come to real ones: what of a picture the lungs fill, grey levels, spectrum, rib edges.

    python -m benchmarks.appearance [--real ../shared/data/nih_mini] [--studies 300] [--figure appearance.png]

Prints, for the real training pictures and each appearance of the phantom, the median and the 10th and 90th percentile
of each quantity over frontal pictures, and the distance of the two distributions (Wasserstein-1, in standard deviations
of the real one). The same simple method measures all. The figure shows pictures side by side, their grey-level
histograms and their radial spectra.
"""

import argparse
import os
from pathlib import Path

import numpy as np
from PIL import Image
from scipy import ndimage
from scipy.stats import wasserstein_distance

from processing.datasets.phantom.appearance import APPEARANCES
from processing.datasets.phantom.loading import load_phantom
from processing.datasets.sources.nih import MINI_COLUMNS, load_nih
from training.figures.canvas import plt, save_figure
from training.runs.files import REAL_DATA

SIZE = 224
BORDER = 4  # pixels: a dark part that reaches them is air beside the patient
LEAST_LUNG = 0.015  # of the picture
LEVELS = 24  # grey levels at which lungs are looked for
CROSSING = 0.06  # of the width, by which a lung may lie beyond the middle of the picture
BANDS = {"coarse": (4, 12), "middle": (12, 32), "fine": (32, 80)}  # cycles per picture
SHOWN = 12


def main(argv: list[str] | None = None) -> dict:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    root = Path(os.environ.get("COGAZE_REAL_DATA", REAL_DATA)) / "nih_mini"
    parser.add_argument("--real", type=Path, default=root, help="folder of NIH ChestX-ray14 pictures with a train.csv")
    parser.add_argument("--studies", type=int, default=300, help="of the phantom's test split, per appearance")
    parser.add_argument("--appearances", nargs="+", default=list(APPEARANCES), choices=APPEARANCES)
    parser.add_argument("--figure", type=Path, help="write a PNG")
    arguments = parser.parse_args(argv)
    pictures = {"real": real_pictures(arguments.real)}
    pictures |= {name: rendered_pictures(arguments.studies, name) for name in arguments.appearances}
    measured = {name: [measure(picture) for picture in several] for name, several in pictures.items()}
    print(table(measured))
    if arguments.figure:
        draw(pictures, arguments.figure)
    return measured


def real_pictures(root: Path) -> list[np.ndarray]:
    return _pictures(load_nih(root, table="train.csv", columns=MINI_COLUMNS))


def rendered_pictures(studies: int, appearance: str) -> list[np.ndarray]:
    dataset = load_phantom("test", studies, image_size=SIZE, appearance=appearance)
    return _pictures(dataset.select(np.flatnonzero(np.array(dataset["view_position"]) != "LATERAL")))


def _pictures(dataset) -> list[np.ndarray]:
    """(S, S) float32 from 0 to 1, squeezed to a square as they are for the model's eyes."""
    return [
        np.asarray(image.convert("L").resize((SIZE, SIZE), Image.Resampling.BOX), np.float32) / 255
        for image in dataset["image"]
    ]


def measure(picture: np.ndarray) -> dict[str, float]:
    """Quantities of one picture by name; those of the lungs are NaN where none are found."""
    lungs = find_lungs(picture)
    found = {f"grey, {share}th percentile": float(np.percentile(picture, share)) for share in (5, 25, 50, 75, 95)}
    spectrum = radial_spectrum(picture)
    found |= {f"log10 power, {name}": float(np.log10(spectrum[a:b].mean())) for name, (a, b) in BANDS.items()}
    lung_quantities = ("lungs, share of area", "lungs, share of width", "lungs, grey", "rib edges", "rib edges, level")
    if not lungs.any():
        return found | dict.fromkeys(lung_quantities, np.nan)
    columns = np.flatnonzero(lungs.any(0))
    outside = np.median(picture[~lungs])
    contrast = max(float(outside - np.median(picture[lungs])), 0.02)
    # What ribs and vessels leave between 3 and 12 pixels, in units of the contrast of lung to the rest.
    band = ndimage.gaussian_filter(picture, 1.0) - ndimage.gaussian_filter(picture, 4.0)
    inside = ndimage.binary_erosion(lungs, iterations=4)
    down, across = np.gradient(band)
    rows, columns_ = (float(np.square(g[inside]).mean()) if inside.any() else np.nan for g in (down, across))
    values = (
        lungs.mean(),
        (columns[-1] - columns[0] + 1) / SIZE,
        np.median(picture[lungs]),
        np.sqrt(rows + columns_) / contrast,
        rows / (rows + columns_),
    )
    return found | dict(zip(lung_quantities, map(float, values), strict=True))


def find_lungs(picture: np.ndarray) -> np.ndarray:
    """(S, S) bool: on each side the largest part that is darker than some grey level, reaches no border and does not
    cross the middle, over many levels. Where a level is too high, lung runs into the air beside or into its fellow.
    """
    smooth = ndimage.gaussian_filter(picture, 1.5)
    border = np.ones(picture.shape, bool)
    border[BORDER:-BORDER, BORDER:-BORDER] = False
    best = {side: np.zeros(picture.shape, bool) for side in (-1, 1)}
    for level in np.linspace(*np.percentile(smooth, (3, 75)), LEVELS):
        parts, count = ndimage.label(ndimage.binary_opening(smooth < level, iterations=2))
        outside = {0, *np.unique(parts[border])}
        for number, place in enumerate(ndimage.find_objects(parts), 1):
            rows, columns = place
            middle = (columns.start + columns.stop) / 2 / SIZE - 0.5
            if number in outside or rows.start > 0.6 * SIZE or not 0.06 < abs(middle) < 0.38:
                continue
            side = int(np.sign(middle))
            crosses = (SIZE / 2 - columns.start if side > 0 else columns.stop - SIZE / 2) > CROSSING * SIZE
            part = parts[place] == number
            if not crosses and part.sum() > max(best[side].sum(), LEAST_LUNG * picture.size):
                best[side][:] = False
                best[side][place] = ndimage.binary_fill_holes(part)
    return best[-1] | best[1]


def radial_spectrum(picture: np.ndarray) -> np.ndarray:
    """Mean power by whole cycles per picture, of the picture under a Hann window."""
    window = np.hanning(SIZE)
    power = np.abs(np.fft.fft2((picture - picture.mean()) * window * window[:, None])) ** 2
    frequency = np.fft.fftfreq(SIZE, 1 / SIZE)
    ring = np.rint(np.hypot(frequency, frequency[:, None])).astype(int)
    return np.bincount(ring.ravel(), power.ravel())[: SIZE // 2] / np.bincount(ring.ravel())[: SIZE // 2]


def table(measured: dict[str, list[dict]]) -> str:
    """Rows of quantities; per source the median [10th, 90th percentile], and the distance from the first source."""
    first, *others = measured
    lines = ["| quantity | " + " | ".join([first, *(f"{n} | distance" for n in others)]) + " |"]
    lines.append("|---" * (2 + 2 * len(others)) + "|")
    for quantity in measured[first][0]:
        values = {name: np.array([m[quantity] for m in several]) for name, several in measured.items()}
        values = {name: v[np.isfinite(v)] for name, v in values.items()}
        cells = [quantity, _spread(values[first])]
        for name in others:
            distance = wasserstein_distance(values[first], values[name]) / values[first].std()
            cells += [_spread(values[name]), f"{distance:.2f}"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _spread(values) -> str:
    return "{1:.3f} [{0:.3f}, {2:.3f}]".format(*np.percentile(values, (10, 50, 90)))


def draw(pictures: dict[str, list[np.ndarray]], path: Path) -> None:
    """A row of examples per source with the lungs found outlined, and below histograms and spectra of all."""
    figure = plt.figure(figsize=(SHOWN * 1.6, 1.7 * len(pictures) + 4.2), layout="constrained")
    upper, lower = figure.subfigures(2, 1, height_ratios=(1.7 * len(pictures), 4.2))
    axes = upper.subplots(len(pictures), SHOWN, squeeze=False)
    for row, (name, several) in zip(axes, pictures.items(), strict=True):
        chosen = np.random.default_rng(0).permutation(len(several))[:SHOWN]
        for axis in row:
            axis.set_axis_off()
        row[0].set_title(name, loc="left", fontsize=10)
        for axis, place in zip(row, chosen, strict=False):
            axis.imshow(several[place], cmap="gray", vmin=0, vmax=1)
            axis.contour(find_lungs(several[place]), levels=[0.5], colors="C1", linewidths=0.5)
    histogram, spectrum = lower.subplots(1, 2)
    for name, several in pictures.items():
        greys = np.mean([np.histogram(p, 64, (0, 1), density=True)[0] for p in several], 0)
        histogram.plot((np.arange(64) + 0.5) / 64, greys, label=name)
        spectrum.loglog(np.median([radial_spectrum(p) for p in several], 0)[1:], label=name)
    histogram.set(xlabel="grey level", ylabel="density", title="grey levels")
    spectrum.set(xlabel="cycles per picture", ylabel="power", title="radial power spectrum, median picture")
    histogram.legend()
    save_figure(figure, path)


if __name__ == "__main__":
    main()
