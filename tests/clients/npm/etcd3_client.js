// etcd3 of npm: keys, transactions, leases, locks, elections, watches, software transactions, users and TLS.
//
// The checks are counted: a script that ends early has made fewer of them than the test that runs it wants.
'use strict';

const assert = require('node:assert/strict');
const fs = require('node:fs');
const { parseArgs } = require('node:util');
const { Etcd3, EtcdAuthenticationFailedError, EtcdLockFailedError, EtcdPermissionDeniedError } = require('etcd3');

// A script that hangs says so itself, in time for the test that waits for it.
const PATIENCE_MS = 60000;
const names = ['ca', 'cert', 'key'];
const options = Object.fromEntries(names.map((name) => [name, { type: 'string' }]));
const { values: tls, positionals } = parseArgs({ options, allowPositionals: true });
const scheme = tls.ca ? 'https' : 'http';
const credentials = tls.ca && {
  rootCertificate: fs.readFileSync(tls.ca),
  privateKey: fs.readFileSync(tls.key),
  certChain: fs.readFileSync(tls.cert),
};
const connect = (auth) => new Etcd3({ hosts: `${scheme}://${positionals.join(':')}`, credentials, auth });

let checks = 0;
const equal = (found, wanted, what) => {
  assert.deepEqual(found, wanted, `${what}: ${JSON.stringify(found)}, and not ${JSON.stringify(wanted)}`);
  checks += 1;
};
const refused = async (promise, kind, what) => {
  await assert.rejects(promise, kind, what);
  checks += 1;
};

// The next events of a watcher, in order: how many there are is known.
const take = (watcher, count) =>
  new Promise((resolve, reject) => {
    const told = [];
    const heard = (kind) => (kv, before) => {
      told.push([kind, kv.key.toString(), kv.value.toString(), before ? before.value.toString() : null]);
      if (told.length === count) resolve(told);
    };
    watcher.on('put', heard('put')).on('delete', heard('delete')).on('error', reject);
  });

async function keys(client) {
  equal(await client.get('none'), null, 'a key that is not there');
  for (let n = 0; n < 10; n += 1) await client.put(`k/${n}`).value(`value-${9 - n}`);
  equal(await client.get('k/3').string(), 'value-6', 'what was put');
  equal(await client.put('k/3').value(7).getPrevious().then((kv) => kv.value.toString()), 'value-6', 'what was before');
  equal(await client.get('k/3').number(), 7, 'a number');
  const answer = await client.get('k/3').exec();
  equal([answer.count, answer.kvs[0].version], ['1', '2'], 'how often it was put');
  equal(await client.get('k/3').revision(answer.kvs[0].create_revision).string(), 'value-6', 'the past');
  equal(await client.getAll().prefix('k/').keys(), [...Array(10).keys()].map((n) => `k/${n}`), 'keys in order');
  equal(await client.getAll().prefix('k/').sort('Value', 'Descend').limit(2).keys(), ['k/0', 'k/1'], 'by value');
  equal(await client.getAll().prefix('k/').count(), 10, 'how many');
  equal(await client.getAll().inRange({ start: 'k/2', end: 'k/4' }).strings(), { 'k/2': 'value-7', 'k/3': '7' }, 'a range');
  equal((await client.delete().key('k/9')).deleted, '1', 'deleted');
  equal((await client.delete().key('k/9')).deleted, '0', 'not deleted twice');
  equal((await client.delete().prefix('k/8').getPrevious()).map((kv) => kv.value.toString()), ['value-1'], 'a prefix');
  const done = await client
    .if('k/0', 'Value', '==', 'value-9').and('k/0', 'Version', '==', 1).and('none', 'Create', '==', 0)
    .then(client.put('k/0').value('new'), client.get('k/0')).else(client.get('k/1')).commit();
  equal([done.succeeded, done.responses[1].response_range.kvs[0].value.toString()], [true, 'new'], 'a transaction');
  const other = await client.if('k/0', 'Mod', '<', 1).then(client.delete().all()).else(client.get('k/1')).commit();
  equal([other.succeeded, other.responses[0].response_range.kvs[0].value.toString()], [false, 'value-8'], 'the other branch');
  const inside = client.namespace('space/');
  await inside.put('a').value('1');
  equal(await client.get('space/a').string(), '1', 'a key of a namespace');
}

async function leases(client) {
  const lease = client.lease(30);
  await lease.put('leased').value('x');
  const id = await lease.grant();
  const { keys: held, grantedTTL } = await client.leaseClient.leaseTimeToLive({ ID: id, keys: true });
  equal([held.map(String), grantedTTL], [['leased'], '30'], 'what the lease has');
  equal((await lease.keepaliveOnce()).TTL, '30', 'kept alive');
  const { leases: all } = await client.leaseClient.leaseLeases();
  equal(all.map(({ ID }) => ID), [id], 'all leases');
  await lease.revoke();
  equal(await client.get('leased').string(), null, 'gone with its lease');
  const lost = client.lease(30);
  const ended = new Promise((resolve) => lost.on('lost', resolve));
  await client.leaseClient.leaseRevoke({ ID: await lost.grant() });
  await lost.keepaliveOnce().catch(() => {});
  equal((await ended).constructor.name, 'EtcdLeaseInvalidError', 'a lease that somebody else ended');
}

async function locks(client, other) {
  const lock = await client.lock('lock').ttl(10).acquire();
  await refused(other.lock('lock').acquire(), EtcdLockFailedError, 'a lock that somebody has');
  await lock.release();
  equal(await other.lock('lock').do(() => 'held'), 'held', 'a lock that nobody has');
}

async function elections(client, other) {
  const observer = await client.election('chief', 10).observe();
  const seen = [];
  observer.on('change', (leader) => seen.push(leader));
  const first = client.election('chief', 10).campaign('first');
  await first.wait();
  const second = other.election('chief', 10).campaign('second');
  let led = false;
  const elected = second.wait().then(() => (led = true));
  await second.getCampaignKey();
  equal(await client.election('chief').leader(), 'first', 'who leads');
  await first.proclaim('still first');
  equal([await client.election('chief').leader(), led], ['still first', false], 'what the leader says');
  await first.resign();
  await elected;
  equal(await client.election('chief').leader(), 'second', 'who leads next');
  while (seen.at(-1) !== 'second') await new Promise((resolve) => observer.once('change', resolve));
  // An observer that was not there yet, or is asked late, may miss one; none comes again.
  const order = seen.filter((leader) => leader).map((leader) => ['first', 'still first', 'second'].indexOf(leader));
  equal(order.every((place, n) => place > (order[n - 1] ?? -1)), true, `what was observed: ${seen}`);
  await second.resign();
  await observer.cancel();
}

async function watches(client, other) {
  const watcher = await client.watch().prefix('w/').withPreviousKV().create();
  const deletions = await client.watch().prefix('w/').only('delete').create();
  const [told, gone] = [take(watcher, 4), take(deletions, 1)];
  await other.put('w/1').value('a');
  await other.put('w/1').value('b');
  await other.put('v').value('another');
  await other.delete().key('w/1');
  await other.put('w/2').value('c');
  const wanted = [['put', 'w/1', 'a', null], ['put', 'w/1', 'b', 'a'], ['delete', 'w/1', '', 'b'], ['put', 'w/2', 'c', null]];
  equal(await told, wanted, 'each change, once, in order');
  equal(await gone, [['delete', 'w/1', '', null]], 'deletions alone');
  await watcher.cancel();
  await deletions.cancel();
  const { kvs } = await client.get('w/2').exec();
  const past = await client.watch().key('w/2').startRevision(kvs[0].create_revision).watcher();
  equal(await take(past, 1), [['put', 'w/2', 'c', null]], 'the past');
  await past.cancel();
}

async function transactions(client, other) {
  await client.put('n').value(0);
  const add = (who) => who.stm({ retries: 50 }).transact(async (tx) => tx.put('n').value((await tx.get('n').number()) + 1));
  await Promise.all([...Array(20).keys()].map((n) => add(n % 2 ? client : other)));
  equal(await client.get('n').number(), 20, 'transactions of two clients at once');
}

async function users(client) {
  await client.role('root').create();
  await client.user('root').create('secret');
  await client.user('root').addRole('root');
  await client.role('reader').create();
  await client.role('reader').grant({ permission: 'Read', range: client.range({ prefix: 'k/' }) });
  await client.user('ann').create('pw');
  await client.user('ann').addRole('reader');
  await client.auth.authEnable();
  const wrong = connect({ username: 'ann', password: 'wrong' });
  await refused(wrong.get('k/0').exec(), EtcdAuthenticationFailedError, 'a wrong password');
  const ann = connect({ username: 'ann', password: 'pw' });
  const root = connect({ username: 'root', password: 'secret' });
  equal(await ann.get('k/0').string(), 'new', 'what she may read');
  await refused(ann.put('k/0').value('x').exec(), EtcdPermissionDeniedError, 'what she may not write');
  await refused(ann.get('v').exec(), EtcdPermissionDeniedError, 'what she may not read');
  equal((await root.user('ann').roles()).map(({ name }) => name), ['reader'], 'her roles');
  equal((await root.role('reader').permissions()).map(({ permission }) => permission), ['Read'], 'its permissions');
  await root.user('ann').setPassword('other');
  await refused(connect({ username: 'ann', password: 'pw' }).get('k/0').exec(), EtcdAuthenticationFailedError, 'the old one');
  await root.auth.authDisable();
  equal(await client.get('k/0').string(), 'new', 'open to all again');
  [wrong, ann, root].forEach((other) => other.close());
}

async function maintenance(client) {
  const status = await client.maintenance.status();
  equal(status.leader, status.header.member_id, 'one member leads');
  const { members } = await client.cluster.memberList({});
  equal(members.map(({ name, ID }) => [name, ID]), [['m0', status.leader]], 'one member');
  const { header } = await client.put('now').value('');
  await client.kv.compact({ revision: header.revision, physical: true });
  await refused(client.get('now').revision(1).exec(), /required revision has been compacted/, 'what is compacted');
  let bytes = 0;
  const stream = await client.maintenance.snapshot();
  await new Promise((resolve, reject) =>
    stream.on('data', ({ blob }) => (bytes += blob.length)).on('end', resolve).on('error', reject));
  equal(bytes % 512, 32, 'a file of etcd with its digest');
}

async function main() {
  const late = setTimeout(() => { throw new Error(`not done after ${checks} checks`); }, PATIENCE_MS);
  const [client, other] = [connect(), connect()];
  await keys(client);
  await leases(client);
  await locks(client, other);
  await elections(client, other);
  await watches(client, other);
  await transactions(client, other);
  await maintenance(client);
  await users(client);
  clearTimeout(late);
  console.log(JSON.stringify({ checks }));
  process.exit(0);
}

process.on('unhandledRejection', (error) => { throw error; });
main();
