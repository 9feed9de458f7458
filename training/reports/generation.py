"""Reports for one image, a folder of images or a data set, from flags to a file of predictions."""

import json
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

import torch
from accelerate import PartialState
from PIL import ImageDraw

from ..data.loading import load_data
from ..runs.command_line import parse_arguments
from ..runs.files import read_json, write_json, write_text
from .files import CONTEXT_COLUMNS, FileRecords, context_of, read_contexts
from .writing import (
    ReportPreparation,
    ReportWriter,
    WritingArguments,
    one_per_study,
    open_writer,
    write_rows,
)

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".dcm", ".dicom")
PARTS = "reports.parts"  # in the output folder: the rows of a run that is not finished


@dataclass
class OutputArguments:
    """What to read, and where to write."""

    checkpoint: str = field(metadata={"help": "a report generator, with its processor: folder or Hub id"})
    image: str | None = field(default=None, metadata={"help": "one PNG, JPEG or DICOM"})
    view_position: str = field(default="", metadata={"help": "of the image"})
    indication: str = field(default="", metadata={"help": "of the image"})
    history: str = field(default="", metadata={"help": "of the image"})
    other_images: str = field(default="", metadata={"help": "other views of its study, paths with | between them"})
    other_views: str = field(default="", metadata={"help": "their view positions, with | between them"})
    prior_image: str = field(default="", metadata={"help": "an earlier image of the patient"})
    prior_view_position: str = ""
    prior_days: str = field(default="", metadata={"help": "days from the earlier study to this one; empty: unknown"})
    prior_report: str = field(default="", metadata={"help": "findings of the earlier study"})
    folder: str | None = field(default=None, metadata={"help": "a folder of such images, searched to any depth"})
    context: str | None = field(
        default=None,
        metadata={
            "help": "CSV beside the folder: image (path below it), "
            + ", ".join(CONTEXT_COLUMNS)
            + "; images that are only companions get no report of their own"
        },
    )
    data: str | None = field(default=None, metadata={"help": 'JSON: {"name": ..., "split": ..., "root": ...}'})
    one_per_study: bool = field(
        default=False, metadata={"help": "of a data set, only each study's first frontal image"}
    )
    output_dir: str | None = field(
        default=None, metadata={"help": "folder of the reports; absent: one image's report is printed"}
    )
    file_type: Literal["jsonl", "csv"] = field(default="jsonl", metadata={"help": "of the reports"})
    grounding: bool = field(
        default=False, metadata={"help": "draw where each sentence looks, one picture per report, in pictures/"}
    )
    report_kind: Literal["free_text", "structured"] | None = field(
        default=None, metadata={"help": "of references; as the checkpoint's if absent"}
    )
    constrain_structure: bool | None = field(
        default=None,
        metadata={"help": "let only valid structured reports through; so by default where they are asked for"},
    )
    min_support: float | None = field(
        default=None, metadata={"help": "leave out sentences with less support, where the checkpoint tells it"}
    )
    on_other: Literal["off", "warn", "refuse"] = field(
        default="off", metadata={"help": "what becomes of pictures that the guard takes for no such radiograph"}
    )
    no_context: bool = field(default=False, metadata={"help": "leave indication and history out"})
    no_views: bool = field(default=False, metadata={"help": "leave other views out"})
    no_priors: bool = field(default=False, metadata={"help": "leave earlier studies out"})
    batch_size: int = 16
    device: str | None = field(default=None, metadata={"help": "by default this process's GPU where there is one"})


@torch.inference_mode()
def generate_reports(argv: list[str] | None, draw: Callable) -> list[dict]:
    """Write the reports that the flags ask for; returns their rows.

    Args:
        draw: painted gaze maps, sentences and a path -> a picture of them there.
    Raises:
        ValueError: arguments that do not fit; a run in `output_dir` that had other settings.
    """
    arguments, writing = parse_arguments((OutputArguments, WritingArguments), argv, generate_reports.__doc__)
    records = open_records(arguments)
    if arguments.output_dir is None and (arguments.image is None or arguments.grounding):
        raise ValueError("output_dir: missing; name the folder to write into.")
    # Without `cpu`, processes on a machine without GPUs would not know of each other.
    state = PartialState(cpu=arguments.device == "cpu" or not torch.cuda.is_available())
    writer = _writer(arguments, writing, str(arguments.device or state.device))
    if arguments.output_dir is None:
        (row,) = written_rows(writer, records, [0], guard=arguments.on_other, min_support=arguments.min_support)
        if "refused" in row:
            raise ValueError(f"image: {arguments.image}: {row['refused']}; no report was written (--on_other).")
        print(row["generated_report"])
        return [row]
    return _write_all(writer, records, arguments, writing, state, draw)


def _write_all(
    writer: ReportWriter, records, arguments: OutputArguments, writing: WritingArguments, state, draw: Callable
) -> list[dict]:
    """Rows of all records; all processes share the work, the first one puts it together."""
    folder = Path(arguments.output_dir)
    parts = folder / PARTS
    if state.is_main_process:
        _begin(parts, asdict(arguments) | writing.options())
    state.wait_for_everyone()
    done = _read_parts(parts)
    places = one_per_study(records) if arguments.one_per_study else list(range(len(records)))
    names = records["image_id"]
    if len(set(names)) < len(names):
        raise ValueError("data: several records have the same image_id, by which rows are told apart.")
    left = [place for place in places if names[place] not in done]
    # All must have read what is done before anyone adds to it.
    state.wait_for_everyone()
    share = left[state.process_index :: state.num_processes]
    pictures = folder / "pictures" if arguments.grounding else None
    with open(parts / f"{state.process_index}.jsonl", "a", encoding="utf-8") as part:
        for row in written_rows(writer, records, share, pictures, draw, arguments.min_support, arguments.on_other):
            part.write(json.dumps(row) + "\n")
            part.flush()
    state.wait_for_everyone()
    written = _read_parts(parts)
    rows = [written[names[place]] for place in places]
    state.wait_for_everyone()
    if state.is_main_process:
        write_rows(folder / f"reports.{arguments.file_type}", rows)
        shutil.rmtree(parts)
        print(f"{len(rows)} reports: {folder / f'reports.{arguments.file_type}'}")
    return rows


def open_records(arguments: OutputArguments):
    """The records to write reports for: a data set, or files in the same form.

    Raises:
        ValueError: not one of image, folder and data; a folder without images; a context that names others.
    """
    if sum(value is not None for value in (arguments.image, arguments.folder, arguments.data)) != 1:
        raise ValueError("image, folder, data: give one of them.")
    if arguments.data is not None:
        return load_data(arguments.data, "data")
    if arguments.image is not None:
        context = {name: getattr(arguments, name) for name in CONTEXT_COLUMNS}
        context = context_of(context, Path(), "")
        return FileRecords([Path(arguments.image)], [Path(arguments.image).name], [context])
    root = Path(arguments.folder)
    files = sorted(path for path in root.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
    if not files:
        raise ValueError(f"folder: {root} has no {', '.join(IMAGE_SUFFIXES)} file.")
    names = [path.relative_to(root).as_posix() for path in files]
    names, contexts = read_contexts(arguments.context, names, root)
    return FileRecords([root / name for name in names], names, contexts)


def _writer(arguments: OutputArguments, writing: WritingArguments, device: str) -> ReportWriter:
    options = {"batch_size": arguments.batch_size, "options": writing.options()}
    writer = open_writer(arguments.checkpoint, device, **options)
    kind = arguments.report_kind or writer.prepare.report_kind
    constrain = arguments.constrain_structure
    if constrain if constrain is not None else kind == "structured":
        writer.constrain()
    writer.prepare = ReportPreparation(
        not arguments.no_context,
        use_views=not arguments.no_views,
        use_priors=not arguments.no_priors,
        report_kind=kind,
        sections=writer.prepare.sections,
    )
    return writer


def written_rows(
    writer: ReportWriter,
    records,
    places,
    pictures: Path | None = None,
    draw: Callable | None = None,
    min_support: float | None = None,
    guard: str = "off",
) -> Iterator[dict]:
    """Prediction rows of the records at `places`.

    Args:
        pictures: a folder for a picture of each report's sentences, which the rows then hold too, with their boxes.
        min_support: sentences with less are left out of the reports, and named in `left_out`.
        guard: "warn" adds `warning` to the rows of pictures that are no such radiograph, "refuse" gives them `refused`
            and no report.
    """
    if pictures is None and min_support is None and guard == "off":
        yield from writer.rows(records, places)
        return
    for start in range(0, len(places), writer.batch_size):
        batch = [records[place] for place in places[start : start + writer.batch_size]]
        reasons = [_objection(writer, record, guard) for record in batch]
        kept = [record for record, reason in zip(batch, reasons, strict=True) if not reason or guard == "warn"]
        rows = iter(_grounded_rows(writer, kept, pictures, draw, min_support) if kept else [])
        for record, reason in zip(batch, reasons, strict=True):
            if reason and guard == "refuse":
                yield writer.row(record, "") | {"refused": reason}
            else:
                yield next(rows) | ({"warning": reason} if reason else {})


def _objection(writer: ReportWriter, record: dict, guard: str) -> str:
    """What the guard has against a record's picture, in words."""
    if guard == "off":
        return ""
    return writer.processor.check_radiograph(record["image"], record["view_position"]).reason


def _grounded_rows(writer: ReportWriter, batch, pictures: Path | None, draw, min_support: float | None) -> list[dict]:
    reports, grounded = writer.write(batch, grounding=True, min_support=min_support)
    sizes = [(record["image_width"], record["image_height"]) for record in batch]
    stored = [record["image"].size for record in batch]
    found = writer.processor.post_process_grounding(grounded, sizes, stored)
    rows = []
    for number, (record, report) in enumerate(zip(batch, reports, strict=True)):
        sentences = [{name: _rounded(value) for name, value in sentence.items()} for sentence in found[number]]
        kept = report if min_support is None else grounded.reports[number]
        row = writer.row(record, kept) | {"sentences": sentences}
        if min_support is not None:
            row["left_out"] = [sentence["text"] for sentence in sentences if sentence["left_out"]]
        if sentences and pictures is not None:
            row["picture"] = re.sub(r"[^\w.-]+", "_", record["image_id"]) + ".png"
            own = (grounded.sentence_report_index == number).nonzero()[:, 0].tolist()
            painted = [writer.processor.paint_gaze(record["image"], grounded.gaze_maps[i]) for i in own]
            painted = [_outlined(*each, sizes[number]) for each in zip(painted, sentences, strict=True)]
            draw(painted, sentences, pictures / row["picture"])
        rows.append(row)
    return rows


def _rounded(value):
    if isinstance(value, list):
        return [_rounded(each) for each in value]
    return round(value, 4) if isinstance(value, float) else value


def _outlined(picture, sentence: dict, size: tuple[int, int]):
    """A painted picture with the sentence's boxes, which are in pixels of an original of that size."""
    scale = [picture.width / size[0], picture.height / size[1]] * 2
    pen = ImageDraw.Draw(picture)
    for box in sentence["boxes"]:
        pen.rectangle([value * by for value, by in zip(box, scale, strict=True)], outline=(76, 201, 240), width=2)
    return picture


def _begin(parts: Path, settings: dict) -> None:
    """Start or go on with `parts`, the rows of a run that is not finished."""
    settings = json.loads(json.dumps({name: value for name, value in settings.items() if name != "device"}))
    file = parts / "settings.json"
    if not file.is_file():
        write_json(file, settings)
        return
    for part in parts.glob("*.jsonl"):
        text = part.read_text(encoding="utf-8")
        # A line that was cut off is written again.
        write_text(part, text[: text.rfind("\n") + 1])
    earlier = read_json(file)
    if earlier != settings:
        changed = sorted(name for name in {*earlier, *settings} if earlier.get(name) != settings.get(name))
        raise ValueError(
            f"{changed[0]}: {parts} holds a run that had {earlier.get(changed[0])!r}; give the same again to go on "
            "with it, or delete that folder."
        )


def _read_parts(parts: Path) -> dict[str, dict]:
    """Rows by id."""
    lines = (line for part in sorted(parts.glob("*.jsonl")) for line in part.read_text(encoding="utf-8").splitlines())
    return {row["dicom_id"]: row for row in map(json.loads, lines)}
