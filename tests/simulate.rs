//! Runs the simulator: new seeds for a bounded time, and every seed that ever failed. See `server/docs/simulation.md`.

fn main() -> std::process::ExitCode {
    usage_simulator::run()
}
