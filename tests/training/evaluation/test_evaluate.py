"""Everything that can be measured, on pictures of two shapes and on a dozen rendered studies."""

import json
import shutil

import numpy as np
import pytest
import torch
import yaml
from scipy.special import expit
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
from processing.datasets import registry
from processing.datasets.records import describe
from processing.tokenization import build_tokenizer
from tests import small
from tests.training.shapes import records
from training import evaluate as evaluate_all
from training.downstream.classifiers import open_classifier
from training.evaluation.classes import evaluate_classes
from training.evaluation.prompts import CLASS_PROMPTS, PROMPTS, combinatorial_prompts, read_prompts
from training.evaluation.published import PUBLISHED, published
from training.evaluation.scorers import load_scorer
from training.metrics.downstream import classification_scores, dice_scores

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
    return evaluate_all.main(["--checkpoint", str(model), "--data", json.dumps({"name": name}), *flags])


def measured_in(result: dict) -> dict:
    return {name: score for name, score in result["scores"].items() if "value" in score}


def missing_in(result: dict) -> dict:
    return {name: score["not_computed"] for name, score in result["scores"].items() if "not_computed" in score}


def within(score: dict) -> bool:
    return score["interval"][0] <= score["value"] <= score["interval"][1]


def test_a_dual_encoder_without_gaze(tiny_checkpoint, tmp_path):
    result = evaluate(tiny_checkpoint, output_dir=tmp_path)
    assert json.loads((tmp_path / "evaluation.json").read_text()) == result
    scores, missing = measured_in(result), missing_in(result)
    assert result["architecture"] == "CoGazeForPreTraining" and result["images"] == 24
    zero_shot = scores["zero_shot_macro_auroc"]
    assert within(zero_shot) and zero_shot["chance"] == 0.5
    assert {
        "zero_shot_macro_auroc_context",
        "retrieval_test_image_to_report_p@1",
        "retrieval_test_report_to_image_r@10",
    } <= scores.keys()
    assert all(
        "interval" in scores[name]
        for name in scores
        if not name.startswith(("zero_shot_auroc", "box_ap@0.3/"))
        and "same" not in name
        and not name.endswith(("context", "image"))
    )
    assert "published" not in scores["retrieval_test_image_to_report_p@1"] and "no one split" in result["notes"][-1]
    assert missing["gaze"] == missing["grounding"] == "the data have no gaze"
    assert "validation_data" in missing["zero_shot_macro_f1"]
    assert "phantom" in missing["retrieval_image_to_report"]
    table = (tmp_path / "evaluation.md").read_text()
    assert "- gaze: the data have no gaze" in table and "are cited" in table
    assert "| all images |" in table and "| 24 images with a report |" in table


def test_each_of_several_data_sets_is_scored_by_itself(tiny_checkpoint, sources, tmp_path):
    sources["wordless"] = records("test", NAMES, findings=lambda index: "")
    flags = ["--checkpoint", tiny_checkpoint, "--output_dir", str(tmp_path), "--bootstrap", "10"]
    found = evaluate_all.main([*flags, "--data", json.dumps([{"name": "test"}, {"name": "wordless"}])])
    assert json.loads((tmp_path / "test" / "evaluation.json").read_text()) == found["test"]
    retrieval = "retrieval_test_image_to_report_p@1"
    assert found["test"]["scores"][retrieval]["on"] == "24 images with a report"
    assert not any(name.startswith(retrieval) for name in measured_in(found["wordless"]))
    assert found["test"] == evaluate(tiny_checkpoint, output_dir=tmp_path / "alone")
    with pytest.raises(ValueError, match=r"data\[1\]: two are called 'test'"):
        evaluate_all.main([*flags, "--data", json.dumps([{"name": "test"}] * 2)])
    with pytest.raises(ValueError, match="validation_data: it goes with one data set"):
        more = ["--validation_data", json.dumps({"name": "validation"})]
        evaluate_all.main([*flags, *more, "--data", json.dumps([{"name": "test"}])])


def test_a_disease_against_normal(tiny_checkpoint, sources, tmp_path):
    """Images of another finding take no part; the published number is that of the same disease."""
    labels = [[0, int(index in (1, 3)), 1 - index % 2] for index in range(24)]
    sources["test"] = records("test", NAMES, labels=lambda index: labels[index])
    sources["validation"] = records("validation", NAMES, labels=lambda index: [0, 0, index % 2])
    result = evaluate(tiny_checkpoint, output_dir=tmp_path, validation_data='{"name": "validation"}')
    score = result["scores"]["zero_shot_pneumonia_auroc"]
    assert score["on"].startswith("22 images,") and within(score)
    assert [(entry["data"], entry["value"]) for entry in score["published"]] == [("rsna", 0.862)]
    assert result["scores"]["zero_shot_pneumonia_f1"]["published"][0]["value"] == 0.77
    scorer, prompts = load_scorer(tiny_checkpoint), read_prompts(PROMPTS)["classes"]
    kept = [row for row in range(24) if row not in (1, 3)]
    classes = scorer.embed_classes([prompts["pneumonia"], prompts["normal"]])
    scores = scorer.class_scores(sources["test"].select(kept), "no_context", classes)
    expected = roc_auc_score([labels[row][2] for row in kept], scores[:, 0] - scores[:, 1])
    assert score["value"] == pytest.approx(expected)

    sources["test"] = records("test", ["tuberculosis"], labels=lambda index: [index % 2])
    result = evaluate(tiny_checkpoint, output_dir=tmp_path)
    score = result["scores"]["zero_shot_tuberculosis_auroc"]
    assert [(entry["data"], entry["value"]) for entry in score["published"]] == [("shenzhen", 0.947)]
    assert "tuberculosis" in missing_in(result)["zero_shot_macro_auroc"]


def test_a_sample_is_its_own_gallery(tiny_checkpoint, sources, tmp_path):
    """Reports are alike by the sample's classes alone, and what is published of the sample stands beside."""
    names = ["Edema", "Cardiomegaly", "Fracture"]
    sample = records(
        "test", names, labels=lambda i: [i % 2, 1 - i % 2, int(i % 3 == 0)], findings=lambda i: SENTENCES[i % 4]
    )
    facts = {"source": "mimic_cxr", "sample": "5x200", "name": "mimic_5x200", "classes": names[:2]}
    sources["test"] = describe(sample, **facts)
    result = evaluate(tiny_checkpoint, output_dir=tmp_path)
    assert result["test_data"] == {"source": "mimic_cxr", "split": None, "sample": "5x200"}
    score = result["scores"]["retrieval_image_to_report_p@1"]
    assert score["chance"] == pytest.approx(0.5) and score["on"] == "24 images of the gallery"
    assert [(entry["data"], entry["value"]) for entry in score["published"]] == [("mimic_5x200", 0.755)]
    assert "published" not in result["scores"]["retrieval_report_to_image_p@1"]
    assert result["scores"]["retrieval_test_image_to_report_p@1"]["chance"] < 0.5
    assert result["scores"]["class_accuracy"]["on"].startswith("24 images of one class each: ")
    facts = {"source": "chexpert", "sample": "5x200", "name": "chexpert_5x200"}
    sources["test"] = describe(records("test", names, findings=lambda i: ""), **facts, classes=names[:2])
    result = evaluate(tiny_checkpoint, output_dir=tmp_path)
    assert missing_in(result)["retrieval_image_to_report"] == "the data have no reports"
    published = result["scores"]["class_accuracy"]["published"]
    assert {entry["data"] for entry in published} == {"chexpert_5x200"}


def test_images_without_a_report_stay(tiny_checkpoint, sources, tmp_path):
    sources["test"] = records("test", NAMES, findings=lambda index: SENTENCES[0] if index % 3 else "")
    result = evaluate(tiny_checkpoint, output_dir=tmp_path)
    assert result["images"] == 24 and not result["skipped_records"]
    assert result["scores"]["retrieval_test_image_to_report_p@1"]["on"] == "16 images with a report"
    sources["test"] = records("test", NAMES, labels=lambda index: [1, 0, 0] if index % 3 else [])
    assert evaluate(tiny_checkpoint, output_dir=tmp_path)["skipped_records"] == {"labels is empty": 8}


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
    found = {name: score["value"] for name, score in measured_in(result).items() if name.startswith("disease_head")}
    assert found["disease_head_auroc/fracture"] == pytest.approx(expected[0])
    assert found["disease_head_macro_auroc"] == pytest.approx(np.mean(expected))
    assert "disease_head_macro_f1" in found and "zero_shot_macro_f1" in result["scores"]


def test_a_checkpoint_without_a_disease_head(tiny_checkpoint, tmp_path):
    model = AutoModel.from_pretrained(tiny_checkpoint)
    model.save_pretrained(tmp_path)
    AutoProcessor.from_pretrained(tiny_checkpoint).save_pretrained(tmp_path)
    result = evaluate(tmp_path)
    assert result["architecture"] == "CoGazeModel" and "holds none" in missing_in(result)["disease_head"]
    assert not any(name.startswith("disease") for name in measured_in(result))
    assert "zero_shot_macro_auroc" in result["scores"]


def test_a_rendered_study_has_gaze_masks_and_a_gallery(tiny_checkpoint, tiny_run, tmp_path):
    train = tiny_run["train_data"]
    test, validation = (json.dumps(json.loads(train) | {"split": split}) for split in ("test", "validation"))
    flags = [
        "--output_dir",
        str(tmp_path),
        "--bootstrap",
        "5",
        "--gallery_per_class",
        "1",
        "--checkpoint",
        tiny_checkpoint,
    ]
    flags += ["--train_data", train]
    result = evaluate_all.main([*flags, "--data", test, "--validation_data", validation])
    scores = result["scores"]
    assert scores["gaze_pointing_game"]["baselines"].keys() == {"mean map", "mean map per type of sentence"}
    assert scores["grounding_cnr"]["interval"]
    assert scores["retrieval_image_to_report_p@1"]["chance"] == pytest.approx(0.2)
    assert "class_accuracy" in scores and "text_to_image_p@10" in scores
    # No label has ten positives among fourteen images.
    assert "ten positives" in missing_in(result)["zero_shot_macro_auroc"]
    assert "not that it is clinically useful" in (tmp_path / "evaluation.md").read_text()
    assert "spoken sentences" in scores["gaze_pointing_game"]["on"] and "no one split" not in str(result["notes"])
    with pytest.raises(ValueError, match="^validation_data: patient .* is in data as well"):
        evaluate_all.main([*flags, "--data", test, "--validation_data", test])
    # Neither are the default baselines averaged over what is evaluated, nor are training patients passed off as unseen.
    result = evaluate_all.main([*flags[:-2], "--data", train, "--validation_data", validation])
    assert "--train_data" in missing_in(result)["gaze_baseline_maps"]
    assert "the training split" in result["notes"][-1]


def test_egma_is_measured_by_the_same_command(tokenizer, sources, tmp_path):
    torch.manual_seed(0)
    config = EgmaConfig.tiny(vocab_size=300, pooled_text_layers=1, **small.ENCODERS)
    model = saved(tmp_path, EgmaForPreTraining(config), tokenizer, EgmaProcessor)
    result = evaluate(model)
    assert (tmp_path / "evaluation.md").is_file()
    assert {"zero_shot_macro_auroc", "retrieval_test_image_to_report_p@1", "text_to_image_p@1"} <= result[
        "scores"
    ].keys()
    of_class = {name for name in result["scores"] if name.startswith("class_accuracy_")}
    assert of_class == {"class_accuracy_max", "class_accuracy_mean"}
    scorer, prompts = load_scorer(model, ensemble="max"), yaml.safe_load(CLASS_PROMPTS.read_text())
    combinations = combinatorial_prompts(prompts["combinations"], 50)
    best = evaluate_classes(scorer, sources["test"], combinations, prompts["queries"], rounds=0)
    (found,) = (score["value"] for name, score in result["scores"].items() if name == "class_accuracy_max")
    assert found == best["class_accuracy"].value
    assert "no context" in missing_in(result)["zero_shot_macro_auroc_context"]
    assert missing_in(result)["disease_head"] == "EGMA has none"
    sources["test"] = records("test", ["Mass", "Nodule", "Scar"], findings=lambda index: "")
    result = evaluate(model)
    assert {name.split("_")[0] for name in measured_in(result)} == {"box"}  # their sentences are made of the labels
    assert missing_in(result)["retrieval_test_image_to_report"] == "the data have no reports"
    assert "none of the data's labels: Mass, " in missing_in(result)["zero_shot_macro_auroc"]
    assert "two are needed" in missing_in(result)["classes"]


@pytest.fixture(scope="module")
def classifier(tokenizer, tmp_path_factory):
    torch.manual_seed(0)
    labels = {0: "fracture", 1: "Hernia", 2: "Edema"}
    fields = {"id2label": labels, "problem_type": "multi_label_classification"}
    config = CoGazeConfig.tiny(vocab_size=300, **small.COGAZE, **fields)
    return saved(tmp_path_factory.mktemp("classifier"), CoGazeForImageClassification(config), tokenizer)


def test_a_classifier_by_the_labels_it_shares_with_the_data(classifier, data, sources, tmp_path):
    result = evaluate(classifier, output_dir=tmp_path, batch_size=7)
    model = AutoModelForImageClassification.from_pretrained(classifier)
    processor = AutoProcessor.from_pretrained(classifier)
    batch = processor.collate([record | {"findings": "", "labels": []} for record in data["test"]])
    inputs = {name: value for name, value in batch.items() if name in ("pixel_values", "view_position_ids")}
    inputs |= {name: value for name, value in batch.items() if name.startswith("context")}
    with torch.no_grad():
        logits = model.eval()(**inputs).logits
    labels = np.array(data["test"]["labels"]) > 0
    score = result["scores"]["classification_auroc/Edema"]
    assert score["value"] == pytest.approx(roc_auc_score(labels[:, 0], logits[:, 2]))
    assert "classification_auroc/Hernia" not in result["scores"]
    macro = result["scores"]["classification_macro_auroc"]
    assert {entry["data"] for entry in macro["published"]} == {"nih", "shenzhen"}
    assert "validation_data" in missing_in(result)["classification_macro_f1"]
    assert "started from" in missing_in(result)["alignment"]
    result = evaluate(classifier, output_dir=tmp_path, validation_data='{"name": "validation"}')
    assert result["scores"]["classification_macro_f1"]["interval"]
    other = describe(sources["validation"], label_names=NAMES[::-1])
    with pytest.raises(ValueError, match="validation_data: its label names differ"):
        sources["validation"] = other
        evaluate(classifier, output_dir=tmp_path, validation_data='{"name": "validation"}')


def test_what_fine_tuning_wrote_is_kept_to(classifier, data, sources, tmp_path):
    """Its thresholds come before the phantom's validation images, and it read no context."""
    folder = tmp_path / "classifier"
    shutil.copytree(classifier, folder)
    thresholds = {"fracture": 0.45, "Hernia": 0.5, "Edema": 0.55}
    record = {"settings": {"no_context": True}, "thresholds": thresholds}
    (folder / "metrics.json").write_text(json.dumps(record))
    sources["test"] = describe(data["test"].select(range(24)), source="phantom", split="test")
    result = evaluate(folder)
    opened = open_classifier(str(folder), use_context=False)
    predicted = expit(opened.logits(data["test"]))[:, [0, 2]]
    targets = (np.array(data["test"]["labels"]) > 0)[:, [1, 0]]
    expected = classification_scores(predicted, targets, ["fracture", "Edema"], thresholds)
    assert result["scores"]["classification_macro_f1"]["value"] == expected["macro_f1"]
    assert result["scores"]["classification_macro_auroc"]["value"] == expected["macro_auroc"]
    assert not result["notes"]
    record["settings"]["validation_data"] = '{"name": "phantom", "split": "test"}'
    (folder / "metrics.json").write_text(json.dumps(record))
    earlier = {"train_data": {"source": "phantom", "split": "test", "records": 9}}
    (folder / "training.json").write_text(json.dumps({"train_data": {"source": "nih"}, "started_from": earlier}))
    assert evaluate(folder)["notes"] == [
        "The checkpoint was trained on the same split, phantom test.",
        "Its epoch and thresholds were chosen on the same split, phantom test.",
    ]
    again = evaluate(folder, no_context=False)
    assert again["scores"]["classification_macro_auroc"] != result["scores"]["classification_macro_auroc"]


def test_a_broken_classifier_is_an_error(classifier, tiny_checkpoint, tmp_path):
    shutil.copytree(tiny_checkpoint, tmp_path / "broken")
    config = tmp_path / "broken" / "config.json"
    fields = json.loads(config.read_text()) | {"architectures": ["CoGazeForImageClassification"]}
    config.write_text(json.dumps(fields))
    with pytest.raises(ValueError, match="checkpoint: .* lacks classifier"):
        evaluate(tmp_path / "broken")
    shutil.copytree(classifier, tmp_path / "exclusive")
    config = tmp_path / "exclusive" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"problem_type": "single_label_classification"}))
    assert "exclusive" in missing_in(evaluate(tmp_path / "exclusive"))["classification"]


def test_a_classifier_of_other_labels(classifier, sources, tmp_path):
    sources["test"] = records("test", ["Mass", "Nodule", "Scar"])
    result = evaluate(classifier, output_dir=tmp_path)
    assert "none of the data's labels: Mass, Nodule, Scar" in missing_in(result)["classification"]
    assert not measured_in(result)


def test_masks(tokenizer, sources, tmp_path):
    torch.manual_seed(0)
    fields = {"id2label": {0: "Mass", 1: "Fracture"}, "problem_type": "multi_label_classification"}
    network = CoGazeForSemanticSegmentation(CoGazeConfig.tiny(vocab_size=300, **small.COGAZE, **fields)).eval()
    model = saved(tmp_path, network, tokenizer)
    result, again = evaluate(model), evaluate(model, batch_size=5)
    assert {name: score["value"] for name, score in measured_in(again).items()} == pytest.approx(
        {name: score["value"] for name, score in measured_in(result).items()}
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
    found = result["scores"]["segmentation_dice_lesion/Mass"]
    assert found["value"] == pytest.approx(expected) and within(found)
    assert "CoGaze: rsna 0.802, tbx11k 0.966" in (tmp_path / "evaluation.md").read_text()
    # Neither is anything but the data read, nor a class averaged that they have no mask of.
    with_masks = sources["test"]
    masses = records("test", regions=lambda index: [r for r in with_masks[index]["regions"] if r["label"] == "Mass"])
    sources["test"] = describe(masses, source="phantom")
    alone = evaluate(model, validation_data='{"name": "none"}')
    assert missing_in(alone)["segmentation_dice_lesion/Fracture"] == "the data have no mask of it"
    own = dice_scores(overlap, *sizes, ["Mass"])
    assert alone["scores"]["segmentation_dice"]["value"] == pytest.approx(own["dice"])
    (tmp_path / "metrics.json").write_text('{"settings": {"mask_threshold": 0.999}}')
    assert evaluate(model)["scores"]["segmentation_dice"]["value"] != pytest.approx(own["dice"])
    sources["test"] = records("test", regions=lambda index: [])
    assert missing_in(evaluate(model))["segmentation"] == "the data have no masks or boxes"


@pytest.mark.parametrize(
    ("label", "own", "measured"), [("lesion", NAMES, True), ("Scar", ["scar"], True), ("Scar", NAMES, False)]
)
def test_one_mask_of_all_regions(tokenizer, sources, tmp_path, label, own, measured):
    """A model of one label is not scored by the masks of others, unless all of them together are its label."""
    torch.manual_seed(0)
    fields = {"id2label": {0: label}, "problem_type": "multi_label_classification"}
    network = CoGazeForSemanticSegmentation(CoGazeConfig.tiny(vocab_size=300, **small.COGAZE, **fields))
    sources["test"] = records("test", own)
    result = evaluate(saved(tmp_path, network, tokenizer))
    assert ("segmentation_dice" in measured_in(result)) is measured
    assert ("segmentation" in missing_in(result)) is not measured


def test_reports(tokenizer, sources, tmp_path):
    torch.manual_seed(0)
    config = CoGazeConfig.tiny(vocab_size=len(tokenizer), **small.COGAZE).add_decoder(tokenizer)
    network = CoGazeForConditionalGeneration(config)
    network.generation_config.update(max_new_tokens=8)
    model = saved(tmp_path, network, tokenizer)
    result = evaluate(model, metrics="rouge")
    assert list(measured_in(result)) == ["ROUGE-L"]
    published = result["scores"]["ROUGE-L"]["published"]
    assert "References of free text: whole, unlike the papers'" in (tmp_path / "evaluation.md").read_text()
    assert result["scores"]["ROUGE-L"]["on"] == "24 studies"
    assert {"system": "MLRG", "paper": "arXiv 2603.26049", "data": "mimic_cxr", "value": 0.32} in published
    result = evaluate(model, metrics="chexbert")
    assert not measured_in(result) and "CheXbert-14 micro F1" in missing_in(result)
    sources["test"] = records("test", findings=lambda index: "")
    assert missing_in(evaluate(model))["reports"] == "the data have no reference reports"


def test_published_numbers_of_the_same_data_come_first():
    assert [entry["value"] for entry in published("class_accuracy", "rsna")] == [0.5781, 0.4309]
    nih = published("classification_macro_auroc", "nih")
    assert [(entry["system"], entry["of"], entry["value"]) for entry in nih][:2] == [
        ("CoGaze", "1 % of labels", 0.807),
        ("CoGaze", "10 %", 0.844),
    ]
    assert {entry["data"] for entry in published("segmentation_dice", "phantom")} == {"rsna", "tbx11k"}
    assert published("unknown") == []


def test_published_numbers_are_of_data_sets_that_can_be_loaded():
    """By the very names, else they would never be picked."""
    measures = yaml.safe_load(PUBLISHED.read_text(encoding="utf-8"))["measures"]
    known = {name for rows in measures.values() for row in rows for name in row["values"]}
    assert known <= set(registry.names())


def test_what_cannot_be_evaluated_is_refused(tiny_checkpoint, sources, tmp_path):
    with pytest.raises(ValueError, match="checkpoint: .*none cannot be opened"):
        evaluate(tmp_path / "none", output_dir=tmp_path)
    with pytest.raises(ValueError, match="output_dir: missing"):
        evaluate("org/name")
    (tmp_path / "config.json").write_text('{"model_type": "bert", "architectures": ["BertModel"]}')
    with pytest.raises(ValueError, match="is a BertModel; give a CoGaze or an EGMA"):
        evaluate(tmp_path)
    with pytest.raises(ValueError, match="data: give the data set's name"):
        evaluate_all.main(["--checkpoint", tiny_checkpoint, "--data", "{}", "--output_dir", str(tmp_path)])
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
