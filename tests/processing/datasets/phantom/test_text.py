import random
import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from processing.datasets.phantom.labeler import phantom_labels
from processing.datasets.phantom.plan import OBSERVATION_OF
from processing.datasets.phantom.study import GALLERY_KINDS, SPLITS, draw_study
from processing.datasets.phantom.text import write_report
from processing.datasets.phantom.wording import expand
from processing.datasets.records import CHEXBERT_OBSERVATIONS, NEGATIVE, NOT_MENTIONED, POSITIVE, UNCERTAIN

STUDIES = [
    (plan, context, write_report(plan, context)) for plan, context in (draw_study("train", i) for i in range(1500))
]
ARTEFACT = re.compile(r"[{}()|]|  | ,|\ban? an? |\ba [aeiou]|\.\.")
studies = st.builds(draw_study, st.sampled_from(SPLITS), st.integers(0, 200_000), st.integers(0, 9))


def labels_by_name(report):
    return dict(zip(CHEXBERT_OBSERVATIONS, report.labels, strict=True))


def text_of(sentences):
    return " ".join(sentence.text for sentence in sentences)


@settings(max_examples=300, deadline=None)
@given(studies)
def test_labels_are_what_the_report_says(study):
    report = write_report(*study)
    assert phantom_labels(text_of(report.findings + report.impression)) == list(report.labels)


@settings(max_examples=200, deadline=None)
@given(studies)
def test_labels_follow_the_lesions(study):
    plan, context = study
    labels = labels_by_name(write_report(plan, context))
    for observation in set(OBSERVATION_OF.values()) - {"Lung Opacity"}:
        hedged = [lesion.uncertain for lesion in plan.lesions if OBSERVATION_OF[lesion.kind] == observation]
        if hedged:
            assert labels[observation] == (UNCERTAIN if all(hedged) else POSITIVE)
        else:
            assert labels[observation] in (NEGATIVE, NOT_MENTIONED)
    reads_as_pneumonia = any(lesion.reads_as_pneumonia for lesion in plan.lesions)
    assert (labels["Pneumonia"] in (POSITIVE, UNCERTAIN)) == reads_as_pneumonia
    nothing = all(OBSERVATION_OF[lesion.kind] == "Support Devices" for lesion in plan.lesions)
    assert labels["No Finding"] == (POSITIVE if nothing else NOT_MENTIONED)


@settings(max_examples=200, deadline=None)
@given(studies)
def test_every_lesion_has_its_sentence_on_its_side(study):
    plan, context = study
    report = write_report(plan, context)
    assert {index for sentence in report.findings for index in sentence.lesions} == set(range(len(plan.lesions)))
    other = {"left": "right", "right": "left"}
    for sentence in report.findings:
        sides = {plan.lesions[index].side for index in sentence.lesions}
        if len(sides) == 1 and (side := sides.pop()) in other and "findings" not in sentence.text.lower():
            text = sentence.text.lower().replace("right heart", "heart")
            assert not re.search(rf"\b{other[side]}\b", text)


@settings(max_examples=200, deadline=None)
@given(studies)
def test_findings_split_back_into_their_sentences(study):
    report = write_report(*study)
    assert re.split(r"(?<=\.)\s+", text_of(report.findings)) == [sentence.text for sentence in report.findings]
    for sentence in report.findings + report.impression:
        assert re.fullmatch(r"[A-Z_0-9].*[^ ,]\.", sentence.text)
        assert not ARTEFACT.search(sentence.text)
    for text in (report.indication, report.history):
        assert not ARTEFACT.search(text)
        assert not text or re.fullmatch(r"[A-Z_0-9].*[^ ,][.?]", text)


def test_prevalences():
    codes = np.array([report.labels for *_, report in STUDIES])
    present = dict(zip(CHEXBERT_OBSERVATIONS, np.isin(codes, (POSITIVE, UNCERTAIN)).mean(axis=0), strict=True))
    assert present.pop("Pleural Other") == 0
    assert 0.15 < present["No Finding"] < 0.26
    assert all(0.09 < share < 0.35 for share in present.values()), present
    uncertain = (codes == UNCERTAIN).mean(axis=0)
    assert (uncertain > 0.005).sum() >= 9
    assert ((codes == NOT_MENTIONED).mean(axis=0) > 0.03).all()


def test_severities_are_about_uniform():
    severities = [lesion.severity for plan, *_ in STUDIES for lesion in plan.lesions]
    assert np.histogram(severities, bins=5, range=(0, 1))[0].min() > 0.15 * len(severities)


def test_nearly_all_studies_have_context():
    with_context = np.mean([bool(report.indication or report.history) for *_, report in STUDIES])
    assert 0.955 < with_context < 0.985
    assert 0.05 < np.mean([bool(report.history) and not report.indication for *_, report in STUDIES]) < 0.2


def test_reports_vary():
    findings = [text_of(report.findings) for *_, report in STUDIES]
    assert len(set(findings)) > 0.98 * len(findings)
    lengths = [len(report.findings) for *_, report in STUDIES]
    assert 4 <= np.median(lengths) <= 8
    assert np.mean([3 <= length <= 10 for length in lengths]) > 0.95


def test_splits_share_no_patient_and_patients_return():
    patients = {split: {draw_study(split, i)[0].patient.patient_id for i in range(160)} for split in SPLITS}
    assert len(set.union(*patients.values())) == sum(map(len, patients.values()))
    assert len(patients["train"]) == 100
    visits = [draw_study("train", i) for i in range(80)]
    by_patient = {}
    for plan, context in visits:
        by_patient.setdefault(plan.patient.patient_id, []).append((plan.patient, context.visit))
    assert {len(seen) for seen in by_patient.values()} == {1, 2, 3}
    for seen in by_patient.values():
        assert len({patient for patient, _ in seen}) == 1
        assert [visit for _, visit in seen] == list(range(len(seen)))


def test_studies_depend_on_seed_and_split():
    assert draw_study("train", 7, seed=3) == draw_study("train", 7, seed=3)
    lesions = {draw_study(split, 7, seed)[0].lesions for split in ("train", "test") for seed in (0, 1, 2)}
    assert len(lesions) > 3


def test_gallery_studies_have_one_finding():
    for index in range(50):
        plan, context = draw_study("gallery", index)
        assert [lesion.kind for lesion in plan.lesions] == [GALLERY_KINDS[index % 5]]
        assert plan.views in (("PA",), ("AP",))
        labels = labels_by_name(write_report(plan, context))
        five = {OBSERVATION_OF[kind]: labels[OBSERVATION_OF[kind]] for kind in GALLERY_KINDS}
        assert [name for name, code in five.items() if code == POSITIVE] == [OBSERVATION_OF[plan.lesions[0].kind]]
        assert UNCERTAIN not in five.values()


@pytest.mark.parametrize(("split", "index", "named"), [("training", 0, "split"), ("train", -1, "index")])
def test_unknown_studies_are_refused(split, index, named):
    with pytest.raises(ValueError, match=named):
        draw_study(split, index)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("No focal consolidation, pleural effusion, or pneumothorax.", {"Consolidation": 0, "Pleural Effusion": 0}),
        ("A small left pleural effusion cannot be excluded.", {"Pleural Effusion": 2, "Pneumothorax": -1}),
        ("Right lower lobe opacity, concerning for pneumonia.", {"Lung Opacity": 1, "Pneumonia": 2, "No Finding": -1}),
        ("The heart is not enlarged. No effusion, but there is a rib fracture.", {"Cardiomegaly": 0, "Fracture": 1}),
        ("No effusion. Small left effusion.", {"Pleural Effusion": 1}),
        ("A chest tube is in place. The lungs are clear.", {"Support Devices": 1, "No Finding": 1, "Lung Opacity": 0}),
        ("", {name: -1 for name in CHEXBERT_OBSERVATIONS}),
    ],
)
def test_labeler(text, expected):
    codes = dict(zip(CHEXBERT_OBSERVATIONS, phantom_labels(text), strict=True))
    assert {name: codes[name] for name in expected} == expected


def test_labeler_reads_the_zero_shot_prompts():
    prompts = yaml.safe_load((Path(__file__).parents[4] / "training/configs/evaluation/prompts.yaml").read_text())[
        "findings"
    ]
    for column, name in enumerate(CHEXBERT_OBSERVATIONS):
        if name in prompts and name != "Pleural Other":
            for prompt in prompts[name]["positive"]:
                assert phantom_labels(prompt)[column] in (POSITIVE, UNCERTAIN), prompt
            for prompt in prompts[name]["negative"]:
                assert phantom_labels(prompt)[column] in (NEGATIVE, NOT_MENTIONED), prompt


def test_expand():

    texts = {expand("(There is a |A ){size} (opacity|(hazy |)density).", random.Random(i), size="") for i in range(50)}
    assert texts == {
        "There is an opacity.",
        "There is a hazy density.",
        "There is a density.",
        "An opacity.",
        "A hazy density.",
        "A density.",
    }
