"""The demo's second half on a dozen studies."""

import csv
import json

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from modeling_cogaze import CoGazeConfig, CoGazeForPreTraining
from processing import CoGazeProcessor
from processing.datasets.label_texts import read_label_texts
from processing.datasets.sources.nih import MINI_COLUMNS
from processing.reports import split_sentences
from processing.tokenization import build_tokenizer
from training.data.sources import read_sources
from training.experiments.demo import demo_reports, joining_flags, real_radiographs
from training.metrics.reports import read_predictions
from training.metrics.scores import from_json
from training.pretraining.training import settings_of
from training.runs.files import CONFIGS


def test_reports_are_trained_scored_and_drawn(small_phantom, tiny_run, tmp_path, capsys):
    tokenizer = build_tokenizer(small_phantom["findings"], 400)
    torch.manual_seed(0)
    overrides = json.loads(tiny_run["model_overrides"])
    config = CoGazeConfig.tiny(vocab_size=len(tokenizer), **overrides)
    checkpoint = tmp_path / "pretrained"
    CoGazeForPreTraining(config).save_pretrained(checkpoint)
    CoGazeProcessor.for_model(tokenizer, config).save_pretrained(checkpoint)

    settings = yaml.safe_load((CONFIGS / "report" / "demo.yaml").read_text())
    data = {name: json.loads(tiny_run[name]) for name in ("train_data", "validation_data")}
    small = {"num_train_epochs": 12, "max_new_tokens": 40, "use_cpu": True, "report_to": "none", "disable_tqdm": True}
    small |= {"eval_strategy": "no", "save_strategy": "no", "load_best_model_at_end": False}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(settings | data | small))
    steps = []
    result = demo_reports(
        checkpoint, small_phantom, small_phantom, tmp_path, steps.append, config=str(tmp_path / "config.yaml")
    )
    assert len(steps) == 2
    assert json.loads((tmp_path / "report.json").read_text())["studies"] == result["studies"] == 12
    score = from_json(result["scores"])["Phantom labels micro F1"]
    assert 0 <= score.interval[0] <= score.value <= score.interval[1] <= 1
    assert 0 <= score.baselines["most frequent report"] <= 1
    assert len(read_predictions(tmp_path / "reports.jsonl", allow_empty=True)) == 12
    reports = [json.loads(line)["generated_report"] for line in (tmp_path / "reports.jsonl").read_text().splitlines()]
    drawn = any(len(split_sentences(report)) > 2 for report in reports)
    assert drawn or not (tmp_path / "report.png").exists()
    printed = capsys.readouterr().out
    assert printed.count("  generated ") == 3 and "not that it is clinically useful" in printed


def test_real_radiographs_join_where_a_folder_of_them_is_given(tmp_path, monkeypatch):
    monkeypatch.delenv("COGAZE_REAL_DATA", raising=False)
    assert real_radiographs() is None
    monkeypatch.setenv("COGAZE_REAL_DATA", str(tmp_path))
    with pytest.raises(ValueError, match="NIH ChestX-ray14 can be had at https"):
        real_radiographs()
    for split, count in (("train", 3), ("val", 2)):
        rows = [[f"{split}{row}.png", "Pneumonia", f"{split}{row}", 50, "F", "PA"] for row in range(count)]
        for name, *_ in rows:
            Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / name)
        with open(tmp_path / f"{split}.csv", "w", newline="") as file:
            csv.writer(file).writerows([MINI_COLUMNS, *rows])
    assert {split: len(found) for split, found in real_radiographs().items()} == {"train": 3, "val": 2}
    flags = ["--config", str(CONFIGS / "pretrain" / "demo.yaml"), *joining_flags(), "--output_dir", str(tmp_path)]
    settings = settings_of(flags)
    mixed = yaml.safe_load((CONFIGS / "pretrain" / "real.yaml").read_text())
    assert settings["num_train_epochs"] == mixed["num_train_epochs"]
    assert settings["records_per_epoch"] == mixed["records_per_epoch"]
    entries = [entry for entry in json.loads(settings["train_data"]) if entry["name"] == "nih_sample"]
    (source,), _ = read_sources(entries, "train_data", read_label_texts())
    assert len(source) == 3 and source.text == "labels"
