"""CoGaze's processor: radiographs, report text, gaze and targets to tensors."""

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch.utils.data import get_worker_info
from transformers import BatchFeature, BitImageProcessor, ProcessorMixin
from transformers.processing_utils import ProcessingKwargs, Unpack

from .batches import as_batch, check_proportions, given_readings, given_sizes, study_numbers, whole_text
from .boxes import BoxMixin
from .companion_inputs import CompanionMixin, arguments_of_records
from .gaze_inputs import GazeInputs
from .guard import GuardMixin
from .pictures import PictureMixin
from .post_processing import MaskPostProcessing
from .processor_arguments import StockArgumentsMixin
from .radiographs import stored_size
from .report_text import ReportTextMixin
from .reports import REPORT_SECTIONS
from .targets import label_tensor, mask_tensor
from .tokenization import PRIOR_TOKEN
from .view_positions import VIEW_POSITIONS

# Rad-DINO's grey levels.
IMAGE_MEAN, IMAGE_STD = 0.5307, 0.2583


class CoGazeProcessor(
    CompanionMixin,
    GazeInputs,
    PictureMixin,
    MaskPostProcessing,
    BoxMixin,
    GuardMixin,
    StockArgumentsMixin,
    ReportTextMixin,
    ProcessorMixin,
):
    """Turns what a radiologist has, and what one looked at, into CoGaze's inputs. The only place that does.

    Args:
        image_processor: shortest edge resized (or to a fixed height and width), centre crop, normalised.
        tokenizer: from `processing.tokenization`: it must know CoGaze's special tokens.
        view_positions: names by index; index 0 is "unknown".
        grid_size: (rows, columns) of the vision encoder's patches.
        max_context_length, max_report_length, max_transcript_length: tokens kept, special tokens included.
        max_characters: a longer text is refused, not cut: it is no radiology text.
        context_format: "sections" names indication and history, "plain" joins them, as for SRRG's structured reports.
        report_kind: what a report generator writes, "free_text" or "structured" (SRRG's headers).
        gaze_maps: "exact" integrates fixations over patches; "rendered" draws 8-bit heatmaps at the pixels' size first,
            which cut what is dark, as the released code does (`rendered_targets`).
        report_sections: what a report generator writes, findings alone or ("findings", "impression"), told apart by
            `split_report_sections`.
        report_ending: text between a report and the token that ends it, in a decoder's labels; the released code has a
            blank there.
        exclusive_classes: what is segmented are classes of which each pixel has one, not independent labels.
        max_companions: other views and priors of an image, together at most; 0 for a model that reads none.
        scaled_decoding: JPEGs are decoded at the least scale that is as large as needed (`PictureMixin.read_picture`).
        parts: further tokenizers of a subclass, by name.

    Raises:
        ValueError: the first view position is not ""; the image processor lets pictures keep different sizes; unknown
            context_format or gaze_maps.
    """

    _auto_class = "AutoProcessor"
    # The special tokens are part of the templates.
    _REPORT, _TRANSCRIPT = "[CLS] [FINDINGS] {}", "[CLS] [TRANSCRIPT] {}"
    _ADD_SPECIAL_TOKENS = False
    # Options by the variant of a config: what the released code does otherwise than its paper.
    variants = {
        "paper": {},
        "released": {
            "max_report_length": 300,
            "max_transcript_length": 300,
            "gaze_maps": "rendered",
            "report_ending": " ",
        },
    }

    def __init__(
        self,
        image_processor,
        tokenizer,
        view_positions: Sequence[str] = VIEW_POSITIONS,
        grid_size: Sequence[int] = (37, 37),
        max_context_length: int = 300,
        max_report_length: int = 200,
        max_transcript_length: int = 100,
        max_characters: int = 20_000,
        context_format: str = "sections",
        report_kind: str = "free_text",
        gaze_maps: str = "exact",
        report_ending: str = "",
        report_sections: Sequence[str] = ("findings",),
        exclusive_classes: bool = False,
        max_companions: int = 0,
        scaled_decoding: bool = False,
        **parts,
    ):
        super().__init__(image_processor, tokenizer, **parts)
        if not view_positions or view_positions[0] != "":
            raise ValueError('view_positions: the first one stands for "unknown" and must be "".')
        self.check_image_processor(image_processor)
        if context_format not in ("sections", "plain"):
            raise ValueError(f"context_format: {context_format!r} is neither 'sections' nor 'plain'.")
        if gaze_maps not in ("exact", "rendered"):
            raise ValueError(f"gaze_maps: {gaze_maps!r} is neither 'exact' nor 'rendered'.")
        self.gaze_maps = gaze_maps
        self.report_ending = report_ending
        if tuple(report_sections) not in (REPORT_SECTIONS[:1], REPORT_SECTIONS):
            raise ValueError(f"report_sections: {list(report_sections)}; give ['findings'] or {list(REPORT_SECTIONS)}.")
        self.report_sections = list(report_sections)
        self.exclusive_classes = exclusive_classes
        self.max_companions = max_companions
        self.scaled_decoding = scaled_decoding
        self.context_format = context_format
        self.report_kind = report_kind
        self.view_positions = list(view_positions)
        self.grid_size = list(grid_size)
        self.max_context_length = max_context_length
        self.max_report_length = max_report_length
        self.max_transcript_length = max_transcript_length
        self.max_characters = max_characters
        self._special = re.compile("|".join(map(re.escape, tokenizer.all_special_tokens)))
        # One counter for each worker process of a DataLoader, in memory that they share with this one.
        self._bad_records = torch.zeros(256, dtype=torch.int64).share_memory_()

    @classmethod
    def for_model(cls, tokenizer, config, **options) -> "CoGazeProcessor":
        """The processor that a model's config asks for: its image size (pixels), patch grid and view positions."""
        own = {name: getattr(config, name) for name in ("view_positions", "grid_size", "max_companions")}
        options = own | options
        return cls(cls.image_processor_for(config), tokenizer, **options)

    @staticmethod
    def image_processor_for(config) -> BitImageProcessor:
        """What `for_model` prepares pictures with."""
        height, width = config.image_size
        return BitImageProcessor(
            size={"shortest_edge": max(height, width)},
            crop_size={"height": height, "width": width},
            image_mean=[IMAGE_MEAN] * 3,
            image_std=[IMAGE_STD] * 3,
        )

    def __call__(
        self,
        images: Any = None,
        view_position: str | Sequence[str] | None = None,
        indication: str | Sequence[str] | None = None,
        history: str | Sequence[str] | None = None,
        findings: str | Sequence[str] | None = None,
        gaze: Any = None,
        image_size: Sequence | None = None,
        study_id: str | Sequence[str] | None = None,
        labels: Any = None,
        masks: Any = None,
        picture_size: Sequence | None = None,
        text: str | Sequence[str] | None = None,
        other_images: Any = None,
        other_views: Any = None,
        prior_images: Any = None,
        prior_view_position: Any = None,
        prior_days: Any = None,
        prior_report: str | Sequence[str | None] | None = None,
        report_labels: bool = False,
        reports_optional: bool = False,
        return_tensors: str = "pt",
        **kwargs: Unpack[ProcessingKwargs],
    ) -> BatchFeature:
        """One study or a list of them; every argument but `text` has one entry per image.

        Args:
            images: whatever `read_radiograph` takes, or a list of them.
            view_position: one of `view_positions`, in any case; "" or None is unknown.
            indication, history: context; "" or None where there is none.
            findings: the report.
            gaze: per image None, a reading or a list of readings. A reading is a mapping as in `validate_reading` (one
                without sentences is a single row, the full one, whose text is the image's `findings`), or
                a rendered one, {"sentences": [{text}, ...], "heatmaps": [one picture per sentence, the full one]}.
                Fixations outside the image or the part shown are left out.
            image_size: (width, height) of the original radiograph, in whose pixels gaze is given; default: the
                picture's own.
            study_id: any names; the same name gives the same number everywhere.
            labels: per image a list of label codes (1 positive, 0 negative, 2 uncertain: counts as positive, -1 not
                mentioned: counts as negative), or one class index.
            masks: per image a mask of the whole radiograph at any size of its proportions: PIL image or (height, width)
                array of class indices, or of 0 and 255; (C, height, width) of 0 and 1 for C independent labels; None:
                nothing to segment.
            picture_size: (width, height) of the stored picture, where `images` is left out; default: `image_size`.
            other_images, other_views: per image the other images of its study, one or a list, and their view positions.
            prior_images, prior_view_position, prior_days, prior_report: per image an earlier one (or a list), its view
                position, how many days it lies before (None: unknown), and its report, which joins the context. Each
                is None, or has None or "", where there is none.
            text: prompts to be compared with the images, read as reports; any number.
            report_labels: the findings are what a decoder is to write: `labels` (B, L) int64, `[begin] report [end]`
                with padding -100, in place of report_ and transcript_ tensors.
            reports_optional: findings may be "" where others are not; `report_present` (B,) bool says whose row stands
                for a report.
            return_tensors: "pt" or "np".
            kwargs: as for any `ProcessorMixin`, by name or in `text_kwargs` and `images_kwargs`: `padding`,
                `truncation`, `max_length`, `pad_to_multiple_of` and `padding_side` of every text that is read (what a
                decoder is to write keeps its own length), and all that the image processor takes, whose sizes gaze and
                masks follow.

        Returns:
            pixel_values (B, 3, H, W); view_position_ids (B,); context_, report_ and transcript_ input_ids and
            attention_mask; transcript_image_index and transcript_is_full (N,); gaze_targets (N, P); study_ids (B,);
            labels (B, C) float32 or (B,) int64, from masks (B, H, W) int64 or (B, C, H, W) float32; input_ids and
            attention_mask from text; of M companions companion_pixel_values (M, 3, H, W), companion_index (rows in
            the batch), companion_role_ids (0 view, 1 prior), companion_view_ids and companion_days (M,).
            What an argument gives is left out where the argument is None; the context needs one of its two. Where no
            image of the batch has a context or gaze, its tensors are there and empty: masks of zeros, N = 0.

        Raises:
            ValueError: names the argument, the item's index or file, and what to do.
            TypeError: an unknown argument.
        """
        own, return_tensors = self.adjusted(return_tensors, kwargs)
        if return_tensors not in ("pt", "np"):
            raise ValueError(f'return_tensors: {return_tensors!r} is neither "pt" nor "np".')
        if labels is not None and masks is not None:
            raise ValueError("labels and masks: both become `labels`; give one of them.")
        arguments = {
            "images": images,
            "view_position": view_position,
            "indication": indication,
            "history": history,
            "findings": findings,
            "gaze": gaze,
            "image_size": image_size,
            "study_id": study_id,
            "labels": labels,
            "masks": masks,
            "picture_size": picture_size,
            "other_images": other_images,
            "other_views": other_views,
            "prior_images": prior_images,
            "prior_view_position": prior_view_position,
            "prior_days": prior_days,
            "prior_report": prior_report,
        }
        if report_labels:
            if findings is None or labels is not None or masks is not None:
                raise ValueError("report_labels: they are made of findings, and there can be no other labels.")
            arguments |= {"gaze": None}
        data = own._tensors(arguments, text, report_labels, reports_optional)
        if return_tensors == "np":
            data = {name: tensor.numpy() for name, tensor in data.items()}
        return BatchFeature(data)

    def _tensors(self, arguments: dict, text, report_labels: bool, reports_optional: bool) -> dict[str, torch.Tensor]:
        given = as_batch({name: value for name, value in arguments.items() if value is not None})
        if not given and text is None:
            raise ValueError("images: give at least one input.")
        if "gaze" in given:
            given["gaze"] = [given_readings(readings, f"gaze[{i}]") for i, readings in enumerate(given["gaze"])]
        data = self._companions(given)
        sizes = boxes = None
        if "images" in given:
            pictures = [self.read_picture(image, f"images[{i}]") for i, image in enumerate(given["images"])]
            framed = [self._framed(picture) for picture in pictures]
            data["pixel_values"] = self.image_processor(framed, return_tensors="pt")["pixel_values"]
            stored = [stored_size(picture) for picture in pictures]
            sizes = given_sizes(given.get("image_size"), stored)
            if "gaze" in given:
                check_proportions(stored, sizes, given["gaze"])
            boxes = [self.crop_box(own, size) for own, size in zip(stored, sizes, strict=True)]
        elif "image_size" in given:
            sizes = given_sizes(given["image_size"], given["image_size"])
            stored = given_sizes(given.get("picture_size"), sizes, "picture_size")
            boxes = [self.crop_box(own, size) for own, size in zip(stored, sizes, strict=True)]
        if boxes is None and ("gaze" in given or "masks" in given):
            raise ValueError("image_size: gaze and masks need the images, or image_size.")

        if report_labels:
            data["labels"] = self.encode_reports(given.pop("findings"))
        data |= self._reading_room(given, sizes, boxes, reports_optional)
        if "study_id" in given:
            data["study_ids"] = study_numbers(given["study_id"])
        if "labels" in given:
            data["labels"] = label_tensor(given["labels"])
        if "masks" in given:
            data["labels"] = mask_tensor(given["masks"], sizes or [], boxes or [], *self._pixel_size())
        if text is not None:
            prompts = self._texts([text] if isinstance(text, str) else text, "text")
            data |= self._tokenize([self._REPORT.format(p) for p in prompts], self.max_report_length)
        return data

    def collate(
        self,
        records: Sequence[Mapping],
        on_bad_record: str = "raise",
        report_labels: bool = False,
        reports_optional: bool = False,
    ) -> BatchFeature:
        """The data collator: records of the schema to a batch.

        Findings and labels are left out where no record of the batch has any. Records may have `masks`, as in the call,
        which take the place of label codes.

        Args:
            records: with `image` decoded or as {"bytes", "path"} (so that damaged files are found here). In its place
                may stand `picture_size`, (width, height) of the picture, and `vision_features` (P or 1 + P, W), what
                a frozen encoder made of it, which go to the batch as they are. One with an `error` is unusable.
            on_bad_record: "raise", or "skip": leave out the records that cannot be used and count them in
                `bad_records`.
            report_labels: as in the call; label codes are left out.
            reports_optional: as in the call, for records of several sources: there are report_ tensors whether or not
                any record has findings.

        Raises:
            ValueError: a record is unusable, for example lacks findings or labels that others have; names its place
                and `image_id`. With "skip": all are unusable.
        """
        if on_bad_record not in ("raise", "skip"):
            raise ValueError(f"on_bad_record: {on_bad_record!r} is neither 'raise' nor 'skip'.")
        optional = [name for name in ("findings", "labels") if any(record.get(name) for record in records)]
        if any("masks" in record for record in records):
            optional = [*(name for name in optional if name != "labels"), "masks"]
        if report_labels:
            optional = ["findings"]
        if reports_optional:
            optional = [*(name for name in optional if name != "findings"), "findings"]
        asked = {"report_labels": report_labels} | ({"reports_optional": True} if reports_optional else {})
        collate = partial(self._collate, optional=optional, asked=asked)
        try:
            return collate(records)
        except Exception:  # whatever is wrong with one record, it is named, and the others can go on
            reasons = {i: reason for i, record in enumerate(records) if (reason := _fault(collate, record))}
            if not reasons:
                raise
            if on_bad_record == "raise" or len(reasons) == len(records):
                i, reason = next(iter(reasons.items()))
                all_bad = "; so are all others of the batch" if on_bad_record == "skip" else ""
                raise ValueError(f"records[{i}] (image_id {records[i].get('image_id')}): {reason}{all_bad}") from None
        worker = get_worker_info()
        self._bad_records[0 if worker is None else worker.id % 255 + 1] += len(reasons)
        return collate([record for i, record in enumerate(records) if i not in reasons])

    @property
    def bad_records(self) -> int:
        """How many records `collate(..., on_bad_record="skip")` has left out, here and in DataLoader workers."""
        return int(self._bad_records.sum())

    def _collate(self, records: Sequence[Mapping], optional: list[str], asked: dict[str, bool]) -> BatchFeature:
        for record in records:
            if record.get("error"):
                raise ValueError(record["error"])
        names = {"view_position", "study_id", "indication", "history", "gaze", *optional}
        named: dict[str, Any] = {name: [record.get(name) for record in records] for name in names}
        named["image_size"] = [(record["image_width"], record["image_height"]) for record in records]
        named |= asked
        if self.max_companions:
            named |= arguments_of_records(records)
        if "picture_size" not in records[0]:
            return self(images=[record["image"] for record in records], **named)
        batch = self(picture_size=[record["picture_size"] for record in records], **named)
        if "vision_features" in records[0]:
            batch["vision_features"] = torch.stack([record["vision_features"] for record in records])
        return batch

    def _reading_room(self, given: dict[str, list], sizes, boxes, reports_optional: bool) -> dict[str, torch.Tensor]:
        """What is known beside the picture: view, context, report and gaze."""
        data = {}
        if "view_position" in given:
            data["view_position_ids"] = self._view_ids(given["view_position"])
        if {"indication", "history", "prior_report"} & given.keys():
            data |= self._context(*(given.get(name) for name in ("indication", "history", "prior_report")))
        if "findings" in given:
            data |= self._reports(given["findings"], reports_optional)
        if "gaze" in given:
            reports = self._texts(given["findings"], "findings") if "findings" in given else None
            data |= self._gaze(given["gaze"], sizes, boxes, reports)
        return data

    def _view_ids(self, names: Sequence, arguments: Sequence[str] = ()) -> torch.Tensor:
        index = {name.upper(): i for i, name in enumerate(self.view_positions)}
        ids = []
        for i, name in enumerate(names):
            key = "" if name is None else str(name).strip().upper()
            if key not in index:
                known = ", ".join(filter(None, self.view_positions))
                where = arguments[i] if arguments else f"view_position[{i}]"
                raise ValueError(f'{where}: {name!r} is unknown; give one of {known}, or "".')
            ids.append(index[key])
        return torch.tensor(ids, dtype=torch.int64)

    def _texts(self, values: Sequence, name: str) -> list[str]:
        """Stripped texts without anything that would read as a special token."""
        texts = []
        for i, value in enumerate(values):
            value = "" if value is None else value
            if not isinstance(value, str):
                raise ValueError(f'{name}[{i}]: {value!r} is no text; give a string, or "" where there is none.')
            if len(value) > self.max_characters:
                raise ValueError(
                    f"{name}[{i}]: {len(value)} characters are more than {self.max_characters}; give the section alone."
                )
            if value != whole_text(value):
                raise ValueError(f"{name}[{i}]: it holds half of a surrogate pair; decode the text anew.")
            texts.append(self._special.sub(" ", value).strip())
        return texts

    @property
    def text_tokenizer(self):
        """The encoder's, for context, reports and transcripts."""
        return self.tokenizer

    def _tokenize(self, texts: list[str], max_length: int, prefix: str = "") -> dict[str, torch.Tensor]:
        ids = mask = np.zeros((0, 1), np.int64)
        if texts:
            # A tokenizer cuts to what it pads to.
            max_length -= max_length % (self.text_arguments.get("pad_to_multiple_of") or 1)
            options = {"padding": True, "truncation": True, "max_length": max_length} | self.text_arguments
            encoded = self.text_tokenizer(texts, add_special_tokens=self._ADD_SPECIAL_TOKENS, **options)
            if len({len(row) for row in encoded["input_ids"]}) > 1:
                raise ValueError("padding: texts of different lengths make no tensor; leave it True.")
            ids, mask = (np.array(encoded[name], np.int64) for name in ("input_ids", "attention_mask"))
        return {f"{prefix}input_ids": torch.from_numpy(ids), f"{prefix}attention_mask": torch.from_numpy(mask)}

    def _context(self, indications, histories, priors: Any = None) -> dict[str, torch.Tensor]:
        count = len(indications or histories or priors)
        named = {"indication": indications, "history": histories, "prior_report": priors}
        columns = [self._texts(values or [""] * count, name) for name, values in named.items()]
        rows = list(zip(*columns, strict=True))
        present = torch.tensor([any(row) for row in rows])
        texts = [self._context_text(*row) for row in rows if any(row)]
        encoded = self._tokenize(texts, self.max_context_length, "context_")
        ids = torch.full((count, encoded["context_input_ids"].shape[1]), self.text_tokenizer.pad_token_id)
        mask = torch.zeros_like(ids)
        ids[present] = encoded["context_input_ids"]
        mask[present] = encoded["context_attention_mask"]
        return {"context_input_ids": ids, "context_attention_mask": mask}

    def _context_text(self, indication: str, history: str, prior: str) -> str:
        if self.context_format == "plain":
            text = f"[CLS] {' '.join(filter(None, (indication, history)))}"
        else:
            text = f"[CLS] {f'[INDICATION] {indication}'.strip()} [SEP] {f'[HISTORY] {history}'.strip()}"
        if not prior:
            return text
        if PRIOR_TOKEN not in self.text_tokenizer.get_vocab():
            raise ValueError(
                f"prior_report: the tokenizer has no {PRIOR_TOKEN}; build it with prior=True, or give no report."
            )
        return f"{text} [SEP] {PRIOR_TOKEN} {prior}"

    def _reports(self, findings, optional: bool) -> dict[str, torch.Tensor]:
        texts = self._texts(findings, "findings")
        if not all(texts) and not optional:
            raise ValueError(f"findings[{texts.index('')}]: the report is empty; leave the study out.")
        encoded = self._tokenize([self._REPORT.format(t) for t in texts], self.max_report_length, "report_")
        return encoded | ({"report_present": torch.tensor([bool(t) for t in texts])} if optional else {})


def _fault(collate: Callable[[list[Mapping]], BatchFeature], record: Mapping) -> str | None:
    """Why a record alone cannot be used."""
    try:
        collate([record])
    except ValueError as error:
        return str(error)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None
