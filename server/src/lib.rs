//! usage-server: counts what customers use, shows it and bills it through Stripe.
//!
//! This page is the map of the crate: its words, how a unit travels from a call to an invoice, and where things live.
//!
//! # Words
//!
//! | word | meaning |
//! | --- | --- |
//! | account | the caller's own id for who used something; linked to a Stripe customer, or free |
//! | free account | counted and shown, never reported to Stripe; a later link bills usage from a free time only if its `bill_from` says so |
//! | account without a customer | not linked yet: counted and shown; its reports wait in state `no_customer` |
//! | link | what an account bills to (a Stripe customer, or free) from a time on; the history is kept |
//! | meter | what is counted, such as `api_calls`; each has one Stripe meter `event_name` |
//! | stream | one Stripe customer and one meter: its events are sent one at a time, and Stripe sums them |
//! | increment | one call's usage: account, meter, quantity, idempotency key, time |
//! | idempotency key | the caller's name for one increment; the same key counts once |
//! | group commit | many increments in one durable transaction; each caller is answered after the commit |
//! | slot | an aligned hour of UTC, or 15 or 30 minutes of it |
//! | boundary | a moment from which usage is billed differently: a period's end, a link, a cancel, a plan change |
//! | window | the half-open interval inside one slot and between two boundaries |
//! | usage report | the total of one account and meter in one window; closing freezes it, then it is sent to Stripe |
//! | run | one closing of reports, by the schedule, by `ForceReport` or at a period's end; a run of a job is always named so |
//! | `period_end` | of a usage report: the end of its window, set when it closes; of a billing period: its own end |
//! | meter event | what Stripe receives: exactly one for each closed report |
//! | claim | a replica's record that it is about to send a report; valid no longer than a lease |
//! | reported | of usage: Stripe has accepted its meter event; the report is accepted, confirmed or invoiced |
//! | identifier | the meter event's unique name at Stripe; every retry uses the same one |
//! | correction | an admin's addition or subtraction: a usage report by itself |
//! | decision | what an admin chose for a report that cannot proceed: retry, bill in the current period, write off; that of the service on a due report is a `SendDecision` |
//! | billing period | `current_period_start` to `current_period_end` of the subscription item whose price uses the meter |
//! | draft | an invoice before it is final; until then Stripe adds usage of its period to it |
//! | sync | reading an account's subscriptions and their invoices from Stripe into the database |
//! | companion | a subscription of the customer that is synced for meters which the one that the link follows does not charge |
//! | subscription change | a plan change or a cancel that this service makes, in steps that survive a crash |
//! | mark | what the sender leaves at Stripe, so that an old or a second copy of its database is noticed |
//! | adoption | going on with another Stripe account or mode |
//! | restore | putting a backup of the database in place, and comparing it with Stripe before anything is sent |
//! | verification | the comparison of Stripe's totals with what was sent |
//! | comparison with invoices | that of the usage in Stripe's totals with the lines of final invoices, by subscription item, price and billing period |
//! | reconciliation | counted, reported, Stripe's total and what invoices charge side by side, for people |
//! | fold | to replace old finished reports by one row an account, meter, window, state and customer, once they are in an archive |
//! | archive | a file with the reports that were folded, one by one; its SHA-256 is stored |
//! | shadow mode | running beside another integration, which bills: everything is counted and shown, and nothing is sent |
//! | switch-over | the moment from which on this service bills; usage before it stays the other integration's |
//! | ledger check | what was committed equals what all reports without corrections contain |
//! | sign-off | what was counted in a calendar month and what became of it, by account, customer and meter, for finance |
//! | shard | of a database that Citus spreads over machines: the part that has all rows of some accounts |
//! | lease | a replica's right to run a job, on the database's clock |
//! | key | an API key: says who calls, with a role and perhaps limited to accounts or meters |
//! | session | of the console: who signed in with which key, for eight hours at most |
//! | role | what a caller may do: `writer` counts, `reader` shows, `admin` may do everything |
//! | audit entry | what an admin did, tried or was refused; only the deletion of its account changes it |
//! | token | the random name that the rows of a deleted account get in the place of its id |
//! | obstacle | what refuses the deletion of an account, such as usage that is not billed yet |
//!
//! A usage report is in one of these states. `open` counts. `closed` waits to be sent. `sending` was claimed for Stripe.
//! `accepted` means that Stripe took the event, `confirmed` that its totals contain it, `invoiced` that final invoices
//! charge it. `not_billable` and `written_off` are never billed. `no_customer` waits for a link, `uncharged` for a subscription that charges it. `rejected`,
//! `customer_deleted`, `unknown`, `missing` and `too_late` wait for a decision.
//!
//! # From a call to an invoice
//!
//! 1. `rpc` reads an `Increment` from the wire; [`domain`] parses it once into a valid one.
//! 2. `ingest` groups it with others, and [`store`] commits the group in one transaction: the idempotency keys, the
//!    quantities added to the open reports of their windows, and one row in `commits`. Then the callers are answered.
//! 3. `usage_query` answers `Get` from the sums of the usage reports.
//! 4. A run closes reports: on the schedule, on `ForceReport` or five minutes after a billing period's end. Each moves from
//!    the table of open reports to that of closed ones. Quantity and window are frozen, and the link in force at the report's first increment determines the Stripe customer.
//! 5. The job `sender` records a report as `sending`, commits that, and sends one meter event through `stripe`. Retries use
//!    the same identifier, so Stripe keeps the event once. Stripe's answer becomes the report's next state.
//! 6. The subscription jobs copy subscriptions and invoices from Stripe. The end of a billing period is a boundary: no
//!    window crosses it, and its usage is sent while the invoice is a draft. A plan change or a cancel first waits until
//!    Stripe shows the usage before it.
//! 7. The job `verifier` compares Stripe's totals with what was sent: `accepted` becomes `confirmed` or `missing`.
//! 8. The job `invoice_comparison` compares the lines of final invoices with the confirmed reports of their billing
//!    periods: `confirmed` becomes `invoiced`, or the difference is recorded and told.
//!
//! Webhooks arrive in `http`, which verifies their signature, stores them and wakes the job that reads the object again
//! from Stripe. Their contents are never trusted.
//!
//! # Where things live
//!
//! | module | purpose |
//! | --- | --- |
//! | [`domain`] | types and rules: pure, no io, no clock, no tonic |
//! | `rpc` | the wire to the domain and back, one file a service |
//! | `authentication` | who calls: finds the key of a call, cached for seconds |
//! | `http` | the paths of HTTP: webhooks, health, metrics, the description of the services; `serve` adds the services as JSON |
//! | `console` | the pages for people, which get their data by calls |
//! | `contract` | the methods and messages as data: JSON, and their description as OpenAPI |
//! | `ingest` | group commit |
//! | `usage_query` | the answer of `Get` |
//! | `usage_of_all` | the answers of `ListUsage` and `GetSummary`; `read_turns` limits how many are read at a time, also of explanations |
//! | `explanation` | from an increment to its invoice line, and from an invoice line to its increments |
//! | `shadow_comparison` | what was counted and what another integration sent, by customer, meter and day |
//! | `sign_off` | a month for finance: its rows, whether it is closed, and its file in parts |
//! | [`reconciliation`] | counted, reported, Stripe's total and what invoices charge side by side |
//! | `readiness` | whether the service can count, for `/health/ready` and the gRPC health service |
//! | `workers` | background jobs on one runner: schedule, closing, sending, syncs, verification, invoices, cleanup, folding |
//! | [`commands`] | the commands besides `serve`: adopt, archives, audit, backup, demo, distribute, doctor, export, keys, reconcile, restore, stripe setup |
//! | [`doctor`] | the checks of `usage-server doctor` and of the method `Doctor` |
//! | `account_check` | whether the key belongs to the Stripe account that usage is reported to |
//! | `send_load` | whether what is due in the fullest hour can be sent at the configured rate |
//! | `read_rate` | how fast Stripe is read |
//! | [`planted_defects`] | deliberate defects, which only the simulator's binary has: they test the simulator |
//! | `record` | audit entries, runs, decisions, reports and sign-offs as JSON lines and CSV |
//! | `record_archive_file` | the files that old audit entries, runs and decisions are archived in |
//! | `durable_file` | files that are written once, and are on the disk under their name |
//! | `report_archive_file` | the files of archives: writing and reading one |
//! | `restore_look_up` | after a restore: which reports of an hour Stripe has |
//! | [`store`] | every query; each public function is one transaction |
//! | `entity` | SeaORM entities, one file a table; only `store` uses them |
//! | `stripe` | requests to Stripe; the only module that names async-stripe |
//! | `connections` | how many connections a socket has, how long one may be silent, and its handshake |
//! | `new_key` | new API keys, of random numbers |
//! | `tls` | the certificate of the service, and which clients it accepts |
//! | [`mod@log`] | where the log goes, and in which form; `log_limit` keeps repeated lines few |
//! | `request_log` | a line of the log for a share of the requests |
//! | [`otlp`] | spans for a collector, if a setting names one |
//! | `request_context` | what names a request in the log, in its error, in the audit table and at Stripe |
//! | `client_address` | where a request comes from: its connection, or the client that a trusted proxy names |
//! | `request_rates` | the requests a second that a key or a certificate may make |
//! | `metrics` | every metric; the only module that names one |
//! | `database_error` | what an error of the database means |
//! | [`error`] | one error, and its one mapping to `tonic::Status` |
//! | [`config`] | every setting |
//! | [`clock`] | the only module that reads the system's wall clock; `store` reads the database's |
//! | [`serve()`] | connects the parts, starts them and stops them in order |

#![cfg_attr(
    test,
    allow(
        clippy::arithmetic_side_effects,
        reason = "the figures of a test are small"
    )
)]

mod account_check;
#[cfg(test)]
mod architecture;
mod authentication;
mod client_address;
pub mod clock;
pub mod commands;
pub mod config;
mod connections;
mod console;
mod contract;
mod database_error;
pub mod doctor;
pub mod domain;
mod durable_file;
mod entity;
pub mod error;
mod explanation;
mod http;
mod ingest;
pub mod log;
mod log_limit;
mod metrics;
mod new_key;
pub mod otlp;
pub mod planted_defects;
mod read_rate;
mod read_turns;
mod readiness;
pub mod reconciliation;
mod record;
mod record_archive_file;
mod report_archive_file;
mod request_context;
mod request_log;
mod request_rates;
mod restore_look_up;
mod rpc;
mod send_load;
mod serve;
mod shadow_comparison;
mod sign_off;
pub mod store;
mod stripe;
mod tls;
mod usage_of_all;
mod usage_query;
mod workers;

pub use serve::{Listeners, ServeError, serve};
