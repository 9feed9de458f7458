import json

import numpy as np
import pytest
import torch
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from modeling_cogaze import CoGazeConfig, CoGazeForPreTraining
from processing import CoGazeProcessor
from processing.tokenization import build_tokenizer
from training import index_similar_cases
from training.evaluation.scorers import load_scorer
from training.reports.similar_cases import SimilarCases


def make_index(studies: list[int], patients: list[int], width: int = 4, seed: int = 0) -> SimilarCases:
    """One image per entry; `patients[s]` is the patient of study s."""
    latents = np.random.default_rng(seed).normal(size=(len(studies), width))
    cases = Dataset.from_dict(
        {
            "findings": [f"findings {row}" for row in range(len(studies))],
            "study_id": [f"s{study}" for study in studies],
            "patient_id": [f"p{patients[study]}" for study in studies],
            "image_id": [f"i{row}" for row in range(len(studies))],
        }
    )
    return SimilarCases(cases, latents)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(0, 7), min_size=1, max_size=24),
    st.lists(st.integers(0, 3), min_size=8, max_size=8),
    st.integers(1, 5),
    st.integers(0, 2**32 - 1),
)
def test_search_is_the_brute_force_search_without_own_study_and_patient(studies, patients, k, seed):
    index = make_index(studies, patients, seed=seed)
    rng = np.random.default_rng(seed)
    # Every indexed image as a query, and a stranger.
    queries = np.concatenate([index.latents * rng.uniform(0.1, 9, (len(index), 1)), rng.normal(size=(1, 4))])
    own = [f"s{study}" for study in studies] + [None]
    own_patients = [f"p{patients[study]}" for study in studies] + [""]
    found = index.search(queries, k, own, own_patients)
    cosines = queries @ index.latents.T / np.linalg.norm(queries, axis=1, keepdims=True)
    for row, cases in enumerate(found):
        best = {}
        for other, (study, cosine) in enumerate(zip(studies, cosines[row], strict=True)):
            if f"s{study}" != own[row] and f"p{patients[study]}" != own_patients[row]:
                best[f"s{study}"] = max(best.get(f"s{study}", (-2, "")), (cosine, f"i{other}"))
        expected = sorted(best.values(), reverse=True)[:k]
        assert [case.score for case in cases] == pytest.approx([score for score, _ in expected], abs=1e-5)
        assert len({case.study_id for case in cases}) == len(cases)
        for case in cases:
            assert case.study_id != own[row]
            assert case.findings == f"findings {case.image_id[1:]}"
            assert f"p{patients[int(case.study_id[1:])]}" != own_patients[row]


def test_saved_index_finds_the_same(tmp_path):
    index = make_index([0, 0, 1, 2, 3], [0, 0, 1, 1])
    index.encoder = "abc"
    folder = tmp_path / "model" / "similar_cases"
    index.save(folder)
    index.save(folder)
    again = SimilarCases.load(folder)
    queries = torch.randn(3, 4)
    for found, expected in zip(again.search(queries, 2), index.search(queries, 2), strict=True):
        assert [case.image_id for case in found] == [case.image_id for case in expected]
        assert [case.score for case in found] == pytest.approx([case.score for case in expected], abs=1e-6)
    assert again.encoder == "abc"
    assert {path.suffix for path in folder.iterdir()} == {".parquet", ".safetensors"}
    assert list(folder.parent.iterdir()) == [folder]


def test_images_without_findings_are_not_indexed():
    cases = Dataset.from_dict({name: ["", "x"] for name in ("findings", "study_id", "patient_id", "image_id")})
    assert len(SimilarCases(cases, np.eye(2))) == 1
    with pytest.raises(ValueError, match="none of them has findings"):
        SimilarCases(cases.select([0]), np.eye(2)[:1])


def test_wrong_input_is_named(tmp_path):
    index = make_index([0, 1], [0, 1])
    with pytest.raises(ValueError, match=r"latents: shape \(2, 3\)"):
        index.search(np.zeros((2, 3)))
    with pytest.raises(ValueError, match="exclude_study: 1 entries for 2 queries"):
        index.search(np.ones((2, 4)), exclude_study=["s0"])
    with pytest.raises(ValueError, match="latents: 3 for 2 cases"):
        SimilarCases(index.cases, np.zeros((3, 4)))
    with pytest.raises(ValueError, match="no index in"):
        SimilarCases.load(tmp_path)


@pytest.fixture(scope="module")
def checkpoint(small_phantom, tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    tokenizer = build_tokenizer(small_phantom["findings"], 400)
    config = CoGazeConfig.tiny(vocab_size=len(tokenizer), vision_config={"image_size": 64})
    torch.manual_seed(0)
    CoGazeForPreTraining(config).save_pretrained(folder)
    CoGazeProcessor.for_model(tokenizer, config).save_pretrained(folder)
    return folder


def test_the_script_builds_an_index_beside_the_checkpoint(checkpoint, small_phantom, phantom_cache):
    data = {"name": "phantom", "split": "train", "size": 12, "image_size": 64, "num_proc": 1}
    data = json.dumps(data | {"cache_dir": str(phantom_cache)})
    index_similar_cases.main(["--checkpoint", str(checkpoint), "--data", data, "--batch_size", "5"])
    index = SimilarCases.load(checkpoint / "similar_cases")
    assert len(index) == len(small_phantom)
    scorer = load_scorer(str(checkpoint))
    index.check(scorer.model)
    latents = scorer.embed_images(small_phantom, "context")
    studies, patients = list(small_phantom["study_id"]), list(small_phantom["patient_id"])
    for study, own, other in zip(
        studies, index.search(latents), index.search(latents, 3, studies, patients), strict=True
    ):
        assert own[0].study_id == study
        assert own[0].score == pytest.approx(1, abs=1e-5)
        assert study not in {case.study_id for case in other}
    with torch.no_grad():
        scorer.model.shared_latents += 1
    with pytest.raises(ValueError, match="build it again"):
        index.check(scorer.model)
