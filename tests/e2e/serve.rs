//! `holdfast serve` as operators of etcd start it, and as etcd's own client and probes see it.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::support::certs::Certs;
use crate::support::member::{LIMIT, Member, ask, get};
use crate::support::peers::{ETCD_3_5, program};
use crate::support::ports::Port;
use crate::support::run::{Outcome, Run, wait_until};

/// The value of a metric without labels, or with exactly these.
fn metric(page: &str, name: &str) -> f64 {
    let line = page.lines().find(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(' ')));
    let line = line.unwrap_or_else(|| panic!("no {name} in\n{page}"));
    line.rsplit_once(' ').unwrap().1.parse().unwrap()
}

#[test]
fn one_port_serves_etcdctl_and_pages_and_what_was_written_is_there_again() {
    let mut member = Member::start(&[]);
    assert_eq!(member.etcdctl(&["put", "a", "1"]).success().stdout(), "OK\n");
    assert_eq!(member.etcdctl(&["get", "a"]).success().stdout(), "a\n1\n");
    let address = member.client.address();
    let health = get(&address, "/health");
    assert_eq!((health.status, health.body.as_str()), (200, "{\"health\":\"true\",\"reason\":\"\"}"));
    assert_eq!(get(&address, "/health?serializable=true").status, 200);
    let refused = ask(&address, "POST", "/health", &address);
    assert!(refused.status == 405 && refused.head.contains("allow: get"), "{}", refused.head);
    assert_eq!(get(&address, "/livez").body, "ok\n");
    assert_eq!(get(&address, "/livez?verbose").body, "[+]serializable_read ok\nok\n");
    let ready = "[+]data_corruption ok\n[+]serializable_read ok\n[+]linearizable_read ok\n[+]non_learner ok\nok\n";
    assert_eq!(get(&address, "/readyz?verbose").body, ready);
    let fewer = "[+]serializable_read ok\n[+]non_learner ok\nok\n";
    assert_eq!(
        get(&address, "/readyz?verbose&exclude=data_corruption&exclude=linearizable_read&exclude=none").body,
        fewer
    );
    assert_eq!(get(&address, "/readyz/linearizable_read?verbose").body, "[+]linearizable_read ok\nok\n");
    assert_eq!([get(&address, "/livez/linearizable_read").status, get(&address, "/nothing").status], [404, 404]);
    let version = get(&address, "/version");
    let version: serde_json::Value = serde_json::from_str(&version.body).unwrap();
    assert!(
        version["etcdserver"].as_str().unwrap().starts_with("3.6.") && version["etcdcluster"] == "3.6.0",
        "{version}"
    );
    assert!(get(&address, "/debug/vars").body.contains("\"raft.status\""));

    assert_eq!(member.stop(), 0);
    let log = member.log();
    assert!(log.lines().all(|line| serde_json::from_str::<serde_json::Value>(line).is_ok()), "{log}");
    assert!(log.contains("ready to serve client requests"), "{log}");
    member.launch(|run| run);
    member.wait();
    assert_eq!(member.etcdctl(&["get", "a"]).success().stdout(), "a\n1\n");
    assert_eq!(member.stop(), 0);
}

#[test]
fn metrics_have_etcds_names_and_count_what_happens() {
    let metrics = Port::claim();
    let url = format!("--listen-metrics-urls=http://{}", metrics.address());
    let member = Member::start(&[&url, "--metrics=extensive", "--quota-backend-bytes=1073741824"]);
    for i in 0..5 {
        member.etcdctl(&["put", &format!("k{i}"), "v"]).success();
    }
    assert_ne!(member.etcdctl(&["put", "", "v"]).code(), 0);
    let granted = |member: &Member| member.etcdctl(&["lease", "grant", "60"]).success().stdout();
    let lease = granted(&member);
    granted(&member);
    member.etcdctl(&["lease", "revoke", lease.split(' ').nth(1).unwrap()]).success();
    let address = metrics.address();
    let page = get(&address, "/metrics");
    assert!(page.head.contains("content-type: text/plain; version=0.0.4"), "{}", page.head);
    let page = page.body;
    assert_eq!(metric(&page, "etcd_server_has_leader") + metric(&page, "etcd_server_is_leader"), 2.0);
    let put = "grpc_method=\"Put\",grpc_service=\"etcdserverpb.KV\",grpc_type=\"unary\"";
    assert_eq!(metric(&page, &format!("grpc_server_handled_total{{grpc_code=\"OK\",{put}}}")), 5.0);
    assert_eq!(metric(&page, &format!("grpc_server_handled_total{{grpc_code=\"InvalidArgument\",{put}}}")), 1.0);
    assert_eq!(metric(&page, &format!("grpc_server_started_total{{{put}}}")), 6.0);
    assert_eq!(metric(&page, &format!("grpc_server_handling_seconds_count{{{put}}}")), 6.0);
    assert_eq!(metric(&page, "etcd_server_quota_backend_bytes"), 1_073_741_824.0);
    assert_eq!(metric(&page, "etcd_debugging_mvcc_keys_total"), 5.0);
    assert_eq!(metric(&page, "etcd_debugging_mvcc_current_revision"), 6.0);
    assert!(metric(&page, "etcd_mvcc_db_total_size_in_bytes") > 0.0);
    assert!(metric(&page, "etcd_disk_wal_fsync_duration_seconds_count") >= 5.0);
    assert!(metric(&page, "etcd_disk_wal_write_bytes_total") > 0.0);
    assert_eq!(metric(&page, "etcd_debugging_lease_granted_total"), 2.0);
    assert_eq!(metric(&page, "etcd_debugging_lease_revoked_total"), 1.0);
    assert_eq!(metric(&page, "etcd_server_leader_changes_seen_total"), 1.0);
    assert_eq!(
        [metric(&page, "etcd_server_proposals_pending"), metric(&page, "etcd_server_proposals_failed_total")],
        [0.0; 2]
    );
    assert!(metric(&page, "process_resident_memory_bytes") > 1e6);
    assert!(metric(&page, "etcd_network_client_grpc_sent_bytes_total") > 0.0);
    let document = include_str!("../../docs/metrics.md");
    for name in page.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()) {
        let explained = document.contains(&format!("`{name}`")) || name.starts_with("process_");
        assert!(explained, "docs/metrics.md does not explain {name}");
    }
    // The second listener has probes, and neither gRPC nor the other pages.
    assert_eq!([get(&address, "/readyz").status, get(&address, "/version").status], [200, 404]);
    let outcome = Run::new(program(ETCD_3_5, "etcdctl")).env("ETCDCTL_API", "3");
    let flag = format!("--endpoints=http://{address}");
    assert_ne!(outcome.args(&[&flag, "--dial-timeout=1s", "--command-timeout=2s", "get", "a"]).run().code(), 0);
}

/// A page over TLS, asked for by a client that knows HTTP/1.1 only; with POST where there is something to send.
fn ask_tls(member: &Member, certs: &Certs, target: &str, body: &str) -> Outcome {
    let script = "import ssl,sys,urllib.request\n\
                  url,body,ca,cert,key=sys.argv[1:]\n\
                  context=ssl.create_default_context(cafile=ca)\n\
                  context.load_cert_chain(cert,key)\n\
                  print(urllib.request.urlopen(url,body.encode() or None,context=context,timeout=20).read().decode())\n";
    let url = format!("{}{target}", member.endpoint());
    let paths = [&certs.ca, &certs.client_cert, &certs.client_key].map(|path| path.to_str().unwrap());
    Run::new("python3").args(&["-c", script, &url, body]).args(&paths).run()
}

fn client_tls(certs: &Certs) -> Vec<String> {
    let flag = |name: &str, path: &Path| format!("--{name}={}", path.display());
    vec![flag("cacert", &certs.ca), flag("cert", &certs.client_cert), flag("key", &certs.client_key)]
}

/// The flags that kubeadm writes into the static pod of etcd.
fn kubeadm(member: &mut Member, certs: &Certs, metrics: &Port, peer: &Port) {
    let path = |path: &PathBuf| path.display().to_string();
    member.scheme = "https";
    member.client_tls = client_tls(certs);
    let peer = format!("https://{}", peer.address());
    member.args = vec![
        "--name=node1".to_owned(),
        "--feature-gates=InitialCorruptCheck=true".to_owned(),
        format!("--listen-peer-urls={peer}"),
        format!("--initial-advertise-peer-urls={peer}"),
        format!("--cert-file={}", path(&certs.server_cert)),
        format!("--key-file={}", path(&certs.server_key)),
        format!("--trusted-ca-file={}", path(&certs.ca)),
        "--client-cert-auth=true".to_owned(),
        format!("--peer-cert-file={}", path(&certs.server_cert)),
        format!("--peer-key-file={}", path(&certs.server_key)),
        format!("--peer-trusted-ca-file={}", path(&certs.ca)),
        "--peer-client-cert-auth=true".to_owned(),
        "--snapshot-count=10000".to_owned(),
        format!("--listen-metrics-urls=http://{}", metrics.address()),
        "--watch-progress-notify-interval=5s".to_owned(),
        format!("--initial-cluster=node1={peer}"),
        "--initial-cluster-state=new".to_owned(),
    ];
}

#[test]
fn the_static_pod_of_kubeadm_is_served_with_certificates_that_can_be_renewed() {
    let (metrics, peer) = (Port::claim(), Port::claim());
    let mut member = Member::prepared(&[]);
    let pki = member.dir.path().join("pki");
    fs::create_dir(&pki).unwrap();
    let certs = Certs::make(&pki);
    kubeadm(&mut member, &certs, &metrics, &peer);
    member.launch(|run| run);
    member.wait();
    member.etcdctl(&["put", "a", "1"]).success();
    assert!(ask_tls(&member, &certs, "/health", "").success().stdout().starts_with("{\"health\":\"true\""));
    let range = ask_tls(&member, &certs, "/v3/kv/range", "{\"key\":\"YQ==\"}").success().stdout();
    assert!(range.contains("\"value\":\"MQ==\""), "{range}");
    assert_eq!(get(&metrics.address(), "/livez").body, "ok\n");
    // Neither nobody nor somebody of another authority is let in, and plain HTTP is not spoken there.
    let right = std::mem::take(&mut member.client_tls);
    member.client_tls = vec![right[0].clone()];
    assert_ne!(member.etcdctl(&["get", "a", "--dial-timeout=2s", "--command-timeout=2s"]).code(), 0);
    let other = [format!("--cert={}", certs.other_cert.display()), format!("--key={}", certs.other_key.display())];
    member.client_tls = vec![right[0].clone(), other[0].clone(), other[1].clone()];
    assert_ne!(member.etcdctl(&["get", "a", "--dial-timeout=2s", "--command-timeout=2s"]).code(), 0);
    member.client_tls = right;
    assert_eq!(member.etcdctl(&["get", "a"]).success().stdout(), "a\n1\n");

    // A key that does not fit changes nothing; a new set counts at once.
    let key = fs::read(&certs.server_key).unwrap();
    fs::write(&certs.server_key, fs::read(&certs.other_key).unwrap()).unwrap();
    assert_eq!(member.etcdctl(&["get", "a"]).success().stdout(), "a\n1\n");
    assert!(member.log().contains("the old certificates serve on"), "{}", member.log());
    fs::write(&certs.server_key, key).unwrap();
    // SIGHUP reads them at once, and is no reason to end.
    let read_again = |member: &Member| member.log().matches("certificates were read again").count();
    let before = read_again(&member);
    member.process.as_ref().unwrap().signal(Signal::HUP);
    wait_until("the certificates are read again", LIMIT, || read_again(&member) > before);
    let old = member.dir.path().join("old");
    fs::create_dir(&old).unwrap();
    fs::copy(&certs.ca, old.join("ca.crt")).unwrap();
    let renewed = Certs::make(&pki);
    assert_eq!(renewed.ca, certs.ca);
    assert_eq!(member.etcdctl(&["get", "a"]).success().stdout(), "a\n1\n");
    member.client_tls[0] = format!("--cacert={}", old.join("ca.crt").display());
    assert_ne!(member.etcdctl(&["get", "a", "--dial-timeout=2s", "--command-timeout=2s"]).code(), 0);
    assert_eq!(member.stop(), 0);
}

#[test]
fn only_certificates_with_the_right_names_are_let_in() {
    let mut member = Member::prepared(&[]);
    let certs = Certs::make(member.dir.path());
    let flag = |name: &str, path: &Path| format!("--{name}={}", path.display());
    member.scheme = "https";
    member.args = vec![
        flag("cert-file", &certs.server_cert),
        flag("key-file", &certs.server_key),
        flag("trusted-ca-file", &certs.ca),
        "--client-cert-allowed-hostname=elsewhere.example,localhost".to_owned(),
        "--cipher-suites=TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256".to_owned(),
        "--tls-max-version=TLS1.2".to_owned(),
    ];
    // The server's own names this host, the client's names nobody.
    let client = client_tls(&certs);
    member.client_tls = vec![client[0].clone(), flag("cert", &certs.server_cert), flag("key", &certs.server_key)];
    member.launch(|run| run);
    member.wait();
    member.etcdctl(&["put", "a", "1"]).success();
    member.client_tls = client;
    assert_ne!(member.etcdctl(&["get", "a", "--dial-timeout=2s", "--command-timeout=2s"]).code(), 0);
    assert!(member.log().contains("rejected connection on client endpoint"), "{}", member.log());
}

/// As etcd's file has it, and no flag of etcd's.
#[test]
fn only_certificates_with_the_right_common_name_are_let_in() {
    let dir = tempfile::TempDir::with_prefix_in("certs-", env!("CARGO_TARGET_TMPDIR")).unwrap();
    let certs = Certs::make(dir.path());
    let mut member = guarded(&certs, &certs.crl);
    member.args.push("--client-cert-allowed-cn=nobody,client".to_owned());
    member.client_tls = client_tls(&certs);
    member.launch(|run| run);
    member.wait();
    assert!(lets_in(&member, &certs, &certs.client_cert, &certs.client_key));
    assert!(!lets_in(&member, &certs, &certs.server_cert, &certs.server_key));
    assert!(member.log().contains("rejected connection on client endpoint"), "{}", member.log());
}

/// A member that lets in clients of one authority, but those on a list.
fn guarded(certs: &Certs, crl: &Path) -> Member {
    let mut member = Member::prepared(&[]);
    let flag = |name: &str, path: &Path| format!("--{name}={}", path.display());
    member.scheme = "https";
    member.args = vec![
        flag("cert-file", &certs.server_cert),
        flag("key-file", &certs.server_key),
        flag("trusted-ca-file", &certs.ca),
        flag("client-crl-file", crl),
    ];
    member
}

/// Whether a client that shows this certificate is let in.
fn lets_in(member: &Member, certs: &Certs, cert: &Path, key: &Path) -> bool {
    let flags = ["cacert", "cert", "key"].into_iter().zip([certs.ca.as_path(), cert, key]);
    let flags: Vec<String> = flags.map(|(name, path)| format!("--{name}={}", path.display())).collect();
    let run = Run::new(program(ETCD_3_5, "etcdctl")).env("ETCDCTL_API", "3");
    let run = run.args(&[format!("--endpoints={}", member.endpoint())]).args(&flags);
    run.args(&["--dial-timeout=2s", "--command-timeout=2s", "get", "a"]).run().code() == 0
}

#[test]
fn certificates_that_are_expired_revoked_or_of_nobody_known_are_refused_with_the_reason() {
    let dir = tempfile::TempDir::with_prefix_in("certs-", env!("CARGO_TARGET_TMPDIR")).unwrap();
    let certs = Certs::make(dir.path());
    let crl = dir.path().join("crl.pem");
    fs::copy(&certs.crl, &crl).unwrap();
    let mut member = guarded(&certs, &crl);
    member.client_tls = client_tls(&certs);
    member.launch(|run| run);
    member.wait();
    let refused = |cert: &Path, key: &Path, why: &str| {
        assert!(!lets_in(&member, &certs, cert, key), "{why}");
        let log = member.log().to_lowercase();
        let told = |line: &&str| line.contains("rejected connection on client endpoint") && line.contains(why);
        let line = log.lines().find(told).unwrap_or_else(|| panic!("no {why} in {log}"));
        assert!(line.contains("127.0.0.1:"), "{line}");
    };
    refused(&certs.expired_cert, &certs.expired_key, "expired");
    refused(&certs.other_cert, &certs.other_key, "unknownissuer");
    assert!(lets_in(&member, &certs, &certs.client_cert, &certs.client_key));
    // A list that changes counts from the next handshake on.
    fs::copy(&certs.client_crl, &crl).unwrap();
    refused(&certs.client_cert, &certs.client_key, "revoked");
    assert!(lets_in(&member, &certs, &certs.server_cert, &certs.server_key));
    fs::write(&crl, "no list").unwrap();
    assert!(!lets_in(&member, &certs, &certs.client_cert, &certs.client_key), "the old list counts on");
    assert!(member.log().contains("the old certificates serve on"), "{}", member.log());
    fs::copy(&certs.crl, &crl).unwrap();
    assert!(lets_in(&member, &certs, &certs.client_cert, &certs.client_key));
    assert!(member.log().matches("rejected connection").count() <= 4, "each kind is told once: {}", member.log());
}

#[test]
fn the_common_name_in_a_certificate_is_a_user() {
    let dir = tempfile::TempDir::with_prefix_in("certs-", env!("CARGO_TARGET_TMPDIR")).unwrap();
    let certs = Certs::make(dir.path());
    let mut member = guarded(&certs, &certs.crl);
    member.args.push("--client-cert-auth".to_owned());
    member.client_tls = client_tls(&certs);
    member.launch(|run| run);
    member.wait();
    let root = "--user=root:secret";
    for command in [
        "user add root:secret",
        "user grant-role root root",
        "user add client --no-password",
        "role add reader",
        "role grant-permission reader readwrite a b",
        "user grant-role client reader",
        "auth enable",
    ] {
        let words: Vec<&str> = command.split(' ').collect();
        member.etcdctl(&words).success();
    }
    // The certificate's name is client; a token goes before it; the gateway's own connection says nothing.
    member.etcdctl(&["put", "a", "1"]).success();
    let denied = member.etcdctl(&["put", "b", "1"]);
    assert!(denied.code() != 0 && denied.stderr.contains("permission denied"), "{denied:?}");
    member.etcdctl(&[root, "put", "b", "1"]).success();
    for (target, body) in [
        ("/v3/kv/range", r#"{"key":"YQ=="}"#),
        ("/v3/lock/lock", r#"{"name":"YWE="}"#),
        ("/v3/lock/unlock", r#"{"key":"YQ=="}"#),
        ("/v3/election/proclaim", r#"{"leader":{"key":"YWI=","rev":"0"},"value":"YQ=="}"#),
        ("/v3/watch", r#"{"create_request":{"key":"YQ=="}}"#),
        ("/v3/none", "{}"),
    ] {
        let refused = ask_tls(&member, &certs, target, body);
        assert!(refused.code() != 0 && refused.stderr.contains("HTTP Error 400"), "{target}: {refused:?}");
    }
    assert_eq!(member.etcdctl(&["get", "a", "b", "--keys-only"]).success().stdout(), "a\n\n");
    let wrong = member.etcdctl(&["--user=root:wrong", "get", "a"]);
    assert!(wrong.code() != 0 && wrong.stderr.contains("authentication failed"), "{wrong:?}");
    assert!(!member.log().contains("secret"), "no password is in the log");
    // Users outlive the process; sessions need not.
    assert_eq!(member.stop(), 0);
    member.launch(|run| run);
    member.wait();
    assert_ne!(member.etcdctl(&["get", "b"]).code(), 0);
    assert_eq!(member.etcdctl(&[root, "get", "a"]).success().stdout(), "a\n1\n");
    member.etcdctl(&[root, "user", "delete", "client"]).success();
    assert_ne!(member.etcdctl(&["get", "a"]).code(), 0, "its user is gone");
    member.etcdctl(&[root, "auth", "disable"]).success();
    assert_eq!(member.etcdctl(&["get", "b"]).success().stdout(), "b\n1\n");
}

#[test]
fn a_member_makes_its_own_certificate_once() {
    let mut member = Member::prepared(&["--auto-tls", "--self-signed-cert-validity=2"]);
    member.scheme = "https";
    let cert = member.data_dir().join("fixtures/client/cert.pem");
    // Whoever trusts the certificate needs nothing else.
    member.client_tls = vec![format!("--cacert={}", cert.display())];
    member.launch(|run| run);
    member.wait();
    let made = fs::read_to_string(&cert).unwrap();
    assert_eq!(member.etcdctl(&["put", "a", "1"]).success().stdout(), "OK\n");
    let told = Run::new("openssl").args(&["x509", "-noout", "-checkend", "62208000", "-in"]).args(&[&cert]).run();
    assert_eq!(told.code(), 0, "valid for two years: {told}");
    assert_eq!(member.stop(), 0);
    member.launch(|run| run);
    member.wait();
    assert_eq!(member.etcdctl(&["get", "a"]).success().stdout(), "a\n1\n");
    assert_eq!(fs::read_to_string(&cert).unwrap(), made);
}

#[test]
fn a_unix_socket_serves_as_a_port_does_and_goes_with_its_member() {
    let mut member = Member::prepared(&[]);
    let path = member.dir.path().join("s");
    let url = format!("unix://{}", path.display());
    member.args = vec![format!("--listen-client-urls={},{url}", member.endpoint())];
    let page = |path: &Path| {
        let mut stream = UnixStream::connect(path).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        stream.write_all(b"GET /health HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    };
    for _ in 0..2 {
        member.launch(|run| run);
        member.wait();
        assert!(page(&path).ends_with("{\"health\":\"true\",\"reason\":\"\"}"), "{}", page(&path));
        let flag = format!("--endpoints={url}");
        let run = Run::new(program(ETCD_3_5, "etcdctl")).env("ETCDCTL_API", "3");
        assert_eq!(run.args(&[&flag, "put", "a", "1"]).run().success().stdout(), "OK\n");
        // What is left of a member that was killed is not in the way of the next.
        member.process.take().unwrap().kill();
        assert!(path.exists());
    }
    member.launch(|run| run);
    member.wait();
    assert_eq!(member.stop(), 0);
    assert!(!path.exists());
}

#[test]
fn whoever_pings_without_end_is_told_to_go() {
    let member = Member::start(&[]);
    let mut stream = TcpStream::connect(member.client.address()).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").unwrap();
    for _ in 0..4 {
        stream.write_all(b"\0\0\x08\x06\0\0\0\0\0holdfast").unwrap();
    }
    let mut told = vec![];
    stream.read_to_end(&mut told).unwrap();
    let last_words = b"\0\0\x16\x07\0\0\0\0\0\0\0\0\0\0\0\0\x0btoo_many_pings";
    assert!(told.ends_with(last_words), "{told:?}");
    wait_until("the log tells of it", LIMIT, || member.log().contains("asked too often whether the member lives"));
    assert_eq!(member.etcdctl(&["put", "a", "1"]).success().stdout(), "OK\n");
}

#[test]
fn a_log_goes_to_every_place_that_is_named_and_proxies_of_etcd_are_not_there() {
    let mut member = Member::prepared(&[]);
    let file = member.dir.path().join("second.log");
    member.args = vec![format!("--log-outputs=stderr,{}", file.display()), "--enable-log-rotation".to_owned()];
    member.launch(|run| run);
    member.wait();
    assert_eq!(member.stop(), 0);
    let second = fs::read_to_string(&file).unwrap();
    assert!(second.contains("ready to serve client requests") && second == member.log(), "{second}");
    for command in ["gateway", "grpc-proxy"] {
        let outcome = Run::holdfast().args(&[command, "start", "--endpoints=127.0.0.1:2379"]).run().exits(2);
        assert!(outcome.stderr.contains(&format!("there is no {command} in Holdfast")), "{outcome}");
        assert!(outcome.stderr.contains("TCP proxy"), "{outcome}");
    }
}

#[test]
fn configuration_comes_from_the_environment_and_from_a_file_too() {
    let mut member = Member::prepared(&[]);
    let config = member.dir.path().join("etcd.yaml");
    let (url, data) = (member.endpoint(), member.data_dir());
    let text = format!(
        "name: m1\ndata-dir: {}\nlisten-client-urls: {url}\nadvertise-client-urls: {url}\ninitial-advertise-peer-urls: http://localhost:2380\n",
        data.display()
    );
    fs::write(&config, text).unwrap();
    let started = |run: Run, member: &mut Member| {
        member.process = Some(run.start(member.dir.path().join("log")));
        member.wait();
        let list = member.etcdctl(&["member", "list"]).success().stdout();
        assert!(list.contains("m1") && list.contains(&url), "{list}");
        assert_eq!(member.stop(), 0);
    };
    started(Run::holdfast().args(&["serve", "--config-file", config.to_str().unwrap()]), &mut member);
    let environment = Run::holdfast().args(&["serve"]).env("ETCD_NAME", "m1").env("ETCD_DATA_DIR", &data);
    started(environment.env("ETCD_LISTEN_CLIENT_URLS", &url).env("ETCD_ADVERTISE_CLIENT_URLS", &url), &mut member);
}

#[test]
fn systemd_is_told_and_streams_do_not_hold_up_the_end() {
    let mut member = Member::prepared(&[]);
    let path = member.dir.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(LIMIT)).unwrap();
    member.launch(|run| run.env("NOTIFY_SOCKET", &path));
    let told = || {
        let mut buffer = [0; 64];
        let n = socket.recv(&mut buffer).expect("systemd is told in time");
        String::from_utf8_lossy(&buffer[..n]).into_owned()
    };
    assert_eq!(told(), "READY=1");
    // Told when it is true.
    assert_eq!(member.etcdctl(&["endpoint", "health"]).code(), 0);
    let lease = member.etcdctl(&["lease", "grant", "60"]).success().stdout();
    let id = lease.split(' ').nth(1).unwrap().to_owned();
    let flag = format!("--endpoints={}", member.endpoint());
    let keeper = Run::new(program(ETCD_3_5, "etcdctl")).env("ETCDCTL_API", "3");
    let log = member.dir.path().join("keeper");
    let _keeper = keeper.args(&[&flag, "lease", "keep-alive", &id]).start(&log);
    wait_until("the lease is kept alive", LIMIT, || fs::read_to_string(&log).unwrap().contains("keepalived"));
    let began = Instant::now();
    assert_eq!(member.stop(), 0);
    assert!(began.elapsed() < Duration::from_secs(4), "a stream held it up for {:?}", began.elapsed());
    assert_eq!(told(), "STOPPING=1");
}

#[test]
fn a_log_that_logrotate_put_aside_is_gone_on_with_in_a_new_file() {
    let mut member = Member::prepared(&[]);
    let (log, aside) = (member.dir.path().join("etcd.log"), member.dir.path().join("etcd.log.1"));
    member.args = vec![format!("--log-outputs={}", log.display())];
    member.launch(|run| run);
    member.wait();
    fs::rename(&log, &aside).unwrap();
    member.process.as_ref().unwrap().signal(Signal::HUP);
    wait_until("the new file", LIMIT, || log.exists());
    member.etcdctl(&["put", "a", "1"]).success();
    assert_eq!(member.stop(), 0);
    let read = |path: &Path| fs::read_to_string(path).unwrap();
    assert!(read(&aside).contains("ready to serve client requests") && !read(&aside).contains("closing etcd server"));
    assert!(read(&log).contains("closing etcd server") && !read(&log).contains("ready to serve"), "{}", read(&log));
}

#[test]
fn a_name_that_is_not_on_the_list_is_not_answered() {
    let member = Member::start(&["--host-whitelist=127.0.0.1,etcd.example"]);
    let address = member.client.address();
    assert_eq!(get(&address, "/health").status, 200);
    assert_eq!(ask(&address, "GET", "/health", "etcd.example:2379").status, 200);
    let refused = ask(&address, "GET", "/health", "evil.example");
    assert!(refused.status == 421 && refused.body.contains("--host-whitelist"), "{}", refused.body);
    // Nor as gRPC over HTTP/1.1, which only a page of that name would send.
    let mut stream = TcpStream::connect(&address).unwrap();
    let head = "POST /etcdserverpb.KV/Put HTTP/1.1\r\nContent-Type: application/grpc\r\nConnection: close\r\n";
    let body = b"\0\0\0\0\x06\n\x01k\x12\x01v";
    let request = format!("{head}Host: evil.example\r\nContent-Length: {}\r\n\r\n", body.len());
    stream.write_all(&[request.as_bytes(), body].concat()).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    assert!(text.starts_with("HTTP/1.1 421 "), "{text}");
    assert_eq!(member.etcdctl(&["get", "k"]).success().stdout(), "");
}

#[test]
fn http_can_have_a_port_of_its_own() {
    let http = Port::claim();
    let member = Member::start(&[&format!("--listen-client-http-urls=http://{}", http.address())]);
    member.etcdctl(&["put", "a", "1"]).success();
    assert_eq!([get(&http.address(), "/health").status, get(&member.client.address(), "/health").status], [200, 404]);
    // JSON is HTTP: an empty question is refused where it is understood.
    let range = |address: String| ask(&address, "POST", "/v3/kv/range", &address).status;
    assert_eq!([range(http.address()), range(member.client.address())], [400, 404]);
}

#[test]
fn versions_are_printed_as_etcd_prints_them() {
    let printed = Run::holdfast().args(&["serve", "--version"]).run().success().stdout();
    let lines: Vec<&str> = printed.lines().collect();
    let version = lines[0].strip_prefix("etcd Version: ").unwrap();
    assert!(version.split('.').count() == 3 && version.starts_with("3.6."), "{printed}");
    assert_eq!(lines[1], format!("Holdfast Version: {}", env!("CARGO_PKG_VERSION")));
}

#[test]
fn a_full_store_is_not_well_and_yet_ready() {
    let member = Member::start(&["--quota-backend-bytes=8388608"]);
    let flag = format!("--endpoints={}", member.endpoint());
    let value = "x".repeat(1 << 20);
    let put = |i: u32| {
        let run = Run::new(program(ETCD_3_5, "etcdctl")).env("ETCDCTL_API", "3").stdin(value.clone());
        run.args(&[&flag, "put", &format!("k{i}")]).run()
    };
    let refused = (0..32).map(put).find(|outcome| outcome.code() != 0).expect("the quota is met");
    assert!(refused.stderr.contains("mvcc: database space exceeded"), "{refused}");
    let address = member.client.address();
    let health = get(&address, "/health");
    assert_eq!((health.status, health.body.as_str()), (503, "{\"health\":\"false\",\"reason\":\"ALARM NOSPACE\"}"));
    assert_eq!(get(&address, "/health?exclude=NOSPACE").status, 200);
    assert_eq!([get(&address, "/readyz").status, get(&address, "/livez").status], [200, 200]);
    let page = get(&address, "/metrics").body;
    let alarm = page.lines().find(|line| line.starts_with("etcd_debugging_server_alarms{")).unwrap();
    assert!(alarm.contains("alarm_type=\"NOSPACE\"") && alarm.ends_with(" 1"), "{alarm}");
    assert_eq!(metric(&page, "etcd_server_health_failures"), 1.0);
}
