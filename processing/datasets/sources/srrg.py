"""SRRG-Findings: structured Findings of MIMIC-CXR and CheXpert Plus.

    data/<split>-00000-of-00001.parquet    the Hub's form: train, validate, test, test_reviewed; id, image_paths,
                           findings_section, history_section ... and no view positions
    <annotation>.json      {train, val, test}: items {id, image_paths, view_positions, findings_section,
                           history_section}, as the CoGaze release has them

Columns and splits were read off the Hub's card and viewer, the JSON's keys off CoGaze's code. Paths with `patient` lie
under CheXpert Plus (PNG), all others under MIMIC-CXR-JPG. Views that the annotation lacks come from the image sets' own
tables (mimic-cxr-2.0.0-metadata.csv.gz, df_chexpert_plus_240401.csv). Of several views PA is taken, then AP. The record
keeps the structured text in `findings`, headers and bullets as they stand. Delbrouck et al., ACL 2025;
https://huggingface.co/datasets/StanfordAIMI/srrg_findings_impression
"""

import re
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from ...reports import parse_structured
from .building import build, image_size
from .chexpert import patient_path
from .cogaze_release import find_annotation, image_bases, locate, preferred_view, read_annotation
from .common import Skip, Source, blank_record
from .mimic_shared import study_facts
from .order import oldest_first
from .roots import first_file, stem
from .splits import choose_split
from .tables import number, read_table

VERSION = 3


def load_srrg(
    root,
    split: str | None = None,
    *,
    mimic_root=None,
    chexpert_plus_root=None,
    split_lists=None,
    num_proc: int | None = None,
    cache_dir=None,
):
    """SRRG-Findings as records, one per study (its preferred view). Findings without any header are dropped.

    Args:
        root: the annotation file, or the folder of it or of the parquet files.
        split: "train", "val", "test", "test_reviewed" (a part of the test split, reviewed by radiologists) or None for
            all but the reviewed copies.
        mimic_root, chexpert_plus_root: where image paths start; the items of one that is not given are dropped.
    """
    found = read_srrg(root)
    paths = [path for _, item in found for path in item["image_paths"] or []]
    facts = study_facts(Path(mimic_root).expanduser(), map(stem, paths)) if mimic_root else {}
    views_of = {
        "mimic": {dicom: fact["view_position"] for dicom, fact in facts.items()},
        "chexpert": _chexpert_views(chexpert_plus_root),
    }
    bases = {"mimic": image_bases(mimic_root), "chexpert": image_bases(chexpert_plus_root)}
    dropped: Counter = Counter()
    items = []
    for name, item in found:
        if name == "test_reviewed" and split != name:
            dropped["reviewed copy of a test report"] += split is None
            continue
        if not item["image_paths"]:
            dropped["no image_paths"] += 1
            continue
        origin = "chexpert" if _patient(item["image_paths"][0]).startswith("patient") else "mimic"
        if bases[origin]:
            items.append(_item(name, item, origin, bases[origin], views_of[origin], facts))
        else:
            dropped[f"{origin}_root not given"] += 1
    return build(
        "srrg",
        choose_split(oldest_first(items), split, split_lists, dropped=dropped),
        make_record,
        label_names=[],
        text_protocol="structured findings section under SRRG's eight headers; history section",
        split=split,
        dropped=dropped,
        version=VERSION,
        num_proc=num_proc,
        cache_dir=cache_dir,
    )


def _item(split: str, item: dict, origin: str, bases: list[Path], views_of: dict, facts: dict) -> dict:
    views = item.get("view_positions") or [_view_of(path, views_of) for path in item["image_paths"]]
    path, view = preferred_view(list(item["image_paths"]), list(views))
    own = facts.get(stem(path), {}) if origin == "mimic" else {"study_order": _study_number(path)}
    return own | {
        "image_id": Path(path).stem if origin == "mimic" else re.sub(r"\.\w+$", "", path),
        "study_id": _study(path) or str(item["id"]),
        "patient_id": _patient(path) or str(item["id"]),
        "view_position": view,
        "findings": (item["findings_section"] or "").strip(),
        "history": (item.get("history_section") or "").strip(),
        "split": split,
        "files": [locate(bases, path)],
    }


def read_srrg(root) -> list[tuple[str, dict]]:
    """(split, item) of the annotation file or of the Hub's parquet files.

    Raises:
        ValueError: neither is there; a column is missing; names the file.
    """
    columns = ("id", "image_paths", "findings_section")
    path = Path(root).expanduser()
    files = sorted(path.rglob("*.parquet")) if path.is_dir() else [path] if path.suffix == ".parquet" else []
    if not files:
        file = find_annotation(root, "SRRG-Findings")
        return [(split, _checked(item, file)) for split, item in read_annotation(file, columns)]
    found = []
    for file in files:
        name = re.match(r"(train|valid(?:ate|ation)?|val|test_reviewed|test)(?=[-_.])", file.name)
        if name is None:
            continue
        try:
            table = pq.read_table(file)
        except (pa.ArrowInvalid, OSError) as error:
            raise ValueError(f"{file}: it is no whole parquet file ({error}); download it again.") from error
        missing = [column for column in columns if column not in table.column_names]
        if missing:
            raise ValueError(f"{file}: column {missing[0]!r} is missing; it has {table.column_names}.")
        kept = [column for column in (*columns, "history_section", "view_positions") if column in table.column_names]
        split = "val" if name[1].startswith("val") else name[1]
        found += [(split, _checked(item, file)) for item in table.select(kept).to_pylist()]
    if not found:
        raise ValueError(f"root: no parquet file under {path} is named after train, validate, test or test_reviewed.")
    return found


def _checked(item: dict, file: Path) -> dict:
    """The item, if its columns hold what they should."""
    for name in ("image_paths", "view_positions"):
        values = item.get(name)
        if not isinstance(values or [], list) or not all(isinstance(value, str) for value in values or []):
            raise ValueError(f"{file}: {name} of {item['id']!r} is no list of texts, but {values!r}.")
    for name in ("findings_section", "history_section"):
        if not isinstance(item.get(name) or "", str):
            raise ValueError(f"{file}: {name} of {item['id']!r} is no text, but {item[name]!r}.")
    return item


def _chexpert_views(root) -> dict[str, str]:
    file = root and first_file(Path(root).expanduser(), "df_chexpert_plus*.csv*", "../df_chexpert_plus*.csv*")
    if not file:
        return {}
    table = read_table(file, ("path_to_image", "frontal_lateral", "ap_pa"))
    rows = zip(table["path_to_image"], table["frontal_lateral"], table["ap_pa"], strict=True)
    return {patient_path(path): "LATERAL" if side.strip().lower() == "lateral" else view for path, side, view in rows}


def _view_of(path: str, views: dict[str, str]) -> str:
    view = views.get(patient_path(path) if "patient" in path else stem(path), "")
    return view or ("LATERAL" if "lateral" in path.rsplit("/", 1)[-1].lower() else "")


def _patient(path: str) -> str:
    found = re.search(r"(?:^|/)(?:p(\d{8})|(patient\d+))/", path)
    return (found[1] or found[2]) if found else ""


def _study(path: str) -> str:
    found = re.search(r"(?:^|/)(?:s(\d{8})|(patient\d+/study\d+))/", path)
    return (found[1] or found[2]) if found else ""


def _study_number(path: str) -> float | None:
    """CheXpert numbers a patient's studies by time."""
    found = re.search(r"/study(\d+)/", path)
    return number(found[1]) if found else None


def make_record(item: dict, noted: Counter) -> dict:
    if not parse_structured(item["findings"]):
        raise Skip("findings without a structured header")
    width, height = image_size(item["files"][0])
    fields = ("image_id", "study_id", "patient_id", "view_position", "findings", "history")
    return blank_record() | {
        "image": {"path": item["files"][0], "bytes": None},
        "image_width": width,
        "image_height": height,
        **{name: item[name] for name in fields},
        "study_date": item.get("study_date"),
    }


SOURCE = Source(
    name="srrg",
    title="SRRG-Findings (MIMIC-CXR and CheXpert Plus)",
    load=load_srrg,
    homepage="https://huggingface.co/datasets/StanfordAIMI/srrg_findings_impression",
    licence="PhysioNet Credentialed Health Data License 1.5.0 and Stanford's research use agreement",
    citation="""@inproceedings{delbrouck2025srrg,
  title={Automated Structured Radiology Report Generation},
  author={Delbrouck, Jean-Benoit and others},
  booktitle={ACL}, year={2025}
}""",
    published={"test": 1_459},
)
