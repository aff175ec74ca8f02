//! Properties of the source itself: import direction, owners of third-party crates, purity, size, module docs; and, in
//! `tidy/tree.rs`, of the repository around it.
//!
//! A rule is a function from sources to complaints. The first test of each rule runs it on this crate, the second on a
//! planted violation: a rule that cannot fail proves nothing.

use std::fs;
use std::path::{Path, PathBuf};

#[path = "tidy/tree.rs"]
mod tree;

/// Who may import whom, lowest first. A module may always import itself and its own children.
const MAY_IMPORT: &[(&str, &[&str])] = &[
    ("base", &[]),
    ("api", &["base"]),
    ("policy", &["base"]),
    ("snapshot", &["base", "api"]),
    ("client", &["base", "api", "snapshot"]),
    ("bench", &["base", "api", "client"]),
    ("store::options", &["base"]),
    ("store::datadir", &["base"]),
    ("store::backend", &["base"]),
    ("store::mvcc", &["base", "api", "store::backend"]),
    ("store::lease", &["base", "api", "store::backend"]),
    ("store::auth", &["base", "api", "store::backend"]),
    ("store::machine", &["base", "api", "snapshot", "store::backend", "store::mvcc", "store::lease", "store::auth"]),
    ("store::consensus", &["base", "api", "store::options"]),
    (
        "store::offline",
        &["base", "snapshot", "store::datadir", "store::backend", "store::mvcc", "store::machine", "store::consensus"],
    ),
    (
        "store::node",
        &[
            "base",
            "api",
            "snapshot",
            "store::options",
            "store::datadir",
            "store::backend",
            "store::mvcc",
            "store::lease",
            "store::auth",
            "store::machine",
            "store::consensus",
        ],
    ),
    (
        "store::server",
        &[
            "base",
            "api",
            "snapshot",
            "store::options",
            "store::mvcc",
            "store::lease",
            "store::auth",
            "store::machine",
            "store::node",
        ],
    ),
    ("vault", &["base", "policy", "snapshot"]),
    ("import", &["base", "snapshot", "vault"]),
    ("recovery", &["base", "client", "policy", "snapshot", "vault", "store::datadir", "store::offline"]),
    ("agent", &["base", "client", "policy", "snapshot", "vault", "recovery"]),
    ("doctor", &["base", "client", "policy", "snapshot", "vault", "store::datadir", "store::offline"]),
    (
        "cli",
        &[
            "base",
            "api",
            "policy",
            "snapshot",
            "client",
            "bench",
            "store::options",
            "store::datadir",
            "store::offline",
            "store::node",
            "store::server",
            "vault",
            "import",
            "recovery",
            "agent",
            "doctor",
        ],
    ),
];

/// Modules that belong to no row.
const FREE: &[&str] = &["main", "lib", "store"];

/// Third-party crates and the only modules that may name them.
const OWNERS: &[(&str, &[&str])] = &[
    ("age", &["vault"]),
    ("axum", &["store::server", "agent::page"]),
    ("base64", &["base::digest"]),
    ("chrono", &["base::clock", "policy::schedule", "policy::zone"]),
    ("chrono_tz", &["policy::zone"]),
    ("clap", &["cli"]),
    ("clap_complete", &["cli"]),
    ("clap_mangen", &["cli"]),
    ("comfy_table", &["cli"]),
    ("crc32c", &["base::digest", "snapshot"]),
    ("flate2", &["vault", "import"]),
    ("getrandom", &["base::rng"]),
    ("hdrhistogram", &["bench", "store::server"]),
    ("hyper", &["store::server", "agent::page"]),
    ("indicatif", &["cli"]),
    ("mimalloc", &["main"]),
    ("object_store", &["vault"]),
    ("prost", &["api", "snapshot", "store::machine::command"]),
    ("prost_reflect", &["store::server::gateway"]),
    ("raft", &["store::consensus"]),
    ("rcgen", &["base::authority"]),
    ("bcrypt", &["store::server"]),
    ("x509_parser", &["base::tls"]),
    ("redb", &["store::backend"]),
    ("reqwest", &["vault", "agent::notify"]),
    ("ring", &["vault::sign", "base::jwt"]),
    ("rustix", &["base"]),
    ("rustls", &["base::tls"]),
    ("rustls_native_certs", &["base::tls"]),
    ("sec1", &["base::jwt"]),
    ("sha1", &["base::digest"]),
    ("sha2", &["base::digest"]),
    ("slog", &["store::consensus"]),
    ("strsim", &["policy", "store::options"]),
    ("toml", &["policy"]),
    ("tonic", &["api", "bench", "client", "store::server", "store::consensus::transport"]),
    ("tokio_rustls", &["store::server"]),
    ("tracing_subscriber", &["cli"]),
    ("yaml_rust2", &["store::options"]),
    ("zstd", &["vault", "import"]),
];

/// Modules that may not know about I/O, async or time.
const PURE: &[&str] = &[
    "policy",
    "snapshot",
    "store::lease",
    "store::auth",
    "store::mvcc::index",
    "store::mvcc::hub",
    "store::consensus::driver",
    "agent::scheduler",
    "recovery::plan",
    "recovery::drill::plan",
    "recovery::drill::judge",
    "recovery::drill::page",
];

/// What gives impurity away. Spelt as code spells it, so that prose and names containing the words pass.
const IMPURE: &[&str] = &["async ", ".await", "tokio::", "std::fs", "std::net", "std::time::Instant", "SystemTime"];

const LINES_MAX: usize = 700;
/// Lines between the braces of a function. Here and not in clippy, because clippy would judge generated code too.
const BODY_LINES_MAX: usize = 70;

/// One file of `src/`, or a planted one.
struct Source {
    path: PathBuf,
    module: String,
    text: String,
}

impl Source {
    /// A source at `path` below `src/`.
    fn new(path: &Path, text: String) -> Self {
        let module = path.with_extension("").to_string_lossy().replace('/', "::");
        let module = module.strip_suffix("::mod").unwrap_or(&module).to_owned();
        Source { path: Path::new("src").join(path), module, text }
    }

    /// Lines before the test module, numbered from 1.
    fn before_tests(&self) -> impl Iterator<Item = (usize, &str)> {
        self.text.lines().enumerate().map(|(n, line)| (n + 1, line)).take_while(|(_, l)| !l.starts_with("#[cfg(test)]"))
    }

    /// The same without comments.
    fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        self.before_tests().filter(|(_, line)| !line.trim_start().starts_with("//"))
    }

    fn is_in(&self, layer: &str) -> bool {
        within(&self.module, layer)
    }

    fn at(&self, line: usize, what: &str) -> String {
        format!("{}:{line}: {what}", self.path.display())
    }
}

fn within(module: &str, layer: &str) -> bool {
    module == layer || module.strip_prefix(layer).is_some_and(|rest| rest.starts_with("::"))
}

fn layer_of(module: &str) -> Option<&'static str> {
    MAY_IMPORT.iter().map(|row| row.0).filter(|layer| within(module, layer)).max_by_key(|layer| layer.len())
}

/// Every Rust file of `src/`, in order.
fn sources() -> Vec<Source> {
    let root = tree::root().join("src");
    let files = tree::files_below(&root);
    let rust = files.iter().filter(|path| path.extension().is_some_and(|extension| extension == "rs"));
    rust.map(|path| {
        let text = fs::read_to_string(path).expect("source is UTF-8");
        Source::new(path.strip_prefix(&root).expect("below src"), text)
    })
    .collect()
}

// The rules.

/// The table's rows stand lowest first, so it has no cycle.
fn unordered_rows(table: &[(&str, &[&str])]) -> Vec<String> {
    let mut errors = vec![];
    for (i, (layer, imports)) in table.iter().enumerate() {
        for import in *imports {
            match table.iter().position(|row| row.0 == *import) {
                Some(j) if j < i => {}
                Some(_) => errors.push(format!("{layer} may import {import}, so {import} must be listed before it")),
                None => errors.push(format!("{layer} may import {import}, which is no layer")),
            }
        }
    }
    errors
}

/// Every file belongs to a layer, and imports only what its layer's row allows, in a form that this test can read.
fn upward_imports(sources: &[Source]) -> Vec<String> {
    let mut errors = vec![];
    for source in sources {
        let Some(layer) = layer_of(&source.module) else {
            if !FREE.contains(&source.module.as_str()) {
                errors.push(source.at(1, "belongs to no layer"));
            }
            continue;
        };
        for (n, line) in source.code() {
            if line.contains("super::super::") {
                errors.push(source.at(n, "more than one `super::` hides the layer"));
            }
            let imports = line.match_indices("crate::").map(|(i, word)| &line[i + word.len()..]);
            errors.extend(imports.filter_map(|rest| wrong_import(layer, rest)).map(|what| source.at(n, &what)));
        }
    }
    errors
}

/// What is wrong with `crate::<rest>` in a file of `layer`.
fn wrong_import(layer: &str, rest: &str) -> Option<String> {
    if rest.starts_with('{') {
        return Some("grouped `use crate::{..}` hides the layer".to_owned());
    }
    let path: String = rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_' || *c == ':').collect();
    let allowed = MAY_IMPORT.iter().find(|row| row.0 == layer).expect("a known layer").1;
    match layer_of(&path) {
        Some(target) if target == layer || allowed.contains(&target) => None,
        Some(target) => Some(format!("{layer} must not import {target}")),
        None => Some(format!("{layer} must name a layer, not {path}")),
    }
}

/// A third-party crate is named only by its owners.
fn strangers(sources: &[Source]) -> Vec<String> {
    let mut errors = vec![];
    for source in sources {
        for (n, line) in source.code() {
            for (name, owners) in OWNERS {
                if names_crate(line, name) && !owners.iter().any(|owner| source.is_in(owner)) {
                    errors.push(source.at(n, &format!("only {owners:?} may name {name}")));
                }
            }
        }
    }
    errors
}

/// Whether `line` says `name::...` as the start of a path, or imports the crate whole.
fn names_crate(line: &str, name: &str) -> bool {
    let starts_path = |i: usize| !line[..i].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':');
    let path = line.match_indices(&format!("{name}::")).any(|(i, _)| starts_path(i));
    let import = line.trim_start().strip_prefix("use ").and_then(|rest| rest.strip_prefix(name));
    path || import.is_some_and(|rest| rest.starts_with(';') || rest.starts_with(" as "))
}

/// Pure modules do no I/O, await nothing and read no clock.
fn impurities(sources: &[Source]) -> Vec<String> {
    let mut errors = vec![];
    for source in sources.iter().filter(|source| PURE.iter().any(|layer| source.is_in(layer))) {
        for (n, line) in source.code() {
            let words = IMPURE.iter().filter(|word| line.contains(**word));
            errors.extend(words.map(|word| source.at(n, &format!("{} must stay free of {word}", source.module))));
        }
    }
    errors
}

/// Files fit in a head, and say what they are.
fn sprawling(sources: &[Source]) -> Vec<String> {
    let mut errors = vec![];
    for source in sources {
        let lines = source.before_tests().count();
        if lines > LINES_MAX {
            errors.push(source.at(lines, &format!("{lines} lines before the tests, at most {LINES_MAX}")));
        }
        if !source.text.starts_with("//!") {
            errors.push(source.at(1, "opens without `//!`: what it is, its invariants, what it does not know"));
        }
    }
    errors
}

/// Functions fit a screen.
fn long_functions(sources: &[Source]) -> Vec<String> {
    let mut errors = vec![];
    for source in sources {
        let lines: Vec<_> = source.before_tests().collect();
        for (i, (n, line)) in lines.iter().enumerate().filter(|(_, (_, line))| opens_function(line)) {
            let length = body_lines(&lines[i..]);
            if length > BODY_LINES_MAX {
                let what = format!("{length} lines in `{}`, at most {BODY_LINES_MAX}", line.trim());
                errors.push(source.at(*n, &what));
            }
        }
    }
    errors
}

/// Whether a function's signature begins on `line`.
fn opens_function(line: &str) -> bool {
    let before = line.trim_start().split_once("fn ").map(|(before, _)| before);
    let qualifier = |word: &str| matches!(word, "const" | "async" | "pub") || word.starts_with("pub(");
    before.is_some_and(|before| before.split_whitespace().all(qualifier))
}

/// The lines between the braces of the function that begins on the first line, as rustfmt lays it out.
fn body_lines(lines: &[(usize, &str)]) -> usize {
    let indent = lines[0].1.len() - lines[0].1.trim_start().len();
    let ends = |line: &str| line.ends_with(['{', ';', '}']);
    let Some(open) = lines.iter().position(|(_, line)| ends(line)) else { return 0 };
    if !lines[open].1.ends_with('{') {
        return 0;
    }
    let closes = |line: &str| line.len() == indent + 1 && line.ends_with('}');
    lines[open + 1..].iter().position(|(_, line)| closes(line)).unwrap_or(0)
}

// Each rule on this crate.

fn assert_none(errors: &[String]) {
    assert!(errors.is_empty(), "\n{}", errors.join("\n"));
}

#[test]
fn the_table_has_no_cycle() {
    assert_none(&unordered_rows(MAY_IMPORT));
}

#[test]
fn imports_point_downwards() {
    assert_none(&upward_imports(&sources()));
}

#[test]
fn crates_have_owners() {
    assert_none(&strangers(&sources()));
}

#[test]
fn pure_modules_stay_pure() {
    assert_none(&impurities(&sources()));
}

#[test]
fn files_are_small_and_documented() {
    assert_none(&sprawling(&sources()));
}

#[test]
fn functions_fit_a_screen() {
    assert_none(&long_functions(&sources()));
}

// Each rule on what it must refuse.

/// Runs `rule` on one planted file and wants exactly one complaint, at `line`, that contains `words`.
fn refuses(rule: fn(&[Source]) -> Vec<String>, path: &str, text: &str, line: usize, words: &str) {
    let errors = rule(&[Source::new(Path::new(path), text.to_owned())]);
    assert!(errors.len() == 1, "{path} wants one complaint about {words:?}, got {errors:?}");
    let error = &errors[0];
    let place = format!("src/{path}:{line}: ");
    assert!(error.starts_with(&place) && error.contains(words), "{error:?} is not {place}..{words}");
}

#[test]
fn a_cycle_and_an_unknown_row_are_refused() {
    let cycle = unordered_rows(&[("base", &["vault"]), ("vault", &["base"])]);
    assert_eq!(cycle, ["base may import vault, so vault must be listed before it"]);
    assert_eq!(unordered_rows(&[("base", &["bass"])]), ["base may import bass, which is no layer"]);
    assert_eq!(unordered_rows(&[("base", &["base"])]).len(), 1, "a layer does not list itself");
}

#[test]
fn imports_that_point_upwards_or_hide_are_refused() {
    let rule = upward_imports;
    refuses(rule, "base/id.rs", "//! Doc.\nuse crate::vault::layout;\n", 2, "base must not import vault");
    refuses(rule, "vault/put.rs", "let x = crate::store::backend::open();\n", 1, "must not import store::backend");
    refuses(rule, "store/mvcc/index.rs", "use crate::store::lease::Lease;\n", 1, "must not import store::lease");
    refuses(rule, "agent/run.rs", "use crate::store::Node;\n", 1, "must name a layer, not store::Node");
    refuses(rule, "vault/put.rs", "use crate::{base::Error, cli};\n", 1, "grouped");
    refuses(rule, "vault/put.rs", "use super::super::cli::Main;\n", 1, "more than one `super::`");
    refuses(rule, "utils/mod.rs", "//! Odds and ends.\n", 1, "belongs to no layer");
    refuses(rule, "store/misc.rs", "//! Odds and ends.\n", 1, "belongs to no layer");
}

#[test]
fn a_crate_outside_its_owner_is_refused() {
    let rule = strangers;
    refuses(rule, "agent/run.rs", "use redb::Database;\n", 1, "may name redb");
    refuses(rule, "recovery/plan.rs", "    let (x, y) = (zstd::encode_all(b), 1);\n", 1, "may name zstd");
    refuses(rule, "vault/put.rs", "use clap;\n", 1, "may name clap");
    refuses(rule, "vault/put.rs", "use sha2 as sha;\n", 1, "may name sha2");
    refuses(rule, "base/id.rs", "use crc32c::crc32c;\n", 1, "may name crc32c");
    for (name, owners) in OWNERS {
        let text = format!("use {name}::Thing;\n");
        refuses(rule, "doctor/look.rs", &text, 1, "may name");
        let own = owners.iter().map(|owner| Source::new(Path::new(&owner.replace("::", "/")), text.clone()));
        assert_none(&rule(&own.collect::<Vec<_>>()));
    }
    let lookalikes = "use my_redb::Database;\nuse crate::base::zstd::x;\nlet a = image::b();\n// clap::Parser\n";
    assert_none(&rule(&[Source::new(Path::new("doctor/look.rs"), lookalikes.to_owned())]));
}

#[test]
fn an_impure_module_is_refused() {
    for word in IMPURE {
        refuses(impurities, "snapshot/fold.rs", &format!("//! Doc.\n  {word}x\n"), 2, word);
    }
    assert_none(&impurities(&[Source::new(Path::new("client/watch.rs"), "async fn next() {}\n".to_owned())]));
}

#[test]
fn a_long_file_and_a_file_without_docs_are_refused() {
    let body = "fn f() {}\n".repeat(LINES_MAX);
    refuses(sprawling, "vault/put.rs", &format!("//! Doc.\n{body}"), LINES_MAX + 1, "701 lines");
    refuses(sprawling, "vault/put.rs", "use std::fs;\n", 1, "opens without `//!`");
    let tested = format!("//! Doc.\n#[cfg(test)]\nmod tests {{\n{body}}}\n");
    assert_none(&sprawling(&[Source::new(Path::new("vault/put.rs"), tested)]));
}

#[test]
fn a_long_function_is_refused() {
    let function = |signature: &str, lines: usize| {
        let body = "        a();\n".repeat(lines);
        format!("//! Doc.\nimpl A {{\n    {signature}\n{body}    }}\n}}\n")
    };
    for signature in ["pub(crate) async fn a(&self) {", "fn a(\n        &self,\n    ) -> u8 {"] {
        refuses(long_functions, "vault/put.rs", &function(signature, BODY_LINES_MAX + 1), 3, "71 lines in");
        assert_none(&long_functions(&[Source::new(Path::new("vault/put.rs"), function(signature, BODY_LINES_MAX))]));
    }
    // Neither has a body to measure.
    let short = function("fn a();\n    fn b() {}\n    let fn_c = {", 100);
    assert_none(&long_functions(&[Source::new(Path::new("vault/put.rs"), short)]));
}
