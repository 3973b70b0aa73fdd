//! The cost of counting through a `Recorder` for its caller, and its rate compared with single calls and batches.
//!
//! Run it with `cargo bench -p usage-client`. Client, server and database share one machine, so compare figures only with
//! each other. Every commit waits for the disk. Each measurement ends by comparing the acknowledged usage with the
//! server's totals.
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
    reason = "a benchmark prints, rounds and panics on failure"
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
    /// The seconds for which each rate is measured.
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// The number of calls of `record` per thread.
    #[arg(long, default_value_t = 2_000_000)]
    calls: usize,
    /// Set by `cargo bench`.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() {
    let cli = Cli::parse();
    if !cli.bench {
        println!("recording: run this with `cargo bench -p usage-client`");
        return;
    }
    let seconds = Duration::from_secs_f64(cli.seconds);
    let unreachable_endpoint = server::unreachable_endpoint();

    println!("record(), in nanoseconds per call, without the cost of the clock:\n");
    caller::measure_nothing(cli.calls);
    let server = Server::start();
    let reachable = caller::measure("server reachable", server.endpoint(), cli.calls);
    server.stop();
    let unreachable = caller::measure("server unreachable", &unreachable_endpoint, cli.calls);

    println!("\nIncrements per second, acknowledged by the server:\n");
    let times_unary = rate::measure(seconds);

    println!("\nMemory after an hour without a server:\n");
    memory::measure(&unreachable_endpoint);

    println!("\nTargets:\n");
    let print_target = |what: &str, is_met: bool| {
        println!("  {what}: {}", if is_met { "met" } else { "missed" });
    };
    print_target(
        &format!("a median under 250 ns with 8 threads, {reachable} ns"),
        reachable < 250,
    );
    let difference = unreachable as f64 / reachable as f64;
    let what = format!("no difference without a server: {difference:.2} times the median");
    print_target(&what, (0.8..1.25).contains(&difference));
    let what = format!("50 times single calls, {times_unary:.0} times");
    print_target(&what, times_unary >= 50.0);
}
