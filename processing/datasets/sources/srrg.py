"""SRRG-Findings: structured Findings of MIMIC-CXR and CheXpert Plus.

    <annotation>.json      {train, val, test}: items {id, image_paths, view_positions, findings_section,
                           history_section}

An id that contains "mimic" has its images under MIMIC-CXR-JPG, any other under CheXpert Plus (PNG). Of several views
PA is taken, then AP. The record keeps the structured text in `findings`, headers and bullets as they stand.
Delbrouck et al., ACL 2025; https://huggingface.co/datasets/StanfordAIMI/srrg_findings_impression
"""

import re
from collections import Counter
from pathlib import Path

from ...reports import parse_structured
from .building import build, image_size
from .cogaze_release import find_annotation, image_bases, locate, preferred_view, read_annotation
from .common import Skip, Source, blank_record
from .splits import choose_split

VERSION = 1


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
        root: the annotation file, or its folder.
        mimic_root, chexpert_plus_root: where image paths start; the items of one that is not given are dropped.
    """
    file = find_annotation(root, "SRRG-Findings")
    bases = {"mimic": image_bases(mimic_root), "chexpert": image_bases(chexpert_plus_root)}
    dropped: Counter = Counter()
    items = []
    for name, item in read_annotation(file, ("id", "image_paths", "findings_section")):
        origin = "mimic" if "mimic" in str(item["id"]).lower() else "chexpert"
        if not bases[origin]:
            dropped[f"{origin}_root not given"] += 1
            continue
        path, view = preferred_view(item["image_paths"], item.get("view_positions") or [])
        items.append(
            {
                "image_id": Path(path).stem if origin == "mimic" else re.sub(r"\.\w+$", "", path),
                "study_id": _study(path) or str(item["id"]),
                "patient_id": _patient(path) or str(item["id"]),
                "view_position": view,
                "findings": item["findings_section"].strip(),
                "history": (item.get("history_section") or "").strip(),
                "split": name,
                "files": [locate(bases[origin], path)],
            }
        )
    return build(
        "srrg",
        choose_split(items, split, split_lists, dropped=dropped),
        make_record,
        label_names=[],
        text_protocol="structured findings section under SRRG's eight headers; history section",
        split=split,
        dropped=dropped,
        version=VERSION,
        num_proc=num_proc,
        cache_dir=cache_dir,
    )


def _patient(path: str) -> str:
    found = re.search(r"(?:^|/)(?:p(\d{8})|(patient\d+))/", path)
    return (found[1] or found[2]) if found else ""


def _study(path: str) -> str:
    found = re.search(r"(?:^|/)(?:s(\d{8})|(patient\d+/study\d+))/", path)
    return (found[1] or found[2]) if found else ""


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
