"""How far the support of generated sentences can be believed, and what leaving out the least supported ones gains."""

import textwrap
from pathlib import Path

import numpy as np

from ..metrics.calibration import reliability
from ..metrics.sentences import risk_coverage, trust_scores
from .canvas import plt, save_figure, title_of


def draw_trust(support: np.ndarray, right: np.ndarray, path: str | Path, dataset) -> None:
    """Reliability of `support` (N,) for `right` (N,), and the share of wrong sentences over the share that is kept."""
    scores = trust_scores(support, right)
    mean, positive, share = reliability(np.asarray(support), np.asarray(right, float))
    kept, risk = risk_coverage(support, right)
    figure, (left, other) = plt.subplots(1, 2, figsize=(9.6, 4.6), layout="constrained", facecolor="white")
    title = title_of(f"Support of {len(right)} generated sentences, unseen patients.", dataset)
    figure.suptitle(textwrap.fill(title, 140), fontsize=9, color="#555555")
    left.plot([0, 1], [0, 1], color="#aaaaaa", linewidth=1, linestyle="--")
    filled = share > 0
    left.scatter(mean[filled], positive[filled], s=12 + 300 * share[filled], color="C0", alpha=0.7)
    left.plot(mean[filled], positive[filled], color="C0", linewidth=1, label=f"ECE {scores['support_ece']:.3f}")
    left.set(xlim=(0, 1), ylim=(0, 1), xlabel="support", ylabel="share of right sentences")
    left.legend(fontsize=8, frameon=False, loc="upper left")
    other.plot(kept, risk, color="C1", label=f"AUROC {scores['support_auroc']:.3f}")
    other.axhline(1 - np.mean(right), color="#aaaaaa", linewidth=1, linestyle="--", label="in any order")
    other.axvline(0.7, color="#aaaaaa", linewidth=1, linestyle=":")
    other.set(xlim=(0, 1), ylim=(0, None), xlabel="share of sentences kept", ylabel="share of wrong ones among them")
    other.legend(fontsize=8, frameon=False, loc="upper left")
    save_figure(figure, path)
