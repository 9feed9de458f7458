"""Whole published tables, which torchxrayvision installs, through the loaders: every row is understood.

The images are not there, so that each listed one is refused for that reason alone and counted.
"""

import importlib.util
from pathlib import Path

import pytest

from processing.datasets import load, registry

CARRIED = {
    "vinbigdata": ("vinbigdata-train.csv.gz", "train.csv"),
    "rsna": ("kaggle_stage_2_train_labels.csv.zip", "stage_2_train_labels.csv"),
    "nih": ("Data_Entry_2017_v2020.csv.gz", "Data_Entry_2017_v2020.csv"),
    "chexpert": ("chexpert_train.csv.gz", "train.csv"),
}


def unpacked(file: Path) -> bytes:
    import gzip
    import zipfile

    if file.suffix == ".gz":
        return gzip.decompress(file.read_bytes())
    with zipfile.ZipFile(file) as archive:
        return archive.read(archive.namelist()[0])


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name == "vinbigdata" else pytest.mark.slow) for name in CARRIED]
)
def test_every_row_of_a_published_table_is_understood(name, tmp_path):
    package = importlib.util.find_spec("torchxrayvision")
    if package is None:
        pytest.skip("torchxrayvision, whose package carries the table, is not installed")
    carried, called = CARRIED[name]
    file = Path(package.submodule_search_locations[0]) / "data" / carried
    if not file.is_file():
        pytest.skip(f"this torchxrayvision carries no {carried}")
    (tmp_path / "train").mkdir()
    (tmp_path / called).write_bytes(unpacked(file))
    published = registry.source(name).published
    count = published.get("images", published.get("train"))
    with pytest.raises(ValueError, match="not one record could be made") as error:
        load(name, tmp_path)
    said = str(error.value)
    assert f"image file missing ({count})" in said and said.count("(") == 1, said
