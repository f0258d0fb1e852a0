"""Files on any filesystem that pyarrow knows: this machine's, or one named by a URI (`s3://...`)."""

import mimetypes
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

from pyarrow.fs import FileInfo, FileSelector, FileSystem, FileType, LocalFileSystem

from dna_ray.errors import UserError

R = TypeVar("R")

# Seconds before another try where a filesystem elsewhere does not answer. pyarrow's own client
# tries again too, but not where it is refused, as by credentials that are being renewed.
_PAUSES = (1.0, 3.0, 9.0)


@dataclass(frozen=True)
class Place:
    """A file or a folder, wherever it is; can be pickled. `str()` is what its user called it.

    Where a filesystem elsewhere fails, everything is tried some more times before OSError is
    raised, but for what is said to be `at_once`.
    """

    filesystem: FileSystem
    path: str
    name: str

    @classmethod
    def of(cls, given: str | Path) -> "Place":
        """The place that a path or a URI names; raises UserError for a URI that names none."""
        text = str(given)
        if "://" not in text:
            return cls(LocalFileSystem(), str(Path(text).absolute()), text)
        try:
            parts = urlsplit(text)
            if parts.password is not None:
                raise UserError(
                    "a place must be named without a password, as messages and records hold its "
                    f"name, but '{parts.scheme}://...@{parts.hostname}' holds one; put it where "
                    "the store's own tools look for it"
                )
            filesystem, path = FileSystem.from_uri(text)
            if not path:
                raise ValueError("it names no bucket")
        except (ValueError, OSError) as error:  # Arrow's are ValueErrors
            raise UserError(
                f"a place must be a path or a URI of a filesystem that pyarrow knows, such as "
                f"s3://bucket/folder, but '{text}' is not ({error}); check it"
            ) from None
        return cls(filesystem, path.rstrip("/") or path, text)

    def __str__(self) -> str:
        return self.name

    def __truediv__(self, name: str) -> "Place":
        """A file or folder inside this one. The options of a URI stay at its end."""
        head, options = self.name, ""
        if "://" in head and "?" in head:
            head, _, options = head.partition("?")
            options = f"?{options}"
        path, head = self.path.removesuffix("/"), head.removesuffix("/")
        return Place(self.filesystem, f"{path}/{name}", f"{head}/{name}{options}")

    @property
    def local(self) -> Path | None:
        """The path where this is on this machine's filesystem, None elsewhere."""
        return Path(self.path) if isinstance(self.filesystem, LocalFileSystem) else None

    def info(self, *, at_once: bool = False) -> FileInfo:
        """Type, size and time of change."""
        return again(self, lambda: self.filesystem.get_file_info(self.path), at_once)

    def is_file(self) -> bool:
        """Whether there is a file."""
        return bool(self.info().type == FileType.File)

    def is_folder(self) -> bool:
        """Whether there is a folder; on an object store, a file below that name."""
        return bool(self.info().type == FileType.Directory)

    def inside(self, *, recursive: bool = False) -> list[FileInfo]:
        """What a folder holds, by name; nothing where there is no folder."""
        selector = FileSelector(self.path, allow_not_found=True, recursive=recursive)
        found = again(self, lambda: self.filesystem.get_file_info(selector))
        return sorted(found, key=lambda info: str(info.path))

    def read(self) -> bytes:
        """The bytes of a file; OSError where there is none."""

        def get() -> bytes:
            with self.filesystem.open_input_file(self.path) as file:
                return bytes(file.read())

        return again(self, get)

    def write(self, data: bytes, *, at_once: bool = False) -> None:
        """Put a whole file here, or leave what was there.

        On this machine: beside it, flushed to disk, then renamed over it. An object store shows a
        file when all of it has arrived.
        """
        if self.local is not None:
            self.local.parent.mkdir(parents=True, exist_ok=True)
            write_whole(self.local, data)
            return
        kind = mimetypes.guess_type(self.path)[0] or "application/octet-stream"

        def put() -> None:
            with self.filesystem.open_output_stream(
                self.path, metadata={"Content-Type": kind}
            ) as file:
                file.write(data)

        def undisturbed() -> None:
            # A Ctrl-C between opening and writing would close the file, and so put an empty one in
            # the place of what was there. It reaches the main thread alone.
            with ThreadPoolExecutor(1) as thread:
                thread.submit(put).result()

        again(self, undisturbed, at_once)

    def make_folder(self) -> None:
        """Make a folder and those around it, where they are not there."""
        again(self, lambda: self.filesystem.create_dir(self.path, recursive=True))

    def remove(self) -> None:
        """Remove a file, or a folder with all that it holds, where it is there."""
        kind = self.info().type
        if kind == FileType.Directory:
            again(self, lambda: self.filesystem.delete_dir(self.path))
        elif kind == FileType.File:
            again(self, lambda: self.filesystem.delete_file(self.path))


@contextmanager
def reachable(place: Place, what: str) -> Iterator[None]:
    """While a place that a user named is used: raise UserError that calls it `what`.

    One that cannot be reached at all is told at once.
    """
    try:
        place.info(at_once=True)
        yield
    except OSError as error:
        raise UserError(
            f"{what} must be reachable, but '{place}' is not: {reason(error)}; check the path and, "
            "for a store elsewhere, its credentials"
        ) from None


def reason(error: OSError) -> str:
    """Why something failed, in words, as the system or a store says it."""
    return error.strerror or str(error) or type(error).__name__


def write_whole(path: Path, data: bytes) -> None:
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


def again(place: Place, do: Callable[[], R], at_once: bool = False) -> R:
    """Do something, and where the filesystem is elsewhere and fails, some more times."""
    for pause in () if place.local is not None or at_once else _PAUSES:
        try:
            return do()
        except FileNotFoundError:
            raise
        except OSError:
            time.sleep(pause)
    return do()
