"""A table of runs: each trained and scored once, then summed up and drawn.

    cogaze experiment ablations --preset hour --output_dir outputs/ablations
    cogaze experiment real --seeds 0
    cogaze experiment my_table.yaml --only losses

The tables that come with the project are in training/configs/experiments/. What is finished is not run again, what was
cut off goes on, and a folder that holds a run of other settings is refused. Writes `table.md`, `metrics.json` and the
table's picture into the output folder, or the preset's folder in it; further flags go to the trainings' commands.
"""

from training.experiments.running import run_experiment
from training.runs.command_line import CommandParser


def main(argv: list[str] | None = None) -> dict:
    parser = CommandParser(description=__doc__)
    parser.add_argument("experiment", help="name of a shipped table, or a YAML file")
    parser.add_argument("--preset", help="of the table; its first if absent")
    parser.add_argument("--checkpoint", nargs="+", default=[], help="folders that rows start from")
    parser.add_argument("--output_dir", help="in place of the table's")
    parser.add_argument("--only", nargs="+", help="tables or rows, by name; all if absent")
    parser.add_argument("--downstream", nargs="+", default=[], help="heads to train on each row's frozen encoder")
    parser.add_argument("--seeds", type=int, nargs="+", help="in place of the table's")
    parser.add_argument("--bootstrap", type=int, help="rounds of the bootstrap over patients, in place of the table's")
    arguments, further = parser.parse_known_args(argv)
    return run_experiment(**vars(arguments), further=further)


if __name__ == "__main__":
    main()
