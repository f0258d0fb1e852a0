"""What stands in for things that a plan can do without: pictures, and a teacher's weights."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO

import numpy as np
import pyarrow as pa
from PIL import Image

from dna_ray.data import Pictures
from dna_ray.data.files import Files
from dna_ray.data.found import Encoded, Found
from dna_ray.data.splits import split, told
from dna_ray.errors import UserError
from dna_ray.network.model import TimmSpec, TrainedModel, build_model, trained
from dna_ray.storage import Place
from dna_ray.teacher import load_teacher

Array = np.ndarray

# Width and height of the picture that is decoded in the place of others: ImageNet's average.
_SIZE = (500, 375)


@dataclass(frozen=True)
class MadePictures:
    """A source of `count` pictures that are all one JPEG, of which nothing is stored anywhere."""

    count: int

    @property
    def files(self) -> Files:
        """There are none."""
        none = np.zeros(0, np.int64)
        return Files(
            root=Place.of("."), names=pa.array([], pa.large_string()), sizes=none, times=none
        )

    @property
    def units(self) -> None:
        """Each picture is read on its own."""

    def __len__(self) -> int:
        return self.count

    def name_of(self, index: int) -> str:
        """What to call a picture in a message."""
        return f"made picture {index}"

    def read(self, indices: Sequence[int] | Array) -> list[Encoded]:
        """The same bytes for each."""
        return [_jpeg()] * len(indices)


@lru_cache(maxsize=1)
def _jpeg() -> bytes:
    """Blotches with grain: as many bytes, about, as a photograph has."""
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(256, size=(24, 32, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize(_SIZE, Image.Resampling.BICUBIC), np.float32)
    grained = (smooth + rng.normal(0, 8, smooth.shape)).clip(0, 255).astype(np.uint8)
    data = BytesIO()
    Image.fromarray(grained).save(data, "JPEG", quality=90)
    return data.getvalue()


def made_pictures(train: int, tests: int, classes: int) -> Pictures:
    """A set of so many pictures in so many classes of equal size; without labels where none.

    Those of `tests` are a part of its own; where there are none, a fifth of the others tests.
    Raises UserError where they are too few to be split.
    """
    total = train + tests
    found = Found(
        name="pictures to come",
        source=MadePictures(total),
        keys=pa.array(map(str, range(total)), pa.large_string()),
        labels=(np.arange(total if classes else 0) % max(1, classes)).astype(np.int32),
        tests=np.arange(total) >= train,
        classes=tuple(f"class {number}" for number in range(classes)),
        parts=("those that train", "those that test") if tests else (),
    )
    splits = split(found)
    return Pictures(
        name=found.name,
        source=found.source,
        labels=found.labels,
        classes=found.classes,
        splits=splits,
        notice=told(found, splits),
    )


def teacher_or_its_shape(given: str) -> tuple[TrainedModel, str]:
    """A teacher and "", or a timm network with random weights and why its own cannot be had."""
    try:
        return load_teacher(given), ""
    except UserError as error:
        import timm  # a second of import that only this case pays

        if not timm.is_model(given):
            raise
        half = (0.5, 0.5, 0.5)
        spec = TimmSpec(name=given, classes=1000, mean=half, std=half)
        return trained(spec, build_model(spec)), str(error)
