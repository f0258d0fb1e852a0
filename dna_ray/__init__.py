"""Block-wise distillation architecture search (DNA, DNA+) on Ray."""

__version__ = "0.1.0"
