//! Real etcd clusters on 127.0.0.1: one or three members, plain or with TLS, with or without auth, fresh or restored.

use serde_json::Value;
use std::fs;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tempfile::TempDir;

use super::certs::Certs;
use super::peers;
use super::ports::Port;
use super::run::{Outcome, Process, Run};

/// How long a cluster may take to answer, on a busy machine.
const READY_LIMIT: Duration = Duration::from_mins(1);
const TERMINATE_LIMIT: Duration = Duration::from_secs(30);
const TOKEN: &str = "holdfast-test";

/// What clients must bring to be let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tls {
    /// Plain HTTP.
    Off,
    /// The server shows a certificate.
    Server,
    /// So must the client.
    Mutual,
}

/// Picks a certificate and its key.
pub type Choose = fn(&Certs) -> (&PathBuf, &PathBuf);

/// A cluster to start.
#[derive(Clone, Debug)]
pub struct Options {
    peer: &'static str,
    members: usize,
    tls: Tls,
    user: Option<(String, String)>,
    args: Vec<String>,
    snapshot: Option<PathBuf>,
    restore_args: Vec<String>,
    server_cert: Option<Choose>,
}

impl Options {
    /// Whose binaries: `peers::ETCD_3_5` unless said.
    pub fn peer(mut self, peer: &'static str) -> Options {
        self.peer = peer;
        self
    }

    /// How many members; one unless said.
    pub fn members(mut self, members: usize) -> Options {
        self.members = members;
        self
    }

    /// TLS between clients and members; peers speak plain HTTP among themselves.
    pub fn tls(mut self, tls: Tls) -> Options {
        self.tls = tls;
        self
    }

    /// Serves with another certificate: `.server_cert(|c| (&c.expired_cert, &c.expired_key))`. Such a cluster is not
    /// asked whether it is healthy, because nobody can ask it.
    pub fn server_cert(mut self, choose: Choose) -> Options {
        self.server_cert = Some(choose);
        self
    }

    /// Enables auth with this user, who has role root. With `restored_from`: who to be in a cluster that has auth.
    pub fn auth(mut self, user: &str, password: &str) -> Options {
        self.user = Some((user.to_owned(), password.to_owned()));
        self
    }

    /// Adds flags of etcd to every member.
    pub fn args(mut self, args: &[&str]) -> Options {
        self.args.extend(args.iter().map(|arg| (*arg).to_owned()));
        self
    }

    /// Starts from a snapshot file, restored by etcd's own tool for each member.
    pub fn restored_from(mut self, snapshot: impl Into<PathBuf>) -> Options {
        self.snapshot = Some(snapshot.into());
        self
    }

    /// Adds flags to that tool, as `--skip-hash-check`.
    pub fn restore_args(mut self, args: &[&str]) -> Options {
        self.restore_args.extend(args.iter().map(|arg| (*arg).to_owned()));
        self
    }

    /// Starts it and waits until every member is healthy.
    pub fn start(self) -> Etcd {
        Etcd::start_with(self)
    }
}

/// A running cluster; gone, with its files, when dropped.
#[derive(Debug)]
pub struct Etcd {
    members: Vec<Member>,
    options: Options,
    token: String,
    certs: Option<Certs>,
    // Last: files go when the processes are gone.
    dir: TempDir,
}

#[derive(Debug)]
struct Member {
    name: String,
    process: Option<Process>,
    client: Port,
    peer: Port,
}

impl Etcd {
    /// One plain member of etcd 3.5.
    pub fn start() -> Etcd {
        Etcd::options().start()
    }

    /// A cluster to describe and start.
    pub fn options() -> Options {
        Options {
            peer: peers::ETCD_3_5,
            members: 1,
            tls: Tls::Off,
            user: None,
            args: vec![],
            snapshot: None,
            restore_args: vec![],
            server_cert: None,
        }
    }

    fn start_with(options: Options) -> Etcd {
        let dir = TempDir::with_prefix_in("etcd-", env!("CARGO_TARGET_TMPDIR")).unwrap();
        let certs = (options.tls != Tls::Off).then(|| Certs::make(dir.path()));
        let member = |i| Member { name: format!("m{i}"), process: None, client: Port::claim(), peer: Port::claim() };
        let members = (0..options.members).map(member).collect();
        let restored = if options.snapshot.is_some() { "-restored" } else { "" };
        let mut etcd = Etcd { members, options, token: format!("{TOKEN}{restored}"), certs, dir };
        if let Some(snapshot) = etcd.options.snapshot.clone() {
            (0..etcd.members.len()).for_each(|i| etcd.restore_member(i, &snapshot));
        }
        (0..etcd.members.len()).for_each(|i| etcd.launch(i));
        if etcd.options.server_cert.is_some() {
            (0..etcd.members.len()).for_each(|i| etcd.wait_for_port(i));
            return etcd;
        }
        if etcd.options.snapshot.is_none()
            && let Some((user, password)) = etcd.options.user.take()
        {
            etcd.wait_until_healthy();
            etcd.enable_auth(&user, &password);
            etcd.options.user = Some((user, password));
        }
        etcd.wait_until_healthy();
        etcd
    }

    // What a client needs.

    /// `http://127.0.0.1:...` of member `i`.
    pub fn endpoint(&self, i: usize) -> String {
        let scheme = if self.options.tls == Tls::Off { "http" } else { "https" };
        format!("{scheme}://{}", self.members[i].client.address())
    }

    /// All endpoints.
    pub fn endpoints(&self) -> Vec<String> {
        (0..self.members.len()).map(|i| self.endpoint(i)).collect()
    }

    /// `127.0.0.1:...` of member `i`, for a proxy before it.
    pub fn address(&self, i: usize) -> String {
        self.members[i].client.address()
    }

    /// The certificates, when TLS is on.
    pub fn certs(&self) -> Option<&Certs> {
        self.certs.as_ref()
    }

    /// What clients must bring.
    pub fn tls(&self) -> Tls {
        self.options.tls
    }

    /// User and password, when auth is on.
    pub fn user(&self) -> Option<(&str, &str)> {
        self.options.user.as_ref().map(|(user, password)| (user.as_str(), password.as_str()))
    }

    /// The cluster's `[cluster]` table of a policy file; the password is written to a file beside the data.
    pub fn policy_table(&self, name: &str) -> String {
        let mut table = format!("[cluster]\nname = {name:?}\nendpoints = {:?}\n", self.endpoints());
        if let Some(certs) = &self.certs {
            table += &format!("ca = {:?}\n", certs.ca);
            if self.options.tls == Tls::Mutual {
                table += &format!("cert = {:?}\nkey = {:?}\n", certs.client_cert, certs.client_key);
            }
        }
        if let Some((user, password)) = self.user() {
            let file = self.dir.path().join("password");
            fs::write(&file, password).unwrap();
            table += &format!("user = {user:?}\npassword_file = {file:?}\n");
        }
        table
    }

    // Members.

    /// The process of member `i`; panics when it is not running.
    pub fn process(&self, i: usize) -> &Process {
        self.members[i].process.as_ref().expect("the member is running")
    }

    /// The data directory of member `i`.
    pub fn data_dir(&self, i: usize) -> PathBuf {
        self.dir.path().join(&self.members[i].name)
    }

    /// Ends member `i` at once, as a power cut would.
    pub fn kill(&mut self, i: usize) {
        self.members[i].process = None;
    }

    /// Ends member `i` in good order.
    pub fn stop(&mut self, i: usize) {
        self.members[i].process.take().expect("the member is running").terminate(TERMINATE_LIMIT);
    }

    /// Starts member `i` again and waits until the cluster is healthy.
    pub fn restart(&mut self, i: usize) {
        self.launch(i);
        self.wait_until_healthy();
    }

    /// The token that its ids are made with, beside the peers' addresses.
    pub fn token(&self) -> &str {
        &self.token
    }

    /// Where the other members reach member `i`.
    pub fn peer_url(&self, i: usize) -> String {
        format!("http://{}", self.members[i].peer.address())
    }

    /// Ends every member, restores all of them from `snapshot` in their old places, and starts them. With the old token
    /// the cluster and its members keep their ids, as when an operator restores with the old flags.
    pub fn roll_back(&mut self, snapshot: &Path, token: &str) {
        token.clone_into(&mut self.token);
        for i in 0..self.members.len() {
            self.kill(i);
            fs::remove_dir_all(self.data_dir(i)).expect("the member had a data directory");
            self.restore_member(i, snapshot);
        }
        (0..self.members.len()).for_each(|i| self.launch(i));
        self.wait_until_healthy();
    }

    // What operators run.

    /// etcd's client, as the user of this cluster.
    pub fn etcdctl(&self, args: &[&str]) -> Outcome {
        self.etcdctl_run(args).run()
    }

    /// The same, to be given a standard input or a limit first.
    pub fn etcdctl_run(&self, args: &[&str]) -> Run {
        let endpoints = self.endpoints().join(",");
        let run = Run::new(peers::program(self.options.peer, "etcdctl")).env("ETCDCTL_API", "3");
        let mut flags = vec![format!("--endpoints={endpoints}"), "--command-timeout=60s".to_owned()];
        if let Some(certs) = &self.certs {
            flags.push(format!("--cacert={}", certs.ca.display()));
            if self.options.tls == Tls::Mutual {
                flags.push(format!("--cert={}", certs.client_cert.display()));
                flags.push(format!("--key={}", certs.client_key.display()));
            }
        }
        flags.extend(self.user().map(|(user, password)| format!("--user={user}:{password}")));
        run.args(&flags).args(args)
    }

    /// etcd's client with JSON output; panics when it fails.
    pub fn etcdctl_json(&self, args: &[&str]) -> Value {
        self.etcdctl_run(args).args(&["-w", "json"]).run().success().json()
    }

    /// What each member answers to HashKV: hash, revision, and the compact revision as replied.
    pub fn hash_kv(&self) -> Vec<HashKv> {
        let answers = self.etcdctl_json(&["endpoint", "hashkv"]);
        let number = |value: &Value| value.as_i64().expect("a number");
        let hash = |answer: &Value| {
            let reply = &answer["HashKV"];
            let hash = u32::try_from(number(&reply["hash"])).expect("32 bits");
            HashKv { hash, revision: number(&reply["header"]["revision"]), compact: number(&reply["compact_revision"]) }
        };
        answers.as_array().expect("one answer for each endpoint").iter().map(hash).collect()
    }

    /// The current revision, as the first running member says.
    pub fn revision(&self) -> i64 {
        let answers = self.etcdctl_json(&["endpoint", "status"]);
        answers[0]["Status"]["header"]["revision"].as_i64().expect("a revision")
    }

    /// Everything a client can see, without what may differ between equal clusters (ids, terms).
    pub fn state(&self) -> State {
        let names = |answer: &Value, field: &str| -> Vec<String> {
            let names = answer[field].as_array().cloned().unwrap_or_default();
            names.iter().map(|name| name.as_str().expect("a name").to_owned()).collect()
        };
        let headless = |mut answer: Value| {
            answer.as_object_mut().expect("an object").remove("header");
            answer
        };
        let kvs = headless(self.etcdctl_json(&["get", "", "--prefix"]));
        let users = names(&self.etcdctl_json(&["user", "list"]), "users");
        let roles = names(&self.etcdctl_json(&["role", "list"]), "roles");
        let user = |name: &String| (name.clone(), headless(self.etcdctl_json(&["user", "get", name])));
        let role = |name: &String| (name.clone(), headless(self.etcdctl_json(&["role", "get", name])));
        State {
            kvs,
            leases: self.leases(),
            users: users.iter().map(user).collect(),
            roles: roles.iter().map(role).collect(),
        }
    }

    /// Leases by id: granted seconds and attached keys (base64). What is left of their time is not part of it.
    fn leases(&self) -> Vec<(i64, i64, Vec<String>)> {
        let listed = self.etcdctl_json(&["lease", "list"])["leases"].as_array().cloned().unwrap_or_default();
        let lease = |listed: Value| {
            let id = listed["id"].as_i64().or_else(|| listed["ID"].as_i64()).expect("a lease id");
            let answer = self.etcdctl_json(&["lease", "timetolive", &format!("{id:x}"), "--keys"]);
            let keys = answer["keys"].as_array().cloned().unwrap_or_default();
            let mut keys: Vec<_> = keys.iter().map(|key| key.as_str().expect("base64").to_owned()).collect();
            keys.sort();
            (id, answer["granted-ttl"].as_i64().expect("seconds"), keys)
        };
        let mut leases: Vec<_> = listed.into_iter().map(lease).collect();
        leases.sort();
        leases
    }

    // How it is started.

    /// All members with their peers' addresses, as etcd's flag takes them.
    pub fn initial_cluster(&self) -> String {
        let pair = |i: usize| format!("{}={}", self.members[i].name, self.peer_url(i));
        (0..self.members.len()).map(pair).collect::<Vec<_>>().join(",")
    }

    fn restore_member(&self, i: usize, snapshot: &Path) {
        // etcdctl restored until 3.4; since 3.5 it is etcdutl that does it.
        let tool = if self.options.peer == peers::ETCD_3_4 { "etcdctl" } else { "etcdutl" };
        let member = &self.members[i];
        let flags = [
            format!("--name={}", member.name),
            format!("--initial-cluster={}", self.initial_cluster()),
            format!("--initial-cluster-token={}", self.token),
            format!("--initial-advertise-peer-urls={}", self.peer_url(i)),
            format!("--data-dir={}", self.data_dir(i).display()),
        ];
        let run = Run::new(peers::program(self.options.peer, tool)).env("ETCDCTL_API", "3");
        run.args(&["snapshot", "restore"])
            .args(&[snapshot])
            .args(&flags)
            .args(&self.options.restore_args)
            .run()
            .success();
    }

    fn launch(&mut self, i: usize) {
        let (member, client) = (&self.members[i], self.endpoint(i));
        let peer = self.peer_url(i);
        let mut flags = vec![
            format!("--name={}", member.name),
            format!("--data-dir={}", self.data_dir(i).display()),
            format!("--listen-client-urls={client}"),
            format!("--advertise-client-urls={client}"),
            format!("--listen-peer-urls={peer}"),
            format!("--initial-advertise-peer-urls={peer}"),
            format!("--initial-cluster={}", self.initial_cluster()),
            format!("--initial-cluster-token={}", self.token),
        ];
        if let Some(certs) = &self.certs {
            let choose = self.options.server_cert.unwrap_or(|certs| (&certs.server_cert, &certs.server_key));
            let (cert, key) = choose(certs);
            flags.extend([format!("--cert-file={}", cert.display()), format!("--key-file={}", key.display())]);
            if self.options.tls == Tls::Mutual {
                flags.extend([format!("--trusted-ca-file={}", certs.ca.display()), "--client-cert-auth".to_owned()]);
            }
        }
        let log = self.dir.path().join(format!("{}.log", member.name));
        let run = Run::new(peers::program(self.options.peer, "etcd")).args(&flags).args(&self.options.args);
        self.members[i].process = Some(run.start(log));
    }

    fn wait_for_port(&mut self, i: usize) {
        let address = self.address(i).parse().expect("an address");
        let deadline = Instant::now() + READY_LIMIT;
        while TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_err() {
            self.panic_if_dead(i);
            assert!(Instant::now() < deadline, "member {i} does not listen on {address} after {READY_LIMIT:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn wait_until_healthy(&mut self) {
        let running: Vec<_> = (0..self.members.len()).filter(|i| self.members[*i].process.is_some()).collect();
        running.iter().for_each(|i| self.wait_for_port(*i));
        let endpoints: Vec<_> = running.iter().map(|i| self.endpoint(*i)).collect();
        let flag = format!("--endpoints={}", endpoints.join(","));
        let deadline = Instant::now() + READY_LIMIT;
        loop {
            let outcome = self.etcdctl(&[&flag, "endpoint", "health"]);
            if outcome.code() == 0 {
                return;
            }
            running.iter().for_each(|i| self.panic_if_dead(*i));
            assert!(Instant::now() < deadline, "not healthy after {READY_LIMIT:?}: {outcome}");
        }
    }

    fn panic_if_dead(&mut self, i: usize) {
        let process = self.members[i].process.as_mut().expect("the member was started");
        if let Some(status) = process.ended() {
            panic!("member {i} ended ({status}); it said:\n{}", process.said());
        }
    }

    fn enable_auth(&self, user: &str, password: &str) {
        let user_password = format!("{user}:{password}");
        // etcd enables auth only when a user named root has role root.
        if user != "root" {
            self.etcdctl(&["user", "add", &format!("root:{password}")]).success();
            self.etcdctl(&["role", "add", "root"]).success();
            self.etcdctl(&["user", "grant-role", "root", "root"]).success();
        }
        self.etcdctl(&["user", "add", &user_password]).success();
        if user == "root" {
            self.etcdctl(&["role", "add", "root"]).success();
        }
        self.etcdctl(&["user", "grant-role", user, "root"]).success();
        self.etcdctl(&["auth", "enable"]).success();
    }
}

/// What a member answers to HashKV.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HashKv {
    pub hash: u32,
    pub revision: i64,
    pub compact: i64,
}

/// Everything a client can see of a cluster; equal clusters have equal states.
#[derive(Clone, Debug, PartialEq)]
pub struct State {
    pub kvs: Value,
    pub leases: Vec<(i64, i64, Vec<String>)>,
    pub users: Vec<(String, Value)>,
    pub roles: Vec<(String, Value)>,
}
