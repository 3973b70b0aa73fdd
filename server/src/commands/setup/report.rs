//! What a set-up found and created, and how it is printed.

use std::fmt;

use comfy_table::{Table, presets::NOTHING};

use crate::stripe::catalog::{CatalogMeter, CatalogPrice, CatalogProduct};

/// The outcome of one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It exists and matches.
    Found,
    /// It was created.
    Created,
    /// It does not exist and was not created: a dry run, or another object differs.
    Missing,
    /// It exists and differs.
    Different {
        /// What differs.
        difference: String,
        /// How to fix it.
        advice: String,
    },
}

/// One object at Stripe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// The configured meter's name.
    pub meter: String,
    /// `meter`, `product` or `price`.
    pub object: &'static str,
    /// Its id at Stripe if it exists, else its event name, product id or lookup key.
    pub id: String,
    /// Its outcome.
    pub outcome: Outcome,
}

/// The objects of a set-up, in the order of the meters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetupReport {
    /// One step an object.
    pub steps: Vec<Step>,
    /// Whether it was a dry run.
    pub dry_run: bool,
}

impl SetupReport {
    /// Whether no object differs.
    pub fn is_healthy(&self) -> bool {
        !self.has(|outcome| matches!(outcome, Outcome::Different { .. }))
    }

    pub(super) fn has(&self, is: impl Fn(&Outcome) -> bool) -> bool {
        self.steps.iter().any(|step| is(&step.outcome))
    }
}

impl fmt::Display for SetupReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_healthy = self.is_healthy();
        let mut table = Table::new();
        table.load_style(NOTHING);
        for step in &self.steps {
            let outcome = match (&step.outcome, is_healthy) {
                (Outcome::Found, _) => "found",
                (Outcome::Created, _) => "created",
                (Outcome::Missing, true) => "would be created",
                (Outcome::Missing, false) => "missing, not created",
                (Outcome::Different { .. }, _) => "DIFFERENT",
            };
            table.add_row([step.meter.as_str(), step.object, outcome, step.id.as_str()]);
        }
        writeln!(f, "{}", table.trim_fmt())?;
        for step in &self.steps {
            if let Outcome::Different { difference, advice } = &step.outcome {
                writeln!(
                    f,
                    "{} {} of meter {}: {difference}; {advice}",
                    step.object, step.id, step.meter
                )?;
            }
        }
        f.write_str(match (is_healthy, self.dry_run) {
            (false, _) => "Nothing was changed: fix the above, then run it again.",
            (true, true) if self.has(|outcome| *outcome == Outcome::Missing) => {
                "This was a dry run: nothing was changed."
            }
            (true, false) if self.has(|outcome| *outcome == Outcome::Created) => {
                "Stripe is set up."
            }
            (true, _) => "Nothing to change: everything matches.",
        })
    }
}

/// The objects that exist for one meter.
#[derive(Clone, Debug)]
pub(super) struct ExistingObjects {
    pub(super) meter: Option<CatalogMeter>,
    pub(super) product: Option<CatalogProduct>,
    pub(super) price: Option<CatalogPrice>,
}
