//! The commands that the documentation shows.

use std::{fs, path::Path};

/// One command, as an operator would type it.
#[derive(Debug)]
pub(crate) struct Documented {
    /// The file and the line, for messages.
    pub(crate) place: String,
    /// What follows the name of the program.
    pub(crate) args: Vec<String>,
    /// Whether it is in a block of code, to be typed as it is.
    is_code: bool,
}

/// What a word in capitals stands for, in a command that can be parsed.
const VALUES: [(&str, &str); 7] = [
    ("ACCOUNT", "acct_42"),
    ("ACTION", "retry"),
    ("COMMAND", "doctor"),
    ("DIFFERENCE", "0199d2c4-5a1e-7c3e-9d8f-2f6f1c1b7a10"),
    ("REPORT", "0199d2c4-5a1e-7c3e-9d8f-2f6f1c1b7a10"),
    ("URL", "http://127.0.0.1:9"),
    ("WHY", "the meter was archived"),
];
/// A port that nothing listens on.
const NO_SERVER: &str = "127.0.0.1:9";

impl Documented {
    /// The arguments to run it with, without a server that exists. A command that a text only names, without a flag or a
    /// value, prints its help.
    pub(crate) fn runnable(&self) -> Vec<String> {
        let args = self.args.iter().map(|arg| self.filled(arg));
        let mut args: Vec<String> = args.collect();
        let is_name = |arg: &String| {
            arg.bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte == b'-')
        };
        let is_named = args.iter().all(|arg| is_name(arg) && !arg.starts_with('-'));
        if !self.is_code && is_named {
            args.push("--help".to_owned());
        }
        args
    }

    /// An argument with a value in the place of a word that stands for one.
    fn filled(&self, arg: &str) -> String {
        let (flag, value) = match arg.split_once('=') {
            Some((flag, value)) if flag.starts_with("--") => (format!("{flag}="), value),
            _ => (String::new(), arg),
        };
        let is_placeholder = value.len() > 1 && value.bytes().all(|byte| byte.is_ascii_uppercase());
        let value = match value.split_once("://") {
            Some((scheme, _)) => format!("{scheme}://{NO_SERVER}"),
            None if is_placeholder => {
                let known = VALUES.iter().find(|(word, _)| *word == value);
                let (_, known) =
                    known.unwrap_or_else(|| panic!("{}: what is {value}?", self.place));
                (*known).to_owned()
            }
            None => value.to_owned(),
        };
        flag + &value
    }
}

const FILES: [&str; 4] = [
    "README.md",
    "client/README.md",
    "server/README.md",
    ".github/CONTRIBUTING.md",
];
const FOLDERS: [&str; 2] = ["server/docs", "server/deploy/prometheus"];
/// Where the shell, and not the program, reads on.
const ENDS: [&str; 8] = [">", "<", "|", "&&", ";", "#", "2>", "2>&1"];

/// All commands that begin with one of these names of a program, in blocks of code and within text. `cargo run` with flags
/// of its own is `cargo run --`.
pub(crate) fn commands(root: &Path, programs: &[&str]) -> Vec<Documented> {
    let mut files: Vec<_> = FILES.iter().map(|file| root.join(file)).collect();
    for folder in FOLDERS {
        let entries = fs::read_dir(root.join(folder)).unwrap();
        let entries = entries.map(|entry| entry.unwrap().path());
        files.extend(entries.filter(|path| path.extension().is_some_and(|end| end == "md")));
    }
    let mut found = Vec::new();
    for file in files {
        let text = fs::read_to_string(&file).unwrap();
        let mut is_code = false;
        for (nth, line) in text.lines().enumerate() {
            if line.trim_start().starts_with("```") {
                is_code = !is_code;
                continue;
            }
            let is_code = is_code || line.starts_with("    ");
            let shown: Vec<&str> = if is_code {
                vec![line]
            } else {
                line.split('`').skip(1).step_by(2).collect()
            };
            let args = shown.iter().filter_map(|shown| args_of(shown, programs));
            found.extend(args.map(|args| Documented {
                place: format!("{}:{}", file.display(), nth + 1),
                args,
                is_code,
            }));
        }
    }
    found
}

fn args_of(shown: &str, programs: &[&str]) -> Option<Vec<String>> {
    let shown = shown.trim().trim_start_matches("$ ");
    // What a pipe ends in.
    let piped = shown.rsplit_once("| ").map_or(shown, |(_, last)| last);
    let called = [shown, piped].into_iter().find_map(|shown| {
        let shown = without_variables(shown);
        let of_cargo = shown
            .strip_prefix("cargo run ")
            .filter(|flags| !flags.contains("-p usage-client"))
            .and_then(|flags| flags.split_once("-- "))
            .map(|(_, args)| format!("cargo run -- {args}"));
        let shown = of_cargo.as_deref().unwrap_or(shown);
        let called = programs.iter().find_map(|program| {
            let rest = shown.strip_prefix(program)?;
            rest.starts_with(' ').then_some(rest)
        });
        called.map(str::to_owned)
    })?;
    let words = shlex::split(&called).unwrap_or_else(|| panic!("no shell reads {called:?}"));
    let own = words.into_iter();
    Some(own.take_while(|word| !ENDS.contains(&&**word)).collect())
}

/// What follows the variables that are set for the command.
fn without_variables(shown: &str) -> &str {
    match shown.split_once(' ') {
        Some((first, rest)) if first.contains('=') && first.starts_with(char::is_uppercase) => {
            without_variables(rest)
        }
        _ => shown,
    }
}
