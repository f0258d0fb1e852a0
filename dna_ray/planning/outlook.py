"""A forecast as one tree: the JSON of `dna-ray plan`, with all that there is to be warned of."""

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from dna_ray.planning.calibration import cell_macs
from dna_ray.planning.forecast import NOT_COUNTED, Forecast
from dna_ray.planning.work import cell_params, loads, useful_ranks, walk_bytes
from dna_ray.space import cell_text, cost_range

_FLOAT = 4  # bytes
_HOUR = 3600

# From here on the plan warns: of the longest rank over the mean, and of the share of a GPU's memory
# that two rating tasks would fill.
_UNEVEN, _FILLED, _RATING_TASKS = 1.15, 0.8, 2


def outlook(forecast: Forecast) -> dict[str, Any]:
    """Everything that is foretold, in plain numbers: bytes, multiply-adds, seconds, hours."""
    plan = forecast.plan
    job, stages = plan.job, forecast.stages
    total = sum(stage.seconds for stage in stages)
    drawn = sum(stage.drawn for stage in stages)
    sizes = plan.pictures.source.files.sizes
    costs = cost_range(plan.space, plan.table)
    return {
        "data": plan.pictures.name,
        "pictures": {
            "all": len(plan.pictures),
            **{split: plan.schedule.pictures(split) for split in plan.schedule.rows},
            "taught": forecast.taught,
            "drawn": drawn,
            "read_bytes": int(drawn * sizes.mean()) if len(sizes) else None,
        },
        "space": plan.space.name,
        "architectures": plan.space.architectures,
        "resolution": plan.resolution,
        "costs": {name: list(costs[name]) for name in costs},
        "limits": plan.limits,
        "teacher": {"name": job.teacher, **forecast.teacher},
        "found": {"macs": forecast.macs},
        "features": _features(forecast),
        "cluster": {**asdict(forecast.resources), "workers": forecast.workers},
        "cells": _cells(forecast),
        "placement": _placement(forecast),
        "rates": {
            name: value
            for name, value in asdict(forecast.rates).items()
            if name not in ("cells", "comparing", "walking")
        },
        "stages": [
            {
                "generation": stage.generation,
                "stage": stage.name,
                "seconds": stage.seconds,
                "share": stage.seconds / total,
                "core_hours": stage.core_seconds / _HOUR,
                "gpu_hours": stage.gpu_seconds / _HOUR,
            }
            for stage in stages
        ],
        "seconds": total,
        "core_hours": sum(stage.core_seconds for stage in stages) / _HOUR,
        "gpu_hours": sum(stage.gpu_seconds for stage in stages) / _HOUR,
        "gpu_hours_held": forecast.resources.gpus * total / _HOUR,
        "disk": asdict(forecast.disk),
        "warnings": list(_warnings(forecast)),
        "not_counted": list(NOT_COUNTED),
    }


def _features(forecast: Forecast) -> dict[str, Any]:
    plan, sizes, cache = forecast.plan, forecast.plan.sizes, forecast.cache
    boundaries = [{"width": 3, "side": plan.resolution, "bytes": 3 * plan.resolution**2}]
    boundaries += [
        {"width": width, "side": side, "bytes": _FLOAT * width * side**2}
        for width, side in zip(plan.cut.widths, plan.cut.sizes, strict=True)
    ]
    return {
        "boundaries": boundaries,
        "window": plan.job.features.window,
        "window_bytes": sizes.window,
        "bytes": sizes.everything,
        "kept_bytes": sizes.kept,
        "cache": cache.mode,
        "ahead": cache.ahead,
    }


def _cells(forecast: Forecast) -> list[dict[str, Any]]:
    plan, teaching = forecast.plan, forecast.teachings[0]
    macs = cell_macs(plan.space, plan.cut, plan.resolution)
    return [
        {
            "block": where[0] + 1,
            "cell": where[1],
            "params": cell_params(plan.space, plan.cut, where, plan.resolution),
            "macs": round(macs[where]),
            "seconds": teaching.cells[where],
            "ranks": list(teaching.ranks.ranks_of[where]),
        }
        for where in plan.space.cells
    ]


def _placement(forecast: Forecast) -> dict[str, Any]:
    teaching, shards = forecast.teachings[0], forecast.plan.job.distill.shards
    taken = loads(teaching.ranks, teaching.cells)
    return {
        "ranks": teaching.ranks.ranks,
        "imbalance": max(taken) * len(taken) / sum(taken),
        "useful_ranks": useful_ranks(teaching.cells, shards),
    }


def _warnings(forecast: Forecast) -> Iterator[str]:
    if forecast.hindrance:
        yield f"this cluster cannot run it: {forecast.hindrance}"
    yield from _uneven(forecast)
    plan, memory = forecast.plan, forecast.resources.gpu_bytes
    pictures = plan.job.rate.images + plan.job.rate.recalibration
    most = max(
        walk_bytes(plan.space, plan.cut, where, plan.resolution) for where in plan.space.cells
    )
    if memory and _RATING_TASKS * pictures * most > _FILLED * memory:
        yield (
            f"rating {pictures:,} pictures needs {pictures * most / 1e9:.3g} GB at a time, twice "
            f"on a GPU of {memory / 1e9:.3g} GB; set rate.images lower"
        )


def _uneven(forecast: Forecast) -> Iterator[str]:
    teaching, shards = forecast.teachings[0], forecast.plan.job.distill.shards
    placement, plan = _placement(forecast), teaching.ranks
    ranks, useful = placement["ranks"], placement["useful_ranks"]
    taken = loads(plan, teaching.cells)
    (where, *others) = plan.cells(taken.index(max(taken)))
    if placement["imbalance"] > _UNEVEN:
        alone = "" if others else f", with {cell_text(where)} alone"
        yield (
            f"ranks wait for each other: the longest of {ranks} has "
            f"{placement['imbalance']:.2f} times the mean to do{alone}"
        )
    if forecast.workers > useful:
        yield (
            f"of {forecast.workers} workers {useful} are useful when cells are trained: a cell is "
            f"shared by {shards} at most; set distill.shards higher"
        )
