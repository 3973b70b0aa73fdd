//! Decisions on reports that wait for one: some are written off, some billed in the current period, some sent again.

use std::{collections::BTreeMap, ops::Range};

use usage_client::{Reason, ReportState, ResolveAction, ResolveReport, UsageReport};

use super::{HOUR, SimulatedAccount, Year};
use crate::simulation::year::{
    oracle::{Account, Action, Decision, Place, Undecided},
    plan::METERS,
};

/// What admins have done.
#[derive(Debug, Default)]
pub(super) struct Done {
    /// Corrections that add, that take away, and that were refused.
    pub(super) added: u32,
    pub(super) taken: u32,
    pub(super) refused: u32,
    /// Reports that were decided on, by what was decided.
    pub(super) decided: BTreeMap<Action, usize>,
}

impl Year<'_> {
    /// Decides on some of the usage that waits for it.
    pub(super) async fn decide_some(&mut self) {
        if !self.size.has("decisions") {
            return;
        }
        for account in 0..self.accounts.len() {
            let places = self.accounts[account].model.undecided();
            if places.is_empty() || !self.random.one_in(3) {
                continue;
            }
            let reports = self.world.reports(&self.accounts[account].name).await;
            for (place, undecided) in places {
                if self.random.one_in(2) {
                    let action = self.choose(account, place, &undecided);
                    self.decide(account, (place, &undecided), &reports, action)
                        .await;
                }
            }
        }
        self.world.wait_until_idle().await;
    }

    /// Never bills usage of a time that waits for a decision.
    pub(super) async fn write_off(&mut self, account: usize, time: &Range<i64>) {
        let mut places = self.accounts[account].model.undecided();
        places.retain(|(_, hour), _| time.contains(hour));
        if places.is_empty() {
            return;
        }
        let reports = self.world.reports(&self.accounts[account].name).await;
        for (place, undecided) in places {
            let action = Action::WriteOff;
            self.decide(account, (place, &undecided), &reports, action)
                .await;
        }
    }

    /// An action that is possible, or one that is certainly refused.
    fn choose(&mut self, account: usize, place: Place, undecided: &Undecided) -> Action {
        let action = self.random.pick(&[
            Action::WriteOff,
            Action::BillInCurrentPeriod,
            Action::BillInCurrentPeriod,
            Action::Retry,
        ]);
        let (one, now) = (&self.accounts[account], self.now.timestamp_millis());
        let is_possible = match action {
            // Old usage may be refused for its age instead of its invoice.
            Action::Retry => !undecided.is_decided && Account::is_recent(place, now),
            Action::BillInCurrentPeriod if !one.is_live => true,
            Action::BillInCurrentPeriod => {
                let until = self.until.timestamp_millis();
                let charged = one.model.charged_now(place.0, now);
                let is_charged = charged.is_some_and(|(charged, final_at)| {
                    // A current period below zero is refused, by rules that the model does not have. And at the end, months
                    // before the last ones can be closed.
                    charged + undecided.negative > 0 && final_at < until
                });
                // The event is at the whole second before now. That must not be a change's boundary, which may be now.
                one.is_linked && is_charged && now % 1_000 != 0
            }
            Action::WriteOff => true,
        };
        if is_possible {
            action
        } else {
            Action::WriteOff
        }
    }

    /// Decides on all reports of an hour.
    async fn decide(
        &mut self,
        account: usize,
        (place, undecided): (Place, &Undecided),
        reports: &[UsageReport],
        action: Action,
    ) {
        let waiting: Vec<&UsageReport> = reports
            .iter()
            .filter(|report| is_waiting_at(report, place))
            .collect();
        let one = &self.accounts[account];
        let quantities = waiting.iter().map(|report| report.quantity);
        assert_eq!(
            quantities.sum::<i64>(),
            undecided.quantity,
            "what waits of {} at {place:?}, seed {}: {waiting:#?} {:#?}",
            one.name,
            self.seed,
            one.model
        );
        if action == Action::BillInCurrentPeriod && !one.is_live {
            for report in waiting {
                self.check_refused(one, report).await;
            }
            return;
        }
        let client = self.world.client();
        for report in &waiting {
            let decision = resolution(report, action);
            let decided = client.resolve_report(decision.clone()).await;
            let decided = decided.expect("a decision");
            assert!(!decided.duplicate, "{decided:?}");
            // Another report that is sent again may wait for a decision again.
            if action == Action::WriteOff && self.random.one_in(3) {
                let again = client.resolve_report(decision).await.expect("it again");
                assert!(again.duplicate, "{again:?}");
            }
        }
        *self.done.decided.entry(action).or_default() += waiting.len();
        let decision = Decision {
            at: self.world.now().timestamp_millis(),
            action,
        };
        let model = &mut self.accounts[account].model;
        model.decide(place, decision, waiting.len());
    }

    /// Without a subscription, nothing is billed now, and no decision is recorded.
    async fn check_refused(&self, account: &SimulatedAccount, report: &UsageReport) {
        let decision = resolution(report, Action::BillInCurrentPeriod);
        let refused = self.world.client().resolve_report(decision).await;
        let error = refused.expect_err("no subscription charges it");
        let reason = error.reason();
        let (name, seed) = (&account.name, self.seed);
        assert_eq!(
            reason,
            Some(&Reason::NotResolvable),
            "{name}, seed {seed}: {error}"
        );
    }
}

/// Whether a report is of a meter and hour, and waits for a decision.
fn is_waiting_at(report: &UsageReport, (meter, hour): Place) -> bool {
    let is_waiting = matches!(report.state, ReportState::TooLate | ReportState::Uncharged);
    let start = report.window.start.timestamp_millis();
    let own = start - start.rem_euclid(HOUR);
    is_waiting && report.meter == METERS[meter].0 && own == hour
}

fn resolution(report: &UsageReport, action: Action) -> ResolveReport {
    let action = match action {
        Action::Retry => ResolveAction::Retry,
        Action::BillInCurrentPeriod => ResolveAction::BillInCurrentPeriod,
        Action::WriteOff => ResolveAction::WriteOff,
    };
    ResolveReport::new(&report.account_id, &report.id, action, "late").requested_by("finance")
}
