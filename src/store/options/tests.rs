//! Golden scripts: what is given, and what becomes of it.
//!
//! `env NAME=VALUE` and `file TEXT` set the scene for the next `serve FLAG=VALUE`, which prints what differs from a member
//! that is given nothing, or the error with its hint.

use super::*;
use goldenscript::{Argument, Command, Context, Runner};
use std::error::Error as StdError;
use std::fmt::Write as _;

#[derive(Default)]
struct Scene(Sources);

impl Runner for Scene {
    type Command = Command;

    fn run(&mut self, command: &Command, _: &Context) -> Result<String, Box<dyn StdError>> {
        // A bare flag is a switch.
        let pair = |arg: &Argument| match arg {
            Argument::Positional(name) => (name.clone(), "true".to_owned()),
            Argument::KeyValue(name, value) => (name.clone(), value.clone()),
            other => panic!("{other} is no flag"),
        };
        let pairs: Vec<(String, String)> = command.args.iter().map(pair).collect();
        match command.name.as_str() {
            "env" => self.0.variables.extend(pairs),
            "file" => {
                let text = pairs.iter().map(|(text, _)| text.replace('|', "\n")).collect();
                self.0.file = Some(("etcd.yaml".to_owned(), text));
            }
            "serve" => {
                self.0.flags = pairs;
                return Ok(told(&std::mem::take(&mut self.0)));
            }
            "birth" => {
                let options = Options::parse(&Sources { flags: pairs, ..Sources::default() })?;
                return Ok(options
                    .birth
                    .check(&options.name)
                    .err()
                    .map_or_else(|| "ok\n".to_owned(), |error| failed(&error)));
            }
            other => return Err(format!("unknown command {other}").into()),
        }
        Ok(String::new())
    }
}

fn failed(error: &Error) -> String {
    format!(
        "{} ({})\nhint: {}\n",
        error.chain(),
        error.kind().exit_code(),
        error.hint_text().expect("every error has a hint")
    )
}

/// What differs from the defaults, or the error.
fn told(sources: &Sources) -> String {
    let options = match Options::parse(sources) {
        Ok(options) => options,
        Err(error) => return failed(&error),
    };
    let mut text = String::new();
    for warning in &options.warnings {
        let _ = writeln!(text, "warning: {warning}");
    }
    let shown = |options: &Options| format!("{:#?}", Options { warnings: vec![], ..options.clone() });
    let plain = shown(&Options::parse(&Sources::default()).unwrap());
    let plain: Vec<&str> = plain.lines().collect();
    for line in shown(&options).lines().filter(|line| !plain.contains(line)) {
        let _ = writeln!(text, "{}", line.trim());
    }
    if text.is_empty() { "as by default\n".to_owned() } else { text }
}

#[test]
fn what_is_given_becomes_options_or_one_clear_error() {
    for script in ["flags", "sources", "refusals", "birth"] {
        let path = format!("src/store/options/scripts/{script}");
        goldenscript::run(&mut Scene::default(), &path).unwrap_or_else(|error| panic!("{path}: {error}"));
    }
}

#[test]
fn a_member_that_is_told_nothing_has_etcds_defaults() {
    let options = Options::parse(&Sources::default()).unwrap();
    assert_eq!((options.name.as_str(), options.data_dir.to_str()), ("default", Some("default.etcd")));
    assert_eq!(options.clients.grpc[0].text, "http://localhost:2379");
    let tuning = Tuning::default();
    let told = &options.tuning;
    assert_eq!(
        (told.request_bytes_max, told.txn_operations_max, told.quota_bytes),
        (tuning.request_bytes_max, tuning.txn_operations_max, tuning.quota_bytes)
    );
    assert_eq!(
        (told.heartbeat, told.election, told.flush_interval),
        (tuning.heartbeat, tuning.election, tuning.flush_interval)
    );
    assert_eq!((told.watch_progress, told.auto_compaction), (tuning.watch_progress, tuning.auto_compaction));
    assert!(options.warnings.is_empty());
    options.birth.check(&options.name).unwrap();
}

/// What kubeadm writes into etcd's static pod, address by address.
#[test]
fn the_command_line_of_kubeadm_is_understood() {
    let pki = "/etc/kubernetes/pki/etcd";
    let flags = [
        ("name", "node1".to_owned()),
        ("feature-gates", "InitialCorruptCheck=true".to_owned()),
        ("listen-client-urls", "https://127.0.0.1:2379,https://10.0.0.1:2379".to_owned()),
        ("advertise-client-urls", "https://10.0.0.1:2379".to_owned()),
        ("listen-peer-urls", "https://10.0.0.1:2380".to_owned()),
        ("initial-advertise-peer-urls", "https://10.0.0.1:2380".to_owned()),
        ("data-dir", "/var/lib/etcd".to_owned()),
        ("cert-file", format!("{pki}/server.crt")),
        ("key-file", format!("{pki}/server.key")),
        ("trusted-ca-file", format!("{pki}/ca.crt")),
        ("client-cert-auth", "true".to_owned()),
        ("peer-cert-file", format!("{pki}/peer.crt")),
        ("peer-key-file", format!("{pki}/peer.key")),
        ("peer-trusted-ca-file", format!("{pki}/ca.crt")),
        ("peer-client-cert-auth", "true".to_owned()),
        ("snapshot-count", "10000".to_owned()),
        ("listen-metrics-urls", "http://127.0.0.1:2381".to_owned()),
        ("watch-progress-notify-interval", "5s".to_owned()),
        ("initial-cluster", "node1=https://10.0.0.1:2380".to_owned()),
    ];
    for old in [false, true] {
        let spelt = |name: &str| match name {
            "watch-progress-notify-interval" if old => "experimental-watch-progress-notify-interval".to_owned(),
            "feature-gates" if old => "experimental-initial-corrupt-check".to_owned(),
            name => name.to_owned(),
        };
        let value = |value: &String| if old { value.replace("InitialCorruptCheck=", "") } else { value.clone() };
        let flags = flags.iter().map(|(name, text)| (spelt(name), value(text))).collect();
        let options = Options::parse(&Sources { flags, ..Sources::default() }).unwrap();
        options.birth.check(&options.name).unwrap();
        assert_eq!(options.tuning.watch_progress, Duration::from_secs(5));
        assert_eq!((options.clients.grpc.len(), options.clients.metrics.len()), (2, 1));
        assert_eq!(options.tls.ca, Some(PathBuf::from(format!("{pki}/ca.crt"))));
        let expected = "of no effect as long as this member is alone: listen-peer-urls, peer-cert-file, peer-key-file, \
                        peer-trusted-ca-file, peer-client-cert-auth";
        assert_eq!(options.warnings, [expected]);
    }
}
