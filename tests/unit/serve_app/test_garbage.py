"""The garbage collector looks at new objects only, and not after every few requests."""

import subprocess
import sys

PROGRAM = """
import gc
from serve_app.garbage import YOUNG_OBJECTS, collect_rarely
collect_rarely()
assert gc.isenabled()
assert gc.get_freeze_count() > 1000
assert gc.get_threshold()[0] == YOUNG_OBJECTS
before = gc.get_stats()[0]["collections"]
kept = [[] for _ in range(YOUNG_OBJECTS - 1000)]
assert gc.get_stats()[0]["collections"] == before
kept += [[] for _ in range(2000)]
assert gc.get_stats()[0]["collections"] > before
"""


def test_collections_are_rare_but_come() -> None:
    """In a process of its own, which it changes for good."""
    subprocess.run([sys.executable, "-c", PROGRAM], check=True, timeout=60)
