#!/usr/bin/env python3
"""Runs the test suites one after another, prints the time of each, and fails one that is over its budget.

    python3 tests/support/suites.py            the suites of `make test`
    python3 tests/support/suites.py system     the named suites

A suite is one test binary of cargo; its budget is in seconds on two cores, beyond the build, and has room for a busy
machine. Everything cargo prints stays visible.
"""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time

# (suite, what cargo runs, seconds it may take)
BUDGETS = [
    ("unit", ["--lib", "--bins"], 90),
    ("tidy", ["--test", "tidy"], 10),
    ("compat", ["--test", "compat"], 120),
    ("policies", ["--test", "policies"], 60),
    ("support", ["--test", "support"], 90),
    ("etcd", ["--test", "etcd"], 150),
    ("clients", ["--test", "clients"], 150),
    ("interop", ["--test", "interop"], 200),
    ("e2e", ["--test", "e2e"], 200),
    ("stores", ["--test", "stores"], 240),
]
# Only when named: they need what `make test` must not need.
NAMED = [("system", ["--test", "system"], 120)]

# A suite that hangs is ended after this many times its budget.
PATIENCE = 3

CLOSING = re.compile(r"test result: (ok|FAILED)\. (\d+) passed")


def unbudgeted():
    """Test binaries of Cargo.toml that no suite runs: they would be forgotten in silence."""
    command = ["cargo", "metadata", "--locked", "--no-deps", "--format-version", "1"]
    metadata = json.loads(subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=True).stdout)
    targets = [target for package in metadata["packages"] for target in package["targets"]]
    known = {selection[-1] for _, selection, _ in BUDGETS + NAMED}
    return [target["name"] for target in targets if "test" in target["kind"] and target["name"] not in known]


def build(selections):
    """Compiles every suite first, so that no suite's time contains a build."""
    command = ["cargo", "test", "--locked", "--no-run"] + [word for selection in selections for word in selection]
    return subprocess.run(command, stdin=subprocess.DEVNULL).returncode == 0


def run(selection, limit):
    """Runs one suite, ended after `limit` seconds; whether it passed, how many tests did, and the seconds it took."""
    started = time.monotonic()
    # A group of its own, so that everything it started can be ended with it.
    cargo = subprocess.Popen(
        ["cargo", "test", "--locked", *selection],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    timer = threading.Timer(limit, os.killpg, [cargo.pid, signal.SIGKILL])
    timer.start()
    passed = 0
    try:
        for line in cargo.stdout:
            sys.stdout.write(line)
            sys.stdout.flush()
            closing = CLOSING.match(line)
            passed += int(closing.group(2)) if closing else 0
        code = cargo.wait()
    except KeyboardInterrupt:
        os.killpg(cargo.pid, signal.SIGKILL)
        raise
    finally:
        timer.cancel()
    return code == 0, passed, time.monotonic() - started


def main(names):
    """Exit 1 when a suite fails, runs no test, or is over its budget."""
    suites = [suite for suite in BUDGETS + NAMED if suite[0] in names] if names else BUDGETS
    unknown = set(names) - {suite[0] for suite in BUDGETS + NAMED}
    if unknown:
        print(f"suites: no suite is called {', '.join(sorted(unknown))}", file=sys.stderr)
        return 2
    forgotten = unbudgeted()
    if forgotten:
        print(f"suites: no budget for {', '.join(forgotten)}; give it one in tests/support/suites.py", file=sys.stderr)
        return 1
    started = time.monotonic()
    if not build([selection for _, selection, _ in suites]):
        return 1
    print(f"suite build: {time.monotonic() - started:.0f} s", flush=True)
    lines, failed = [], []
    for name, selection, budget in suites:
        passed_all, count, seconds = run(selection, PATIENCE * budget)
        faults = []
        if not passed_all:
            faults.append("failed")
        elif count == 0:
            faults.append("ran no test")
        if seconds > budget:
            faults.append("over its budget")
        note = f": {', '.join(faults)}" if faults else ""
        lines.append(f"suite {name}: {count} tests, {seconds:.0f} s of {budget} s{note}")
        print(lines[-1], flush=True)
        failed += [name] if faults else []
    if len(lines) > 1:
        print("\n" + "\n".join(lines), flush=True)
    if failed:
        print(f"suites: {', '.join(failed)} did not pass", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
