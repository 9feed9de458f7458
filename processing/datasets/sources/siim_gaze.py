"""Gaze of Saab et al. on SIIM-ACR: where radiologists looked, without what they said.

    cxr2_gaze_data.json      {SIIM's ImageId: [[x, y, t], ...]}: shares of width and height, samples of a 60 Hz tracker

Read off its README. It is published as a pickle (gaze_data/cxr2_gaze_data.pkl), which is not opened here, since a
pickle can run code; turn it into JSON once, where you trust it:

    python -c "import json, pickle; json.dump(pickle.load(open('cxr2_gaze_data.pkl', 'rb')),
    open('cxr2_gaze_data.json', 'w'), default=float)"

Saab et al., MICCAI 2021; https://github.com/HazyResearch/observational
"""

import json
from collections import Counter
from pathlib import Path

from ...gaze import clean_fixations
from .roots import read_text, stem

SAMPLES_PER_SECOND = 60


def join_siim_gaze(items: list[dict], file, noted: Counter) -> None:
    """Give the items their reading under "gaze", in shares of the image.

    Raises:
        ValueError: as `siim_readings`; not one reading of these images.
    """
    readings = siim_readings(file, noted)
    for item in items:
        if item["image_id"] in readings:
            item["gaze"] = readings.pop(item["image_id"])
    if not any("gaze" in item for item in items):
        raise ValueError(f"gaze: {file} has no reading of these images; its keys must be SIIM's ImageIds.")
    noted["gaze on an image that is not among these"] += len(readings)


def siim_readings(file, noted: Counter) -> dict[str, dict]:
    """ImageId -> a reading without sentences, in shares of the image (`place_reading` makes pixels of them).

    `t` counts samples, blinks and looks beside the image left out; so times are those of looking, not of a clock.

    Raises:
        ValueError: no such file, a pickle (says how to convert it), or another content; names the image.
    """
    file = Path(file).expanduser()
    if file.suffix == ".pkl":
        raise ValueError(
            f"gaze: {file} is a pickle, which could run code and is not opened; convert it to JSON where you trust it: "
            "python -c \"import json, pickle; json.dump(pickle.load(open('in.pkl', 'rb')), open('out.json', 'w'), "
            'default=float)"'
        )
    if not file.is_file():
        raise ValueError(f"gaze: there is no file {file}; give Saab et al.'s gaze as JSON.")
    readings = {}
    try:
        for name, points in json.loads(read_text(file)).items():
            timed = [(float(x), float(y), float(t) / SAMPLES_PER_SECOND) for x, y, t in points]
            if not timed:
                noted["gaze without a point"] += 1
                continue
            readings[stem(name)] = fixation_sequence("Saab et al.", timed, (1, 1))
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"gaze: {file} is no table of [x, y, t] by image ({error!r}).") from error
    return readings


def place_reading(reading: dict, size: tuple[int, int], noted: Counter) -> list[dict]:
    """The reading in pixels of an image of that size, as a list; empty if no fixation is on the image."""
    fixations = [f | {"x": f["x"] * size[0], "y": f["y"] * size[1]} for f in reading["fixations"]]
    reading, beside = clean_fixations(reading | {"fixations": fixations}, size)
    noted["fixation outside the image"] += beside
    return [reading] if reading["fixations"] else []


def fixation_sequence(reader: str, points, size: tuple[int, int]) -> dict:
    """A reading without sentences, of points (x, y, seconds) in shares of the image, one after another."""
    fixations, now = [], 0.0
    for x, y, seconds in points:
        sigmas = {"sigma_x": None, "sigma_y": None, "shown": []}
        times = {"begin": round(now, 5), "end": round(now + seconds, 5)}
        fixations.append({"x": x * size[0], "y": y * size[1]} | times | sigmas)
        now += seconds
    return {"reader": reader, "sentences": [], "fixations": fixations}
