"""Everything that can be measured, on pictures of two shapes and on a dozen rendered studies."""

import json

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from transformers import AutoModel, AutoModelForImageClassification, AutoModelForPreTraining, AutoProcessor

from modeling_cogaze import (
    CoGazeConfig,
    CoGazeForConditionalGeneration,
    CoGazeForImageClassification,
    CoGazeForSemanticSegmentation,
    EgmaConfig,
    EgmaForPreTraining,
)
from processing import CoGazeProcessor, EgmaProcessor
from processing.tokenization import build_tokenizer
from tests.training import small
from tests.training.shapes import records
from training import evaluate_all
from training.downstream_metrics import dice_scores
from training.published import published_measure

NAMES = ["Edema", "Fracture", "Pneumonia"]
SENTENCES = ["There is edema.", "No edema.", "There is a fracture. No edema.", "Clear lungs."]


@pytest.fixture(scope="module")
def data():
    """Two labels of the prompts in the places of the shapes', and reports."""
    reports = {"findings": lambda index: SENTENCES[index % 4]}
    both = {"labels": lambda index: [int(index % 2 == 0), 2 * (index % 4 < 2), 0]}
    return {split: records(split, NAMES, **reports, **both) for split in ("validation", "test")}


@pytest.fixture(autouse=True)
def sources(data, monkeypatch):
    """What the names in `--data` and its like stand for; a test may put in others."""
    known = dict(data)
    real = evaluate_all.load_data

    def load(spec, argument):
        name = (json.loads(spec) if isinstance(spec, str) else spec).get("name")
        return known[name] if name in known else real(spec, argument)

    monkeypatch.setattr(evaluate_all, "load_data", load)
    return known


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer([*SENTENCES, "Cough."], 300)


def saved(folder, model, tokenizer, processor_class=CoGazeProcessor) -> str:
    model.save_pretrained(folder)
    processor_class.for_model(tokenizer, model.config).save_pretrained(folder)
    return str(folder)


def evaluate(model, name="test", **options) -> dict:
    options = {"bootstrap": 10} | options
    flags = [part for option, value in options.items() for part in (f"--{option}", str(value))]
    return evaluate_all.main(["--model", str(model), "--data", json.dumps({"name": name}), *flags])


def test_a_dual_encoder_without_gaze(tiny_checkpoint, tmp_path):
    result = evaluate(tiny_checkpoint, output_dir=tmp_path)
    assert json.loads((tmp_path / "evaluation.json").read_text()) == result
    scores, missing = result["scores"], result["not_measured"]
    assert result["architecture"] == "CoGazeForPreTraining" and result["images"] == 24
    zero_shot = scores["zero-shot, macro AUROC"]
    assert zero_shot["low"] <= zero_shot["value"] <= zero_shot["high"] and zero_shot["beside"]["chance"] == 0.5
    assert {"zero-shot with context, macro AUROC", "image-to-report P@1", "report-to-image R@10"} <= scores.keys()
    assert all(score["low"] is not None for score in scores.values())
    assert missing["gaze"] == missing["phrase grounding"] == "the data have no gaze"
    assert "validation_data" in missing["zero-shot, macro F1"]
    assert "phantom" in missing["retrieval in a balanced gallery"]
    table = (tmp_path / "evaluation.md").read_text()
    assert "CoGaze: rsna 0.862, shenzhen 0.947" in table and "- gaze: the data have no gaze" in table
    assert "are cited" in table


def test_the_disease_head_is_the_pretrainings(tiny_checkpoint, data, tmp_path):
    result = evaluate(tiny_checkpoint, output_dir=tmp_path, validation_data='{"name": "validation"}', batch_size=5)
    # It knows fracture, in small letters, and edema.
    model = AutoModelForPreTraining.from_pretrained(tiny_checkpoint).eval()
    processor = AutoProcessor.from_pretrained(tiny_checkpoint)
    batch = processor.collate([record | {"findings": ""} for record in data["test"]])
    with torch.no_grad():
        logits = model(**{name: value for name, value in batch.items() if name not in ("labels", "study_ids")})
    labels = np.array(data["test"]["labels"]) > 0
    expected = [roc_auc_score(labels[:, 1 - column], logits.vision_logits[:, column]) for column in (0, 1)]
    found = {name: score["value"] for name, score in result["scores"].items() if name.startswith("disease head")}
    assert found["disease head, fracture: AUROC"] == pytest.approx(expected[0])
    assert found["disease head, macro AUROC"] == pytest.approx(np.mean(expected))
    assert "disease head, macro F1" in found and "zero-shot, macro F1" in result["scores"]


def test_a_checkpoint_without_a_disease_head(tiny_checkpoint, tmp_path):
    model = AutoModel.from_pretrained(tiny_checkpoint)
    model.save_pretrained(tmp_path)
    AutoProcessor.from_pretrained(tiny_checkpoint).save_pretrained(tmp_path)
    result = evaluate(tmp_path)
    assert result["architecture"] == "CoGazeModel" and "holds none" in result["not_measured"]["disease head"]
    assert not any(name.startswith("disease") for name in result["scores"])
    assert "zero-shot, macro AUROC" in result["scores"]


def test_a_rendered_study_has_gaze_masks_and_a_gallery(tiny_checkpoint, tiny_run, tmp_path):
    spec = tiny_run["train_data"]
    flags = ["--model", tiny_checkpoint, "--data", spec, "--train_data", spec, "--validation_data", spec]
    flags += ["--output_dir", str(tmp_path), "--bootstrap", "5", "--gallery_per_class", "1"]
    result = evaluate_all.main(flags)
    scores = result["scores"]
    assert scores["gaze, pointing game"]["beside"].keys() == {"chance", "mean map", "mean map per type of sentence"}
    assert scores["phrase grounding, contrast-to-noise ratio"]["low"] is not None
    assert scores["balanced gallery, image-to-report P@1"]["beside"]["chance"] == pytest.approx(0.2)
    assert "exclusive classes, accuracy" in scores and "class queries, text to image P@10" in scores
    # No label has ten positives among fourteen images.
    assert "ten positives" in result["not_measured"]["zero-shot"]
    assert "not that it is clinically useful" in (tmp_path / "evaluation.md").read_text()


def test_egma_is_measured_by_the_same_command(tokenizer, sources, tmp_path):
    torch.manual_seed(0)
    config = EgmaConfig.tiny(vocab_size=300, pooled_text_layers=1, **small.ENCODERS)
    model = saved(tmp_path, EgmaForPreTraining(config), tokenizer, EgmaProcessor)
    result = evaluate(model)
    assert (tmp_path / "evaluation.md").is_file()
    assert {"zero-shot, macro AUROC", "image-to-report P@1", "exclusive classes, accuracy"} <= result["scores"].keys()
    assert "no context" in result["not_measured"]["zero-shot with context"]
    assert result["not_measured"]["disease head"] == "EGMA has none"
    sources["test"] = records("test", ["Mass", "Nodule", "Scar"], findings=lambda index: "")
    result = evaluate(model)
    assert not result["scores"]
    assert result["not_measured"]["retrieval of reports"] == "the data have no reports"
    assert "none of the data's labels: Mass, " in result["not_measured"]["zero-shot"]
    assert "two are needed" in result["not_measured"]["exclusive classes"]


@pytest.fixture(scope="module")
def classifier(tokenizer, tmp_path_factory):
    torch.manual_seed(0)
    labels = {0: "fracture", 1: "Hernia", 2: "Edema"}
    fields = {"id2label": labels, "problem_type": "multi_label_classification"}
    config = CoGazeConfig.tiny(vocab_size=300, **small.COGAZE, **fields)
    return saved(tmp_path_factory.mktemp("classifier"), CoGazeForImageClassification(config), tokenizer)


def test_a_classifier_by_the_labels_it_shares_with_the_data(classifier, data, tmp_path):
    result = evaluate(classifier, output_dir=tmp_path, batch_size=7)
    model = AutoModelForImageClassification.from_pretrained(classifier)
    processor = AutoProcessor.from_pretrained(classifier)
    batch = processor.collate([record | {"findings": "", "labels": []} for record in data["test"]])
    inputs = {name: value for name, value in batch.items() if name in ("pixel_values", "view_position_ids")}
    inputs |= {name: value for name, value in batch.items() if name.startswith("context")}
    with torch.no_grad():
        logits = model.eval()(**inputs).logits
    labels = np.array(data["test"]["labels"]) > 0
    score = result["scores"]["classification, Edema: AUROC"]
    assert score["value"] == pytest.approx(roc_auc_score(labels[:, 0], logits[:, 2]))
    assert "classification, Hernia: AUROC" not in result["scores"]
    macro = result["scores"]["classification, macro AUROC"]
    assert {entry["data"] for entry in macro["published"]} == {"nih", "shenzhen"}
    assert "validation_data" in result["not_measured"]["classification, F1"]
    assert "started from" in result["not_measured"]["zero-shot"]
    result = evaluate(classifier, output_dir=tmp_path, validation_data='{"name": "validation"}')
    assert result["scores"]["classification, macro F1"]["low"] is not None


def test_a_classifier_of_other_labels(classifier, sources, tmp_path):
    sources["test"] = records("test", ["Mass", "Nodule", "Scar"])
    result = evaluate(classifier, output_dir=tmp_path)
    assert "none of the data's labels: Mass, Nodule, Scar" in result["not_measured"]["classification"]
    assert not result["scores"]


def test_masks(tokenizer, sources, tmp_path):
    torch.manual_seed(0)
    fields = {"id2label": {0: "Mass", 1: "Fracture"}, "problem_type": "multi_label_classification"}
    network = CoGazeForSemanticSegmentation(CoGazeConfig.tiny(vocab_size=300, **small.COGAZE, **fields)).eval()
    model = saved(tmp_path, network, tokenizer)
    result, again = evaluate(model), evaluate(model, batch_size=5)
    assert {name: score["value"] for name, score in again["scores"].items()} == pytest.approx(
        {name: score["value"] for name, score in result["scores"].items()}
    )
    processor = AutoProcessor.from_pretrained(tmp_path)
    batch = processor.collate([record | {"findings": "", "labels": []} for record in sources["test"]])
    inputs = {name: batch[name] for name in ("pixel_values", "view_position_ids")}
    inputs |= {name: value for name, value in batch.items() if name.startswith("context")}
    with torch.no_grad():
        predicted = network(**inputs).logits[:, 0].sigmoid() > 0.5
    mask = torch.zeros_like(predicted)
    for index, record in enumerate(sources["test"]):
        for region in record["regions"]:
            if region["label"] == "Mass":
                mask[index] = torch.from_numpy(np.array(region["mask"]) > 0)
    overlap = (predicted & mask).sum((1, 2))[:, None].numpy()
    sizes = [x.sum((1, 2))[:, None].numpy() for x in (predicted, mask)]
    expected = dice_scores(overlap, *sizes, ["Mass"])["dice_lesion"]
    found = result["scores"]["segmentation, Mass: Dice on images with one"]
    assert found["value"] == pytest.approx(expected) and found["low"] <= found["value"] <= found["high"]
    assert "CoGaze: rsna 0.802, tbx11k 0.966" in (tmp_path / "evaluation.md").read_text()
    sources["test"] = records("test", regions=lambda index: [])
    assert evaluate(model)["not_measured"]["segmentation"] == "the data have no masks or boxes"


def test_reports(tokenizer, sources, tmp_path):
    torch.manual_seed(0)
    config = CoGazeConfig.tiny(vocab_size=len(tokenizer), **small.COGAZE).add_decoder(tokenizer)
    network = CoGazeForConditionalGeneration(config)
    network.generation_config.update(max_new_tokens=8)
    model = saved(tmp_path, network, tokenizer)
    result = evaluate(model, metrics="rouge")
    assert list(result["scores"]) == ["reports, ROUGE-L"]
    published = result["scores"]["reports, ROUGE-L"]["published"]
    assert {"system": "MLRG", "paper": "arXiv 2603.26049", "data": "mimic_cxr", "value": 0.32} in published
    result = evaluate(model, metrics="chexbert")
    assert not result["scores"] and "reports, CheXbert-14 micro F1" in result["not_measured"]
    sources["test"] = records("test", findings=lambda index: "")
    assert evaluate(model)["not_measured"]["reports"] == "the data have no reference reports"


def test_published_numbers_of_the_same_data_come_first():
    assert [entry["value"] for entry in published_measure("zero_shot_auroc", "rsna")] == [0.862]
    nih = published_measure("classification_auroc", "nih")
    assert [(entry["system"], entry["of"], entry["value"]) for entry in nih][:2] == [
        ("CoGaze", "1 % of labels", 0.807),
        ("CoGaze", "10 %", 0.844),
    ]
    assert {entry["data"] for entry in published_measure("dice", "phantom")} == {"rsna", "tbx11k"}
    assert published_measure("unknown") == []


def test_what_cannot_be_evaluated_is_refused(tiny_checkpoint, sources, tmp_path):
    with pytest.raises(ValueError, match="model: .*none cannot be opened"):
        evaluate(tmp_path / "none", output_dir=tmp_path)
    with pytest.raises(ValueError, match="output_dir: missing"):
        evaluate("org/name")
    (tmp_path / "config.json").write_text('{"model_type": "bert", "architectures": ["BertModel"]}')
    with pytest.raises(ValueError, match="is a BertModel; give a CoGaze or an EGMA"):
        evaluate(tmp_path)
    with pytest.raises(ValueError, match="data: give the data set's name"):
        evaluate_all.main(["--model", tiny_checkpoint, "--data", "{}", "--output_dir", str(tmp_path)])
    sources["test"] = records("test", view_position=lambda index: "SIDEWAYS")
    with pytest.raises(ValueError, match="^data: All 24 records are unusable; the first: .*SIDEWAYS"):
        evaluate(tiny_checkpoint, output_dir=tmp_path)
    sources["validation"] = sources["test"].select([])
    with pytest.raises(ValueError, match="^validation_data: it has no records"):
        sources["test"] = records("test")
        evaluate(tiny_checkpoint, output_dir=tmp_path, validation_data='{"name": "validation"}')


def test_unusable_records_are_counted(tiny_checkpoint, sources, tmp_path):
    sources["test"] = records("test", view_position=lambda index: "SIDEWAYS" if index == 3 else "PA")
    result = evaluate(tiny_checkpoint, output_dir=tmp_path)
    assert result["images"] == 23 and sum(result["skipped_records"].values()) == 1
    assert "Left out: 1 unusable records" in (tmp_path / "evaluation.md").read_text()
