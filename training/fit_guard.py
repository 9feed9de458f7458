"""Fit the guard that tells chest radiographs from other pictures, and write its numbers into the package.

    cogaze fit_guard --output processing/guard_weights.py

It is shown radiographs rendered from the embedded CT (upright, turned, inverted), slices of that CT, generated
drawings, pages, noise and ultrasound, and pictures that are packaged with scikit-image; never a patient's radiograph.
It is judged on renderings of other patients and on other packaged and generated pictures. Needs scikit-image and
matplotlib.
"""

from dataclasses import dataclass, field

import torch

from training.guard.fitting import fit, other_pictures, renderings, source
from training.guard.judging import rates
from training.runs.command_line import parse_arguments
from training.runs.files import write_text


@dataclass
class FitGuardArguments:
    output: str = field(default="processing/guard_weights.py", metadata={"help": "the module to write"})
    studies: int = field(default=2000, metadata={"help": "phantom studies that it is shown"})
    pictures: int = field(default=500, metadata={"help": "of each other kind"})
    steps: int = 300
    seed: int = 0


def main(argv: list[str] | None = None) -> dict:
    (arguments,) = parse_arguments((FitGuardArguments,), argv, __doc__)
    torch.set_num_threads(1)
    seen = renderings("train", arguments.studies) | other_pictures(arguments.pictures, arguments.seed, fitted=True)
    weights = fit(seen, arguments.steps, arguments.seed)
    write_text(arguments.output, source(weights))
    judged = renderings("test", 200) | other_pictures(150, arguments.seed + 1000, fitted=False)
    found = rates(judged, {name: value.float() for name, value in weights.items()})
    print(
        "\n".join(f"{kind:<14}{count:>6} pictures{share:>9.4f} {what}" for kind, (count, share, what) in found.items())
    )
    return found


if __name__ == "__main__":
    main()
