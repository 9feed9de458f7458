"""The training cases that look most like a radiograph, whose findings a language model gets as a draft.

An index over the mean vision latents of training images, as unit vectors, in a folder beside the checkpoint:

    cases.parquet          findings, study_id, patient_id, image_id of each image
    latents.safetensors    `latents` (N, D) float32, and the encoder's fingerprint in the header

The FAISS index (exact, inner product) is made when the folder is opened. **The folder holds reports as they are in the
data set**: share it only where the data set's licence allows it.
"""

import os
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet
import torch
from datasets import Dataset
from huggingface_hub import snapshot_download
from safetensors import safe_open
from safetensors.numpy import save_file

from ..data.feature_cache import weights_fingerprint

FOLDER = "similar_cases"
COLUMNS = ("findings", "study_id", "patient_id", "image_id")
_QUERIES = 4096
_INNER_PRODUCT = 0  # faiss.METRIC_INNER_PRODUCT; datasets says how to install FAISS where it is missing


@dataclass(frozen=True)
class SimilarCase:
    """A training image's findings; `score` is the cosine of the mean vision latents, from -1 to 1."""

    findings: str
    study_id: str
    image_id: str
    score: float


class SimilarCases:
    """An index of training images by what CoGaze makes of them.

    Args:
        cases: findings, study_id, patient_id and image_id of N images; those without findings are left out.
        latents: (N, D) mean vision latents, at any length.
        encoder: the fingerprint of the encoder that made them.

    Raises:
        ValueError: no case has findings; numbers of cases and latents differ.
    """

    def __init__(self, cases: Dataset, latents: np.ndarray, encoder: str | None = None):
        if len(cases) != len(latents):
            raise ValueError(f"latents: {len(latents)} for {len(cases)} cases; give one for each.")
        written = _with_findings(cases)
        if not written:
            raise ValueError("cases: none of them has findings.")
        self.cases = cases.select_columns(list(COLUMNS)).select(written)
        latents = np.asarray(latents)
        self.latents = _unit(latents if len(written) == len(latents) else latents[written])
        self.encoder = encoder
        self.cases.add_faiss_index_from_external_arrays(self.latents, "latents", metric_type=_INNER_PRODUCT)
        self._studies = np.array(self.cases["study_id"][:])
        self._patients = np.array([patient or "" for patient in self.cases["patient_id"][:]])
        self._per_study, self._per_patient = Counter(self._studies.tolist()), Counter(self._patients.tolist())

    def __len__(self) -> int:
        return len(self.cases)

    @classmethod
    def build(cls, scorer, records: Dataset) -> "SimilarCases":
        """The index of a data set's images, as a `Scorer` reads them with view position and context."""
        records = records.select(_with_findings(records))
        latents = scorer.embed_images(records, "context")
        return cls(records.select_columns(list(COLUMNS)), latents, weights_fingerprint(scorer.model))

    def search(
        self,
        latents: torch.Tensor | np.ndarray,
        k: int = 1,
        exclude_study: Sequence[str | None] | None = None,
        exclude_patient: Sequence[str | None] | None = None,
    ) -> list[list[SimilarCase]]:
        """For each query the k nearest cases of different studies, best first; fewer where there are no more.

        Args:
            latents: (B, D) mean vision latents, at any length.
            exclude_study, exclude_patient: for each query a study, and a patient, that is not to be found; None or ""
                excludes none.

        Raises:
            ValueError: another width than the index's; another number of studies or patients than of queries.
        """
        queries = latents.float().cpu().numpy() if isinstance(latents, torch.Tensor) else np.asarray(latents)
        if queries.ndim != 2 or queries.shape[1] != self.latents.shape[1]:
            raise ValueError(f"latents: shape {queries.shape}; the index needs (B, {self.latents.shape[1]}).")
        excluded = []
        for name, values in (("exclude_study", exclude_study), ("exclude_patient", exclude_patient)):
            values = [""] * len(queries) if values is None else [value or "" for value in values]
            if len(values) != len(queries):
                raise ValueError(f"{name}: {len(values)} entries for {len(queries)} queries; give one for each.")
            excluded.append(values)
        found = []
        for start in range(0, len(queries), _QUERIES):
            part = slice(start, start + _QUERIES)
            found += self._search(_unit(queries[part]), k, excluded[0][part], excluded[1][part])
        return found

    def _search(self, queries: np.ndarray, k: int, studies: list[str], patients: list[str]) -> list[list[SimilarCase]]:
        # So many that k studies are left, whatever is excluded.
        hidden = max(
            self._per_study[study] + (self._per_patient[patient] if patient else 0)
            for study, patient in zip(studies, patients, strict=True)
        )
        wanted = min(len(self), k * max(self._per_study.values()) + hidden)
        scores, rows = self.cases.search_batch("latents", queries, wanted)
        return [
            self._allowed(*query, k, study, patient)
            for *query, study, patient in zip(scores, rows, studies, patients, strict=True)
        ]

    def _allowed(self, scores: np.ndarray, rows: np.ndarray, k: int, study: str, patient: str) -> list[SimilarCase]:
        seen, cases = {study}, []
        for score, row in zip(scores.tolist(), rows.tolist(), strict=True):
            if len(cases) == k:
                break
            if self._studies[row] in seen or (patient and self._patients[row] == patient):
                continue
            seen.add(self._studies[row])
            case = self.cases[row]
            cases.append(SimilarCase(case["findings"], case["study_id"], case["image_id"], score))
        return cases

    def check(self, encoder: torch.nn.Module) -> None:
        """
        Raises:
            ValueError: the index was made by a CoGaze with other weights.
        """
        found = weights_fingerprint(encoder)
        if self.encoder is not None and found != self.encoder:
            raise ValueError(
                f"similar_cases: the index was made by the encoder {self.encoder}, the model's is {found}; build it "
                "again from the model's own encoder."
            )

    def save(self, folder: str | Path) -> None:
        """Write the index to a folder of its own, whole or not at all; what was there is replaced."""
        folder = Path(folder)
        partial = folder.with_name(folder.name + ".part")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        self.cases.to_parquet(partial / "cases.parquet")
        save_file({"latents": self.latents}, partial / "latents.safetensors", metadata={"encoder": self.encoder or ""})
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(partial, folder)

    @classmethod
    def of_checkpoint(cls, checkpoint: str | Path) -> "SimilarCases | None":
        """The index beside a checkpoint, a folder or a Hub id; None where there is none."""
        folder = Path(checkpoint) / FOLDER
        if not Path(checkpoint).is_dir():
            folder = Path(snapshot_download(str(checkpoint), allow_patterns=f"{FOLDER}/*")) / FOLDER
        return cls.load(folder) if folder.is_dir() else None

    @classmethod
    def load(cls, folder: str | Path) -> "SimilarCases":
        """
        Raises:
            ValueError: `folder` holds no index.
        """
        cases, latents = (Path(folder) / name for name in ("cases.parquet", "latents.safetensors"))
        if not (cases.is_file() and latents.is_file()):
            raise ValueError(f"similar_cases: no index in {folder}; `cogaze index_similar_cases` writes one.")
        with safe_open(latents, "np") as file:
            encoder = file.metadata()["encoder"] or None
            # Not `Dataset.from_parquet`, which would leave a copy of the reports in its cache.
            return cls(Dataset(pyarrow.parquet.read_table(cases)), file.get_tensor("latents"), encoder)


def _with_findings(cases: Dataset) -> list[int]:
    return [row for row, findings in enumerate(cases["findings"][:]) if findings]


def _unit(latents: np.ndarray) -> np.ndarray:
    """The rows at length one, float32, in one copy: at MIMIC-CXR's size each takes 0.7 GiB."""
    latents = np.array(latents, np.float32)
    for start in range(0, len(latents), _QUERIES):
        part = latents[start : start + _QUERIES]
        part /= np.maximum(np.linalg.norm(part, axis=1, keepdims=True), 1e-12)
    return latents
