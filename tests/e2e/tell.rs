//! Who is told how a run ended: metrics, hooks, a webhook, a ping, through the built binary and a real etcd.

use serde_json::Value;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use tempfile::TempDir;

use crate::support::etcd::Etcd;
use crate::support::run::{Outcome, Run};
use crate::support::sink::Sink;

/// A policy with hooks, and where its metrics go.
struct Site {
    dir: TempDir,
    source: Etcd,
}

impl Site {
    /// A cluster and a policy whose tables end in `more`.
    fn new(more: &str) -> Site {
        let site = Site { dir: tempfile::tempdir().unwrap(), source: Etcd::start() };
        site.source.etcdctl(&["put", "a", "1"]).success();
        let table = site.source.policy_table("prod");
        site.policy(&format!("{table}\n{}{more}\n", site.repository()));
        site
    }

    fn repository(&self) -> String {
        format!("[repository]\nurl = \"file://{}/repository\"\nencryption = \"none\"\n", self.dir.path().display())
    }

    fn policy(&self, text: &str) {
        fs::write(self.path("prod.toml"), text).unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Runs `command` by the policy, with metrics, and credentials in its environment that are nobody's business.
    fn run(&self, command: &str, more: &[&str]) -> Outcome {
        let run = Run::holdfast().args(&[command, "--policy"]).args(&[self.path("prod.toml")]).args(more);
        let run = run.args(&["--metrics-file"]).args(&[self.metrics_of(command)]);
        run.env("AWS_SECRET_ACCESS_KEY", "hidden-secret").run()
    }

    fn metrics_of(&self, command: &str) -> PathBuf {
        self.path(&format!("{command}.prom"))
    }

    /// The value of the first line of this metric.
    fn metric(&self, command: &str, name: &str) -> Option<f64> {
        let text = fs::read_to_string(self.metrics_of(command)).unwrap();
        let line = text.lines().find(|line| line.starts_with(&format!("holdfast_{name}{{")))?;
        Some(line.rsplit(' ').next().unwrap().parse().unwrap())
    }

    fn text(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_default()
    }
}

/// A hook that writes its environment into the file `to`.
fn env_into(dir: &str, to: &str) -> String {
    format!("[\"sh\", \"-c\", \"env >> {dir}/{to}\"]")
}

#[test]
fn a_backup_tells_hooks_webhook_and_ping_and_leaves_metrics() {
    let sink = Sink::start(|_, _| 200);
    let notes = tempfile::tempdir().unwrap();
    let dir = notes.path().display().to_string();
    let hooks = format!(
        "[hooks]\non_success = {}\non_failure = {}\nwebhook = {:?}\nping_url = {:?}\n",
        env_into(&dir, "success"),
        env_into(&dir, "failure"),
        sink.url("/hook/token-1"),
        sink.url("/ping/token-2"),
    );
    let mut site = Site::new(&hooks);
    let made = site.run("backup", &["-o", "json"]).success().json();
    let revision = made["manifest"]["descriptor"]["revision"].as_i64().unwrap();
    let point = made["point"].as_str().unwrap();

    let seen = fs::read_to_string(notes.path().join("success")).unwrap();
    for wanted in [
        "HOLDFAST_EVENT=success".to_owned(),
        "HOLDFAST_CLUSTER=prod".to_owned(),
        format!("HOLDFAST_POINT={point}"),
        format!("HOLDFAST_REVISION={revision}"),
        "HOLDFAST_EXIT_CODE=0".to_owned(),
        "HOLDFAST_COMPARED=equal".to_owned(),
    ] {
        assert!(seen.lines().any(|line| line == wanted), "{wanted} in {seen}");
    }
    assert!(!seen.contains("hidden-secret"), "{seen}");
    assert!(!notes.path().join("failure").exists());

    let asked = sink.take();
    let shown: Vec<_> = asked.iter().map(|request| (request.method.as_str(), request.target.as_str())).collect();
    assert_eq!(shown, [("POST", "/hook/token-1"), ("GET", "/ping/token-2")]);
    let event: Value = serde_json::from_slice(&asked[0].body).unwrap();
    assert_eq!((&event["event"], &event["point"]["id"]), (&"success".into(), &point.into()));
    assert_eq!(event["point"]["stored_bytes"], made["manifest"]["counts"]["stored_bytes"]);

    assert_eq!(site.metric("backup", "point_revision"), Some(revision as f64));
    assert_eq!(site.metric("backup", "run_exit_code"), Some(0.0));
    let mode = fs::metadata(site.metrics_of("backup")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o644, "node_exporter is another user");
    let success = site.metric("backup", "run_last_success_timestamp_seconds").unwrap();

    // The cluster goes away: a failure, which keeps what the success was.
    site.source.kill(0);
    let failed = site.run("backup", &["--stall", "1s"]).exits(1);
    assert!(!failed.stderr.contains("token-"), "{failed}");
    let asked = sink.take();
    let shown: Vec<_> = asked.iter().map(|request| (request.method.as_str(), request.target.as_str())).collect();
    assert_eq!(shown, [("POST", "/hook/token-1"), ("POST", "/ping/token-2/fail")]);
    let event: Value = serde_json::from_slice(&asked[0].body).unwrap();
    assert_eq!((&event["event"], &event["exit_code"]), (&"failure".into(), &1.into()));
    assert!(event["error"]["hint"].as_str().is_some_and(|hint| !hint.is_empty()), "{event}");
    let seen = fs::read_to_string(notes.path().join("failure")).unwrap();
    assert!(seen.contains("HOLDFAST_EXIT_CODE=1\n") && seen.contains("HOLDFAST_POINT=\n"), "{seen}");
    assert_eq!(site.metric("backup", "run_exit_code"), Some(1.0));
    assert_eq!(site.metric("backup", "run_last_success_timestamp_seconds"), Some(success));
    assert_eq!(site.metric("backup", "point_revision"), Some(revision as f64));
}

#[test]
fn what_goes_wrong_with_telling_is_a_warning_and_the_point_is_there() {
    let sink = Sink::start(|request, before| if request.method == "POST" && before < 2 { 503 } else { 404 });
    let hooks = format!(
        "[hooks]\non_success = [\"sh\", \"-c\", \"echo no; exit 9\"]\nwebhook = {:?}\nping_url = {:?}\n",
        sink.url("/hook/token-1"),
        sink.url("/silence/token-2"),
    );
    let site = Site::new(&hooks);
    let out = site.run("backup", &[]).exits(5);
    let warnings: Vec<_> = out.stderr.lines().filter(|line| line.starts_with("warning: ")).collect();
    assert_eq!(warnings.len(), 3, "{out}");
    assert!(!out.stderr.contains('\u{1b}'), "a journal has no colours: {out}");
    assert!(warnings[0].contains("on_success") && warnings[0].contains("exit code 9"), "{out}");
    assert!(warnings[1].contains("webhook") && warnings[1].contains("tried 3 times"), "{out}");
    assert!(warnings[2].contains("ping_url") && warnings[2].contains("tried once"), "refused is refused: {out}");
    assert!(!out.stderr.contains("token-"), "{out}");
    assert_eq!(sink.take().len(), 4);
    // The point was made; a verification neither pings nor is it a success to be told of.
    let out = site.run("verify", &["latest", "-o", "json"]).success();
    assert_eq!(out.json()["verdicts"][0]["result"], "ok");
    assert!(sink.take().is_empty());
    assert_eq!(site.metric("verify", "verified_level"), Some(3.0));
    assert_eq!(site.metric("verify", "verify_failed_points"), Some(0.0));
    // Whoever reads JSON gets the object, and the warnings in the log.
    let out = site.run("backup", &["-o", "json"]).exits(5);
    assert_eq!(out.json()["type"], "backup");
    assert!(out.stderr.contains("on_success") && !out.stderr.contains("token-"), "{out}");
}

#[test]
fn an_objective_that_is_missed_is_told_by_verify() {
    let notes = tempfile::tempdir().unwrap();
    let dir = notes.path().display().to_string();
    let hooks = format!("[objectives]\nrpo = \"1ms\"\n[hooks]\non_missed_objective = {}\n", env_into(&dir, "missed"));
    let site = Site::new(&hooks);
    site.run("backup", &[]).success();
    let out = site.run("verify", &["latest", "-o", "json"]).exits(5).json();
    assert!(out["missed"][0].as_str().unwrap().starts_with("rpo: "), "{out}");
    assert_eq!(site.metric("verify", "objective_missed"), Some(1.0));
    let seen = fs::read_to_string(notes.path().join("missed")).unwrap();
    assert!(seen.contains("HOLDFAST_MISSED=rpo\n") && seen.contains("HOLDFAST_EVENT=missed_objective\n"), "{seen}");
}

#[test]
fn a_policy_that_cannot_be_read_leaves_metrics_of_the_failure() {
    let site = Site::new("");
    site.run("backup", &[]).success();
    let before = site.metric("backup", "point_revision");
    site.policy("[cluster]\n");
    site.run("backup", &[]).exits(2);
    assert_eq!(site.metric("backup", "run_exit_code"), Some(2.0));
    assert_eq!(site.metric("backup", "point_revision"), before, "the file is still about the same cluster");
    // The first run of all: the policy's file says which cluster.
    fs::remove_file(site.metrics_of("backup")).unwrap();
    site.run("backup", &[]).exits(2);
    assert!(site.text("backup.prom").contains("holdfast_run_exit_code{cluster=\"prod\",command=\"backup\"} 2\n"));
    // Metrics that cannot be written change nothing but the exit code.
    let site = Site::new("");
    let run = Run::holdfast().args(&["backup", "--policy"]).args(&[site.path("prod.toml")]);
    let out = run.args(&["--metrics-file"]).args(&[site.path("no/such/folder.prom")]).run().exits(5);
    assert!(out.stderr.contains("no such folder"), "{out}");
}

#[test]
fn a_hook_may_call_holdfast() {
    let binary = env!("CARGO_BIN_EXE_holdfast");
    let notes = tempfile::tempdir().unwrap();
    let (policy, to) = (notes.path().join("policy"), notes.path().join("listed"));
    let script = format!("{binary} list --policy $(cat {}) -o json > {}", policy.display(), to.display());
    let site = Site::new(&format!("[hooks]\non_success = [\"sh\", \"-c\", {script:?}]\n"));
    fs::write(&policy, site.path("prod.toml").display().to_string()).unwrap();
    site.run("backup", &[]).success();
    let listed: Value = serde_json::from_str(&fs::read_to_string(&to).unwrap()).unwrap();
    assert_eq!(listed["points"].as_array().unwrap().len(), 1, "HOLDFAST_CLUSTER does not stand in its way");
    // Another cluster's name does.
    let out = Run::holdfast().args(&["list", "--cluster", "other", "--policy"]).args(&[site.path("prod.toml")]).run();
    let out = out.exits(2);
    assert!(out.stderr.contains("the policy is for cluster \"prod\", not \"other\"\nhint: "), "{out}");
}
