"""The embedded default data: chest radiographs rendered from a CT, with reports, labels, lesion masks and gaze.

Numbers measured on it say that the software works, never that a model is clinically good.

    python -m processing.datasets.phantom --contact-sheet phantom.png
    python -m processing.datasets.phantom --stats --split train
"""

import functools
import hashlib
import io
import os
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
from datasets import Dataset, concatenate_datasets
from datasets.arrow_writer import ArrowWriter
from PIL import Image
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from ..records import CHEXBERT_OBSERVATIONS, describe, record_features, study_share
from ..sources.building import cache_folder
from ..sources.common import blank_record
from ..sources.companions import chosen_companions
from .appearance import NARROW
from .gaze import READERS, simulate_reading
from .plan import OBSERVATION_OF, Rendering, StudyPlan
from .rendering import check_appearance, render_study
from .study import GALLERY_KINDS, draw_study
from .text import Sentence, write_report
from .visits import Past, changes_of, compared, draw_visit, of_the_present

ORIGINAL_SIZE = (2048, 2048)  # width and height that gaze, boxes and masks refer to
DEFAULT_SIZES = {"train": 2000, "validation": 200, "test": 500}
GALLERY_CLASSES = tuple(OBSERVATION_OF[kind] for kind in GALLERY_KINDS)
TWO_READERS = 0.15  # share of the images with gaze that a second reader reads as well
CHUNK = 32  # studies cached together


def load_phantom(
    split: str = "train",
    size: int | None = None,
    seed: int = 0,
    image_size: int = 224,
    gaze_fraction: float = 1.0,
    num_proc: int | None = None,
    cache_dir: str | os.PathLike | None = None,
    priors: bool | None = None,
    views: bool = False,
    appearance: str = NARROW,
) -> Dataset:
    """Rendered studies in the record schema, `label_names` the 14 CheXbert observations.

    A study depends on (seed, split, its index, image_size) alone, so a data set of n studies is the beginning of one
    of more, on every machine; no patient is in two splits. Frontal images have gaze, as in REFLACX; lateral ones none.
    `regions` hold one entry per lesion that the image shows; `sentence` is the index of its sentence both among the
    findings' sentences and in `gaze[0]["sentences"]`, the first reader saying them one for one.

    Args:
        split: "train", "validation" or "test".
        size: number of studies, each of one or two images (one record per image); default 2000, 200 and 500.
        image_size: of the stored picture, in pixels; gaze and boxes are in those of `ORIGINAL_SIZE` all the same.
        gaze_fraction: share of the studies that keep their gaze; those of a smaller share are among those of a larger.
        num_proc: processes that render; default all cores that this process may use.
        cache_dir: see `building.cache_folder`. A change in the code that makes the records renders them again.
        priors: True and False take other patients, who come again with findings that evolve (`visits.draw_visit`).
            True: a later visit has the one before as companion, its findings as `prior_findings`, the truth as
            `changes`, and sentences that compare, truthfully. False: the same pictures, without all of that. In both, a
            report says nothing of the past where no earlier study is given. None: patients' visits are drawn apart
            but for what is chronic, and sentences compare at random, with a past that is not there.
        views: a study's other images are companions.
        appearance: "narrow", or "wide" for patients, fields and films that differ more and come nearer to real ones;
            plans, texts and labels are the same. See `appearance`.

    Raises:
        ValueError: an unknown split or appearance, a size below 1, a share outside 0 and 1, or the renderer's own
            errors.
    """
    if split not in DEFAULT_SIZES:
        raise ValueError(f"split: {split!r} is none of {', '.join(DEFAULT_SIZES)}.")
    size = DEFAULT_SIZES[split] if size is None else size
    options = {"priors": priors, "views": views, "appearance": appearance}
    return _load(split, size, seed, image_size, gaze_fraction, num_proc, cache_dir, **options)


def load_phantom_gallery(
    size_per_class: int = 40,
    seed: int = 0,
    image_size: int = 224,
    num_proc: int | None = None,
    cache_dir: str | os.PathLike | None = None,
    appearance: str = NARROW,
) -> Dataset:
    """Single-finding studies for retrieval, the phantom's 5x200: one frontal image each, patients of their own.

    Each of `GALLERY_CLASSES` is the only finding of `size_per_class` studies, never hedged; a consolidation may be
    read as pneumonia, and a report may call it or others an opacity.

    Raises:
        ValueError: size_per_class below 1.
    """
    size = size_per_class * len(GALLERY_CLASSES)
    return _load("gallery", size, seed, image_size, 1.0, num_proc, cache_dir, appearance=appearance)


def _load(
    split, size, seed, image_size, gaze_fraction, num_proc, cache_dir, priors=None, views=False, appearance=NARROW
) -> Dataset:
    check_appearance(appearance)
    if size < 1:
        raise ValueError(f"size: {size} studies; ask for 1 or more.")
    if not 0 <= gaze_fraction <= 1:
        raise ValueError(f"gaze_fraction: {gaze_fraction} is not within 0 and 1.")
    kind = "" if priors is None else "-priors" if priors else "-visits"
    kind += "-views" if views else ""
    kind += "" if appearance == NARROW else f"-{appearance}"
    folder = cache_folder(cache_dir) / "phantom" / f"{_version()}-{seed}-{split}-{image_size}{kind}"
    folder.mkdir(parents=True, exist_ok=True)
    chunks = [range(start, min(start + CHUNK, size)) for start in range(0, size, CHUNK)]
    paths = [folder / f"{chunk.start:06d}-{chunk.stop:06d}.arrow" for chunk in chunks]
    missing = [(chunk, path) for chunk, path in zip(chunks, paths, strict=True) if not path.exists()]
    if missing:
        _render(missing, split, seed, image_size, num_proc, priors, views, appearance)
    dataset = concatenate_datasets([Dataset.from_file(str(path)) for path in paths])
    if gaze_fraction < 1:
        dataset = _keep_gaze(dataset, gaze_fraction)
    return describe(
        dataset,
        source="phantom",
        split=split,
        label_names=list(CHEXBERT_OBSERVATIONS),
        studies=size,
        seed=seed,
        gaze_fraction=gaze_fraction,
        priors=priors,
        views=views,
        appearance=appearance,
    )


def _render(missing, split, seed, image_size, num_proc, priors, views, appearance):
    num_proc = min(num_proc or len(os.sched_getaffinity(0)), len(missing))
    bar = tqdm(total=sum(len(chunk) for chunk, _ in missing), desc=f"phantom {split}", unit="study", disable=None)
    work = functools.partial(_write_chunk, split, seed, image_size, priors, views, appearance)
    with bar:
        if num_proc == 1:
            for chunk in map(work, missing):
                bar.update(len(chunk))
            return
        with ProcessPoolExecutor(num_proc) as pool:
            for chunk in pool.map(work, missing):
                bar.update(len(chunk))


def _write_chunk(split, seed, image_size, priors, views, appearance, chunk_and_path) -> range:
    chunk, path = chunk_and_path
    handle, partial_path = tempfile.mkstemp(dir=path.parent, suffix=".partial")
    os.close(handle)
    try:
        # One thread of linear algebra: its rounding, and so the picture, does not depend on how many cores there are.
        with threadpool_limits(1), ArrowWriter(path=partial_path, features=record_features()) as writer:
            earlier = []
            for index in chunk:
                earlier = phantom_records(split, index, seed, image_size, priors, views, earlier, appearance)
                for record in earlier:
                    writer.write(record)
            writer.finalize()
        os.replace(partial_path, path)
    except BaseException:
        os.unlink(partial_path)
        raise
    return chunk


def phantom_records(
    split: str,
    index: int,
    seed: int = 0,
    image_size: int = 224,
    priors: bool | None = None,
    views: bool = False,
    earlier: list[dict] | None = None,
    appearance: str = NARROW,
) -> list[dict]:
    """The records of study `index`, one per image, pictures and masks as `{"bytes": PNG, "path": None}`.

    earlier: with `priors`, the records of study `index - 1`, where they are made already.
    """
    past = compare = None
    if priors is None:
        plan, context = draw_study(split, index, seed)
    else:
        plan, context, past = draw_visit(split, index, seed)
        past = past if priors else None
        compare = functools.partial(_written, plan=plan, past=past)
    report = write_report(plan, context, compare)
    sentence_of = {}
    for position, sentence in enumerate(report.findings):
        for lesion in sentence.lesions:
            sentence_of.setdefault(lesion, position)
    records = []
    renderings = render_study(plan, image_size, appearance)
    for number, (view, rendering) in enumerate(zip(plan.views, renderings, strict=True)):
        rng = np.random.default_rng([plan.view_seeds[number], 2])
        records.append(
            blank_record()
            | {
                "image": _png(rendering.image),
                "image_width": ORIGINAL_SIZE[0],
                "image_height": ORIGINAL_SIZE[1],
                "image_id": f"{plan.study_id}-{view.lower()}",
                "study_id": plan.study_id,
                "patient_id": plan.patient.patient_id,
                "view_position": view,
                "patient_age": plan.patient.age,
                "patient_sex": plan.patient.sex,
                "indication": report.indication,
                "history": report.history,
                "findings": " ".join(sentence.text for sentence in report.findings),
                "impression": " ".join(sentence.text for sentence in report.impression),
                "labels": list(report.labels),
                "gaze": [] if view == "LATERAL" else _readings(report.findings, rendering, rng),
                "regions": _regions(plan.lesions, rendering, sentence_of),
            }
        )
    if past is not None and not earlier:
        earlier = phantom_records(split, index - 1, seed, image_size, priors, appearance=appearance)
    earlier = earlier or []
    companions = chosen_companions(records, earlier if past else [], past and past.days, views=views)
    for record, found in zip(records, companions, strict=True):
        record["companions"] = found
        if past is not None:
            record |= {"prior_findings": earlier[0]["findings"], "changes": changes_of(plan, past)}
    return records


def _written(sentences: tuple[Sentence, ...], plan: StudyPlan, past: Past | None) -> tuple[Sentence, ...]:
    sentences = of_the_present(sentences)
    return sentences if past is None else compared(sentences, plan, past)


def _readings(sentences, rendering: Rendering, rng: np.random.Generator) -> list[dict]:
    readers = rng.permutation(READERS)[: 1 + (rng.random() < TWO_READERS)].tolist()
    return [
        simulate_reading(sentences, rendering, ORIGINAL_SIZE, rng, reader, leave_out=0.25 if place else 0.0)
        for place, reader in enumerate(readers)
    ]


def _regions(lesions, rendering: Rendering, sentence_of: dict[int, int]) -> list[dict]:
    regions = []
    for index, (lesion, mask) in enumerate(zip(lesions, rendering.lesion_masks, strict=True)):
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        if not len(rows):
            continue
        across, down = ORIGINAL_SIZE[0] / mask.shape[1], ORIGINAL_SIZE[1] / mask.shape[0]
        regions.append(
            {
                "label": OBSERVATION_OF[lesion.kind],
                "box": [columns[0] * across, rows[0] * down, (columns[-1] + 1) * across, (rows[-1] + 1) * down],
                "mask": _png(mask.astype(np.uint8) * 255),
                "sentence": sentence_of.get(index, -1),
            }
        )
    return regions


def _png(pixels: np.ndarray) -> dict:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=3)
    return {"bytes": buffer.getvalue(), "path": None}


@functools.cache
def _version() -> str:
    """Of the code and data that make a record: another version, another cache."""
    here = Path(__file__).parent
    unrelated = {here / f"{name}.py" for name in ("__init__", "__main__", "sheet", "labeler")}
    digest = hashlib.blake2b(digest_size=6)
    for path in sorted({*here.glob("*.py"), here.parent / "records.py", *here.glob("data/*")} - unrelated):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()


def _keep_gaze(dataset: Dataset, fraction: float) -> Dataset:
    keep = [study_share(study_id) < fraction for study_id in dataset["study_id"]]
    gaze = dataset.data.column("gaze").combine_chunks()
    # A null index takes nothing: those studies' lists are emptied, images stay where they are.
    empty = pa.array([[]], type=gaze.type)
    rows = [row if kept else len(gaze) for row, kept in enumerate(keep)]
    gaze = pa.concat_arrays([gaze, empty]).take(pa.array(rows, pa.int64()))
    order, feature = dataset.column_names, dataset.features["gaze"]
    return dataset.remove_columns("gaze").add_column("gaze", gaze, feature=feature).select_columns(order)
