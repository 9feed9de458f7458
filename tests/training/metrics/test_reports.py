import json
import math
import shutil
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score, precision_score, recall_score
from torchmetrics.functional.text import bleu_score

from processing.datasets.records import CHEXBERT_OBSERVATIONS
from processing.reports import write_structured
from processing.tokenization import build_tokenizer
from training import evaluate_reports
from training.metrics.reports import (
    FAMILIES,
    MetricOptions,
    ReportPairs,
    label_scores,
    protocol_text,
    read_predictions,
    score_reports,
)
from training.metrics.reports.natural_language import _meteor, bleu, cider, meteor, rouge
from training.metrics.reports.structured import section_overlap, structure
from training.metrics.reports.text import cut_to_tokens

REFERENCES = [
    "The heart is normal in size. No pleural effusion or pneumothorax is seen.",
    "The lungs are clear.",
    "Moderate cardiomegaly. Small bilateral effusions, unchanged.",
    "There is a right-sided PICC line.",
]
PREDICTIONS = [
    "Heart size is normal. No pleural effusion or pneumothorax is seen today.",
    "Lungs are clear bilaterally.",
    "Moderate cardiomegaly. No effusion.",
    "",
]
PAIRS = ReportPairs.from_lists(REFERENCES, PREDICTIONS)
WHOLE = MetricOptions(reference_tokens=0)

words = st.lists(st.sampled_from("no the heart effusion lungs clear is . Small".split()), min_size=1, max_size=12)
texts = words.map(" ".join)
corpora = st.lists(st.tuples(texts, texts), min_size=1, max_size=6)


# Text


def test_protocol_text():
    assert (
        protocol_text("Clear.  No effusion.\n\tHeart 1.2 cm\u2014large.")
        == "Clear . No effusion . Heart 1 .2 cmlarge ."
    )
    assert protocol_text(" \u00b5\u00e9 ") == ""


@settings(max_examples=40, deadline=None)
@given(st.text())
def test_protocol_text_is_one_printable_line_with_single_spaces(text):
    prepared = protocol_text(text)
    assert all(" " <= character <= "~" for character in prepared)
    assert "  " not in prepared and prepared == prepared.strip()
    assert all(part in (".", "") or not part.endswith(".") for part in prepared.split(" "))
    kept = "".join(character for character in text if "!" <= character <= "~")
    assert prepared.replace(" ", "") == kept


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    build_tokenizer(REFERENCES * 20, vocab_size=300).save_pretrained(folder)
    return folder


def test_references_are_cut_to_tokens_with_bos_among_them(tokenizer):
    from transformers import AutoTokenizer

    loaded = AutoTokenizer.from_pretrained(tokenizer)
    tokens = loaded(" " + REFERENCES[0], add_special_tokens=False)["input_ids"]
    cut = cut_to_tokens([REFERENCES[0]], loaded, 10)[0]
    assert loaded(" " + cut, add_special_tokens=False)["input_ids"] == tokens[:9]
    assert cut_to_tokens(REFERENCES, loaded, 1000) == REFERENCES

    long = " ".join(["word"] * 500)
    pairs = ReportPairs.from_lists([long], [long])
    options = MetricOptions(reference_tokens=10, reference_tokenizer=str(tokenizer))
    scores = score_reports(pairs, ["bleu"], options, bootstrap=0)
    assert scores.values["BLEU-1"] < 0.1
    assert "1 of 1 changed" in scores.references


def test_without_a_tokenizer_references_stay_whole_and_the_result_says_so(tmp_path):
    options = MetricOptions(reference_tokenizer=str(tmp_path / "absent"))
    scores = score_reports(PAIRS, ["bleu"], options, bootstrap=0)
    assert scores.references.startswith("whole, unlike the papers'") and "--reference_tokenizer" in scores.references
    assert scores.values == score_reports(PAIRS, ["bleu"], WHOLE, bootstrap=0).values


# Natural language


def test_bleu_by_hand():
    pairs = ReportPairs.from_lists(["a b c d e f", "x y"], ["a b c d", "x z"])
    values = [score.value for score in bleu(pairs)]
    penalty = math.exp(1 - 8 / 6)
    matched = [(5, 6), (3, 4), (2, 2), (1, 1)]
    for order in range(1, 5):
        precision = math.prod(m / n for m, n in matched[:order]) ** (1 / order)
        assert values[order - 1] == pytest.approx(penalty * precision, rel=1e-6)


@settings(max_examples=40, deadline=None)
@given(corpora)
def test_bleu_agrees_with_torchmetrics_where_all_orders_match(corpus):
    references, predictions = ([text + " one two three four" for text in side] for side in zip(*corpus, strict=True))
    scores = bleu(ReportPairs.from_lists(references, predictions))
    for order, score in enumerate(scores, start=1):
        prepared = [protocol_text(text) for text in predictions], [[protocol_text(text)] for text in references]
        assert score.value == pytest.approx(float(bleu_score(*prepared, n_gram=order)), rel=1e-4)


@settings(max_examples=40, deadline=None)
@given(corpora)
def test_bleu_and_cider_equal_the_package(corpus):
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider

    references, predictions = (list(side) for side in zip(*corpus, strict=True))
    pairs = ReportPairs.from_lists(references, predictions)
    by_id = [{i: [protocol_text(text)] for i, text in enumerate(side)} for side in (references, predictions)]
    expected = Bleu(4).compute_score(*by_id, verbose=0)[0]
    np.testing.assert_allclose([score.value for score in bleu(pairs)], expected, rtol=1e-9)
    np.testing.assert_allclose(cider(pairs)[0].value, Cider().compute_score(*by_id)[0], atol=1e-9)


def test_rouge_by_hand():
    score = rouge(ReportPairs.from_lists(["the lungs are clear", "a b"], ["lungs clear today", "c"]))[0]
    precision, recall, beta = 2 / 3, 2 / 4, 1.2
    expected = (1 + beta**2) * precision * recall / (recall + beta**2 * precision)
    assert score.value == pytest.approx(expected / 2)


def test_identical_reports_score_one_and_case_counts():
    same = ReportPairs.from_lists(REFERENCES, REFERENCES)
    scores = bleu(same) + rouge(same)
    assert [score.value for score in scores] == pytest.approx([1] * 5, abs=1e-6)
    upper = ReportPairs.from_lists(REFERENCES, [text.upper() for text in REFERENCES])
    assert bleu(upper)[0].value < 0.4


def test_meteor_of_recorded_statistics():
    """Lines that the jar gave for three pairs, the last with an empty prediction, and its scores for them."""
    rows = [[10, 13, 6, 7, 4, 4, 4, 4] + [0] * 12 + [6, 8, 8], [5, 5, 2, 3, 2, 2, 2, 2] + [0] * 12 + [2, 4, 4]]
    rows = np.array([*rows, [0, 6, 0, 2] + [0] * 19], dtype=float)
    np.testing.assert_allclose(_meteor(rows), [0.2896350685415007, 0.4108986339976993, 0], rtol=1e-12)
    assert _meteor(rows.sum(axis=0)) == pytest.approx(0.23746724417858517, rel=1e-12)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("java") is None, reason="METEOR needs a Java runtime, and there is no java")
def test_meteor_equals_the_package():
    from pycocoevalcap.meteor.meteor import Meteor

    references = [protocol_text(text) for text in REFERENCES] + ["The lungs are clear ."]
    predictions = [protocol_text(text) for text in PREDICTIONS] + ["The lungs are clear ."]
    score = meteor(ReportPairs.from_lists(references, predictions))[0]
    corpus, single = Meteor().compute_score(
        {i: [text] for i, text in enumerate(references)}, {i: [text] for i, text in enumerate(predictions)}
    )
    assert score.value == pytest.approx(corpus, rel=1e-9)
    np.testing.assert_allclose(score.combine(score.statistics), single, rtol=1e-9)
    assert single[3] == 0 and single[4] == 1


def test_meteor_without_java_names_it(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    scores = score_reports(PAIRS, ["meteor"], WHOLE)
    assert scores.missing == ["METEOR"]
    reason = scores.scores["METEOR"].not_computed
    assert "Java" in reason and "`java`" in reason


# Labels


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 8), st.integers(1, 5), st.integers(0, 2**32 - 1))
def test_label_scores_equal_scikit_learn(reports, labels, seed):
    generator = np.random.default_rng(seed)
    truth, found = generator.random((2, reports, labels + 1)) < 0.4
    scores = {score.name: score.value for score in label_scores("L", truth, found, ("micro", "macro", "weighted"))}
    for average in ("micro", "macro", "weighted"):
        for name, metric in (("precision", precision_score), ("recall", recall_score), ("F1", f1_score)):
            expected = metric(truth, found, average=average, zero_division=0)
            assert scores[f"L {average} {name}"] == pytest.approx(expected)


def test_phantom_labels_against_the_file_and_without_no_finding():
    predictions = ["There is a left pleural effusion.", "No pneumothorax. The heart is enlarged."]
    codes = np.full((2, 14), -1)
    codes[0, CHEXBERT_OBSERVATIONS.index("Pleural Effusion")] = 1
    codes[1, CHEXBERT_OBSERVATIONS.index("Cardiomegaly")] = 2
    codes[1, CHEXBERT_OBSERVATIONS.index("Pneumothorax")] = 1
    codes[:, CHEXBERT_OBSERVATIONS.index("No Finding")] = 1
    pairs = ReportPairs.from_lists(["x", "y"], predictions)
    pairs.labels = codes
    values = score_reports(pairs, ["phantom"], WHOLE).values
    assert values["Phantom labels micro precision"] == 1
    assert values["Phantom labels micro recall"] == pytest.approx(2 / 3)
    assert values["Phantom labels macro F1"] == pytest.approx(2 / 13)

    pairs = ReportPairs.from_lists(predictions, predictions)
    assert score_reports(pairs, ["phantom"], WHOLE).values["Phantom labels micro F1"] == 1


# Structured reports

FULL = write_structured({"Pleura": ["No effusion."], "Cardiovascular": ["Normal heart size."]})


def test_structure_by_hand():
    predictions = [FULL, write_structured({"Pleura": ["No effusion."], "Other": ["None."]}), "free text"]
    values = {score.name: score.value for score in structure(ReportPairs.from_lists([FULL] * 3, predictions))}
    assert values["Sections precision"] == pytest.approx((1 + 1 / 2 + 0) / 3)
    assert values["Sections recall"] == pytest.approx((1 + 1 / 2 + 0) / 3)
    assert values["Structure validity"] == pytest.approx(2 / 3)


def test_reports_that_share_no_section_need_no_package():
    pairs = ReportPairs.from_lists([FULL], ["free text"])
    scores = section_overlap(pairs, MetricOptions(metrics_python="/nowhere"))
    assert [score.value for score in scores] == [0, 0]


# Files

GOOD = [
    {"dicom_id": "a", "subject_id": "p1", "reference_report": "One. Two.", "generated_report": "One."},
    {"dicom_id": "007", "subject_id": "p1", "reference_report": "Three,\nfour", "generated_report": "Three"},
]


def write_csv(path, rows):
    import pandas as pd

    pd.DataFrame(rows).to_csv(path, index=False)
    return path


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_read_predictions(tmp_path, suffix):
    path = tmp_path / f"file{suffix}"
    if suffix == ".csv":
        write_csv(path, GOOD)
    else:
        path.write_text("\n".join(json.dumps(row) for row in GOOD))
    pairs = read_predictions(path)
    assert pairs.ids == ["a", "007"]
    assert pairs.references == ["One. Two.", "Three,\nfour"]
    assert pairs.groups == ["p1", "p1"] and pairs.grouped_by == "subject_id"


def test_other_column_names_and_labels(tmp_path):
    rows = [{"study_id": "1", "reference": "r", "prediction": "p", "labels": "[1, 0, -1]"}]
    pairs = read_predictions(write_csv(tmp_path / "file.csv", rows))
    assert pairs.grouped_by == "report" and pairs.labels.tolist() == [[1, 0, -1]]


@pytest.mark.parametrize(
    "change, message",
    [
        ({"dicom_id": "a"}, "row 2, column dicom_id: the id 'a' is also that of row 1"),
        ({"dicom_id": None}, "row 2, column dicom_id: the id is missing"),
        ({"reference_report": float("nan")}, "row 2, column reference_report: the reference is empty or NaN"),
        ({"generated_report": None}, "row 2, column generated_report: .*--allow_empty"),
        ({"generated_report": "nan"}, "row 2, column generated_report"),
        ({"subject_id": None}, "row 2, column subject_id"),
    ],
)
@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_bad_rows_name_row_and_column(tmp_path, change, message, suffix):
    rows = [GOOD[0], GOOD[1] | change]
    path = tmp_path / f"file{suffix}"
    if suffix == ".csv":
        write_csv(path, rows)
    else:
        path.write_text("\n".join(json.dumps(row) for row in rows))
    with pytest.raises(ValueError, match=message):
        read_predictions(path)


def test_an_empty_prediction_may_be_allowed(tmp_path):
    path = write_csv(tmp_path / "file.csv", [GOOD[0], GOOD[1] | {"generated_report": ""}])
    assert read_predictions(path, allow_empty=True).predictions == ["One.", ""]


@pytest.mark.parametrize(
    "column, what", [("dicom_id", "id"), ("reference_report", "reference"), ("generated_report", "prediction")]
)
def test_a_missing_column_is_named(tmp_path, column, what):
    rows = [{key: value for key, value in row.items() if key != column} for row in GOOD]
    with pytest.raises(ValueError, match=f"no {what} column; it needs one of .*{column}"):
        read_predictions(write_csv(tmp_path / "file.csv", rows))


@pytest.mark.parametrize("labels", ["[1, 5]", "[1]", "positive"])
def test_bad_labels_are_named(tmp_path, labels):
    rows = [GOOD[0] | {"labels": "[1, 0]"}, GOOD[1] | {"labels": labels}]
    with pytest.raises(ValueError, match="row 2, column labels"):
        read_predictions(write_csv(tmp_path / "file.csv", rows))


def test_no_file_and_no_rows(tmp_path):
    with pytest.raises(ValueError, match="no file"):
        read_predictions(tmp_path / "absent.csv")
    (tmp_path / "empty.csv").write_text("dicom_id,reference_report,generated_report\n")
    with pytest.raises(ValueError, match="no rows"):
        read_predictions(tmp_path / "empty.csv")


# The command and the `evaluate` module


def test_families_give_the_rows_they_name(tokenizer):
    options = MetricOptions(reference_tokenizer=str(tokenizer))
    structured = ReportPairs.from_lists([FULL], [FULL])
    for name in ("bleu", "rouge", "cider", "structure", "phantom"):
        scores = score_reports(structured, [name], options, bootstrap=5).scores
        assert tuple(scores) == FAMILIES[name].names
        for score in scores.values():
            low, high = score.interval
            assert low <= score.value + 1e-9 and score.value - 1e-9 <= high


def test_command_writes_json_and_table(tmp_path, tokenizer, capsys):
    path = write_csv(tmp_path / "file.csv", GOOD)
    output = tmp_path / "scores.json"
    flags = [
        "--predictions",
        str(path),
        "--metrics",
        "bleu",
        "rouge",
        "--output_dir",
        str(tmp_path),
        "--bootstrap",
        "20",
    ]
    flags += ["--reference_tokenizer", str(tokenizer)]
    evaluate_reports.main(flags)
    saved = json.loads(output.read_text())
    assert set(saved["scores"]) == {"BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "ROUGE-L"}
    assert saved["bootstrap"] == {"rounds": 20, "by": "subject_id", "groups": 1}
    table = output.with_suffix(".md").read_text()
    assert table.strip() == capsys.readouterr().out.strip()
    assert "published" not in table
    evaluate_reports.main([*flags, "--published"])
    assert (
        "0.175" in output.with_suffix(".md").read_text()
        and "not measured here" in output.with_suffix(".md").read_text()
    )


def test_a_metric_that_cannot_run_stays_in_the_table_and_in_the_exit_code(tmp_path, capsys):
    path = write_csv(tmp_path / "file.csv", GOOD)
    flags = ["--predictions", str(path), "--metrics", "rouge", "chexbert", "--reference_tokens", "0"]
    flags += ["--chexbert_checkpoint", str(tmp_path / "chexbert.pth")]
    with pytest.raises(SystemExit) as stopped:
        evaluate_reports.main(flags)
    assert stopped.value.code == 3
    table = capsys.readouterr().out
    assert Counter(line.split("|")[1].strip() for line in table.splitlines() if "not computed" in line) == Counter(
        FAMILIES["chexbert"].names
    )
    assert str(tmp_path / "chexbert.pth") in table and "--chexbert_checkpoint" in table
    scores = evaluate_reports.main([*flags, "--allow_missing"])["scores"]
    assert "value" in scores["ROUGE-L"] and "not_computed" in scores["CheXbert-14 micro F1"]


def test_an_unknown_metric_is_refused():
    with pytest.raises(ValueError, match="'blue' is none of bleu, "):
        score_reports(PAIRS, ["blue"])


def test_evaluate_module_gives_the_same(monkeypatch, tmp_path):
    evaluate = pytest.importorskip("evaluate")
    module = evaluate.load("training/metrics/reports/evaluate_module.py", "rouge", cache_dir=str(tmp_path))
    values = module.compute(predictions=PREDICTIONS, references=REFERENCES, reference_tokens=0)
    assert values == pytest.approx(score_reports(PAIRS, ["rouge"], WHOLE, bootstrap=0).values)
    with pytest.raises(ValueError, match="beams: no option"):
        module.compute(predictions=PREDICTIONS, references=REFERENCES, beams=3)
