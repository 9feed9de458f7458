"""How far probabilities can be trusted, on plain arrays: reliability, calibration error, temperature scaling."""

from collections.abc import Sequence

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit

BINS = 15
TEMPERATURES = (0.05, 20.0)


def fit_temperatures(logits: np.ndarray, targets: np.ndarray, per_label: bool = False) -> np.ndarray:
    """The temperatures of least negative log-likelihood, by L-BFGS (Guo et al., ICML 2017).

    Args:
        logits, targets: (N, C) of images that the model was not trained on, targets 0 or 1.
        per_label: one for each label, instead of one for all.
    Returns:
        (C,) within `TEMPERATURES`.
    """

    def objective(log_scale: np.ndarray) -> tuple[float, np.ndarray]:
        scaled = logits * np.exp(log_scale)
        gradient = ((expit(scaled) - targets) * scaled).mean(axis=0)
        return nll(scaled, targets), np.atleast_1d(gradient if per_label else gradient.sum()) / targets.shape[1]

    bounds = [tuple(np.log(1 / np.array(TEMPERATURES[::-1])))] * (targets.shape[1] if per_label else 1)
    exact = {"ftol": 1e-14, "gtol": 1e-9}
    found = minimize(objective, np.zeros(len(bounds)), jac=True, method="L-BFGS-B", bounds=bounds, options=exact)
    return np.broadcast_to(np.exp(-found.x), targets.shape[1:]).copy()


def nll(logits: np.ndarray, targets: np.ndarray) -> float:
    """Mean negative log-likelihood in nats of targets 0 or 1."""
    return float((np.logaddexp(0, logits) - targets * logits).mean())


def reliability(probabilities: np.ndarray, targets: np.ndarray, bins: int = BINS) -> tuple[np.ndarray, ...]:
    """Mean probability, share of positives, and share of all predictions in each of so many bins of equal width.

    Args:
        probabilities, targets: of equal shape; all entries count alike.
    Returns:
        Three arrays (bins,); a bin without predictions has nan, nan and 0.
    """
    probabilities, targets = probabilities.ravel(), targets.ravel()
    place = np.minimum((probabilities * bins).astype(int), bins - 1)
    counts = np.bincount(place, minlength=bins)
    with np.errstate(invalid="ignore"):
        mean, positive = (np.bincount(place, values, bins) / counts for values in (probabilities, targets))
    return mean, positive, counts / len(place)


def expected_calibration_error(probabilities: np.ndarray, targets: np.ndarray, bins: int = BINS) -> float:
    """ECE: mean distance of probability and share of positives over bins of equal width, weighted by their size."""
    mean, positive, share = reliability(probabilities, targets, bins)
    return float(np.nansum(share * np.abs(mean - positive)))


def calibration_scores(logits: np.ndarray, targets: np.ndarray, names: Sequence[str]) -> dict:
    """Of logits and targets (N, C): "nll", "ece_pooled" over all, "ece_per_label" and their mean, "ece"."""
    probabilities = expit(logits)
    per_label = {
        name: expected_calibration_error(probabilities[:, column], targets[:, column])
        for column, name in enumerate(names)
    }
    return {
        "ece": float(np.mean(list(per_label.values()))),
        "ece_pooled": expected_calibration_error(probabilities, targets),
        "ece_per_label": per_label,
        "nll": nll(logits, targets),
    }


__all__ = ["calibration_scores", "expected_calibration_error", "fit_temperatures", "nll", "reliability"]
