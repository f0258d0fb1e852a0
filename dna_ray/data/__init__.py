"""Pictures: where they come from and what is done to them before a network reads them."""

from dna_ray.data.pictures import (
    EMBEDDED,
    SPLITS,
    Pictures,
    fingerprint,
    listed,
    load_pictures,
    package_folder,
)

__all__ = [
    "EMBEDDED",
    "SPLITS",
    "Pictures",
    "fingerprint",
    "listed",
    "load_pictures",
    "package_folder",
]
