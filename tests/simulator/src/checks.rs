//! What must hold: during a run what is shown, and after it everything from each unit to its line on an invoice.

use std::{collections::BTreeMap, ops::Range};

use fake_stripe::{InvoiceSnapshot, StoredEvent, webhook_signature};
use usage_client::{
    Get, ListReports, ReportKind,
    ReportState::{self, Accepted, Confirmed, Invoiced},
    Severity, UsageReport,
};
use usage_server::store::Store;

use crate::{
    faults::{Fault, Kind},
    invoices,
    oracle::{Answer, Oracle, Unit},
    refusals::Refusals,
    restore, sent,
    terms::Charge,
    time::{self, DAY, SECOND},
    world::{METERS, Outcome, World, text},
};

/// Reports of an account.
const MAX_REPORTS: usize = 100_000;

/// Totals that were shown, of each account and meter, with what corrections took away. They never go back.
pub(crate) type Shown = BTreeMap<(usize, usize), i64>;

/// States in which usage is at Stripe.
pub(crate) const AT_STRIPE: [ReportState; 3] = [Accepted, Confirmed, Invoiced];
/// States in which usage waits for a person, who is told.
pub(crate) const TOLD: [ReportState; 6] = [
    ReportState::Missing,
    ReportState::Rejected,
    ReportState::CustomerDeleted,
    ReportState::Unknown,
    ReportState::Uncharged,
    ReportState::TooLate,
];

/// Checks that reads see what was acknowledged before they began, and nothing that was refused.
pub(crate) async fn check_shown(
    world: &mut World,
    oracle: &Oracle,
    start_ms: i64,
    shown: &mut Shown,
) -> Outcome<()> {
    let from = start_ms - start_ms.rem_euclid(DAY) - 60 * DAY;
    for (account, known) in oracle.accounts.iter().enumerate() {
        let to = world.now_ms - world.now_ms.rem_euclid(DAY) + 2 * DAY;
        let query = Get::account(&known.name).period(time::utc(from), time::utc(to));
        let client = world.client.clone();
        // A replica that is down shows nothing.
        let Ok(usage) = world.run(async move { client.get(query).await }).await? else {
            return Ok(());
        };
        for (meter, (name, _)) in METERS.iter().enumerate() {
            let total = usage.meter(name).map_or(0, |meter| meter.quantities.total);
            let mut expected = oracle.sum(|unit| (unit.account, unit.meter) == (account, meter));
            expected.most += oracle.shown_twice((account, meter));
            if !expected.contains(total) {
                return Err(format!(
                    "{} shows {total} of {name}, expected {expected:?}",
                    known.name
                ));
            }
            // What corrections have not taken away. After a restore, repeated usage takes the place of what Stripe had.
            let taken = oracle.taken((account, meter));
            let Some(taken) = taken.filter(|_| oracle.restored.is_none()) else {
                continue;
            };
            let gross = total + taken;
            let before = shown.insert((account, meter), gross).unwrap_or(0);
            if gross < before {
                return Err(format!(
                    "the total of {} and {name} went back from {before} to {gross}",
                    known.name
                ));
            }
        }
    }
    Ok(())
}

/// Checks that a webhook that Stripe did not sign is refused.
pub(crate) async fn check_forged(world: &mut World) -> Outcome<()> {
    let now = world.now_ms.div_euclid(SECOND);
    let body = format!(
        r#"{{"id":"evt_forged_{now}","object":"event","type":"customer.subscription.updated","created":{now},"data":{{"object":{{"id":"sub_forged","customer":"cus_forged"}}}}}}"#
    );
    let signature = webhook_signature(&["whsec_forged"], now, &body);
    let client = reqwest::Client::builder().no_proxy().build();
    let request = client
        .map_err(text)?
        .post(world.http_url("/webhooks/stripe"))
        .header("stripe-signature", signature)
        .body(body);
    // A replica that is down answers nothing.
    let Ok(answer) = world.run(request.send()).await? else {
        return Ok(());
    };
    if answer.status().is_success() {
        return Err("a webhook was taken that Stripe did not sign".to_owned());
    }
    Ok(())
}

/// What the service and Stripe have at the end.
#[derive(Debug)]
pub(crate) struct Ends {
    /// Of each account.
    pub(crate) reports: Vec<Vec<UsageReport>>,
    /// By their identifiers.
    pub(crate) events: BTreeMap<String, StoredEvent>,
    pub(crate) invoices: Vec<InvoiceSnapshot>,
    /// What doctor says that is not in order.
    findings: Vec<(Severity, String)>,
    /// What Stripe refused.
    pub(crate) refusals: Refusals,
    pub(crate) now_ms: i64,
}

impl Ends {
    pub(crate) async fn read(
        world: &mut World,
        oracle: &Oracle,
        refusals: Refusals,
    ) -> Outcome<Self> {
        let mut reports = Vec::new();
        for account in &oracle.accounts {
            let client = world.client.clone();
            let filter = ListReports::new().account(&account.name);
            let listing = async move { client.list_all_reports(filter, MAX_REPORTS).await };
            let page = world.run(listing).await?.map_err(text)?;
            reports.push(page.reports);
        }
        let client = world.client.clone();
        let diagnosis = world.run(async move { client.doctor().await }).await?;
        let findings = diagnosis.map_err(text)?.findings;
        let events = world.stripe.events().await.map_err(text)?;
        let number = events.len();
        let events: BTreeMap<String, StoredEvent> = events
            .into_iter()
            .map(|event| (event.identifier.clone(), event))
            .collect();
        if events.len() != number {
            return Err("an identifier was accepted twice".to_owned());
        }
        Ok(Self {
            reports,
            events,
            invoices: world.stripe.invoices().await.map_err(text)?,
            findings: findings
                .into_iter()
                .filter(|finding| finding.severity != Severity::Ok)
                .map(|finding| {
                    let line = format!("{}: {}", finding.check, finding.fact);
                    (finding.severity, line)
                })
                .collect(),
            refusals,
            now_ms: world.now_ms,
        })
    }

    /// Reads it once more.
    pub(crate) async fn read_again(self, world: &mut World, oracle: &Oracle) -> Outcome<Self> {
        Self::read(world, oracle, self.refusals).await
    }

    /// How many reports need a person.
    pub(crate) fn told(&self) -> usize {
        let all = self.reports.iter().flatten();
        all.filter(|report| TOLD.contains(&report.state)).count()
    }

    pub(crate) fn lines(&self) -> usize {
        let finals = self
            .invoices
            .iter()
            .filter(|one| one.finalized_at.is_some());
        finals
            .flat_map(|invoice| &invoice.lines)
            .filter(|line| line.event_name.is_some() && line.quantity > 0)
            .count()
    }

    /// Checks everything, after a run with these faults.
    pub(crate) fn check(&self, oracle: &Oracle, faults: &[(usize, Fault)]) -> Outcome<()> {
        let mut faults = faults.iter().map(|(_, fault)| &fault.kind);
        self.check_counted(oracle)?;
        if !faults.any(|kind| matches!(kind, Kind::Clock { .. })) {
            self.check_split(oracle)?;
        }
        sent::check(self, oracle)?;
        restore::check(self, oracle)?;
        invoices::check(self, oracle)?;
        self.check_told()
    }

    /// Each unit is in a report of its time.
    fn check_counted(&self, oracle: &Oracle) -> Outcome<()> {
        for (account, reports) in self.reports.iter().enumerate() {
            for (meter, (name, _)) in METERS.iter().enumerate() {
                let of_meter = |report: &&UsageReport| {
                    report.meter == *name && report.kind != ReportKind::AlreadySent
                };
                for (start, end, sum) in overlapping(reports.iter().filter(of_meter)) {
                    let expected = oracle.sum(|unit| {
                        (unit.account, unit.meter) == (account, meter)
                            && start <= unit.at
                            && unit.at < end
                    });
                    if !expected.contains(sum) {
                        return Err(format!(
                            "{} has {sum} of {name} from {} to {}, expected {expected:?}",
                            oracle.accounts[account].name,
                            time::text(start),
                            time::text(end),
                        ));
                    }
                }
                let all = reports.iter().filter(of_meter);
                let all: i64 = all.map(|report| report.quantity).sum();
                let expected = oracle.sum(|unit| (unit.account, unit.meter) == (account, meter));
                if !expected.contains(all) {
                    return Err(format!(
                        "{} has {all} of {name}, expected {expected:?}",
                        oracle.accounts[account].name,
                    ));
                }
            }
        }
        Ok(())
    }

    /// No window goes on across a boundary that was known when its usage came: an end of a billing period, or what an admin
    /// changed.
    fn check_split(&self, oracle: &Oracle) -> Outcome<()> {
        for (reports, known) in self.reports.iter().zip(&oracle.accounts) {
            let is_unsplit = |report: &&UsageReport| {
                // What Stripe has of a whole hour.
                if report.kind == ReportKind::AlreadySent {
                    return false;
                }
                let window = window(report);
                let closed_at = report
                    .closed_at
                    .map_or(i64::MAX, |at| at.timestamp_millis());
                known.is_unsplit(&window) || known.is_unsplit_later(&window, closed_at)
            };
            if let Some(report) = reports.iter().find(is_unsplit) {
                let why = "a window goes on across a boundary";
                return Err(format!("{why}: {}, of {known}", show(report)));
            }
        }
        Ok(())
    }

    /// Doctor says how many reports and units need a person, by the state of the reports.
    fn check_told(&self) -> Outcome<()> {
        for state in TOLD {
            let of_state = |report: &&UsageReport| report.state == state;
            let all = self.reports.iter().flatten().filter(of_state);
            let (number, units) = all.fold((0, 0), |(number, units), report| {
                (number + 1, units + report.quantity)
            });
            let line = format!("{state}: {number} reports, {units} units, of ");
            let is_told = self.findings.iter().any(|(_, told)| told.contains(&line));
            if number > 0 && !is_told {
                return Err(format!(
                    "doctor does not say \"{line}\", but {:?}",
                    self.findings
                ));
            }
        }
        Ok(())
    }

    /// Without a fault, only usage that callers sent after the end of its billing period, or that nothing charges, needs a
    /// person, and doctor finds nothing else that is bad.
    pub(crate) fn check_without_faults(&self, oracle: &Oracle) -> Outcome<()> {
        // What a restore cannot decide is told as well.
        if oracle.restored.is_some() {
            return Ok(());
        }
        for (account, reports) in self.reports.iter().enumerate() {
            let known = &oracle.accounts[account];
            let mut told = reports.iter().filter(|report| TOLD.contains(&report.state));
            if let Some(report) = told.find(|report| !is_late(report, account, oracle)) {
                let why = "without a fault, a person has to decide on usage that was not late";
                return Err(format!("{why}: {}, of {known}", show(report)));
            }
        }
        // Doctor also tells what a change at Stripe left out.
        let mut accounts = oracle.accounts.iter();
        if accounts.any(|known| !known.terms.is_original()) {
            return Ok(());
        }
        let is_expected = |line: &str| {
            // It reads SQLite's clock, which simulated time does not move.
            line.starts_with("database clock: ")
                || (line.starts_with("reports: ") && self.told() > 0)
        };
        let mut bad = self.findings.iter();
        let bad = bad.find(|(severity, line)| *severity == Severity::Bad && !is_expected(line));
        bad.map_or(Ok(()), |(_, line)| {
            Err(format!("without a fault, doctor says: {line}"))
        })
    }
}

/// Whether a person has to decide without a fault: a caller sent some of the usage of a report's window after the end of its
/// billing period or link, when its invoice may have been final, or nothing charges that time.
fn is_late(report: &UsageReport, account: usize, oracle: &Oracle) -> bool {
    let known = &oracle.accounts[account];
    let meter = METERS.iter().position(|(name, _)| *name == report.meter);
    let mut units = oracle.units.iter().filter(|unit| {
        unit.account == account
            && Some(unit.meter) == meter
            && window(report).contains(&unit.at)
            && unit.answer != Answer::Refused
    });
    let is_uncharged = |unit: &Unit| {
        known.terms.charge_at(unit.meter, unit.at) == Charge::Nothing
            || known.terms.is_unclear(unit.meter, &window(report))
    };
    match report.state {
        ReportState::TooLate => units.any(|unit| {
            unit.answered_at >= known.charged_until(unit.meter, unit.at) || is_uncharged(unit)
        }),
        ReportState::Uncharged => units.any(is_uncharged),
        _ => false,
    }
}

pub(crate) fn window(report: &UsageReport) -> Range<i64> {
    report.window.start.timestamp_millis()..report.window.end.timestamp_millis()
}

/// A report in a line.
pub(crate) fn show(report: &UsageReport) -> String {
    let bill_at = report.bill_at.map(|at| at.to_rfc3339());
    format!(
        "{} {} {} from {} to {}, {:?}, closed {:?}, event of {:?}, billed at {bill_at:?}, {:?}",
        report.account_id,
        report.quantity,
        report.meter,
        report.window.start,
        report.window.end,
        report.state,
        report.closed_at.map(|at| at.to_rfc3339()),
        report.event_timestamp.map(|at| at.to_rfc3339()),
        report.last_error,
    )
}

/// The time and the sum of reports whose windows overlap: usage of one time is in one of them.
fn overlapping<'a>(reports: impl Iterator<Item = &'a UsageReport>) -> Vec<(i64, i64, i64)> {
    let mut windows: Vec<(i64, i64, i64)> = reports
        .map(|report| {
            let (start, end) = (report.window.start, report.window.end);
            (
                start.timestamp_millis(),
                end.timestamp_millis(),
                report.quantity,
            )
        })
        .collect();
    windows.sort_unstable();
    let mut joined: Vec<(i64, i64, i64)> = Vec::new();
    for (start, end, quantity) in windows {
        match joined.last_mut() {
            Some(last) if start < last.1 => {
                last.1 = last.1.max(end);
                last.2 += quantity;
            }
            _ => joined.push((start, end, quantity)),
        }
    }
    joined
}

/// The ledger check, on the database of a stopped service.
pub(crate) async fn check_ledger(world: &mut World) -> Outcome<()> {
    let url = format!("sqlite://{}", world.file().display());
    let reading = async move {
        let store = Store::open(&url, 2).await.map_err(text)?;
        let totals = store.ledger_totals().await.map_err(text)?;
        store.close().await.map_err(text)?;
        Ok::<_, String>(totals)
    };
    let totals = world.run(reading).await??;
    if totals.is_balanced() {
        Ok(())
    } else {
        Err(format!("the ledger is not balanced: {totals:?}"))
    }
}
