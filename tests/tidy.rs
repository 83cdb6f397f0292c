//! Holds the house in order: who may name whom, levels inside a package, file headers, and the README's map.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// What no source file of a package may name: the first segment of a path (`arrow::…`, `use arrow…`), or two of them.
const MAY_NEVER_NAME: &[(&str, &[&str])] = &[
    (
        "log",
        &[
            "arrow",
            "datafusion",
            "sqlparser",
            "tokio_postgres",
            "postgres_protocol",
            "pgwire",
            "engine",
            "connectors",
            "sql",
        ],
    ),
    (
        "engine",
        &["datafusion", "sqlparser", "tokio_postgres", "postgres_protocol", "pgwire", "log::wire", "connectors", "sql"],
    ),
    ("connectors", &["datafusion", "sqlparser", "pgwire", "sql"]),
    ("sql", &["tokio_postgres", "postgres_protocol", "connectors", "log::wire"]),
    (
        "src",
        &[
            "datafusion",
            "arrow_arith",
            "arrow_ord",
            "arrow_select",
            "arrow_string",
            "arrow::compute",
            "std::fs",
            "tokio::fs",
            "std::net::TcpListener",
            "std::net::TcpStream",
            "tokio::net",
        ],
    ),
];

/// Modules of a package from the lowest level up; a module uses those of lower levels and of its own folder only.
/// `lib` stands above all. The modules of one level do not know each other.
const LEVELS: &[(&str, &[&[&str]])] = &[
    (
        "log",
        &[
            &["env", "wire", "fixtures"],
            &["record"],
            &["store"],
            &["machine"],
            &["cluster", "group", "txn"],
            &["quorum", "replica"],
            &["node"],
            &["broker"],
        ],
    ),
    (
        "engine",
        &[
            &["error"],
            &["delta", "time"],
            &["expr", "codec", "io"],
            &["state"],
            &["operator"],
            &["graph"],
            &["timeline", "run"],
            &["job"],
        ],
    ),
    (
        "connectors",
        &[&["change", "options"], &["format", "cdc"], &["postgres", "generator", "mysql", "kafka", "redis", "file"]],
    ),
    (
        "sql",
        &[
            &["error"],
            &["types", "stack"],
            &["parse", "catalog"],
            &["expr"],
            &["plan", "query"],
            &["session"],
            &["pgwire"],
        ],
    ),
];

/// Edges against the levels that are meant, with their reason. Kept short.
const MEANT: &[(&str, &str, &str, &str)] = &[];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in std::fs::read_dir(&next).unwrap_or_else(|e| panic!("{}: {e}", next.display())).flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

fn source_folder(package: &str) -> PathBuf {
    if package == "src" { root().join("src") } else { root().join(package).join("src") }
}

/// The code of a file without comments; strings stay (a path in a string is rare and harmless to look at).
fn code(path: &Path) -> String {
    let text = std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    text.lines().map(|l| l.split("//").next().unwrap_or_default()).collect::<Vec<_>>().join("\n")
}

/// Whether the code names the path, as `name::…` or in a `use`, not as a part of another path.
fn names(code: &str, name: &str) -> bool {
    code.match_indices(name).any(|(at, _)| {
        let before = code[..at].chars().next_back();
        let after = &code[at + name.len()..];
        let starts = !before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':' || c == '.' || c == '"');
        let imported = code[..at].ends_with("use ") && (after.starts_with(';') || after.starts_with(" as "));
        starts && (after.starts_with("::") || imported)
    })
}

#[test]
fn packages_name_only_what_they_may() {
    let mut wrong = Vec::new();
    for (package, banned) in MAY_NEVER_NAME {
        for file in sources(&source_folder(package)) {
            let code = code(&file);
            for name in *banned {
                if names(&code, name) {
                    wrong.push(format!("{} names {name}", file.display()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "design §2, \"may never name\":\n{}", wrong.join("\n"));
}

#[test]
fn modules_use_lower_levels_only() {
    let mut wrong = Vec::new();
    for (package, levels) in LEVELS {
        let level_of: BTreeMap<&str, usize> =
            levels.iter().enumerate().flat_map(|(i, names)| names.iter().map(move |n| (*n, i))).collect();
        let folder = source_folder(package);
        for file in sources(&folder) {
            let inside = file.strip_prefix(&folder).expect("below");
            let module = inside.components().next().expect("a name").as_os_str().to_string_lossy().replace(".rs", "");
            if module == "lib" {
                continue;
            }
            let Some(level) = level_of.get(module.as_str()) else {
                wrong.push(format!("{}: module {module} has no level; add it to the table", file.display()));
                continue;
            };
            let code = code(&file);
            for (other, at) in &level_of {
                let used = code.contains(&format!("crate::{other}::")) || code.contains(&format!("crate::{other};"));
                let meant = MEANT.iter().any(|(p, from, to, _)| p == package && *from == module && to == other);
                if used && *other != module && at >= level && !meant {
                    wrong.push(format!("{}: {module} uses {other}, which is not below it", file.display()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "design §2, levels:\n{}", wrong.join("\n"));
}

#[test]
fn every_file_says_what_it_is() {
    let mut wrong = Vec::new();
    for folder in ["log", "engine", "connectors", "sql", "src", "tests", "examples"] {
        for file in sources(&root().join(folder)) {
            let text = std::fs::read_to_string(&file).expect("readable");
            let header = text.lines().next().unwrap_or_default();
            if !header.starts_with("//! ") || header.len() < 20 {
                wrong.push(file.display().to_string());
            }
        }
    }
    assert!(wrong.is_empty(), "files without a //! header that says what they are:\n{}", wrong.join("\n"));
}

#[test]
fn nothing_else_stands_at_the_top() {
    let meant = [
        "Cargo.toml",
        "Cargo.lock",
        "LICENSE",
        "README.md",
        "connectors",
        "engine",
        "examples",
        "log",
        "sql",
        "src",
        "tests",
    ];
    let out = std::process::Command::new("git").arg("ls-files").current_dir(root()).output().expect("git");
    let listed = String::from_utf8(out.stdout).expect("utf-8");
    let top: BTreeSet<&str> =
        listed.lines().filter_map(|l| l.split('/').next()).filter(|n| !n.starts_with('.')).collect();
    let extra: Vec<_> = top.iter().filter(|n| !meant.contains(n)).collect();
    assert!(extra.is_empty(), "at the top stands what does not belong there: {extra:?}");
}

/// The map is the block between ```text and ``` below the heading "The map"; a line is an indented path (a folder ends
/// with a slash) and what it is.
#[test]
fn the_map_in_the_readme_is_the_tree() {
    let readme = std::fs::read_to_string(root().join("README.md")).expect("README.md");
    let map =
        readme.split("## The map").nth(1).and_then(|s| s.split("```text\n").nth(1)).and_then(|s| s.split("```").next());
    let mut shown = BTreeSet::new();
    let mut at: Vec<(usize, String)> = Vec::new();
    for line in map.expect("a map in the README").lines().filter(|l| !l.trim().is_empty()) {
        let depth = line.len() - line.trim_start().len();
        let name = line.split_whitespace().next().expect("a path").trim_end_matches('/');
        at.retain(|(d, _)| *d < depth);
        let path = at.iter().map(|(_, n)| n.as_str()).chain([name]).collect::<Vec<_>>().join("/");
        assert!(root().join(&path).exists(), "the map shows {path}, which is not there");
        at.push((depth, name.to_owned()));
        shown.insert(path);
    }
    let mut missing = Vec::new();
    for package in ["log", "engine", "connectors", "sql"] {
        for entry in std::fs::read_dir(root().join(package).join("src")).expect("sources").flatten() {
            let path = format!("{package}/src/{}", entry.file_name().to_string_lossy());
            if !shown.contains(&path) {
                missing.push(path);
            }
        }
    }
    for folder in ["src", "tests"] {
        for entry in std::fs::read_dir(root().join(folder)).expect("sources").flatten() {
            let path = format!("{folder}/{}", entry.file_name().to_string_lossy());
            if !shown.contains(&path) {
                missing.push(path);
            }
        }
    }
    missing.sort();
    assert!(missing.is_empty(), "the map in the README does not show:\n{}", missing.join("\n"));
}
