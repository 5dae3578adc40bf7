//! Results go to standard output, messages to standard error.

use super::CliError;
use serde_json::Value;
use std::io::{self, Write as _};

/// Prints a result.
pub(super) fn text(text: &str) -> Result<(), CliError> {
    match io::stdout().write_all(text.as_bytes()).and_then(|()| io::stdout().flush()) {
        // Whoever read it has had enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        done => Ok(done?),
    }
}

/// Prints a line of JSON.
pub(super) fn json(value: &Value) -> Result<(), CliError> {
    text(&format!("{value}\n"))
}

/// Tells what went wrong.
pub(super) fn error(message: &str) {
    let _ = writeln!(io::stderr(), "barrow: {message}");
}

/// Tells something that is no result.
pub(super) fn note(message: &str) {
    let _ = writeln!(io::stderr(), "{message}");
}
