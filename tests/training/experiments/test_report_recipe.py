"""The recipe of report generators: trained once, scored, compared."""

import json

import pytest

from modeling_cogaze import CoGazeConfig, CoGazeForPreTraining
from processing import CoGazeProcessor
from processing.tokenization import build_tokenizer
from tests import small
from tests.training.training_runs import flags
from training.experiments import report_recipe as run_report_recipe


@pytest.fixture(scope="module")
def checkpoint(small_phantom, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pretrained")
    tokenizer = build_tokenizer(small_phantom["findings"], 400)
    config = CoGazeConfig.tiny(vocab_size=len(tokenizer), **small.COGAZE)
    CoGazeForPreTraining(config).save_pretrained(folder)
    CoGazeProcessor.for_model(tokenizer, config).save_pretrained(folder)
    return folder


@pytest.fixture
def arguments(checkpoint, tiny_run, tmp_path):
    data = {"train_data": tiny_run["train_data"], "test_data": tiny_run["train_data"]}
    own = {name: tiny_run[name] for name in ("validation_data", "report_to", "disable_tqdm", "use_cpu")}
    own |= {"checkpoint": checkpoint, "output_dir": tmp_path, "num_train_epochs": 1, "epoch_studies": 2}
    return flags(data | own, num_beams=1, max_new_tokens=30, encode_once=1)


def test_variants_are_trained_once_and_stand_beside_the_most_frequent_report(arguments, tmp_path, capsys):
    variants = ["--variants", "free text", "structured"]
    results = run_report_recipe.main([*arguments, *variants])
    assert results["free text"]["studies"] == 12
    assert 0 <= results["free text"]["most_frequent_report_label_micro_f1"] <= 1
    assert results["structured"]["constrained_structure_validity"] == 1.0
    table = (tmp_path / "table.md").read_text()
    assert table in capsys.readouterr().out
    names = [line.split("|")[1].strip() for line in table.splitlines()[2:6]]
    assert names == ["free text", "most frequent report", "structured", "structured, constrained"]

    marked = tmp_path / "free-text" / "metrics.json"
    marked.write_text(json.dumps(results["free text"] | {"bleu_4": 0.125}))
    again = run_report_recipe.main([*arguments, "--variants", "free text"])
    assert again["free text"]["bleu_4"] == 0.125, "a finished variant was run again"


def test_structured_reports_ask_for_the_free_text_generator(arguments):
    with pytest.raises(ValueError, match="train 'free text' first"):
        run_report_recipe.main([*arguments, "--variants", "structured"])
