"""Interactions of ops held back, against a model of main effects that least squares fit."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kendalltau

from dna_ray.ranking import shrunk
from tests.data import benches

Array = np.ndarray


def fitted(losses: Array, ops: int, layers: int) -> Array:
    """The best sum of one number for every op of every layer."""
    paths = list(product(range(ops), repeat=layers))
    columns = [
        [float(path[layer] == op) for path in paths] for layer in range(layers) for op in range(ops)
    ]
    design = np.array(columns).T
    return np.asarray(design @ np.linalg.lstsq(design, losses, rcond=None)[0])


cells = st.tuples(st.integers(2, 6), st.integers(1, 4)).flatmap(
    lambda shape: st.tuples(
        st.just(shape),
        st.lists(st.floats(-5, 5), min_size=shape[0] ** shape[1], max_size=shape[0] ** shape[1]),
    )
)


@settings(max_examples=50, deadline=None)
@given(cell=cells, keep=st.floats(0, 1))
def test_main_effects_stay_and_a_part_of_what_they_leave(
    cell: tuple[tuple[int, int], list[float]], keep: float
) -> None:
    (ops, layers), losses = cell[0], np.array(cell[1])
    main = fitted(losses, ops, layers)
    found = shrunk(losses, layers, keep)
    assert found == pytest.approx(main + keep * (losses - main), abs=1e-9)
    assert found.mean() == pytest.approx(losses.mean(), abs=1e-9)


def test_with_1_and_in_cells_of_one_layer_losses_stay_as_they_are() -> None:
    losses = np.random.default_rng(0).normal(size=64)
    assert shrunk(losses, 3, 1) is losses
    assert shrunk(losses, 1, 0.25) is losses


def test_a_cell_that_was_not_rated_stays_so() -> None:
    assert np.isnan(shrunk(np.full(16, np.nan), 2, 0.25)).all()


def test_noise_of_interactions_is_what_goes() -> None:
    """Of a truth that is a sum, what two noisy looks at it agree on is found again."""
    rng = np.random.default_rng(0)
    truth = sum(np.meshgrid(*rng.normal(size=(3, 6)), indexing="ij")).ravel()
    noisy = truth + rng.normal(size=truth.size)
    errors = [np.square(shrunk(noisy, 3, keep) - truth).mean() for keep in (1, 0.5, 0)]
    assert errors[0] > 2 * errors[1] > 4 * errors[2]


def test_interactions_in_the_scores_of_bossnas_tell_nothing_of_accuracy() -> None:
    """Kendall with 23 networks of its space that were trained on ImageNet."""
    tree, scores = benches.imagenet(), benches.bossnas().to_pandas()
    top1 = [arch["top1"] for arch in tree["archs"]]
    taus = []
    for keep in (1.0, 0.25):
        total = np.zeros(len(top1))
        for number, block in scores.groupby("block"):
            block = block.sort_values("ops")
            layers = block.ops.iloc[0].count(",") + 1
            losses = shrunk(block.loss.to_numpy(), layers, keep)
            known = dict(zip(block.ops, losses, strict=True))
            for row, arch in enumerate(tree["archs"]):
                code = arch["code"][int(number) - 1]
                total[row] += known[",".join(tree["ops"][int(digit)] for digit in code)]
        taus.append(kendalltau(-total, top1)[0])
    assert taus == pytest.approx([0.644, 0.644], abs=0.02)
