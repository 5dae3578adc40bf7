//! The manual page, from the table of commands and flags: `barrow help --man > barrow.1`.

use super::args::{COMMANDS, Flag, GLOBAL_FLAGS};
use std::fmt::Write as _;

/// What the table does not say.
const END: &str = r"
.SH EXIT STATUS
0 done; 1 failed; 2 usage; 3 something is lost or unverified; 10 no store there; 11 the store is
locked by another process that does not answer; 130 interrupted.
.SH ENVIRONMENT
A flag goes before the environment, and that before the file of settings. The variable of a flag is
.B BARROW_
and its name in capitals, with _ for -; lists have commas. XDG_DATA_HOME says where data is kept.
.SH FILES
.TP
.I barrow.toml
in the data directory, or what \-\-config names: the flags of
.B barrow serve
by their names, log and log-format.
.TP
.I identity
the key of the node. Whoever has it is the node.
.TP
.I api-token
what writes over HTTP need, unless HTTP is bound to this machine alone.
.TP
.I node.json
while a node serves: its process, its id and its addresses.
.SH NOTES
A CID that no peer has fails within 3 s, one whose provider does not deliver within 30 s.
";

/// The page, as roff.
pub fn page() -> String {
    let version = env!("CARGO_PKG_VERSION");
    let mut text = format!(
        ".TH BARROW 1 \"\" \"barrow {version}\" \"User Commands\"\n.SH NAME\nbarrow \\- \
         content-addressed storage node\n.SH SYNOPSIS\n.B barrow\n[\\fIFLAG\\fR]... \\fICOMMAND\\fR \
         [\\fIOPERAND\\fR]...\n.SH DESCRIPTION\nA file put into a node gets a CID, a name made of \
         its content's hash. Any node is asked for that CID, over HTTP or here, and fetches the \
         blocks from whoever has them, checks each, and streams the file.\n.PP\nWhile a node \
         serves a data directory, the other commands go through it; without one they open the \
         store themselves.\n.SH COMMANDS\n"
    );
    for command in COMMANDS {
        let _ = writeln!(
            text,
            ".SS \"{} {}\"\n{}\n.PP\n.EX\n{}\n.EE",
            command.name,
            escape(command.operands),
            escape(command.help),
            escape(command.example),
        );
        put_flags(&mut text, command.flags);
    }
    text.push_str(".SH FLAGS OF ALL COMMANDS\n");
    put_flags(&mut text, GLOBAL_FLAGS);
    text.push_str(END.trim_start());
    text
}

fn put_flags(text: &mut String, flags: &[Flag]) {
    for flag in flags {
        let name = escape(&format!("--{}", flag.name));
        let help = escape(flag.help);
        let _ = writeln!(text, ".TP\n\\fB{name}\\fR \\fI{}\\fR\n{help}", escape(flag.value));
    }
}

/// Text that roff prints as it stands.
fn escape(text: &str) -> String {
    let text = text.replace('\\', "\\e").replace('-', "\\-").replace('…', "...");
    // A line that begins so would be a request.
    if text.starts_with(['.', '\'']) { format!("\\&{text}") } else { text }
}
