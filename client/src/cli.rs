//! The command line `usagectl`: what people do by hand, through the crate's own calls.
//!
//! A command is a file here. What a command prints goes to `out`, what it says about itself to `err`; it ends
//! with a code of [`EXIT_CODES`]. Flags and output follow the crate's version; this module is for the binary
//! and its tests.

mod accounts;
mod chart;
mod connection;
mod exit;
mod get;
mod import;
mod increment;
mod output;
mod report;
mod reports;
mod time_arg;
mod watch;

use clap::{Parser, Subcommand};
use connection::Connection;
use exit::Failure;
use indicatif::ProgressBar;
use std::{ffi::OsString, io::Write};

/// What the process's exit code means, as `--help` says it.
pub const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  refused: trying the same again changes nothing
  2  the command line is wrong
  3  no answer, or not now: try again; whatever was counted is not counted twice
  4  done in part: some lines or reports were refused";

/// Where a command writes to.
pub struct Streams<'a> {
    /// What was asked for.
    pub out: &'a mut (dyn Write + Send),
    /// What is said about it.
    pub err: &'a mut (dyn Write + Send),
    /// Whether people look at both on a terminal: then there are progress bars, and lines that change.
    pub are_terminals: bool,
}

impl std::fmt::Debug for Streams<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Streams")
            .field("are_terminals", &self.are_terminals)
            .finish_non_exhaustive()
    }
}

impl Streams<'_> {
    /// A progress bar, where there is somebody to see it.
    fn bar(&self, length: u64) -> ProgressBar {
        if self.are_terminals {
            ProgressBar::new(length)
        } else {
            ProgressBar::hidden()
        }
    }
}

#[derive(Debug, Parser)]
#[command(
    name = "usagectl",
    version,
    about = "Count usage, show it and see it reach Stripe",
    after_help = EXIT_CODES
)]
struct Cli {
    #[command(flatten)]
    connection: Connection,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Count what an account used
    Increment(increment::Arguments),
    /// Show an account's usage as a table, with a chart where it is cut into points
    Get(get::Arguments),
    /// Close what counts and follow it to Stripe
    Report(report::Arguments),
    /// List usage reports, newest first
    Reports(reports::Arguments),
    /// List accounts, show one, or say whom one bills to
    Accounts(accounts::Arguments),
    /// Count past usage from a file; whatever is imported twice counts once
    Import(import::Arguments),
    /// Show usage as it grows
    Watch(watch::Arguments),
}

/// Runs a command line, its first word the program's name; answers the [exit code](EXIT_CODES).
pub async fn run<A: Into<OsString> + Clone>(
    args: impl IntoIterator<Item = A>,
    mut streams: Streams<'_>,
) -> u8 {
    let failure = match Cli::try_parse_from(args) {
        Ok(cli) => match execute(cli, &mut streams).await {
            Ok(()) => return exit::DONE,
            Err(failure) => failure,
        },
        // Help and the version are asked for, and are no failure.
        Err(error) if !error.use_stderr() => {
            return match write!(streams.out, "{error}") {
                Ok(()) => exit::DONE,
                Err(error) => Failure::from(error).exit_code(),
            };
        }
        Err(error) => Failure::Arguments(error.to_string().trim_end().to_owned()),
    };
    if let Some(message) = failure.message() {
        // Nobody is left to be told where this fails too.
        let _told = writeln!(streams.err, "{message}");
    }
    failure.exit_code()
}

async fn execute(cli: Cli, streams: &mut Streams<'_>) -> Result<(), Failure> {
    let client = cli.connection.client()?;
    match cli.command {
        Command::Increment(arguments) => increment::run(&client, arguments, streams).await,
        Command::Get(arguments) => get::run(&client, arguments, streams).await,
        Command::Report(arguments) => report::run(&client, arguments, streams).await,
        Command::Reports(arguments) => reports::run(&client, arguments, streams).await,
        Command::Accounts(arguments) => accounts::run(&client, arguments, streams).await,
        Command::Import(arguments) => import::run(&client, arguments, streams).await,
        Command::Watch(arguments) => watch::run(&client, arguments, streams).await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_flags_of_all_commands_fit_together() {
        Cli::command().debug_assert();
    }
}
