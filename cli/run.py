"""What commands on a run folder share: its job and space as they were, and a log of failures."""

import shlex
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from dna_ray.config import Job, job_from_tree, parse_job
from dna_ray.errors import StoppedError, UserError, causes
from dna_ray.rundir import RunFolder
from dna_ray.space import Space, load_space, parse_space


def recorded(run: RunFolder) -> tuple[Job, Space]:
    """The job and the space of a run folder; raises UserError where they were changed."""
    job = job_from_tree(parse_job(run.config, f"'{run.place / 'config.toml'}'"))
    if run.space is not None:
        return job, parse_space(run.space, f"'{run.place / 'space.toml'}'")
    return job, load_space(job.space)


@contextmanager
def logged(run: RunFolder, verbose: bool, command: str) -> Iterator[None]:
    """Keep the trace of a failure in the run folder, show it with -v, and say how to go on.

    That is by `command`, behind which the run folder is named.
    """
    try:
        yield
    except Exception as error:
        if any(isinstance(cause, UserError) for cause in causes(error)):
            raise
        if verbose:
            traceback.print_exc()
        with suppress(OSError):  # the run folder may be what failed
            run.log(traceback.format_exc())
        raise StoppedError(f"{command} {shlex.quote(str(run.place))}") from error
