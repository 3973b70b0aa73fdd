//! Why sending is paused in the database. Pure.

use std::fmt;

use super::names::names;

/// The reason of a pause that lasts until a command ends it. It is displayed as a sentence that says what to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PauseReason {
    /// `usage-server restore` began, and has not finished.
    Restoring,
    /// Stripe has a mark of this database that this copy of it did not write.
    ForeignMark,
    /// Stripe knows a report that this database has not sent.
    UnsentReportKnown,
}

names!(PauseReason {
    Restoring = "restoring",
    ForeignMark = "foreign_mark",
    UnsentReportKnown = "unsent_report_known",
});

impl fmt::Display for PauseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Restoring => {
                "a restored backup is being compared with Stripe; run `usage-server restore` again"
            }
            Self::ForeignMark => {
                "Stripe has a later mark of this database, which this copy of it did not write: it was restored from a backup, or another copy of it sends; stop the other copy, then run `usage-server restore`"
            }
            Self::UnsentReportKnown => {
                "Stripe knows a report that this database has not sent: the database was restored from a backup or copied; run `usage-server restore`"
            }
        })
    }
}
