"""A processor's companions of an image: other views of its study, and earlier studies with their report."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from .processor_parts import ProcessorPart

# `companion_role_ids`, by the role's name in records.
ROLES = {"view": 0, "prior": 1}
COMPANION_ARGUMENTS = (
    *("other_images", "other_views"),
    *("prior_images", "prior_view_position", "prior_days", "prior_report"),
)
# What may stand for a companion's image: {"vision_features": (P or 1 + P, W) what a frozen encoder made of it}.
STORED = "vision_features"
OF_PRIORS = ("prior_view_position", "prior_days", "prior_report")


class CompanionMixin(ProcessorPart):
    """For a processor with `max_companions`, `image_processor`, `read_picture`, `_framed` and `_view_ids`."""

    def _companions(self, given: dict[str, list]) -> dict[str, torch.Tensor]:
        """companion_ tensors; empty where the batch has none. Takes its arguments out of `given`, but the report."""
        arguments = {name: given.pop(name) for name in COMPANION_ARGUMENTS[:-1] if name in given}
        if not arguments and "prior_report" not in given:
            return {}
        count = len(next(iter((arguments | given).values())))
        values = {name: arguments.get(name, given.get(name)) or [None] * count for name in COMPANION_ARGUMENTS}
        rows = [row for i in range(count) for row in self._of_item(i, {name: values[name][i] for name in values})]
        data = {
            "companion_index": torch.tensor([row["index"] for row in rows], dtype=torch.int64),
            "companion_role_ids": torch.tensor([ROLES[row["role"]] for row in rows], dtype=torch.int64),
            "companion_days": torch.tensor([row["days"] for row in rows], dtype=torch.float32),
        }
        data["companion_view_ids"] = self._view_ids([row["view"] for row in rows], [row["view_name"] for row in rows])
        if any(isinstance(row["image"], Mapping) and STORED in row["image"] for row in rows):
            data[f"companion_{STORED}"] = torch.stack([row["image"][STORED] for row in rows])
            return data
        height, width = self._pixel_size()
        data["companion_pixel_values"] = torch.zeros(0, 3, height, width)
        if rows:
            pictures = [self._framed(self.read_picture(row["image"], row["name"])) for row in rows]
            data["companion_pixel_values"] = self.image_processor(pictures, return_tensors="pt")["pixel_values"]
        return data

    def _of_item(self, i: int, item: dict[str, Any]) -> list[dict]:
        others, priors = _each(item["other_images"]), _each(item["prior_images"])
        if not priors:
            named = next((name for name in OF_PRIORS if _each(item[name])), None)
            if named:
                raise ValueError(f"{named}[{i}]: there is no prior; give prior_images, or leave it out.")
        if len(others) + len(priors) > self.max_companions:
            which = "other_images" if others else "prior_images"
            raise ValueError(
                f"{which}[{i}]: {len(others)} other views and {len(priors)} priors are more than the "
                f"{self.max_companions} companions of an image that the model was made for (max_companions)."
            )
        rows = []
        for role, argument, images, views, days in (
            ("view", "other_images", others, "other_views", [0.0] * len(others)),
            ("prior", "prior_images", priors, "prior_view_position", _days(item["prior_days"], len(priors), i)),
        ):
            names = _beside(item[views], len(images), f"{views}[{i}]", argument)
            for j, (image, view, time) in enumerate(zip(images, names, days, strict=True)):
                place = f"[{i}][{j}]" if len(images) > 1 else f"[{i}]"
                if image is None:
                    raise ValueError(f"{argument}{place}: a companion without an image; give it, or leave it out.")
                row = {"index": i, "role": role, "days": time, "image": image, "name": argument + place}
                rows.append(row | {"view": view, "view_name": views + place})
        return rows


def arguments_of_records(records: Sequence) -> dict[str, list]:
    """The processor's arguments that records' `companions` and `prior_findings` stand for; {} where none has any."""
    if not any(record.get("companions") for record in records):
        return {}
    arguments: dict[str, list] = {name: [] for name in COMPANION_ARGUMENTS}
    for record in records:
        views, priors = (
            [each for each in record.get("companions") or [] if each["role"] == role] for role in ("view", "prior")
        )
        arguments["other_images"].append([each["image"] for each in views])
        arguments["other_views"].append([each["view_position"] for each in views])
        arguments["prior_images"].append([each["image"] for each in priors])
        arguments["prior_view_position"].append([each["view_position"] for each in priors])
        arguments["prior_days"].append([each["days"] for each in priors])
        arguments["prior_report"].append((record.get("prior_findings") if priors else "") or "")
    return arguments


def _each(value) -> list:
    """One entry or several, or none, as a list."""
    if value is None or (isinstance(value, str) and value == ""):
        return []
    return list(value) if isinstance(value, list | tuple) else [value]


def _beside(value, count: int, name: str, argument: str) -> list:
    given = _each(value) or [""] * count
    if len(given) != count:
        raise ValueError(f"{name}: {len(given)} entries for {count} images in {argument}; give one for each.")
    return given


def _days(value, count: int, i: int) -> list[float]:
    """Days before the study, -1 where unknown."""
    given = _each(value) or [None] * count
    if len(given) != count:
        raise ValueError(f"prior_days[{i}]: {len(given)} entries for {count} priors; give one for each.")
    days = []
    for each in given:
        try:
            number = -1.0 if each is None else float(np.asarray(each).item())
        except (TypeError, ValueError):
            number = math.nan
        if not math.isfinite(number) or (each is not None and number < 0):
            raise ValueError(
                f"prior_days[{i}]: {each!r}; give the days from the prior to the study, 0 or more: a prior lies before."
            )
        days.append(number)
    return days
