//! A year in the life: accounts with periods that end at every odd moment, usage on time and late, against a model that
//! says what each invoice charges.
//!
//! [`plan`] says what happens, at random; [`run`] does it to the service and to the model; [`oracle`] is the model: it knows
//! the rules and nothing of the service. In the end the two agree on every line of every final invoice, on what was
//! thrown away and on what waits for an admin, unit for unit.
//!
//! A plain `cargo test` lives through one known seed and one new one on each engine; what fails prints its seed. More accounts,
//! months and seeds by the environment, and less of what happens by its names in [`run`]:
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
