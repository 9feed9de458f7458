"""The guard's network: what it is shown, how it is fitted, how its numbers are kept."""

import base64
import textwrap

import numpy as np
import torch
from scipy import ndimage
from torch.nn import functional
from tqdm import tqdm

from processing.datasets.phantom.loading import load_phantom
from processing.guard import FRONTAL, KINDS, LATERAL, SIDE, network

from . import pictures

CHANNELS = (1, 12, 24, 32, 40)
TURNED = {"rotated_90": 1, "rotated_180": 2, "rotated_270": 3}
OTHERS = {
    "drawing": pictures.drawings,
    "text": pictures.pages,
    "ct": pictures.ct_slices,
    "mr": lambda count, rng: pictures.ct_slices(count, rng, magnetic=True),
    "ultrasound": pictures.ultrasound,
    "noise": pictures.noise,
}


def renderings(split: str, size: int) -> dict[str, np.ndarray]:
    """Frontal and lateral phantom radiographs, (N, pictures.SIDE, pictures.SIDE) uint8."""
    found: dict[str, list] = {FRONTAL: [], LATERAL: []}
    for record in load_phantom(split, size):
        kind = LATERAL if record["view_position"] == "LATERAL" else FRONTAL
        found[kind].append(pictures.squared(record["image"]))
    return {kind: np.stack(own) for kind, own in found.items()}


def other_pictures(count: int, seed: int, fitted: bool) -> dict[str, np.ndarray]:
    """Kinds that are no radiographs; `fitted` says which packaged photographs."""
    rng = np.random.default_rng(seed)
    found = {kind: make(count, rng) for kind, make in OTHERS.items()}
    names = pictures.FITTED_PHOTOGRAPHS if fitted else pictures.JUDGED_PHOTOGRAPHS
    found["photograph"] = np.concatenate(
        [pictures.photographs(names, count, rng), pictures.faces(*((0, 100) if fitted else (100, 200)))]
    )
    return found


def initial_weights(seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for layer, (before, after) in enumerate(zip(CHANNELS[:-1], CHANNELS[1:], strict=True)):
        kernel = 5 if layer == 0 else 3
        scale = (2 / (before * kernel**2)) ** 0.5
        weights[f"conv{layer}.weight"] = torch.randn(after, before, kernel, kernel, generator=generator) * scale
        weights[f"conv{layer}.bias"] = torch.zeros(after)
    width = CHANNELS[-1] * (SIDE // 2 ** (len(CHANNELS) - 1)) ** 2
    weights["linear.weight"] = torch.randn(len(KINDS), width, generator=generator) * width**-0.5
    weights["linear.bias"] = torch.zeros(len(KINDS))
    return {name: value.requires_grad_() for name, value in weights.items()}


def fit(seen: dict[str, np.ndarray], steps: int, seed: int = 0, batch_size: int = 128) -> dict[str, torch.Tensor]:
    """Weights by AdamW on varied pictures; half of each batch are radiographs as they should be.

    seen: of `renderings` and `other_pictures`. Turned and inverted radiographs are made of the former.
    """
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    weights = initial_weights(seed)
    optimizer = torch.optim.AdamW(weights.values(), lr=3e-3, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, steps)
    for _ in tqdm(range(steps), desc="Fitting the guard", disable=None):
        pixels, kinds = batch(seen, rng, batch_size)
        loss = functional.cross_entropy(network(pixels, weights), kinds, label_smoothing=0.01)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights.values(), 1.0)
        optimizer.step()
        schedule.step()
    return {name: value.detach().half() for name, value in weights.items()}


def batch(seen: dict[str, np.ndarray], rng: np.random.Generator, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(size, SIDE, SIDE) standardised pixels and (size,) kinds."""
    names = list(KINDS)
    odds = np.array([8.0 if name == FRONTAL else 4.0 if name == LATERAL else 1.0 for name in names])
    kinds = rng.choice(len(names), size, p=odds / odds.sum())
    rows = np.stack([_picture(names[kind], seen, rng) for kind in kinds])
    return torch.from_numpy(_varied(rows, rng, [names[kind] for kind in kinds])), torch.from_numpy(kinds)


def _picture(kind: str, seen: dict[str, np.ndarray], rng: np.random.Generator) -> np.ndarray:
    if kind in seen:
        return seen[kind][rng.integers(len(seen[kind]))].astype(np.float32)
    own = seen[FRONTAL if rng.random() < 0.7 else LATERAL]
    picture = own[rng.integers(len(own))].astype(np.float32)
    return 255 - picture if kind == "inverted" else np.rot90(picture, TURNED[kind])


def _varied(rows: np.ndarray, rng: np.random.Generator, names: list[str]) -> np.ndarray:
    """Another place, size, tilt, exposure, sharpness, borders and marks for each picture, at `SIDE` pixels."""
    count = len(rows)
    pixels = torch.from_numpy(np.ascontiguousarray(rows))[:, None] / 255
    zoom = torch.from_numpy(rng.uniform(0.78, 1.15, (count, 2)).astype(np.float32))
    tilt = torch.from_numpy(rng.normal(0, 0.07, count).astype(np.float32))
    shift = torch.from_numpy(rng.normal(0, 0.07, (count, 2)).astype(np.float32))
    rotation = torch.stack([tilt.cos(), -tilt.sin(), tilt.sin(), tilt.cos()], dim=1).reshape(count, 2, 2)
    theta = torch.cat([rotation * zoom[:, :, None], shift[:, :, None]], dim=2)
    grid = functional.affine_grid(theta, (count, 1, SIDE, SIDE), align_corners=False)
    padding = "border" if rng.random() < 0.6 else "zeros"
    moved = functional.grid_sample(pixels, grid, padding_mode=padding, align_corners=False)[:, 0].numpy()
    return np.stack([_shown(picture, rng, name) for picture, name in zip(moved, names, strict=True)])


def _shown(picture: np.ndarray, rng: np.random.Generator, name: str) -> np.ndarray:
    low, high = picture.min(), picture.max()
    picture = (picture - low) / max(high - low, 1e-6)
    picture = picture ** np.exp(rng.normal(0, 0.35))
    if rng.random() < 0.5:  # local contrast, as detectors' own software adds it
        picture = picture + rng.uniform(-0.3, 1.5) * (picture - ndimage.gaussian_filter(picture, rng.uniform(2, 10)))
    if rng.random() < 0.4:  # uneven exposure
        picture = picture * ndimage.zoom(
            rng.uniform(0.6, 1.3, (2, 2)), SIDE / 2, order=1, grid_mode=True, mode="nearest"
        )
    if rng.random() < 0.3:
        picture = ndimage.gaussian_filter(picture, rng.uniform(0.3, 1.2))
    picture = picture + rng.normal(0, rng.uniform(0, 0.05), picture.shape)
    if rng.random() < 0.35:  # a collimator's border, or the page that a picture was set on
        level = rng.choice([picture.min(), picture.max(), rng.uniform(0, 1)], p=[0.6, 0.25, 0.15])
        for axis in range(2):
            begin, end = rng.integers(0, 7, 2)
            np.moveaxis(picture, axis, 0)[:begin] = level
            np.moveaxis(picture, axis, 0)[SIDE - end :] = level
    for _ in range(rng.poisson(0.7)):  # letters and marks of the side
        x, y = rng.integers(0, SIDE - 6, 2)
        height, width = rng.integers(1, 7, 2)
        picture[y : y + height, x : x + width] = picture.max() if rng.random() < 0.8 else picture.min()
    return ((picture - picture.mean()) / max(picture.std(), 1e-3)).astype(np.float32)


def source(weights: dict[str, torch.Tensor]) -> str:
    """The text of `processing/guard_weights.py`."""
    numbers = np.concatenate([value.numpy().astype("<f2").ravel() for value in weights.values()])
    shapes = "".join(f'    "{name}": {tuple(value.shape)},\n' for name, value in weights.items())
    lines = textwrap.wrap(base64.b85encode(numbers.tobytes()).decode(), 240)
    body = "\n".join(lines)
    return (
        '"""The guard\'s weights, written by `cogaze fit_guard`: half-precision numbers, in base 85."""\n\n'
        "# ruff: noqa: E501\n"
        f"SHAPES = {{\n{shapes}}}\n"
        f'WEIGHTS = r"""\n{body}\n"""\n'
    )
