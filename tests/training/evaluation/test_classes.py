from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from datasets import Dataset
from PIL import Image

from modeling_cogaze import EgmaConfig, EgmaModel
from processing import EgmaProcessor
from processing.datasets.records import describe, record_features
from processing.datasets.sources.common import blank_record
from processing.tokenization import build_tokenizer
from training.evaluation.classes import evaluate_classes, exclusive_classes
from training.evaluation.prompts import CLASS_PROMPTS as PROMPTS
from training.evaluation.prompts import combinatorial_prompts
from training.evaluation.scorers import EgmaScorer, load_scorer

LABELS = ["Edema", "Pneumonia", "Fracture"]


def records(labels, names=LABELS) -> Dataset:
    generator = np.random.default_rng(0)
    rows = [
        blank_record()
        | {
            "image": Image.fromarray(generator.integers(0, 255, (64, 48), dtype=np.uint8)),
            "image_width": 480,
            "image_height": 640,
            "image_id": f"i{i}",
            "study_id": f"s{i}",
            "patient_id": f"p{i // 2}",
            "view_position": "PA",
            "study_date": "",
            "findings": "There is edema. No fracture.",
            "labels": codes,
        }
        for i, codes in enumerate(labels)
    ]
    return describe(Dataset.from_list(rows, features=record_features()), label_names=list(names))


@pytest.fixture(scope="module", params=["global", "fine_grained"])
def scorer(request):
    torch.manual_seed(0)
    tokenizer = build_tokenizer(["There is edema. No fracture."], vocab_size=300)
    config = EgmaConfig.tiny(vocab_size=300, vision_config={"image_size": 64}, similarity=request.param)
    return EgmaScorer(EgmaModel(config), EgmaProcessor.for_model(tokenizer, config), batch_size=2)


def test_combinations_are_every_severity_subtype_and_location():
    table = {
        "A": {"finding": "a", "severities": ["", "mild"], "subtypes": ["x", "y"], "locations": ["left", "right"]},
        "B": {"phrases": ["big heart"]},
        "C": {"finding": "c"},
    }
    prompts = combinatorial_prompts(table)
    assert prompts["A"][:3] == ["x a left", "x a right", "y a left"] and len(set(prompts["A"])) == 8
    assert prompts["A"][-1] == "mild y a right"
    assert prompts["B"] == ["big heart"] and prompts["C"] == ["c"]
    drawn = combinatorial_prompts(table, per_class=3, seed=1)
    assert len(set(drawn["A"])) == 3 and set(drawn["A"]) <= set(prompts["A"]) and drawn["B"] == prompts["B"]
    # A class's draw does not hang on its neighbours.
    assert combinatorial_prompts({"A": table["A"]}, 3, 1)["A"] == drawn["A"]
    with pytest.raises(ValueError, match="'D' has neither"):
        combinatorial_prompts({"D": {}})


def test_shipped_prompts_cover_the_papers_classes():
    prompts = yaml.safe_load(Path(PROMPTS).read_text(encoding="utf-8"))
    combinations = combinatorial_prompts(prompts["combinations"])
    assert {"Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Pleural Effusion"} <= set(combinations)
    assert {name: len(combinations[name]) for name in ("Atelectasis", "Cardiomegaly", "Edema")} == {
        "Atelectasis": 3 * 7 * 10,
        "Cardiomegaly": 15,
        "Edema": 6 * 3,
    }
    assert len(prompts["queries"]) == 8 and all(len(queries) == 5 for queries in prompts["queries"].values())
    assert all("  " not in text and text == text.strip() for texts in combinations.values() for text in texts)


def test_only_images_of_one_class_take_part():
    dataset = records([[1, 0, 0], [1, 1, 0], [0, 2, -1], [0, 0, 1], [0, 0, 0]])
    names, rows, truth = exclusive_classes(dataset, ["Pneumonia", "Edema"])
    assert names == ["Edema", "Pneumonia"] and rows.tolist() == [0, 2] and truth.tolist() == [0, 1]
    single = records([[1], [0], [1]], ["pneumonia"])
    names, rows, truth = exclusive_classes(single, ["No Finding", "Pneumonia"])
    assert names == ["Pneumonia", "No Finding"] and rows.tolist() == [0, 1, 2] and truth.tolist() == [0, 1, 0]
    with pytest.raises(ValueError, match="two are needed"):
        exclusive_classes(dataset, ["Edema"])


def test_class_scores_are_the_mean_or_maximum_over_prompts(scorer):
    dataset = records([[1, 0, 0], [0, 1, 0], [0, 0, 1]])
    prompts = [["edema", "mild edema"], ["fracture"]]
    flat = scorer.similarity(dataset, "no_context", scorer.embed_texts([text for texts in prompts for text in texts]))
    for ensemble, over in (("mean", np.mean), ("max", np.max)):
        scorer.ensemble = ensemble
        scores = scorer.class_scores(dataset, "no_context", scorer.embed_classes(prompts))
        np.testing.assert_allclose(scores, np.stack([over(flat[:, :2], axis=1), flat[:, 2]], axis=1), atol=1e-6)


def test_a_report_is_its_sentences(scorer):
    dataset = records([[1, 0, 0]])
    report, first, second = scorer.similarity(
        dataset, "no_context", scorer.embed_texts(["There is edema. No fracture.", "There is edema.", "No fracture."])
    )[0]
    assert report != pytest.approx(first, abs=1e-6)
    # One sentence more, as padding or in the batch, changes nothing.
    alone = scorer.similarity(dataset, "no_context", scorer.embed_texts(["No fracture."]))
    assert alone[0, 0] == pytest.approx(second, abs=1e-5)


def test_scores_of_exclusive_classes(scorer):
    dataset = records([[1, 0, 0], [0, 1, 0], [1, 1, 0], [0, 1, 0]])
    prompts = {"Edema": ["edema"], "Pneumonia": ["pneumonia", "bacterial pneumonia"]}
    found = evaluate_classes(scorer, dataset, prompts, prompts, rounds=10)
    assert found["class_accuracy"].on == "3 images of one class each: Edema, Pneumonia"
    assert found["class_accuracy"].chance == pytest.approx(2 / 3)
    assert 0 <= found["class_accuracy"].value <= 1 and 0 <= found["class_f1"].value <= 1
    assert found["image_to_text_p@1"].on == found["class_accuracy"].on
    assert found["text_to_image_p@1"].on.startswith("3 queries")
    assert found["text_to_image_p@1"].chance == pytest.approx(5 / 9)
    fewer = evaluate_classes(scorer, dataset, prompts | {"Fracture": ["fracture"]}, prompts, list(prompts), rounds=10)
    assert fewer["class_accuracy"].on == found["class_accuracy"].on


def test_the_checkpoint_says_which_scorer(scorer, tmp_path):
    scorer.model.save_pretrained(tmp_path)
    scorer.processor.save_pretrained(tmp_path)
    loaded = load_scorer(str(tmp_path), ensemble="max")
    assert isinstance(loaded, EgmaScorer) and loaded.ensemble == "max"
