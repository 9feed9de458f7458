"""CheXpert, and the 5x200 and 8x200 samples of it.

    train.csv, valid.csv (test.csv)   Path, Sex, Age, Frontal/Lateral, AP/PA, 14 labels: 1, 0, -1 or blank
    train/patient00001/study1/view1_frontal.jpg

Path begins with the archive's own name (CheXpert-v1.0-small/...), whatever the folder is called now. Irvin et al.,
AAAI 2019; https://stanfordmlgroup.github.io/competitions/chexpert/
"""

from collections import Counter
from dataclasses import replace
from functools import partial

from ..records import CHEXBERT_OBSERVATIONS
from .building import build, image_size
from .common import Source, age_in_years, blank_record, indication_of, sex_letter
from .order import oldest_first
from .roots import find_root
from .samples import sample_facts, sample_per_class
from .splits import choose_split
from .tables import chexpert_codes, number, read_table, without_duplicates

VERSION = 1


def load_chexpert(
    root,
    split: str | None = None,
    *,
    sample: str | None = None,
    seed: int = 0,
    demographics: bool = True,
    chexmask=None,
    split_lists=None,
    num_proc: int | None = None,
    cache_dir=None,
):
    """CheXpert as records.

    Args:
        root: the folder that holds train.csv and valid.csv.
        split: "train", "val" (valid.csv), "test" (test.csv, where there is one) or None.
        sample: "5x200" or "8x200" (see `sample_per_class`), drawn with `seed` from the split's images.
        demographics: age and sex make the indication.
        chexmask: CheXmask's table, `CheXpert.csv`; see `chexmask.attach`.
    """
    root = find_root(root, "CheXpert", "train.csv|valid.csv|test.csv")
    dropped: Counter = Counter()
    items = []
    for name, file in (("train", "train.csv"), ("val", "valid.csv"), ("test", "test.csv")):
        if not (root / file).is_file():
            continue
        table = read_table(root / file, ("Path", *CHEXBERT_OBSERVATIONS))
        for row in without_duplicates(table, "Path", dropped).to_dict("records"):
            parts = row["Path"].split("/")
            place = next((i for i, part in enumerate(parts) if part.startswith("patient")), None)
            if place is None:
                raise ValueError(
                    f"{root / file}: {row['Path']!r} names no patient; Path is .../patient<n>/study<n>/..."
                )
            lateral = row.get("Frontal/Lateral", "").strip().lower() == "lateral"
            items.append(
                {
                    "image_id": "/".join(parts[place:]).rsplit(".", 1)[0],
                    "study_id": "/".join(parts[place : place + 2]),
                    "patient_id": parts[place],
                    "study_order": number(parts[place + 1].removeprefix("study"), 0),
                    "view_position": "LATERAL" if lateral else row.get("AP/PA", "").strip().upper(),
                    "patient_age": age_in_years(row.get("Age", "")),
                    "patient_sex": sex_letter(row.get("Sex", "")),
                    "labels": chexpert_codes(row),
                    "split": name,
                    "files": [str(root.joinpath(*parts[max(place - 1, 0) :]))],
                }
            )
    items = choose_split(oldest_first(items), split, split_lists, dropped=dropped)
    if sample:
        items = sample_per_class(items, sample, CHEXBERT_OBSERVATIONS, seed)
    return build(
        "chexpert",
        items,
        partial(make_record, demographics=demographics),
        label_names=CHEXBERT_OBSERVATIONS,
        text_protocol="indication from age and sex" if demographics else "no text",
        split=split,
        sample=sample,
        **sample_facts("chexpert", sample),
        chexmask=chexmask,
        dropped=dropped,
        version=VERSION,
        num_proc=num_proc,
        cache_dir=cache_dir,
    )


def make_record(item: dict, noted: Counter, demographics: bool = True) -> dict:
    width, height = image_size(item["files"][0])
    fields = ("image_id", "study_id", "patient_id", "view_position", "patient_age", "patient_sex", "labels")
    return blank_record() | {
        "image": {"path": item["files"][0], "bytes": None},
        "image_width": width,
        "image_height": height,
        **{name: item[name] for name in fields},
        "indication": indication_of(item["patient_age"], item["patient_sex"]) if demographics else "",
    }


SOURCE = Source(
    name="chexpert",
    title="CheXpert",
    load=load_chexpert,
    homepage="https://stanfordmlgroup.github.io/competitions/chexpert/",
    licence="Stanford University Dataset Research Use Agreement",
    citation="""@inproceedings{irvin2019chexpert,
  title={CheXpert: A large chest radiograph dataset with uncertainty labels and expert comparison},
  author={Irvin, Jeremy and Rajpurkar, Pranav and Ko, Michael and others},
  booktitle={AAAI}, year={2019}
}""",
    published={"train": 223_414, "val": 234, "patients": 64_740},
)


def _sampled(sample: str) -> Source:
    return replace(
        SOURCE,
        name=f"chexpert_{sample}",
        title=f"CheXpert {sample}",
        load=partial(load_chexpert, split="train", sample=sample),
        published={"images": 200 * int(sample[0])},
    )


SOURCE_5X200, SOURCE_8X200 = _sampled("5x200"), _sampled("8x200")
