"""Index a data set's images by what CoGaze makes of them, for the drafts in a language model's prompts.

    cogaze index_similar_cases --checkpoint outputs/pretrain-mimic \\
        --data '{"name": "mimic_cxr", "root": "/data/mimic-cxr-jpg", "split": "train"}'

Training a report generator makes its own index; this makes one by itself. **It holds reports as they are in the data
set**: share it only where the data set's licence allows it.
"""

from dataclasses import dataclass, field
from pathlib import Path

import torch
from datasets import Dataset

from training.data.loading import load_data
from training.evaluation.scorers import load_scorer
from training.reports.similar_cases import FOLDER, SimilarCases
from training.runs.command_line import parse_arguments


@dataclass
class IndexArguments:
    checkpoint: str = field(metadata={"help": "a CoGaze checkpoint with its processor: folder or Hub id"})
    data: str = field(metadata={"help": 'JSON: {"name": ..., "split": "train", "root": ...}'})
    output_dir: str | None = field(default=None, metadata={"help": f"of the index; <checkpoint>/{FOLDER} if absent"})
    batch_size: int = 32
    device: str | None = field(default=None, metadata={"help": "by default a GPU where there is one"})


def main(argv: list[str] | None = None) -> SimilarCases:
    (arguments,) = parse_arguments((IndexArguments,), argv, __doc__)
    records = load_data(arguments.data, "data")
    if not isinstance(records, Dataset):
        raise ValueError("data: give the data set that the shards were made from.")
    device = arguments.device or ("cuda" if torch.cuda.is_available() else "cpu")
    index = SimilarCases.build(load_scorer(arguments.checkpoint, arguments.batch_size, device), records)
    folder = Path(arguments.output_dir or Path(arguments.checkpoint) / FOLDER)
    index.save(folder)
    print(f"{len(index)} images of {len(set(index.cases['study_id']))} studies: {folder}")
    return index


if __name__ == "__main__":
    main()
