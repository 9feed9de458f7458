"""Is a picture an upright chest radiograph?

A small convolutional network, fitted by `cogaze fit_guard` on radiographs rendered from one CT and on generated and
packaged pictures that are none. It has seen no patient's picture.
"""

import base64
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.nn import functional

from .radiographs import read_radiograph

SIDE = 64  # pixels of what the network reads
FRONTAL, LATERAL = "frontal", "lateral"
# What the network tells apart -> the reason in words.
KINDS = {
    FRONTAL: "a frontal chest radiograph",
    LATERAL: "a lateral chest radiograph",
    "inverted": "inverted greys: what should be dark is bright",
    "rotated_90": "rotated by 90 degrees, counter-clockwise",
    "rotated_180": "upside down",
    "rotated_270": "rotated by 90 degrees, clockwise",
    "photograph": "looks like a photograph",
    "drawing": "looks like a drawing",
    "text": "looks like a page of text",
    "ct": "looks like a CT slice",
    "mr": "looks like an MR slice",
    "ultrasound": "looks like an ultrasound picture",
    "noise": "looks like noise",
}
LATERAL_VIEWS = ("LATERAL", "LL", "XTABLE LATERAL")
# A picture is refused from this share on of a kind against both views, chosen on real frontal radiographs so that 99 in
# 100 of them pass. What is not told: a mirrored picture, another part of the body, a chest that is cut off; photographs
# of any subject are told in most cases only.
REFUSED_FROM = {
    "inverted": 0.4,
    "rotated_90": 0.6,
    "rotated_180": 0.6,
    "rotated_270": 0.9,
    "photograph": 0.88,
    "drawing": 0.96,
    "text": 0.4,
    "ct": 0.5,
    "mr": 0.3,
    "ultrasound": 0.4,
    "noise": 0.3,
}
VIEW_PROBABILITY = 0.98  # of a frontal view: from it on a picture that is said to be lateral is refused


@dataclass(frozen=True)
class RadiographCheck:
    """What the guard says of a picture.

    Args:
        accepted: whether it goes on to the model.
        reason: in words; "" where it is accepted.
        kind: the most probable of `KINDS`. probabilities: of each.
    """

    accepted: bool
    reason: str
    kind: str
    probabilities: dict[str, float]


def reduced(picture: Image.Image) -> np.ndarray:
    """(SIDE, SIDE) float32 of mean 0 and standard deviation 1: what the network reads of a grey picture."""
    pixels = np.asarray(picture.convert("L").resize((SIDE, SIDE), Image.Resampling.BOX), np.float32)
    return (pixels - pixels.mean()) / max(float(pixels.std()), 1.0)


def network(pixels: torch.Tensor, weights: dict[str, torch.Tensor]) -> torch.Tensor:
    """(B, len(KINDS)) logits of (B, SIDE, SIDE) pixels: convolutions that halve the picture, then a linear layer."""
    hidden, layer = pixels[:, None], 0
    while f"conv{layer}.weight" in weights:
        kernel = weights[f"conv{layer}.weight"]
        hidden = functional.conv2d(
            hidden, kernel, weights[f"conv{layer}.bias"], stride=2, padding=kernel.shape[-1] // 2
        )
        hidden, layer = functional.relu(hidden), layer + 1
    return functional.linear(hidden.flatten(1), weights["linear.weight"], weights["linear.bias"])


@cache
def stored_weights() -> dict[str, torch.Tensor]:
    """The fitted weights: plain half-precision numbers in `guard_weights`."""
    from .guard_weights import SHAPES, WEIGHTS

    numbers = np.frombuffer(base64.b85decode("".join(WEIGHTS.split())), "<f2").astype(np.float32)
    sizes = [int(np.prod(shape)) for shape in SHAPES.values()]
    if sum(sizes) != len(numbers):
        raise ValueError(f"guard_weights: {len(numbers)} numbers for {sum(sizes)}; fit it again by cogaze fit_guard.")
    parts = np.split(numbers, np.cumsum(sizes)[:-1])
    return {
        name: torch.from_numpy(part.reshape(shape).copy())
        for (name, shape), part in zip(SHAPES.items(), parts, strict=True)
    }


@torch.no_grad()
def kind_probabilities(pictures: list[Image.Image], weights: dict[str, torch.Tensor] | None = None) -> np.ndarray:
    """(N, len(KINDS)) probabilities of grey pictures."""
    weights = weights or stored_weights()
    pixels = torch.from_numpy(np.stack([reduced(picture) for picture in pictures]))
    return network(pixels, weights).softmax(dim=-1).numpy()


def judge(probabilities: np.ndarray, view_position: str | None = None) -> RadiographCheck:
    """The decision on one row of `kind_probabilities`.

    view_position: what the picture is said to be; "" or None: either view will do.
    """
    shares = dict(zip(KINDS, map(float, probabilities), strict=True))
    kind = max(shares, key=shares.__getitem__)
    told = (view_position or "").strip().upper()
    views = shares[FRONTAL] + shares[LATERAL]
    others = {
        name: shares[name] for name, least in REFUSED_FROM.items() if shares[name] >= least * (shares[name] + views)
    }
    if others and max(others.values()) > 0:
        kind = max(others, key=others.__getitem__)
        return RadiographCheck(False, KINDS[kind], kind, shares)
    if told in LATERAL_VIEWS and shares[FRONTAL] >= VIEW_PROBABILITY:
        return RadiographCheck(False, f"a frontal radiograph, told as {told}", FRONTAL, shares)
    return RadiographCheck(True, "", kind, shares)


class GuardMixin:
    """For a processor."""

    def check_radiograph(self, image: Any, view_position: str | None = None) -> RadiographCheck:
        """Whether a picture is an upright chest radiograph in the usual greys.

        A frontal one that is told as lateral is refused; a lateral one told as frontal is not, since real frontal ones
        look too much like it. Nor are a mirrored radiograph, another part of the body, and a chest that is cut off.

        Args:
            image: whatever `read_radiograph` takes; what it refuses, such as a colour photograph, is refused in its
                words.
            view_position: what the picture is said to be; "" or None: either view will do.
        """
        try:
            picture = read_radiograph(image, "image")
        except ValueError as error:
            return RadiographCheck(False, str(error), "unreadable", {})
        return judge(kind_probabilities([picture])[0], view_position)


__all__ = ["KINDS", "GuardMixin", "RadiographCheck", "judge", "kind_probabilities"]
