//! The command `cargo simulate`: see `server/docs/simulation.md`.

fn main() -> std::process::ExitCode {
    usage_simulator::run()
}
