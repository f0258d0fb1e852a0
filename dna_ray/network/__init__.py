"""Torch modules for spaces and architectures."""

from dna_ray.network.cell import CellNet, build_cell
from dna_ray.network.layers import Pixels
from dna_ray.network.standalone import Network, build_network

__all__ = ["CellNet", "Network", "Pixels", "build_cell", "build_network"]
