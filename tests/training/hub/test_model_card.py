"""Model cards say what was measured, and nothing else."""

import json
import re

import pytest
import yaml

from modeling_cogaze import CoGazeConfig, EgmaConfig
from processing.datasets import registry
from training.hub.model_card import measurements, model_card, read_metrics
from training.metrics.scores import Score

SCORES = {
    "zero_shot_macro_auroc": {"value": 0.66071, "interval": [0.6422, 0.678], "chance": 0.5},
    "zero_shot_macro_auroc_context": {
        "value": 0.6796,
        "interval": [0.6604, 0.7008],
        "chance": 0.5,
        "baselines": {"with a blank image": 0.5659},
    },
    "gaze_pointing_game": {"value": 0.831, "interval": [0.8175, 0.842], "baselines": {"mean map": 0.641}},
    "zero_shot_auroc/Pleural Effusion": {"value": 0.8314},
    "zero_shot_auroc/Pneumothorax": {"value": 0.5224},
    "zero_shot_auroc/Fracture": {"value": 0.5999},
    "zero_shot_auroc/Edema": {"value": 0.6001},
    "zero_shot_macro_auroc/sex/F": {"value": 0.652, "interval": [0.62, 0.68], "on": "300 images, 12 findings"},
    "reports": {"not_computed": "the checkpoint has no such head: fine-tune it"},
}
METRICS = {
    "measured_on": "681 images of 313 patients.",
    "test_data": {"source": "phantom", "split": "test"},
    "scores": SCORES,
}
TRAINING = {
    "train_runtime": 7200.0,
    "machine": {"processor": "Some CPU", "cores": 2},
    "train_data": {"source": "phantom", "split": "train", "records": 2765},
    "pretrained": [],
}


def saved(config, architecture):
    config.architectures = [architecture]
    return config


@pytest.fixture(scope="module")
def config():
    return saved(CoGazeConfig.tiny(), "CoGazeForPreTraining")


def parts(card) -> tuple[dict, str]:
    _, front, body = str(card).split("---\n", 2)
    return yaml.safe_load(front), body


def test_every_result_with_an_interval_is_a_row_beside_its_baselines(config):
    _, body = parts(model_card("org/cogaze", config, 1_840_000, [METRICS], TRAINING))
    for row in (
        "| zero-shot macro AUROC, image alone | 0.661 [0.642, 0.678] | chance 0.500 |",
        "| zero-shot macro AUROC, with indication and history | 0.680 [0.660, 0.701] | chance 0.500, "
        "with a blank image 0.566 |",
        "| gaze pointing game | 0.831 [0.818, 0.842] | mean map 0.641 |",
        "| sex F | 300 images, 12 findings | 0.652 [0.620, 0.680] |",
        "| Pleural Effusion | 0.831 |",
        "AUROC below 0.6): Fracture, Pneumothorax.",
    ):
        assert row in body
    assert "681 images of 313 patients." in body and "1,840,000 parameters" in body


def test_all_decimal_numbers_of_a_card_come_from_the_measurements(config):
    _, body = parts(model_card("org/cogaze", config, 1, [METRICS], TRAINING))
    text = body.split("## Citation")[0]
    numbers = set(re.findall(r"(?<![\d.])\d\.\d{3}(?!\d)", text))

    def values(part):
        if isinstance(part, dict):
            return [value for child in part.values() for value in values(child)]
        return [value for child in part for value in values(child)] if isinstance(part, list) else [part]

    known = {f"{value:.3f}" for value in values(METRICS) if isinstance(value, float)}
    assert numbers and numbers <= known


def test_the_metadata_is_what_the_hub_reads(config):
    front, _ = parts(model_card("org/cogaze", config, 1, [METRICS], TRAINING))
    (index,) = front["model-index"]
    first = index["results"][0]
    assert index["name"] == "cogaze" and first["dataset"]["type"] == "phantom" and first["dataset"]["split"] == "test"
    assert first["metrics"][0] == {"type": "roc_auc", "value": 0.6607, "name": "zero-shot macro AUROC, image alone"}
    assert front["license"] == "apache-2.0" and front["library_name"] == "transformers"
    assert "co2_eq_emissions" not in front and "base_model" not in front


def test_rendered_data_are_named_as_such(config):
    _, body = parts(model_card("org/cogaze", config, 1, [METRICS], TRAINING))
    assert "not that it is clinically useful" in body and "does not read real radiographs" in body
    assert "split `train`, 2,765 records. Licence: CC BY 3.0" in body and "armato2011lidc" in body
    front, body = parts(model_card("org/cogaze", config, 1, [METRICS], {}))
    assert "Not recorded with this checkpoint" in body and "Time and machine were not recorded" in body
    assert front["license"] == "other"


def test_earlier_training_and_its_agreements_are_named(config):
    training = TRAINING | {
        "started_from": {
            "name": "base",
            "train_runtime": 36000.0,
            "machine": {"gpus": ["Some GPU"]},
            "train_data": {"source": "mimic_cxr", "split": "train"},
            "pretrained": ["microsoft/rad-dino", "local"],
        }
    }
    front, body = parts(model_card("org/cogaze", config, 1, [METRICS], training))
    assert "Only people who have signed its agreement" in body and "johnson2019mimic" in body
    assert "120 minutes on 2 cores, Some CPU." in body and "Before that, as `base`: 600 minutes on Some GPU." in body
    assert front["base_model"] == ["microsoft/rad-dino"] and front["license"] == "other"
    assert "rendered from one CT:" not in body


def test_emissions_are_time_x_power_x_intensity(config):
    front, body = parts(model_card("org/cogaze", config, 1, [METRICS], TRAINING, watts=100, grams_per_kwh=400))
    assert front["co2_eq_emissions"]["emissions"] == pytest.approx(2 * 0.1 * 400)
    assert "about 80.0 g: training time x 100 W x 400 g/kWh" in body
    assert "not estimated" in parts(model_card("org/cogaze", config, 1, [METRICS], TRAINING, watts=100))[1]


@pytest.mark.parametrize(
    ("config", "auto_class"),
    [
        (saved(CoGazeConfig.tiny(), "CoGazeForZeroShotImageClassification"), "AutoModel"),
        (saved(CoGazeConfig.tiny(), "CoGazeForConditionalGeneration"), "AutoModelForImageTextToText"),
        (saved(EgmaConfig.tiny(), "EgmaForPreTraining"), "AutoModel"),
    ],
)
def test_three_lines_load_the_class_that_was_saved(config, auto_class):
    _, body = parts(model_card("org/name", config, 1, [METRICS], TRAINING))
    (lines,) = re.findall(r"```python\n(.*?)```", body, re.DOTALL)
    assert len(list(filter(None, lines.splitlines()))) == 3
    assert f'{auto_class}.from_pretrained("org/name", trust_remote_code=True)' in lines
    assert {"cogaze2026", "egma2024"} <= set(re.findall(r"@\w+\{(\w+),", body))


def test_measurements_have_an_interval_and_are_not_of_a_single_class():
    row = {"value": 0.81, "interval": [0.8, 0.82]}
    scores = {"BLEU-4": row, "CIDEr": {"not_computed": "no Java"}, "auroc/Edema": row, "macro_f1": {"value": 0.5}}
    assert measurements({"scores": scores}) == [Score("BLEU-4", 0.81, (0.8, 0.82))]


def test_metrics_of_other_weights_and_without_intervals_are_refused(tmp_path):
    path = tmp_path / "metrics.json"
    path.write_text(json.dumps(METRICS | {"weights": "abc"}))
    assert len(read_metrics([path], "abc")) == 1
    with pytest.raises(ValueError, match="measured on other weights"):
        read_metrics([path], "abd")
    for earlier in (
        {"zero_shot_macro_auroc": 0.6, "zero_shot_macro_auroc_interval": [0.5, 0.7]},
        {"scores": {"BLEU-4": {"value": 0.1, "low": 0.0, "high": 0.2}}},
    ):
        path.write_text(json.dumps(earlier))
        with pytest.raises(ValueError, match=r"metrics\.json: .*measure .*again"):
            read_metrics([path], "abc")
    path.write_text(json.dumps({"scores": {"zero_shot_macro_auroc": {"value": 0.6}}}))
    with pytest.raises(ValueError, match="no result with an interval"):
        read_metrics([path], "abc")
    with pytest.raises(ValueError, match="metrics: no file"):
        read_metrics([tmp_path / "none.json"], "abc")
    with pytest.raises(ValueError, match="metrics: none given"):
        read_metrics([], "abc")


def test_a_card_says_by_what_a_checkpoint_was_rewarded(config):
    rewarded = {"objective": "grpo", "rewards": {"gaze": 0.25, "length": 0.1}, "beta": 0.04, "steps": 1200}
    told = "Rewarded by GRPO in gaze (0.25), length (0.1), KL weight 0.04, 1,200 steps"
    for training in (
        TRAINING | {"reinforced": rewarded},
        TRAINING | {"started_from": TRAINING | {"reinforced": rewarded}},
    ):
        _, body = parts(model_card("org/cogaze", config, 1_840_000, [METRICS], training))
        assert told in " ".join(body.split())
    assert "Rewarded" not in str(model_card("org/cogaze", config, 1_840_000, [METRICS], TRAINING))


def test_every_source_of_a_mixture_is_named_with_its_licence(config):
    own = {"split": "train", "draws": 3}
    sources = {
        name: own | {"source": name, "records": 10 + place} for place, name in enumerate(("phantom", "mimic_eye"))
    }
    mixed = {"source": "phantom + mimic_eye", "split": None, "records": 21, "sources": sources}
    front, body = parts(model_card("org/cogaze", config, 1_840_000, [METRICS], TRAINING | {"train_data": mixed}))
    for name in sources:
        assert registry.source(name).title in body
    assert front["license"] == "other" and registry.source("mimic_eye").licence in body
