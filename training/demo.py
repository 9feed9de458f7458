"""The whole way on rendered radiographs: render, pretrain `tiny`, evaluate on unseen patients, write reports, draw.

    cogaze demo --output_dir outputs/demo

With `COGAZE_REAL_DATA`, a folder of NIH ChestX-ray14, its radiographs join (docs/results.md).

EGMA's way is a table of runs: `cogaze experiment demo_egma`.
"""

from pathlib import Path

from training.experiments.demo import run_demo
from training.runs.command_line import CommandParser
from training.runs.files import CONFIGS


def main(argv: list[str] | None = None) -> dict:
    parser = CommandParser(description=__doc__)
    parser.add_argument("--output_dir", type=Path, default=Path("outputs/demo"))
    parser.add_argument("--config", default=str(CONFIGS / "pretrain" / "demo.yaml"), help="of the pretraining")
    arguments = parser.parse_args(argv)
    return run_demo(arguments.output_dir, arguments.config)


if __name__ == "__main__":
    main()
