"""Dates of studies and the order of a patient's, wherever the source has them."""

import pytest

from processing.datasets import load
from processing.datasets.records import facts_of
from tests.processing.datasets import further_miniatures as further
from tests.processing.datasets import miniatures


@pytest.fixture(scope="module")
def mimic(tmp_path_factory):
    return miniatures.mimic_cxr(tmp_path_factory.mktemp("mimic"))


ON_MIMIC = {
    "egd": miniatures.egd,
    "reflacx": miniatures.reflacx,
    "cogaze_release": miniatures.cogaze_release,
    "ms_cxr": further.ms_cxr,
    "ms_cxr_t": further.ms_cxr_t,
    "gazesearch": further.gazesearch,
}


@pytest.mark.parametrize("name", ON_MIMIC)
def test_what_was_read_on_mimic_has_its_dates_and_views(mimic, tmp_path, name):
    dataset = load(name, ON_MIMIC[name](tmp_path), mimic_root=mimic)
    record = next(record for record in dataset if record["image_id"] == "d1")
    assert (record["study_date"], record["view_position"]) == ("2180-05-06", "PA")
    assert facts_of(dataset)["studies_ordered"]


def test_srrg_and_mimic_eye_have_dates(mimic, tmp_path):
    root = miniatures.srrg(tmp_path / "srrg", tmp_path / "plus")
    dataset = load("srrg", root, mimic_root=mimic, chexpert_plus_root=tmp_path / "plus")
    assert dataset["study_date"][:] == ["2180-05-06", None] and facts_of(dataset)["studies_ordered"]
    assert load("mimic_eye", miniatures.mimic_eye(tmp_path / "eye"))["study_date"][:] == ["2180-05-06", None]


def test_age_and_sex_come_from_mimic_iv(mimic, tmp_path):
    header = ("subject_id", "gender", "anchor_age", "anchor_year", "anchor_year_group", "dod")
    rows = ("10000032", "F", 52, 2182, "2014 - 2016", "2180-09-09"), ("10000764", "M", 91, 2179, "2008 - 2010", "")
    patients = miniatures.table(tmp_path / "hosp/patients.csv.gz", header, *rows)
    dataset = load("mimic_cxr", mimic, patients=patients)
    told = {record["image_id"]: (record["patient_age"], record["patient_sex"]) for record in dataset}
    # Two years before the anchor; a patient that MIMIC-IV does not have.
    assert told == {"d1": (50.0, "F"), "d2": (50.0, "F"), "d3": (91.0, "M"), "d4": (None, None)}
    with pytest.raises(ValueError, match=r"patients\.csv\.gz: column 'anchor_year' is missing"):
        load("mimic_cxr", mimic, patients=miniatures.table(patients, header[:3], rows[0][:3]))


def test_a_number_tells_the_order_where_there_is_no_date(tmp_path):
    root = miniatures.nih(tmp_path / "nih")
    table = root / "Data_Entry_2017_v2020.csv"
    header, first, second, *rest = table.read_text().splitlines()
    table.write_text("\n".join([header, second, first, *rest]))
    dataset = load("nih", root)
    assert dataset["image_id"][:2] == ["00000001_000", "00000001_001"] and facts_of(dataset)["studies_ordered"]
    assert not facts_of(load("shenzhen", miniatures.shenzhen(tmp_path / "shenzhen")))["studies_ordered"]


def test_an_anonymiser_s_filler_is_no_date(tmp_path):
    import pydicom

    root = miniatures.rsna(tmp_path)
    for file in root.glob("stage_2_train_images/*.dcm"):
        header = pydicom.dcmread(file)
        header.StudyDate = "19010101"  # as in the challenge's files
        header.save_as(file)
    assert load("rsna", root)["study_date"][:] == [None] * 3
