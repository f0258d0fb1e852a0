"""Pictures: where they come from and what is done to them before a network reads them."""

from dna_ray.data.embedded import EMBEDDED, package_folder
from dna_ray.data.files import listed
from dna_ray.data.found import Encoded
from dna_ray.data.pictures import Pictures, fingerprint, load_pictures
from dna_ray.data.splits import SPLITS

__all__ = [
    "EMBEDDED",
    "SPLITS",
    "Encoded",
    "Pictures",
    "fingerprint",
    "listed",
    "load_pictures",
    "package_folder",
]
