"""Sections of reports, by the headings that MIMIC-CXR has (facts of its authors' own parser)."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from processing.datasets.sections import SECTIONS, leaked_sentence, split_sections

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
        ("FINDINGS/IMPRESSION:", "impression"),
        ("FINDINGS AND IMPRESSION:", "impression"),
        ("FINDINGS\n", "findings"),
        ("IMPRESION:", "impression"),
        ("CONCLUSION:", "impression"),
        ("OPINION:", "impression"),
        ("PFI:", "impression"),
        ("REPORT:", "findings"),
        ("RECOMMENDATION FINDINGS OF THE THIRD LONG EXAMINATION OF THE SAME DAY:", "findings"),
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


# Headings that stand where FINDINGS would.
VIEWS = (
    *(
        "CHEST",
        "CHEST PA AND LATERAL",
        "PA AND LATERAL",
        "PA AND LATERAL VIEWS OF THE CHEST",
        "AP UPRIGHT",
        "TWO VIEWS",
    ),
    *("TWO VIEWS", "FRONTAL AND LATERAL VIEWS OF THE CHEST", "SINGLE PORTABLE VIEW OF THE CHEST", "AP", "PA"),
    *("PORTABLE SUPINE RADIOGRAPH OF THE CHEST", "SEMI-UPRIGHT AP VIEW OF THE CHEST", "PA & LATERAL VIEW OF THE CHEST"),
    *(
        "PORTABLE CHEST",
        "CHEST, SINGLE AP PORTABLE VIEW",
        "CHEST (PA AND LATERAL)",
        "TWO-VIEW CHEST",
        "CHEST, 2 VIEWS",
        "LEFT RIBS",
    ),
    "FRONTAL, LATERAL AND BOTH OBLIQUE VIEWS OF THE WHOLE CHEST WITH THE PATIENT ERECT",
)
CONTEXT = {"INDICATION": "indication", "REASON FOR EXAM": "indication", "HISTORY": "history"}
FINDINGS = ("The lungs are clear.", "No effusion.", "Heart size is normal, 1.2 cm.", "Unchanged.")
GAPS = st.sampled_from(("\n ", "\n \n ", "\n\n ", "  \n "))


@pytest.mark.parametrize("gap", ["\n ", "\n\n ", " "])
@pytest.mark.parametrize("view", VIEWS)
def test_a_heading_of_views_is_never_joined_to_the_indication(view, gap):
    if gap == " " and ("&" in view or "BOTH" in view or view in ("LEFT RIBS", "TWO-VIEW CHEST")):
        pytest.skip("in the middle of a line, a heading of views is made of their words alone")
    sections = split_sections(f" INDICATION: Cough.{gap}{view}: The lungs are clear.\n")
    assert (sections["indication"], sections["findings"]) == ("Cough.", "The lungs are clear.")


@st.composite
def report(draw):
    """(text, context section, context, findings) of a report in MIMIC-CXR's manner."""
    heading = draw(st.sampled_from(tuple(CONTEXT)))
    context = draw(st.sampled_from(("___F with cough", "Fall; r/o fracture.", "Pneumonia?\n Known COPD.")))
    views = draw(st.sampled_from((*VIEWS, "FINDINGS", "REPORT")))
    findings = draw(st.lists(st.sampled_from(FINDINGS), min_size=1, max_size=3, unique=True))
    gaps = [draw(GAPS) for _ in range(4)]
    unknown = draw(st.sampled_from(("", "ACCESSION", "REFERRING PHYSICIAN", "DEVICE USED")))
    text = f" FINAL REPORT\n {heading}:  {context}"
    text += f"{gaps[0]}{unknown}: Something else." if unknown else ""
    text += f"{gaps[1]}{views}:{draw(st.sampled_from((' ', gaps[2])))}{gaps[3].join(findings)}"
    text += draw(st.sampled_from(("", "\n \n IMPRESSION: Normal.\n", "\n NOTIFICATION: Told.")))
    return text, CONTEXT[heading], context, findings


@given(report())
def test_the_context_never_holds_the_findings(drawn):
    text, section, context, findings = drawn
    sections = split_sections(text)
    assert sections[section] == " ".join(context.split())
    assert sections["findings"] == " ".join(findings)
    assert leaked_sentence(f"{sections['indication']} {sections['history']}", sections["findings"]) is None
    assert all("Something else" not in sections[name] for name in SECTIONS)


def test_findings_inside_the_context_are_found():
    assert leaked_sentence("Cough. the lungs are CLEAR", "No mass. The lungs are clear.") == "The lungs are clear."
    assert leaked_sentence("Mild effusion?", "Effusion.") == "Effusion."
    assert leaked_sentence("Effusions", "Effusion.") is None
    assert leaked_sentence("", "Clear.") is None is leaked_sentence("Clear.", "")


def test_short_last_paragraphs_stay_and_titles_do_not():
    sections = split_sections(" CHEST RADIOGRAPH\n\n HISTORY: Cough.\n\n CHEST, TWO FILMS\n\n No effusion.")
    assert (sections["history"], sections["unlabelled"]) == ("Cough.", "No effusion.")
    assert split_sections(" FINAL REPORT\n\n PA CHEST\n\n The heart is large.")["unlabelled"] == "The heart is large."
    told = "HISTORY: Cough.\n\nNOTIFICATION: Told Dr. ___.\n\nNo effusion."
    assert split_sections(told)["unlabelled"] == "No effusion."
    assert split_sections(f"FINDINGS: Clear.\n\n{told}")["unlabelled"] == ""


def test_unknown_headings_are_counted_by_name():
    unknown = Counter()
    text = (
        "INDICATION: Cough.\n ACCESSION: 12.\n FINDINGS:\n LUNGS: Clear.\n HEART: Large.\n MASCOT: Bear.\n ACCESSION: 3"
    )
    sections = split_sections(text, unknown=unknown)
    assert unknown == {"ACCESSION": 2, "MASCOT": 1}
    assert sections["findings"] == "Clear. Large." and sections["indication"] == "Cough."


@pytest.mark.parametrize(
    "heading",
    [
        *("FINANCES", "INDICATOR", "IMPRESSIVE", "HISTOGRAM", "TECHNICIAN"),  # alike, not misspelt
        *("LUNGE", "LUNGY", "BONEY"),  # of five letters, any one more is another word
    ],
)
def test_words_that_only_resemble_a_heading_are_unknown(heading):
    unknown = Counter()
    sections = split_sections(f"FINDINGS: Clear.\n{heading}: Left out.", unknown=unknown)
    assert sections["findings"] == "Clear." and unknown == {heading: 1}


def test_a_heading_of_six_letters_may_be_misspelt():
    assert split_sections("FINDINGS: Clear.\nHEARTS: Large.")["findings"] == "Clear. Large."


def test_studies_whose_findings_stand_elsewhere():
    text = "INDICATION: The heart is large.\n\nTECHNIQUE: AP. No effusion.\n"
    assert split_sections(text, "s57936451")["findings"] == "The heart is large."
    assert split_sections(text, "s57936451")["indication"] == ""
    assert split_sections(text, "s59279892")["findings"] == "AP. No effusion."
    long = "INDICATION: Cough. " + "a" * 40 + " The findings. " + "b" * 400
    assert split_sections(long, "s50196495")["findings"] == long[59:399].strip()
    assert split_sections("IMPRESSION: None.", "s58235663")["impression"] == ""
