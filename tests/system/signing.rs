//! Keys that OpenSSL makes, and signatures that it checks: the commands of docs/formats/repository.md, as they stand there.

use std::fs;
use std::path::{Path, PathBuf};

use crate::program;
use crate::support::run::{Outcome, Run, holdfast};

/// The script of the document that checks a signature.
fn script() -> String {
    let document = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/formats/repository.md");
    let text = fs::read_to_string(document).unwrap();
    let rest = text.split("To check one with OpenSSL 3").nth(1).expect("the document has the section");
    let block = rest.split("```sh\n").nth(1).and_then(|rest| rest.split("```").next());
    block.expect("the section has a script").to_owned()
}

/// Runs it on `manifest` in an empty folder.
fn check(manifest: &Path, signer: &str) -> Outcome {
    let dir = tempfile::tempdir().unwrap();
    let script = script().replace("FILE", manifest.to_str().unwrap());
    Run::new("bash").args(&["-eu", "-o", "pipefail", "-c", &script]).env("SIGNER", signer).dir(dir.path()).run()
}

fn openssl(args: &[&str]) -> String {
    Run::new(program("HOLDFAST_SYSTEM_TOOLS", "openssl")).args(args).run().success().stdout()
}

#[test]
fn a_point_signed_with_a_key_of_openssl_is_checked_by_openssl_alone() {
    let dir = tempfile::tempdir().unwrap();
    let text = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    openssl(&["genpkey", "-algorithm", "ed25519", "-out", &text("signing.pem")]);
    let public = openssl(&["pkey", "-in", &text("signing.pem"), "-pubout"]);
    let signer = public.lines().nth(1).unwrap();
    let url = format!("file://{}", text("repository"));
    let policy = format!(
        "[cluster]\nname = \"prod\"\nendpoints = [\"http://127.0.0.1:1\"]\n[repository]\nurl = {url:?}\n\
         encryption = \"none\"\nsigning_key = \"signing.pem\"\n"
    );
    fs::write(dir.path().join("policy.toml"), policy).unwrap();
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/etcd/etcd-3.5-auth.db");
    let made = holdfast(&["import", file.to_str().unwrap(), "--policy", &text("policy.toml"), "-o", "json"]).success();
    let id = made.json()["imported"][0]["point"].as_str().unwrap().to_owned();
    let shown = holdfast(&["show", "--policy", &text("policy.toml"), "-o", "json"]).success().json();
    assert_eq!((&shown["signature"], &shown["signer"]), (&"trusted".into(), &signer.into()));
    let lineage = shown["manifest"]["lineage"].as_str().unwrap();
    let points = dir.path().join("repository/clusters/prod/points").join(lineage);
    let manifest: PathBuf = fs::read_dir(points).unwrap().next().unwrap().unwrap().path();
    assert!(manifest.to_str().unwrap().contains(&id));
    assert!(check(&manifest, signer).success().stdout().contains("Signature Verified Successfully"));
    // The script rejects: another signer, other content.
    let stranger = signer.replace(&signer[20..22], if &signer[20..22] == "AA" { "BB" } else { "AA" });
    assert_ne!(check(&manifest, &stranger).code(), 0);
    let changed = fs::read_to_string(&manifest).unwrap().replace("\"full\"", "\"null\"");
    fs::write(dir.path().join("changed.json"), changed).unwrap();
    assert_ne!(check(&dir.path().join("changed.json"), signer).code(), 0);
}

#[test]
fn the_frozen_signed_manifest_is_right_for_openssl_too() {
    let frozen = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/signed/manifest.json");
    let text = fs::read_to_string(&frozen).unwrap();
    let signer = text.lines().nth(5).unwrap().split('"').nth(3).unwrap().to_owned();
    program("HOLDFAST_SYSTEM_TOOLS", "openssl");
    assert!(check(&frozen, &signer).success().stdout().contains("Signature Verified Successfully"));
}
