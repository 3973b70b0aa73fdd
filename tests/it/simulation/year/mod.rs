//! A simulated year: accounts with unusual period ends, and usage on time and late, compared with a model that computes
//! what each invoice charges.
//!
//! [`plan`] generates random events, and [`run`] applies them to the service and to the model. [`oracle`] is the model:
//! it implements the billing rules independently of the service. At the end, both must agree to the unit on every line
//! of every final invoice, on the usage that Stripe discarded, on the reports that need a decision, and on every figure
//! of the export for finance, with corrections and decisions.
//!
//! A plain `cargo test` runs one fixed seed and one new one on each engine. A failure prints its seed. Environment
//! variables set the number of accounts, the number of months and the seeds, and exclude kinds of events by their names
//! in [`run`]:
//!
//! ```sh
//! YEAR_ACCOUNTS=200 YEAR_MONTHS=12 YEAR_SEEDS=1,2,3 cargo test --test it -- year:: --nocapture
//! YEAR_SEEDS=7 YEAR_WITHOUT="faults,downtime,replicas,plans by hand" cargo test --test it -- year::sqlite --nocapture
//! ```

mod oracle;
mod plan;
mod run;

use crate::support::world::{World, on_both_engines};

on_both_engines!(every_invoice_charges_what_the_model_expects);

async fn every_invoice_charges_what_the_model_expects(mut world: World) {
    let size = plan::Size::from_environment();
    eprintln!("{size:?}");
    run::live(&mut world, &size).await;
    world.finish().await;
}
