//! Copies: the same bytes in a second repository, at the cost of what is not there yet, and nothing that is damaged.

use serde_json::Value;
use std::fs;

use crate::place::{Place, Tree, loaded};
use crate::support::etcd::Etcd;
use crate::support::load;

/// `holdfast copy --to` the folder `second`, with these arguments; must exit with `code`.
#[track_caller]
fn copy(place: &Place, args: &[&str], code: i32) -> Value {
    let to = format!("file://{}", place.text("second"));
    place.with_policy(&[&["copy", "--to", &to, "-o", "json"], args].concat()).exits(code).json()
}

fn number(answer: &Value, field: &str) -> u64 {
    answer[field].as_u64().unwrap()
}

fn outcomes(answer: &Value) -> Vec<&str> {
    answer["points"].as_array().unwrap().iter().map(|point| point["outcome"].as_str().unwrap()).collect()
}

/// What is below `folder` of a repository's tree.
fn below(tree: &Tree, folder: &str) -> Tree {
    tree.iter().filter(|(path, _)| path.contains(folder)).map(|(path, file)| (path.clone(), file.clone())).collect()
}

/// A place with a full point of several objects and an increment on it.
fn two_points() -> (Place, Etcd) {
    let (place, etcd) = (Place::new(), loaded());
    place.policy_at(&etcd.address(0));
    place.with_policy(&["backup"]).success();
    load::fill(&etcd, 7, 0, 10);
    let second = place.with_policy(&["backup", "-o", "json"]).success().json();
    assert_eq!(second["manifest"]["kind"], "incremental");
    (place, etcd)
}

#[test]
fn a_copy_restores_alike_and_costs_what_is_not_there_yet() {
    let (place, etcd) = two_points();
    let first = copy(&place, &["--point", "latest~1"], 0);
    let source = place.tree("repository");
    let data = below(&source, "/data/");
    assert_eq!(outcomes(&first), ["copied"]);
    assert_eq!((number(&first, "objects"), number(&first, "lineages")), (data.len() as u64 - 1, 1));

    // The increment's manifest lists the objects of the full point, which are there.
    let second = copy(&place, &[], 0);
    assert_eq!(outcomes(&second), ["already_there", "copied"]);
    assert_eq!((number(&second, "objects"), number(&second, "objects_there")), (1, data.len() as u64 - 1));
    assert_eq!(number(&first, "bytes") + number(&second, "bytes"), data.values().map(|file| file.0).sum::<u64>());
    let third = copy(&place, &["--all"], 0);
    assert_eq!((outcomes(&third), number(&third, "objects")), (vec!["already_there"; 2], 0));

    // Same names, same bytes; what is the first repository's own (who it is, who verified it) stays there.
    let target = place.tree("second");
    for folder in ["/data/", "/points/", "/lineages/"] {
        assert_eq!(below(&target, folder), below(&source, folder), "{folder}");
    }
    assert_eq!(
        target.len(),
        1 + ["/data/", "/points/", "/lineages/"].map(|f| below(&source, f).len()).iter().sum::<usize>()
    );
    let url = format!("file://{}", place.text("second"));
    let with = |args: &[&str]| place.run(args).args(&["--repository", &url, "--cluster", "prod"]).run();
    with(&["verify", "--level", "3"]).success();
    with(&["restore", "--etcd-snapshot", "out/copy.db", "--yes"]).success();
    place.with_policy(&["restore", "--etcd-snapshot", "out/first.db", "--yes"]).success();
    let restored = place.tree("out");
    assert_eq!(restored["copy.db"], restored["first.db"]);

    // The next backup of the source is one more increment there, and one more object here.
    load::fill(&etcd, 7, 20, 5);
    place.with_policy(&["backup"]).success();
    let fourth = copy(&place, &[], 0);
    assert_eq!((outcomes(&fourth)[2], number(&fourth, "objects"), number(&fourth, "lineages")), ("copied", 1, 0));
}

#[test]
fn a_damaged_point_is_named_and_left_and_the_rest_is_copied() {
    let (place, _etcd) = two_points();
    let shown = place.with_policy(&["show", "-o", "json"]).success().json();
    let own = shown["manifest"]["objects"].as_array().unwrap().last().unwrap()["name"].as_str().unwrap().to_owned();
    let path = place.repository().join(&own);
    let whole = fs::read(&path).unwrap();
    let mut flipped = whole.clone();
    *flipped.last_mut().unwrap() ^= 1;
    fs::remove_file(&path).unwrap();
    fs::write(&path, &flipped).unwrap();
    let answer = copy(&place, &[], 3);
    assert_eq!(outcomes(&answer), ["copied", "damaged"]);
    let finding = &answer["points"][1]["findings"][0];
    assert_eq!((finding["object"].as_str(), finding["check"].as_str()), (Some(own.as_str()), Some("sha256")));
    let target = place.tree("second");
    assert!(!target.contains_key(&own) && below(&target, "/points/").len() == 1);
    // Put right, the same command brings the rest: one object, one manifest.
    fs::write(&path, whole).unwrap();
    let answer = copy(&place, &[], 0);
    assert_eq!((outcomes(&answer), number(&answer, "objects")), (vec!["already_there", "copied"], 1));
}

#[test]
fn a_copy_that_was_cut_short_shows_nothing_half_and_goes_on_from_there() {
    let (place, _etcd) = two_points();
    copy(&place, &[], 0);
    let source = place.tree("second");
    // As a kill leaves it: some objects, no manifest; and one object that never became whole.
    let points: Vec<_> = below(&source, "/points/").into_keys().collect();
    let data: Vec<_> = below(&source, "/data/").into_keys().collect();
    for path in &points {
        fs::remove_file(place.path("second").join(path)).unwrap();
    }
    fs::remove_file(place.path("second").join(&data[0])).unwrap();
    fs::remove_file(place.path("second").join(&data[1])).unwrap();
    fs::write(place.path("second").join(&data[1]), "cut").unwrap();
    let url = format!("file://{}", place.text("second"));
    place.run(&["list", "--repository", &url, "--cluster", "prod"]).run().exits(4);
    let answer = copy(&place, &[], 5);
    assert_eq!((outcomes(&answer), number(&answer, "objects")), (vec!["copied"; 2], 2));
    assert!(answer["warnings"][0].as_str().unwrap().contains("whole again"), "{answer}");
    assert_eq!(place.tree("second"), source);
}

#[test]
fn the_second_repository_may_have_a_policy_of_its_own() {
    let (place, etcd) = two_points();
    let second = |cluster: &str, folder: &str| {
        let (table, url) = (etcd.policy_table(cluster), format!("file://{}", place.text(folder)));
        // Its keys may be on another host: objects are copied as they are stored.
        let encryption = "encryption = { passphrase_file = \"/nowhere/passphrase\" }";
        place.write("second.toml", format!("{table}\n[repository]\nurl = {url:?}\n{encryption}\n"))
    };
    let copy = |policy: &str, code| place.with_policy(&["copy", "--to-policy", policy, "-o", "json"]).exits(code);
    assert_eq!(outcomes(&copy(&second("prod", "second"), 0).json()), ["copied"; 2]);
    assert!(copy(&second("other", "second"), 2).stderr.contains("not \\\"prod\\\""));
    assert!(copy(&second("prod", "repository"), 2).stderr.contains("onto itself"));
    let none = place.with_policy(&["copy"]).exits(2);
    assert!(none.stderr.contains("--to"), "{none}");
}

#[test]
fn nothing_is_copied_onto_itself_or_into_what_is_no_repository() {
    let (place, _etcd) = two_points();
    let url = place.url();
    let outcome = place.with_policy(&["copy", "--to", &format!("{url}/")]).exits(2);
    assert!(outcome.stderr.contains("onto itself") && outcome.stderr.contains("hint: "), "{outcome}");
    let strange = format!("file://{}", place.text("out"));
    place.write("out/notes.txt", "mine");
    let before = place.tree("out");
    assert!(place.with_policy(&["copy", "--to", &strange]).exits(2).stderr.contains("is not a Holdfast repository"));
    assert_eq!(place.tree("out"), before);
}
