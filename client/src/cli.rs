//! The command line `usagectl`, built on the public calls of this crate.
//!
//! Each command is a file. Results are written to `out`, messages to `err`, and the exit code is one of
//! [`EXIT_CODES`]. Flags and output are versioned with the crate. This module is only for the binary and its tests.

mod accounts;
mod acknowledge;
mod audit;
mod chart;
mod comparison;
mod connection;
mod correct;
mod doctor;
mod exit;
mod explain;
mod find;
mod get;
mod import;
mod increment;
mod keys;
mod manual;
mod new_file;
mod output;
mod paging;
mod period_args;
mod profile;
mod reconcile;
mod report;
mod reports;
mod resolve;
mod runs;
mod shadow;
mod sign_off;
mod summary;
mod time_arg;
mod usage;
mod watch;

use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand, builder::Resettable};
use connection::{Connection, Sources};
use exit::Failure;
use indicatif::ProgressBar;
use std::{
    ffi::OsString,
    io::{Read, Write},
    pin::Pin,
};

/// The meaning of the exit codes, as shown by `--help`.
pub const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  failed; repeating the same command does not help
  2  invalid arguments
  3  no answer or temporarily unavailable; try again, nothing is counted twice
  4  partly done; some lines or reports were rejected
130  stopped by Ctrl-C, 143 by SIGTERM; try again, nothing is counted twice";

/// The streams of a command, and its end by a signal.
pub struct Streams<'a> {
    /// The standard input.
    pub input: Box<dyn Read + Send>,
    /// For results.
    pub out: &'a mut (dyn Write + Send),
    /// For messages about the work.
    pub err: &'a mut (dyn Write + Send),
    /// Whether both are terminals, on which progress bars and updated lines can be shown.
    pub are_terminals: bool,
    /// The columns of the terminal that results are written to; none if they go elsewhere. Tables fit into them.
    pub width: Option<u16>,
    /// Resolves to the exit code when the process is asked to stop. It is polled only by commands that say what they
    /// leave behind; the others end where they are.
    pub stop: Pin<Box<dyn Future<Output = u8> + Send>>,
}

impl std::fmt::Debug for Streams<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Streams")
            .field("are_terminals", &self.are_terminals)
            .finish_non_exhaustive()
    }
}

impl Streams<'_> {
    /// A progress bar, hidden unless the streams are terminals.
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
    about = "Count usage, show it and report it to Stripe",
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
    /// Count usage of an account
    Increment(increment::Arguments),
    /// Show an account's usage as a table, with a chart if it is split into points
    Get(get::Arguments),
    /// List the usage of all accounts of one meter, the largest quantity first
    Usage(usage::Arguments),
    /// Show the usage of all accounts together: totals, states of reports, accounts with the most
    Summary(summary::Arguments),
    /// Close open usage reports, send them to Stripe and show the result
    Report(report::Arguments),
    /// List usage reports: open ones first, then the latest closed first; of one account the newest first
    Reports(reports::Arguments),
    /// Decide on a report that the service does not retry by itself
    Resolve(resolve::Arguments),
    /// Correct an account's usage, by a report of its own
    Correct(correct::Arguments),
    /// Compare what was counted, reported, in Stripe's totals and on invoices; exits with 4 on any difference
    Reconcile(reconcile::Arguments),
    /// Follow a call to its invoice: find the report, the meter event and the invoice lines of an idempotency key
    Find(find::Arguments),
    /// Follow an invoice to the calls: its lines, their reports, and the increments behind them
    Explain(explain::Arguments),
    /// List accounts, show one, link it, change its plan, cancel it
    #[command(visible_alias = "account")]
    Accounts(accounts::Arguments),
    /// Acknowledge a difference with invoices: it is known and was dealt with
    Acknowledge(acknowledge::Arguments),
    /// Count past usage from a file or a pipe; importing it twice counts it once
    Import(import::Arguments),
    /// Show usage as it grows
    Watch(watch::Arguments),
    /// Create, list and revoke API keys
    Keys(keys::Arguments),
    /// List what admins did, tried to do and were refused, newest first
    Audit(audit::Arguments),
    /// List report runs, the latest first, with what became of their reports
    Runs(runs::Arguments),
    /// Compare with another integration by customer, meter and day, or switch over from it; exits with 4 on any difference
    Shadow(shadow::Arguments),
    /// Show whether a month is closed and its totals, or export it for finance
    SignOff(sign_off::Arguments),
    /// Ask the server to check itself, its database, Stripe and the schedule; exits with 4 if anything is bad
    Doctor(doctor::Arguments),
    /// Print what completes these commands in a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Print the manual page, in roff
    Man,
}

/// Runs a command line and returns the [exit code](EXIT_CODES). The first argument is the program's name.
pub async fn run<A: Into<OsString> + Clone>(
    args: impl IntoIterator<Item = A>,
    mut streams: Streams<'_>,
) -> u8 {
    let parsed = without_empty_variables(Cli::command())
        .try_get_matches_from(args)
        .and_then(|matches| Ok((Cli::from_arg_matches(&matches)?, Sources::of(&matches))));
    let failure = match parsed {
        Ok((cli, sources)) => match execute(cli, sources, &mut streams).await {
            Ok(()) => return exit::DONE,
            Err(failure) => failure,
        },
        // `--help` and `--version` are not failures.
        Err(error) if !error.use_stderr() => {
            return match write!(streams.out, "{error}") {
                Ok(()) => exit::DONE,
                Err(error) => Failure::from(error).exit_code(),
            };
        }
        Err(error) => Failure::Usage(error.to_string().trim_end().to_owned()),
    };
    if let Some(message) = failure.message() {
        // If this fails as well, no output is left to report it on.
        let _written = writeln!(streams.err, "{message}");
    }
    failure.exit_code()
}

async fn execute(cli: Cli, sources: Sources, streams: &mut Streams<'_>) -> Result<(), Failure> {
    match &cli.command {
        Command::Completions { shell } => return manual::complete(*shell, streams),
        Command::Man => return manual::print(streams),
        _ => {}
    }
    let client = cli.connection.client(sources, streams.err)?;
    match cli.command {
        Command::Increment(arguments) => increment::run(&client, arguments, streams).await,
        Command::Get(arguments) => get::run(&client, arguments, streams).await,
        Command::Usage(arguments) => usage::run(&client, arguments, streams).await,
        Command::Summary(arguments) => summary::run(&client, arguments, streams).await,
        Command::Report(arguments) => report::run(&client, arguments, streams).await,
        Command::Reports(arguments) => reports::run(&client, arguments, streams).await,
        Command::Accounts(arguments) => accounts::run(&client, arguments, streams).await,
        Command::Acknowledge(arguments) => acknowledge::run(&client, arguments, streams).await,
        Command::Import(arguments) => import::run(&client, arguments, streams).await,
        Command::Watch(arguments) => watch::run(&client, arguments, streams).await,
        Command::Resolve(arguments) => resolve::run(&client, arguments, streams).await,
        Command::Correct(arguments) => correct::run(&client, arguments, streams).await,
        Command::Reconcile(arguments) => reconcile::run(&client, arguments, streams).await,
        Command::Find(arguments) => find::run(&client, arguments, streams).await,
        Command::Explain(arguments) => explain::run(&client, arguments, streams).await,
        Command::Keys(arguments) => keys::run(&client, arguments, streams).await,
        Command::Audit(arguments) => audit::run(&client, arguments, streams).await,
        Command::Runs(arguments) => runs::run(&client, arguments, streams).await,
        Command::Shadow(arguments) => shadow::run(&client, arguments, streams).await,
        Command::SignOff(arguments) => sign_off::run(&client, arguments, streams).await,
        Command::Doctor(arguments) => doctor::run(&client, arguments, streams).await,
        Command::Completions { .. } | Command::Man => Ok(()),
    }
}

/// Whether a command line can be read; nothing is run. The first argument is the program's name. For tests of what
/// documentation shows.
///
/// # Errors
/// What is wrong with it, in words for people.
pub fn check<A: Into<OsString> + Clone>(args: impl IntoIterator<Item = A>) -> Result<(), String> {
    let parsed = Cli::command().try_get_matches_from(args);
    match parsed.and_then(|matches| Cli::from_arg_matches(&matches).map(drop)) {
        // Help that was asked for is an error to clap.
        Err(error) if error.use_stderr() => Err(error.to_string()),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// The command line without the environment variables that are empty: they count as unset.
fn without_empty_variables(command: clap::Command) -> clap::Command {
    let command = command.mut_args(|arg| {
        let is_empty = arg
            .get_env()
            .and_then(std::env::var_os)
            .is_some_and(|value| value.is_empty());
        if is_empty {
            arg.env(Resettable::Reset)
        } else {
            arg
        }
    });
    command.mut_subcommands(without_empty_variables)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_flags_of_all_commands_fit_together() {
        Cli::command().debug_assert();
    }
}
