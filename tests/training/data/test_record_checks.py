"""Records are checked before a training starts, whatever the process has done before."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
AFTER_TORCH_HAS_STARTED_THREADS = """
import torch
from datasets import Dataset
from training.data.checking import keep_good_records
from training.data.collation import Collator

class Processor:
    def to_json_string(self):
        return ""

    def collate(self, records, on_bad_record):
        return {"sum": torch.randn(1_000_000).exp().sum()}

torch.set_num_threads(2)
torch.randn(1_000_000).exp()
records = Dataset.from_dict({"image_id": list("abcd"), "findings": ["x"] * 4, "labels": [[1]] * 4})
assert len(keep_good_records(records, Collator(Processor()), num_proc=2)[0]) == 4
"""


def test_records_are_checked_by_forks_of_a_process_with_threads():
    command = [sys.executable, "-c", AFTER_TORCH_HAS_STARTED_THREADS]
    subprocess.run(command, check=True, timeout=300, env=os.environ | {"OMP_NUM_THREADS": "2"}, cwd=ROOT)
