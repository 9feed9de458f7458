"""How well a gaze map can do at all: the phantom's readers against each other.

A model's map is compared with one recorded reading, which is itself a draw: where nothing is to be seen a reader's eyes
rest anywhere on the anatomy that a sentence names. Here further readings of the same pictures are drawn, by the same
rules that drew the recorded one (the true lesions and anatomy are known to them), and play the model's part:

- one other reading: what another radiologist would score.
- the mean of many: what a map that knows all but this one reading scores.
- the patch that is most often among a reading's most looked at: the peak that the pointing game rewards most.

Usage: python -m benchmarks.gaze_ceiling [--studies 200] [--readings 30] [--grid 14]
"""

import argparse

import numpy as np

from processing.datasets.phantom.gaze import simulate_reading
from processing.datasets.phantom.loading import ORIGINAL_SIZE
from processing.datasets.phantom.rendering import render_study
from processing.datasets.phantom.study import draw_study
from processing.datasets.phantom.text import write_report
from processing.gaze import gaze_targets
from training.metrics.alignment import gaze_pointing_game, mean_intervals


def main(argv: list[str] | None = None) -> dict:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--studies", type=int, default=200)
    parser.add_argument("--readings", type=int, default=30)
    parser.add_argument("--grid", type=int, default=14)
    arguments = parser.parse_args(argv)

    recorded, other, mean, often, patients, with_lesion = [], [], [], [], [], []
    for index in range(arguments.studies):
        plan, context = draw_study("test", index, 0)
        sentences = write_report(plan, context).findings
        for view, rendering in zip(plan.views, render_study(plan, 224), strict=True):
            if view == "LATERAL" or not sentences:
                continue
            # Of each reading the sentences' rows; the last row is the whole transcript.
            maps = np.stack(
                [
                    gaze_targets(
                        simulate_reading(sentences, rendering, ORIGINAL_SIZE, np.random.default_rng([index, draw])),
                        ORIGINAL_SIZE,
                        arguments.grid,
                    )[:-1]
                    for draw in range(arguments.readings + 1)
                ]
            )
            recorded.append(maps[0])
            other.append(maps[1])
            mean.append(maps[1:].mean(axis=0))
            often.append(most_looked_at(maps[1:]).mean(axis=0))
            patients += [plan.patient.patient_id] * len(sentences)
            with_lesion += [bool(sentence.lesions) for sentence in sentences]
    recorded, patients = np.concatenate(recorded), np.array(patients)
    hits = {
        "one other reading": gaze_pointing_game(np.concatenate(other), recorded),
        f"the mean of {arguments.readings} others": gaze_pointing_game(np.concatenate(mean), recorded),
        f"most often looked at by {arguments.readings} others": gaze_pointing_game(np.concatenate(often), recorded),
    }
    kept = recorded.sum(axis=1) > 0
    groups = {"all sentences": kept, "about a lesion": kept & np.array(with_lesion)}
    groups["about none"] = kept & ~np.array(with_lesion)
    results = {}
    print(f"Gaze pointing game of the phantom's readers, {arguments.studies} test studies, 95 % intervals\n")
    print("| | " + " | ".join(f"{group} ({rows.sum()})" for group, rows in groups.items()) + " |")
    print("|---" * (len(groups) + 1) + "|")
    for name, hit in hits.items():
        cells = []
        for group, rows in groups.items():
            low, high = mean_intervals({name: hit[rows]}, patients[rows])[name]
            results[name, group] = float(hit[rows].mean())
            cells.append(f"{results[name, group]:.3f} [{low:.3f}, {high:.3f}]")
        print(f"| {name} | " + " | ".join(cells) + " |")
    return results


def most_looked_at(maps: np.ndarray, area: float = 0.25) -> np.ndarray:
    """(..., P) 1 for the `area` share of patches that was looked at most, as the pointing game counts them."""
    kept = max(1, int(np.floor(area * maps.shape[-1])))
    threshold = -np.sort(-maps, axis=-1)[..., kept - 1 : kept]
    # Equal counts fall to the patch that was looked at longer.
    return ((maps >= threshold) & (maps > 0)) + 1e-6 * maps / np.maximum(maps.max(axis=-1, keepdims=True), 1e-9)


if __name__ == "__main__":
    main()
