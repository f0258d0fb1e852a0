"""The Grafana dashboard of `clusters/monitoring`, as tests look at it."""

import json
import re
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent.parent / "clusters" / "monitoring"


def panels() -> list[dict[str, Any]]:
    """All panels but the titles of rows."""
    everything = json.loads((FOLDER / "dashboard.json").read_text())["panels"]
    return [panel for panel in everything if panel["type"] != "row"]


def queries() -> list[str]:
    """Every query, in PromQL, for whatever run: what Grafana puts in the place of `$run`."""
    return [t["expr"].replace('"$run"', '~".*"') for p in panels() for t in p["targets"]]


def metrics_of(query: str) -> set[str]:
    """The names of the metrics in a query."""
    return set(re.findall(r"\bray_\w+", query))
