"""Comparing two files of reports, ReXrank's form, protocols, and the boards' metrics on miniature models."""

import json
import subprocess

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertForTokenClassification

from tests.training.metrics.test_report_models import (  # noqa: F401  (fixtures)
    CONFIG,
    MINIATURE_RADGRAPH,
    PREDICTIONS,
    REFERENCES,
    WORDS,
    bert,
    chexbert_file,
    metrics_python,
)
from training import evaluate_reports
from training.metrics.reports import MetricOptions, ReportPairs, prepare_references, score_reports
from training.metrics.reports.chexbert import chexbert_embeddings, load_chexbert, open_chexbert
from training.metrics.reports.comparing import compare_reports, same_reports
from training.metrics.reports.rexrank import rexrank_form

WHOLE = {"reference_tokens": 0}


def rows(predictions, reference="No pleural effusion.", impressions=None):
    found = [
        {
            "dicom_id": f"d{place}",
            "study_id": f"s{place}",
            "patient_id": f"p{place // 2}",
            "reference_report": reference,
            "generated_report": text,
        }
        for place, text in enumerate(predictions)
    ]
    for row, text in zip(found, impressions or [], strict=False):
        row |= {
            "reference_impression": "Normal chest." if row["dicom_id"] != "d1" else "",
            "generated_impression": text,
        }
    return found


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_two_files_are_compared_whatever_their_order(tmp_path):
    good, bad = ["No pleural effusion."] * 6, ["Large mass."] * 5 + ["No pleural effusion."]
    first, second = write(tmp_path / "a.jsonl", rows(good)), write(tmp_path / "b.jsonl", rows(bad)[::-1])
    flags = ["--metrics", "rouge", "--reference_tokens", "0", "--rounds", "50", "--output_dir", str(tmp_path)]
    found = evaluate_reports.main(["--compare", first, second, *flags])
    (rouge,) = found["comparisons"]
    assert rouge["first"] == pytest.approx(1) and rouge["difference"] < -0.5 and rouge["exact"]
    # Of the 8 exchanges of three patients, the systems' own and their mirror differ most.
    assert rouge["p_randomisation"] == pytest.approx(2 / 8) and found["groups"] == 3
    assert json.loads((tmp_path / "comparison.json").read_text())["comparisons"][0] == rouge | {
        "interval": list(rouge["interval"])
    }
    assert "ROUGE-L" in (tmp_path / "comparison.md").read_text()


def test_files_of_other_reports_are_named(tmp_path):
    pairs = [ReportPairs.from_lists(["a b"] * n, ["a"] * n) for n in (2, 3)]
    with pytest.raises(ValueError, match="'2' is in y alone"):
        same_reports(*pairs, ["x", "y"])
    with pytest.raises(ValueError, match="another reference"):
        same_reports(pairs[0], pairs[0].with_references(["a b", "c"]), ["x", "y"])
    with pytest.raises(ValueError, match="give one of them"):
        evaluate_reports.main([])
    with pytest.raises(ValueError, match="compare: 1 files"):
        evaluate_reports.main(["--compare", "a.csv"])


def test_a_metric_that_is_missing_keeps_its_reason():
    pairs = ReportPairs.from_lists(REFERENCES, REFERENCES)
    options = MetricOptions(**WHOLE, chexbert_checkpoint="/nowhere/chexbert.pth")
    found, missing = compare_reports(pairs, pairs, ["rouge", "semb"], options, 20)
    assert [each.name for each in found] == ["ROUGE-L"] and "chexbert.pth" in missing["SembScore"]


def test_protocols_are_named_and_kept(tmp_path):
    pairs = ReportPairs.from_lists(REFERENCES, REFERENCES)
    assert prepare_references(pairs, ["bleu"], MetricOptions(protocol="whole")) == (pairs, "whole")
    with pytest.raises(ValueError, match="protocol: paper cuts references to 100 tokens.*--reference_tokenizer"):
        prepare_references(pairs, ["bleu"], MetricOptions(protocol="paper", reference_tokenizer=str(tmp_path / "no")))
    file = write(tmp_path / "a.jsonl", rows(["Clear."]))
    evaluate_reports.main(
        ["--predictions", file, "--metrics", "rouge", "--protocol", "whole", "--output_dir", str(tmp_path)]
    )
    assert "Protocol whole." in (tmp_path / "scores.md").read_text()


def test_rexranks_form(tmp_path):
    file = write(tmp_path / "a.jsonl", rows(["Clear.", "Small effusion."], impressions=["Normal.", "Effusion."]))
    flags = ["--metrics", "rouge", "--reference_tokens", "0"]
    evaluate_reports.main(["--predictions", file, *flags, "--rexrank", str(tmp_path / "sent.json")])
    sent = json.loads((tmp_path / "sent.json").read_text())
    assert sent["s0"] == {
        "dicom_id": ["d0"],
        "section_findings": "No pleural effusion.",
        "section_impression": "Normal chest.",
        "subject_id": "p0",
        "model_prediction": "Findings: Clear. Impression: Normal.",
    }
    with pytest.raises(ValueError, match="study 's0' has two rows"):
        rexrank_form([rows(["a"])[0]] * 2)
    # The impression is scored by itself; a study without one is left out.
    found = evaluate_reports.main(["--predictions", file, *flags, "--section", "impression"])
    assert found["reports"] == 1 and found["section"] == "impression"


def test_semb_score_is_the_cosine_of_chexberts_embeddings(chexbert_file, bert):  # noqa: F811
    options = MetricOptions(**WHOLE, chexbert_checkpoint=str(chexbert_file[0]), chexbert_tokenizer=bert)
    own = chexbert_embeddings(REFERENCES + PREDICTIONS, *open_chexbert(options)).astype(np.float64)
    first, second = np.split(own, 2)
    expected = (first * second).sum(1) / np.linalg.norm(first, axis=1) / np.linalg.norm(second, axis=1)
    pairs = ReportPairs.from_lists(REFERENCES, PREDICTIONS)
    assert score_reports(pairs, ["semb"], options, 0).values["SembScore"] == pytest.approx(expected.mean(), abs=1e-5)


def test_missing_models_are_named(tmp_path, chexbert_file):  # noqa: F811
    options = MetricOptions(**WHOLE, chexbert_checkpoint=str(chexbert_file[0]), metrics_python=str(tmp_path / "python"))
    scores = score_reports(
        ReportPairs.from_lists(REFERENCES, PREDICTIONS), ["radcliq", "ratescore", "green", "temporal"], options
    )
    assert len(scores.missing) == 7 and all("metrics_environment" in s.not_computed for s in scores.scores.values())


@pytest.mark.slow
def test_radcliq(metrics_python, chexbert_file, bert, tmp_path):  # noqa: F811
    folder = tmp_path / "radgraph"
    subprocess.run([metrics_python, "-c", MINIATURE_RADGRAPH, str(folder), bert], check=True, capture_output=True)
    options = MetricOptions(
        **WHOLE,
        metrics_python=metrics_python,
        chexbert_checkpoint=str(chexbert_file[0]),
        chexbert_tokenizer=bert,
        radcliq_radgraph_model=str(folder),
        radcliq_bertscore_model=bert,
        radcliq_bertscore_layer=1,
    )
    pairs = ReportPairs.from_lists(REFERENCES, [REFERENCES[0], "No pleural effusion.", REFERENCES[2]])
    values = score_reports(pairs, ["radcliq", "semb"], options, 0)
    assert not values.missing, values.scores
    values = values.values
    # The published coefficients of standardised parts (Yu et al., 2023), BLEU's being nearly zero.
    means, scales = (0.53792312, 0.61757256, 0.76479421), (0.30282584, 0.22430938, 0.25394391)
    weights = (-0.377083683, -0.3703001, -0.252616218)
    parts = (values["RadGraph combined"], values["BERTScore F1 (RadCliQ-v1's)"], values["SembScore"])
    expected = sum(w * (part - m) / s for w, part, m, s in zip(weights, parts, means, scales, strict=True))
    assert values["RadCliQ-v1 (less is better)"] == pytest.approx(expected, abs=1e-4)
    assert values["1/RadCliQ-v1"] == pytest.approx(1 / expected, rel=1e-3)
    options.radcliq_radgraph_model = str(tmp_path / "nowhere")
    found = score_reports(pairs, ["radcliq"], options, 0).scores["1/RadCliQ-v1"]
    assert "--radcliq_radgraph_model" in found.not_computed


@pytest.mark.slow
def test_ratescore(metrics_python, bert, tmp_path):  # noqa: F811
    kinds = ["ABNORMALITY", "NON-ABNORMALITY", "DISEASE", "NON-DISEASE", "ANATOMY"]
    names = ["O", *(f"{side}-{kind}" for kind in kinds for side in "BI")]
    torch.manual_seed(2)
    config = BertConfig(
        vocab_size=len(WORDS),
        max_position_embeddings=64,
        num_labels=len(names),
        id2label=dict(enumerate(names)),
        **CONFIG,
    )
    model = BertForTokenClassification(config)
    with torch.no_grad():  # every token is an entity of its own
        model.classifier.bias[1] = 1000
    folder = tmp_path / "ner"
    model.save_pretrained(folder)
    from transformers import BertTokenizer

    BertTokenizer.from_pretrained(bert).save_pretrained(folder)
    options = MetricOptions(
        **WHOLE, metrics_python=metrics_python, ratescore_ner_model=str(folder), ratescore_synonym_model=bert
    )
    same = score_reports(ReportPairs.from_lists(REFERENCES, REFERENCES), ["ratescore"], options, 0)
    assert same.values["RaTEScore"] == pytest.approx(1, abs=1e-4), same.scores
    other = score_reports(ReportPairs.from_lists(REFERENCES, PREDICTIONS), ["ratescore"], options, 0)
    assert 0 < other.values["RaTEScore"] < 1


def test_the_checkpoint_is_read_once_for_labels_and_embeddings(chexbert_file, bert):  # noqa: F811
    model = load_chexbert(str(chexbert_file[0]))
    tokens = torch.ones(2, 5, dtype=torch.long), torch.ones(2, 5, dtype=torch.long)
    with torch.no_grad():
        embedded = model.embed(*tokens)
        codes = [int(head(embedded[0]).argmax()) for head in model.linear_heads]
        assert model(*tokens)[0].tolist() == [{0: -1, 1: 1, 2: 0, 3: 2}[code] for code in codes]
