"""The index of similar cases at MIMIC-CXR's size: random latents of the right shape, seconds and peak memory.

240,422 training images of CoGaze's release have findings; the base model's mean vision latent is 768 wide. Each step is
a process of its own: making the index and writing it, opening it, and searching it for a batch, each query's own study
and patient left out as in training.

Usage: python benchmarks/similar_cases.py [--cases 240422] [--width 768] [--queries 64] [--folder DIR]
"""

import argparse
import multiprocessing
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset

from training.reports.similar_cases import SimilarCases

IMAGES_PER_STUDY, STUDIES_PER_PATIENT = 1.65, 3.5


def make(folder: Path, count: int, width: int) -> str:
    latents = np.random.default_rng(0).standard_normal((count, width), np.float32)
    studies = (np.arange(count) / IMAGES_PER_STUDY).astype(int)
    cases = Dataset.from_dict(
        {
            "findings": [f"The lungs are clear without focal consolidation. Case {row}." * 6 for row in range(count)],
            "study_id": studies.astype(str).tolist(),
            "patient_id": (studies / STUDIES_PER_PATIENT).astype(int).astype(str).tolist(),
            "image_id": [f"image{row}" for row in range(count)],
        }
    )
    begin = time.perf_counter()
    index = SimilarCases(cases, latents)
    made = time.perf_counter() - begin
    index.save(folder)
    size = sum(file.stat().st_size for file in folder.iterdir())
    return f"made in {made:.1f} s, written in {time.perf_counter() - begin - made:.1f} s, {size / 2**20:.0f} MiB"


def search(folder: Path, queries: int) -> str:
    begin = time.perf_counter()
    index = SimilarCases.load(folder)
    opened = time.perf_counter() - begin
    rows = np.random.default_rng(1).choice(len(index), queries, replace=False)
    own = {name: [index.cases[int(row)][f"{name}_id"] for row in rows] for name in ("study", "patient")}
    begin = time.perf_counter()
    found = index.search(index.latents[rows], 1, own["study"], own["patient"])
    seconds = time.perf_counter() - begin
    assert all(cases and cases[0].study_id != study for cases, study in zip(found, own["study"], strict=True))
    return f"opened in {opened:.1f} s, {queries} queries in {seconds:.2f} s ({1000 * seconds / queries:.0f} ms each)"


def measured(function, *given) -> None:
    print(function(*given), f"peak {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB", sep=", ")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=240_422)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--queries", type=int, default=64)
    parser.add_argument("--folder", type=Path, help="keep the index here")
    arguments = parser.parse_args()
    print(f"{arguments.cases:,} latents of {arguments.width}, {torch.get_num_threads()} thread(s)")
    latents = arguments.cases * arguments.width * 4 / 2**30
    print(f"the latents themselves: {latents:.2f} GiB")
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary) / "similar_cases"
        context = multiprocessing.get_context("spawn")
        for step in (
            (make, folder, arguments.cases, arguments.width),
            (search, folder, arguments.queries),
        ):
            process = context.Process(target=measured, args=step)
            process.start()
            process.join()
            if process.exitcode:
                raise SystemExit(process.exitcode)


if __name__ == "__main__":
    main()
