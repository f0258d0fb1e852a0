"""The run folder: the only code that knows its file names. Files appear whole or not at all.

It may be on any filesystem that pyarrow knows.

config.toml            the whole configuration, defaults included
space.toml             the space, where it is the user's own
manifest.json          versions, seed, fingerprints of what is read from elsewhere, checksums of all
                       records, and of every stage its state (begun or done) and its seconds
log.txt                traces of failures
pictures.json          which pictures cannot be read and are left out
working/               checkpoints of the stage at work; gone when the run is finished
teacher.safetensors    the first teacher as adapted to the task
generation-N/          cells.safetensors, ratings.parquet, front.parquet, architecture.json,
                       tune.json, model.safetensors, scaled.safetensors (the next generation's
                       teacher), result.json, and metrics.jsonl (curves, appended); and where
                       there is a reason, left-out.json (cells that stopped), alone.parquet (paths
                       trained alone), stability.parquet (other seeds, parts of the data, epochs);
                       with a progressive strategy for every block, in the place of
                       cells.safetensors, block-K-cells.safetensors and block-K-losses.parquet
report.html            the page that `dna-ray report` makes of it all
lock-*                 who is at work, where the folder is not on this machine
"""

import hashlib
import io
import json
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow.fs import FileType

from dna_ray import __version__
from dna_ray.errors import UserError, noted
from dna_ray.lock import locked
from dna_ray.storage import Place, reachable, reason

FORMAT = 1
_MANIFEST = "manifest.json"
_SESSION = "working/ray-session.txt"


class RunFolder:
    """A run folder that this process writes to."""

    def __init__(self, place: Place, manifest: dict[str, Any]) -> None:
        self.place = place
        self._manifest = manifest
        self._check_lock: Callable[[], None] = lambda: None

    @classmethod
    def create(
        cls,
        where: str | Path,
        config: str,
        seed: int,
        space: str | None = None,
        inputs: Mapping[str, str] | None = None,
    ) -> Self:
        """Make a new run folder; raises UserError where something is in the way.

        `where` is a path or a URI. `inputs` are the fingerprints of what the run reads from
        elsewhere, by what that is called.
        """
        place = Place.of(where)
        run = cls(place, {"format": FORMAT, "seed": seed, "versions": _versions()})
        run._manifest |= {"inputs": dict(inputs or {}), "files": {}, "stages": {}, "seconds": {}}
        try:
            kind = place.info(at_once=True).type
            if kind != FileType.NotFound and (kind != FileType.Directory or place.inside()):
                raise UserError(
                    f"a run folder must be new or empty, but '{place}' is neither; "
                    "give another --out, or --resume it"
                )
            place.make_folder()
            try:
                if space is not None:
                    run.write("space.toml", space.encode())
                run.write("config.toml", config.encode())
            except OSError:
                run.remove()
                raise
        except OSError as error:
            raise UserError(
                f"a run folder must be writable, but '{place}' is not ({reason(error)}); "
                "give another --out"
            ) from None
        return run

    @classmethod
    def open(cls, where: str | Path) -> Self:
        """Open a run folder to go on with it; raises UserError for any other folder."""
        place = Place.of(where)
        file = place / _MANIFEST
        with reachable(place, "a run folder"):
            data = file.read() if file.is_file() else b""
        try:
            manifest = json.loads(data)
            ours = manifest["format"] == FORMAT
            parts = ("inputs", "files", "stages", "seconds")
            ours &= all(isinstance(manifest[key], dict) for key in parts)
        except (ValueError, KeyError, TypeError):
            ours = False
        if not ours:
            raise UserError(
                f"a run folder must have a {_MANIFEST} of ours, but '{place}' has none; "
                "check the path"
            )
        return cls(place, manifest)

    @property
    def begun(self) -> bool:
        """Whether anything was begun that takes time to do again: any stage but the features."""
        return any(not stage.endswith("/features") for stage in self._manifest["stages"])

    def remove(self) -> None:
        """Remove the folder with all that it holds."""
        self.place.remove()

    def check_inputs(self, inputs: Mapping[str, str]) -> None:
        """Raise UserError where something that the run reads is not what it began with."""
        changed = [
            name for name, known in self._manifest["inputs"].items() if inputs[name] != known
        ]
        if changed:
            raise UserError(
                f"a run goes on with what it began with, but {' and '.join(changed)} changed since "
                f"'{self.place}' was made; bring the former back, or start a new run"
            )

    def log(self, text: str) -> None:
        """Add to the folder's log, for whoever looks for the cause of a failure.

        Tried once: where the folder is what failed, it has been tried long enough.
        """
        file = self.place / "log.txt"
        before = file.read() if file.info(at_once=True).type == FileType.File else b""
        line = f"{datetime.now().isoformat(timespec='seconds')} {text.rstrip()}\n"
        file.write(before + line.encode(), at_once=True)

    @property
    def working(self) -> Place:
        """Where unfinished stages keep their checkpoints; empty when the run is finished."""
        return self.place / "working"

    @property
    def session(self) -> Path | None:
        """The folder of the Ray session that worked here last, where it was not cleared away."""
        note = self.place / _SESSION
        return Path(note.read().decode()) if note.is_file() else None

    def remember_session(self, folder: Path) -> None:
        """Note a session's folder, so that it can be cleared away if this process is killed."""
        self._put(_SESSION, str(folder).encode())

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep every other process out; raises UserError where one is at work already.

        See `dna_ray.lock` for how far that goes where the folder is not on this machine.
        """
        with ExitStack() as stack:
            try:
                self._check_lock = stack.enter_context(locked(self.place))
                self._write_manifest()
            except OSError as error:
                raise UserError(
                    f"a run folder must be writable, but '{self.place}' is not ({reason(error)}); "
                    "make it so, or copy it elsewhere"
                ) from None
            if self.place.local is not None:
                for left in self.place.local.rglob(".*.[0-9]*"):  # by a process killed in a write
                    if not left.name.startswith(".report.html"):  # which needs no lock
                        left.unlink()
            yield

    @property
    def versions(self) -> dict[str, str]:
        """The versions of what made the run, by package."""
        return dict(self._manifest.get("versions", {}))

    @property
    def config(self) -> str:
        """The run's configuration as TOML; raises UserError where it is not as it was written."""
        config = self._given("config.toml")
        if config is None:
            raise UserError(
                f"a run folder must hold a config.toml, but '{self.place}' was left before it did; "
                "start a new run"
            )
        return config

    @property
    def space(self) -> str | None:
        """The run's own space as TOML, None where it is a built-in one; raises as `config`."""
        return self._given("space.toml")

    def _given(self, name: str) -> str | None:
        if name not in self._manifest["files"]:
            return None
        data = self._whole(name)
        if data is None:
            raise UserError(
                f"a run keeps to what it was given, but '{self.place / name}' was changed or "
                "removed; bring the former back, or start a new run"
            )
        return data.decode()

    def file(self, generation: int, name: str) -> str:
        """The name of one generation's record within the folder."""
        return f"generation-{generation}/{name}"

    def has(self, name: str) -> bool:
        """Whether a record is there and whole: its checksum is the manifest's."""
        return self._whole(name) is not None

    def _whole(self, name: str) -> bytes | None:
        expected, file = self._manifest["files"].get(name), self.place / name
        data = file.read() if expected is not None and file.is_file() else None
        return data if data is not None and _checksum(data) == expected else None

    def read(self, name: str) -> bytes:
        """The bytes of a record."""
        return (self.place / name).read()

    def whole(self, name: str) -> bytes | None:
        """The bytes of a record, None where there is none yet; raises UserError for damage."""
        if name not in self._manifest["files"]:
            return None
        data = self._whole(name)
        if data is None:
            raise UserError(
                f"a record must be as the run wrote it, but '{self.place / name}' is missing or "
                "damaged; --resume the run to make it again"
            )
        return data

    def write(self, name: str, data: bytes) -> None:
        """Write a record and enter it into the manifest."""
        self._put(name, data)
        self._manifest["files"][name] = _checksum(data)
        self._write_manifest()

    def write_json(self, name: str, tree: Any) -> None:
        """Write a record as indented JSON."""
        self.write(name, (json.dumps(tree, indent=1) + "\n").encode())

    def write_table(self, name: str, table: pa.Table) -> None:
        """Write a record as Parquet."""
        sink = io.BytesIO()
        pq.write_table(table, sink)
        self.write(name, sink.getvalue())

    def read_json(self, name: str) -> Any:
        """Read a JSON record."""
        return json.loads(self.read(name))

    def measure(self, generation: int, rows: Sequence[Mapping[str, Any]]) -> None:
        """Put the rows of a stage into a generation's metrics, in place of any it has left before.

        Rows belong together by `stage` and, where several networks train, `network`.
        """

        def kind(row: Mapping[str, Any]) -> tuple[Any, Any]:
            return row["stage"], row.get("network")

        name = self.file(generation, "metrics.jsonl")
        lines = self.read(name).decode().splitlines() if (self.place / name).is_file() else []
        replaced = {kind(row) for row in rows}
        kept = [line for line in lines if kind(json.loads(line)) not in replaced]
        text = "".join(f"{line}\n" for line in [*kept, *map(json.dumps, rows)])
        self._put(name, text.encode())

    def measured(self, generation: int) -> list[dict[str, Any]]:
        """A generation's metrics so far; raises UserError for a line that is no JSON object."""
        file = self.place / self.file(generation, "metrics.jsonl")
        if not file.is_file():
            return []
        rows = []
        for number, line in enumerate(file.read().splitlines(), 1):
            try:
                row = json.loads(line)
            except ValueError:
                row = None
            if not isinstance(row, dict):
                raise UserError(
                    f"every line of '{file}' must be a JSON object, but line {number} is not; "
                    "remove that line"
                )
            rows.append(row)
        return rows

    def begin(self, stage: str) -> None:
        """Note that a stage is at work: one that stays so was cut short."""
        self._manifest["stages"][stage] = "begun"
        self._write_manifest()

    def end(self, stage: str, seconds: float, *, done: bool = True) -> None:
        """Add to the time that a stage has taken over all attempts; note whether it is `done`."""
        times = self._manifest["seconds"]
        times[stage] = times.get(stage, 0.0) + seconds
        if done:
            self._manifest["stages"][stage] = "done"
        self._write_manifest()

    def seconds(self, stage: str) -> float:
        """The seconds that a stage has taken so far."""
        return float(self._manifest["seconds"].get(stage, 0.0))

    def all_seconds(self, generation: int) -> dict[str, float]:
        """The seconds of all stages of a generation that have taken any, in their order."""
        prefix = f"generation-{generation}/"
        return {
            name.removeprefix(prefix): float(value)
            for name, value in self._manifest["seconds"].items()
            if name.startswith(prefix)
        }

    def _write_manifest(self) -> None:
        self._put(_MANIFEST, (json.dumps(self._manifest, indent=1) + "\n").encode())

    def _put(self, name: str, data: bytes) -> None:
        file = self.place / name
        with noted(f"writing '{file}'"):
            self._check_lock()
            file.write(data)


def _checksum(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _versions() -> dict[str, str]:
    packages = ("ray", "torch", "torchvision", "timm", "numpy", "pyarrow")
    versions = {name: metadata.version(name) for name in packages}
    return {"dna-ray": __version__, "python": platform.python_version(), **versions}
