"""The stages of a search on Ray. Each is a thin twin of a pure function elsewhere."""

import os

# Ray would start another instance of itself for a thread that asks it something after the end of a
# session, as when a search is interrupted twice. It reads this while it is imported.
os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")
