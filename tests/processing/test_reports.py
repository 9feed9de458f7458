import pytest
from hypothesis import given
from hypothesis import strategies as st

from processing.datasets.phantom.labeler import phantom_labels
from processing.datasets.phantom.study import draw_study
from processing.datasets.phantom.text import write_report
from processing.reports import (
    STRUCTURED_HEADERS,
    parse_structured,
    plain_findings,
    sentence_spans,
    split_sections,
    split_sentences,
    structure_findings,
    structured_validity,
    write_structured,
)

REPORT = """                                 FINAL REPORT
 EXAMINATION:  CHEST (PA AND LAT)

 INDICATION:  ___F with new onset ascites  // eval for infection

 TECHNIQUE:  Chest PA and lateral

 COMPARISON:  None.

 FINDINGS:

 There is no focal consolidation, pleural effusion or
 pneumothorax.  Size is 1.2 cm.

 IMPRESSION:

 No acute process.  Discussed with Dr. ___ at 4:32 p.m.
"""


def test_sections_of_a_regular_report():
    sections = split_sections(REPORT)
    assert sections == {
        "indication": "___F with new onset ascites // eval for infection",
        "history": "",
        "comparison": "None.",
        "technique": "Chest PA and lateral",
        "examination": "CHEST (PA AND LAT)",
        "findings": "There is no focal consolidation, pleural effusion or pneumothorax. Size is 1.2 cm.",
        "impression": "No acute process. Discussed with Dr. ___ at 4:32 p.m.",
        "unlabelled": "",
    }


@pytest.mark.parametrize(
    ("header", "section"),
    [
        ("FINDINGS:", "findings"),
        ("FINDNGS:", "findings"),
        ("FINIDNGS:", "findings"),
        ("Findings:", "findings"),
        ("findings:", "findings"),
        ("FINDINGS :", "findings"),
        ("FINDINGS/IMPRESSION:", "findings"),
        ("FINDINGS AND IMPRESSION:", "findings"),
        ("FINDINGS\n", "findings"),
        ("IMPRESION:", "impression"),
        ("CONCLUSION:", "impression"),
        ("REASON FOR EXAMINATION:", "indication"),
        ("REASON FOR EXAM:", "indication"),
        ("INDICATON:", "indication"),
        ("CLINICAL HISTORY:", "history"),
        ("HISTROY:", "history"),
        ("COMPARISONS:", "comparison"),
    ],
)
def test_loose_headers(header, section):
    sections = split_sections(f"EXAMINATION: CHEST\n\n{header} The left lung is clear.\n\nNOTIFICATION: told Dr. ___")
    assert sections.pop(section) == "The left lung is clear."
    assert sections.pop("examination") == "CHEST"
    assert not any(sections.values())


def test_headers_in_the_middle_of_a_line():
    sections = split_sections(
        "INDICATION: Cough. COMPARISON: ___ FINDINGS: Clear lungs. Ratio 1:2. IMPRESSION: Normal."
    )
    assert (sections["indication"], sections["comparison"]) == ("Cough.", "___")
    assert (sections["findings"], sections["impression"]) == ("Clear lungs. Ratio 1:2.", "Normal.")


def test_words_like_headers_inside_text_are_text():
    text = "FINDINGS: The findings: none. History of smoking and prior comparison of the study."
    assert (
        split_sections(text)["findings"] == "The findings: none. History of smoking and prior comparison of the study."
    )


def test_a_paragraph_without_header_is_kept_apart():
    sections = split_sections("INDICATION: Fall.\n\n The heart is mildly enlarged.\n\n WET READ: ___ no change at all")
    assert sections["indication"] == "Fall."
    assert sections["findings"] == ""
    assert sections["unlabelled"] == "The heart is mildly enlarged."


def test_a_header_of_views_opens_the_findings():
    assert split_sections("HISTORY: Cough.\n\nPA AND LATERAL CHEST RADIOGRAPHS: Lungs are clear.")["findings"] == (
        "Lungs are clear."
    )
    both = split_sections("CHEST, PA AND LATERAL: done\n\nFINDINGS: Lungs are clear.")
    assert both["findings"] == "Lungs are clear."


def test_repeated_sections_are_joined():
    assert split_sections("FINDINGS: One.\n\nTwo.\n\nFINDINGS: Three.")["findings"] == "One. Two. Three."


@given(st.text(max_size=400))
def test_any_text_is_sectioned(text):
    sections = split_sections(text)
    assert all("\n" not in section for section in sections.values())
    written = "".join("".join(sections.values()).split())
    assert len(written) <= len(text)


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
