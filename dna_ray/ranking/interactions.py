"""What ops of a path have to do with each other, held back in its rating.

A path's loss is what it owes to each of its ops (their main effects) and to which of them meet (the
interactions). Every path with an op bears witness to its main effect, so that cells which were
trained for a short while tell main effects apart much better than interactions, of which another
seed finds hardly any again. So only a part of these is kept. Measured by
tests/benchmarks/agreement.py; in the published scores of BossNAS interactions tell nothing of
accuracy either (tests/unit/test_interactions.py).
"""

import numpy as np

Array = np.ndarray


def shrunk(losses: Array, layers: int, keep: float) -> Array:
    """The losses of all paths of a cell, (paths,) in lexicographic order, of its interactions less.

    `keep` is the part of them that stays: with 1 the losses stay as they are, with 0 they are sums
    of main effects. A cell of one layer has no interactions.
    """
    if keep == 1 or layers == 1:
        return losses
    ops = round(len(losses) ** (1 / layers))
    grid = losses.reshape((ops,) * layers)
    others = (tuple(set(range(layers)) - {layer}) for layer in range(layers))
    effects = sum(grid.mean(axis, keepdims=True) - grid.mean() for axis in others)
    main = (grid.mean() + effects).ravel()
    return np.asarray(main + keep * (losses - main))
