"""One thread, as workers run; and small spaces in which every kind of layer occurs."""

from collections.abc import Iterator

import pytest
import torch

from dna_ray.space import Space
from dna_ray.space.spaces import parse_space

# Block 1 has layers with and without expansion and with a residual; at a squeeze-excite ratio of
# 0.25 and widths of 8 and more every layer has squeeze-excite.
_TINY = """
name = "tiny"
resolution = 16
ops = ["k3e1", "k5e2", "k3e3"]
se_ratio = {se_ratio}
activation = "silu"
head = 24
stem = {{ width = 8, out = 8 }}

[[blocks]]
stride = 2
cells = [{{ layers = 1, width = 8 }}, {{ layers = 2, width = 8 }}, {{ layers = 2, width = 12 }}]

[[blocks]]
stride = 2
ops = ["k3e2", "k5e1"]
cells = [{{ layers = 1, width = 16 }}, {{ layers = 2, width = 16 }}, {{ layers = 3, width = 12 }}]
"""


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def tiny() -> Space:
    """Two blocks of three cells each, with squeeze-excite."""
    return parse_space(_TINY.format(se_ratio=0.25), "tiny")


@pytest.fixture(scope="session")
def tiny_plain() -> Space:
    """`tiny` without squeeze-excite."""
    return parse_space(_TINY.format(se_ratio=0.0), "tiny_plain")
