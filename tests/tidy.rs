//! The rules of the code that the compiler does not check. Each message says what to do.

use std::fs;
use std::path::{Path, PathBuf};

/// What each module may name of this crate. `error`'s types are also at the root.
const MAY_IMPORT: &[(&str, &[&str])] = &[
    ("error", &[]),
    ("name", &["error"]),
    ("idmap", &["error"]),
    ("paths", &["error"]),
    ("sys", &["error"]),
    ("storage", &["sys", "name", "idmap", "error"]),
    ("net", &["sys", "name", "idmap", "error"]),
    ("cgroup", &["sys", "error"]),
    ("lxc", &["cgroup", "sys", "name", "idmap", "error"]),
    ("state", &["name", "error"]),
    ("host", &["storage", "net", "cgroup", "lxc", "sys", "paths", "name", "idmap", "error"]),
    ("cluster", &["host", "state", "net", "name", "error"]),
];

/// Text that may not occur: where, what, and what to do about it. Split so that this file does not hold it.
const FORBIDDEN: &[(&[&str], &str, &str)] = &[
    (&["src"], concat!("todo", "!("), "write what is missing"),
    (&["src"], concat!("unimplemented", "!("), "write what is missing"),
    (&["src"], concat!("println", "!("), "the library does not print: use `tracing`, or return it"),
    (
        &["src", "tests", "examples", "benches"],
        concat!("remove_dir", "_all"),
        "use `docklet::storage::remove_tree`",
    ),
    (
        &["src", "tests", "examples", "benches"],
        concat!("#[ignore", "]"),
        "say why: `#[ignore = \"needs root: …\"]`",
    ),
    (
        &["src", "tests", "examples", "benches", "scripts"],
        concat!("../", "shared"),
        "a clone does not have it",
    ),
    (&["src", "tests", "examples", "benches", "scripts"], concat!("/", "work/"), "a clone does not have it"),
];

/// The longest a source file may be, in lines: one type with its tests per file.
const LINES_MAX: usize = 400;
/// Files that may be longer, each with the reason beside it.
const LONGER: &[&str] = &[];

struct Source {
    /// From the package's root: "src/sys/file.rs".
    path: String,
    text: String,
}

impl Source {
    fn is_in(&self, directory: &str) -> bool {
        Path::new(&self.path).starts_with(directory)
    }

    /// The top-level module that a file of `src` belongs to: "sys"; "lib" for the root.
    fn module(&self) -> &str {
        let inside = self.path.strip_prefix("src/").expect("a file of src");
        inside.split(['/', '.']).next().expect("a name")
    }

    /// The lines without those that are only a comment, numbered from 1.
    fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        let lines = self.text.lines().enumerate().map(|(index, line)| (index + 1, line));
        lines.filter(|(_, line)| !line.trim_start().starts_with("//"))
    }
}

/// Every text file beneath `directories` of the package.
fn sources(directories: &[&str]) -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut waiting: Vec<PathBuf> = directories.iter().map(|name| root.join(name)).collect();
    let mut sources = Vec::new();
    while let Some(path) = waiting.pop() {
        if path.is_dir() {
            waiting.extend(fs::read_dir(&path).expect("directory").map(|entry| entry.expect("entry").path()));
        } else if path.extension().is_some_and(|extension| extension == "rs" || extension == "sh") {
            let text = fs::read_to_string(&path).expect("UTF-8");
            let path = path.strip_prefix(root).expect("beneath the root").to_str().expect("UTF-8").to_owned();
            sources.push(Source { path, text });
        }
    }
    sources
}

fn assert_none(complaints: &[String]) {
    assert!(complaints.is_empty(), "\n{}\n", complaints.join("\n"));
}

/// The top-level names of this crate in one line: `crate::a::b` gives "a", `crate::{a, b::c}` gives "a" and "b".
fn crate_names(line: &str) -> Vec<&str> {
    let mut names = Vec::new();
    for rest in line.split("crate::").skip(1) {
        let Some(group) = rest.strip_prefix('{') else {
            names.push(rest);
            continue;
        };
        let mut depth = 0;
        let top = group.split(|c| {
            depth += match c {
                '{' => 1,
                '}' => -1,
                _ => 0,
            };
            c == ',' && depth == 0
        });
        names.extend(top.map(str::trim).filter(|name| !name.is_empty()));
    }
    names
        .into_iter()
        .map(|name| name.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').next().unwrap_or_default())
        .collect()
}

#[test]
fn names_of_the_crate_are_found() {
    let check = |line: &str, expected: &[&str]| assert_eq!(crate_names(line), expected, "{line}");
    check("use crate::sys::file::read;", &["sys"]);
    check("use crate::{error::{Error, Result}, name, sys::tree};", &["error", "name", "sys"]);
    check("pub(crate) fn f(a: crate::name::LinkName) -> crate::Result<()> {", &["name", "Result"]);
    check("pub(crate) fn g() {}", &[]);
    check("use docklet::paths;", &[]);
}

#[test]
fn modules_import_only_what_they_may() {
    let mut complaints = Vec::new();
    for source in sources(&["src"]).iter().filter(|source| source.path != "src/lib.rs") {
        let module = source.module();
        let Some((_, allowed)) = MAY_IMPORT.iter().find(|(name, _)| *name == module) else {
            complaints
                .push(format!("{}: `{module}` is not in MAY_IMPORT of tests/tidy.rs: add it", source.path));
            continue;
        };
        // A group may go over several lines: a statement is one line here.
        let text = source.code().map(|(_, line)| line).collect::<Vec<_>>().join(" ");
        for name in text.split(';').flat_map(crate_names) {
            if name != module && name != "Error" && name != "Result" && !allowed.contains(&name) {
                complaints.push(format!(
                    "{}: `{module}` must not use `crate::{name}`, only {allowed:?}: move the shared part down, or \
                     compose the two in `host`",
                    source.path
                ));
            }
        }
    }
    assert_none(&complaints);
}

#[test]
fn unsafe_is_in_sys_only() {
    let mut complaints = Vec::new();
    for source in sources(&["src"]).iter().filter(|source| !source.is_in("src/sys")) {
        for (number, line) in source.code() {
            let words = line.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
            if words.into_iter().any(|word| word == "unsafe" || word == "unsafe_code") {
                complaints
                    .push(format!("{}:{number}: put the call into `src/sys` and name it there", source.path));
            }
        }
    }
    assert_none(&complaints);
}

#[test]
fn files_are_short_and_say_what_they_are() {
    let mut complaints = Vec::new();
    for source in
        sources(&["src", "tests", "examples", "benches"]).iter().filter(|source| source.path.ends_with(".rs"))
    {
        if !source.text.starts_with("//!") {
            complaints.push(format!(
                "{}: begin with `//!`: which host facility, and what it leaves out",
                source.path
            ));
        }
        let lines = source.text.lines().count();
        if source.is_in("src") && lines > LINES_MAX && !LONGER.contains(&&*source.path) {
            complaints
                .push(format!("{}: {lines} lines, {LINES_MAX} at most: one type per file", source.path));
        }
    }
    assert_none(&complaints);
}

#[test]
fn forbidden_text_is_absent() {
    let mut complaints = Vec::new();
    for source in sources(&["src", "tests", "examples", "benches", "scripts"]) {
        for (directories, text, remedy) in FORBIDDEN {
            if !directories.iter().any(|directory| source.is_in(directory)) {
                continue;
            }
            for (index, _) in source.text.lines().enumerate().filter(|(_, line)| line.contains(text)) {
                complaints.push(format!("{}:{}: `{text}`: {remedy}", source.path, index + 1));
            }
        }
    }
    assert_none(&complaints);
}
