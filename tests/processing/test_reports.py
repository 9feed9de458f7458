import pytest
from hypothesis import given
from hypothesis import strategies as st

from processing.datasets.phantom.labeler import phantom_labels
from processing.datasets.phantom.study import draw_study
from processing.datasets.phantom.text import write_report
from processing.reports import (
    STRUCTURED_HEADERS,
    join_sections,
    parse_structured,
    plain_findings,
    sentence_spans,
    split_report_sections,
    split_sentences,
    structure_findings,
    structured_validity,
    without_title,
    write_structured,
)


def test_sentences():
    text = (
        "1. Mild edema, 1.2 cm. 2. Discussed with Dr. ___ at 4 p.m. on ___. Is it new? ___ is unchanged.\n"
        "- No effusion\n- No pneumothorax"
    )
    assert split_sentences(text) == [
        "Mild edema, 1.2 cm.",
        "Discussed with Dr. ___ at 4 p.m. on ___.",
        "Is it new?",
        "___ is unchanged.",
        "No effusion",
        "No pneumothorax",
    ]
    assert split_sentences("") == [] and split_sentences(" . ") == []


findings = st.lists(
    st.text(st.characters(min_codepoint=48, max_codepoint=122), min_size=1, max_size=20).map(str.strip).filter(bool),
    min_size=1,
    max_size=3,
)


@given(st.dictionaries(st.sampled_from(STRUCTURED_HEADERS), findings.filter(lambda f: not any(":" in x for x in f))))
def test_structured_reports_round_trip(sections):
    text = write_structured(sections)
    assert parse_structured(text) == sections
    assert write_structured(parse_structured(text)) == text
    assert structured_validity(text) == (1.0 if sections else 0.0)


def test_structured_reports_of_a_generator_parse_too():
    text = (
        "FINDINGS:\nlungs and airways: Clear.\n- No nodule\n  in either lung\n\nPleura:\nNo effusion.\nPLEURA:\n- Thin."
    )
    assert parse_structured(text) == {
        "Lungs and Airways": ["Clear.", "No nodule in either lung"],
        "Pleura": ["No effusion.", "Thin."],
    }
    with pytest.raises(ValueError, match="'Heart'"):
        write_structured({"Heart": ["Large."]})


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ("Findings:\nPleura:\n- No effusion.\n", 1.0),
        ("Pleura:\n- No effusion.\nLungs and Airways:\n- Clear.", 0.5),  # order
        ("Pleura:\nCardiovascular:\n- Normal heart.", 2 / 3),  # empty section
        ("Heart:\n- Normal.", 0.0),  # unknown header
        ("The lungs are clear.", 0.0),
        ("Pleura:\n- A.\nPleura:\n- B.", 0.5),  # repeated
        ("", 0.0),
    ],
)
def test_structured_validity(text, score):
    assert structured_validity(text) == pytest.approx(score)


def test_phantom_findings_under_headers_say_the_same():
    for index in range(150):
        report = write_report(*draw_study("validation", index))
        text = " ".join(sentence.text for sentence in report.findings)
        structured = structure_findings(text)
        assert structured_validity(structured) == 1.0
        sections = parse_structured(structured)
        assert sorted(each for findings in sections.values() for each in findings) == sorted(split_sentences(text))
        assert phantom_labels(plain_findings(structured)) == phantom_labels(text)
        # Only the technique names nothing known.
        assert all(" of the chest " in sentence for sentence in sections.get("Other", []))
    assert plain_findings(text) == text


def test_sentences_go_under_what_they_name_first():
    text = (
        "Left pacemaker over the heart. Effusion with atelectasis. No free air. Normal heart and lungs. Rib fracture."
    )
    assert parse_structured(structure_findings(text)) == {
        "Pleura": ["Effusion with atelectasis."],
        "Cardiovascular": ["Normal heart and lungs."],
        "Tubes, Catheters, and Support Devices": ["Left pacemaker over the heart."],
        "Musculoskeletal and Chest Wall": ["Rib fracture."],
        "Abdominal": ["No free air."],
    }
    assert structure_findings("") == ""


@given(st.text(alphabet="ab. 1-\n:*?A", max_size=60))
def test_spans_are_those_of_the_sentences(text):
    spans = sentence_spans(text)
    assert [sentence for sentence, _, _ in spans] == split_sentences(text)
    for sentence, begin, end in spans:
        assert "".join(text[begin:end].split()) == "".join(sentence.split())


@pytest.mark.parametrize("impression", ["", "Pneumonia. Follow up."])
def test_sections_come_back_as_they_were_joined(impression):
    known = {"findings": "Left lower lobe opacity. No effusion.", "impression": impression}
    assert split_report_sections(join_sections(known)) == known


def test_sections_of_generated_text_are_told_apart_whatever_it_lacks():
    assert split_report_sections("Clear lungs.") == {"findings": "Clear lungs.", "impression": ""}
    assert split_report_sections("Impression: Normal.") == {"findings": "", "impression": "Normal."}
    twice = "Findings: Clear. Impression: Normal. Findings: Heart is large."
    assert split_report_sections(twice) == {"findings": "Clear. Heart is large.", "impression": "Normal."}
    assert without_title("Impression: Normal.") == "Normal." and without_title("Clear.") == "Clear."
