"""Records are checked before a training starts, whatever the process has done before."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from datasets import Dataset
from PIL import Image

from modeling_cogaze import CoGazeConfig
from processing import CoGazeProcessor
from processing.datasets.sources.building import Radiograph
from processing.datasets.sources.common import blank_record
from processing.tokenization import build_tokenizer
from tests import small
from training.data.augmentation import AlignedAugmentation
from training.data.checking import keep_good_records
from training.data.collation import Collator

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


@pytest.fixture
def records(tmp_path):
    """Three records with files; the pixels of the second are cut short behind its header."""
    files = []
    for number in range(3):
        files.append(tmp_path / f"{number}.jpg")
        Image.effect_noise((80, 90), 60).save(files[-1], "JPEG")
    whole = files[1].read_bytes()
    files[1].write_bytes(whole[: len(whole) // 2])
    rows = [
        blank_record() | {"image": str(file), "image_id": file.stem, "study_id": file.stem, "patient_id": file.stem}
        for file in files
    ]
    rows = [row | {"image_width": 80, "image_height": 90, "findings": "Clear.", "labels": [0]} for row in rows]
    return Dataset.from_list([row | {"regions": None, "gaze": None} for row in rows]).cast_column("image", Radiograph())


@pytest.fixture(scope="module")
def processor():
    return CoGazeProcessor.for_model(build_tokenizer(["clear"], 300), CoGazeConfig.tiny(**small.COGAZE))


def test_a_header_check_decodes_nothing_and_leaves_damage_to_the_loader(records, processor):
    kept, reasons = keep_good_records(records, Collator(processor), check="header")
    assert len(kept) == 3 and not reasons and isinstance(kept[0]["image"], dict)
    rows = [kept[number] for number in range(3)]
    with pytest.raises(ValueError, match=r"records\[1\] \(image_id 1\).*1\.jpg.*damaged or cut short"):
        Collator(processor)(rows)
    before = processor.bad_records
    for augmentation in (None, AlignedAugmentation(crop=0.9)):
        batch = Collator(processor, on_bad_record="skip", augmentation=augmentation)(rows)
        assert len(batch["pixel_values"]) == 2
    assert processor.bad_records == before + 2
    with pytest.raises(ValueError, match=r"records\[1\] \(image_id 1\).*damaged or cut short"):
        Collator(processor, augmentation=AlignedAugmentation(crop=0.9))(rows)


def test_a_full_check_decodes_each_picture(records, processor):
    with pytest.raises(ValueError, match=r"record 1 \(image 1\).*1\.jpg"):
        keep_good_records(
            records.select([0, 1]).cast_column("image", leave(records)), Collator(processor), check="full"
        )


def leave(records):
    return type(records.features["image"])(decode=False)


def test_a_header_check_finds_what_needs_no_pixels(records, processor):
    def broken(record, number):
        if number == 0:
            record["findings"] = ""
        if number == 1:
            record["image"] = {"bytes": b"no picture", "path": None}
        return record

    undecoded = records.cast_column("image", leave(records))
    wrong = undecoded.map(broken, with_indices=True)
    kept, reasons = keep_good_records(wrong, Collator(processor), "skip", check="header")
    assert kept["image_id"] == ["2"] and sum(reasons.values()) == 2
    with pytest.raises(ValueError, match="neither 'header' nor 'full'"):
        keep_good_records(records, Collator(processor), check="some")
