//! What counting through a `Recorder` costs its caller, and what it is worth: beside single calls and beside the
//! bare batch call.
//!
//! `cargo bench -p usage-client` prints everything from one run. Client, server and database share this machine,
//! so the figures are comparable with each other and not with another machine's. Every commit waits for the
//! disk; each measurement ends by comparing what was acknowledged with what the server shows.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::as_conversions,
    clippy::arithmetic_side_effects,
    clippy::float_arithmetic,
    clippy::print_stdout,
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_possible_wrap,
    reason = "a benchmark prints, rounds, and ends where something is not as it must be"
)]

mod caller;
mod memory;
mod rate;
mod server;

use clap::Parser;
use server::Server;
use std::time::Duration;

/// Measures the recorder.
#[derive(Parser)]
struct Cli {
    /// How many seconds each rate is measured.
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// How many calls of `record` each thread makes.
    #[arg(long, default_value_t = 2_000_000)]
    calls: usize,
    /// Given by `cargo bench` and by nothing else.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() {
    let cli = Cli::parse();
    if !cli.bench {
        println!("recording: nothing is measured here; run `cargo bench -p usage-client`");
        return;
    }
    let seconds = Duration::from_secs_f64(cli.seconds);
    let dead = server::dead_endpoint();

    println!("record(), in nanoseconds a call, the clock's own cost taken off:\n");
    caller::measure_nothing(cli.calls);
    let server = Server::start();
    let alive = caller::measure("server alive", server.endpoint(), cli.calls);
    server.stop();
    let without = caller::measure("server dead", &dead, cli.calls);

    println!("\nIncrements a second, acknowledged by the server:\n");
    let times_unary = rate::measure(seconds);

    println!("\nMemory of an hour without a server:\n");
    memory::measure(&dead);

    println!("\nWhat was aimed at:\n");
    let tell = |what: &str, is_met: bool| {
        println!("  {what}: {}", if is_met { "met" } else { "too_late" });
    };
    tell(
        &format!("a median under 250 ns with 8 threads, {alive} ns"),
        alive < 250,
    );
    let difference = without as f64 / alive as f64;
    let what = format!("no difference without a server, {difference:.2} times the median");
    tell(&what, (0.8..1.25).contains(&difference));
    let what = format!("50 times single calls, {times_unary:.0} times");
    tell(&what, times_unary >= 50.0);
}
