"""The recipe of report generators: trained once, scored, compared."""

import json

import pytest
import yaml

from modeling_cogaze import CoGazeConfig, CoGazeForPreTraining
from processing import CoGazeProcessor
from processing.tokenization import build_tokenizer
from tests import small
from tests.training.training_runs import flags
from training.experiments.plan import EXPERIMENTS
from training.experiments.running import run_experiment
from training.metrics.scores import from_json

LABEL_F1 = "Phantom labels micro F1"


@pytest.fixture(scope="module")
def checkpoint(small_phantom, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pretrained")
    tokenizer = build_tokenizer(small_phantom["findings"], 400)
    config = CoGazeConfig.tiny(vocab_size=len(tokenizer), **small.COGAZE)
    CoGazeForPreTraining(config).save_pretrained(folder)
    CoGazeProcessor.for_model(tokenizer, config).save_pretrained(folder)
    return folder


def test_variants_are_trained_once_and_stand_beside_the_most_frequent_report(checkpoint, tiny_run, tmp_path, capsys):
    values = yaml.safe_load((EXPERIMENTS / "report_recipe.yaml").read_text())
    values["scoring"]["test_data"] = json.loads(tiny_run["train_data"])
    (tmp_path / "recipe.yaml").write_text(json.dumps(values))
    own = {name: tiny_run[name] for name in ("train_data", "validation_data", "report_to", "disable_tqdm", "use_cpu")}
    own |= {"num_train_epochs": 1, "epoch_studies": 2}
    options = {
        "experiment": str(tmp_path / "recipe.yaml"),
        "checkpoint": [str(checkpoint)],
        "output_dir": str(tmp_path),
        "further": flags(own, num_beams=1, max_new_tokens=30, encode_once=1),
    }
    # The constrained reports are those of a generator that itself starts from another: both are trained for them.
    only = ["most frequent report", "structured, constrained"]
    tables = run_experiment(**options, only=only)
    usual, constrained = (from_json(row["scores"]) for row in tables["reports"]["rows"])
    assert constrained["Structure validity"].value == 1.0
    assert 0 <= usual[LABEL_F1].value <= 1 and usual[LABEL_F1].interval is not None
    assert constrained[LABEL_F1].baselines["most frequent report"] == pytest.approx(usual[LABEL_F1].value)
    table = (tmp_path / "table.md").read_text()
    assert table in capsys.readouterr().out and "No Finding is left out" in table

    marked = tmp_path / "free-text" / "metrics.json"
    metrics = json.loads(marked.read_text())
    assert metrics["studies"] == 12
    metrics["scores"]["BLEU-4"]["value"] = 0.125
    marked.write_text(json.dumps(metrics))
    (row,) = run_experiment(**options, only=["free text"])["reports"]["rows"]
    assert row["scores"]["BLEU-4"]["value"] == 0.125, "a finished variant was run again"
    assert row["training_minutes"] > 0
