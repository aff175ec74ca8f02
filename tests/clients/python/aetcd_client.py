"""aetcd, etcd's API over gRPC in asyncio: every kind of call that it has, and users through the stubs that it brings."""

import asyncio
import io

import aetcd
import aetcd.rpc as rpc
import checks
import grpc

PREFIX = b"aetcd/"
KEYS = [b"aetcd/%02d" % n for n in range(10)]


async def refused(check, kind, words, call):
    """The call ends with this exception and these words."""
    try:
        answer = await call
    except kind as error:
        check.true(words in str(error), f"{words!r} in {error!r}")
    else:
        raise AssertionError(f"answered with {answer!r} where {kind.__name__} ({words}) is due")


async def keys(check, client):
    """Puts, gets, ranges, orders, deletions, and the past."""
    check.equal(await client.get(b"aetcd/none"), None, "a key that is not there")
    first = None
    for n, key in enumerate(KEYS):
        put = await client.put(key, b"value-%d" % (9 - n))
        first = first or put.header.revision
        check.equal(put.header.revision, first + n, "one revision for each put")
    found = await client.get(KEYS[3])
    check.equal((found.key, found.value, found.version), (KEYS[3], b"value-6", 1), "what was put")
    check.equal((found.create_revision, found.mod_revision), (first + 3, first + 3), "when it was put")
    again = await client.put(KEYS[3], b"newer", prev_kv=True)
    check.equal(again.prev_kv.value, b"value-6", "what was there before")
    check.equal((await client.get(KEYS[3])).version, 2, "its version")
    await client.put(KEYS[3], b"value-6")

    found = await client.get_prefix(PREFIX)
    check.equal([kv.key for kv in found], KEYS, "keys in order")
    check.equal((found.count, found.more), (10, False), "how many there are")
    found = await client.get_prefix(PREFIX, sort_order="ascend", sort_target="value")
    check.equal([kv.key for kv in found], KEYS[::-1], "in the order of values")
    found = await client.get_prefix(PREFIX, sort_order="descend", sort_target="mod")
    check.equal(found[0].key, KEYS[3], "the newest first")
    found = await client.get_prefix(PREFIX, keys_only=True)
    check.equal({kv.value for kv in found}, {b""}, "keys without values")
    found = await client.get_range(KEYS[2], KEYS[5])
    check.equal([kv.key for kv in found], KEYS[2:5], "a half-open range")
    check.equal((await client.get_all()).count, 10, "all keys")

    gone = await client.delete(KEYS[9], prev_kv=True)
    check.equal(gone.prev_kv.value, b"value-0", "what was deleted")
    check.equal(await client.delete(KEYS[9]), None, "nothing is deleted twice")
    check.equal((await client.delete_range(KEYS[7], KEYS[9])).deleted, 2, "a range is deleted")
    check.equal((await client.get_prefix(PREFIX)).count, 7, "what is left")
    return first


async def transactions(check, client):
    """Comparisons of every kind, and both branches."""
    t = client.transactions
    key = b"aetcd/txn"
    await client.put(key, b"1")
    held = await client.get(key)
    done, answers = await client.transaction(
        compare=[t.value(key) == b"1", t.version(key) > 0, t.create(key) < held.mod_revision + 1, t.mod(key) != 1],
        success=[t.put(key, b"2"), t.get(key)],
        failure=[t.delete(key)],
    )
    check.equal((done, answers[1][0][0]), (True, b"2"), "a transaction reads what it wrote")
    done, answers = await client.transaction(
        compare=[t.value(key) == b"1"], success=[t.delete(key)], failure=[t.get(key), t.put(b"aetcd/other", b"3")]
    )
    check.equal((done, answers[0][0][0]), (False, b"2"), "the other branch")
    check.equal((await client.get(b"aetcd/other")).value, b"3", "what that wrote")
    check.equal(await client.replace(key, b"2", b"3"), True, "replaced")
    check.equal(await client.replace(key, b"2", b"4"), False, "not replaced")
    twice = [t.put(key, b"1"), t.put(key, b"2")]
    await refused(check, aetcd.ClientError, "duplicate key given in txn request", client.transaction([], twice, []))


async def leases(check, client):
    """Leases, what hangs on them, and their end."""
    lease = await client.lease(60)
    await client.put(b"aetcd/leased", b"x", lease=lease)
    check.equal(list(await lease.keys()), [b"aetcd/leased"], "the lease's keys")
    check.equal(await lease.granted_ttl(), 60, "what was granted")
    check.true(0 < await lease.remaining_ttl() <= 60, "what is left")
    check.equal((await lease.refresh()).TTL, 60, "kept alive")
    check.equal((await client.get(b"aetcd/leased")).lease, lease.id, "the key's lease")
    await refused(check, aetcd.DuplicateLeaseError, "", client.lease(60, lease_id=lease.id))
    await lease.revoke()
    check.equal(await client.get(b"aetcd/leased"), None, "gone with its lease")
    await refused(check, aetcd.ClientError, "requested lease not found", lease.revoke())
    check.equal(await lease.remaining_ttl(), -1, "of a lease that is not there")
    await refused(check, aetcd.ClientError, "requested lease not found", client.put(b"aetcd/x", b"", lease=lease))
    short = await client.lease(1)
    watch = await client.watch(b"aetcd/short")
    await client.put(b"aetcd/short", b"", lease=short)
    kinds = []
    async for event in watch:
        kinds.append(event.kind)
        if event.kind == aetcd.EventKind.DELETE:
            break
    check.equal(kinds, [aetcd.EventKind.PUT, aetcd.EventKind.DELETE], "a lease that nobody kept alive")
    await watch.cancel()


async def locks(check, client, other):
    """One holds it, the other waits."""
    mine, theirs = client.lock(b"aetcd/lock", ttl=30), other.lock(b"aetcd/lock", ttl=30)
    check.equal(await mine.acquire(), True, "a lock that nobody has")
    check.equal(await theirs.acquire(timeout=0), False, "one that somebody has")
    waiting = asyncio.create_task(theirs.acquire(timeout=20))
    check.equal((await mine.is_acquired(), await theirs.is_acquired()), (True, False), "who has it")
    check.equal((await mine.refresh()).TTL, 30, "kept")
    check.equal(await mine.release(), True, "given up")
    check.equal(await waiting, True, "had by who waited")
    check.equal(await theirs.release(), True, "given up again")


async def take(watch, count):
    """The next events of a watch."""
    events = []
    async for event in watch:
        events.append((event.kind, event.kv.key, event.kv.value))
        if len(events) == count:
            return events


async def watches(check, client, other, first):
    """The present and the past, kinds, values before, several on one stream, and their end."""
    watch = await client.watch_prefix(b"aetcd/w", prev_kv=True)
    deletions = await client.watch_prefix(b"aetcd/w", kind=aetcd.EventKind.DELETE)
    for value in [b"1", b"2"]:
        await other.put(b"aetcd/w1", value)
    await other.put(b"aetcd/v", b"another")
    await other.delete(b"aetcd/w1")
    put, gone = "PUT", "DELETE"
    wanted = [(put, b"aetcd/w1", b"1"), (put, b"aetcd/w1", b"2"), (gone, b"aetcd/w1", b"")]
    check.equal(await take(watch, 3), wanted, "each change, once, in order")
    check.equal(await take(deletions, 1), wanted[2:], "deletions alone")
    await other.put(b"aetcd/w2", b"1")
    await other.put(b"aetcd/w2", b"2")
    before = []
    async for event in watch:
        before.append(event.prev_kv.value if event.prev_kv else b"")
        if len(before) == 2:
            break
    check.equal(before, [b"", b"1"], "values before")
    await watch.cancel()
    await other.put(b"aetcd/w3", b"")
    check.equal([event async for event in watch], [], "nothing after the end")
    await other.delete(b"aetcd/w3")
    check.equal(await take(deletions, 1), [(gone, b"aetcd/w3", b"")], "the stream's other watch goes on")
    await deletions.cancel()
    past = await client.watch_prefix(b"aetcd/0", start_revision=first)
    check.equal((await take(past, 10))[:2], [(put, KEYS[0], b"value-9"), (put, KEYS[1], b"value-8")], "the past")
    await past.cancel()


async def compaction(check, client, first):
    """What is compacted can neither be read nor watched."""
    now = (await client.put(b"aetcd/now", b"")).header.revision
    await client.compact(now, physical=True)
    await refused(check, aetcd.ClientError, "required revision has been compacted", client.compact(first))
    await refused(check, aetcd.ClientError, "a future revision", client.compact(now + 100))
    watch = await client.watch_prefix(PREFIX, start_revision=first)
    try:
        async for event in watch:
            raise AssertionError(f"told of {event} which is compacted")
    except aetcd.RevisionCompactedError as error:
        check.equal(error.compacted_revision, now, "how far it is compacted")
    check.equal((await client.get(KEYS[0])).value, b"value-9", "the present stays")


async def member(check, client):
    """Status, members, alarms, the snapshot, and defragmentation."""
    status = await client.status()
    check.true(tuple(int(part) for part in status.version.split(".")) >= (3, 5, 1), "a version as etcd's")
    members = [found async for found in client.members()]
    check.equal([(found.id, found.name) for found in members], [(status.leader.id, "m0")], "one member, who leads")
    check.equal([alarm async for alarm in client.list_alarms()], [], "no alarm")
    check.equal([alarm.alarm_type for alarm in await client.create_alarm(status.leader.id)], [rpc.NOSPACE], "an alarm")
    await refused(check, aetcd.ClientError, "database space exceeded", client.put(b"aetcd/full", b""))
    check.equal(len(await client.disarm_alarm(status.leader.id)), 1, "disarmed")
    check.equal([alarm async for alarm in client.list_alarms()], [], "no alarm any more")
    await client.defragment()
    check.true(await client.hash(), "a hash")
    file = io.BytesIO()
    await client.snapshot(file)
    bytes_ = file.getvalue()
    check.equal((len(bytes_) % 512, bytes_[16:20]), (32, b"\xed\xda\x0c\xed"), "a file of etcd with its digest")


async def users(check, client, connect):
    """A user with a role for a prefix, who is refused what is beyond; and wrong passwords."""
    stub = rpc.AuthStub(client.channel)
    await stub.UserAdd(rpc.AuthUserAddRequest(name="root", password="secret"))
    await stub.UserGrantRole(rpc.AuthUserGrantRoleRequest(user="root", role="root"))
    await stub.UserAdd(rpc.AuthUserAddRequest(name="ann", password="pw"))
    await stub.RoleAdd(rpc.AuthRoleAddRequest(name="reader"))
    permission = rpc.Permission(permType=rpc.Permission.READ, key=PREFIX, range_end=b"aetcd0")
    await stub.RoleGrantPermission(rpc.AuthRoleGrantPermissionRequest(name="reader", perm=permission))
    await stub.UserGrantRole(rpc.AuthUserGrantRoleRequest(user="ann", role="reader"))
    await stub.AuthEnable(rpc.AuthEnableRequest())
    await refused(check, aetcd.InvalidArgumentError, "user name is empty", client.get(KEYS[0]))
    wrong = connect(username="ann", password="wrong")
    await refused(check, aetcd.InvalidArgumentError, "authentication failed", wrong.connect())
    async with connect(username="ann", password="pw") as ann, connect(username="root", password="secret") as root:
        check.equal((await ann.get(KEYS[0])).value, b"value-9", "what she may read")
        await refused(check, aetcd.ClientError, "permission denied", ann.get(b"elsewhere"))
        await refused(check, aetcd.ClientError, "permission denied", ann.put(KEYS[0], b"x"))
        watch = await ann.watch(KEYS[0])
        await root.put(KEYS[0], b"by root")
        check.equal(await take(watch, 1), [("PUT", KEYS[0], b"by root")], "what she may watch")
        await watch.cancel()
        stub = rpc.AuthStub(root.channel)
        found = await stub.UserGet(rpc.AuthUserGetRequest(name="ann"), metadata=root.metadata)
        check.equal(list(found.roles), ["reader"], "her roles")
        await stub.AuthDisable(rpc.AuthDisableRequest(), metadata=root.metadata)
    check.equal((await client.get(KEYS[0])).value, b"by root", "open to all again")


async def main():
    """Everything above, on one member."""
    checks.in_time()
    where = checks.arguments()
    if where.ca:
        # aetcd has no options for TLS; what it opens its channel with is replaced.
        read = lambda path: open(path, "rb").read()
        shown = grpc.ssl_channel_credentials(read(where.ca), read(where.key), read(where.cert))
        rpc.insecure_channel = lambda target, options: grpc.aio.secure_channel(target, shown, options=list(options))
    connect = lambda **who: aetcd.Client(host=where.host, port=where.port, timeout=20, **who)
    check = checks.Checks()
    async with connect() as client, connect() as other:
        first = await keys(check, client)
        await transactions(check, client)
        await leases(check, client)
        await locks(check, client, other)
        await watches(check, client, other, first)
        await compaction(check, client, first)
        await member(check, client)
        await users(check, client, connect)
    check.done()


asyncio.run(main())
