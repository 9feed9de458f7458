"""Experiments from a file to its tables and pictures."""

from collections.abc import Sequence
from functools import partial

from processing.datasets.phantom.loading import load_phantom

from ..evaluation.scorers import load_scorer
from ..figures.experiments import curves_figure, panels_figure
from ..figures.maps import draw_gaze
from ..runs.tables import write_results
from .plan import Experiment, read_experiment
from .stages import carry_out
from .summary import markdown, summarise


def run_experiment(
    experiment: str,
    preset: str | None = None,
    checkpoint: Sequence[str] = (),
    output_dir: str | None = None,
    only: Sequence[str] | None = None,
    downstream: Sequence[str] = (),
    seeds: Sequence[int] | None = None,
    bootstrap: int | None = None,
    further: Sequence[str] = (),
) -> dict:
    """Carry out what is not finished, write tables and pictures, and return the tables.

    Args: as flags of training/experiment.py.
    """
    if any(flag.partition("=")[0] == "--seed" for flag in further):
        raise ValueError("seed: each run has its own; give --seeds.")
    planned = read_experiment(experiment, preset, checkpoint, output_dir, seeds, bootstrap)
    if only:
        planned.keep(only)
    planned.add_heads(downstream)
    tables = summarise(planned, partial(carry_out, further=further))
    for kind, name in planned.pictures.items():
        if kind == "gaze":
            _draw_gaze(planned, planned.output_dir / name)
        else:
            {"panels": panels_figure, "curves": curves_figure}[kind](tables, planned.columns, planned.output_dir / name)
    write_results(planned.output_dir, {"tables": tables}, markdown(tables, planned))
    return tables


def _draw_gaze(experiment: Experiment, path) -> None:
    """Of the first table's reference."""
    reference = experiment.tables[0].reference_row
    if reference:
        draw_gaze(load_scorer(str(reference.runs[0].folder)), load_phantom("test"), path)
