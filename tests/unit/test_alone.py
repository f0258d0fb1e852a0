"""A path trained alone, against the same training written out by hand."""

from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F  # noqa: N812 - torch's own convention

from dna_ray.alone import train_alone
from dna_ray.config import Distill
from dna_ray.network import build_cell
from dna_ray.randomness import generator, key
from dna_ray.rating import RatingSet
from dna_ray.space import Space
from dna_ray.teacher import Cut
from tests.unit.test_rating import eq7

PIXELS = ((0.4, 0.5, 0.6), (0.2, 0.25, 0.3))
CUT = Cut(modules=("a", "b"), widths=(10, 20), sizes=(4, 2))
RECIPE = Distill(epochs=3, batch=4, learning_rate=0.01, learning_rate_first=0.02, decay=0.5)
WHERE = (1, 1)


def features(seed: int, images: int, width: int, side: int) -> Any:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(images, side, side, width)).astype(np.float32)


def tensor(array: Any) -> torch.Tensor:
    return torch.from_numpy(array).permute(0, 3, 1, 2)


@pytest.mark.parametrize("fresh", [False, True])
def test_a_path_alone_is_trained_by_its_cells_recipe(tiny: Space, fresh: bool) -> None:
    """With weights of its own, every step, on the windows of one epoch again or of all in turn."""
    block, cell = WHERE
    path = next(iter(tiny.blocks[block].paths(cell)))
    count = 2
    windows = [
        (features(n, 10, 10, 4), features(100 + n, 10, 20, 2))
        for n in range(count * (RECIPE.epochs if fresh else 1))
    ]
    held_out = features(7, 30, 10, 4), features(8, 30, 20, 2)
    data = RatingSet(tensor(held_out[0][:10]), tensor(held_out[0][10:]), tensor(held_out[1][10:]))
    found = train_alone(
        tiny, CUT, PIXELS, RECIPE, WHERE, path, (7, 1, "alone", 1), windows, count, data
    )

    names = ("distill", 1, "alone", 1, ",".join(map(str, path)), block, cell)
    torch.manual_seed(key(7, *names, "weights"))
    net = build_cell(tiny, block, cell, CUT.width_in(block), 20, *PIXELS, path).train()
    assert sum(len(list(layer.children())) for layer in net.layers) == len(path)
    adam = torch.optim.Adam(net.parameters(), lr=0.01, weight_decay=RECIPE.weight_decay)
    for epoch in range(RECIPE.epochs):
        for index in range(count):
            inputs, targets = windows[epoch * count + index if fresh else index]
            order = generator(7, *names, "order", epoch, index).permutation(10)
            for rows in (order[:4], order[4:8]):
                adam.zero_grad()
                F.mse_loss(net(tensor(inputs[rows]), path), tensor(targets[rows])).backward()
                adam.step()
        adam.param_groups[0]["lr"] *= RECIPE.decay
    with torch.no_grad():
        for norm in net.modules():
            if isinstance(norm, torch.nn.BatchNorm2d):
                norm.momentum = 1.0
        net.train()(data.recalibration, path)
        expected = eq7(net.eval()(data.inputs, path), data.targets)
    assert found == pytest.approx(expected, rel=1e-4)
