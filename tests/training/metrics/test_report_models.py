"""Metrics with models, each on a miniature checkpoint in the published layout."""

import json
import stat
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification, BertModel, BertTokenizer

from training.metrics.reports import MetricOptions, ReportPairs, score_reports
from training.metrics.reports.chexbert import CheXbert, chexbert_labels, load_chexbert
from training.metrics.reports.environment import DEFAULT_FOLDER, ask, build, folder_python
from training.metrics.scores import MetricUnavailable

WORDS = (
    "[PAD] [UNK] [CLS] [SEP] [MASK] the heart is normal in size . no pleural effusion or pneumothorax lungs are clear "
    "moderate cardiomegaly small effusions a 1 2"
).split()
REFERENCES = ["The heart is normal in size.", "Lungs are clear.", "Moderate cardiomegaly. Small effusions."]
PREDICTIONS = ["The heart is normal in size.", "No pleural effusion.", ""]
CONFIG = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 1, "intermediate_size": 32}


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("bert"))
    torch.manual_seed(0)
    BertTokenizer(vocab={word: index for index, word in enumerate(WORDS)}).save_pretrained(folder)
    BertModel(BertConfig(vocab_size=len(WORDS), max_position_embeddings=64, **CONFIG)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def chexbert_file(tmp_path_factory):
    """Saved as the published file is: from a DataParallel model, with the training state beside it."""
    torch.manual_seed(1)
    model = CheXbert(BertConfig(vocab_size=len(WORDS), max_position_embeddings=64, **CONFIG))
    # Large weights, so that texts differ in their labels.
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter)
    state = {f"module.{name}": tensor for name, tensor in model.state_dict().items()}
    state["module.bert.embeddings.position_ids"] = torch.arange(64)[None]
    path = tmp_path_factory.mktemp("chexbert") / "chexbert.pth"
    torch.save({"epoch": 3, "model_state_dict": state, "optimizer_state_dict": {"lr": 0.1}}, path)
    return path, model.eval()


@torch.no_grad()
def test_chexbert_reads_the_published_layout(chexbert_file, bert):
    path, original = chexbert_file
    for given in (path, path.parent):
        loaded = load_chexbert(str(given))
        for name, tensor in original.state_dict().items():
            torch.testing.assert_close(loaded.state_dict()[name], tensor)

    tokenizer = BertTokenizer.from_pretrained(bert)
    codes = chexbert_labels(REFERENCES + PREDICTIONS, loaded, tokenizer, batch_size=2)
    assert (codes[0] != codes[1]).any()
    assert codes.shape == (6, 14) and set(np.unique(codes)) <= {-1, 0, 1, 2}
    assert set(codes[:, 13]) <= {-1, 1}
    for text, row in zip(REFERENCES + PREDICTIONS, codes, strict=True):
        hidden = original.bert(**tokenizer(text, return_tensors="pt")).last_hidden_state[0, 0]
        classes = [int(head(hidden).argmax()) for head in original.linear_heads]
        assert row.tolist() == [{0: -1, 1: 1, 2: 0, 3: 2}[c] for c in classes]


def test_chexbert_scores(chexbert_file, bert):
    options = MetricOptions(
        reference_tokens=0, chexbert_checkpoint=str(chexbert_file[0]), chexbert_tokenizer=bert, batch_size=2
    )
    same = score_reports(ReportPairs.from_lists(REFERENCES, REFERENCES), ["chexbert"], options, bootstrap=10)
    assert same.values["CheXbert-14 micro F1"] == 1 and len(same.scores) == 12
    other = score_reports(ReportPairs.from_lists(REFERENCES, PREDICTIONS), ["chexbert"], options, bootstrap=10)
    assert 0 <= other.values["CheXbert-14 micro F1"] < 1


def test_chexbert_refusals(tmp_path, chexbert_file, bert):
    with pytest.raises(MetricUnavailable, match="no file .*chexbert.pth.*--chexbert_checkpoint"):
        load_chexbert(str(tmp_path / "chexbert.pth"))
    with pytest.raises(MetricUnavailable, match="chexbert.pth of nobody/nothing"):
        load_chexbert("nobody/nothing")
    torch.save({"weights": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(MetricUnavailable, match="other.pth is no CheXbert checkpoint"):
        load_chexbert(str(tmp_path / "other.pth"))
    options = MetricOptions(
        reference_tokens=0, chexbert_checkpoint=str(chexbert_file[0]), chexbert_tokenizer=str(tmp_path)
    )
    scores = score_reports(ReportPairs.from_lists(REFERENCES, PREDICTIONS), ["chexbert"], options)
    assert "--chexbert_tokenizer" in scores.scores["CheXbert-14 micro F1"].not_computed


# The process


def test_a_metric_without_its_environment_says_how_to_make_it(tmp_path):
    options = MetricOptions(reference_tokens=0, metrics_python=str(tmp_path / "python"))
    scores = score_reports(
        ReportPairs.from_lists(REFERENCES, PREDICTIONS), ["radgraph", "bertscore", "srr_bert"], options
    )
    assert len(scores.missing) == 9 and not scores.values
    assert all("cogaze metrics_environment" in score.not_computed for score in scores.scores.values())


def test_a_python_without_the_package_is_named():
    with pytest.raises(MetricUnavailable, match="lacks a package .*cogaze metrics_environment"):
        ask("overlap", {"references": ["a"], "predictions": ["a"]}, sys.executable)


def test_a_process_that_hangs_or_breaks_is_ended(tmp_path):
    def script(body):
        path = tmp_path / "python"
        path.write_text(f"#!/bin/sh\n{body}\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        return str(path)

    begin = time.monotonic()
    with pytest.raises(MetricUnavailable, match="did not end within 0.5 s"):
        ask("check", {}, script("exec sleep 30"), timeout=0.5)
    assert time.monotonic() - begin < 20
    with pytest.raises(MetricUnavailable, match="exit code 7: boom"):
        ask("check", {}, script("echo boom >&2; exit 7"))


def test_the_environment_replaces_no_other_folder(tmp_path):
    (tmp_path / "mine.txt").write_text("x")
    with pytest.raises(ValueError, match="is not empty"):
        build(tmp_path)
    assert (tmp_path / "mine.txt").exists()


# With the environment


@pytest.fixture(scope="module")
def metrics_python():
    python = folder_python(DEFAULT_FOLDER)
    try:
        ask("check", {}, python, timeout=900)
    except MetricUnavailable as error:
        pytest.skip(f"the metrics' environment is not there: {error}")
    return python


STRUCTURED = [
    "Lungs and Airways:\n- Lungs are clear.\n\nPleura:\n- No pleural effusion.",
    "Cardiovascular:\n- Moderate cardiomegaly.",
]


@pytest.mark.slow
def test_bertscore(metrics_python, bert, tmp_path):
    baseline = tmp_path / "baseline.tsv"
    baseline.write_text("LAYER,P,R,F\n0,0.5,0.5,0.5\n1,0.5,0.5,0.5\n")
    options = MetricOptions(
        reference_tokens=0, bertscore_model=bert, bertscore_layer=1, metrics_python=metrics_python, batch_size=2
    )
    pairs = ReportPairs.from_lists(REFERENCES, [REFERENCES[0], REFERENCES[1], "No pleural effusion."])
    plain = score_reports(pairs, ["bertscore"], options, bootstrap=0).values
    assert 2 / 3 < plain["BERTScore F1"] < 1
    options.bertscore_baseline = str(baseline)
    rescaled = score_reports(pairs, ["bertscore"], options, bootstrap=0).values
    for name, value in plain.items():
        assert rescaled[f"{name} (rescaled)"] == pytest.approx((value - 0.5) / 0.5, abs=1e-5)


@pytest.mark.slow
def test_srr_bert(metrics_python, bert, tmp_path, monkeypatch):
    where = "import os, radeval.metrics.SRRBert as m; print(os.path.dirname(m.__file__))"
    package = subprocess.run([metrics_python, "-c", where], capture_output=True, text=True, check=True).stdout.strip()
    with open(f"{package}/leaves_mapping.json") as file:
        labels = len(json.load(file))
    torch.manual_seed(0)
    config = BertConfig(vocab_size=len(WORDS), max_position_embeddings=64, num_labels=labels, **CONFIG)
    BertForSequenceClassification(config).save_pretrained(tmp_path / "srr")
    # Sentence splitting without any learned abbreviation.
    punkt = tmp_path / "nltk" / "tokenizers" / "punkt_tab" / "english"
    punkt.mkdir(parents=True)
    for name in ("collocations.tab", "sent_starters.txt", "abbrev_types.txt", "ortho_context.tab"):
        (punkt / name).write_text("")
    monkeypatch.setenv("NLTK_DATA", str(tmp_path / "nltk"))
    options = MetricOptions(
        srr_bert_model=str(tmp_path / "srr"),
        srr_bert_tokenizer=bert,
        srr_bert_kind="leaves",
        metrics_python=metrics_python,
    )
    families = ["srr_bert", "section_srr_bert", "section_overlap"]
    same = score_reports(ReportPairs.from_lists(STRUCTURED, STRUCTURED), families, options)
    assert not same.missing
    # pycocoevalcap's BLEU-4 of a text of fewer than four words is near 0, whatever the texts.
    assert {name: value for name, value in same.values.items() if "BLEU" not in name} == pytest.approx(
        dict.fromkeys(set(same.values) - {"Section BLEU-4"}, 1)
    )
    assert 0 < same.values["Section BLEU-4"] < 1
    # One of three sections is shared.
    other = score_reports(
        ReportPairs.from_lists(STRUCTURED[:1], ["Pleura:\n- No pleural effusion.\n\nOther:\n- Small."]),
        families,
        options,
    )
    assert other.values["Section SRR-BERT F1"] == pytest.approx(1 / 3)
    assert other.values["Section ROUGE-L"] == pytest.approx(1 / 3)


@pytest.mark.slow
def test_radgraph(metrics_python, bert, tmp_path):
    folder = tmp_path / "radgraph-xl"
    ask_to_build = [metrics_python, "-c", MINIATURE_RADGRAPH, str(folder), bert]
    subprocess.run(ask_to_build, check=True, capture_output=True)
    options = MetricOptions(reference_tokens=0, radgraph_model=str(folder), metrics_python=metrics_python)
    values = score_reports(ReportPairs.from_lists(REFERENCES, REFERENCES[:2] + [""]), ["radgraph"], options).values
    assert values == pytest.approx({f"F1-RadGraph {level}": 2 / 3 for level in ("simple", "partial", "complete")})

    (folder / "weights.th").unlink()
    found = score_reports(ReportPairs.from_lists(REFERENCES, PREDICTIONS), ["radgraph"], options).scores
    row = found["F1-RadGraph simple"]
    assert "weights.th" in row.not_computed and "--radgraph_model" in row.not_computed


# RadGraph's archive in small: the package builds the model from the configuration, and what it would load is written.
MINIATURE_RADGRAPH = """
import json, os, sys
import nltk
nltk.download = lambda *args, **kwargs: False
import radeval
sys.modules["RadEval"] = radeval
import torch
from RadEval.metrics.radgraph._vendor import core

folder, bert = sys.argv[1:]
name = os.path.basename(folder)
os.makedirs(folder + "/vocabulary")
for file, lines in {
    "non_padded_namespaces": "*labels\\n*tags\\n",
    name + "__ner_labels": "\\nAnatomy::definitely present\\nObservation::definitely present\\n",
    name + "__relation_labels": "\\nlocated_at\\n",
}.items():
    open(f"{folder}/vocabulary/{file}.txt", "w").write(lines)
token = {"bert": {"max_length": 64, "model_name": bert}}
modules = {
    "coref": {"coref_prop": 0, "max_antecedents": 10, "spans_per_word": 0.3},
    "events": {"argument_spans_per_word": 0.8, "trigger_spans_per_word": 0.3, "loss_weights": {}},
    "ner": {},
    "relation": {"spans_per_word": 0.5},
}
model = {
    "type": "dygie", "embedder": {"token_embedders": token}, "initializer": {}, "module_initializer": {},
    "feature_size": 4, "feedforward_params": {"num_layers": 1, "hidden_dims": 8, "dropout": 0.0},
    "loss_weights": {"coref": 0.0, "ner": 0.2, "relation": 1.0, "events": 0.0}, "max_span_width": 2,
    "target_task": "relation", "modules": modules,
}
reader = {"max_span_width": 2, "token_indexers": token}
json.dump({"dataset_reader": reader, "model": model}, open(folder + "/config.json", "w"))
torch.save({}, folder + "/weights.th")

def write(self, state, strict=True):
    torch.manual_seed(0)
    for key, parameter in self.named_parameters():
        if "_embedder" not in key:
            torch.nn.init.normal_(parameter)
        if "ner_scorers" in key and parameter.shape == (2,):
            torch.nn.init.constant_(parameter, 1000.0)  # every span is an entity
    torch.save(self.state_dict(), folder + "/weights.th")

core.dygie.DyGIE.load_state_dict = write
core.RadGraph(model_type=name, model_cache_dir=os.path.dirname(folder))
"""
