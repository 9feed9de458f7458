import io
import os
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    RLELossless,
    SecondaryCaptureImageStorage,
)

from processing.radiographs import read_radiograph

RAMP = np.add.outer(np.arange(48), np.arange(64)).astype(np.uint8)
NOISE = np.random.default_rng(0).integers(0, 256, (48, 64), dtype=np.uint8)


def as_file(picture: Image.Image, kind="png", **options) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def as_dicom(pixels: np.ndarray, bits=None, photometric="MONOCHROME2", syntax=ExplicitVRLittleEndian, **tags) -> bytes:
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = "1.2.3"
    dataset.SOPClassUID = SecondaryCaptureImageStorage
    dataset.Modality = "DX"
    dataset.PatientName = "Doe^Jane"
    dataset.Rows, dataset.Columns = pixels.shape[:2]
    dataset.SamplesPerPixel = 1 if pixels.ndim == 2 else 3
    if pixels.ndim == 3:
        dataset.PlanarConfiguration = 0
    dataset.PhotometricInterpretation = photometric
    dataset.BitsAllocated = 8 * pixels.itemsize
    dataset.BitsStored = bits or 8 * pixels.itemsize
    dataset.HighBit = dataset.BitsStored - 1
    dataset.PixelRepresentation = int(pixels.dtype.kind == "i")
    dataset.PixelData = pixels.tobytes()
    for name, value in tags.items():
        if name == "PixelPaddingValue":  # as files have it: often unsigned where the pixels are signed
            dataset.add_new(name, "SS" if value < 0 else "US", value)
        else:
            setattr(dataset, name, value)
    if syntax == JPEG2000Lossless:
        dataset.file_meta.TransferSyntaxUID = syntax
        dataset.PixelData = encapsulate([as_file(Image.fromarray(pixels), "jpeg2000", no_jp2=True)])
    elif syntax != ExplicitVRLittleEndian:
        dataset.compress(syntax)
    file = io.BytesIO()
    dataset.save_as(file, enforce_file_format=True)
    return file.getvalue()


def pixels_of(source, **options) -> np.ndarray:
    picture = read_radiograph(source, **options)
    assert picture.mode == "L"
    return np.asarray(picture)


@pytest.mark.parametrize(
    "source",
    [
        as_file(Image.fromarray(RAMP)),
        as_file(Image.fromarray(RAMP).convert("RGB")),
        as_file(Image.fromarray(RAMP).convert("RGBA")),
        as_file(Image.fromarray(RAMP).convert("LA")),
        as_file(Image.fromarray(RAMP).convert("P")),
        as_file(Image.fromarray(RAMP * np.uint16(257))),
        as_dicom(RAMP),
        as_dicom(RAMP, syntax=RLELossless),
        as_dicom(RAMP, syntax=JPEG2000Lossless),
        as_dicom(np.stack([RAMP] * 3, axis=-1), photometric="RGB"),
        Image.fromarray(RAMP),
        RAMP,
        RAMP[None],
        torch.from_numpy(RAMP)[None] / 255,
        np.stack([RAMP] * 3),
        RAMP / 255.0,
        io.BytesIO(as_file(Image.fromarray(RAMP))),
        {"bytes": as_file(Image.fromarray(RAMP)), "path": None},
    ],
    ids=lambda source: type(source).__name__,
)
def test_every_way_in_gives_the_same_picture(source):
    np.testing.assert_array_equal(pixels_of(source), RAMP)


def test_paths_and_jpeg(tmp_path):
    (tmp_path / "a.png").write_bytes(as_file(Image.fromarray(RAMP)))
    (tmp_path / "no_suffix").write_bytes(as_dicom(RAMP))
    np.testing.assert_array_equal(pixels_of(tmp_path / "a.png"), RAMP)
    np.testing.assert_array_equal(pixels_of(str(tmp_path / "no_suffix")), RAMP)
    for mode in ("L", "RGB"):
        jpeg = as_file(Image.fromarray(RAMP).convert(mode), "jpeg", quality=95)
        assert np.abs(pixels_of(jpeg).astype(int) - RAMP).max() <= 3


@pytest.mark.parametrize("bits", [10, 12, 14, 16])
def test_sixteen_bit_files_are_scaled_from_the_detectors_depth(bits):
    deep = np.linspace(0, 2**bits - 1, 48 * 64).reshape(48, 64).astype(np.uint16)
    grey = pixels_of(as_file(Image.fromarray(deep)))
    np.testing.assert_allclose(grey, deep * (255 / (2**bits - 1)), atol=0.5)
    assert grey.min() == 0 and grey.max() == 255


def test_transparent_pixels_are_black():
    rgba = np.dstack([RAMP + 100] * 3 + [np.where(np.arange(64) < 32, 0, 255) * np.ones((48, 1))]).astype(np.uint8)
    grey = pixels_of(as_file(Image.fromarray(rgba)))
    assert (grey[:, :32] == 0).all()
    np.testing.assert_array_equal(grey[:, 32:], RAMP[:, 32:] + 100)


@pytest.mark.parametrize("kind", ["png", "jpeg"])
def test_a_picture_is_turned_as_its_exif_says(kind):
    exif = Image.Exif()
    exif[0x0112] = 6
    file = as_file(Image.fromarray(RAMP), kind, exif=exif)
    assert read_radiograph(file).size == read_radiograph(Image.open(io.BytesIO(file))).size == (48, 64)
    upright = pixels_of(as_file(Image.fromarray(RAMP), kind))
    np.testing.assert_array_equal(pixels_of(file), np.rot90(upright, -1))


def test_colour_multiplied_by_alpha_is_read():
    for mode in ("La", "RGBa"):
        assert read_radiograph(Image.fromarray(RAMP).convert(mode.upper()).convert(mode)).size == (64, 48)


def test_a_pipe_is_refused_rather_than_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="pipe.*no regular file"):
        read_radiograph(tmp_path / "pipe")
    for path in ("null\0byte.png", "half\ud800.png"):
        with pytest.raises(ValueError, match="cannot be opened"):
            read_radiograph(path)


def test_the_two_real_dicoms_come_out_alike(real_data):
    """Their pixel data are the same bytes, so one of the two photometric interpretations is wrong."""
    right = pixels_of(real_data / "dicom" / "rsna_sample.dcm")
    with pytest.warns(UserWarning, match="rsna_sample_monochrome1.dcm"):
        mislabelled = pixels_of(real_data / "dicom" / "rsna_sample_monochrome1.dcm")
    np.testing.assert_array_equal(right, mislabelled)
    assert right.shape == (1024, 1024)
    assert right[:, 480:544].mean() > right[:, :64].mean()  # the spine is brighter than the air beside the patient


def test_real_radiographs_rightly_labelled_monochrome1_are_inverted_and_nothing_else(real_data):
    for path in sorted((real_data / "nih_mini" / "images").glob("*.jpg"))[::40]:
        shown = np.asarray(Image.open(path).convert("L"))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            np.testing.assert_array_equal(pixels_of(as_dicom(255 - shown, photometric="MONOCHROME1")), shown)


def test_window_and_rescale():
    stored = (np.arange(48 * 64).reshape(48, 64)).astype(np.uint16)
    grey = pixels_of(
        as_dicom(stored, bits=12, RescaleSlope=2, RescaleIntercept=-1000, WindowCenter=2000, WindowWidth=1001)
    )
    expected = np.clip((2.0 * stored - 1000 - 1999.5) / 1000 + 0.5, 0, 1) * 255  # DICOM PS3.3 C.11.2.1.2.1
    np.testing.assert_allclose(grey, expected, atol=0.51)


def test_a_window_does_not_stretch_what_does_not_fill_it():
    stored = np.clip(RAMP, 40, 100)
    windowed = pixels_of(as_dicom(stored, WindowCenter=128, WindowWidth=256))
    np.testing.assert_allclose(windowed, stored, atol=1)


def test_voi_lut():
    item = Dataset()
    item.LUTDescriptor = [256, 0, 16]
    item.LUTData = (65535 - 257 * np.arange(256)).tolist()
    item["LUTDescriptor"].VR = "US"
    item["LUTData"].VR = "US"
    np.testing.assert_array_equal(pixels_of(as_dicom(RAMP, VOILUTSequence=[item])), 255 - RAMP)


def test_without_a_window_deep_pixels_span_the_display_and_padding_is_black():
    stored = (RAMP.astype(np.int16) * 7) - 300
    expected = (stored - stored.min()) / np.ptp(stored) * 255
    np.testing.assert_allclose(pixels_of(as_dicom(stored)), expected, atol=0.5)
    padded = np.where(np.arange(48)[:, None] < 5, np.int16(-2000), stored)
    low, high = stored[5:].min(), stored[5:].max()
    share = (stored[5:] - low) / (high - low)
    for photometric, shown in (("MONOCHROME2", share), ("MONOCHROME1", 1 - share)):
        grey = pixels_of(as_dicom(padded, photometric=photometric, PixelPaddingValue=-2000))
        assert (grey[:5] == 0).all()
        np.testing.assert_allclose(grey[5:], shown * 255, atol=0.5)


def colour_photo() -> Image.Image:
    y, x = np.mgrid[0:64, 0:64] * 4
    return Image.fromarray(np.dstack([x, y, 255 - x]).astype(np.uint8))


def deflated() -> bytes:
    return as_dicom(RAMP).replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.1.99")


BAD = {
    "not an image": (b"GIF89a" + bytes(200), "damaged, or not a PNG, JPEG or DICOM"),
    "empty": (b"", "empty"),
    "truncated png": (as_file(Image.fromarray(NOISE))[:-60], "damaged or cut short"),
    "truncated jpeg": (as_file(Image.fromarray(NOISE), "jpeg")[:-300], "damaged or cut short"),
    "truncated dicom": (as_dicom(RAMP)[:-100], "cannot be decoded"),
    "dicom header alone": (as_dicom(RAMP)[:150], "damaged or cut short|holds no picture"),
    "constant": (as_file(Image.new("L", (32, 32), 7)), "same value"),
    "constant dicom": (as_dicom(np.full((32, 32), 9, np.uint16)), "same value"),
    "colour photo": (as_file(colour_photo(), "jpeg"), "colour photograph"),
    "colour dicom": (as_dicom(np.asarray(colour_photo()), photometric="RGB"), "colour photograph"),
    "bomb": (as_file(Image.new("1", (20_000, 20_000))), "pixels; reduce it"),
    "tiny": (as_file(Image.fromarray(RAMP[:4, :4])), "too small"),
    "animation": (
        as_file(Image.fromarray(RAMP), save_all=True, append_images=[Image.fromarray(RAMP.T.copy().reshape(48, 64))]),
        "2 frames",
    ),
    "frames": (as_dicom(RAMP, NumberOfFrames=2), "2 frames"),
    "ct": (as_dicom(RAMP, Modality="CT"), "modality CT"),
    "deflated": (deflated(), "deflated"),
    "none": (None, "NoneType is not a picture"),
    "volume": (np.zeros((40, 40, 40), np.uint8), "no picture has shape"),
    "nan": (np.full((32, 32), np.nan), "finite"),
    "hounsfield": (RAMP.astype(np.float32) * 10 - 1000, "within \\[0, 1\\]"),
    "negative": (RAMP.astype(np.int16) - 50, "not grey levels"),
}


@pytest.mark.parametrize("source, message", BAD.values(), ids=BAD)
def test_bad_images_are_refused_by_name(source, message):
    with pytest.raises(ValueError, match=message) as caught:
        read_radiograph(source, "images[3]")
    assert str(caught.value).startswith("images[3]")
    assert "Doe" not in str(caught.value)


def test_errors_name_the_file(tmp_path):
    path = tmp_path / "broken.png"
    path.write_bytes(as_file(Image.fromarray(RAMP))[:60])
    with pytest.raises(ValueError, match="broken.png"):
        read_radiograph(path)
    with pytest.raises(ValueError, match="missing.png.*cannot be opened"):
        read_radiograph(tmp_path / "missing.png")
    with pytest.raises(ValueError, match="broken.png"):
        read_radiograph({"bytes": b"x", "path": "broken.png"})


def test_limits():
    file = as_file(Image.fromarray(RAMP))
    with pytest.raises(ValueError, match="64 x 48 is more than 1000 pixels"):
        read_radiograph(file, max_pixels=1000)
    with pytest.raises(ValueError, match="more than 50 bytes"):
        read_radiograph(file, max_bytes=50)
    with pytest.raises(ValueError, match="64 x 48 is more than 1000 pixels"):
        read_radiograph(as_dicom(RAMP), max_pixels=1000)


@settings(deadline=None, max_examples=30)
@given(arrays(np.uint8, st.tuples(st.integers(16, 40), st.integers(16, 40))).filter(lambda a: np.ptp(a) > 0))
def test_eight_bit_pixels_survive_every_lossless_container(pixels):
    picture = Image.fromarray(pixels)
    for source in (as_file(picture), as_file(picture.convert("RGB")), as_dicom(pixels), pixels):
        np.testing.assert_array_equal(pixels_of(source), pixels)


@settings(deadline=None, max_examples=60)
@given(st.binary(min_size=1, max_size=400), st.integers(0, 300))
def test_damaged_bytes_never_end_in_anything_but_a_value_error(noise, at):
    for file in (as_file(Image.fromarray(RAMP)), as_file(Image.fromarray(RAMP), "jpeg"), as_dicom(RAMP)):
        damaged = file[:at] + noise + file[at + len(noise) :]
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                read_radiograph(damaged)
        except ValueError:
            pass


def test_jpeg_2000_of_sixteen_bits_is_read_as_stored():
    deep = np.random.default_rng(0).integers(0, 2**16, (48, 64), dtype=np.uint16)
    coded, plain = (pixels_of(as_dicom(deep, syntax=syntax)) for syntax in (JPEG2000Lossless, ExplicitVRLittleEndian))
    np.testing.assert_array_equal(coded, plain)


@pytest.mark.parametrize("kind, syntax", [("jpeg2000", JPEG2000Lossless), ("jpeg", JPEGBaseline8Bit)])
def test_a_compressed_picture_of_another_size_than_its_dicom_says_is_not_decoded(kind, syntax):
    def dicom(picture: Image.Image) -> bytes:
        dataset = dcmread(io.BytesIO(as_dicom(NOISE)))
        dataset.file_meta.TransferSyntaxUID = syntax
        options = {"no_jp2": True} if kind == "jpeg2000" else {"quality": 95}
        dataset.PixelData = encapsulate([as_file(picture, kind, **options)])
        file = io.BytesIO()
        dataset.save_as(file)
        return file.getvalue()

    picture = Image.fromarray(NOISE)
    assert abs(pixels_of(dicom(picture)) - NOISE.astype(float)).mean() < 8
    with pytest.raises(ValueError, match="cannot be decoded") as caught:
        read_radiograph(dicom(picture.resize((640, 480))))
    assert "(640, 480, 1)" in str(caught.value.__cause__)
