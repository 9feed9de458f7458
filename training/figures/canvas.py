"""Where pictures are drawn and how they are saved."""

import os
from pathlib import Path

import matplotlib

from processing.datasets.records import facts_of

from ..runs.provenance import ON_PHANTOM

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402


def is_phantom(dataset) -> bool:
    return facts_of(dataset).get("source") == "phantom"


def title_of(text: str, dataset) -> str:
    """A picture's title, with what rendered radiographs are worth."""
    return f"{text} {ON_PHANTOM}" if is_phantom(dataset) else text


def save_figure(figure, path: str | Path) -> None:
    """Write a figure as PNG, whole or not at all, and close it."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".part")
    figure.savefig(partial, dpi=110, format="png")
    plt.close(figure)
    os.replace(partial, path)


__all__ = ["is_phantom", "plt", "save_figure", "title_of"]
