"""From path lengths to grey levels in many ways: scatter, dose, vendors' local contrast, response, blur, gradients."""

import numpy as np
from scipy import ndimage

from .appearance import Appearance

ATTENUATION = 0.0193  # per mm of water at 70 keV, the mean energy of a 120 kV beam behind a chest


def blur(image, sigma):
    """Gaussian blur with edges repeated, as two products with a small matrix; sigma in pixels."""
    size = image.shape[0]
    distance = np.arange(size)[:, None] - np.arange(size)
    kernel = np.exp(-0.5 * (distance / sigma) ** 2)
    kernel /= kernel.sum(1, keepdims=True)
    return kernel @ image @ kernel.T


def varied_film(path, lungs, rng, pixel, look: Appearance):
    """Path lengths (mm of water) -> (S, S) grey levels from 0 to 1, bright = dense.

    lungs: (S, S) bool, what the exposure is set by; pixel: mm on the detector.
    """
    dense = _exposed(path, rng, pixel, look)
    coarse = blur(dense, 40 / pixel)
    dense -= rng.uniform(*look.local_contrast) * (coarse - coarse.mean())
    fine = rng.uniform(*look.fine_contrast)
    dense += fine * (dense - ndimage.gaussian_filter(dense, rng.choice((1.5, 3.0, 6.0)) / pixel, truncate=2.5))
    body = path > 40
    if lungs.sum() < 50 or body.sum() < 200:
        low, high = np.percentile(dense, (25, 85))
    else:
        # A third of what lungs cover lies before heart and liver.
        low, high = np.percentile(dense[lungs], 30), np.percentile(dense[body], 85)
    level = (dense - low) / max(high - low, 0.7)
    grey = _response(level, rng, look)
    down, across = np.mgrid[-1 : 1 : path.shape[0] * 1j, -1 : 1 : path.shape[0] * 1j]
    grey += rng.normal(0, look.gradient) * across + rng.normal(0, look.gradient) * down
    grey *= np.clip(path / 30, rng.choice((0.0, 0.15, 0.35), p=(0.6, 0.25, 0.15)), 1)
    softness = rng.uniform(*look.blur) / pixel
    if softness > 0.25:
        grey = ndimage.gaussian_filter(grey, softness, truncate=3)
    return np.clip(grey, 0, 1)


def _exposed(path, rng, pixel, look):
    """-log of the exposure behind the patient, with scatter and quantum noise."""
    primary = np.exp(-ATTENUATION * path)
    exposure = primary + rng.uniform(*look.scatter) * blur(primary, rng.uniform(22, 45) / pixel) + 2e-4
    quanta = 10 ** rng.uniform(*look.dose) * pixel**2  # per pixel in the open beam
    noise = ndimage.gaussian_filter(rng.normal(size=path.shape), 0.5)
    return -np.log(np.maximum(exposure * (1 + noise / np.sqrt(quanta * exposure)), 1e-5))


def _response(level, rng, look):
    """Grey of a level that is 0 in the lungs and 1 in the dense parts: with a shoulder above and a toe below."""
    lung, bright = rng.uniform(*look.lung_grey), rng.uniform(*look.bright)
    bright = max(bright, lung + 0.12)
    k = rng.uniform(*look.shoulder) + 1e-3
    start = k / (1 - np.exp(-k))  # the slope at the lungs
    above = (1 - np.exp(-k * np.maximum(level, 0))) / (1 - np.exp(-k))
    grey = lung + (bright - lung) * above
    below = (bright - lung) * start * np.minimum(level, 0)
    grey += lung * np.tanh(below / lung)
    knee = 0.9
    return np.where(grey > knee, knee + (1 - knee) * np.tanh((grey - knee) / (1 - knee)), grey)
