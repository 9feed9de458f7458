"""Put a checkpoint, a Space or a data set on the Hub, each in one commit; a repetition sends only what has changed.

    cogaze publish --checkpoint outputs/demo/cogaze-tiny --metrics outputs/demo/metrics.json --repo org/name
    cogaze publish --checkpoint ... --metrics ... --repo org/name --output_dir folder     # nothing is uploaded
    cogaze publish --space --repo org/name
    cogaze publish --dataset folder --repo org/name     # what `processing.datasets push_to_hub --output_dir` wrote

A checkpoint goes with its processor, the code that opens it, its index of similar cases and a card made of measured
results. Weights are safetensors, or are refused. Exit codes: 0 done, 1 refused or failed (the reason on stderr).
"""

import sys
from pathlib import Path

from training.hub.beside import space_folder
from training.hub.publishing import Target, publish_checkpoint, publish_dataset, publish_space
from training.runs.command_line import CommandParser


def main(argv: list[str] | None = None) -> int:
    given = _parser().parse_args(argv)
    try:
        target = Target(given.repo, given.output_dir, given.private, given.i_have_permission, given.dry_run)
        if given.dataset:
            done = publish_dataset(given.dataset, target)
        elif given.space:
            done = publish_space(given.space, target)
        else:
            emissions = {"watts": given.watts, "grams_per_kwh": given.grams_per_kwh}
            done = publish_checkpoint(given.checkpoint, target, given.metrics, **emissions)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    outcome = "nothing was changed (--dry_run)" if given.dry_run else done.commit or "no commit"
    print(f"{done}\n{done.url}: {'written' if given.output_dir and not given.dry_run else outcome}")
    return 0


def _parser() -> CommandParser:
    parser = CommandParser(description=__doc__)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--checkpoint", type=Path, help="folder with a model and its processor")
    words = "folder of a Space; the report one by default"
    what.add_argument("--space", type=Path, nargs="?", const=space_folder(), help=words)
    what.add_argument("--dataset", type=Path, help="folder that `processing.datasets push_to_hub --output_dir` wrote")
    parser.add_argument("--repo", metavar="ORG/NAME")
    parser.add_argument("--output_dir", type=Path, help="write into this folder, upload nothing")
    parser.add_argument("--metrics", type=Path, nargs="+", default=[], help="JSON files of evaluations, for the card")
    parser.add_argument("--watts", type=float, help="power that training drew; with --grams_per_kwh the card says CO2")
    parser.add_argument("--grams_per_kwh", type=float, help="carbon intensity of the electricity")
    parser.add_argument("--private", action="store_true")
    parser.add_argument("--i_have_permission", action="store_true", help="for data that are under an agreement")
    parser.add_argument("--dry_run", action="store_true", help="say what would change")
    return parser


if __name__ == "__main__":
    sys.exit(main())
