//! Importing a file again: it is said to be there only when it is, and two imports at once do no harm.

use holdfast::base::clock::parse_rfc3339;
use holdfast::vault::condemned::CondemnedList;
use holdfast::vault::sealed;
use serde_json::Value;
use std::fs;

use crate::files::fixture;
use crate::place::Place;
use crate::support::run::Outcome;

/// A place with one imported file in its repository: the place, the file, and what the import answered.
fn imported() -> (Place, String, Value) {
    let place = Place::new();
    place.policy_at("127.0.0.1:1");
    let file = place.write("k8s.db", fixture("k8s-etcd-3.6.db"));
    let first = import(&place, &file).success().json()["imported"][0].clone();
    assert_eq!(first["already_there"], false);
    (place, file, first)
}

fn import(place: &Place, file: &str) -> Outcome {
    place.with_policy(&["import", file, "-o", "json"])
}

fn objects(place: &Place, point: &Value) -> Vec<String> {
    let shown = place.with_policy(&["show", point.as_str().unwrap(), "-o", "json"]).success().json();
    let objects = shown["manifest"]["objects"].as_array().unwrap();
    objects.iter().map(|object| object["name"].as_str().unwrap().to_owned()).collect()
}

/// Imports again what must not count as there, because of `words`; the new row.
#[track_caller]
fn anew(place: &Place, file: &str, words: &[&str]) -> Value {
    let row = import(place, file).exits(5).json()["imported"][0].clone();
    let why = row["warnings"][0].as_str().unwrap();
    assert!(words.iter().all(|word| why.contains(word)) && why.contains("imported anew"), "{row}");
    assert_eq!(row["already_there"], false);
    row
}

#[test]
fn a_file_is_there_already_only_while_its_point_is_whole() {
    let (place, file, first) = imported();
    let again = import(&place, &file).success().json()["imported"][0].clone();
    assert_eq!((&again["already_there"], &again["point"]), (&Value::Bool(true), &first["point"]));
    let name = &objects(&place, &first["point"])[0];
    let path = place.repository().join(name);
    let whole = fs::read(&path).unwrap();
    let mut flipped = whole.clone();
    flipped[whole.len() / 2] ^= 1;
    let id = first["point"].as_str().unwrap();
    for (damage, check) in [(None, "exists"), (Some(&whole[1..]), "size"), (Some(&flipped[..]), "sha256")] {
        match damage {
            Some(bytes) => fs::write(&path, bytes).unwrap(),
            None => fs::remove_file(&path).unwrap(),
        }
        // The newest earlier import is looked at first; all of them share the object.
        let points = place.points().len();
        let row = anew(&place, &file, &[name, check]);
        assert_eq!(row["warnings"].as_array().unwrap().iter().filter(|w| w.as_str().unwrap().contains(id)).count(), 1);
        assert_ne!(row["point"], first["point"]);
        // It is whole now, and so is every earlier one.
        assert_eq!(place.verify_all(), points + 1);
        assert_eq!(fs::read(&path).unwrap(), whole);
        assert_eq!(import(&place, &file).success().json()["imported"][0]["already_there"], true);
    }
}

#[test]
fn a_file_that_is_not_there_makes_no_repository() {
    let place = Place::new();
    place.policy_at("127.0.0.1:1");
    let missing = place.with_policy(&["import", &place.text("none.db")]).exits(4);
    assert!(missing.stderr.contains("none.db") && missing.stderr.contains("hint"), "{missing}");
    assert!(!place.repository().exists());
    place.with_policy(&["list"]).exits(4);
}

#[test]
fn a_condemned_import_does_not_count_as_there() {
    let (place, file, first) = imported();
    let tree = place.tree("repository");
    let point = tree.keys().find(|path| path.contains("/points/")).unwrap().clone();
    let condemn = |n: u32, objects: Vec<String>, points: Vec<String>| {
        let created = parse_rfc3339("2026-05-15T02:00:00Z").unwrap();
        let list = CondemnedList { epoch: 1, n, created, objects, points };
        let folder = place.repository().join("clusters/prod/condemned");
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join(format!("00000001-{n:08}.json")), sealed::seal(&list).unwrap()).unwrap();
    };
    condemn(1, vec![], vec![point]);
    let row = anew(&place, &file, &[first["point"].as_str().unwrap(), "about to delete"]);
    let again = import(&place, &file).success().json()["imported"][0].clone();
    assert_eq!((&again["already_there"], &again["point"]), (&Value::Bool(true), &row["point"]));
    // Data that is about to go cannot be relied on by anyone: that is said, and is no success.
    condemn(2, objects(&place, &row["point"]), vec![]);
    let refused = place.with_policy(&["import", &file]).exits(1);
    assert!(refused.stderr.contains("is condemned") && refused.stderr.contains("hint: "), "{refused}");
}

#[test]
fn two_imports_of_one_file_at_once_are_two_whole_points_or_one() {
    for _ in 0..3 {
        let place = Place::new();
        place.policy_at("127.0.0.1:1");
        let file = place.write("k8s.db", fixture("k8s-etcd-3.6.db"));
        let rows: Vec<Value> = std::thread::scope(|threads| {
            let both: Vec<_> = (0..2).map(|_| threads.spawn(|| import(&place, &file).success())).collect();
            both.into_iter().map(|run| run.join().unwrap().json()["imported"][0].clone()).collect()
        });
        let made = rows.iter().filter(|row| row["already_there"] == false).count();
        assert!(made >= 1, "{rows:?}");
        assert_eq!(place.verify_all(), made);
        // Their data is the same, and stored once.
        let stored = place.tree("repository").into_keys().filter(|path| path.contains("/data/")).count();
        assert!(rows.iter().all(|row| objects(&place, &row["point"]).len() == stored));
    }
}
