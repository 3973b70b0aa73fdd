//! The comparison of the export for finance with the model: each row of each month, the totals, and which months are closed.
//! The files of a closed month are compared in [`files`].

mod files;

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Datelike as _, Months, NaiveDate, NaiveTime, TimeDelta};
use serde_json::Value;

use super::{SimulatedAccount, Year};
use crate::simulation::year::{
    oracle::{Account, Decision, Fate},
    plan::METERS,
};

/// Hours in which what is charged has to be seen by the service.
const MAX_HOURS: usize = 30;
/// Accounts of a month that are exported by themselves.
const MAX_ACCOUNTS: usize = 3;
/// Decisions that a row lists.
const MAX_LISTED: usize = 100;
/// The columns that are figures.
const FIGURES: [&str; 16] = [
    "reports",
    "counted",
    "already_sent",
    "corrected",
    "not_billable",
    "written_off",
    "reported",
    "confirmed",
    "invoiced",
    "acknowledged",
    "difference",
    "open",
    "to_send",
    "no_customer",
    "needs_decision",
    "decisions",
];

/// An account, the customer that its usage has, and the name of the meter.
type Key = (String, Option<String>, String);

/// What the model has for a row.
#[derive(Debug, Default)]
struct Expected {
    figures: BTreeMap<&'static str, i64>,
    reports: i64,
    decisions: Vec<Decision>,
    /// Whether nothing more is expected to happen to the usage.
    is_final: bool,
}

/// A calendar month in UTC.
struct Month {
    name: String,
    start: i64,
    end: i64,
    is_over: bool,
}

impl Year<'_> {
    /// The export for finance has what the model has, month by month.
    pub(super) async fn compare_sign_offs(&mut self) {
        self.wait_until_invoiced().await;
        let starts = self.accounts.iter().flat_map(|one| one.model.starts());
        let month_of = |start| DateTime::from_timestamp_millis(start).expect("a time");
        let months: BTreeSet<NaiveDate> = starts
            .map(|start| month_of(start).date_naive().with_day(1).expect("a day"))
            .collect();
        assert!(months.len() >= 2, "{months:?}");
        let (mut invoiced, mut closed, mut closable) = (0, 0, None);
        for first in months {
            let month = self.month(first);
            let rows = self.exported(&month.name, &["--open"]).await;
            let rows = rows.expect("an open export");
            invoiced += self.compare_usage(&month, &rows).await;
            compare_totals(&month, &rows);
            closed += self.compare_closed(&month, &rows).await;
            if self.is_closable(&month, &rows) {
                closable = Some(month);
            }
        }
        let now = self.now.timestamp_millis();
        let charged = self.accounts.iter().map(|one| charged(&one.model, now));
        assert_eq!(invoiced, charged.sum::<i64>(), "seed {}", self.seed);
        assert!(invoiced > 0, "nothing was invoiced, seed {}", self.seed);
        eprintln!("seed {}: {closed} exports of closed months", self.seed);
        assert!(closed > 0, "nothing was closed, seed {}", self.seed);
        match closable {
            Some(month) => self.close_and_compare_files(&month).await,
            None => assert!(self.size.months < 3, "no month, seed {}", self.seed),
        }
    }

    /// Moves on until the service has found on invoices what the model has there, and in Stripe's totals all that it sent.
    async fn wait_until_invoiced(&mut self) {
        for _ in 0..MAX_HOURS {
            self.world.wait_until_compared().await;
            let now = self.now.timestamp_millis();
            let charged = |is_correction| -> i64 {
                let accounts = self.accounts.iter();
                let of_each = accounts.map(|one| one.model.charged_of(is_correction, now));
                of_each.sum()
            };
            // A correction can be negative, so one sum of all could be right too early.
            let sum = |what: &str| format!("COALESCE(SUM(CASE WHEN {what} END), 0)");
            let invoiced = "state = 'invoiced' AND kind";
            let found = format!(
                "(SELECT {} AS counted, {} AS corrected, {} AS accepted FROM all_reports \
                 WHERE account_id LIKE 'y{}-%') AS sums \
                 WHERE counted = {} AND corrected = {} AND accepted = 0",
                sum(&format!("{invoiced} = 'usage' THEN quantity")),
                sum(&format!("{invoiced} = 'correction' THEN quantity")),
                sum("state = 'accepted' THEN 1"),
                self.seed,
                charged(false),
                charged(true)
            );
            if self.world.count_rows(&found).await == 1 {
                return;
            }
            self.step(self.now + TimeDelta::minutes(61)).await;
            let now = self.now.timestamp_millis();
            let verified = format!("leases WHERE name = 'verification' AND last_run_at >= {now}");
            let is_verified = async || self.world.count_rows(&verified).await == 1;
            self.world.wait_until("a verification", is_verified).await;
        }
        panic!("final invoices are not compared, seed {}", self.seed);
    }

    fn month(&self, first: NaiveDate) -> Month {
        let millis = |day: NaiveDate| day.and_time(NaiveTime::MIN).and_utc().timestamp_millis();
        let end = millis(first + Months::new(1));
        Month {
            name: first.format("%Y-%m").to_string(),
            start: millis(first),
            end,
            is_over: end <= self.now.timestamp_millis(),
        }
    }

    /// The rows of a month, or why they are refused.
    async fn exported(&self, month: &str, flags: &[&str]) -> Result<Vec<Value>, String> {
        let args = ["sign-off", "--month", month].into_iter();
        let args: Vec<&str> = args.chain(flags.iter().copied()).collect();
        let (text, _) = self.world.export_at(self.now, &args).await?;
        let rows = text.lines().map(serde_json::from_str);
        Ok(rows.collect::<Result<_, _>>().expect("rows"))
    }

    /// Each row of usage, and no other, is that of the model. Returns what is invoiced.
    async fn compare_usage(&self, month: &Month, rows: &[Value]) -> i64 {
        let listed = self.listed(&(month.start..month.end)).await;
        let now = self.now.timestamp_millis();
        let own = format!("y{}-", self.seed);
        let mut found: BTreeMap<Key, &Value> = BTreeMap::new();
        for row in rows.iter().filter(|row| row["row"] == "usage") {
            let key = key(row);
            if key.0.starts_with(&own) {
                let former = found.insert(key, row);
                assert!(former.is_none(), "{row} is there twice");
            } else {
                // The usage of a seed before this one is not in this model.
                let seeds = self.size.seeds.iter();
                let mut before = seeds.take_while(|seed| **seed != self.seed);
                let is_known = before.any(|seed| key.0.starts_with(&format!("y{seed}-")));
                assert!(is_known, "{row} is of an unknown account");
            }
        }
        let expected: BTreeMap<Key, Expected> = self
            .accounts
            .iter()
            .flat_map(|account| expected(account, month, now))
            .collect();
        let keys = |keys: Vec<&Key>| keys.into_iter().cloned().collect::<Vec<_>>();
        assert_eq!(
            keys(found.keys().collect()),
            keys(expected.keys().collect()),
            "the rows of {}, seed {}",
            month.name,
            self.seed
        );
        for (key, row) in &found {
            compare_row(row, &expected[key], month, self.seed);
            assert_eq!(figure(row, "reports"), listed[key], "{row}");
        }
        found.values().map(|row| figure(row, "invoiced")).sum()
    }

    /// A month is exported without `--open` if all of it is final, and refused otherwise; the same of some accounts by
    /// themselves. Returns how many exports were of something closed.
    async fn compare_closed(&self, month: &Month, rows: &[Value]) -> usize {
        let is_final = |row: &&Value| row["final"] == true;
        let closed = self.exported(&month.name, &[]).await;
        let mut exports = 0;
        if rows.iter().all(|row| row["final"] == true) {
            assert_eq!(closed.expect("a closed month"), rows, "{}", month.name);
            exports += 1;
        } else {
            let why = closed.expect_err("an open month");
            let is_told = why.contains("is not closed") || why.contains("is not over");
            assert!(is_told, "{}: {why}", month.name);
        }
        let names = self.accounts.iter().map(|account| account.name.as_str());
        let of_account = |name: &str| -> Vec<Value> {
            let own = rows.iter().filter(|row| row["account_id"] == name);
            own.cloned().collect()
        };
        let with_usage = names.map(|name| (name, of_account(name)));
        let all_final =
            with_usage.filter(|(_, own)| !own.is_empty() && own.iter().all(|row| is_final(&row)));
        for (name, own) in all_final.take(MAX_ACCOUNTS) {
            let flag = format!("--account={name}");
            let exported = self.exported(&month.name, &[&flag]).await;
            let exported = exported.expect("a closed month of an account");
            let is_usage = |row: &&Value| row["row"] == "usage";
            let usage: Vec<Value> = exported.iter().filter(is_usage).cloned().collect();
            assert_eq!(usage, own, "{name} in {}", month.name);
            compare_totals(month, &exported);
            assert!(exported.iter().all(|row| is_final(&row)), "{exported:#?}");
            exports += 1;
        }
        exports
    }
}

/// What final invoices charge.
fn charged(model: &Account, now: i64) -> i64 {
    model.charged(now).values().sum()
}

fn key(row: &Value) -> Key {
    let text = |name: &str| row[name].as_str().map(str::to_owned);
    let name = |name: &str| text(name).unwrap_or_else(|| panic!("{name} of {row}"));
    (name("account_id"), text("customer"), name("meter"))
}

fn figure(row: &Value, column: &str) -> i64 {
    let value = row[column].as_i64();
    value.unwrap_or_else(|| panic!("{column} of {row}"))
}

/// The rows of an account, from its model.
fn expected(account: &SimulatedAccount, month: &Month, now: i64) -> BTreeMap<Key, Expected> {
    let mut rows: BTreeMap<Key, Expected> = BTreeMap::new();
    for usage in account.model.rows_within(&(month.start..month.end)) {
        let has_customer = !matches!(
            usage.fate,
            Fate::Open | Fate::NotBillable | Fate::NoCustomer
        );
        let customer = has_customer.then(|| account.customer());
        let meter = METERS[usage.meter].0.to_owned();
        let row = rows.entry((account.name.clone(), customer, meter));
        let row = row.or_insert_with(|| Expected {
            is_final: month.is_over,
            ..Expected::default()
        });
        let mut add = |column| *row.figures.entry(column).or_default() += usage.quantity;
        add(if usage.is_correction {
            "corrected"
        } else {
            "counted"
        });
        add(match usage.fate {
            Fate::Open => "open",
            Fate::Closed => "to_send",
            Fate::Sent(_) => "reported",
            Fate::TooLate | Fate::Uncharged => "needs_decision",
            Fate::NotBillable => "not_billable",
            Fate::NoCustomer => "no_customer",
            Fate::WrittenOff => "written_off",
        });
        let is_charged = account.model.is_charged(usage.fate, now);
        let is_never_billed = matches!(usage.fate, Fate::NotBillable | Fate::WrittenOff);
        if is_charged {
            add("invoiced");
        }
        if !is_charged && !is_never_billed {
            add("difference");
            row.is_final = false;
        }
        row.reports += 1;
        row.decisions.extend(&usage.decisions);
    }
    rows
}

fn compare_row(row: &Value, expected: &Expected, month: &Month, seed: u64) {
    let of_model = |column: &str| expected.figures.get(column).copied().unwrap_or_default();
    for column in FIGURES {
        let found = figure(row, column);
        let own = match column {
            // One of each row of the model: usage of a window between two closes. Each close is in the rules and comes with a step
            // of the clocks, between which usage is counted. The service's own list has the same number: that is compared above.
            "reports" => expected.reports,
            // All that was sent is in Stripe's totals: the comparison began once nothing else waited for that.
            "confirmed" => of_model("reported"),
            "decisions" => i64::try_from(expected.decisions.len()).expect("few decisions"),
            // Nothing of the year is already sent, which is only after a restore, and no difference has to be acknowledged.
            other => of_model(other),
        };
        let name = &month.name;
        assert_eq!(
            found, own,
            "{column} in {name}, seed {seed}: {row} {expected:?}"
        );
    }
    assert_eq!(row["final"], expected.is_final, "{row} {expected:?}");
    let decided = decided(&expected.decisions);
    assert_eq!(row["decided"], serde_json::json!(decided), "{row}");
    compare_period(row, month);
}

/// The first decisions, as a row has them.
fn decided(decisions: &[Decision]) -> Vec<String> {
    let mut decisions = decisions.to_vec();
    decisions.sort_unstable();
    let first = decisions.into_iter().take(MAX_LISTED);
    let texts = first.map(|Decision { at, action }| {
        let time = DateTime::from_timestamp_millis(at).expect("a time");
        let time = time.to_rfc3339_opts(chrono::SecondsFormat::AutoSi, true);
        format!("{} {time}", action.name())
    });
    texts.collect()
}

fn compare_period(row: &Value, month: &Month) {
    let time = |millis: i64| {
        let time = DateTime::from_timestamp_millis(millis).expect("a time");
        time.to_rfc3339_opts(chrono::SecondsFormat::Secs, true)
    };
    assert_eq!(row["period_start"], time(month.start), "{row}");
    assert_eq!(row["period_end"], time(month.end), "{row}");
}

/// The totals are the sums of the rows: one of each meter in the order of their names, and one of all.
fn compare_totals(month: &Month, rows: &[Value]) {
    let is_usage = |row: &&Value| row["row"] == "usage";
    let usage: Vec<&Value> = rows.iter().filter(is_usage).collect();
    let meters: BTreeSet<&str> = usage
        .iter()
        .filter_map(|row| row["meter"].as_str())
        .collect();
    let meters = meters.into_iter().map(Some).chain([None]);
    let mut totals = rows[usage.len()..].iter();
    for meter in meters {
        let total = totals.next().expect("a total");
        let kind = if meter.is_some() {
            "meter_total"
        } else {
            "total"
        };
        assert_eq!(total["row"], kind, "{total}");
        assert_eq!(total["meter"].as_str(), meter, "{total}");
        assert!(
            total["account_id"].is_null() && total["customer"].is_null(),
            "{total}"
        );
        let is_own = |row: &&&Value| meter.is_none_or(|meter| row["meter"] == meter);
        for column in FIGURES {
            let own = usage.iter().filter(is_own).map(|row| figure(row, column));
            assert_eq!(
                figure(total, column),
                own.sum::<i64>(),
                "{column} of {total}"
            );
        }
        let is_final = usage.iter().filter(is_own).all(|row| row["final"] == true);
        assert_eq!(total["final"], is_final && month.is_over, "{total}");
        compare_period(total, month);
    }
    assert!(totals.next().is_none(), "{rows:#?}");
}
