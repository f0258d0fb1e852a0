"""A minibatch computed in a fixed number of parts, on as many workers as there are up to that.

Every shard has batch-norm statistics of its own. The gradients and the running statistics of all
shards are exchanged and averaged in the order of the shards, so how many workers share them changes
nothing, to the last bit.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

# From the vectors of this worker's shards (own, P) to those of all shards in order (shards, P).
Exchange = Callable[[Tensor], Tensor]


def alone(vectors: Tensor) -> Tensor:
    """The exchange of a worker that has all shards to itself."""
    return vectors


def own_shards(shards: int, workers: int, worker: int) -> range:
    """The neighbouring shards of one of `workers`, whose number divides that of the shards."""
    per_worker = shards // workers
    return range(worker * per_worker, (worker + 1) * per_worker)


def running_statistics(module: nn.Module) -> list[Tensor]:
    """The buffers that training changes: not those outside the state, as the scaling of pixels."""
    state = module.state_dict()
    return [buffer for name, buffer in module.named_buffers() if name in state]


def mean_gradients(
    parameters: Sequence[nn.Parameter],
    buffers: Sequence[Tensor],
    own: Sequence[int],
    exchange: Exchange,
    backward: Callable[[int], Tensor],
) -> float:
    """As `averaged`, but waits for the loss where it is computed on a GPU."""
    return float(averaged(parameters, buffers, own, exchange, backward))


def averaged(
    parameters: Sequence[nn.Parameter],
    buffers: Sequence[Tensor],
    own: Sequence[int],
    exchange: Exchange,
    backward: Callable[[int], Tensor],
) -> Tensor:
    """Give all `parameters` the mean gradient of all shards; the mean loss, a scalar.

    `backward(shard)` runs one shard forward and backward and returns its loss. `buffers` are those
    that it may change: every shard finds them as they were before, and in the end those of floating
    point are the mean over the shards. A single shard is its own mean: nothing is copied for it.
    """
    if exchange is alone and len(own) == 1:
        for parameter in parameters:
            parameter.grad = None
        return backward(own[0]).detach()
    before = [buffer.clone() for buffer in buffers]
    statistics = [buffer for buffer in buffers if buffer.is_floating_point()]
    vectors = []
    for shard in own:
        for buffer, value in zip(buffers, before, strict=True):
            buffer.copy_(value)
        for parameter in parameters:
            parameter.grad = None
        loss = backward(shard)
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        parts = [*gradients, *statistics, loss.detach()]
        vectors.append(torch.cat([part.reshape(-1) for part in parts]))
    mean = exchange(torch.stack(vectors)).mean(0)
    sizes = [tensor.numel() for tensor in (*parameters, *statistics)]
    means = mean.split([*sizes, 1])
    with torch.no_grad():
        for parameter, part in zip(parameters, means[: len(parameters)], strict=True):
            # In the parameter's memory layout: fused optimisers read both in one order.
            parameter.grad = torch.empty_like(parameter).copy_(part.view_as(parameter))
        for buffer, part in zip(statistics, means[len(parameters) : -1], strict=True):
            buffer.copy_(part.view_as(buffer))
    return mean[-1]
