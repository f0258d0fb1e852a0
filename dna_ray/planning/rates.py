"""How fast a cluster does the work of a search, and how a generation's teacher changes that."""

from collections.abc import Mapping
from dataclasses import dataclass

from dna_ray.planning.calibration import cell_macs
from dna_ray.planning.placement import RankPlan, plan_ranks
from dna_ray.planning.plan import Plan
from dna_ray.planning.work import cut_by_shape, loads
from dna_ray.space import NetworkSpec, Where
from dna_ray.teacher import Cut


@dataclass(frozen=True, kw_only=True)
class Rates:
    """Measured seconds, on one GPU where there are any, else on one processor.

    `starting` is until processes that are new have begun to compute. Of one picture: `drawing` it,
    from reading to augmenting, on a processor; `teacher` forward; `adapting`, a training step of
    the teacher, and one of each of the `cells`; and `comparing` it with the teacher's behind a path
    of each cell. Of one multiply-add of one picture: `walking`
    through a cell as in rating; `training` and `testing` a network, and `trying` it forward on a
    processor. `searching` is the whole search step.
    """

    starting: float
    drawing: float
    teacher: float
    adapting: float
    cells: Mapping[Where, float]
    comparing: Mapping[Where, float]
    walking: Mapping[Where, float]
    training: float
    testing: float
    trying: float
    searching: float


@dataclass(frozen=True, kw_only=True)
class Teaching:
    """What teaches a generation: its cut; seconds of a picture through it, and through each cell.

    `ranks` is where the cells are trained.
    """

    cut: Cut
    teacher: float
    cells: Mapping[Where, float]
    ranks: RankPlan

    @property
    def longest(self) -> float:
        """Seconds of one picture on the rank with the most to do."""
        return max(loads(self.ranks, self.cells))


def later_teaching(plan: Plan, first: Teaching, spec: NetworkSpec, seconds: float) -> Teaching:
    """What it is like with a teacher of ours that takes `seconds` for a picture.

    A cell's time goes with its multiply-adds, which the teacher's widths change.
    """
    cut = cut_by_shape(spec, plan.space.reductions, plan.resolution)
    before, now = (cell_macs(plan.space, c, plan.resolution) for c in (first.cut, cut))
    cells = {where: value * now[where] / before[where] for where, value in first.cells.items()}
    ranks = plan_ranks(cells, first.ranks.ranks, plan.job.distill.shards)
    return Teaching(cut=cut, teacher=seconds, cells=cells, ranks=ranks)
