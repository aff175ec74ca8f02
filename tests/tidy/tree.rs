//! Properties of the repository as a whole: what stands at its top, what no file may say, and documents that name only
//! what exists.

use std::fs;
use std::path::{Path, PathBuf};

use crate::assert_none;

/// What may stand at the top besides dot files. A new name here is a decision, not an accident.
const TOP: &[&str] = &[
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE",
    "Makefile",
    "README.md",
    "build.rs",
    "docs",
    "policies",
    "proto",
    "src",
    "systemd",
    "target",
    "tests",
];

/// What no file may contain, and why. In two halves, so that this file may.
const FORBIDDEN: &[(&str, &str, &str)] = &[
    ("/wo", "rk/", "a path of one machine"),
    ("/ro", "ot/", "a path of one machine"),
    ("/ho", "me/", "a path of one machine"),
    ("TO", "DO", "unfinished work belongs in an issue"),
    ("FIX", "ME", "unfinished work belongs in an issue"),
    ("#[ign", "ore", "a test that does not run proves nothing"),
];

/// Folders whose files documents may name.
const NAMED: &[&str] = &["src/", "tests/", "proto/", "docs/", "policies/", "systemd/"];

/// A file of the repository, or a planted one: its path from the top, and its text.
type File = (PathBuf, String);

/// The top of the repository.
pub(crate) fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Every file below `dir`, in order of path.
pub(crate) fn files_below(dir: &Path) -> Vec<PathBuf> {
    let mut files = vec![];
    for entry in fs::read_dir(dir).expect("a folder of the repository is readable") {
        let path = entry.expect("a folder of the repository is readable").path();
        if path.is_dir() {
            files.append(&mut files_below(&path));
        } else {
            files.push(path);
        }
    }
    files.sort();
    files
}

/// The names at the top.
fn top() -> Vec<String> {
    let entries = fs::read_dir(root()).expect("the repository is readable");
    entries.map(|entry| entry.expect("the repository is readable").file_name().to_string_lossy().into_owned()).collect()
}

/// Every text file of the repository: what builds leave and what git keeps for itself is left out, fixtures in binary too.
fn texts() -> Vec<File> {
    let ours = top().into_iter().filter(|name| !["target", ".git"].contains(&name.as_str()));
    let paths =
        ours.map(|name| root().join(name)).flat_map(|path| if path.is_dir() { files_below(&path) } else { vec![path] });
    let text = |path: PathBuf| Some((path.strip_prefix(root()).ok()?.to_owned(), fs::read_to_string(&path).ok()?));
    paths.filter_map(text).collect()
}

/// Names at the top that nobody decided on.
fn unlisted(names: &[String]) -> Vec<String> {
    let unknown = names.iter().filter(|name| !name.starts_with('.') && !TOP.contains(&name.as_str()));
    unknown.map(|name| format!("{name}: does not belong at the top of the repository")).collect()
}

/// Words that no file may contain.
fn forbidden(files: &[File]) -> Vec<String> {
    let mut errors = vec![];
    for (path, text) in files {
        for (first, second, why) in FORBIDDEN {
            let word = format!("{first}{second}");
            let lines = text.lines().enumerate().filter(|(_, line)| line.contains(&word));
            errors.extend(lines.map(|(n, _)| format!("{}:{}: {word}: {why}", path.display(), n + 1)));
        }
    }
    errors
}

/// Documents that name a file which does not exist, and format documents that name no source at all.
fn stale(files: &[File], exists: impl Fn(&str) -> bool) -> Vec<String> {
    let mut errors = vec![];
    for (path, text) in files.iter().filter(|(path, _)| path.extension().is_some_and(|extension| extension == "md")) {
        let mut sources = 0;
        for (n, line) in text.lines().enumerate() {
            for name in named_files(line) {
                sources += usize::from(name.starts_with("src/") || name.starts_with("proto/"));
                if !exists(name) {
                    errors.push(format!("{}:{}: names {name}, which does not exist", path.display(), n + 1));
                }
            }
        }
        if path.starts_with("docs/formats") && sources == 0 {
            errors.push(format!(
                "{}:1: names no file of src/ or proto/ that reads or writes this format",
                path.display()
            ));
        }
    }
    errors
}

/// The words of `line` that are paths into this repository.
fn named_files(line: &str) -> impl Iterator<Item = &str> {
    let words = line.split(|c: char| !(c.is_ascii_alphanumeric() || "./_-*<>{}".contains(c)));
    let whole = words.map(|word| word.trim_matches('.'));
    // A pattern stands for files that a shell or a reader fills in.
    whole
        .filter(|word| NAMED.iter().any(|folder| word.starts_with(folder)) && !word.contains(['*', '<', '>', '{', '}']))
}

#[test]
fn the_top_level_is_short() {
    assert_none(&unlisted(&top()));
}

#[test]
fn no_file_names_a_machine_or_unfinished_work() {
    assert_none(&forbidden(&texts()));
}

#[test]
fn documents_name_what_exists() {
    assert_none(&stale(&texts(), |name| root().join(name).exists()));
}

#[test]
fn a_stray_name_at_the_top_is_refused() {
    let names = ["src", ".ci", "notes.txt"].map(str::to_owned);
    assert_eq!(unlisted(&names), ["notes.txt: does not belong at the top of the repository"]);
}

#[test]
fn forbidden_words_are_refused() {
    for (first, second, why) in FORBIDDEN {
        let planted = (PathBuf::from("docs/x.md"), format!("fine\nsee {first}{second}x\n"));
        assert_eq!(forbidden(&[planted]), [format!("docs/x.md:2: {first}{second}: {why}")]);
    }
}

#[test]
fn stale_documents_are_refused() {
    let known = |name: &str| name == "src/lib.rs";
    let planted = |path: &str, text: &str| stale(&[(PathBuf::from(path), text.to_owned())], known);
    assert_none(&planted("docs/a.md", "See `src/lib.rs`, and src/lib.rs. Or tests/*.rs and docs/formats/<name>.md."));
    assert_none(&planted("docs/formats/a.md", "Written by `src/lib.rs`."));
    assert_eq!(planted("README.md", "See `src/gone.rs`."), ["README.md:1: names src/gone.rs, which does not exist"]);
    assert_eq!(planted("docs/formats/a.md", "A format.").len(), 1);
}
