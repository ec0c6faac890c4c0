"""harness.py: what the interop tests share: where things are, counting, running the command."""
import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
DATA = pathlib.Path(os.environ.get("NARROW_DATA", ROOT.parent / "shared" / "data"))
BUILD = pathlib.Path(os.environ.get("NARROW_BUILD_DIR", ROOT / "build" / "release"))
NARROW = BUILD / "narrow"


class Tally:
    """Counts; prints a line per failure and the suite's line at the end."""

    def __init__(self, suite):
        self.suite, self.passed, self.failed, self.skipped = suite, 0, 0, 0

    def check(self, name, problem):
        """problem: None or "" when all is well, else what is wrong."""
        if problem:
            self.failed += 1
            print(f"FAILED {name}: {problem}")
        else:
            self.passed += 1

    def skip(self, name, reason):
        self.skipped += 1
        print(f"SKIPPED {name}: {reason}")

    def finish(self):
        skipped = f", {self.skipped} skipped" if self.skipped else ""
        print(f"{self.suite}: {self.passed} passed, {self.failed} failed{skipped}")
        sys.exit(self.failed > 0)


def narrow(*args):
    """Runs the command; a failure raises RuntimeError with its message."""
    done = subprocess.run([NARROW, *map(str, args)], capture_output=True, text=True, timeout=600)
    if done.returncode:
        raise RuntimeError(f"narrow {args[0]}: exit {done.returncode}: {done.stderr.strip()}")
    return done.stdout
