"""MIMIC-CXR-JPG at its full size, generated: 377,110 rows, 227,827 report files, one small picture behind every name.

The tree has the published layout and counts; its texts are generated and its pictures all the same, so that it shows
what loading costs and nothing else. Each load is a process of its own: the first fills the cache, the second finds it,
the third comes after one report was changed. Seconds, CPU seconds and peak memory of each, every row accounted for.

Usage: python benchmarks/full_size_mimic.py --root DIR [--images 377110] [--num_proc 2]
"""

import argparse
import csv
import gzip
import os
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image

from processing.datasets import load
from processing.datasets.records import CHEXBERT_OBSERVATIONS, facts_of

PATIENTS, STUDIES, IMAGES = 65_379, 227_827, 377_110
LINKS = 30_000  # names of one file, below what file systems allow
HEADER = (
    *("dicom_id", "subject_id", "study_id", "PerformedProcedureStepDescription", "ViewPosition", "Rows", "Columns"),
    *("StudyDate", "StudyTime", "ProcedureCodeSequence_CodeMeaning", "ViewCodeSequence_CodeMeaning"),
    "PatientOrientationCodeSequence_CodeMeaning",
)
SENTENCES = (
    "The lungs are clear without focal consolidation.",
    "There is no pleural effusion or pneumothorax.",
    "The cardiomediastinal silhouette is within normal limits.",
    "Moderate cardiomegaly is unchanged.",
    "Bibasilar opacities likely reflect atelectasis, although infection cannot be excluded.",
    "Endotracheal tube ends 4 cm above the carina.",
    "No acute osseous abnormality is seen.",
    "Mild pulmonary vascular congestion without frank edema.",
    "A left PICC tip projects over the mid SVC.",
    "Degenerative changes are noted in the thoracic spine.",
)


def plan(images: int, seed: int = 0) -> list[tuple[str, str, int]]:
    """(subject, study, number of images) in the published proportions."""
    random = np.random.default_rng(seed)
    studies = max(1, round(images * STUDIES / IMAGES))
    patients = max(1, round(images * PATIENTS / IMAGES))
    subjects = np.sort(random.choice(10_000_000, patients, replace=False)) + 10_000_000
    owners = np.sort(np.concatenate([np.arange(patients), random.integers(0, patients, studies - patients)]))
    numbers = random.choice(10_000_000, studies, replace=False) + 50_000_000
    counts = 1 + np.bincount(random.integers(0, studies, images - studies), minlength=studies)
    return [(str(subjects[o]), str(n), int(c)) for o, n, c in zip(owners, numbers, counts, strict=True)]


def report(random: np.random.Generator) -> str:
    chosen = random.choice(len(SENTENCES), 6, replace=False)
    findings = " ".join(f"{SENTENCES[i]} Image {random.integers(1_000_000)}." for i in chosen)
    return (
        " FINAL REPORT\n EXAMINATION:  CHEST (PA AND LAT)\n\n"
        " INDICATION:  ___ year old woman with cough  // pneumonia?\n\n"
        " TECHNIQUE:  Chest PA and lateral\n\n COMPARISON:  ___\n\n"
        f" FINDINGS: \n\n {findings}\n\n IMPRESSION: \n\n {SENTENCES[chosen[0]]}\n"
    )


def make(root: Path, images: int) -> None:
    """Write the tree; the tables come last, so that a tree with tables is whole."""
    random = np.random.default_rng(1)
    root.mkdir(parents=True, exist_ok=True)
    Image.fromarray(random.integers(0, 255, (64, 64), np.uint8)).save(root / "picture0.jpg")
    rows, splits, labels, linked = [], [], [], 0
    for subject, study, count in plan(images):
        folder = root / f"files/p{subject[:2]}/p{subject}"
        (folder / f"s{study}").mkdir(parents=True, exist_ok=True)
        (folder / f"s{study}.txt").write_text(report(random))
        values = random.choice(["1.0", "0.0", "-1.0", "", "", "", ""], 14)
        labels.append((subject, study, *values))
        split = ("train", "train", "train", "validate", "test")[int(subject) % 5]
        day, hour = f"21{random.integers(10, 99)}0{random.integers(1, 9)}1{random.integers(0, 9)}", random.integers(240)
        for view in range(count):
            name = random.bytes(20).hex()
            dicom = "-".join(name[i : i + 8] for i in range(0, 40, 8))
            if linked % LINKS == 0:
                shutil.copy(root / "picture0.jpg", root / "picture.jpg")
            os.link(root / "picture.jpg", folder / f"s{study}" / f"{dicom}.jpg")
            linked += 1
            if linked % LINKS == 0:
                (root / "picture.jpg").unlink()
            side = ("PA", "LATERAL", "AP")[view % 3]
            rows.append((dicom, subject, study, "CHEST", side, 64, 64, day, f"{hour}415.531", "", side, "Erect"))
            splits.append((dicom, study, subject, split))
    write(root / "mimic-cxr-2.0.0-chexpert.csv.gz", ("subject_id", "study_id", *CHEXBERT_OBSERVATIONS), labels)
    write(root / "mimic-cxr-2.0.0-split.csv.gz", ("dicom_id", "study_id", "subject_id", "split"), splits)
    write(root / "mimic-cxr-2.0.0-metadata.csv.gz", HEADER, rows)


def write(file: Path, header: tuple, rows: list[tuple]) -> None:
    with gzip.open(file, "wt", newline="", compresslevel=1) as opened:
        csv.writer(opened).writerows([header, *rows])


def load_once(root: Path, cache: Path, num_proc: int) -> None:
    """Load all records and print what it cost and where every row went."""
    begin = time.perf_counter()
    dataset = load("mimic_cxr", root, cache_dir=cache, num_proc=num_proc)
    seconds = time.perf_counter() - begin
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    facts = facts_of(dataset)
    print(
        f"{seconds:.1f} s, {sum(each.ru_utime + each.ru_stime for each in used):.1f} CPU s, peak "
        f"{used[0].ru_maxrss / 2**20:.2f} GiB and {used[1].ru_maxrss / 2**20:.2f} GiB in its largest process; "
        f"{len(dataset):,} records, dropped {facts['dropped']}, noted {facts['noted']}"
    )
    record = dataset[len(dataset) - 1]
    print(f"  last record: of {record['study_date']}, findings of {len(record['findings'])} letters")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="where the tree lies, or is made")
    parser.add_argument("--cache_dir", type=Path, help="default: beside the root, emptied first")
    parser.add_argument("--images", type=int, default=IMAGES)
    parser.add_argument("--num_proc", type=int, default=2)
    parser.add_argument("--once", action="store_true", help="load once, with whatever is in the cache")
    arguments = parser.parse_args()
    root, cache = arguments.root, arguments.cache_dir or arguments.root.with_name(f"{arguments.root.name}-cache")
    if arguments.once:
        return load_once(root, cache, arguments.num_proc)
    if not (root / "mimic-cxr-2.0.0-metadata.csv.gz").exists():
        begin = time.perf_counter()
        make(root, arguments.images)
        print(f"made {root} in {time.perf_counter() - begin:.0f} s")
    shutil.rmtree(cache, ignore_errors=True)
    command = [sys.executable, __file__, "--root", str(root), "--cache_dir", str(cache), "--once"]
    command += ["--num_proc", str(arguments.num_proc)]
    for name in ("first", "second", "after a changed report"):
        if name.startswith("after"):
            file = next(root.glob("files/p*/p*/s*.txt"))
            file.write_text(file.read_text().replace("IMPRESSION: \n\n", "IMPRESSION: \n\n Changed."))
        print(f"{name} load: ", end="", flush=True)
        subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
