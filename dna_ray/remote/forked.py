"""Stands in the place of Python where Ray starts a worker: asks a fork server for the process.

Run as `python -I -S forked.py SOCKET WORD...`, with the words that Python would be given. Where
they start no worker, where no server answers, or where it fails, this process becomes what Python
would be; unless who started it has ended. It imports as little as it can, because it runs once for
every worker.
"""

import json
import os
import socket
import sys

_WORKERS = ("setup_worker.py", "default_worker.py")  # Ray's scripts; the first becomes the other
_PATIENCE = 30.0  # seconds; Ray has it of twice as many for a worker that does not come


def forked(path: str, words: list[str]) -> bool:
    """Whether the server at `path` runs the script with its arguments, `words`, in a fork.

    The server is told all that a process has of the one that starts it: its environment, the folder
    where it works, and its standard streams.
    """
    request = {"words": words, "environment": dict(os.environ), "folder": os.getcwd()}
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(_PATIENCE)
            connection.connect(path)
            socket.send_fds(connection, [b"."], [0, 1, 2])
            connection.sendall(json.dumps(request).encode())
            connection.shutdown(socket.SHUT_WR)
            return connection.recv(1) == b"."  # nothing where the server ended first
    except OSError:
        return False


def main(path: str, words: list[str]) -> None:
    """Have the words run by a fork, or become what Python makes of them."""
    parent = os.getppid()
    worker = os.path.basename(words[0]) in _WORKERS
    if not (worker and (forked(path, words) or os.getppid() != parent)):
        os.execv(sys.executable, [sys.executable, *words])


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
