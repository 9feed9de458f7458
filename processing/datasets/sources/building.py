"""From a source's table rows to a cached `datasets.Dataset` of records, each made on its own and counted if dropped."""

import hashlib
import json
import os
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from io import BytesIO
from pathlib import Path

import datasets
import datasets.config
import numpy as np
import pyarrow as pa
from datasets import Dataset, DatasetInfo, Features
from datasets.arrow_writer import ArrowWriter
from datasets.table import MemoryMappedTable, concat_tables
from PIL import Image
from tqdm import tqdm

from ...radiographs import MAX_PIXELS, ORIENTATION, read_radiograph
from ..records import record_features
from ..sections import leaked_sentence
from .chexmask import add_regions, attach
from .common import Skip, age_in_years, sex_letter
from .order import iso_date
from .remembering import Remembered, file_stamps, folder_stamps

BUILD_VERSION = 3  # raise it when the same files would give other records
CHUNK = 1024
EXAMPLES = 20  # files named for each reason of dropping


class Radiograph(datasets.Image):
    """`datasets.Image` that decodes with `read_radiograph`: DICOM too, always PIL "L", errors that name the file.

    Stored (on disk, on the Hub) it is a plain `Image`; what embeds the files there writes DICOM as PNG.
    """

    def __eq__(self, other):
        return isinstance(other, datasets.Image) and (self.mode, self.decode) == (other.mode, other.decode)

    __hash__ = None

    def decode_example(self, value, token_per_repo_id=None):
        return read_radiograph(value) if isinstance(value, dict) else value

    def embed_storage(self, storage: pa.StructArray, token_per_repo_id=None, local_files=True, remote_files=True):
        values = [value and embedded(value) for value in storage.to_pylist()]
        return super().embed_storage(pa.array(values, type=self.pa_type), token_per_repo_id, local_files, remote_files)


def _open_dicom(file, name) -> Image.Image:
    file.seek(128)
    if file.read(4) != b"DICM":
        raise SyntaxError("not a DICOM file")  # what tells Pillow to try its other formats
    file.seek(0)
    return read_radiograph(file.read(), str(name or "image"))


# Data sets that `map` brings back from its cache have lost `Radiograph` for a plain `Image`: DICOMs open there too.
Image.register_open("DICOM", _open_dicom)  # pyright: ignore[reportArgumentType] (any image does)


def embedded(value: dict) -> dict:
    """An image's {"bytes", "path"} with its file's content, PNG or JPEG as stored and DICOM as PNG."""
    data, path = value["bytes"], value["path"]
    if data is None:
        data = Path(path).read_bytes()
    name = os.path.basename(path or "")
    if data[128:132] == b"DICM":
        buffer = BytesIO()
        read_radiograph({"bytes": data, "path": path}).save(buffer, "PNG")
        data, name = buffer.getvalue(), f"{name.removesuffix('.dcm').removesuffix('.dicom')}.png"
    return {"bytes": data, "path": name or None}


def open_radiographs(dataset: Dataset) -> Dataset:
    """The data set with its images decoded by `read_radiograph`: after `load_from_disk`, and where DICOMs are in it."""
    return dataset.cast_column("image", Radiograph())


def image_size(path: str, name: str = "image") -> tuple[int, int]:
    """(width, height) from a file's header alone.

    Raises:
        Skip: the file is missing or empty, its header cannot be read, or it promises too many pixels.
    """
    if not os.path.exists(path):
        raise Skip(f"{name} file missing")
    try:
        if path.lower().endswith((".dcm", ".dicom")):
            import pydicom

            header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=["Rows", "Columns"])
            width, height = int(header.Columns), int(header.Rows)
        else:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", Image.DecompressionBombWarning)
                with Image.open(path) as picture:
                    width, height = picture.size
                    # For a PNG without one, Pillow would decode the whole picture to look for it.
                    has_exif = picture.format != "PNG" or "exif" in picture.info
                    if has_exif and picture.getexif().get(ORIENTATION, 1) >= 5:  # lies on its side
                        width, height = height, width
    except Image.DecompressionBombError as error:
        raise Skip(f"{name} of more than {MAX_PIXELS} pixels") from error
    except Exception as error:
        raise Skip(f"{name} header unreadable") from error
    if width * height > MAX_PIXELS:
        raise Skip(f"{name} of more than {MAX_PIXELS} pixels")
    return width, height


def dicom_facts(path: str) -> dict:
    """image_width, image_height, patient_age, patient_sex, view_position and study_date from a DICOM's header.

    Raises:
        Skip: as `image_size`.
    """
    width, height = image_size(path)
    import pydicom

    tags = ["PatientAge", "PatientSex", "ViewPosition", "StudyDate"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # RSNA's ages lack the unit that DICOM asks for
        header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=tags)
        age, sex, view, date = (str(header.get(tag, "") or "") for tag in tags)
    return {
        "image_width": width,
        "image_height": height,
        "patient_age": age_in_years(age),
        "patient_sex": sex_letter(sex),
        "view_position": view.strip().upper(),
        "study_date": iso_date(date),
    }


def cache_folder(cache_dir=None) -> Path:
    """Where built data sets lie: `cache_dir`, $COGAZE_CACHE, or `cogaze` beside the Hub's own cache."""
    folder = cache_dir or os.environ.get("COGAZE_CACHE") or Path(datasets.config.HF_CACHE_HOME) / "cogaze"
    return Path(folder).expanduser()


def remembered(
    source: str, version: int, options: dict, tables: Sequence, trees: Sequence, cache_dir=None
) -> Remembered:
    """The set that a loader would build of these options and files, if it was built before.

    Args:
        options: the loader's arguments that change records. tables: files, and folders whose own files count; None for
            what is not given. trees: folders of which everything counts.
    """
    stamps = [*map(folder_stamps, tables), *(folder_stamps(tree, below=True) for tree in trees)]
    folder = cache_folder(cache_dir) / source
    return Remembered(folder, _digest([BUILD_VERSION, version, options, stamps]))


def recall(memory: Remembered) -> Dataset | None:
    """The remembered set, opened."""
    known = memory.recall()
    return known and _open_chunks(*known)


def build(
    source: str,
    items: list[dict],
    make_record: Callable[[dict, Counter], dict],
    *,
    label_names: Sequence[str],
    text_protocol: str = "",
    split: str | None = None,
    dropped: Counter | None = None,
    noted: Counter | None = None,
    features: Features | None = None,
    chexmask=None,
    version: int = 1,
    num_proc: int | None = None,
    cache_dir=None,
    memory: Remembered | None = None,
    **facts,
) -> Dataset:
    """Make one record of each item, in parallel, with a progress bar, in chunks that are cached one by one.

    A chunk's key is made of its items, of size and modification time of the files they name under "files", and of the
    versions; so a run that was interrupted goes on where it stopped, and a changed file is read again.

    Args:
        items: JSON values only; "image_id", and "files" with everything that `make_record` reads, image first.
        make_record: importable function of an item and a counter of remarks ("fixation outside the image" ...) that
            returns a record, or raises `Skip` with the reason.
        version: the loader's own; raise it when the same files would give other records.
        dropped, noted: what the loader counted before.
        chexmask: CheXmask's table of this set, whose masks become regions.
        num_proc: processes; default one, without a pool.
        memory: `remembered` from before the tables were read; the set is kept there.

    Returns:
        the records, images decoded on access, with `facts_of` giving source, split, label_names, text_protocol,
        listed (how many items there were: the records and those refused), refused (by reason), dropped (these, and
        what was left out before), dropped_examples (files), noted and `facts`.

    Raises:
        ValueError: no record could be made (with the reasons), or an item that failed, with its id and file.
    """
    features = features or record_features()
    folder = cache_folder(cache_dir) / source
    folder.mkdir(parents=True, exist_ok=True)
    if chexmask is not None:
        noted = Counter(noted) + attach(items, chexmask, folder / "chexmask")
    chunks = [items[start : start + CHUNK] for start in range(0, len(items), CHUNK)]
    work = partial(_build_chunk, source, make_record, features, folder, version)
    bar = partial(
        tqdm, total=len(chunks), desc=f"{source} {split or ''}".strip(), unit="chunk", disable=len(chunks) < 2
    )
    if num_proc and num_proc > 1 and len(chunks) > 1:
        with ProcessPoolExecutor(min(num_proc, len(chunks))) as pool:
            done = list(bar(pool.map(work, chunks)))
    else:
        done = list(bar(map(work, chunks)))

    dropped, noted, refused, examples = Counter(dropped), Counter(noted), Counter(), {}
    for _, counts, _ in done:
        refused.update(counts["dropped"])
        noted.update(counts["noted"])
        for reason, names in counts["examples"].items():
            examples[reason] = (examples.get(reason, []) + names)[:EXAMPLES]
    dropped += refused
    full = [path for path, counts, _ in done if counts["records"]]
    if not full:
        reasons = ", ".join(f"{reason} ({count})" for reason, count in dropped.most_common()) or "it lists none"
        raise ValueError(f"{source}: not one record could be made: {reasons}. Check root and options.")
    told = dict(
        source=source,
        split=split,
        label_names=list(label_names),
        text_protocol=text_protocol,
        listed=len(items),
        refused=dict(refused),
        dropped=dict(+dropped),
        dropped_examples=examples,
        noted=dict(+noted),
        studies_ordered=any(item.get("study_order") is not None or item.get("study_date") for item in items),
        **facts,
    )
    description = json.dumps(told)
    if memory:
        paths = [path for item in items for path in item.get("files", ())]
        memory.keep(full, description, paths, np.concatenate([stamps for *_, stamps in done]))
    return _open_chunks(full, description)


def _open_chunks(paths: list[str], description: str) -> Dataset:
    """The records of cached chunks, with the facts of the whole set."""
    # One `Dataset`, not one a chunk: each takes a fingerprint of its own, and MIMIC-CXR has hundreds.
    table = concat_tables([MemoryMappedTable.from_file(path) for path in paths])
    dataset = Dataset(table, info=DatasetInfo(description=description))
    dataset = open_radiographs(dataset)
    # What `map` and `filter` cache by: the text protocol is part of it.
    dataset._fingerprint = _digest([description, *map(os.path.basename, paths)])[:16]
    return dataset


def _digest(value) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


def _check_study(record: dict) -> None:
    """Skip a record whose study has no name: all such would be one study, and each other's positives."""
    study = record.get("study_id", "unnamed")
    if not isinstance(study, str) or study.strip().lower() in ("", "nan", "none", "null", "<na>"):
        raise Skip("no study_id")


def _refuse_leak(record: dict) -> None:
    """Skip what would give a model its answer as context."""
    context = f"{record['indication']}\n{record['history']}"
    if leaked_sentence(context, record["findings"]) is not None:
        raise Skip("a sentence of the findings is in the indication or history")


def _build_chunk(source, make_record, features, folder: Path, version: int, items: list[dict]):
    """(Arrow file, counts, stamps of the files that the items name)."""
    stamps = file_stamps([path for item in items for path in item.get("files", ())])
    maker = getattr(make_record, "func", make_record)
    options = getattr(make_record, "keywords", {})
    key = _digest([BUILD_VERSION, version, source, maker.__qualname__, options, str(features), items, stamps.tolist()])[
        :32
    ]
    path, sidecar = folder / f"{key}.arrow", folder / f"{key}.json"
    if path.exists() and sidecar.exists():
        return str(path), json.loads(sidecar.read_text()), stamps

    dropped, noted, examples, records = Counter(), Counter(), {}, 0
    temporary = folder / f"{key}.{os.getpid()}.tmp"
    with ArrowWriter(features=features, path=str(temporary)) as writer:
        for item in items:
            try:
                _check_study(item)
                record = make_record(item, noted)
                _check_study(record)
                if "chexmask" in item:
                    record = add_regions(record, item["chexmask"], noted)
                _refuse_leak(record)
            except Skip as reason:
                dropped[str(reason)] += 1
                if dropped[str(reason)] <= EXAMPLES:
                    examples.setdefault(str(reason), []).append(next(iter(item.get("files", ())), item["image_id"]))
                continue
            except Exception as error:
                file = next(iter(item.get("files", ())), "no file")
                raise ValueError(f"{source}: record {item.get('image_id')!r} ({file}): {error}") from error
            writer.write(features.encode_example(record))
            records += 1
        writer.finalize()
    counts = {"records": records, "dropped": dict(dropped), "noted": dict(noted), "examples": examples}
    os.replace(temporary, path)
    temporary_counts = sidecar.with_suffix(f".{os.getpid()}.tmp.json")
    temporary_counts.write_text(json.dumps(counts))
    os.replace(temporary_counts, sidecar)
    return str(path), counts, stamps
