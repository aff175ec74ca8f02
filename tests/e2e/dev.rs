//! `holdfast dev`: a member and its backups in one directory, as somebody who tries it sees them.

use std::fs;
use std::net::TcpListener;
use std::path::PathBuf;

use rustix::process::Signal;
use serde_json::Value;

use crate::errors::Book;
use crate::place::Place;
use crate::support::member::{LIMIT, Member, get};
use crate::support::peers::{ETCD_3_5, program};
use crate::support::ports::Port;
use crate::support::run::{Outcome, Process, Run, wait_until};

/// `dev` under test, in the folder `dev` of a place.
struct Dev {
    process: Option<Process>,
    place: Place,
}

impl Dev {
    fn new() -> Dev {
        Dev { place: Place::new(), process: None }
    }

    /// Starts it with a backup each second, and waits until it says what to try.
    fn start(&mut self, args: &[&str]) {
        let log = self.log_file();
        drop(fs::remove_file(&log));
        let run = self.place.run(&["dev", "--dir", "dev", "--every", "1s"]).args(args);
        self.process = Some(run.start(log));
        self.says("Ctrl-C stops it");
    }

    fn log_file(&self) -> PathBuf {
        self.place.path("log")
    }

    /// Everything that was said since the last start.
    fn log(&self) -> String {
        fs::read_to_string(self.log_file()).unwrap()
    }

    /// Waits until it says so.
    fn says(&mut self, text: &str) {
        let (log, process) = (self.log_file(), self.process.as_mut().unwrap());
        wait_until(text, LIMIT, || {
            let said = fs::read_to_string(&log).unwrap();
            assert!(process.ended().is_none(), "it ended: {said}");
            said.contains(text)
        });
    }

    /// Ends it as Ctrl-C and `kill` do; the exit code.
    fn stop(&mut self) -> i32 {
        self.process.take().expect("it runs").terminate(LIMIT).code().unwrap_or(-1)
    }

    fn policy(&self) -> PathBuf {
        self.place.path("dev/dev.toml")
    }

    /// A command with the policy that it wrote.
    fn with_policy(&self, args: &[&str]) -> Outcome {
        self.place.run(args).args(&["--policy", "dev/dev.toml"]).run()
    }

    /// The points, newest first.
    fn points(&self) -> Vec<Value> {
        let listed = self.with_policy(&["list", "-o", "json"]).success().json();
        listed["points"].as_array().unwrap().clone()
    }

    /// Waits for a point that holds `value` under `key`.
    fn backs_up(&self, key: &str, value: &str) {
        wait_until("a point has it", LIMIT, || {
            let got = self.with_policy(&["keys", "get", key]);
            got.code() == 0 && got.stdout().contains(value)
        });
    }
}

fn etcdctl(endpoint: &str, args: &[&str]) -> Outcome {
    let flags = [format!("--endpoints={endpoint}"), "--command-timeout=10s".to_owned()];
    Run::new(program(ETCD_3_5, "etcdctl")).env("ETCDCTL_API", "3").args(&flags).args(args).run()
}

#[test]
fn a_member_is_backed_up_from_the_first_second_and_goes_on_where_it_stopped() {
    let mut dev = Dev::new();
    let port = Port::claim();
    let url = format!("http://{}", port.address());
    dev.start(&["--listen-client-url", &url]);
    assert_eq!(etcdctl(&url, &["put", "greeting", "hello"]).success().stdout(), "OK\n");
    dev.backs_up("greeting", "hello");
    dev.says(", equal to the live cluster (HashKV ");
    let said = dev.log();
    let repository = format!("file://{}", dev.place.text("dev/repository"));
    for part in
        [&url, &repository, "dev/dev.toml", "etcdctl --endpoints", "restore --policy dev/dev.toml --point latest"]
    {
        assert!(said.contains(part), "no {part} in {said}");
    }
    assert!(said.contains("  full  revision ") && !said.contains("warning: "), "{said}");
    // What was written is a policy to go on with.
    dev.place.run(&["policy", "check", "dev/dev.toml"]).run().success();
    let policy = fs::read_to_string(dev.policy()).unwrap();
    assert_eq!(dev.stop(), 0);
    assert!(dev.log().contains("the same command goes on with dev"), "{}", dev.log());

    // It goes on: the same port without being told, the same policy, and increments.
    let before = dev.points().len();
    dev.start(&[]);
    assert_eq!(etcdctl(&url, &["get", "greeting"]).success().stdout(), "greeting\nhello\n");
    etcdctl(&url, &["put", "greeting", "again"]).success();
    dev.backs_up("greeting", "again");
    assert_eq!(dev.stop(), 0);
    assert_eq!(fs::read_to_string(dev.policy()).unwrap(), policy);
    let mut points = dev.points();
    assert!(points.len() > before, "{points:?}");
    // An empty store cannot be compared, and nothing is built upon what was not.
    points.retain(|point| point["keys"] != 0);
    let fulls = points.iter().filter(|point| point["kind"] == "full").count();
    assert_eq!(fulls, 1, "{points:?}");
    assert!(points.iter().all(|point| point["compared"] == "equal" && point["damage"].is_null()), "{points:?}");
    let last = dev.with_policy(&["show", "latest", "-o", "json"]).success().json();
    assert_eq!(last["manifest"]["kind"], "incremental", "{last}");

    // A point becomes a second member, which serves what the first one held.
    let mut second = Member::prepared(&[]);
    let data = second.data_dir();
    let data = ["--point", "latest", "--data-dir", data.to_str().unwrap(), "--yes"];
    dev.with_policy(&[&["restore"][..], &data].concat()).success();
    second.launch(|run| run);
    second.wait();
    assert_eq!(second.etcdctl(&["get", "greeting"]).success().stdout(), "greeting\nagain\n");
    assert_eq!(second.stop(), 0);
}

#[test]
fn a_backup_that_fails_is_said_and_tried_again_and_the_member_serves_on() {
    let mut dev = Dev::new();
    let port = Port::claim();
    let url = format!("http://{}", port.address());
    dev.start(&["--listen-client-url", &url]);
    etcdctl(&url, &["put", "a", "1"]).success();
    dev.backs_up("a", "1");
    let policy = fs::read_to_string(dev.policy()).unwrap();
    fs::write(dev.policy(), policy.replace("encryption = \"none\"", "encryption = \"some\"")).unwrap();
    dev.says("warning: no backup, tried again 1s after its begin: ");
    etcdctl(&url, &["put", "a", "2"]).success();
    assert_eq!(get(&port.address(), "/health").status, 200);
    // One of another cluster is no place for this member's points.
    let theirs = policy.replace(&url, "http://192.0.2.1:2379");
    fs::write(dev.policy(), theirs).unwrap();
    dev.says("names http://192.0.2.1:2379");
    fs::write(dev.policy(), policy).unwrap();
    dev.backs_up("a", "2");
    assert_eq!(dev.stop(), 0);
}

#[test]
fn points_that_the_policy_does_not_keep_go_by_themselves() {
    let mut dev = Dev::new();
    let port = Port::claim();
    let url = format!("http://{}", port.address());
    dev.start(&["--listen-client-url", &url]);
    assert!(dev.log().contains(" drill --policy dev/dev.toml"), "{}", dev.log());
    for value in ["1", "2", "3"] {
        etcdctl(&url, &["put", "a", value]).success();
        dev.backs_up("a", value);
    }
    assert_eq!(dev.stop(), 0);
    // Sixty points are kept, so none went.
    assert!(!dev.log().contains("pruned: "), "{}", dev.log());
    let before = dev.points().len();
    let policy = fs::read_to_string(dev.policy()).unwrap();
    fs::write(dev.policy(), policy.replace("last = 60\nhourly = 24\ndaily = 7", "last = 1")).unwrap();
    dev.start(&[]);
    dev.says("pruned: deleted 0 points, 0 objects, 0 B; condemned ");
    assert_eq!(get(&port.address(), "/health").status, 200);
    assert_eq!(dev.stop(), 0);
    let points = dev.points();
    let condemned = points.iter().filter(|point| point["condemned"] == true).count();
    assert!(condemned > 0 && condemned < points.len() && before <= points.len(), "{points:?}");
    // What was condemned can be taken back, and nothing is lost of what stays.
    dev.with_policy(&["verify", "latest", "--level", "3"]).success();
}

#[test]
fn a_port_in_use_is_passed_over_unless_it_was_asked_for() {
    // Of the kernel's own range: the ports after it are no other test's.
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let number = taken.local_addr().unwrap().port();
    let url = format!("http://127.0.0.1:{number}");
    let mut dev = Dev::new();
    let refused = dev.place.run(&["dev", "--dir", "dev", "--listen-client-url", &url]).run().exits(1);
    assert!(refused.stderr.contains("another address"), "{refused}");
    assert!(!dev.place.path("dev").exists());

    fs::create_dir(dev.place.path("dev")).unwrap();
    let repository = format!("[repository]\nurl = {:?}\nencryption = \"none\"\n", dev.place.url());
    let cluster = format!("[cluster]\nname = \"mine\"\nendpoints = [{url:?}]\nhash_on_leader = \"on\"\n");
    fs::write(dev.policy(), cluster + &repository).unwrap();
    dev.start(&[]);
    let said = dev.log();
    let next =
        said.split_once("clients are served at ").expect("it says where").1.split(' ').next().unwrap().to_owned();
    assert!(said.contains(&format!("port {number} is in use")) && next != url, "{said}");
    assert!(said.contains(&format!("dev/dev.toml names {url}, and the member is at {next}")), "{said}");
    etcdctl(&next, &["put", "a", "1"]).success();
    dev.backs_up("a", "1");
    assert!(dev.place.repository().join("clusters/mine").exists());

    // One directory is one process's.
    let second = dev.place.run(&["dev", "--dir", "dev"]).run().exits(1);
    assert!(second.stderr.contains("\nhint: "), "{second}");
    etcdctl(&next, &["put", "a", "2"]).success();
    dev.backs_up("a", "2");
    assert_eq!(dev.stop(), 0);
}

#[test]
fn quiet_is_quiet_and_json_is_one_object_after_another() {
    let mut dev = Dev::new();
    let port = Port::claim();
    let url = format!("http://{}", port.address());
    let args = ["dev", "--dir", "dev", "--every", "1s", "--listen-client-url", &url];
    dev.process = Some(dev.place.run(&args).args(&["-o", "json"]).start(dev.log_file()));
    let objects = || {
        let text = fs::read_to_string(dev.log_file()).unwrap();
        serde_json::Deserializer::from_str(&text).into_iter().map_while(Result::ok).collect::<Vec<Value>>()
    };
    wait_until("it says where it is", LIMIT, || !objects().is_empty());
    etcdctl(&url, &["put", "a", "1"]).success();
    let is_increment = |object: &Value| object["manifest"]["kind"] == "incremental";
    wait_until("an increment is made", LIMIT, || objects().iter().any(is_increment));
    let found = objects();
    assert_eq!(dev.stop(), 0);
    let kinds: Vec<&str> = found.iter().map(|object| object["type"].as_str().unwrap()).collect();
    assert!(kinds[0] == "dev" && kinds[1..].iter().all(|kind| *kind == "backup"), "{kinds:?}");
    assert_eq!((found[0]["endpoint"].as_str(), found[0]["every_s"].as_f64()), (Some(url.as_str()), Some(1.0)));
    // What did not change costs a document and next to nothing of data.
    let increment = found.iter().find(|object| is_increment(object)).unwrap();
    assert!(increment["new_stored_bytes"].as_u64().unwrap() < 2048, "{increment}");

    fs::remove_file(dev.log_file()).unwrap();
    dev.process = Some(dev.place.run(&args).args(&["-q"]).start(dev.log_file()));
    let log = dev.log_file();
    wait_until("a point is told of", LIMIT, || fs::read_to_string(&log).unwrap().contains("  incremental  revision "));
    // A terminal that is closed ends it too.
    let mut process = dev.process.take().unwrap();
    process.signal(Signal::HUP);
    wait_until("it ends", LIMIT, || process.ended().is_some());
    assert_eq!(process.ended().unwrap().code(), Some(0));
    let said = dev.log();
    assert!(!said.contains("Try next") && !said.contains("goes on with"), "{said}");
}

/// What keeps it from starting, for the golden file.
pub(crate) fn errors(book: &mut Book) {
    book.heading("A member and its backups");
    let (free, taken) = (Port::claim(), TcpListener::bind("127.0.0.1:0").unwrap());
    book.name(free.number().to_string(), "<FREE>");
    book.name(taken.local_addr().unwrap().port().to_string(), "<TAKEN>");
    let place = book.place.root().to_path_buf();
    for wrong in ["--every=0s", "--every=often", "--listen-client-url=2379", "--dir="] {
        book.case(2, &["dev", wrong]);
    }
    for host in ["https://127.0.0.1", "http://etcd.example"] {
        book.case(2, &["dev", "--listen-client-url", &format!("{host}:{}", free.number())]);
    }
    let url = format!("http://{}", free.address());
    let start = |book: &mut Book, code: i32, dir: &str| {
        book.case(code, &["dev", "--dir", dir, "--listen-client-url", &url]);
    };
    book.case(1, &["dev", "--dir=out/new", "--listen-client-url", &format!("http://{}", taken.local_addr().unwrap())]);
    book.place.write("file", "");
    start(book, 1, "file");
    start(book, 2, "etcd");
    fs::create_dir_all(place.join("devs/etcd")).unwrap();
    fs::rename(place.join("etcd"), place.join("devs/etcd/data")).unwrap();
    start(book, 1, "devs/etcd");
    let repository = "[repository]\nurl = \"file:///r\"\nencryption = \"none\"\n";
    for endpoints in ["", "\"https://127.0.0.1:1\"", "\"http://127.0.0.1:1\", \"http://127.0.0.1:2\""] {
        let policy = format!("[cluster]\nname = \"prod\"\nendpoints = [{endpoints}]\n{repository}");
        fs::write(place.join("devs/dev.toml"), policy).unwrap();
        start(book, 2, "devs");
    }
    fs::remove_dir_all(place.join("devs")).unwrap();
}
