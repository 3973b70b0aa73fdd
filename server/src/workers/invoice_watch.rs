//! The job of every replica that shows in the metrics which differences with invoices are open, and how many comparisons
//! wait.

use std::time::Duration;

use super::{
    job::{Job, Next, Spec, Turn},
    wake::Wake,
};
use crate::{
    domain::{Millis, invoice_comparison::InvoiceFinding},
    error::Result,
    metrics,
    store::Store,
};

/// Shows what is open.
pub(crate) struct InvoiceWatch {
    store: Store,
    /// How often it reads.
    every: Duration,
}

impl InvoiceWatch {
    pub(crate) fn new(store: Store, every: Duration) -> Self {
        Self { store, every }
    }
}

impl Job for InvoiceWatch {
    fn spec(&self) -> Spec {
        Spec {
            name: "invoice watch",
            interval: self.every,
            turn: Turn::EveryReplica,
            wake: Wake::default(),
        }
    }

    async fn run(&mut self, now: Millis) -> Result<Next> {
        let differences = self.store.open_differences(0).await?;
        for finding in InvoiceFinding::ALL {
            if finding != InvoiceFinding::Equal {
                let number = differences
                    .get(&finding)
                    .map_or(0, |found| found.count.number);
                metrics::open_invoice_differences(finding, number);
            }
        }
        let (waiting, _) = self.store.waiting_comparisons(now, 0).await?;
        metrics::waiting_comparisons(waiting.number);
        Ok(Next::Wait)
    }
}
