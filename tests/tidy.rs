//! The house style, and who may use whom: what can be checked of it is checked here.

#![allow(
    clippy::print_stderr,
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::wildcard_enum_match_arm,
    reason = "a test reports by a panic"
)]

use std::{
    fs,
    path::{Path, PathBuf},
};

/// The folders of `src` from the ground up, one a floor; each uses only those before it.
const FLOORS: &[&str] = &[
    "wire", "base", "data", "engine", "erasure", "store", "net", "content", "node", "web", "capi",
    "cli", "main",
];

/// Folders, and the wire crate, that have neither clock nor thread nor file nor socket.
const PURE: &[&str] = &["data", "engine", "erasure", "wire"];
const IMPURE: &[&str] = &[
    "std::env",
    "std::fs",
    "std::net::Tcp",
    "std::net::ToSocketAddrs",
    "std::net::Udp",
    "std::os",
    "std::process",
    "std::thread",
    "std::time::Instant",
    "std::time::SystemTime",
];
/// What the engine, which runs by one seed, has no use for beside that.
const IMPURE_ENGINE: &[&str] = &[
    "crossbeam",
    "mio",
    "parking_lot",
    "rayon",
    "rusqlite",
    "std::collections::HashMap",
    "std::collections::HashSet",
    "std::io",
    "std::sync",
];

/// A file holds one noun; past this it most likely holds two.
const FILE_LINES_MAX: usize = 600;
/// Files that are longer, and how long they may be until they are split.
const LONG_FILES: &[(&str, usize)] = &[];
/// What fits a screen.
const FUNCTION_LINES_MAX: usize = 80;
/// What is read in one sitting.
const ARCHITECTURE_LINES_MAX: usize = 200;
/// Signs beyond ASCII that everybody's font has.
const SIGNS: &str = "–…→←≤≥×−÷±µ·─│┌┐└┘├┤┬┴┼▶◀▲▼";

// --- Sources ---

struct Source {
    /// From the repository's root, with slashes.
    path: String,
    text: String,
    /// The text with comments and the insides of literals blanked out, line for line.
    code: String,
}

impl Source {
    /// The folder that a file of `src` or the wire crate belongs to.
    fn folder(&self) -> &str {
        let Some(path) = self.path.strip_prefix("src/") else { return "wire" };
        path.split('/').next().and_then(|name| name.split('.').next()).unwrap_or_default()
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// All Rust files below these directories, in order.
fn sources(dirs: &[&str]) -> Vec<Source> {
    let mut paths = Vec::new();
    for dir in dirs {
        collect(&root().join(dir), &mut paths);
    }
    paths.sort();
    let read = |path: PathBuf| {
        let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path:?}: {error}"));
        let code = blank(&text);
        let path = path.strip_prefix(root()).unwrap().to_str().unwrap().replace('\\', "/");
        Source { path, text, code }
    };
    paths.into_iter().map(read).collect()
}

fn collect(dir: &Path, paths: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, paths);
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            paths.push(path);
        }
    }
}

/// The sources of the two crates.
fn own() -> Vec<Source> {
    sources(&["src", "wire/src"])
}

/// Those, and all that tests and measures them.
fn all() -> Vec<Source> {
    sources(&["src", "tests", "benches", "examples", "wire/src", "wire/tests", "wire/fuzz/src"])
}

fn refuse(rule: &str, found: Vec<String>) {
    assert!(found.is_empty(), "{rule}:\n  {}", found.join("\n  "));
}

/// Blanks out comments and the insides of strings and characters; lines stay.
fn blank(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut code = String::with_capacity(text.len());
    let mut at = 0;
    while at < chars.len() {
        let end = skip_blank(&chars, at);
        if end == at {
            code.push(chars[at]);
            at += 1;
        }
        while at < end {
            code.push(if chars[at] == '\n' { '\n' } else { ' ' });
            at += 1;
        }
    }
    code
}

/// The end of the comment or literal that begins at `at`; `at` if none does.
fn skip_blank(chars: &[char], at: usize) -> usize {
    let next = |n: usize| chars.get(at + n).copied().unwrap_or('\0');
    let until = |from: usize, is_end: &dyn Fn(usize) -> bool| {
        (from..chars.len()).find(|&at| is_end(at)).unwrap_or(chars.len())
    };
    let in_word = at > 0 && (chars[at - 1].is_alphanumeric() || chars[at - 1] == '_');
    match (chars[at], next(1)) {
        ('/', '/') => until(at, &|at| chars[at] == '\n'),
        ('/', '*') => skip_block_comment(chars, at),
        ('"', _) => skip_string(chars, at),
        ('r', '"' | '#') if !in_word || chars[at - 1] == 'b' => {
            let hashes = chars[at + 1..].iter().take_while(|&&c| c == '#').count();
            if next(1 + hashes) != '"' {
                return at;
            }
            let is_end = |end: usize| {
                chars[end] == '"'
                    && chars[end + 1..].iter().take(hashes).filter(|&&c| c == '#').count() == hashes
            };
            (until(at + 2 + hashes, &is_end) + 1 + hashes).min(chars.len())
        }
        ('\'', '\\') => until(at + 3, &|at| chars[at] == '\'') + 1,
        ('\'', _) if next(2) == '\'' => at + 3,
        _ => at,
    }
}

fn skip_string(chars: &[char], mut at: usize) -> usize {
    at += 1;
    while at < chars.len() && chars[at] != '"' {
        at += if chars[at] == '\\' { 2 } else { 1 };
    }
    (at + 1).min(chars.len())
}

fn skip_block_comment(chars: &[char], mut at: usize) -> usize {
    let mut depth = 0;
    while at < chars.len() {
        match (chars[at], chars.get(at + 1)) {
            ('/', Some('*')) => (depth, at) = (depth + 1, at + 2),
            ('*', Some('/')) => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            break;
        }
    }
    at
}

/// All paths in `code` that begin with `first`, with nested lists written out.
fn paths(code: &str, first: &str) -> Vec<String> {
    let mut found = Vec::new();
    let start = format!("{first}::");
    for (at, _) in code.match_indices(&start) {
        let before = code[..at].chars().next_back().unwrap_or(' ');
        if !before.is_alphanumeric() && before != '_' && before != ':' {
            expand(first, &code[at + start.len()..], &mut found);
        }
    }
    found
}

/// Writes out the tree of names at the beginning of `rest`; gives what follows it.
fn expand<'a>(prefix: &str, rest: &'a str, found: &mut Vec<String>) -> &'a str {
    let rest = rest.trim_start();
    if let Some(mut rest) = rest.strip_prefix('{') {
        loop {
            rest = rest.trim_start().trim_start_matches(',').trim_start();
            if let Some(behind) = rest.strip_prefix('}') {
                return behind;
            }
            let left = rest.len();
            rest = expand(prefix, rest, found);
            if rest.len() == left {
                return rest;
            }
        }
    }
    let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_' && c != '*');
    let (name, mut behind) = rest.split_at(end.unwrap_or(rest.len()));
    let is_prefix = name.is_empty() || name == "self";
    let path = if is_prefix { prefix.to_owned() } else { format!("{prefix}::{name}") };
    if let Some(deeper) = behind.strip_prefix("::") {
        return expand(&path, deeper, found);
    }
    found.push(path);
    if let Some(renamed) = behind.trim_start().strip_prefix("as ") {
        let end = renamed.find([',', '}', ';']).unwrap_or(renamed.len());
        behind = &renamed[end..];
    }
    behind
}

fn line_of(text: &str, at: usize) -> usize {
    text[..at].matches('\n').count() + 1
}

// --- Floors ---

fn floor(folder: &str) -> Option<usize> {
    FLOORS.iter().position(|name| *name == folder)
}

#[test]
fn every_folder_has_its_floor() {
    let lib = fs::read_to_string(root().join("src/lib.rs")).unwrap();
    let folders = lib.lines().filter_map(|line| {
        let name = line.trim().trim_start_matches("pub ").trim_start_matches("pub(crate) ");
        name.strip_prefix("mod ")?.strip_suffix(';')
    });
    let missing = folders.filter(|folder| floor(folder).is_none()).map(ToOwned::to_owned);
    refuse("these folders have no floor in tests/tidy.rs", missing.collect());
}

#[test]
fn folders_use_only_those_of_lower_floors() {
    let mut found = Vec::new();
    for source in own().iter().filter(|source| !source.path.ends_with("src/lib.rs")) {
        let folder = source.folder();
        // These two are crates of their own: the compiler keeps them to what they may use.
        let is_crate = ["wire", "engine"].contains(&folder);
        let Some(own) = floor(folder).filter(|_| !is_crate) else { continue };
        let first = if folder == "main" { "barrow" } else { "crate" };
        for path in paths(&source.code, first) {
            let used = path.split("::").nth(1).unwrap_or_default();
            match floor(used) {
                _ if used == folder => {}
                Some(floor) if floor < own => {}
                Some(_) => found.push(format!("{}: {path} is not below {folder}", source.path)),
                None => found.push(format!("{}: {path} is in no folder", source.path)),
            }
        }
        if source.code.contains("super::super::") {
            found.push(format!("{}: super::super hides what is used", source.path));
        }
    }
    refuse("a folder uses only those of lower floors", found);
}

#[test]
fn a_module_with_parts_is_a_folder_with_a_mod_rs() {
    let found = own()
        .into_iter()
        .map(|source| source.path)
        .filter(|path| path.strip_suffix(".rs").is_some_and(|stem| root().join(stem).is_dir()));
    refuse("x/mod.rs, not x.rs beside x/", found.collect());
}

#[test]
fn the_pure_have_neither_clock_nor_thread_nor_file_nor_socket() {
    let mut found = Vec::new();
    for source in own().iter().filter(|source| PURE.contains(&source.folder())) {
        let engine = if source.folder() == "engine" { IMPURE_ENGINE } else { &[] };
        let banned: Vec<&str> = IMPURE.iter().chain(engine).copied().collect();
        for first in ["std", "mio", "crossbeam", "rayon", "parking_lot", "rusqlite"] {
            for path in paths(&source.code, first) {
                if banned.iter().any(|banned| path.starts_with(banned)) {
                    found.push(format!("{}: {path}", source.path));
                }
            }
        }
    }
    refuse("these take time, bytes and chance as arguments", found);
}

// --- Sizes ---

#[test]
fn no_file_is_too_long() {
    let mut found = Vec::new();
    for source in own() {
        let lines = source.text.lines().count();
        let known = LONG_FILES.iter().find(|(path, _)| *path == source.path);
        let most = known.map_or(FILE_LINES_MAX, |(_, lines)| *lines);
        if lines > most {
            found.push(format!("{}: {lines} lines, of at most {most}", source.path));
        }
        if known.is_some() && lines <= FILE_LINES_MAX {
            found.push(format!("{}: short by now; take it off LONG_FILES", source.path));
        }
    }
    refuse("a file holds one noun", found);
}

#[test]
fn no_function_is_too_long() {
    let mut found = Vec::new();
    for source in all() {
        for (name, line, lines) in functions(&source.code) {
            if lines > FUNCTION_LINES_MAX {
                found.push(format!("{}:{line}: {name} has {lines} lines", source.path));
            }
        }
    }
    refuse("a function fits a screen", found);
}

/// Name, first line and number of lines of each function with a body.
fn functions(code: &str) -> Vec<(String, usize, usize)> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices("fn ") {
        let before = code[..at].chars().next_back().unwrap_or(' ');
        let name: String =
            code[at + 3..].chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
        if before.is_alphanumeric() || before == '_' || name.is_empty() {
            continue;
        }
        if let Some(end) = body_end(code, at) {
            let (first, last) = (line_of(code, at), line_of(code, end));
            found.push((name, first, last - first + 1));
        }
    }
    found
}

/// Where the body of the function at `at` ends; `None` for one without a body.
fn body_end(code: &str, at: usize) -> Option<usize> {
    let (mut braces, mut brackets) = (0_i32, 0_i32);
    for (offset, c) in code[at..].char_indices() {
        match c {
            '(' | '[' => brackets += 1,
            ')' | ']' => brackets -= 1,
            ';' if braces == 0 && brackets == 0 => return None,
            '{' => braces += 1,
            '}' => {
                braces -= 1;
                if braces == 0 {
                    return Some(at + offset);
                }
            }
            _ => {}
        }
    }
    None
}

#[test]
fn the_architecture_is_read_in_one_sitting() {
    let text = fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    let lines = text.lines().count();
    assert!(lines <= ARCHITECTURE_LINES_MAX, "ARCHITECTURE.md has {lines} lines");
}

// --- Words ---

#[test]
fn nothing_is_left_undone_in_the_code() {
    let mut found = Vec::new();
    for source in all() {
        for banned in ["todo!(", "unimplemented!(", "dbg!("] {
            for (at, _) in source.code.match_indices(banned) {
                found.push(format!("{}:{}: {banned})", source.path, line_of(&source.code, at)));
            }
        }
    }
    refuse("these are for the time of writing", found);
}

#[test]
fn every_file_says_first_what_it_is_for() {
    let silent = all().into_iter().filter(|source| {
        let text = source.text.trim_start();
        !text.is_empty() && !text.starts_with("//!")
    });
    refuse("a file begins with a //! line", silent.map(|source| source.path).collect());
}

#[test]
fn no_file_is_a_drawer_for_this_and_that() {
    let drawers = ["common", "helper", "helpers", "misc", "util", "utils"];
    let found = own()
        .into_iter()
        .filter(|source| source.path.split(['/', '.']).any(|part| drawers.contains(&part)));
    refuse("a file is named by its noun", found.map(|source| source.path).collect());
}

#[test]
fn sources_are_ascii_and_a_few_signs() {
    let mut found = Vec::new();
    for source in own() {
        for (n, line) in source.text.lines().enumerate() {
            if let Some(c) = line.chars().find(|c| !c.is_ascii() && !SIGNS.contains(*c)) {
                found.push(format!("{}:{}: {c:?}; write it as an escape", source.path, n + 1));
            }
        }
    }
    refuse("what one sees is what stands there", found);
}

#[test]
fn every_dependency_has_its_reason_beside_it() {
    let mut found = Vec::new();
    for path in ["Cargo.toml", "src/engine/Cargo.toml", "wire/Cargo.toml"] {
        let text = fs::read_to_string(root().join(path)).unwrap();
        let mut in_dependencies = false;
        let mut before = "";
        for line in text.lines() {
            if line.starts_with('[') {
                in_dependencies = line.ends_with("dependencies]");
            } else if in_dependencies
                && line.starts_with(|c: char| c.is_ascii_alphanumeric())
                && line.contains('=')
                && !before.starts_with('#')
            {
                found.push(format!("{path}: {line}"));
            }
            before = line;
        }
    }
    refuse("a comment above each dependency says why it is worth its weight", found);
}

// --- The checks themselves ---

#[test]
fn comments_and_literals_are_no_code_and_paths_are_found_in_lists() {
    let text = "use crate::{a::{B, self}, c as d, e};\n// crate::f\nlet s = \"crate::g\\\"\"; \
                let r = r#\"crate::\"h\"#; let c = '\"'; crate::i::j::<'_>(); mycrate::k();\n";
    let code = blank(text);
    let expected = ["crate::a::B", "crate::a", "crate::c", "crate::e", "crate::i::j"];
    assert_eq!(paths(&code, "crate"), expected);
    assert_eq!(code.lines().count(), text.lines().count());
}

#[test]
fn functions_are_measured_from_head_to_closing_brace() {
    let code =
        "trait T { fn none(&self, x: [u8; 4]); }\nfn two() {\n}\nfn three(\n) -> [u8; 2] {\n}";
    let expected = [("two".to_owned(), 2, 2), ("three".to_owned(), 4, 3)];
    assert_eq!(functions(code), expected);
}
