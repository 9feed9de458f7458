"""What sources share, told when one run names two of them."""

import warnings

import pytest

from processing.datasets import load
from processing.datasets.overlaps import COLLECTIONS, overlap, warn_of_overlaps
from processing.datasets.records import describe
from processing.datasets.registry import names
from tests.processing.datasets import further_miniatures as further
from tests.processing.datasets import miniatures


def messages(data):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warn_of_overlaps(data)
    return [str(warning.message) for warning in caught]


def test_patients_and_images_are_counted_where_ids_tell(tmp_path):
    mimic = load("mimic_cxr", miniatures.mimic_cxr(tmp_path / "mimic"))
    phrases = load("ms_cxr", further.ms_cxr(tmp_path / "ms_cxr"), mimic_root=tmp_path / "mimic")
    found = overlap(mimic, phrases)
    assert (found.collection, found.patients, found.images) == ("MIMIC-CXR", 1, 1)
    (message,) = messages({"train_data": mimic, "validation_data": None, "test_data": phrases})
    assert "train_data (mimic_cxr) and test_data (ms_cxr) draw on MIMIC-CXR: 1 patients and 1 images" in message
    elsewhere = mimic.filter(lambda patient: patient != "10000032", input_columns="patient_id")
    assert messages({"train_data": elsewhere, "test_data": phrases}) == []


def test_a_sample_is_told_from_its_source(tmp_path):
    mimic = load("mimic_cxr", miniatures.mimic_cxr(tmp_path))
    sample = describe(mimic.select([0]), name="mimic_5x200")
    assert overlap(mimic, sample).images == 1 and overlap(mimic, mimic.select([0])) is None


def test_srrg_overlaps_with_both_of_its_sources(tmp_path):
    mimic = miniatures.mimic_cxr(tmp_path / "mimic")
    srrg_root = miniatures.srrg(tmp_path / "srrg", tmp_path / "plus")
    srrg = load("srrg", srrg_root, mimic_root=mimic, chexpert_plus_root=tmp_path / "plus")
    assert overlap(srrg, load("mimic_cxr", mimic)).patients == 1
    plus = further.chexpert_plus(tmp_path / "plus_reports")
    file = plus / "df_chexpert_plus_240401.csv"
    file.write_text(file.read_text().replace("patient00001", "patient00007").replace("study10", "study1"))
    for view in ("view1_frontal", "view2_lateral"):
        miniatures.picture(plus / f"PNG/train/patient00007/study1/{view}.png")
    found = overlap(srrg, load("chexpert_plus", plus))
    assert (found.collection, found.patients) == ("CheXpert", 1)


def test_renamed_images_are_told_without_a_count(tmp_path):
    nih = load("nih", miniatures.nih(tmp_path / "nih"))
    rsna = load("rsna", miniatures.rsna(tmp_path / "rsna"))
    siim = load("siim", miniatures.siim_dicom(tmp_path / "siim"))
    told = messages({"train_data": nih, "validation_data": rsna, "test_data": siim})
    assert len(told) == 3 and all("cannot be told by their ids" in message for message in told)
    tbx11k = load("tbx11k", miniatures.tbx11k(tmp_path / "tbx11k"))
    shenzhen = load("shenzhen", miniatures.shenzhen(tmp_path / "shenzhen"))
    assert "Shenzhen" in str(overlap(tbx11k, shenzhen))
    # Both are in TBX11K, and neither in the other.
    assert overlap(shenzhen, describe(shenzhen.select([0]), source="montgomery")) is None
    vindr = load("vindr_cxr", further.vindr_cxr(tmp_path / "vindr"))
    assert "VinDr-CXR" in str(overlap(vindr, describe(vindr.select([0]), source="vinbigdata")))
    assert overlap(nih, tbx11k) is None and overlap(nih, nih) is None


@pytest.mark.parametrize("source", sorted({name for drawn in COLLECTIONS.values() for name in drawn}))
def test_collections_name_known_sources(source):
    assert source in names()
