//! Every user-facing error, provoked through the command line and held against a golden file: exit code, message, hint.
//!
//! After each one the whole place is as it was, and no secret stands in what was said. An error without a hint fails.
//! `HOLDFAST_TEST_GOLDEN=write` writes the golden file anew, to be read before it is committed.

use holdfast::base::digest::Sha256;
use holdfast::vault::layout::{Attempt, Location};
use holdfast::vault::manifest::Manifest;
use holdfast::vault::sealed;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use crate::dev;
use crate::files::fixture;
use crate::place::{OBJECT_VARIABLE, Place};
use crate::signing;
use crate::support::etcd::{Etcd, Tls};
use crate::support::member::Member;
use crate::support::ports::Port;
use crate::support::run::{Outcome, Run};

/// What no output may hold: passwords, and the value of a key.
const SECRETS: &[&str] = &["hunter2-right", "hunter2-wrong", "value-nobody-may-see", "MC4CAQAwBQYDK2Vw"];
const LINE: &str = "----------------------------------------------------------------\n";

/// What was provoked so far, as the golden file has it.
pub(crate) struct Book {
    pub(crate) place: Place,
    text: String,
    /// What differs from run to run, and what stands for it.
    names: Vec<(String, String)>,
    cases: usize,
    faults: Vec<String>,
}

impl Book {
    fn new() -> Book {
        let place = Place::new();
        let names = vec![(place.root().to_str().unwrap().to_owned(), "<DIR>".to_owned())];
        Book { place, text: String::new(), names, cases: 0, faults: vec![] }
    }

    pub(crate) fn heading(&mut self, text: &str) {
        let _ = write!(self.text, "{LINE}{text}\n{LINE}\n");
    }

    pub(crate) fn name(&mut self, text: impl Into<String>, name: &str) {
        self.names.push((text.into(), name.to_owned()));
        // Longest first: a port's digits may occur in an id.
        self.names.sort_by_key(|(text, _)| std::cmp::Reverse(text.len()));
    }

    /// Runs the binary, which must fail with `code`, say what to do next, leave everything as it was and keep secrets.
    pub(crate) fn case(&mut self, code: i32, args: &[&str]) {
        let run = self.place.run(args);
        self.judge(code, args, run);
    }

    /// The same with something on standard input.
    fn fed(&mut self, code: i32, args: &[&str], stdin: &[u8]) {
        let run = self.place.run(args).stdin(stdin);
        self.judge(code, args, run);
    }

    fn judge(&mut self, code: i32, args: &[&str], run: Run) {
        let before = self.place.tree("");
        let outcome = run.run();
        let after = self.place.tree("");
        let said = outcome.stdout() + &outcome.stderr;
        let faults = [
            (outcome.code() != code, "another exit code than wanted"),
            (after != before, "something was left behind"),
            (!hint(&outcome), "no hint"),
            (SECRETS.iter().any(|secret| said.contains(secret)), "a secret"),
            (!outcome.stdout_bytes.is_empty(), "a result beside an error"),
        ];
        for (_, fault) in faults.iter().filter(|(found, _)| *found) {
            self.faults.push(format!("{fault} ({code}): {outcome}"));
        }
        if after != before {
            // Not in the way of the cases that follow.
            drop(fs::remove_dir_all(self.place.path("out")));
            fs::create_dir(self.place.path("out")).unwrap();
        }
        let (command, said) = (self.plain(&args.join(" ")), self.plain(&outcome.stderr));
        let _ = write!(self.text, "$ holdfast {command}\nexit {}\n{said}\n", outcome.code());
        self.cases += 1;
    }

    /// `text` without what differs from run to run.
    fn plain(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for (from, to) in &self.names {
            text = text.replace(from.as_str(), to);
        }
        // Which of the two it is depends on who hangs up first.
        let text = text.replace("the connection was reset", "the connection was closed");
        // Times of certificates: seconds since 1970, and since then.
        let mut masked = String::new();
        let mut digits = String::new();
        for c in text.chars().chain(['\n']) {
            if c.is_ascii_digit() {
                digits.push(c);
                continue;
            }
            masked.push_str(if (9..=10).contains(&digits.len()) { "<SECONDS>" } else { &digits });
            digits.clear();
            masked.push(c);
        }
        masked.pop();
        masked
    }

    fn compare(&self) {
        let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/e2e/golden/errors.txt");
        if std::env::var_os("HOLDFAST_TEST_GOLDEN").is_some() {
            fs::write(&path, &self.text).unwrap();
        }
        let expected = fs::read_to_string(&path).unwrap_or_default();
        let wrong = self.text.lines().zip(expected.lines()).position(|(ours, theirs)| ours != theirs);
        let at = wrong.unwrap_or_else(|| self.text.lines().count().min(expected.lines().count()));
        let near = |text: &str| text.lines().skip(at.saturating_sub(4)).take(9).collect::<Vec<_>>().join("\n");
        assert!(
            self.text == expected,
            "line {} differs from {}\n--- now\n{}\n--- golden\n{}",
            at + 1,
            path.display(),
            near(&self.text),
            near(&expected)
        );
    }
}

/// Whether the reader is told what to do next; wrong flags are answered by the usage instead.
fn hint(outcome: &Outcome) -> bool {
    outcome.stderr.contains("\nhint: ") || outcome.stderr.contains("\nFor more information, try '--help'.\n")
}

#[test]
fn every_error_says_what_to_do_next_and_leaves_everything_as_it_was() {
    let mut book = Book::new();
    usage(&mut book);
    policies(&mut book);
    endpoints(&mut book);
    identities(&mut book);
    repositories(&mut book);
    points(&mut book);
    restores(&mut book);
    signers(&mut book);
    files(&mut book);
    members(&mut book);
    dev::errors(&mut book);
    book.compare();
    assert!(book.faults.is_empty(), "{} faults\n{}", book.faults.len(), book.faults.join("\n"));
    assert!(book.cases >= 100, "{}", book.cases);
}

fn usage(book: &mut Book) {
    book.heading("Flags");
    book.case(2, &["frobnicate"]);
    book.case(2, &["list", "--polic", "p.toml"]);
    book.case(2, &["backup"]);
    book.case(2, &["backup", "--policy", "p.toml", "--kind", "differential"]);
    book.case(2, &["backup", "--policy", "p.toml", "--stall", "soon"]);
    book.case(2, &["verify", "--level", "4"]);
    book.case(2, &["list"]);
    book.case(2, &["list", "--repository", "file:///backups"]);
    book.case(2, &["list", "--policy", "p.toml", "--cluster", "prod"]);
    book.case(2, &["restore", "--point", "latest", "--file", "x.db", "--etcd-snapshot", "out/r.db"]);
    book.case(2, &["keys", "ls", "--revision", "0", "--file", "x.db"]);
    book.case(2, &["completions", "tcsh"]);
    // What only tests set: outside of what readers take, it would make points that nobody can read.
    for bytes in ["1048575", "33554433", "0", "-1", "many"] {
        let run = book.place.run(&["backup", "--policy", "p.toml"]).env(OBJECT_VARIABLE, bytes);
        book.judge(2, &["backup", "--policy", "p.toml"], run);
    }
}

/// Starts of a member that cannot be: each is told in one sentence, and nothing has changed.
fn members(book: &mut Book) {
    book.heading("A member's start");
    let free = Port::claim();
    let url = format!("http://{}", free.address());
    book.name(free.number().to_string(), "<FREE>");
    let place = book.place.root().to_path_buf();
    let (listen, advertise) = (format!("--listen-client-urls={url}"), format!("--advertise-client-urls={url}"));
    let start = |book: &mut Book, code: i32, dir: &str, more: &[&str]| {
        let dir = format!("--data-dir={dir}");
        book.case(code, &[&["serve", &dir, &listen, &advertise, "--log-level=error"], more].concat());
    };
    for wrong in [
        &["--nam=m1"][..],
        &["stray"],
        &["--heartbeat-interval=fast"],
        &["--election-timeout=10"],
        &["--force-new-cluster"],
        &["--initial-cluster=m1=http://127.0.0.1:1"],
        &["--name=m1", "--initial-cluster=m1=http://127.0.0.1:1,m2=http://127.0.0.2:1"],
        &["--initial-cluster-state=existing"],
        &["--cert-file=missing.crt", "--key-file=missing.key", "--listen-metrics-urls=https://127.0.0.1:1"],
        &["--cert-file=out", "--key-file=out", "--listen-metrics-urls=https://127.0.0.1:1"],
        &["--client-cert-auth"],
        &["--cipher-suites=TLS_FOO"],
        &["--logger=zap2"],
        &["--snapshot-count=-1"],
        &["--max-learners=0"],
        &["--cors=%"],
        &["--enable-log-rotation"],
        &["--listen-metrics-urls=http://192.0.2.1:1"],
        &["--log-outputs=scratch"],
    ] {
        start(book, 2, "out/new", wrong);
    }
    let args = ["serve", "--name=m1"];
    let run = book.place.run(&args).env("ETCD_NAME", "m2");
    book.judge(2, &args, run);
    book.case(2, &["serve", "--config-file=missing.yaml"]);
    book.place.write("etcd.yaml", "name: [m1\n");
    book.case(2, &["serve", "--config-file=etcd.yaml"]);
    // A port that somebody has, and a directory that somebody has.
    let running = Member::start(&[]);
    book.name(running.endpoint().rsplit_once(':').unwrap().1.to_owned(), "<TAKEN>");
    book.name(running.data_dir().to_str().unwrap(), "<RUNNING>");
    let taken = format!("--listen-client-urls={}", running.endpoint());
    book.case(1, &["serve", "--data-dir=out/new", &taken, &advertise]);
    start(book, 1, running.data_dir().to_str().unwrap(), &[]);
    drop(running);
    // What is no directory, and what is etcd's.
    book.place.write("file", "");
    start(book, 2, "file", &[]);
    start(book, 1, "file/below", &[]);
    start(book, 2, "out/new", &["--wal-dir=file"]);
    let db = book.place.write("member.db", fixture("k8s-etcd-3.6.db"));
    for (code, more) in [
        (1, &["--data-dir=file"][..]),
        (1, &["--data-dir=file/below"]),
        (1, &["--data-dir=out/new", "--wal-dir=file"]),
        (2, &["--data-dir=out/new", "--name="]),
        (2, &["--data-dir=out/new", "--initial-cluster=m1"]),
        (2, &["--data-dir=out/new", "--initial-advertise-peer-urls=127.0.0.1:2380"]),
        (2, &["--data-dir=out/new", "--initial-advertise-peer-urls=ftp://127.0.0.1:2380"]),
    ] {
        book.case(code, &[&["restore", "--file", &db, "--yes"], more].concat());
        book.case(code, &[&["snapshot", "restore", &db], more].concat());
    }
    fs::create_dir_all(place.join("etcd/member/snap")).unwrap();
    fs::write(place.join("etcd/member/snap/db"), fixture("etcd-3.5-auth.db")).unwrap();
    start(book, 1, "etcd", &[]);
    // What was a member's and is not whole.
    let mut member = Member::start(&[]);
    assert_eq!(member.stop(), 0);
    let (data, broken) = (member.data_dir(), place.join("broken"));
    let identity = fs::read_to_string(data.join("member/identity.json")).unwrap();
    let newer =
        identity.replacen("\"min_reader\": 1", "\"min_reader\": 2", 1).replacen("\"format\": 1", "\"format\": 2", 1);
    let digits = newer.find("\": \"").unwrap() + 4..;
    let digits = digits.start..digits.start + 64;
    let mut blank = newer.clone();
    blank.replace_range(digits.clone(), &"0".repeat(64));
    let newer = newer.replacen(&newer[digits], &Sha256::of(blank.as_bytes()).to_string(), 1);
    let mut other = Member::start(&["--initial-cluster-token=other"]);
    assert_eq!(other.stop(), 0);
    let foreign = other.data_dir();
    let segment = fs::read_dir(data.join("member/wal")).unwrap().map(|entry| entry.unwrap().file_name()).min().unwrap();
    let deeds: [&dyn Fn(&Path); 9] = [
        &|dir| fs::remove_file(dir.join("member/identity.json")).unwrap(),
        &|dir| fs::write(dir.join("member/identity.json"), identity.replace("default", "another")).unwrap(),
        &|dir| fs::write(dir.join("member/identity.json"), &newer).unwrap(),
        &|dir| fs::remove_file(dir.join("member/snap/db")).unwrap(),
        &|dir| fs::remove_dir_all(dir.join("member/wal")).unwrap(),
        &|dir| fs::write(dir.join("member/snap/db"), vec![7; 100_000]).unwrap(),
        &|dir| fs::write(dir.join("member/wal").join(&segment), vec![7; 100_000]).unwrap(),
        &|dir| {
            fs::remove_dir_all(dir.join("member/wal")).unwrap();
            copy_folder(&foreign.join("member/wal"), &dir.join("member/wal"));
        },
        &|dir| {
            fs::copy(foreign.join("member/identity.json"), dir.join("member/identity.json")).unwrap();
        },
    ];
    for (deed, code) in deeds.into_iter().zip([3, 3, 2, 3, 3, 3, 3, 2, 2]) {
        copy_folder(&data, &broken);
        deed(&broken);
        start(book, code, "broken", &[]);
        fs::remove_dir_all(&broken).unwrap();
    }
    fs::create_dir(place.join("log")).unwrap();
    fs::write(place.join("log/precious"), "x").unwrap();
    start(book, 1, "out/new", &["--wal-dir=log"]);
}

fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_folder(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

fn policies(book: &mut Book) {
    const RIGHT: &str = "[cluster]\nname = \"prod\"\nendpoints = [\"http://127.0.0.1:1\"]\n\n\
        [repository]\nurl = \"file:///nowhere/at/all\"\nencryption = \"none\"\n";
    book.heading("Policies");
    book.case(2, &["policy", "check", "missing.toml"]);
    book.case(2, &["policy", "check", "scratch"]);
    book.case(2, &["backup", "--policy", "missing.toml"]);
    book.case(2, &["list", "--policy", "missing.toml"]);
    let changes: &[(&str, &str)] = &[
        ("[cluster]", "[clutser]"),
        ("name =", "nmae ="),
        ("name = \"prod\"", "name = 7"),
        ("name = \"prod\"", "name = \"../prod\""),
        ("name = \"prod\"\n", ""),
        ("endpoints = [\"http://127.0.0.1:1\"]\n", ""),
        ("[\"http://127.0.0.1:1\"]", "[]"),
        ("[\"http://127.0.0.1:1\"]", "\"http://127.0.0.1:1\""),
        ("http://127.0.0.1:1", "127.0.0.1:1"),
        ("http://127.0.0.1:1", "http://backup:hunter2-right@127.0.0.1:1"),
        ("\n[repository]", "user = \"backup\"\n[repository]"),
        ("\n[repository]", "password = \"hunter2-right\"\n[repository]"),
        ("\n[repository]", "user = \"backup\"\npassword_file = \"nothing\"\n[repository]"),
        ("\n[repository]", "ca = \"ca.crt\"\n[repository]"),
        ("\n[repository]", "hash_on_leader = \"maybe\"\n[repository]"),
        ("[repository]", "[compression]\nlevel = 3\n[repository]"),
        ("[repository]", "[retention]\ndaily = -7\n[repository]"),
        ("[repository]", "[retention]\ndayly = 7\n[repository]"),
        ("[repository]", "[schedule]\nfull = \"0 24 * * *\"\n[repository]"),
        ("[repository]", "[schedule]\ntimezone = \"Europe/Berln\"\n[repository]"),
        ("[repository]", "[objectives]\nrpo = \"soon\"\n[repository]"),
        ("[repository]", "[hooks]\nwebhook = \"hunter2-right\"\n[repository]"),
        ("encryption = \"none\"\n", ""),
        ("\"none\"", "\"rot13\""),
        ("file:///nowhere/at/all", "backups"),
        ("file:///nowhere/at/all", "/backups"),
        ("file:///nowhere/at/all", "file://backups/etcd"),
        ("file:///nowhere/at/all", "s3://My_Bucket/etcd"),
        ("encryption = \"none\"\n", "encryption = \"none\"\nregion = \"eu-central-1\"\n"),
        ("url = \"file:///nowhere/at/all\"", "url = "),
        (RIGHT, "\u{feff}\u{0}"),
    ];
    for (from, to) in changes {
        assert!(RIGHT.contains(from), "{from}");
        book.place.write("policy.toml", RIGHT.replacen(from, to, 1));
        let _ = writeln!(book.text, "# {from:?} -> {to:?}");
        book.case(2, &["policy", "check", "policy.toml"]);
    }
    book.place.write("policy.toml", [0xff, 0xfe, 0x00]);
    book.case(2, &["policy", "check", "policy.toml"]);
    book.place.write("password", "");
    book.place.write(
        "policy.toml",
        RIGHT.replacen("\n[repository]", "user = \"backup\"\npassword_file = \"password\"\n[repository]", 1),
    );
    book.case(2, &["policy", "check", "policy.toml"]);
    fs::remove_file(book.place.path("policy.toml")).unwrap();
}

fn save(endpoint: &str) -> Vec<&str> {
    vec!["snapshot", "save", "out/s.db", "--endpoints", endpoint]
}

fn endpoints(book: &mut Book) {
    book.heading("Endpoints");
    let nobody = Port::claim();
    book.name(format!(":{}", nobody.number()), ":<CLOSED>");
    let address = nobody.address();
    let policy = book.place.policy_at(&address);
    book.case(1, &["backup", "--policy", &policy]);
    book.case(1, &save(&address));
    book.case(1, &save("http://host.invalid:2379"));
    book.case(2, &save("ftp://127.0.0.1:1"));
    book.case(2, &save("http://127.0.0.1:1/v3"));
    book.case(2, &save("http://root:hunter2-right@127.0.0.1:1"));
    book.case(2, &save("https://127.0.0.1:1,http://127.0.0.1:2"));
    book.case(2, &["snapshot", "save", "out/s.db", "--endpoints", &address, "--stall", "0s"]);
    book.case(1, &["bench", "put", "--endpoints", &address]);
    book.case(2, &["bench", "put", "--endpoints", &address, "--clients", "2", "--connections", "3"]);
    book.case(2, &["bench", "put", "--endpoints", &address, "--key-size", "10"]);
    book.case(2, &["bench", "put", "--endpoints", &address, "--duration", "0s"]);
    // A server that speaks something else.
    let web = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let other = web.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        use std::io::{Read, Write};
        for mut stream in web.incoming().flatten() {
            // Answers when the whole question has come, as such servers do.
            stream.set_read_timeout(Some(std::time::Duration::from_millis(300))).unwrap();
            while stream.read(&mut [0; 256]).is_ok_and(|n| n > 0) {}
            drop(stream.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"));
            // Closed before everything was read, the answer could be lost to a reset.
            stream.set_read_timeout(None).unwrap();
            drop(stream.read_to_end(&mut vec![]));
        }
    });
    book.name(other.rsplit_once(':').unwrap().1.to_owned(), "<WEB>");
    book.case(2, &save(&other));
}

fn identities(book: &mut Book) {
    book.heading("Certificates, users, passwords");
    let etcd = Etcd::options().tls(Tls::Mutual).auth("root", "hunter2-right").start();
    etcd.etcdctl(&["put", "secret", "value-nobody-may-see"]).success();
    etcd.etcdctl(&["user", "add", "nobody:hunter2-right"]).success();
    let (endpoint, address) = (etcd.endpoint(0), etcd.address(0));
    let certs = etcd.certs().unwrap();
    let folder = certs.ca.parent().unwrap().to_str().unwrap().to_owned();
    book.name(address.rsplit_once(':').unwrap().1.to_owned(), "<ETCD>");
    book.name(folder, "<CERTS>");
    let text = |path: &PathBuf| path.to_str().unwrap().to_owned();
    let (ca, cert, key) = (text(&certs.ca), text(&certs.client_cert), text(&certs.client_key));
    let right = book.place.write("right", "hunter2-right\n");
    let wrong = book.place.write("wrong", "hunter2-wrong\n");
    let to = |endpoint: &str, more: &[&str]| -> Vec<String> {
        save(endpoint).iter().chain(more).map(|word| (*word).to_owned()).collect()
    };
    let plain = format!("http://{address}");
    let tls = ["--cacert", &ca, "--cert", &cert, "--key", &key];
    let with = |more: &[&str]| to(&endpoint, &[&tls[..], more].concat());
    let junk = book.place.write("junk.pem", "-----BEGIN CERTIFICATE-----\nnothing\n-----END CERTIFICATE-----\n");
    let junk_key = book.place.write("junk.key", "-----BEGIN PRIVATE KEY-----\nnothing\n-----END PRIVATE KEY-----\n");
    let cases: Vec<(i32, Vec<String>)> = vec![
        (1, to(&plain, &[])),
        (2, to(&plain, &["--cacert", &ca])),
        (1, to(&endpoint, &[])),
        (1, to(&endpoint, &["--cacert", &text(&certs.other_ca), "--cert", &cert, "--key", &key])),
        (1, to(&endpoint, &["--cacert", &ca])),
        (1, to(&endpoint, &["--cacert", &ca, "--cert", &text(&certs.other_cert), "--key", &text(&certs.other_key)])),
        (
            1,
            to(&endpoint, &["--cacert", &ca, "--cert", &text(&certs.expired_cert), "--key", &text(&certs.expired_key)]),
        ),
        (2, to(&endpoint, &["--cacert", "missing.crt"])),
        (2, to(&endpoint, &["--cacert", &junk])),
        (2, to(&endpoint, &["--cacert", &ca, "--cert", &junk, "--key", &key])),
        (2, to(&endpoint, &["--cacert", &ca, "--cert", &cert, "--key", &junk_key])),
        (2, to(&endpoint, &["--cacert", &key])),
        (2, to(&endpoint, &["--cacert", &ca, "--cert", &cert])),
        (2, to(&endpoint, &["--cacert", &ca, "--cert", &cert, "--key", "missing.key"])),
        (2, to(&endpoint, &["--cacert", &ca, "--cert", &cert, "--key", &text(&certs.other_key)])),
        (1, with(&[])),
        (1, with(&["--user", "root", "--password-file", &wrong])),
        (1, with(&["--user", "nobody", "--password-file", &right])),
        (2, with(&["--user", "root"])),
        (2, with(&["--user", "root:hunter2-right", "--password-file", &right])),
        (2, with(&["--user", "root", "--password-file", "missing"])),
        (2, with(&["--user", "root", "--password", "hunter2-right"])),
    ];
    for (code, args) in cases {
        book.case(code, &args.iter().map(String::as_str).collect::<Vec<_>>());
    }
    let expired = Etcd::options().tls(Tls::Server).server_cert(|c| (&c.expired_cert, &c.expired_key)).start();
    let elsewhere = Etcd::options().tls(Tls::Server).server_cert(|c| (&c.elsewhere_cert, &c.elsewhere_key)).start();
    for (name, etcd) in [("<EXPIRED>", expired), ("<ELSEWHERE>", elsewhere)] {
        let ca = &etcd.certs().unwrap().ca;
        book.name(etcd.address(0).rsplit_once(':').unwrap().1.to_owned(), name);
        book.name(text(ca).replace("/ca.crt", ""), "<CERTS>");
        book.case(1, &["snapshot", "save", "out/s.db", "--endpoints", &etcd.endpoint(0), "--cacert", &text(ca)]);
    }
}

fn repositories(book: &mut Book) {
    book.heading("Repositories");
    fs::create_dir(book.place.path("strange")).unwrap();
    book.place.write("strange/letter.txt", "dear reader");
    fs::create_dir(book.place.path("empty")).unwrap();
    book.place.write("file", "not a folder");
    let url = |name: &str| format!("file://{}", book.place.text(name));
    let urls = [url("missing"), url("strange"), url("file"), url("empty")];
    for (code, url) in [4, 2, 2, 4].into_iter().zip(&urls) {
        book.case(code, &["list", "--repository", url, "--cluster", "prod"]);
    }
    for url in [
        "s3://My_Bucket/etcd",
        "gs://bucket/a/../b",
        "s3://key:secret@bucket/x",
        "relative/path",
        "/absolute/path",
        "file://host/path",
        "http://x/y",
    ] {
        book.case(2, &["list", "--repository", url, "--cluster", "prod"]);
    }
    book.case(4, &["check", "--repository", &urls[0], "--cluster", "prod"]);
    book.case(2, &["check", "--repository", &urls[1], "--cluster", "prod"]);
    let file = book.place.write("etcd.db", fixture("etcd-3.5-auth.db"));
    book.case(2, &["import", &file, "--repository", &urls[1], "--cluster", "prod"]);
    book.case(2, &["import", &file, "--repository", &urls[2], "--cluster", "prod"]);
}

/// A repository with three points of two files.
fn points(book: &mut Book) {
    book.heading("Points");
    let url = book.place.url();
    let other = book.place.write("k8s.db", fixture("k8s-etcd-3.6.db"));
    let place = ["--repository", &url, "--cluster", "prod"];
    let import = |file: &str| {
        let outcome = book.place.run(&["import", file, "-o", "json"]).args(&place).run().success();
        outcome.json()["imported"][0]["point"].as_str().unwrap().to_owned()
    };
    let (first, second) = (import("etcd.db"), import(&other));
    book.name(first.clone(), "<FIRST>");
    book.name(second.clone(), "<SECOND>");
    let wrong = if first.starts_with("0000") || second.starts_with("0000") { "ffff" } else { "0000" };
    let wrong = if first.starts_with(&wrong[..2]) || second.starts_with(&wrong[..2]) { "7e7e" } else { wrong };
    book.name(format!(" {wrong} "), " <WRONG> ");
    book.name(format!("\"{wrong}\""), "\"<WRONG>\"");
    for (code, point) in
        [(4, "latest~99"), (4, "latest~x"), (4, "newest"), (2, "abc"), (4, wrong), (4, "../../etc/passwd")]
    {
        for command in ["show", "verify"] {
            book.case(code, &[&[command, point][..], &place].concat());
        }
    }
    book.case(4, &[&["keys", "ls", "--point", "latest~99"][..], &place].concat());
    book.case(4, &[&["diff", "latest", "latest~99"][..], &place].concat());
    book.case(4, &[&["export", "latest~99", "out/e.db"][..], &place].concat());
    book.case(4, &["list", "--repository", &url, "--cluster", "prdo"]);
    book.case(4, &["show", "--repository", &url, "--cluster", "prdo"]);
    book.case(2, &["list", "--repository", &url, "--cluster", "../prod"]);
    book.case(4, &[&["keys", "get", "/registry/nothing"][..], &place].concat());
    book.case(4, &[&["keys", "get", "/registry/nothing", "--revision", "99999999"][..], &place].concat());
    book.case(2, &["diff", "latest", "latest~1"]);
    book.case(2, &[&["copy", "--to", &url][..], &place].concat());
    let policy = book.place.policy_at("127.0.0.1:1");
    book.case(2, &["drill", "--policy", &policy, "--etcd", "/nowhere/etcd"]);
    book.case(2, &["drill", "--policy", &policy, "--etcd", "etcd.db", "--etcdutl", "etcd.db"]);
    book.case(2, &["drill", "--policy", &policy, "--etcdutl", "etcd.db"]);
    book.case(1, &["drill", "--policy", &policy, "--report", "etcd.db"]);
    book.case(2, &["drill", "--policy", &policy, "--report", "nowhere/drill.html"]);
    book.case(2, &["drill", "--policy", &policy, "--scratch", "nowhere"]);
    book.case(2, &["drill", "--policy", &policy, "--etcd", "etcd.db", "--etcdutl", "/bin/true"]);
    book.case(2, &[&["copy", "--to-policy", "nowhere.toml"][..], &place].concat());
    book.case(130, &["leash", "1", "/nowhere/etcd"]);
    let twins = twins(&book.place, &first);
    let place = ["--repository", &twins, "--cluster", "prod"];
    book.case(2, &[&["show", "abcd"][..], &place].concat());
    book.case(2, &[&["restore", "--point", "abcd0", "--etcd-snapshot", "out/r.db", "--yes"][..], &place].concat());
}

/// A repository with two points whose ids begin alike, made of the point `id`; its address.
fn twins(place: &Place, id: &str) -> String {
    let tree = place.tree("repository");
    let (path, config) =
        (tree.keys().find(|path| path.contains(id)), tree.keys().find(|path| path.starts_with("config")));
    let (path, config) = (path.unwrap(), config.unwrap());
    let bytes = fs::read(place.repository().join(path)).unwrap();
    let mut manifest: Manifest = sealed::open(path, &bytes).unwrap();
    let folder = place.path("twins");
    for twin in ["abcd000000000001", "abcd000000000002"] {
        manifest.attempt = Attempt::parse(twin).unwrap();
        let path = folder.join(Location::Point(manifest.name()).to_string());
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, sealed::seal(&manifest).unwrap()).unwrap();
    }
    fs::create_dir_all(folder.join("config")).unwrap();
    fs::copy(place.repository().join(config), folder.join(config)).unwrap();
    format!("file://{}", folder.display())
}

fn restores(book: &mut Book) {
    book.heading("Restores");
    let url = book.place.url();
    let place = ["--repository", &url, "--cluster", "prod"];
    let restore = |more: &[&str]| -> Vec<String> {
        let words = [&["restore"], more, &place].concat();
        words.iter().map(|word| (*word).to_owned()).collect()
    };
    book.place.write("there.db", "something precious");
    fs::create_dir(book.place.path("occupied")).unwrap();
    book.place.write("occupied/x", "something precious");
    let auth = book.place.write("auth.db", fixture("etcd-3.5-auth.db"));
    let bare = fixture("etcd-3.5-auth.db");
    let bare = book.place.write("bare.db", &bare[..bare.len() - 32]);
    let member = |more: &[&str]| restore(&[&["--data-dir", "out/m", "--yes"], more].concat());
    let words = |words: &[&str]| -> Vec<String> { words.iter().map(|word| (*word).to_owned()).collect() };
    let cases: Vec<(i32, Vec<String>)> = vec![
        (2, restore(&["--etcd-snapshot", "missing/r.db", "--yes"])),
        (1, restore(&["--etcd-snapshot", "there.db", "--yes"])),
        (1, restore(&["--etcd-snapshot", "out", "--yes"])),
        (4, restore(&["--point", "latest~9", "--etcd-snapshot", "out/r.db", "--yes"])),
        (2, restore(&["--etcd-snapshot", "out/r.db", "--yes", "--bump", "lots"])),
        (2, restore(&["--etcd-snapshot", "out/r.db", "--yes", "--bump", "-5"])),
        (2, restore(&["--etcd-snapshot", "out/r.db", "--yes", "--bump=-5"])),
        (2, restore(&["--etcd-snapshot", "out/r.db", "--yes", "--bump", "0"])),
        (2, restore(&["--etcd-snapshot", "out/r.db", "--yes", "--bump", "9223372036854775807"])),
        (2, restore(&["--etcd-snapshot", "out/r.db", "--yes", "--initial-cluster", "m1"])),
        (2, restore(&["--etcd-snapshot", "out/r.db", "--yes", "--initial-cluster", "m1=http://a:1,=http://b:1"])),
        (2, restore(&["--etcd-snapshot", "out/r.db", "--yes", "--initial-cluster", "m1=nonsense"])),
        (2, restore(&["--etcd-snapshot", "out/r.db", "--yes", "--initial-cluster", ""])),
        (2, restore(&["--yes"])),
        (2, member(&["--etcd-snapshot", "out/r.db"])),
        (1, restore(&["--data-dir", "occupied", "--yes"])),
        (1, restore(&["--data-dir", "out/m", "--wal-dir", "occupied", "--yes"])),
        (2, member(&["--name", "a", "--initial-cluster", "a=http://h:1,b=http://h:2"])),
        (2, member(&["--initial-cluster", "a=http://h:1"])),
        (2, member(&["--initial-cluster", "default=http://h:1", "--initial-advertise-peer-urls", "http://h:2"])),
        (3, words(&["snapshot", "restore", &bare, "--data-dir", "out/m"])),
        (2, words(&["snapshot", "restore", &auth, "--data-dir", "out/m", "--bump-revision", "5"])),
        (1, [&["export", "latest", "there.db"][..], &place].concat().iter().map(|w| (*w).to_owned()).collect()),
        (2, [&["export", "latest", "missing/e.db"][..], &place].concat().iter().map(|w| (*w).to_owned()).collect()),
        (2, vec!["restore".into(), "--etcd-snapshot".into(), "out/r.db".into(), "--yes".into()]),
    ];
    for (code, args) in cases {
        book.case(code, &args.iter().map(String::as_str).collect::<Vec<_>>());
    }
    assert_eq!(fs::read(book.place.path("there.db")).unwrap(), b"something precious");
    // The plan is printed, but nobody can be asked.
    let before = book.place.tree("");
    let args = restore(&["--etcd-snapshot", "out/r.db"]);
    let asked = book.place.run(&args.iter().map(String::as_str).collect::<Vec<_>>()).run().exits(2);
    assert!(asked.stdout().starts_with("Plan: restore ") && hint(&asked) && book.place.tree("") == before, "{asked}");
    let _ = write!(book.text, "$ holdfast restore --etcd-snapshot out/r.db\nexit 2\n{}\n", asked.stderr);
    let json = book.place.run(&["restore", "-o", "json", "--etcd-snapshot", "there.db", "--yes"]).args(&place);
    let error: serde_json::Value = serde_json::from_str(&json.run().exits(1).stderr).unwrap();
    assert_eq!(
        (error["v"].as_i64(), error["type"].as_str(), error["kind"].as_str()),
        (Some(1), Some("error"), Some("conflict"))
    );
    assert!(error["hint"].as_str().is_some_and(|hint| !hint.is_empty()) && error["exit_code"] == 1, "{error}");
}

/// Points of somebody who is not trusted, and keys that are none.
fn signers(book: &mut Book) {
    book.heading("Signers");
    let (ours, theirs) = (signing::public(1), signing::public(2));
    book.name(ours.clone(), "<OURS>");
    book.name(theirs.clone(), "<THEIRS>");
    for seed in [1, 2] {
        book.place.write(&format!("{seed}.pem"), signing::pem(seed));
    }
    book.place.write("public.pem", format!("-----BEGIN PUBLIC KEY-----\n{ours}\n-----END PUBLIC KEY-----\n"));
    book.place
        .write("locked.pem", "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n");
    let url = book.place.url();
    let place = ["--repository", &url, "--cluster", "prod"];
    for named in ["nothing.pem", "1.pem", "etcd.db", "locked.pem", "out", &ours[..50]] {
        book.case(2, &[&["list", "--trust-key", named][..], &place].concat());
    }
    // A slip: the line of the private key. What was typed is in the book, so it is asked about apart.
    let slip = signing::pem(1).lines().nth(1).unwrap().to_owned();
    let outcome = book.place.run(&["list", "--trust-key", &slip]).args(&place).run().exits(2);
    assert!(hint(&outcome) && !outcome.stderr.contains(&slip[..16]), "{outcome}");
    let policy = |place: &Place, lines: &str| {
        let cluster = "[cluster]\nname = \"prod\"\nendpoints = [\"http://127.0.0.1:1\"]\n";
        let repository = format!("[repository]\nurl = {:?}\nencryption = \"none\"\n", place.url());
        place.write("signing.toml", format!("{cluster}{repository}{lines}\n"));
    };
    for lines in [
        "signing_key = \"nothing.pem\"",
        "signing_key = \"public.pem\"",
        "signing_key = \"locked.pem\"",
        "signing_key = \"etcd.db\"",
        "signing_key = \"junk.pem\"",
    ] {
        policy(&book.place, lines);
        book.case(2, &["policy", "check", "signing.toml"]);
    }
    // Who trusts somebody and signs nothing makes no points; what nobody trusted has signed is not used.
    policy(&book.place, &format!("trusted_signers = [{ours:?}]"));
    book.case(2, &["import", "etcd.db", "--policy", "signing.toml"]);
    book.case(2, &[&["import", "etcd.db", "--trust-key", "public.pem"][..], &place].concat());
    for command in [&["export", "latest", "out/e.db"][..], &["keys", "ls"], &["hold", "latest"], &["drill"]] {
        book.case(3, &[command, &["--policy", "signing.toml"]].concat());
    }
    // A repository with one point, signed by somebody.
    let folder = book.place.path("signed");
    let tree = book.place.tree("repository");
    let (path, config) =
        (tree.keys().find(|path| path.contains("/points/")), tree.keys().find(|path| path.starts_with("config")));
    let (path, config) = (path.unwrap(), config.unwrap());
    let manifest: Manifest = sealed::open(path, &fs::read(book.place.repository().join(path)).unwrap()).unwrap();
    book.name(manifest.attempt.to_string(), "<SIGNED>");
    let sealed = sealed::seal_signed(&manifest, &signing::key(2)).unwrap();
    for (path, bytes) in [(path, sealed), (config, fs::read(book.place.repository().join(config)).unwrap())] {
        fs::create_dir_all(folder.join(path).parent().unwrap()).unwrap();
        fs::write(folder.join(path), bytes).unwrap();
    }
    let url = format!("file://{}", folder.display());
    let place = ["--repository", &url, "--cluster", "prod"];
    book.case(3, &[&["export", "latest", "out/e.db"][..], &place].concat());
    book.case(3, &[&["keys", "ls", "--trust-key", &ours][..], &place].concat());
    let text = fs::read_to_string(folder.join(path)).unwrap();
    let line = text.lines().nth(6).unwrap();
    let other = signing::key(1).sign(b"x").to_string();
    let digits = |text: &str| text.replacen(&text[15 + 2..15 + 2 + 64], &"0".repeat(64), 1);
    let zeroed = digits(&text.replace(line, &format!("  \"signature\": \"{other}\",")));
    let checksum = holdfast::base::digest::Sha256::of(zeroed.as_bytes()).to_string();
    fs::write(folder.join(path), zeroed.replacen(&"0".repeat(64), &checksum, 1)).unwrap();
    book.case(3, &[&["export", "latest", "out/e.db", "--allow-unsigned"][..], &place].concat());
}

fn files(book: &mut Book) {
    book.heading("Snapshot files");
    let right = fixture("etcd-3.5-auth.db");
    let mut gz = flate2::write::GzEncoder::new(vec![], flate2::Compression::fast());
    std::io::Write::write_all(&mut gz, &right).unwrap();
    let gz = gz.finish().unwrap();
    let mut sealed_wrong = right.clone();
    let trailer = sealed_wrong.len() - 32;
    assert_eq!(trailer % 4096, 0, "the fixture has its SHA-256 behind it");
    sealed_wrong[trailer] ^= 1;
    let zst = zstd::encode_all(&right[..], 1).unwrap();
    for (name, bytes) in [
        ("empty.db", &[][..]),
        ("text.db", b"this is no database, but it is long enough to be asked about\n"),
        ("zeros.db", &[0; 65_536]),
        ("cut.db", &right[..right.len() / 2]),
        ("odd.db", &right[..right.len() - 100]),
        ("wrong.db", &sealed_wrong),
        ("cut.db.gz", &gz[..gz.len() / 2]),
        ("cut.db.zst", &zst[..zst.len() / 2]),
        ("archive.db.gz", b"\x1f\x8b\x08\x00nothing like it"),
    ] {
        book.place.write(name, bytes);
        let code = 3;
        book.case(code, &["restore", "--file", name, "--etcd-snapshot", "out/r.db", "--yes"]);
        book.case(code, &["import", name, "--repository", &book.place.url(), "--cluster", "prod"]);
        if name != "wrong.db" {
            book.case(code, &["snapshot", "status", name]);
            book.case(code, &["hashkv", name]);
            book.case(code, &["keys", "ls", "--file", name]);
        }
    }
    book.fed(3, &["snapshot", "status", "-"], b"");
    book.fed(3, &["restore", "--file", "-", "--etcd-snapshot", "out/r.db", "--yes"], &gz[..1000]);
    book.case(4, &["snapshot", "status", "missing.db"]);
    book.case(2, &["snapshot", "status", "out"]);
    book.case(3, &["hashkv", "/dev/null"]);
    book.case(4, &["restore", "--file", "missing.db", "--etcd-snapshot", "out/r.db", "--yes"]);
    book.case(4, &["hashkv", "etcd.db", "--rev", "99999999"]);
    book.case(2, &["hashkv", "etcd.db", "--rev", "-1"]);
    let compacted = book.place.run(&["hashkv", "k8s.db", "-o", "json"]).run().success().json();
    if compacted["compactRevision"].as_i64().unwrap() > 1 {
        book.case(4, &["hashkv", "k8s.db", "--rev", "1"]);
        book.case(4, &["keys", "ls", "--file", "k8s.db", "--revision", "1"]);
    }
    book.case(4, &["keys", "ls", "--file", "etcd.db", "--revision", "99999999"]);
    book.case(4, &["keys", "get", "no such key", "--file", "etcd.db"]);
    book.case(2, &["diff", "etcd.db", "missing.db"]);
    book.case(2, &["restore", "--file", "etcd.db", "--etcd-snapshot", "out/r.db", "--yes", "--bump", "auto"]);
    book.case(2, &["restore", "--file", "cut.db.gz", "--etcd-snapshot", "out/r.db", "--scratch", "missing", "--yes"]);
    let policy = book.place.policy_at("127.0.0.1:1");
    book.case(2, &["backup", "--scratch", "missing", "--policy", &policy]);
    book.place.write("plain", "a file where a folder should be");
    book.case(1, &["man", "plain/man1"]);
}
