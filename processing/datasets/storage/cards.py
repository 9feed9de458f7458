"""Dataset cards, and the way to the Hub."""

from pathlib import Path

import yaml
from datasets import Features

from ..records import facts_of
from ..sources.common import Source
from .checking import counts_of
from .hub import Upload, upload
from .shards import write_shards


def dataset_card(source: Source, splits: dict) -> str:
    """README.md of a data set on the Hub: what the records hold, how many, what was dropped, licence and citation.

    Args:
        splits: split name -> its `Dataset`; its shards lie under `data/`.
    """
    first = next(iter(splits.values()))
    facts = facts_of(first)
    metadata = {
        "pretty_name": source.title,
        "license": "other",
        "license_name": source.name.replace("_", "-"),
        "license_link": source.homepage or None,
        "task_categories": ["zero-shot-image-classification", "image-to-text"],
        "tags": ["chest-x-ray", "radiology", *(["eye-gaze"] if counts_of(first).get("readings") else [])],
        "size_categories": [_size(sum(map(len, splits.values())))],
        "configs": [
            {
                "config_name": "default",
                "data_files": [{"split": name, "path": f"data/{name}-*.parquet"} for name in splits],
            }
        ],
        "dataset_info": {"features": Features.from_dict(first.features.to_dict())._to_yaml_list()},
    }
    metadata = {key: value for key, value in metadata.items() if value is not None}
    lines = [f"# {source.title}", ""]
    if source.homepage:
        lines += [f"Source: {source.homepage}", ""]
    lines += [f"Licence: {source.licence}.", ""]
    if source.credentialed:
        lines += ["Only for people who have signed the source's own agreement.", ""]
    lines += [f"Text: {facts['text_protocol']}.", ""] if facts.get("text_protocol") else []
    if facts.get("label_names"):
        lines += [
            "`labels` holds a code for each of: " + ", ".join(facts["label_names"]) + ". 1 positive, 0 negative, "
            "2 uncertain, -1 not mentioned.",
            "",
        ]
    lines += ["| field | type |", "|---|---|"]
    lines += [*(f"| {name} | {_kind(kind)} |" for name, kind in first.features.items()), ""]
    lines += ["Gaze, boxes and masks are in pixels of the original radiograph (`image_width` x `image_height`).", ""]
    for name, dataset in splits.items():
        lines += [f"## {name}", "", "| count | |", "|---|---|"]
        lines += [f"| {key} | {value:,} |" for key, value in counts_of(dataset).items()]
        lines += [f"| dropped: {key} | {value:,} |" for key, value in facts_of(dataset).get("dropped", {}).items()]
        lines += [f"| noted: {key} | {value:,} |" for key, value in facts_of(dataset).get("noted", {}).items()]
        lines.append("")
    lines += ["## Citation", "", "```bibtex", source.citation, "```", ""]
    return f"---\n{yaml.safe_dump(metadata, sort_keys=False)}---\n\n" + "\n".join(lines)


def _kind(feature) -> str:
    inner = getattr(feature, "feature", None)
    if inner is not None:
        return f"list of {_kind(inner)}"
    if isinstance(feature, dict):
        return "{" + ", ".join(f"{name}: {_kind(kind)}" for name, kind in feature.items()) + "}"
    return getattr(feature, "dtype", "image").replace("PIL.Image.Image", "image")


def _size(records: int) -> str:
    bounds = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
    return next((name for bound, name in bounds if records < bound), "1M<n<10M")


def refuse_to_share(source: Source, private: bool, i_have_permission: bool) -> None:
    """Raise unless the source may be uploaded as asked.

    Raises:
        ValueError: a credentialed source, and not both private and with permission.
    """
    if source.credentialed and not (private and i_have_permission):
        raise ValueError(
            f"name: {source.name} may not be passed on ({source.licence}). If its agreement allows you a private copy, "
            "pass --private --i_have_permission."
        )


def prepare_folder(source: Source, splits: dict, folder, **options) -> Path:
    """What is uploaded: `data/<split>-*.parquet` and README.md. Options are those of `write_shards`."""
    folder = Path(folder)
    for name, dataset in splits.items():
        write_shards(dataset, folder / "data", to="parquet", split=name, **options)
    (folder / "README.md").write_text(dataset_card(source, splits), encoding="utf-8")
    return folder


def push_folder(folder, repo: str, private: bool, dry_run: bool = False) -> Upload:
    """Bring the Hub's data set `repo` to what a prepared folder holds; shards of other splits stay.

    Raises:
        ValueError: the folder holds no shards, and what `upload` refuses.
        UploadError: as in `upload`.
    """
    shards = Path(folder).glob("data/*.parquet")
    splits = sorted({path.name.rpartition("-")[0] for path in shards})
    if not splits:
        raise ValueError(f"folder: {folder} holds no data/<split>-*.parquet; write it with push_to_hub --prepare_only.")
    replaced = [f"data/{split}-*.parquet" for split in splits]
    return upload(folder, repo, "dataset", "Upload data set", private, replaced, dry_run)
