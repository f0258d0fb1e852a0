"""Search spaces, architectures and their exact costs.

The words, each with one meaning throughout the project:

op            the operation of one layer: an MBConv kernel and expansion (`k5e3`)
layer         one place for an op
cell          a weight-sharing unit: a number of layers and a width
member        of a cell: one of several networks that are trained apart, to be judged together
block         a step of the network between two teacher boundaries; holds one cell or more
path          one op per layer of one cell
architecture  one path per block
beginning     of an architecture: a cell and one of its paths for each of the first blocks
boundary      k: the teacher's feature after block k; 0: the picture, which block 1 reads
window        a fixed set of augmented pictures, with all boundaries
"""

from dna_ray.space.architecture import Architecture, BlockChoice, read_architecture
from dna_ray.space.costs import (
    COSTS,
    CostTable,
    cost_name,
    cost_range,
    cost_table,
    last_widths,
    network_costs,
)
from dna_ray.space.ops import Op
from dna_ray.space.scaling import scale
from dna_ray.space.spaces import (
    Beginning,
    Block,
    Cell,
    Space,
    Trunk,
    Where,
    builtin_names,
    cell_name,
    cell_text,
    load_space,
    parse_space,
)
from dna_ray.space.spec import BlockSpec, NetworkSpec, network_spec
from dna_ray.space.zoo import ZOO

__all__ = [
    "COSTS",
    "ZOO",
    "Architecture",
    "Beginning",
    "Block",
    "BlockChoice",
    "BlockSpec",
    "Cell",
    "CostTable",
    "NetworkSpec",
    "Op",
    "Space",
    "Trunk",
    "Where",
    "builtin_names",
    "cell_name",
    "cell_text",
    "cost_name",
    "cost_range",
    "cost_table",
    "last_widths",
    "load_space",
    "network_costs",
    "network_spec",
    "parse_space",
    "read_architecture",
    "scale",
]
