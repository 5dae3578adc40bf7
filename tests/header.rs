//! The C header says what the library has: every call, type for type.

#![allow(clippy::unwrap_used, reason = "a test reports by a panic")]

use std::collections::BTreeSet;

const HEADER: &str = include_str!("../include/barrow.h");
const CAPI: &str = include_str!("../src/capi.rs");

/// What a Rust type is called in C.
fn in_c(rust: &str) -> String {
    let known = match rust {
        "c_int" => "int",
        "c_uint" => "unsigned int",
        "c_char" => "char",
        "c_void" => "void",
        "u8" => "uint8_t",
        "usize" => "size_t",
        "isize" => "ptrdiff_t",
        "Node" => "barrow_node",
        "BarrowSource" => "barrow_source",
        "BarrowSink" => "barrow_sink",
        _ => "",
    };
    if let Some(to) = rust.strip_prefix("*mut ") {
        return format!("{}*", spaced(&in_c(to)));
    }
    if let Some(to) = rust.strip_prefix("*const ") {
        // What is pointed to is constant: before a plain type, behind a pointer.
        let to = in_c(to);
        return if to.ends_with('*') { format!("{to}const *") } else { format!("const {to} *") };
    }
    assert_ne!(known, "", "{rust} has no name in C");
    known.to_owned()
}

fn spaced(c: &str) -> String {
    if c.ends_with('*') { c.to_owned() } else { format!("{c} ") }
}

/// `name: type, ...` as C says it.
fn parameters(rust: &str) -> String {
    let one = |parameter: &str| {
        let (name, kind) = parameter.split_once(':').unwrap();
        format!("{}{}", spaced(&in_c(kind.trim())), name.trim())
    };
    let all: Vec<_> =
        rust.split(',').map(str::trim).filter(|text| !text.is_empty()).map(one).collect();
    if all.is_empty() { "void".into() } else { all.join(", ") }
}

/// Between two texts, the first of them.
fn between<'a>(text: &'a str, open: &str, close: &str) -> Option<(&'a str, &'a str)> {
    let (_, rest) = text.split_once(open)?;
    rest.split_once(close)
}

fn flat(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn the_header_declares_what_the_library_has() {
    let mut expected = BTreeSet::new();
    for export in CAPI.split("#[unsafe(no_mangle)]").skip(1) {
        let (name, rest) = between(export, "extern \"C\" fn ", "(").unwrap();
        let (arguments, rest) = rest.split_once(')').unwrap();
        let (kind, _) = between(rest, "-> ", " {").unwrap();
        expected.insert(format!("{}{name}({});", spaced(&in_c(kind)), parameters(arguments)));
    }
    for (kind, name) in [("BarrowSource", "barrow_source"), ("BarrowSink", "barrow_sink")] {
        let (_, rest) = CAPI.split_once(&format!("pub type {kind}")).unwrap();
        let (arguments, rest) = between(rest, "fn(", ")").unwrap();
        let (result, _) = between(rest, "-> ", ">").unwrap();
        let result = spaced(&in_c(result));
        expected.insert(format!("typedef {result}(*{name})({});", parameters(arguments)));
    }
    let declared =
        HEADER.lines().filter(|line| line.ends_with(");")).map(flat).collect::<BTreeSet<_>>();
    assert_eq!(declared, expected);
    assert!(expected.len() >= 8, "{expected:?}");
}

#[test]
fn the_header_s_numbers_are_the_library_s() {
    let of_rust = CAPI.lines().filter_map(|line| {
        let (name, rest) = line.strip_prefix("pub const ")?.split_once(": ")?;
        Some((name.to_owned(), between(rest, "= ", ";")?.0.to_owned()))
    });
    let of_c = HEADER.lines().filter_map(|line| {
        let (name, value) = line.strip_prefix("#define ")?.split_once(' ')?;
        Some((name.to_owned(), value.to_owned()))
    });
    let of_rust: BTreeSet<_> = of_rust.collect();
    let of_c: BTreeSet<_> = of_c.collect();
    assert_eq!(of_rust, of_c);
    assert_eq!(of_rust.len(), 4);
}
