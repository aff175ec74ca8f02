//! Libraries and probes that others wrote, at work on Holdfast: aetcd and etcd3gw (Python), etcd3 (npm), and the stubs of
//! grpcio-health-checking. Each script counts what it looked at.

use std::path::{Path, PathBuf};

use crate::support::certs::Certs;
use crate::support::etcd::Etcd;
use crate::support::member::Member;
use crate::support::peers;
use crate::support::proxy::{Fault, Proxy};
use crate::support::run::{Outcome, Run};

/// A script with one of the libraries.
struct Library {
    /// Below tests/clients.
    script: &'static str,
    /// How many things it looks at, when it comes to its end.
    checks: u64,
    /// Something that a server says, and something else that must not pass.
    lie: (&'static [u8], &'static [u8]),
}

const AETCD: Library = Library { script: "python/aetcd_client.py", checks: 77, lie: (b"value-6", b"value-5") };
/// The value is in base64.
const ETCD3GW: Library =
    Library { script: "python/etcd3gw_client.py", checks: 72, lie: (b"dmFsdWUtNg==", b"dmFsdWUtNQ==") };
const NPM: Library = Library { script: "npm/etcd3_client.js", checks: 43, lie: (b"value-6", b"value-5") };
/// A message of two bytes: the status, which is SERVING, and then is not.
const PROBE: Library =
    Library { script: "python/health_probe.py", checks: 105, lie: (&[0, 0, 0, 0, 2, 8, 1], &[0, 0, 0, 0, 2, 8, 2]) };

impl Library {
    /// Runs it on a member, with what the member asks of its clients.
    fn run(&self, address: &str, tls: Option<&Certs>) -> Outcome {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients").join(self.script);
        let (host, port) = address.rsplit_once(':').unwrap();
        let run = if self.script.starts_with("npm") {
            Run::new(peers::program("node/bin", "node")).env("NODE_PATH", peers::library("npm").join("node_modules"))
        } else {
            Run::new("python3").env("PYTHONPATH", peers::library("python")).env("PYTHONDONTWRITEBYTECODE", "1")
        };
        let flag = |name: &str, path: &PathBuf| format!("--{name}={}", path.display());
        let tls = tls
            .map(|certs| vec![flag("ca", &certs.ca), flag("cert", &certs.client_cert), flag("key", &certs.client_key)]);
        // What a site has set for its own network is not for 127.0.0.1.
        let run = run.env("REQUESTS_CA_BUNDLE", "").env("CURL_CA_BUNDLE", "");
        let run = run.env("no_proxy", "127.0.0.1").env("NO_PROXY", "127.0.0.1");
        run.args(&[script]).args(&[host, port]).args(&tls.unwrap_or_default()).run()
    }

    /// It comes to its end, and has looked at everything.
    fn passes(&self, address: &str, tls: Option<&Certs>) {
        let done = self.run(address, tls).success().json();
        assert_eq!(done["checks"], self.checks, "{}", self.script);
    }

    /// On etcd, whose answers it expects; on Holdfast, plain and with certificates; and on one that lies.
    fn works(&self) {
        let etcd = Etcd::start();
        self.passes(&etcd.address(0), None);
        let plain = Member::start(&["--name=m0"]);
        self.passes(&plain.client.address(), None);
        let (member, certs) = with_certificates();
        self.passes(&member.client.address(), Some(&certs));
        let member = Member::start(&["--name=m0"]);
        let proxy = Proxy::before(member.client.address());
        proxy.set(Fault::Replace(self.lie.0, self.lie.1));
        let outcome = self.run(&proxy.address(), None);
        assert!(proxy.fired() > 0, "nothing was changed on the way to {}", self.script);
        assert!(outcome.code() != 0 && outcome.stderr.contains("AssertionError"), "{outcome}");
        assert!(!outcome.stdout().contains("checks"), "{outcome}");
    }
}

/// A member that lets nobody in without a certificate of its authority.
pub(crate) fn with_certificates() -> (Member, Certs) {
    let mut member = Member::prepared(&["--name=m0"]);
    let certs = Certs::make(member.dir.path());
    member.scheme = "https";
    let flag = |name: &str, path: &PathBuf| format!("--{name}={}", path.display());
    member.args.extend([
        flag("cert-file", &certs.server_cert),
        flag("key-file", &certs.server_key),
        flag("trusted-ca-file", &certs.ca),
    ]);
    member.client_tls =
        vec![flag("cacert", &certs.ca), flag("cert", &certs.client_cert), flag("key", &certs.client_key)];
    member.launch(|run| run);
    member.wait();
    let right = member.client_tls.split_off(1);
    assert_ne!(member.etcdctl(&["get", "a", "--dial-timeout=2s", "--command-timeout=2s"]).code(), 0);
    member.client_tls.extend(right);
    (member, certs)
}

#[test]
fn aetcd_of_python_works() {
    AETCD.works();
}

#[test]
fn etcd3gw_of_python_works() {
    ETCD3GW.works();
}

#[test]
fn etcd3_of_npm_works() {
    NPM.works();
}

#[test]
fn a_probe_of_grpcs_health_works() {
    PROBE.works();
}
