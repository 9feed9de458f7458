"""DICOM's display pipeline against one written pixel by pixel from PS3.3, over every kind of stored value."""

import math
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from processing.radiographs import read_radiograph
from tests.processing.test_radiographs import as_dicom, pixels_of

KINDS = [(np.uint8, 8), (np.int8, 8), (np.uint16, 10), (np.uint16, 12), (np.uint16, 16), (np.int16, 12), (np.int16, 16)]


def reference(stored: np.ndarray, tags: dict, photometric: str) -> np.ndarray:
    """Grey levels 0 to 255, unrounded; PixelPaddingValue in the pixels' own sign."""
    signed, span = stored.dtype.kind == "i", 256**stored.itemsize
    padding = tags.get("PixelPaddingValue")
    if padding is not None and signed and padding >= span / 2:
        padding -= span
    slope, intercept = tags.get("RescaleSlope", 1), tags.get("RescaleIntercept", 0)
    values = [[float(slope) * int(pixel) + float(intercept) for pixel in row] for row in stored]
    shown = np.array(values)[stored != padding] if padding is not None else np.array(values)
    low, high = (shown.min(), shown.max()) if shown.size else (0, 1)
    if tags.get("BitsStored") == 8 and not signed and (slope, intercept) == (1, 0):
        low, high = 0, 255
    centre, width, function = tags.get("WindowCenter"), tags.get("WindowWidth"), tags.get("VOILUTFunction", "LINEAR")

    def share(value):
        if width is None or width <= 0:
            return (value - low) / max(high - low, 1e-9)
        if function == "SIGMOID":
            return 1 / (1 + math.exp(max(-700, min(700, -4 * (value - centre) / width))))
        if function == "LINEAR_EXACT":
            return (value - centre) / width + 0.5
        if value <= centre - 0.5 - (width - 1) / 2:
            return 0
        return 1 if value > centre - 0.5 + (width - 1) / 2 else (value - (centre - 0.5)) / (width - 1) + 0.5

    grey = np.array([[255 * min(1, max(0, share(value))) for value in row] for row in values])
    grey = 255 - grey if photometric == "MONOCHROME1" else grey
    return np.where(stored == padding, 0, grey) if padding is not None else grey


@st.composite
def dicoms(draw):
    dtype, bits = draw(st.sampled_from(KINDS))
    signed = np.dtype(dtype).kind == "i"
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    ends = sorted(draw(st.lists(st.integers(low, high), min_size=2, max_size=2, unique=True)))
    seed = draw(st.integers(0, 2**32 - 1))
    stored = np.random.default_rng(seed).integers(*ends, (16, 16), endpoint=True).astype(dtype)
    stored[0, :2] = ends
    tags = {"BitsStored": bits}
    if draw(st.booleans()):
        tags["RescaleSlope"] = draw(st.sampled_from([1, 2, -1, -0.5, 0.25]))
        tags["RescaleIntercept"] = draw(st.sampled_from([0, -1024, 1000, 32767]))
    if draw(st.booleans()):
        tags["WindowCenter"] = draw(st.sampled_from([-600, 0, 40, 128, 2048, 30000]))
        tags["WindowWidth"] = draw(st.sampled_from([0, 1, 2, 256, 4096, 60000]))
        function = draw(st.sampled_from([None, "LINEAR", "LINEAR_EXACT", "SIGMOID"]))
        tags |= {"VOILUTFunction": function} if function else {}
    if draw(st.booleans()):
        tags["PixelPaddingValue"] = int(ends[0]) % 256 ** np.dtype(dtype).itemsize  # unsigned, as many write it
    return stored, tags, draw(st.sampled_from(["MONOCHROME1", "MONOCHROME2"]))


def compare(stored, tags, photometric):
    expected = reference(stored, tags, photometric)
    own = {name: value for name, value in tags.items() if name != "BitsStored"}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            shown = pixels_of(as_dicom(stored, tags["BitsStored"], photometric, **own)).astype(float)
        except ValueError as error:
            assert "same value" in str(error), error
            assert np.ptp(np.rint(expected)) <= 1
            return
    if any("labelled MONOCHROME1" in str(warning.message) for warning in caught):
        expected = reference(stored, tags, "MONOCHROME2")
    np.testing.assert_allclose(shown, expected, atol=0.5 + 1e-6)


@settings(deadline=None, max_examples=150)
@given(dicoms())
def test_grey_levels_are_those_of_the_standard(dicom):
    compare(*dicom)


@pytest.mark.slow
@settings(deadline=None, max_examples=2500)
@given(dicoms())
def test_grey_levels_are_those_of_the_standard_at_length(dicom):
    compare(*dicom)


def test_signed_pixels_over_half_their_range_do_not_overflow():
    stored = np.linspace(-32768, 32767, 64 * 48).astype(np.int16).reshape(48, 64)
    assert len(np.unique(pixels_of(as_dicom(stored)))) == 256
    stored = np.linspace(-128, 127, 64 * 48).astype(np.int8).reshape(48, 64)
    assert len(np.unique(pixels_of(as_dicom(stored)))) == 256


def test_colour_is_scaled_by_the_bits_that_are_stored():
    grey = np.full((32, 32), 1000, np.uint16)
    grey[0] = 0
    shown = pixels_of(as_dicom(np.stack([grey] * 3, axis=-1), bits=12, photometric="RGB"))
    assert shown.max() == round(1000 / 4095 * 255)


def test_an_unusable_window_is_said():
    with pytest.warns(UserWarning, match="WindowWidth 0"):
        read_radiograph(as_dicom(np.arange(1024, dtype=np.uint16).reshape(32, 32), WindowCenter=100, WindowWidth=0))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda d: d.__delattr__("PhotometricInterpretation"), "PhotometricInterpretation"),
        (lambda d: d.__delattr__("BitsStored"), "BitsStored"),
        (lambda d: setattr(d, "BitsStored", 40), "BitsStored 40"),
        (lambda d: setattr(d, "PhotometricInterpretation", "RGB"), "cannot be RGB"),
        (lambda d: setattr(d, "VOILUTFunction", "CURVE"), "VOILUTFunction CURVE"),
    ],
)
def test_a_header_without_what_pixels_mean_is_named(change, named):
    import io

    from pydicom import dcmread

    window = {"WindowCenter": 100, "WindowWidth": 50}
    dataset = dcmread(io.BytesIO(as_dicom(np.arange(1024, dtype=np.uint16).reshape(32, 32), **window)))
    change(dataset)
    file = io.BytesIO()
    dataset.save_as(file, enforce_file_format=True)
    with pytest.raises(ValueError, match=named):
        read_radiograph(file.getvalue())
