"""Named random streams: every draw is keyed by what it is for, never by where or when it runs."""

import hashlib

import numpy as np


def key(seed: int, *names: str | int) -> int:
    """A 63-bit seed for the stream called `names` under `seed`; equal on every machine."""
    text = "/".join(map(str, (seed, *names)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, *names: str | int) -> np.random.Generator:
    """The numpy generator of the stream called `names` under `seed`."""
    return np.random.Generator(np.random.PCG64(key(seed, *names)))
