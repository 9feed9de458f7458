"""Four pictures and what is said of each."""

import io
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from modeling_cogaze import CoGazeConfig, CoGazeForConditionalGeneration, CoGazeForPreTraining
from processing import CoGazeProcessor
from processing.tokenization import build_tokenizer

REPORTS = (
    "There is a small left pleural effusion. The heart is enlarged.",
    "The lungs are clear. No pneumothorax is seen.",
    "A large mass is present in the right lower lobe. No effusion.",
    "There is pulmonary edema. A pacemaker is in place. The heart is normal.",
)


def picture(number: int, size=(80, 64)) -> Image.Image:
    """Four unlike patterns."""
    y, x = np.mgrid[0 : size[1], 0 : size[0]] / max(size)
    shades = (x, y, (np.hypot(x - 0.5, y - 0.4) * 6) % 1, ((x * 8).astype(int) + (y * 8).astype(int)) % 2 * 0.9 + 0.05)
    return Image.fromarray((255 * shades[number]).clip(0, 255).astype(np.uint8))


def png(number: int) -> bytes:
    file = io.BytesIO()
    picture(number).save(file, "PNG")
    return file.getvalue()


def dicom(**tags) -> bytes:
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.1"
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = "1.2.3"
    dataset.PatientName, dataset.PatientID, dataset.Modality = "Doe^Jane", "JD-4711", "CR"
    pixels = np.asarray(picture(0)).astype(np.uint16)
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = 16
    dataset.HighBit, dataset.PixelRepresentation, dataset.PixelData = 15, 0, pixels.tobytes()
    for name, value in tags.items():
        setattr(dataset, name, value)
    file = io.BytesIO()
    dataset.save_as(file, enforce_file_format=True)
    return file.getvalue()


def save_untrained(
    folder: Path, max_new_tokens: int = 60
) -> tuple[dict[str, Path], CoGazeForConditionalGeneration, CoGazeProcessor]:
    """Save tiny checkpoints: `pretraining` with a disease head, and a `report` generator on it."""
    torch.manual_seed(0)
    tokenizer = build_tokenizer(list(REPORTS) * 3, 400)
    config = CoGazeConfig.tiny(
        vocab_size=len(tokenizer),
        vision_config={
            "model_type": "convnext",
            "image_size": 64,
            "patch_size": 8,
            "num_stages": 2,
            "hidden_sizes": [16, 32],
            "depths": [1, 1],
        },
        text_config={"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1},
        hidden_size=32,
        intermediate_size=32,
        perceiver_depth=1,
        num_latents=4,
    )
    processor = CoGazeProcessor.for_model(tokenizer, config)
    paths = {"pretraining": folder / "pretraining", "report": folder / "report"}
    CoGazeForPreTraining(config).save_pretrained(paths["pretraining"])
    no_dropout = dict.fromkeys(("attn_pdrop", "embd_pdrop", "resid_pdrop"), 0.0)
    model = CoGazeForConditionalGeneration.from_pretraining(
        paths["pretraining"], tokenizer, n_layer=1, n_head=2, n_embd=32, **no_dropout
    )
    model.generation_config.max_new_tokens = max_new_tokens
    model.save_pretrained(paths["report"])
    for path in paths.values():
        processor.save_pretrained(path)
    return paths, model, processor
