//! The command lines of the shipped units, taken from the files and run as systemd would, but for root and its sandbox:
//! absolute paths lead into a scratch folder, and nothing else is changed.

use std::fs;
use std::path::{Path, PathBuf};

use crate::support::etcd::{Etcd, Tls};
use crate::support::run::{Outcome, Run};

/// A folder that stands for the root of a machine.
struct Machine {
    dir: tempfile::TempDir,
}

impl Machine {
    /// A machine with the folders of tmpfiles.conf.
    fn new() -> Machine {
        let machine = Machine { dir: tempfile::tempdir().unwrap() };
        let text = fs::read_to_string(shipped("tmpfiles.conf")).unwrap();
        for line in text.lines().filter(|line| line.starts_with("d ")) {
            fs::create_dir_all(machine.path(line.split_whitespace().nth(1).unwrap())).unwrap();
        }
        fs::create_dir_all(machine.path("/var/tmp")).unwrap();
        machine
    }

    /// Where an absolute path of the machine is.
    fn path(&self, path: &str) -> PathBuf {
        self.dir.path().join(path.trim_start_matches('/'))
    }

    /// Starts the unit `job` for the policy `name`, as `ExecStart`, `Environment` and `LoadCredential` say.
    fn start(&self, job: &str, name: &str) -> Outcome {
        let text = fs::read_to_string(shipped(&format!("holdfast-{job}@.service"))).unwrap().replace("%i", name);
        let fields = |field: &str| {
            let lines = text.lines().filter_map(|line| line.strip_prefix(field)?.strip_prefix('='));
            lines.map(str::to_owned).collect::<Vec<_>>()
        };
        let [command] = &fields("ExecStart")[..] else { panic!("one ExecStart: {text}") };
        let mut words = command.split_whitespace();
        assert_eq!(words.next(), Some("/usr/bin/holdfast"));
        let mapped = |word: &str| {
            if word.starts_with('/') { self.path(word).display().to_string() } else { word.to_owned() }
        };
        let mut run = Run::holdfast().args(&words.map(mapped).collect::<Vec<_>>());
        for setting in fields("Environment") {
            let (variable, value) = setting.split_once('=').unwrap();
            run = run.env(variable, mapped(value));
        }
        // What is not in the store is left out.
        let given = self.path("/run/credentials");
        drop(fs::remove_dir_all(&given));
        fs::create_dir_all(&given).unwrap();
        for credential in fields("LoadCredential") {
            let (to, from) = credential.split_once(':').unwrap();
            let from = self.path("/etc/credstore").join(from);
            if from.exists() {
                fs::copy(from, given.join(to)).unwrap();
            }
        }
        run.env("CREDENTIALS_DIRECTORY", &given).run()
    }

    fn store(&self, credential: &str, from: &Path) {
        fs::copy(from, self.path("/etc/credstore").join(credential)).unwrap();
    }
}

fn shipped(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd").join(name)
}

#[test]
fn the_shipped_units_back_up_and_verify_a_cluster_with_certificates() {
    let source = Etcd::options().tls(Tls::Mutual).start();
    source.etcdctl(&["put", "/registry/pods/default/web", "{}"]).success();
    let machine = Machine::new();
    let certs = source.certs().unwrap();
    for (name, from) in [("ca.crt", &certs.ca), ("client.crt", &certs.client_cert), ("client.key", &certs.client_key)] {
        machine.store(&format!("holdfast.kubernetes.{name}"), from);
    }
    let fields = [
        ("endpoints", format!("{:?}", source.endpoints())),
        ("url", format!("\"file://{}\"", machine.path("/var/backups/etcd").display())),
    ];
    // A directory has no region and no credentials.
    let text = crate::adapted("kubernetes.toml", &fields);
    let text = text.lines().filter(|line| !line.starts_with("region") && !line.starts_with("credentials_file"));
    let policy = machine.path("/etc/holdfast/policies/kubernetes.toml");
    fs::write(&policy, text.collect::<Vec<_>>().join("\n")).unwrap();

    machine.start("backup", "kubernetes").success();
    machine.start("verify", "kubernetes").success();
    let metrics = |job: &str| {
        fs::read_to_string(machine.path(&format!("/var/lib/holdfast/metrics/{job}-kubernetes.prom"))).unwrap()
    };
    let revision =
        format!("holdfast_point_revision{{cluster=\"kubernetes\",command=\"backup\"}} {}\n", source.revision());
    assert!(metrics("backup").contains(&revision), "{}", metrics("backup"));
    assert!(metrics("verify").contains("holdfast_verified_level{cluster=\"kubernetes\",command=\"verify\"} 3\n"));
    assert!(
        metrics("verify")
            .contains("holdfast_objective_missed{cluster=\"kubernetes\",command=\"verify\",objective=\"rpo\"} 0\n")
    );
    // Without the key the unit fails, and says which file.
    fs::remove_file(machine.path("/etc/credstore/holdfast.kubernetes.client.key")).unwrap();
    let out = machine.start("backup", "kubernetes");
    assert_eq!(out.code(), 2, "{out}");
    assert!(out.stderr.contains("client.key"), "{out}");
    assert!(metrics("backup").contains("holdfast_run_exit_code{cluster=\"kubernetes\",command=\"backup\"} 2\n"));
}

#[test]
fn the_exit_codes_of_units_are_those_of_the_program() {
    for job in ["backup", "verify", "prune", "drill"] {
        let text = fs::read_to_string(shipped(&format!("holdfast-{job}@.service"))).unwrap();
        assert!(text.contains("\nSuccessExitStatus=5\n"), "{job}: a warning is no failed unit");
        assert!(text.contains("\nTimeoutStartSec="), "{job}: a run that hangs must end");
        assert!(
            !text.contains("Condition"),
            "{job}: a policy that is gone is a failure, not a reason to skip in silence"
        );
        assert!(text.contains(&format!("\nOnFailure=holdfast-failed@{job}-%i.service\n")), "{job}");
    }
}
