"""One generation of a search: its stages, each of which reads its record or makes it."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from safetensors.torch import load, save

from dna_ray.driver import Driver
from dna_ray.errors import UserError
from dna_ray.network.members import Weights
from dna_ray.network.model import (
    ModelSpec,
    TrainedModel,
    build_model,
    load_model,
    save_model,
    trained,
)
from dna_ray.planning.calibration import cell_macs, rank_bytes
from dna_ray.planning.placement import RankPlan, Share, plan_ranks
from dna_ray.planning.plan import recipe
from dna_ray.planning.work import worth_measuring
from dna_ray.randomness import key
from dna_ray.remote.calibration import try_cells
from dna_ray.remote.distill import distill
from dna_ray.remote.features import TeacherTasks
from dna_ray.remote.feed import fed
from dna_ray.remote.rating import rate
from dna_ray.remote.retrain import Task
from dna_ray.remote.tune import sweep
from dna_ray.remote.windows import Held, Series, TaughtWindow, Window
from dna_ray.search import Ratings, Selection, ratings_of, read_ratings, select, to_arrow
from dna_ray.space import Architecture, NetworkSpec, Where, cell_name, network_spec, scale
from dna_ray.teacher import Cut


class Generation:
    """One generation: each stage reads its record or makes it."""

    def __init__(self, driver: Driver, number: int, teacher: TrainedModel, cut: Cut) -> None:
        self._driver, self._number, self._teacher, self._cut = driver, number, teacher, cut
        self._run, self._plan, self._job = driver.run, driver.plan, driver.job
        self._stream = (driver.job.seed, number)
        self._tasks = TeacherTasks(driver.session, teacher, cut)
        self._taught: dict[str, tuple[TaughtWindow, ...]] = {}
        driver.session.view.generation(number, driver.job.generations, self._title())
        driver.tell({"generation": number})

    def _title(self) -> str:
        if self._number > 1:
            scale_ = self._job.retrain.scale
            return f"generation {self._number - 1}, scaled by coefficient {scale_}"
        return self._job.teacher + (" adapted to the labels" if self._plan.adapt else "")

    def _record(self, name: str) -> str:
        return self._run.file(self._number, name)

    def _teach(self, train: bool) -> None:
        """Have the teacher's features made of the windows that rate, and of those that teach.

        Where windows are streamed, those that teach are made when they are read.
        """
        driver, session = self._driver, self._driver.session
        windows: dict[str, Sequence[Window]] = {}
        if train and not driver.streamed and "train" not in self._taught:
            windows["train"] = driver.held_passes(self._job.distill.epochs)
        if "rating" not in self._taught:
            windows["rating"] = driver.held("rating")
        total = sum(map(len, windows.values()))
        if not total:
            return
        resources = driver.share(1).task
        with driver.stage(self._number, "features") as facts:
            session.view.stage("features", total, "windows")
            for name, parts in windows.items():
                self._taught[name] = self._tasks.teach_all(parts, resources)
            if train:  # what is made again for rating alone is on record already
                facts |= {"windows": sum(map(len, self._taught.values())), "images": self._images()}
        driver.tell({"windows_made": total, "cached_bytes": self._cached()})
        if self._number == 1:  # this teacher's logits are the soft labels of the run
            for name in windows:
                first = self._taught[name]
                if name == "train":
                    first = first[: self._epoch_windows]  # those of later epochs may be others
                driver.know_soft_labels(name, first)

    def _images(self) -> int:
        """How many pictures have their features in the store."""
        return sum(window.size for windows in self._taught.values() for window in windows)

    def _cached(self) -> int:
        """The bytes of all features in the store."""
        return self._images() * self._plan.sizes.window // self._job.features.window

    @contextmanager
    def _windows(self, plan: RankPlan, share: Share) -> Iterator[Series[TaughtWindow]]:
        """The windows that teach, in all epochs."""
        driver, config = self._driver, self._job.features
        if not driver.streamed:
            yield Held(self._taught["train"])
            return

        def make(position: int) -> Iterator[TaughtWindow]:
            for window in driver.gallery.passes(
                "train",
                position,
                cpus=share.task_cpus,
                pictures=config.images,
                fresh=config.fresh,
            ):
                yield self._tasks.teach(window, share.task)

        total = self._epoch_windows * self._job.distill.epochs
        with fed(driver.session, make, total, plan.ranks, driver.cache.ahead) as series:
            yield series

    @property
    def _epoch_windows(self) -> int:
        return len(self._driver.gallery.plan.first("train", self._job.features.images))

    def _placed(self) -> tuple[RankPlan, Share]:
        """Where every cell is trained: by measured times where measuring is worth it."""
        driver, space, config = self._driver, self._plan.space, self._job.distill
        work = cell_macs(space, self._cut, self._plan.resolution)
        useful, needed = len(work) * config.shards, 0
        pictures = self._job.features.images * config.epochs
        if worth_measuring(config, pictures):
            with driver.stage(self._number, "calibration"):
                share = driver.share(useful, beside=driver.streamed)
                trials = try_cells(
                    driver.session,
                    space,
                    self._cut,
                    self._plan.pixels,
                    config,
                    self._plan.resolution,
                    {"num_cpus": share.rank_cpus, "num_gpus": share.rank_gpus},
                )
            work = {where: trial.seconds for where, trial in trials.items()}
            needed = rank_bytes(trials.values(), driver.plan.sizes.window)
        share = driver.share(useful, beside=driver.streamed, rank_bytes=needed)
        return plan_ranks(work, share.ranks, config.shards), share

    def architecture(self) -> Architecture:
        """What is found: cells are distilled, paths rated, and architectures searched."""
        return self.searched(self.rated(self.distilled()))

    def distilled(self) -> dict[Where, Weights]:
        """The weights of every cell, but of those whose training came to nothing."""
        record = self._record("cells.safetensors")
        if not self._run.has(record):
            self._teach(train=True)
            plan, share = self._placed()
            with (
                self._driver.stage(self._number, "distill"),
                self._windows(plan, share) as windows,
            ):
                made = distill(
                    self._driver.session,
                    self._plan.space,
                    self._cut,
                    self._plan.pixels,
                    windows,
                    self._epoch_windows,
                    self._job.distill,
                    plan,
                    share,
                    self._stream,
                    self._driver.storage,
                )
                self._leave_out(made.stopped)
                self._run.measure(self._number, made.rows)
                tensors = {
                    f"{cell_name(where)}/{name}": value.contiguous()
                    for where, state in made.weights.items()
                    for name, value in state.items()
                }
                self._run.write(record, save(tensors))
        cells: dict[Where, Weights] = {}
        tensors = load(self._run.read(record))
        for where in self._plan.space.cells:
            prefix = f"{cell_name(where)}/"
            own = {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
            if own:
                cells[where] = own
        return cells

    def _leave_out(self, stopped: dict[Where, str]) -> None:
        """Note cells that have stopped; raises UserError where a block has no others."""
        for block in range(len(self._plan.space.blocks)):
            own = [why for (b, _), why in stopped.items() if b == block]
            if len(own) == len(self._plan.space.blocks[block].cells):
                raise UserError(
                    f"a block needs a cell, but all of block {block + 1} stopped: {own[0]}"
                )
        if stopped:
            record = self._record("left-out.json")
            known = self._run.read_json(record) if self._run.has(record) else []
            lines = dict.fromkeys([*known, *stopped.values()])
            self._run.write_json(record, list(lines))
        for why in stopped.values():
            self._driver.session.view.note(f"a cell is left out: {why}")

    def rated(self, cells: dict[Where, Weights]) -> Ratings:
        """The ratings table."""
        record, plan = self._record("ratings.parquet"), self._plan
        if not self._run.has(record):
            self._teach(train=False)
            paths = sum(plan.space.blocks[b].count(c) for b, c in cells)
            with self._driver.stage(self._number, "rate") as facts:
                losses = rate(
                    self._driver.session,
                    plan.space,
                    self._cut,
                    plan.pixels,
                    cells,
                    self._taught["rating"],
                    self._job.rate,
                    plan.resolution,
                    self._driver.share(1).task,
                )
                ratings = self._ratings("dna", losses)
                self._run.write_table(record, to_arrow(ratings))
                facts |= {"paths": paths, "images": self._job.rate.images}
        return read_ratings(pa.BufferReader(self._run.read(record)))

    def _ratings(self, method: str, losses: Sequence[Sequence[np.ndarray]]) -> Ratings:
        """The ratings table of all losses, `[block][cell]` (paths,), and how they came about."""
        metadata = {"method": method, "seed": str(self._job.seed)}
        metadata["interactions"] = str(self._job.rate.interactions)
        metadata["members"] = str(self._job.distill.trainings)
        return ratings_of(self._plan.space, self._plan.table, losses, metadata)

    def searched(self, ratings: Ratings) -> Architecture:
        """The best architecture within the limits."""
        return self._chosen(lambda: select(ratings, self._plan.limits), ratings.architectures)

    def _chosen(self, search: Callable[[], Selection], candidates: int) -> Architecture:
        """The architecture that a search among so many candidates chooses."""
        record, front = self._record("architecture.json"), self._record("front.parquet")
        if not (self._run.has(record) and self._run.has(front)):
            view = self._driver.session.view
            with self._driver.stage(self._number, "search") as facts:
                view.stage("search", candidates, "architectures")
                best = search()
                view.advance(candidates, f"front of {len(best.front)}")
                self._run.write_table(front, best.front.to_arrow())
                self._run.write_json(record, best.to_json(self._plan.space.name))
                facts |= {"loss": best.found.loss, "front": len(best.front)}
                facts["architectures"] = str(candidates)
                self._driver.tell({"search_seconds": best.seconds, "best_loss": best.found.loss})
        return Architecture.from_json(self._run.read_json(record), record)

    def tuned(self, architecture: Architecture) -> dict[str, float]:
        """The best of Tune's trials for the found network."""
        record = self._record("tune.json")
        if not self._run.has(record):
            driver, config = self._driver, self._job.tune
            windows = driver.with_soft_labels("train", driver.held("train", config.images))
            held_out = driver.with_soft_labels("rating", driver.held("rating"))
            # Every trial puts its own rate and decay in the place of these.
            task = Task(
                "found",
                self._fresh(self._found_spec(architecture), "found"),
                recipe(self._job, config.passes, config.learning_rate[0], config.weight_decay[0]),
                (self._job.seed, "tune", self._number),
            )
            with driver.stage(self._number, "tune") as facts:
                trials = sweep(
                    driver.session,
                    f"tune-generation-{self._number}",
                    task,
                    windows,
                    held_out,
                    config,
                    driver.share(config.trials),
                    driver.storage,
                )
                self._run.write_json(record, {"trials": trials})
                facts |= {"trials": len(trials), "loss": trials[0]["loss"]}
        best: dict[str, float] = self._run.read_json(record)["trials"][0]
        return best

    def retrained(
        self, architecture: Architecture, best: dict[str, float]
    ) -> tuple[TrainedModel, TrainedModel | None]:
        """The found network, and before another generation its scaled copy, trained."""
        records = [self._record("model.safetensors")]
        specs = [("found", self._found_spec(architecture), self._job.retrain.passes)]
        if self._number < self._job.generations:
            records.append(self._record("scaled.safetensors"))
            scaled = scale(specs[0][1], self._job.retrain.scale)
            specs.append(("scaled", scaled, self._job.retrain.scaled_passes))
        if not all(map(self._run.has, records)):
            tasks = [
                Task(
                    name,
                    self._fresh(spec, name),
                    recipe(self._job, passes, best["learning_rate"], best["weight_decay"]),
                    (self._job.seed, "retrain", self._number, name),
                )
                for name, spec, passes in specs
            ]
            windows = self._driver.to_train()
            with self._driver.stage(self._number, "retrain"):
                models = self._driver.train(
                    self._number, "retrain", f"retrain-generation-{self._number}", tasks, windows
                )
                for record, model in zip(records, models, strict=True):
                    self._run.write(record, save_model(model))
        models = [load_model(self._run.place / record) for record in records]
        return models[0], models[1] if len(models) > 1 else None

    def _found_spec(self, architecture: Architecture) -> NetworkSpec:
        mean, std = self._plan.pixels
        spec = network_spec(self._plan.space, architecture, self._plan.classes)
        return replace(spec, mean=mean, std=std)

    def _fresh(self, spec: ModelSpec, name: str) -> TrainedModel:
        """A network with new weights, from a stream of its own."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(key(*self._stream, "weights", name))
            return trained(spec, build_model(spec))

    def result(
        self, architecture: Architecture, found: TrainedModel, scaled: TrainedModel | None
    ) -> dict[str, Any]:
        """What the command says of this generation."""
        record = self._record("result.json")
        if not self._run.has(record):
            driver = self._driver
            if not driver.streamed:
                driver.held("test")  # a stage itself
            networks = {"teacher": self._teacher, "found": found}
            if scaled is not None:
                networks["next_teacher"] = scaled
            with driver.stage(self._number, "retrain"):
                passes = len(networks) * (1 if self._plan.pictures.labelled else 2)
                tests = passes * len(driver.gallery.sizes("test"))
                driver.session.view.stage("test", tests, "windows")
                metrics = {role: driver.metrics(net, role) for role, net in networks.items()}
            stopped = self._record("left-out.json")
            left_out = self._run.read_json(stopped) if self._run.has(stopped) else []
            search_ = self._run.read_json(self._record("architecture.json"))
            stages = ("adapt", "features", "distill", "rate", "search", "tune", "retrain")
            seconds = {s: self._run.seconds(f"generation-{self._number}/{s}") for s in stages}
            tree = {
                "generation": self._number,
                "teacher": self._title(),
                "architecture": str(architecture),
                "loss": search_["loss"],
                "costs": search_["costs"],
                "limits": search_["limits"],
                "proven_optimal": search_["proven_optimal"],
                "metrics": metrics,
                "left_out": left_out,
                "seconds": {name: round(value, 3) for name, value in seconds.items()},
            }
            self._run.write_json(record, tree)
        result: dict[str, Any] = self._run.read_json(record)
        return result
