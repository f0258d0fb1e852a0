"""A search that is over in a minute: drawn pictures, a space of two blocks, few steps."""

from pathlib import Path

import numpy as np
from PIL import Image

SPACE = """
name = "tiny"
resolution = 32
ops = ["k3e1", "k3e2"]
se_ratio = 0.25
activation = "relu"
head = 16
stem = { width = 8, out = 8 }

[[blocks]]
stride = 2
cells = [{ layers = 1, width = 8 }, { layers = 2, width = 8 }]

[[blocks]]
stride = 2
cells = [{ layers = 2, width = 8 }, { layers = 1, width = 16 }]
"""

SETTINGS = (
    "features.images=48",
    "features.window=24",
    "features.views=2",
    "adapt.passes=2",
    "distill.epochs=4",
    "distill.members=2",
    "distill.batch=12",
    "rate.images=8",
    "rate.recalibration=4",
    "tune.trials=2",
    "tune.images=24",
    "tune.passes=1",
    "retrain.passes=2",
    "retrain.scaled_passes=1",
    "retrain.batch=12",
)


def put_task(folder: Path) -> None:
    """Make `pictures/` and `tiny.toml` in a folder."""
    draw_pictures(folder / "pictures")
    (folder / "tiny.toml").write_text(SPACE)


def words(folder: Path) -> list[str]:
    """The words of `dna-ray search` for the task that `put_task` made in a folder."""
    settings = [part for text in SETTINGS for part in ("--set", text)]
    return ["--data", f"{folder}/pictures", "--space", f"{folder}/tiny.toml", *settings]


def draw_pictures(folder: Path, per_class: int = 40) -> None:
    """Two classes that a network can tell apart: stripes that lie and stripes that stand."""
    rng = np.random.default_rng(7)
    for label, name in enumerate(("lying", "standing")):
        (folder / name).mkdir(parents=True)
        for number in range(per_class):
            stripes = np.sin(np.arange(40) * rng.uniform(0.5, 1.5) + rng.uniform(0, 6))
            pixels = np.broadcast_to(stripes, (40, 40)) * 100 + 128
            pixels = (pixels if label else pixels.T)[..., None] + rng.normal(0, 10, (40, 40, 3))
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(
                folder / name / f"{number}.png"
            )
