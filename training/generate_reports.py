"""Write reports for one image, a folder of images or a data set split.

    cogaze generate_reports --checkpoint reports --image chest.dcm --indication "Fever."
    cogaze generate_reports --checkpoint reports --folder images --context context.csv --output_dir written
    accelerate launch training/generate_reports.py --checkpoint reports --output_dir written --grounding True \
        --data '{"name": "phantom", "split": "test"}'

`reports.jsonl` has the columns that `cogaze evaluate_reports` reads. A run that was cut off goes on where it stopped
when the same command is given again; several processes share the work.
"""

from training.figures.maps import grounding_figure
from training.reports.generation import generate_reports


def main(argv: list[str] | None = None) -> list[dict]:
    return generate_reports(argv, grounding_figure)


if __name__ == "__main__":
    main()
