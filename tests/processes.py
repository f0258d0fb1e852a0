"""What tests do to this process, and see of another one."""

import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def small_files_only(limit: int) -> Iterator[None]:
    """Let the operating system fail every write beyond `limit` bytes, as a full disk would."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def modules_after(*words: str) -> subprocess.CompletedProcess[str]:
    """Run `dna-ray WORDS` and print the names of all imported modules on standard error."""
    script = (
        "import sys\n"
        "from dna_ray_cli.main import main\n"
        f"sys.argv = ['dna-ray', *{list(words)!r}]\n"
        "try:\n"
        "    main()\n"
        "except SystemExit as end:\n"
        "    assert not end.code, end.code\n"
        "print(*sys.modules, file=sys.stderr)\n"
    )
    return subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=60
    )
