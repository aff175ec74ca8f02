#!/usr/bin/env python3
"""The tour: backs up a real etcd, proves the backup, restores it into a second etcd and compares the two.

Runs the built binary as a person would, step by step, and leaves a repository in target/tour/ to look at. Every step
that does not do what it says ends the tour with exit code 1.
"""

import atexit
import base64
import ctypes
import http.client
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
TOUR = TARGET / "tour"
PEER = TARGET / "peers" / "etcd-3.5"
HOLDFAST = TARGET / "debug" / "holdfast"

OBJECTS = 2000
TXN_OPERATIONS = 20  # one revision each; etcd refuses more than 128
READY_SECONDS = 30
PR_SET_PDEATHSIG = 1

POLICY = """\
# The smallest policy: one cluster, one directory.
[cluster]
name = "tour"
endpoints = ["{endpoint}"]

[repository]
url = "file://{repository}"
encryption = "none"
"""


class Failed(Exception):
    """A step did not do what it says."""


class Steps:
    """Numbers the steps and shows each command with what it printed."""

    def __init__(self):
        self.number = 0

    def say(self, sentence):
        """Begins the next step."""
        self.number += 1
        print(f"\n{self.number}. {sentence}", flush=True)

    def run(self, program, *words, show=True, env=None):
        """Runs a command; its standard output, or Failed with what it said."""
        command = [str(program), *map(str, words)]
        if show:
            print(f"   $ {shown(command)}", flush=True)
        done = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, stdin=subprocess.DEVNULL, env={**os.environ, **(env or {})}
        )
        if show:
            for line in (done.stdout + done.stderr).splitlines():
                print(f"     {line}")
        if done.returncode != 0:
            said = "" if show else ": " + (done.stderr.strip() or done.stdout.strip()).rpartition("\n")[2]
            raise Failed(f"`{shown(command)}` ended with {done.returncode}{said}")
        return done.stdout


def relative(path):
    """A path as a person at the top of the repository would write it."""
    return os.path.relpath(path, ROOT)


def shown(command):
    """A command as a person would type it."""
    prefix = f"{ROOT}{os.sep}"
    return " ".join(word.replace(prefix, "") for word in command)


def free_ports(count):
    """Ports that were free a moment ago, all different."""
    sockets = [socket.socket() for _ in range(count)]
    for opened in sockets:
        opened.bind(("127.0.0.1", 0))
    ports = [opened.getsockname()[1] for opened in sockets]
    for opened in sockets:
        opened.close()
    return ports


class Etcd:
    """One etcd member, ended with this program however that ends."""

    def __init__(self, name):
        self.name = name
        self.client, self.peer = free_ports(2)
        self.dir = TOUR / f"{name}.etcd"
        self.endpoint = f"http://127.0.0.1:{self.client}"
        self.peer_url = f"http://127.0.0.1:{self.peer}"
        self.log = TOUR / f"{name}.log"
        self.process = None

    def flags(self):
        """What a new member and a restored one have in common."""
        return [
            f"--name={self.name}",
            f"--data-dir={self.dir}",
            f"--initial-cluster={self.name}={self.peer_url}",
            f"--initial-advertise-peer-urls={self.peer_url}",
            f"--initial-cluster-token={self.name}",
        ]

    def start(self):
        """Starts it and waits until it answers."""
        command = [PEER / "etcd", *self.flags()]
        command += [f"--listen-client-urls={self.endpoint}", f"--advertise-client-urls={self.endpoint}"]
        command += [f"--listen-peer-urls={self.peer_url}"]
        libc = ctypes.CDLL(None)
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=lambda: libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL),
            )
        atexit.register(self.stop)
        deadline = time.monotonic() + READY_SECONDS
        while not self.healthy():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise Failed(f"etcd {self.name} did not start; see {relative(self.log)}")
            time.sleep(0.05)

    def healthy(self):
        """Whether it answers that it is healthy."""
        try:
            connection = http.client.HTTPConnection("127.0.0.1", self.client, timeout=1)
            connection.request("GET", "/health")
            return json.load(connection.getresponse()).get("health") == "true"
        except (OSError, ValueError, http.client.HTTPException):
            return False

    def stop(self):
        """Ends it."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def ctl(self, *words):
        """Runs etcdctl on it, quietly; its output."""
        env = {"ETCDCTL_API": "3"}
        return Steps().run(PEER / "etcdctl", f"--endpoints={self.endpoint}", *words, show=False, env=env)

    def hash_kv(self):
        """The member's own hash over everything it holds: hash, revision, compact revision."""
        reply = json.loads(self.ctl("endpoint", "hashkv", "-w", "json"))[0]["HashKV"]
        return reply["hash"], reply["header"]["revision"], reply["compact_revision"]


def pod(generator, number):
    """A key and a value as a Kubernetes cluster has them."""
    namespace = generator.choice(["default", "kube-system", "payments"])
    name = f"api-{generator.randrange(16**8):08x}-{number}"
    labels = {"app": "api", "pod-template-hash": f"{generator.randrange(16**10):010x}"}
    container = {"name": "api", "image": f"registry.example.com/api@sha256:{generator.randrange(16**64):064x}"}
    condition = [{"type": kind, "status": "True"} for kind in ("Initialized", "Ready", "ContainersReady", "PodScheduled")]
    value = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "labels": labels},
        "spec": {"containers": [container] * 2, "restartPolicy": "Always", "dnsPolicy": "ClusterFirst"},
        "status": {"phase": "Running", "podIP": f"10.0.{number % 256}.{number // 256}", "conditions": condition},
    }
    return f"/registry/pods/{namespace}/{name}", json.dumps(value, indent=2)


def load(etcd):
    """Writes objects, updates some, deletes some, compacts, and adds a lease, a user and a role."""
    generator = random.Random(2)
    pods = [pod(generator, number) for number in range(OBJECTS)]
    text = lambda word: base64.b64encode(word.encode()).decode()
    puts = [{"requestPut": {"key": text(key), "value": text(value)}} for key, value in pods]
    puts += [{"requestPut": {"key": text(key), "value": text(value + " ")}} for key, value in pods[: OBJECTS // 4]]
    deletes = [{"requestDeleteRange": {"key": text(key)}} for key, _ in pods[-OBJECTS // 10 :]]
    connection = http.client.HTTPConnection("127.0.0.1", etcd.client, timeout=READY_SECONDS)
    for operations in (puts, deletes):
        for start in range(0, len(operations), TXN_OPERATIONS):
            body = json.dumps({"success": operations[start : start + TXN_OPERATIONS]})
            connection.request("POST", "/v3/kv/txn", body)
            reply = connection.getresponse()
            said = reply.read()
            if reply.status != 200:
                raise Failed(f"etcd refused a transaction: {said.decode()}")
    lease = etcd.ctl("lease", "grant", "3600").split()[1]
    etcd.ctl("put", "/registry/leases/kube-system/scheduler", "held", f"--lease={lease}")
    etcd.ctl("user", "add", "reader:secret")
    etcd.ctl("role", "add", "read-all")
    etcd.ctl("role", "grant-permission", "read-all", "read", "/registry/", "--prefix")
    etcd.ctl("user", "grant-role", "reader", "read-all")
    etcd.ctl("compact", str(etcd.hash_kv()[1] // 2))


def tour():
    """The steps."""
    steps = Steps()
    shutil.rmtree(TOUR, ignore_errors=True)
    TOUR.mkdir(parents=True)
    policy, repository, restored = TOUR / "policy.toml", TOUR / "repository", TOUR / "restored.db"

    steps.say("Start a real etcd and load it: objects, updates, deletions, a lease, a user, a compaction")
    source = Etcd("source")
    source.start()
    load(source)
    print(f"   etcd 3.5.1 on {source.endpoint}, revision {source.hash_kv()[1]}")

    steps.say("Write a policy: which cluster, which repository")
    policy.write_text(POLICY.format(endpoint=source.endpoint, repository=repository))
    print("".join(f"     {line}\n" for line in policy.read_text().splitlines()), end="")
    steps.run(HOLDFAST, "policy", "check", policy)

    steps.say("Back it up: one restore point, compared with the live cluster")
    steps.run(HOLDFAST, "backup", "--policy", policy)

    steps.say("Look at it")
    steps.run(HOLDFAST, "list", "--policy", policy)
    steps.run(HOLDFAST, "show", "latest", "--policy", policy)
    steps.run(HOLDFAST, "keys", "ls", "--policy", policy, "--point", "latest", "--by-kind", "/registry/")

    steps.say("Verify it: every byte read, every record decoded, every digest computed again")
    steps.run(HOLDFAST, "verify", "latest", "--policy", policy, "--level", "3")

    steps.say("Restore it to an etcd snapshot file")
    steps.run(HOLDFAST, "restore", "--policy", policy, "--point", "latest", "--etcd-snapshot", restored, "--yes")

    steps.say("Start a second etcd from that file, with etcd's own tool")
    second = Etcd("restored")
    steps.run(PEER / "etcdutl", "snapshot", "restore", restored, *second.flags(), show=False)
    second.start()
    print(f"   etcd 3.5.1 on {second.endpoint}")

    steps.say("Compare the two: each member's own hash over every revision it holds")
    ours, theirs = source.hash_kv(), second.hash_kv()
    for name, (digest, revision, compact) in (("source", ours), ("restored", theirs)):
        print(f"     {name:9} hash {digest:10}  revision {revision}  compacted at {compact}")
    if ours != theirs:
        raise Failed("the restored cluster differs from its source")
    print("   equal")
    steps.run(HOLDFAST, "hashkv", restored)

    binary, file = relative(HOLDFAST), relative(policy)
    print(
        f"""
The repository stays in {relative(repository)}. Go on with:
   {binary} list --policy {file}
   {binary} show latest --policy {file} -o json
   {binary} keys get --policy {file} --point latest /registry/leases/kube-system/scheduler
   {binary} export latest {relative(TOUR / "out.db")} --policy {file}
   {binary} --help"""
    )


def main():
    """Exit 1 when a step fails, with the reason."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(130))
    try:
        tour()
    except Failed as error:
        print(f"\ntour: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
