//! Simulates months of usage-billing in seconds: the service, its callers and a fake Stripe over simulated time, with
//! faults below the service, all from one seed. `server/docs/simulation.md` says what it does and what it checks.
//!
//! The map:
//! - `command`: the command line; `seeds`: the seeds that ever failed; `many`: many seeds, each in a `child`, a process of
//!   its own; `shrink`: finds the faults without which a seed does not fail.
//! - `run`: one run of a seed; `plan`: what is drawn from the seed; `faults`: its list of faults; `strike`: begins them;
//!   `scripts`: what happens to subscriptions at Stripe; `at_stripe`: carries it out; `callers` and `admins`;
//!   `restore`: of a backup.
//! - `oracle`: what the rules say; `terms`: of subscriptions; `checks`, `sent`, `refusals`, `invoices` and `told`: what must
//!   hold.
//! - `world`: the fake Stripe, the replica and the time that all share; `replica`: the service in a thread of its own;
//!   `idle`: whether something still goes on; `log`: the service's warnings.
//! - `defects`: the test of the simulator, by deliberate defects of the service; `planted`: those that this program has.
//! - `vfs`: the layer below SQLite, the only place with unsafe code; `disk`: what it asks.

mod admins;
mod at_stripe;
mod callers;
mod checks;
mod child;
mod command;
mod defects;
mod disk;
mod faults;
mod idle;
mod invoices;
mod log;
mod many;
mod oracle;
mod plan;
mod planted;
mod random;
mod refusals;
mod replica;
mod restore;
mod run;
mod scripts;
mod seeds;
mod sent;
mod shrink;
mod strike;
mod terms;
mod time;
mod told;
mod vfs;
mod world;

pub use command::run;
