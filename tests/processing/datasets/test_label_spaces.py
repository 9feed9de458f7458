"""Label spaces of several sources as one, and texts composed of labels."""

import numpy as np
import pytest
import yaml

from processing.datasets.label_spaces import TABLE, folded, join_label_spaces, read_label_table
from processing.datasets.label_texts import TEMPLATES, label_set, read_label_texts
from processing.datasets.records import CHEXBERT_OBSERVATIONS, NOT_ANNOTATED, label_targets
from processing.datasets.sources.nih import NIH_LABELS
from processing.datasets.sources.vindr_cxr import VINDR_LABELS
from processing.targets import label_tensor

SPACES = {"mimic": CHEXBERT_OBSERVATIONS, "nih": NIH_LABELS, "vindr": VINDR_LABELS, "rsna": ["pneumonia"], "none": []}


@pytest.fixture(scope="module")
def joined():
    return join_label_spaces(SPACES, {"nih": "nih", "mimic": "mimic_cxr"})


def test_equal_labels_of_sources_become_one(joined):
    names = joined["mimic"].names
    assert len(names) == len({folded(name) for name in names}) and names[:14] == CHEXBERT_OBSERVATIONS
    effusion = names.index("Pleural Effusion")
    own = {"nih": "Effusion", "vindr": "Pleural effusion", "mimic": "Pleural Effusion"}
    for entry, label in own.items():
        assert joined[entry].places[effusion] == SPACES[entry].index(label)
    assert joined["rsna"].annotated == ["Pneumonia"] and joined["none"].annotated == []
    # A finding that NIH alone knows, and one of the radiologists' own that is kept apart.
    assert "Infiltration" in names and joined["mimic"].places[names.index("Infiltration")] == -1
    assert {"Mass", "Nodule", "Nodule or Mass", "Lung Lesion"} <= set(names)


def test_codes_are_not_annotated_where_the_source_does_not_know(joined):
    names = joined["nih"].names
    own = [int(label == "Mass") for label in NIH_LABELS]
    codes = dict(zip(names, joined["nih"].codes(own), strict=True))
    assert codes["Mass"] == 1 and codes["Pneumonia"] == 0 and codes["Fracture"] == NOT_ANNOTATED
    # Where all that NIH looks for is absent, it has No Finding; another source's own is not derived.
    assert codes["No Finding"] == 0 and joined["nih"].codes([0] * 14)[names.index("No Finding")] == 1
    assert joined["rsna"].codes([0])[names.index("No Finding")] == NOT_ANNOTATED
    assert (joined["nih"].codes([]) == NOT_ANNOTATED).all()
    rows = [joined["nih"].codes(own), joined["rsna"].codes([2])]
    targets = label_tensor(rows).numpy()
    np.testing.assert_array_equal(targets, label_targets(rows))
    assert np.isnan(targets[0, names.index("Fracture")]) and targets[1, names.index("Pneumonia")] == 1
    assert np.isnan(targets).sum() == 2 * len(names) - len(joined["nih"].annotated) - 1


def test_a_table_that_says_two_things_of_a_name_is_refused(tmp_path):
    values = yaml.safe_load(TABLE.read_text())
    values["names"]["Pericardial Effusion"] = ["effusion"]
    (tmp_path / "table.yaml").write_text(yaml.safe_dump(values))
    with pytest.raises(ValueError, match="'effusion' under 'Pericardial Effusion' and under"):
        read_label_table(tmp_path / "table.yaml")
    with pytest.raises(ValueError, match="here: its labels 'Effusion' and 'pleural effusion' both become"):
        join_label_spaces({"here": ["Effusion", "pleural effusion"]})
    with pytest.raises(ValueError, match="one and other: 'Effusion' is 'Pleural Effusion' in one and 'Fluid' in the"):
        join_label_spaces({"one": ["Effusion"], "other": ["Effusion"]}, renamed={"other": {"Effusion": "Fluid"}})


def test_texts_say_what_is_there_and_never_what_is_not_annotated():
    texts, names = read_label_texts(), ["Pneumonia", "Mass", "Edema", "Hernia", "Fracture", "No Finding"]
    codes = [1, 0, 2, NOT_ANNOTATED, -1, 0]
    said = [texts.compose(names, codes, (0, epoch, "i")) for epoch in range(60)]
    assert said == [texts.compose(names, codes, (0, epoch, "i")) for epoch in range(60)] and len(set(said)) > 40
    words = read_label_texts().labels
    for text in map(str.lower, said):
        assert any(word in text for word in (*words["Pneumonia"]["words"], "airspace disease"))
        assert any(word in text for word in words["Edema"]["words"])
        assert "hernia" not in text and "fracture" not in text and "normal chest" not in text
    mass = [any(word in text.lower() for word in words["Mass"]["words"]) for text in said]
    assert any(mass) and not all(mass)
    healthy = [texts.compose(names, [0, 0, 0, 0, 0, 1], (0, epoch, "i")) for epoch in range(60)]
    assert all(any(each in text for each in words["No Finding"]["positive"]) for text in healthy)
    assert texts.compose(names, [NOT_ANNOTATED] * 6, (0,)) == "" and texts.compose(names, [-1] * 6, (0,)) == ""
    assert len({text.count(".") for text in healthy}) > 2  # another number of sentences
    possible = set(texts.all_sentences(names))
    assert all(sentence + "." in {p[:1].upper() + p[1:] for p in possible} for sentence in said[0][:-1].split(". "))


def test_equal_label_sets_are_of_one_space_with_equal_findings():
    names = ["Pneumonia", "Mass"]
    assert label_set(names, [1, 0]) == label_set(names, [1, -1]) != label_set(names, [1, 2])
    assert label_set(names, [1, NOT_ANNOTATED]) != label_set(names, [1, 0])


def test_templates_that_lack_something_are_refused(tmp_path):
    values = yaml.safe_load(TEMPLATES.read_text())
    wrong = {
        "'negative' needs a list of sentences": {"negative": ["Nothing."]},
        r"negatives \[3, 1\] is no range": {"negatives": [3, 1]},
        "'Mass' has the key 'sentence'": {"labels": {"Mass": {"sentence": ["A mass."]}}},
    }
    for place, (message, change) in enumerate(wrong.items()):
        path = tmp_path / f"{place}.yaml"
        path.write_text(yaml.safe_dump(values | change))
        with pytest.raises(ValueError, match=message):
            read_label_texts(path)
