"""From encoded bytes to the pixels that networks read. Pictures are uint8 arrays (H, W, 3)."""

import struct
from io import BytesIO

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torchvision.transforms import v2

from dna_ray.config import Features
from dna_ray.data.found import Encoded

Array = np.ndarray


def stored_side(resolution: int) -> int:
    """The side of decoded pictures: a third more than networks read, to leave room for crops."""
    return -(-resolution * 4 // 3)


def decode(data: bytes, side: int) -> Array:
    """Read a picture, turn it upright, and take its middle square at `side` pixels, in RGB."""
    with Image.open(BytesIO(data)) as image:
        image.draft("RGB", (side, side))  # JPEG alone: decodes at a fraction of the size
        picture = _rgb(ImageOps.exif_transpose(image))
    return np.asarray(ImageOps.fit(picture, (side, side), Image.Resampling.BICUBIC))


def decode_or_reason(data: Encoded, side: int) -> tuple[Array, str]:
    """A decoded picture and "", or for one that cannot be read a black one and the reason."""
    try:
        if isinstance(data, OSError):
            raise data
        return decode(data, side), ""
    except UnidentifiedImageError:  # its message is the address of a buffer
        reason = "no picture of a kind that Pillow knows"
    # What Pillow raises for files that are broken, cut off, too large or no pictures at all.
    except (OSError, SyntaxError, ValueError, struct.error, Image.DecompressionBombError) as error:
        reason = f"{type(error).__name__}: {error}"
    return np.zeros((side, side, 3), np.uint8), reason


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        raise ValueError("numbers with a floating point, whose black and white nobody knows")
    if image.mode.startswith("I"):  # 16 bits, which Pillow would cut off at 255
        eight = (np.asarray(image) / 257).clip(0, 255).astype(np.uint8)
        image = Image.fromarray(eight)
    if image.has_transparency_data:  # under what is transparent a file may hold anything
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
    return image.convert("RGB")


def plain_view(picture: Array, resolution: int) -> Array:
    """The whole stored square at `resolution` pixels, as networks are evaluated on it."""
    image = Image.fromarray(picture)
    return np.asarray(image.resize((resolution, resolution), Image.Resampling.BICUBIC))


def augmented_view(picture: Array, resolution: int, features: Features, key: int) -> Array:
    """A random crop, flip, jitter and erasing at `resolution` pixels, all drawn from `key`."""
    steps: list[torch.nn.Module] = [
        v2.RandomResizedCrop(resolution, scale=(features.crop, 1.0), antialias=True),
        v2.RandomHorizontalFlip(),
    ]
    if features.jitter:
        steps.append(v2.ColorJitter(features.jitter, features.jitter, features.jitter))
    if features.erasing:
        steps.append(v2.RandomErasing(features.erasing, value=127))
    image = torch.from_numpy(np.array(picture)).permute(2, 0, 1)
    with torch.random.fork_rng(devices=[]):  # torchvision draws from the global generator alone
        torch.manual_seed(key)
        for step in steps:
            image = step(image)
    return image.permute(1, 2, 0).contiguous().numpy()
