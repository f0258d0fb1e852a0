"""The run folder: the only code that knows its file names. Files appear whole or not at all.

config.toml            the whole configuration, defaults included
space.toml             the space, where it is the user's own
manifest.json          versions, seed, checksums of all records, seconds of all stages
teacher.safetensors    the first teacher as adapted to the task
generation-N/          cells.safetensors, ratings.parquet, front.parquet, architecture.json,
                       tune.json, model.safetensors, scaled.safetensors (the next generation's
                       teacher), result.json, and metrics.jsonl (curves, appended)
"""

import hashlib
import json
import os
import platform
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from dna_ray import __version__
from dna_ray.errors import UserError

FORMAT = 1
_MANIFEST = "manifest.json"


class RunFolder:
    """A run folder that this process writes to."""

    def __init__(self, path: Path, manifest: dict[str, Any]) -> None:
        self.path = path
        self._manifest = manifest

    @classmethod
    def create(cls, path: Path, config: str, seed: int, space: str | None = None) -> "RunFolder":
        """Make a new run folder; raises UserError where something is in the way."""
        try:
            if path.exists() and (not path.is_dir() or any(path.iterdir())):
                raise UserError(
                    f"a run folder must be new or empty, but '{path}' is neither; "
                    "give another --out, or --resume it"
                )
            path.mkdir(parents=True, exist_ok=True)
            run = cls(path, {"format": FORMAT, "seed": seed, "versions": _versions()})
            run._manifest |= {"files": {}, "seconds": {}}
            if space is not None:
                run.write("space.toml", space.encode())
            run.write("config.toml", config.encode())
        except OSError as error:
            raise UserError(
                f"a run folder must be writable, but '{path}' is not ({error.strerror}); "
                "give another --out"
            ) from None
        return run

    @classmethod
    def open(cls, path: Path) -> "RunFolder":
        """Open a run folder to go on with it; raises UserError for any other folder."""
        file = path / _MANIFEST
        try:
            manifest = json.loads(file.read_text(encoding="utf-8"))
            ours = manifest["format"] == FORMAT
            ours &= all(isinstance(manifest[key], dict) for key in ("files", "seconds"))
        except (OSError, ValueError, KeyError, TypeError):
            ours = False
        if not ours:
            raise UserError(
                f"a run to resume must have a {_MANIFEST} of ours, but '{path}' has none; "
                "check the path"
            )
        return cls(path, manifest)

    @property
    def config(self) -> str:
        """The run's configuration as TOML."""
        return self.read("config.toml").decode()

    def file(self, generation: int, name: str) -> str:
        """The name of one generation's record within the folder."""
        return f"generation-{generation}/{name}"

    def has(self, name: str) -> bool:
        """Whether a record is there and whole: its checksum is the manifest's."""
        path = self.path / name
        expected = self._manifest["files"].get(name)
        return expected is not None and path.is_file() and _checksum(path.read_bytes()) == expected

    def read(self, name: str) -> bytes:
        """The bytes of a record."""
        return (self.path / name).read_bytes()

    def write(self, name: str, data: bytes) -> None:
        """Write a record and enter it into the manifest."""
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        _write_whole(path, data)
        self._manifest["files"][name] = _checksum(data)
        self._write_manifest()

    def write_json(self, name: str, tree: Any) -> None:
        """Write a record as indented JSON."""
        self.write(name, (json.dumps(tree, indent=1) + "\n").encode())

    def read_json(self, name: str) -> Any:
        """Read a JSON record."""
        return json.loads(self.read(name))

    def measure(self, generation: int, rows: Sequence[Mapping[str, Any]]) -> None:
        """Append rows to a generation's metrics."""
        path = self.path / self.file(generation, "metrics.jsonl")
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)

    def add_seconds(self, stage: str, seconds: float) -> None:
        """Add to the time that a stage has taken, over all attempts."""
        times = self._manifest["seconds"]
        times[stage] = times.get(stage, 0.0) + seconds
        self._write_manifest()

    def seconds(self, stage: str) -> float:
        """The seconds that a stage has taken so far."""
        return float(self._manifest["seconds"].get(stage, 0.0))

    def _write_manifest(self) -> None:
        _write_whole(self.path / _MANIFEST, (json.dumps(self._manifest, indent=1) + "\n").encode())


def _write_whole(path: Path, data: bytes) -> None:
    """Write beside the target, flush to disk, then rename over it."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _checksum(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _versions() -> dict[str, str]:
    packages = ("ray", "torch", "torchvision", "timm", "numpy", "pyarrow")
    versions = {name: metadata.version(name) for name in packages}
    return {"dna-ray": __version__, "python": platform.python_version(), **versions}
