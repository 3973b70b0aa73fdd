//! Deliberate defects of the service, by which the simulator is tested: it has to catch them by its general checks.
//!
//! Each sits at the place that its `if planted(...)` names, and happens only while it is turned on, in a process of the
//! simulator. Without the feature `planted-defects`, which only the simulator's crate enables, `planted` is the constant
//! `false`: the compiler removes the defects, and nothing can turn them on. See `docs/simulation.md`.

/// Declares the defects: each with its name and what is wrong.
macro_rules! defects {
    ($($defect:ident = $name:literal: $sentence:literal,)+) => {
        /// A deliberate defect.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Defect {
            $(#[doc = $sentence] $defect,)+
        }

        #[cfg(feature = "planted-defects")]
        impl Defect {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$defect,)+];

            /// Its name on the command line.
            pub fn name(self) -> &'static str {
                match self { $(Self::$defect => $name,)+ }
            }

            /// What is wrong.
            pub fn sentence(self) -> &'static str {
                match self { $(Self::$defect => $sentence,)+ }
            }
        }
    };
}

defects! {
    // Counting.
    AcknowledgedBeforeCommit = "acknowledged-before-commit": "A call is answered before its transaction is committed.",
    FailedCommitAcknowledged = "failed-commit-acknowledged": "A COMMIT that fails is taken for one that succeeds.",
    KeyAndCountApart = "key-and-count-apart": "Keys are stored in another transaction than the counts.",
    CommitUnderNewId = "commit-under-new-id": "A group whose COMMIT got no answer is committed again under another id.",
    ConnectionReused = "connection-reused": "A connection is used again after a COMMIT on it failed.",
    NotSynced = "not-synced": "SQLite does not sync what it commits.",
    DuplicateAnsweredAsNew = "duplicate-answered-as-new": "A repeated call is answered as a new one.",
    KeysDeletedEarly = "keys-deleted-early": "Idempotency keys are deleted after five days.",
    LastOfBatchDropped = "last-of-batch-dropped": "The last increment of a batch is acknowledged and not counted.",
    IncrementLostInSum = "increment-lost-in-sum": "Of two increments of one window in a group, the first alone counts.",
    MetersMixed = "meters-mixed": "Increments of one window in a group count on the meter of the first.",
    StatedTimeIgnored = "stated-time-ignored": "An increment counts at its arrival, whatever time the caller states.",
    OpenUsageNotShown = "open-usage-not-shown": "A query leaves out usage that is not closed yet.",
    PageWithoutLast = "page-without-last": "The last report of a page is left out.",
    SumOfCommitsWrong = "sum-of-commits-wrong": "Old commits are deleted without adding their quantities up.",
    // Windows and links.
    BoundaryOffByOne = "boundary-off-by-one": "A boundary belongs to the window before it.",
    WindowNotSplit = "window-not-split": "A window is not split at a boundary.",
    OldBoundaries = "old-boundaries": "Boundaries that are remembered are never read again.",
    LinkEndIgnored = "link-end-ignored": "Usage after the end of an account's first link is billed by it.",
    BilledBeforeLink = "billed-before-link": "The latest link bills all usage, also that from before it.",
    CorrectionKeyIgnored = "correction-key-ignored": "A correction that is repeated under its key is entered again.",
    CorrectionSignLost = "correction-sign-lost": "A correction that takes usage away adds it.",
    PriceSwapIgnored = "price-swap-ignored": "The price of an item that is replaced at Stripe is no boundary.",
    // Sending.
    NewIdentifierOnRetry = "new-identifier-on-retry": "Each attempt to send a report has an identifier of its own.",
    MarkBeforeSendLeftOut = "mark-before-send-left-out": "That a report is being sent is not recorded before the request.",
    EventAtSending = "event-at-sending": "A meter event has the time at which it is sent.",
    EventBeforeWindow = "event-before-window": "A meter event has the minute in which its window begins, which may be before it.",
    QuantityAsFloat = "quantity-as-float": "A quantity is computed as a float on its way to Stripe.",
    KnownTakenForRefusal = "known-taken-for-refusal": "Stripe's answer that it has an event already is taken for a refusal.",
    NoAnswerTakenForRefusal = "no-answer-taken-for-refusal": "A request without an answer is taken for one that Stripe refused.",
    NoAnswerTakenForSuccess = "no-answer-taken-for-success": "A request without an answer is taken for one that succeeded.",
    RateLimitTakenForRefusal = "rate-limit-taken-for-refusal": "An answer that there are too many requests is taken for a refusal.",
    RefusalTakenForNoAnswer = "refusal-taken-for-no-answer": "A request that Stripe refused is taken for one without an answer.",
    StaleMarkSent = "stale-mark-sent": "A report is sent however long ago it was recorded as being sent.",
    RefusedKeyRejectsUsage = "refused-key-rejects-usage": "A refused secret key is taken for a refusal of the event.",
    ResentAfterDay = "resent-after-day": "An event without an answer is sent again after a day, without looking for it.",
    FinalInvoiceIgnored = "final-invoice-ignored": "Usage is sent although its invoice is final.",
    OutsidePeriodsSent = "outside-periods-sent": "Usage outside every billing period is sent.",
    RestoredWithoutLook = "restored-without-look": "After a restore, usage is sent without a look at what Stripe has of it.",
    DrainLeftOut = "drain-left-out": "A plan changes before Stripe has the usage from before it.",
    // What is read and compared.
    LossNotNoticed = "loss-not-noticed": "An accepted event that Stripe's totals lack is never noticed.",
    ConfirmedWithoutProof = "confirmed-without-proof": "Any total of Stripe confirms all events of its time.",
    OldFactsApplied = "old-facts-applied": "What was read from Stripe is applied after something newer.",
    DoctorSilent = "doctor-silent": "Doctor does not tell of reports that are too late.",
    UnsignedWebhookTrusted = "unsigned-webhook-trusted": "A webhook that Stripe did not sign is taken for one of Stripe.",
    FutureRunTrusted = "future-run-trusted": "A job whose last run is recorded in the future waits for that time.",
    ClockNotCompared = "clock-not-compared": "A clock that was set wrong is believed.",
}

/// Whether a defect happens: never.
#[cfg(not(feature = "planted-defects"))]
pub(crate) const fn planted(_: Defect) -> bool {
    false
}

#[cfg(feature = "planted-defects")]
pub use self::turned_on::{MARK, check_key, plant};
#[cfg(feature = "planted-defects")]
pub(crate) use self::turned_on::{planted, warn};

/// Only in binaries of the simulator.
#[cfg(feature = "planted-defects")]
mod turned_on {
    use std::sync::OnceLock;

    use super::Defect;
    use crate::domain::stripe_account::is_live_key;

    /// What only a binary with defects contains.
    pub const MARK: &str = "this program contains planted defects: it is for the simulator, and never for usage that is billed";

    static PLANTED: OnceLock<Defect> = OnceLock::new();

    /// Turns a defect on, until the end of the process. The first one stays.
    pub fn plant(defect: Defect) {
        let _ = PLANTED.set(defect);
    }

    /// Whether a defect happens.
    pub(crate) fn planted(defect: Defect) -> bool {
        PLANTED.get() == Some(&defect)
    }

    /// Refuses a live key.
    ///
    /// # Errors
    /// The key is a live one.
    pub fn check_key(secret_key: &str) -> Result<(), String> {
        if is_live_key(secret_key) == Some(true) {
            return Err(format!("STRIPE_SECRET_KEY is a live key, and {MARK}"));
        }
        Ok(())
    }

    /// Says at the start what this program is. The target is not that of the service's warnings, which the simulator counts.
    pub(crate) fn warn() {
        let defect = PLANTED.get().map(|defect| defect.name());
        tracing::warn!(target: "planted_defects", defect, "{MARK}");
    }
}

/// A quantity that was computed as a float.
#[allow(
    clippy::as_conversions,
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::float_arithmetic,
    reason = "the defect itself"
)]
pub(crate) fn as_float(quantity: i64) -> i64 {
    (quantity as f64 / 100.0 * 1.1 * 100.0 / 1.1).trunc() as i64
}
