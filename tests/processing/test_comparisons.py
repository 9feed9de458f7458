"""What reports say of the past."""

import pytest

from processing.comparisons import change_in, combined, comparisons, without_comparisons


@pytest.mark.parametrize(
    ("sentence", "change"),
    [
        ("Small left pleural effusion, unchanged from the prior study.", "same"),
        ("Stable cardiomegaly.", "same"),
        ("No significant interval change.", "same"),
        ("Mild edema, similar to ___.", "same"),
        ("Right effusion has increased since the prior exam.", "worse"),
        ("Worsening pulmonary edema.", "worse"),
        ("Nodule in the left upper lobe, larger than on the prior study.", "worse"),
        ("Consolidation, slightly increased.", "worse"),
        ("Interval decrease in the left effusion.", "better"),
        ("Edema has improved.", "better"),
        ("New right lower lobe opacity.", "new"),
        ("The previously seen pneumothorax has resolved.", "resolved"),
        ("The effusion is no longer present.", "resolved"),
        ("There is no new consolidation.", None),
        ("Heart size is mildly increased.", None),
        ("Increased density in the left lower lobe may represent consolidation.", None),
        ("A (hazy) area of increased opacity is seen in the left lung base.", None),
        ("No pneumothorax or pleural effusion.", None),
        ("Linear opacity from the prior surgery.", None),
    ],
)
def test_changes_that_sentences_state(sentence, change):
    assert change_in(sentence) == change


def test_texts_without_comparisons_are_left_as_they_are():
    text = "Lungs and Airways:\n- The lungs are clear.\n- 1.2 cm nodule.\n\nPleura:\n-  No effusion."
    assert comparisons(text) == [] and without_comparisons(text) == text


def test_comparisons_are_cut_off_or_left_out():
    text = (
        "Small left effusion, consistent with fluid, unchanged from the prior study. Clear lungs. "
        "The previously seen edema has resolved. Heart size is normal."
    )
    assert len(comparisons(text)) == 2
    assert without_comparisons(text) == "Small left effusion, consistent with fluid. Clear lungs. Heart size is normal."
    assert without_comparisons("Stable cardiomegaly.") == ""


@pytest.mark.parametrize(
    ("parts", "whole"),
    [
        ([], None),
        (["same", "same"], "same"),
        (["same", "worse"], "worse"),
        (["same", "new"], "worse"),
        (["same", "resolved"], "better"),
        (["new"], "new"),
        (["resolved"], "resolved"),
        (["better", "worse"], None),
        (["better", "resolved"], "better"),
    ],
)
def test_parts_of_a_finding_make_its_change(parts, whole):
    assert combined(parts) == whole
