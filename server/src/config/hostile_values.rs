//! Hostile values of every setting: each is taken, or refused by an error that names its setting, the value unless it is a
//! secret, and the limits of a number. The same by variables of the environment is in `server/tests/program/settings.rs`.

use std::panic::{AssertUnwindSafe, catch_unwind};

use clap::{ArgMatches, Args as _, Command, FromArgMatches as _};
use proptest::prelude::*;

use super::Config;

/// Values that parsers of numbers, addresses, paths, lists and URLs get wrong.
const VALUES: [&str; 40] = [
    "",
    " ",
    "\0",
    "a\0b",
    ",",
    ",,,",
    "=",
    ":",
    "a=b=c",
    "a:b:c",
    "=:",
    "-1",
    "0",
    "1",
    "60",
    "0.5",
    "1e999",
    "NaN",
    "inf",
    "99999999999999999999",
    "9223372036854775807",
    "-9223372036854775808",
    "4294967296",
    "+1",
    "0x10",
    "\u{202e}off",
    "\u{ff11}",
    "127.0.0.1:99999",
    "[::1",
    "[::ffff:1.2.3.4%eth0]:1",
    "postgres://",
    "postgres://a:b@[::1/x?host=%00",
    "postgres://h1:1,h2:x,/usage?a=%zz",
    "sqlite://%00",
    "http://[",
    "https://\u{202e}.example",
    "/dev/null",
    "/",
    "* * * * * * *",
    "UTC/../..",
];

fn command() -> Command {
    Config::augment_args(Command::new("test"))
}

/// The flags and variables of all settings.
fn settings() -> Vec<(String, String)> {
    let command = command();
    let settings = command.get_arguments().filter_map(|arg| {
        let flag = arg.get_long()?.to_owned();
        let variable = arg.get_env()?.to_str()?.to_owned();
        Some((flag, variable))
    });
    settings.collect()
}

/// Whether an error names a setting: by its flag, its variable, or in words.
fn names(error: &str, flag: &str, variable: &str) -> bool {
    let words = variable.to_lowercase().replace('_', " ");
    let is_of_meters = variable == "METERS" && error.contains("meter");
    error.contains(&format!("--{flag}"))
        || error.contains(variable)
        || error.contains(&words)
        || is_of_meters
}

/// Whether an error of the command line repeats a value, if that is one word. It knows no secret: those are checked later.
fn repeats(error: &str, value: &str) -> bool {
    const MAX_BYTES: usize = 200;
    let is_word = |byte: u8| byte.is_ascii_graphic() && byte != b',';
    let is_plain = value.len() <= MAX_BYTES && value.bytes().all(is_word);
    !is_plain || error.contains(value)
}

fn parse(flag: &str, value: &str) -> Result<ArgMatches, String> {
    let args = ["test".to_owned(), format!("--{flag}={value}")];
    let parsed = command().try_get_matches_from(args);
    parsed.map_err(|error| error.to_string())
}

/// Reads a value of a setting. Fails if an error does not name it.
fn read(flag: &str, variable: &str, value: &str) -> Result<(), String> {
    let matches = match parse(flag, value) {
        Ok(matches) => matches,
        Err(error) => {
            let is_named = names(&error, flag, variable) && repeats(&error, value);
            return is_named.then_some(()).ok_or(error);
        }
    };
    let config = Config::from_arg_matches(&matches).map_err(|error| error.to_string())?;
    let errors = [
        config.check().err(),
        config.meters.read().err(),
        config.schedule.read().err(),
    ];
    // What is shown of a configuration, and kept out of logs.
    let _ = (config.secrets(), config.connections_of_address());
    let mut errors = errors.into_iter().flatten();
    errors
        .find(|error| !names(error, flag, variable))
        .map_or(Ok(()), Err)
}

fn check(flag: &str, variable: &str, value: &str) -> Result<(), String> {
    // The value that a panic was about would not be printed.
    let read = catch_unwind(AssertUnwindSafe(|| read(flag, variable, value)));
    let read = read.unwrap_or_else(|_| Err("a panic".to_owned()));
    read.map_err(|why| {
        let start: String = value.chars().take(200).collect();
        format!("--{flag}={start:?}: {why}")
    })
}

#[test]
fn a_hostile_value_of_a_setting_is_refused_by_name() {
    let settings = settings();
    assert!(settings.len() > 40, "{settings:?}");
    let long = [
        "x".repeat(10_000),
        "1".repeat(10_000),
        ",a=b:c".repeat(2_000),
    ];
    let values = VALUES.into_iter().chain(long.iter().map(String::as_str));
    let values: Vec<&str> = values.collect();
    for (flag, variable) in &settings {
        for value in &values {
            if let Err(why) = check(flag, variable, value) {
                panic!("{why}");
            }
        }
    }
}

#[test]
fn a_refused_number_names_its_limits() {
    let mut numbers = 0;
    for (flag, _) in settings() {
        let takes = |value: &&str| parse(&flag, value).is_ok();
        let is_number = ["1", "60", "1000"].iter().any(takes) && !takes(&"many");
        if !is_number {
            continue;
        }
        numbers += 1;
        for value in ["many", "-1", "99999999999999999999"] {
            let error = parse(&flag, value).unwrap_err();
            let says = error.split("': ").nth(1).unwrap_or_default();
            let has_limits = says.contains(|one: char| one.is_ascii_digit());
            assert!(has_limits, "{error}");
        }
    }
    assert!(numbers > 15, "{numbers}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Each text is given to one setting.
    #[test]
    fn a_random_value_of_a_setting_is_refused_by_name(
        value in prop_oneof![".{0,60}", "[-+:=,./0-9a-z\\[\\]@%?&*#]{0,60}"],
        place in any::<prop::sample::Index>(),
    ) {
        let settings = settings();
        let (flag, variable) = &settings[place.index(settings.len())];
        let checked = check(flag, variable, &value);
        prop_assert!(checked.is_ok(), "{checked:?}");
    }
}
