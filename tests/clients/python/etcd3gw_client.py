"""etcd3gw, etcd's API as JSON over HTTP/1.1: every kind of call that it has, and users through its `post`."""

import base64
import json

import checks
import etcd3gw
from etcd3gw.exceptions import Etcd3Exception

PREFIX = "gw/"
KEYS = [b"gw/%02d" % n for n in range(10)]


def text(value):
    """Bytes as JSON has them."""
    return base64.b64encode(value.encode()).decode()


def keys(check, client):
    """Puts, gets, ranges, orders, deletions, and the past."""
    check.equal(client.get("gw/none"), [], "a key that is not there")
    for n, key in enumerate(KEYS):
        check.equal(client.put(key, b"value-%d" % (9 - n)), True, "a put")
    (value, about), = client.get(KEYS[3], metadata=True)
    first = int(about["create_revision"]) - 3
    check.equal((value, about["key"], about["version"]), (b"value-6", KEYS[3], "1"), "what was put")
    check.equal(about["mod_revision"], about["create_revision"], "when it was put")
    client.put(KEYS[3], "newer")
    check.equal(client.get(KEYS[3]), [b"newer"], "what is newer")
    check.equal(client.get(KEYS[3], revision=first + 3), [b"value-6"], "the past")
    client.put(KEYS[3], "value-6")
    in_order = lambda **how: [about["key"] for _, about in client.get_prefix(PREFIX, **how)]
    check.equal(in_order(), KEYS, "keys in order")
    check.equal(in_order(sort_order="ascend", sort_target="value"), KEYS[::-1], "in the order of values")
    check.equal(in_order(sort_order="descend", sort_target="mod")[0], KEYS[3], "the newest first")
    check.equal(in_order(sort_order="descend", sort_target="version")[0], KEYS[3], "the most often changed first")
    check.equal(len(client.get("gw/", range_end="gw0", limit=4)), 4, "no more than asked for")
    check.equal(set(client.get("gw/", range_end="gw0", keys_only=True)), {b""}, "keys without values")
    check.equal(client.get("gw/", range_end="gw0", count_only=True), [], "the count alone")
    check.equal(len(client.get("gw/", range_end="gw0", min_mod_revision=first + 8)), 3, "the newer ones")
    check.equal(len(client.get("gw/", range_end="gw0", serializable=True)), 10, "a read of this member alone")
    check.equal(len(client.get_all()), 10, "all keys")
    check.equal(client.create(KEYS[0], "x"), False, "made only once")
    check.equal(client.create("gw/new", "x"), True, "made")
    check.equal((client.delete("gw/new"), client.delete("gw/new")), (True, False), "deleted once")
    check.equal(client.replace(KEYS[1], "value-8", "other"), True, "replaced")
    check.equal(client.replace(KEYS[1], "value-8", "again"), False, "not replaced")
    check.equal(client.delete_prefix("gw/09"), True, "a prefix deleted")
    check.equal(len(client.get_prefix(PREFIX)), 9, "what is left")
    return first


def transactions(check, client):
    """Both branches, with answers in the form of the services."""
    key = text("gw/txn")
    put = {"request_put": {"key": key, "value": text("1")}}
    get = {"request_range": {"key": key}}
    absent = {"key": key, "target": "VERSION", "result": "EQUAL", "version": 0}
    txn = {"compare": [absent], "success": [put, get], "failure": [get]}
    done = client.transaction(txn)
    check.equal((done["succeeded"], len(done["responses"])), (True, 2), "the one branch")
    check.equal(done["responses"][1]["response_range"]["kvs"][0]["value"], text("1"), "it reads what it wrote")
    check.equal("succeeded" in client.transaction(txn), False, "the other branch: what is false is left out")
    check.refused(Etcd3Exception, "", lambda: client.transaction({"success": [put, put]}))


def leases(check, client):
    """Leases, what hangs on them, and their end."""
    lease = client.lease(60)
    client.put("gw/leased", "x", lease)
    check.equal(lease.keys(), [b"gw/leased"], "the lease's keys")
    check.true(0 < lease.ttl() <= 60, "what is left")
    check.equal(lease.refresh(), 60, "kept alive")
    check.equal(lease.revoke(), True, "revoked")
    check.equal(client.get("gw/leased"), [], "gone with its lease")
    check.equal(lease.ttl(), -1, "of a lease that is not there")
    check.equal(lease.refresh(), -1, "kept alive no more")
    check.refused(Etcd3Exception, "Not Found", lease.revoke)


def locks(check, client, other):
    """One has it at a time."""
    mine, theirs = client.lock("one", ttl=30), other.lock("one", ttl=30)
    check.equal((mine.acquire(), theirs.acquire()), (True, False), "who has it")
    check.equal((mine.is_acquired(), theirs.is_acquired()), (True, False), "who knows to have it")
    check.equal(mine.refresh(), 30, "kept")
    check.equal((theirs.release(), mine.release()), (False, True), "who gives it up")
    check.equal(theirs.acquire(), True, "had by the other")
    theirs.lease.revoke()
    check.equal(theirs.is_acquired(), False, "lost with its lease")


def watches(check, client, other, first):
    """The present and the past, filters, and values before."""
    events, cancel = client.watch_prefix("gw/w", prev_kv=True)
    deletions, cancel_deletions = client.watch_prefix("gw/w", filters=["NOPUT"])
    for value in ["1", "2"]:
        other.put("gw/w1", value)
    other.delete("gw/w1")
    told = [next(events) for _ in range(3)]
    check.equal([event.get("type", "PUT") for event in told], ["PUT", "PUT", "DELETE"], "each change, once, in order")
    check.equal([event["kv"].get("value") for event in told], [b"1", b"2", None], "what was put")
    check.equal(["prev_kv" in event for event in told], [False, True, True], "values before")
    check.equal(next(deletions)["kv"]["key"], b"gw/w1", "deletions alone")
    cancel()
    cancel_deletions()
    past, cancel = client.watch_prefix("gw/0", start_revision=first)
    told = [next(past)["kv"] for _ in range(3)]
    check.equal([kv["key"] for kv in told], KEYS[:3], "the past")
    cancel()
    once = client.watch_once(KEYS[0], timeout=20, start_revision=first)
    check.equal(once["kv"]["value"], b"value-9", "one event")


def member(check, client, first):
    """Compaction, status, members, versions, maintenance."""
    revision = int(client.status()["header"]["revision"])
    client.post(client.get_url("/kv/compaction"), json={"revision": revision, "physical": True})
    check.refused(Etcd3Exception, "", lambda: client.get(KEYS[0], revision=first))
    check.equal(client.get(KEYS[0]), [b"value-9"], "the present stays")
    status = client.status()
    check.true(tuple(int(part) for part in status["version"].split(".")) >= (3, 5, 1), "a version as etcd's")
    found, = client.members()
    check.equal((found["name"], found["ID"]), ("m0", status["leader"]), "one member, who leads")
    check.equal(client.api_path, "/v3/", "the path that goes with the version")
    check.equal(client.post(client.get_url("/maintenance/alarm"), json={}).get("alarms"), None, "no alarm")
    page = client.session.get(client.base_url + "/health", timeout=20)
    check.equal((page.status_code, page.json()["health"]), (200, "true"), "its health")
    file = b""
    with client.session.post(client.get_url("/maintenance/snapshot"), json={}, stream=True) as lines:
        for line in lines.iter_lines():
            file += base64.b64decode(json.loads(line)["result"].get("blob", ""))
    check.equal((len(file) % 512, file[16:20]), (32, b"\xed\xda\x0c\xed"), "a file of etcd with its digest")


def users(check, client, connect):
    """A user with a role for a prefix, by a token in the header that the gateway reads."""
    post = lambda who, path, **message: who.post(who.get_url("/auth/" + path), json=message)
    post(client, "user/add", name="root", password="secret")
    post(client, "user/grant", user="root", role="root")
    post(client, "user/add", name="ann", password="pw")
    post(client, "role/add", name="reader")
    post(client, "role/grant", name="reader", perm={"permType": "READ", "key": text("gw/"), "range_end": text("gw0")})
    post(client, "user/grant", user="ann", role="reader")
    post(client, "enable")
    check.refused(Etcd3Exception, "", lambda: client.get(KEYS[0]))
    check.refused(Etcd3Exception, "", lambda: post(client, "authenticate", name="ann", password="wrong"))
    ann, root = connect(), connect()
    for who, name, password in [(ann, "ann", "pw"), (root, "root", "secret")]:
        who.session.headers["Authorization"] = post(client, "authenticate", name=name, password=password)["token"]
    check.equal(ann.get(KEYS[0]), [b"value-9"], "what she may read")
    check.refused(Etcd3Exception, "", lambda: ann.get("elsewhere"))
    check.refused(Etcd3Exception, "", lambda: ann.put(KEYS[0], "x"))
    check.equal(post(root, "user/get", name="ann")["roles"], ["reader"], "her roles")
    check.equal(post(root, "status")["enabled"], True, "users are asked for")
    post(root, "disable")
    check.equal(client.get(KEYS[0]), [b"value-9"], "open to all again")


def main():
    """Everything above, on one member."""
    checks.in_time()
    where = checks.arguments()
    tls = {"protocol": "https", "ca_cert": where.ca, "cert_cert": where.cert, "cert_key": where.key} if where.ca else {}
    connect = lambda: etcd3gw.client(host=where.host, port=where.port, timeout=20, api_path=None, **tls)
    check = checks.Checks()
    client, other = connect(), connect()
    first = keys(check, client)
    transactions(check, client)
    leases(check, client)
    locks(check, client, other)
    watches(check, client, other, first)
    member(check, client, first)
    users(check, client, connect)
    check.done()


main()
