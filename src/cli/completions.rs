//! `completions`: what a shell suggests, from the table of commands and flags.

use super::args::{COMMANDS, Command, Flag, GLOBAL_FLAGS};
use std::fmt::Write as _;

/// Shells that are known.
pub const SHELLS: [&str; 3] = ["bash", "zsh", "fish"];

/// The completions for a shell.
///
/// # Errors
/// If it is not one of [`SHELLS`].
pub fn script(shell: &str) -> Result<String, String> {
    match shell {
        "bash" => Ok(bash()),
        "zsh" => Ok(zsh()),
        "fish" => Ok(fish()),
        _ => {
            let near = super::args::nearest(shell, SHELLS.into_iter());
            Err(format!(
                "there are no completions for {shell:?}{near}; bash, zsh and fish are known"
            ))
        }
    }
}

/// What a value or an operand is, by what `help` calls it.
enum Kind {
    Directory,
    Path,
    Words(Vec<&'static str>),
    Free,
}

fn kind(name: &str, value: &str) -> Kind {
    match (name, value) {
        (_, "DIR") => Kind::Directory,
        (_, "FILE" | "F" | "FILE|DIR|-" | "[FILE]" | "FILE.car" | "FILE.car|-") => Kind::Path,
        (_, "SHELL") => Kind::Words(SHELLS.to_vec()),
        (_, "[COMMAND]") => Kind::Words(COMMANDS.iter().map(|command| command.name).collect()),
        ("log", _) => Kind::Words(vec!["error", "warn", "info", "debug", "trace"]),
        ("log-format", _) => Kind::Words(vec!["human", "json"]),
        ("profile", _) => Kind::Words(vec!["unixfs-v1-2025", "kubo-default", "unixfs-v0-2015"]),
        _ => Kind::Free,
    }
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}

fn dashed(flags: &[Flag]) -> String {
    let words: Vec<String> = flags.iter().map(|flag| format!("--{}", flag.name)).collect();
    words.join(" ")
}

// --- bash ---

fn bash() -> String {
    let names: Vec<&str> = COMMANDS.iter().map(|command| command.name).collect();
    let mut text = format!(
        "# Completions of barrow for bash: eval \"$(barrow completions bash)\"\n\
         _barrow() {{\n    local cur=${{COMP_WORDS[COMP_CWORD]}} prev=${{COMP_WORDS[COMP_CWORD-1]}}\n    \
         local word command= flags={}\n    \
         for word in \"${{COMP_WORDS[@]:1:COMP_CWORD-1}}\"; do\n        \
         case $word in {}) command=$word; break ;; esac\n    done\n    COMPREPLY=()\n",
        quoted(&dashed(GLOBAL_FLAGS)),
        names.join("|"),
    );
    text.push_str("    case $prev in\n");
    let mut seen = Vec::new();
    for flag in GLOBAL_FLAGS.iter().chain(COMMANDS.iter().flat_map(|command| command.flags)) {
        if !flag.value.is_empty() && !seen.contains(&flag.name) {
            seen.push(flag.name);
            let reply = bash_reply(&kind(flag.name, flag.value));
            let short = if flag.name == "output" { "|-o" } else { "" };
            let _ = writeln!(text, "        --{}{short}) {reply}; return ;;", flag.name);
        }
    }
    text.push_str("    esac\n    case $command in\n");
    let _ = writeln!(
        text,
        "        '') COMPREPLY=($(compgen -W {} -- \"$cur\")) ;;",
        quoted(&names.join(" "))
    );
    for command in COMMANDS {
        let reply = bash_reply(&kind("", command.operands));
        let _ = writeln!(
            text,
            "        {}) flags+={}; {reply} ;;",
            command.name,
            quoted(&format!(" {}", dashed(command.flags))),
        );
    }
    text.push_str(
        "    esac\n    if [[ $cur == -* ]]; then COMPREPLY=($(compgen -W \"$flags\" -- \"$cur\")); fi\n}\n\
         complete -o filenames -F _barrow barrow\n",
    );
    text
}

fn bash_reply(kind: &Kind) -> String {
    match kind {
        Kind::Directory => "COMPREPLY=($(compgen -d -- \"$cur\"))".into(),
        Kind::Path => "COMPREPLY=($(compgen -f -- \"$cur\"))".into(),
        Kind::Words(words) => {
            format!("COMPREPLY=($(compgen -W {} -- \"$cur\"))", quoted(&words.join(" ")))
        }
        Kind::Free => ":".into(),
    }
}

// --- zsh ---

fn zsh() -> String {
    let mut text = String::from(
        "#compdef barrow\n# Completions of barrow for zsh: barrow completions zsh > DIR/_barrow, \
         with DIR in $fpath\n_barrow() {\n    local context state state_descr line\n    \
         typeset -A opt_args\n    local -a commands global\n    commands=(\n",
    );
    for command in COMMANDS {
        let _ = writeln!(text, "        {}", quoted(&format!("{}:{}", command.name, command.help)));
    }
    text.push_str("    )\n    global=(\n");
    for flag in GLOBAL_FLAGS {
        let _ = writeln!(text, "        {}", zsh_flag(flag));
    }
    text.push_str(
        "    )\n    _arguments -C $global '1:command:->command' '*::operand:->operands'\n    \
         case $state in\n    command) _describe command commands ;;\n    operands)\n        \
         case $words[1] in\n",
    );
    for command in COMMANDS {
        let _ = write!(text, "        {}) _arguments $global", command.name);
        for flag in command.flags {
            let _ = write!(text, " \\\n            {}", zsh_flag(flag));
        }
        if command.counts.1 > 0 {
            let what = zsh_action(&kind("", command.operands));
            let operands = command.operands.replace(':', "\\:");
            let _ = write!(text, " \\\n            {}", quoted(&format!("*:{operands}:{what}")));
        }
        text.push_str(" ;;\n");
    }
    text.push_str("        esac ;;\n    esac\n}\n");
    // Loaded as a function of $fpath it is to run; sourced, it is to be made known.
    text.push_str(
        "if [[ $funcstack[1] == _barrow ]]; then _barrow \"$@\"; else compdef _barrow barrow; fi\n",
    );
    text
}

fn zsh_flag(flag: &Flag) -> String {
    let escape = |text: &str| text.replace('[', "\\[").replace(']', "\\]").replace(':', "\\:");
    let often = if flag.help.contains("may be repeated") { "*" } else { "" };
    let help = escape(flag.help);
    quoted(&if flag.value.is_empty() {
        format!("{often}--{}[{help}]", flag.name)
    } else {
        let what = zsh_action(&kind(flag.name, flag.value));
        format!("{often}--{}=[{help}]:{}:{what}", flag.name, escape(flag.value))
    })
}

fn zsh_action(kind: &Kind) -> String {
    match kind {
        Kind::Directory => "_files -/".into(),
        Kind::Path => "_files".into(),
        Kind::Words(words) => format!("({})", words.join(" ")),
        Kind::Free => " ".into(),
    }
}

// --- fish ---

fn fish() -> String {
    let mut text = String::from(
        "# Completions of barrow for fish: barrow completions fish | source\ncomplete -c barrow -f\n",
    );
    for flag in GLOBAL_FLAGS {
        fish_flag(&mut text, "", flag);
    }
    for command in COMMANDS {
        let _ = writeln!(
            text,
            "complete -c barrow -n __fish_use_subcommand -a {} -d {}",
            command.name,
            fish_quoted(command.help),
        );
    }
    for command in COMMANDS {
        let only = format!(" -n '__fish_seen_subcommand_from {}'", command.name);
        for flag in command.flags {
            fish_flag(&mut text, &only, flag);
        }
        fish_operands(&mut text, &only, command);
    }
    text
}

fn fish_flag(text: &mut String, only: &str, flag: &Flag) {
    let takes = if flag.value.is_empty() {
        String::new()
    } else {
        match kind(flag.name, flag.value) {
            Kind::Directory => " -x -a '(__fish_complete_directories)'".into(),
            Kind::Path => " -r -F".into(),
            Kind::Words(words) => format!(" -x -a '{}'", words.join(" ")),
            Kind::Free => " -x".into(),
        }
    };
    let short = if flag.name == "output" { " -s o" } else { "" };
    let help = fish_quoted(flag.help);
    let _ = writeln!(text, "complete -c barrow{only} -l {}{short}{takes} -d {help}", flag.name);
}

fn fish_operands(text: &mut String, only: &str, command: &Command) {
    match kind("", command.operands) {
        Kind::Directory | Kind::Path => {
            let _ = writeln!(text, "complete -c barrow{only} -F");
        }
        Kind::Words(words) => {
            // `help` has commands behind it, which must not count as its own.
            let _ = writeln!(text, "complete -c barrow{only} -a '{}'", words.join(" "));
        }
        Kind::Free => {}
    }
}

fn fish_quoted(text: &str) -> String {
    format!("'{}'", text.replace('\\', "\\\\").replace('\'', "\\'"))
}
