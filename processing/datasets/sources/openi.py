"""Open-I: the Indiana University chest X-ray collection.

    ecgen-radiology/<n>.xml (or NLMCXR_reports.tgz)      AbstractText of INDICATION, FINDINGS, IMPRESSION; MeSH;
                                                         <parentImage id="CXR1_1_IM-0001-3001">
    <parentImage id>.png or .dcm, in any folder
    nlmcxr_dicom_metadata.csv.gz (optional)              imageid, View Position, Rows, Columns

De-identified words are XXXX. Without a root, the reports and the DICOM table that torchxrayvision installs are read,
and records have no image. Demner-Fushman et al., JAMIA 2016; https://openi.nlm.nih.gov
"""

import importlib.util
import tarfile
import xml.etree.ElementTree as ElementTree
from collections import Counter
from pathlib import Path

from ..records import CHEXBERT_OBSERVATIONS, NOT_MENTIONED, POSITIVE
from .building import build, image_size
from .common import Skip, Source, blank_record
from .roots import find_root, first_file, image_index
from .splits import choose_split
from .tables import number, read_table

VERSION = 1
_REPORTS = ("NLMCXR_reports.tgz", "ecgen-radiology/*.xml", "*.xml", "NLMCXR_reports/ecgen-radiology/*.xml")
# First terms of MeSH headings -> CheXbert's observations. Reports are indexed for what they affirm, so that nothing
# else can be called negative.
MESH = {
    "Cardiomegaly": "Cardiomegaly",
    "Opacity": "Lung Opacity",
    "Airspace Disease": "Lung Opacity",
    "Infiltrate": "Lung Opacity",
    "Nodule": "Lung Lesion",
    "Mass": "Lung Lesion",
    "Granuloma": "Lung Lesion",
    "Calcified Granuloma": "Lung Lesion",
    "Pulmonary Edema": "Edema",
    "Consolidation": "Consolidation",
    "Pneumonia": "Pneumonia",
    "Pulmonary Atelectasis": "Atelectasis",
    "Atelectasis": "Atelectasis",
    "Pneumothorax": "Pneumothorax",
    "Hydropneumothorax": "Pneumothorax",
    "Pleural Effusion": "Pleural Effusion",
    "Fractures, Bone": "Fracture",
    "Catheters, Indwelling": "Support Devices",
    "Implanted Medical Device": "Support Devices",
    "Medical Device": "Support Devices",
    "Tube, Inserted": "Support Devices",
    "normal": "No Finding",
}


def load_openi(root=None, split: str | None = None, *, split_lists=None, num_proc: int | None = None, cache_dir=None):
    """Open-I as records, one per image (one without an image for a report that has none, when no root is given).

    Labels follow from the MeSH headings: positive or not mentioned.

    Args:
        root: the folder with reports and images; None reads torchxrayvision's reports.
        split: a name among `split_lists`, or None.

    Raises:
        ValueError: no reports at the root; a report that is no XML.
    """
    with_images = root is not None
    carried = installed_folder()
    if not with_images and carried is None:
        raise ValueError("root: give Open-I's folder, or `pip install torchxrayvision`, which carries its reports.")
    root = find_root(root, "Open-I", "|".join(_REPORTS)) if with_images or carried is None else carried
    views = _views(root if with_images and first_file(root, "nlmcxr_dicom_metadata.csv*") else carried)
    images = image_index(root, patterns=("**/*.png", "**/*.dcm")) if with_images else {}
    dropped: Counter = Counter()
    items = []
    for name, text in report_texts(root):
        report = parse_report(text, name)
        if with_images and not report["images"]:
            dropped["report without an image"] += 1
        for image_id in report["images"] or ([] if with_images else [""]):
            row = views.get(image_id, {})
            path = images.get(image_id, str(root / f"{image_id}.png")) if with_images else None
            items.append(
                {key: value for key, value in report.items() if key != "images"}
                | {
                    "image_id": image_id,
                    "view_position": (row.get("View Position") or "").strip().upper(),
                    "image_width": int(number(row.get("Columns"), 0)),
                    "image_height": int(number(row.get("Rows"), 0)),
                    "files": [path] if path else [],
                }
            )
    return build(
        "openi",
        choose_split(items, split, split_lists, dropped=dropped),
        make_record,
        label_names=CHEXBERT_OBSERVATIONS,
        text_protocol="indication, findings and impression as indexed",
        split=split,
        dropped=dropped,
        version=VERSION,
        num_proc=num_proc,
        cache_dir=cache_dir,
    )


def installed_folder() -> Path | None:
    """torchxrayvision's data folder, without importing it; None where the package is not installed."""
    spec = importlib.util.find_spec("torchxrayvision")
    places = spec and spec.submodule_search_locations
    return Path(places[0]) / "data" if places else None


def report_texts(root: Path):
    """(name, XML) of every report, from the archive or the folder."""
    archive = first_file(root, _REPORTS[0])
    if archive is not None:
        with tarfile.open(archive) as opened:
            for member in opened:
                if member.name.endswith(".xml") and (file := opened.extractfile(member)) is not None:
                    yield member.name, file.read()
        return
    for pattern in _REPORTS[1:]:
        files = sorted(root.glob(pattern))
        if files:
            for file in files:
                yield str(file), file.read_bytes()
            return


def parse_report(data: bytes, name: str) -> dict:
    """study_id, patient_id, indication, findings, impression, labels and image ids of one report.

    Raises:
        ValueError: no XML, or no report id in it; names the file.
    """
    try:
        tree = ElementTree.fromstring(data)
        study = tree.find("uId")
    except ElementTree.ParseError as error:
        raise ValueError(f"{name}: it is no Open-I report ({error}); download it again.") from error
    if study is None:
        raise ValueError(f"{name}: it is no Open-I report (it has no uId); download it again.")
    sections = {
        node.get("Label", "").lower(): " ".join((node.text or "").split()) for node in tree.iter("AbstractText")
    }
    terms = {(node.text or "").split("/")[0].strip() for node in tree.findall(".//MeSH/major")}
    positive = {MESH[term] for term in terms if term in MESH}
    return {
        "study_id": study.get("id"),
        "patient_id": study.get("id"),
        "indication": sections.get("indication", ""),
        "findings": sections.get("findings", ""),
        "impression": sections.get("impression", ""),
        "labels": [POSITIVE if name in positive else NOT_MENTIONED for name in CHEXBERT_OBSERVATIONS],
        "images": [node.get("id") for node in tree.iter("parentImage")],
    }


def _views(folder: Path | None) -> dict[str, dict]:
    file = folder and first_file(folder, "nlmcxr_dicom_metadata.csv*")
    if not file:
        return {}
    table = read_table(file, ("imageid", "View Position", "Rows", "Columns"))
    table = table.filter(items=["imageid", "View Position", "Rows", "Columns"])
    return {row["imageid"]: row for row in table.to_dict("records")}


def make_record(item: dict, noted: Counter) -> dict:
    fields = ("image_id", "study_id", "patient_id", "view_position", "indication", "findings", "impression", "labels")
    record = blank_record() | {name: item[name] for name in fields}
    for name in ("indication", "findings", "impression"):
        noted[f"no {name}"] += not item[name]
    width, height = item["image_width"], item["image_height"]
    if item["files"]:
        width, height = image_size(item["files"][0])
        record["image"] = {"path": item["files"][0], "bytes": None}
        if not (item["findings"] or item["impression"]):
            raise Skip("neither findings nor impression")
    return record | {"image_width": width or None, "image_height": height or None}


SOURCE = Source(
    name="openi",
    title="Open-I (Indiana University chest X-rays)",
    load=load_openi,
    homepage="https://openi.nlm.nih.gov",
    licence="CC BY-NC-ND 4.0",
    citation="""@article{demner2016preparing,
  title={Preparing a collection of radiology examinations for distribution and retrieval},
  author={Demner-Fushman, Dina and Kohli, Marc D. and Rosenman, Marc B. and others},
  journal={JAMIA}, volume={23}, number={2}, pages={304--310}, year={2016}
}""",
    credentialed=False,
    published={"images": 7_470, "studies": 3_955},
    bundled=True,
)
