#!/usr/bin/env python3
"""Tests against what Debian ships: etcd 3.4 as a source, zstd, protoc, systemd and promtool as readers. Root.

Fetches the packages, then runs the test binary `system` with the folders named in its environment. The binary fails
without them: a test that passes because its peer is missing proves nothing.
"""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")).absolute()


def main():
    """The exit code of the first step that failed, or 0."""
    fetched = subprocess.run([sys.executable, "tests/support/peers.py", "--system"], cwd=ROOT)
    if fetched.returncode != 0:
        return fetched.returncode
    folders = {
        "HOLDFAST_SYSTEM_ETCD": str(TARGET / "peers" / "etcd-3.4"),
        "HOLDFAST_SYSTEM_PROMTOOL": str(TARGET / "peers" / "promtool"),
        "HOLDFAST_SYSTEM_TOOLS": "/usr/bin",
    }
    suites = [sys.executable, "tests/support/suites.py", "system"]
    return subprocess.run(suites, cwd=ROOT, env={**os.environ, **folders}).returncode


if __name__ == "__main__":
    sys.exit(main())
