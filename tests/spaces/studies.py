"""Four pictures and what is said of each."""

import io

import numpy as np
from PIL import Image

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
