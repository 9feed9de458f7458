"""The demo's second half on a dozen studies."""

import json

import torch
import yaml

from modeling_cogaze import CoGazeConfig, CoGazeForPreTraining
from processing import CoGazeProcessor
from processing.reports import split_sentences
from processing.tokenization import build_tokenizer
from training.experiments.demo import demo_reports
from training.metrics.reports import read_predictions
from training.metrics.scores import from_json
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
