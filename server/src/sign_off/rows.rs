//! The rows of a sign-off, page by page, and what refuses it. The sums are from `store::sign_off`, and their meaning is in
//! `domain::sign_off`.

use std::{collections::BTreeMap, io};

use chrono::{NaiveDate, NaiveTime};

use crate::{
    domain::{
        Millis,
        account_id::AccountId,
        period::rfc3339,
        sign_off::{AccountRows, Figures, Row, RowKind, utc_month},
        window::Interval,
    },
    error::Error,
    record::Record,
    store::{
        Store,
        sign_off::{SignOffPage, SignOffScope},
    },
};

/// Every window.
const ALWAYS: Interval = Interval {
    start: Millis::MIN,
    end: Millis::MAX,
};

/// How many accounts are read in one transaction, if nothing else is said.
pub(crate) const ACCOUNTS_PER_PAGE: u64 = 100;

/// A calendar month in UTC, or all of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Months {
    /// As it was given.
    name: String,
    /// `None` for all.
    month: Option<Interval>,
}

/// Parses a month such as `2026-10`, or `all`.
pub(crate) fn parse_months(text: &str) -> Result<Months, String> {
    if text == "all" {
        let name = text.to_owned();
        return Ok(Months { name, month: None });
    }
    let month = Months::of(text).map(|(_, months)| months);
    month.ok_or_else(|| format!("{text:?} is neither a month such as 2026-10 nor all"))
}

impl Months {
    /// One month, such as `2026-10`.
    pub(crate) fn of(name: &str) -> Option<(Interval, Self)> {
        let month = parse_month(name)?;
        let name = name.to_owned();
        let months = Self {
            name,
            month: Some(month),
        };
        Some((month, months))
    }
}

/// The calendar month in UTC that a text such as `2026-10` names.
fn parse_month(text: &str) -> Option<Interval> {
    // `2026-1` and `2026- 1` are read as months too, as is a year with a sign, and would be other spellings in notes.
    let (year, month) = text.split_once('-')?;
    let are_digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    if (year.len(), month.len()) != (4, 2) || !are_digits(year) || !are_digits(month) {
        return None;
    }
    let first = NaiveDate::parse_from_str(&format!("{text}-01"), "%Y-%m-%d").ok()?;
    let start = first.and_time(NaiveTime::MIN).and_utc().timestamp_millis();
    Some(utc_month(start))
}

/// Why a month is not signed off.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refusal {
    /// Something of the month is not final.
    #[error("{0}")]
    NotClosed(String),
    /// Rows and the ledger check contradict each other.
    #[error("{0}")]
    BooksDiffer(String),
    /// The database failed.
    #[error(transparent)]
    Store(#[from] Error),
    /// A row cannot be written.
    #[error(transparent)]
    Print(#[from] io::Error),
}

/// A sign-off.
pub(crate) struct SignOff {
    pub(crate) months: Months,
    /// Only that of this account.
    pub(crate) account: Option<AccountId>,
    /// How many accounts are read in one transaction: memory is bounded by them.
    pub(crate) accounts_per_page: u64,
    pub(crate) now: Millis,
}

/// The totals, and what of them is not final.
#[derive(Default)]
pub(crate) struct Waiting {
    pub(crate) totals: Figures,
    /// The first row that is not final, in words.
    first: Option<String>,
    /// Whether a row is of a month that is not over.
    has_current_month: bool,
}

/// The rows of a sign-off while they are read.
pub(crate) struct Reading<'a> {
    sign_off: &'a SignOff,
    scope: SignOffScope,
    after: Option<AccountId>,
    by_meter: BTreeMap<String, Figures>,
    waiting: Waiting,
}

impl Reading<'_> {
    /// Writes a row for each account, customer, meter and month of the next page, and after the last page the totals. Returns
    /// whether there is another page.
    ///
    /// # Errors
    /// The rows and the ledger check differ, the database fails, or a row cannot be written.
    pub(crate) async fn write_page(
        &mut self,
        store: &Store,
        put: &mut impl FnMut(&Record) -> io::Result<()>,
    ) -> Result<bool, Refusal> {
        let limit = self.sign_off.accounts_per_page;
        let page = store.sign_off_page(&self.scope, self.after.as_ref(), limit);
        let page = page.await?;
        let mut of_page = Figures::default();
        for (account_id, rows) in &page.accounts {
            self.write_account(account_id, rows, put)?;
            for ((_, meter, _), figures) in rows {
                of_page.add_row(figures);
                let of_meter = self.by_meter.entry(meter.clone()).or_default();
                of_meter.add_row(figures);
            }
        }
        check_page(&page, &of_page)?;
        self.waiting.totals.add_row(&of_page);
        self.after = page.next;
        if self.after.is_some() {
            return Ok(true);
        }
        if self.sign_off.is_of_all() {
            check_ledger(store, &self.waiting.totals).await?;
        }
        self.write_totals(put)?;
        Ok(false)
    }

    /// The totals by meter, and those of all with what is not final.
    pub(crate) fn finish(self) -> (BTreeMap<String, Figures>, Waiting) {
        (self.by_meter, self.waiting)
    }

    fn write_account(
        &mut self,
        account_id: &AccountId,
        rows: &AccountRows,
        put: &mut impl FnMut(&Record) -> io::Result<()>,
    ) -> io::Result<()> {
        let now = self.sign_off.now;
        for ((customer, meter, start), figures) in rows {
            let month = utc_month(*start);
            let row = Row {
                kind: RowKind::Usage,
                account_id: Some(account_id),
                customer: customer.as_deref(),
                meter: Some(meter),
                month: Some(month),
                figures,
                is_final: figures.is_final() && month.end <= now,
            };
            self.waiting.has_current_month |= month.end > now;
            if !row.is_final && self.waiting.first.is_none() {
                let customer = customer.as_deref().unwrap_or("none");
                self.waiting.first = Some(format!(
                    "account {account_id}, customer {customer}, meter {meter}"
                ));
            }
            put(&Record::from(&row))?;
        }
        Ok(())
    }

    fn write_totals(&self, put: &mut impl FnMut(&Record) -> io::Result<()>) -> io::Result<()> {
        let (month, now) = (self.sign_off.months.month, self.sign_off.now);
        let has_current = self.waiting.has_current_month;
        let is_over = month.map_or(!has_current, |month| month.end <= now);
        let total = |figures| Row {
            kind: RowKind::Total,
            account_id: None,
            customer: None,
            meter: None,
            month,
            figures,
            is_final: figures.is_final() && is_over,
        };
        for (meter, figures) in &self.by_meter {
            let row = Row {
                kind: RowKind::MeterTotal,
                meter: Some(meter),
                ..total(figures)
            };
            put(&Record::from(&row))?;
        }
        put(&Record::from(&total(&self.waiting.totals)))
    }
}

/// The rows of a page have the sums that the ledger check makes of the same reports.
fn check_page(page: &SignOffPage, of_page: &Figures) -> Result<(), Refusal> {
    let mut ledger = Figures::default();
    for sum in &page.ledger {
        ledger.add(sum);
    }
    if of_page.ledger_sums() == ledger.ledger_sums() {
        return Ok(());
    }
    let last = page.accounts.last();
    let last = last.map_or("", |(account, _)| account.as_str());
    Err(Refusal::BooksDiffer(format!(
        "the rows of the accounts up to {last:?} and the ledger check differ: {:?} and {:?}",
        of_page.ledger_sums(),
        ledger.ledger_sums()
    )))
}

impl SignOff {
    /// Begins to read its rows.
    pub(crate) fn begin(&self) -> Reading<'_> {
        Reading {
            sign_off: self,
            scope: SignOffScope {
                account: self.account.clone(),
                windows: self.months.month.unwrap_or(ALWAYS),
            },
            after: None,
            by_meter: BTreeMap::new(),
            waiting: Waiting::default(),
        }
    }

    /// Refuses if the ledger check finds a difference, in whichever month: a report that is missing is in no row, and in no sum
    /// of reports, so the rows of its month agree with each other. Totals of all months are compared when they are written.
    pub(crate) async fn check_is_balanced(&self, store: &Store) -> Result<(), Refusal> {
        if self.is_of_all() {
            return Ok(());
        }
        let ledger = store.ledger_totals().await?;
        if ledger.is_balanced() {
            return Ok(());
        }
        Err(Refusal::BooksDiffer(format!(
            "the ledger check has {} committed and {} in reports, so usage of some month may be missing: see the line \
             `ledger check` of doctor",
            ledger.committed,
            ledger.counted()
        )))
    }

    /// Whether the rows are those of all accounts and months.
    fn is_of_all(&self) -> bool {
        self.months.month.is_none() && self.account.is_none()
    }

    /// What was compared, in words. `is_open` says whether it is exported as it is.
    pub(crate) fn compared(&self, is_open: bool) -> &'static str {
        match (self.is_of_all(), is_open) {
            (true, _) => "their totals equal the ledger check",
            (false, false) => {
                "their totals equal the sums of their reports, and the ledger check has no difference"
            }
            (false, true) => "their totals equal the sums of their reports",
        }
    }

    /// Refuses a month that is not over, or in which something is not final.
    pub(crate) fn check_is_closed(&self, waiting: &Waiting) -> Result<(), Refusal> {
        let why = self.reasons(waiting).into_iter().next();
        why.map_or(Ok(()), |why| Err(Refusal::NotClosed(why)))
    }

    /// Why it is not closed: that the month is not over, then what is not final. None if it is closed.
    pub(crate) fn reasons(&self, waiting: &Waiting) -> Vec<String> {
        let name = &self.months.name;
        let mut reasons = Vec::new();
        if let Some(month) = self.months.month.filter(|month| month.end > self.now) {
            let end = rfc3339(month.end);
            reasons.push(format!("month {name} is not over: it ends at {end}"));
        } else if waiting.first.is_some() && waiting.totals.is_final() {
            reasons.push("the current month is not over".to_owned());
        }
        if let Some(first) = waiting
            .first
            .as_ref()
            .filter(|_| !waiting.totals.is_final())
        {
            let what = waiting.totals.waiting();
            reasons.push(format!(
                "month {name} is not closed: {what} (first: {first})"
            ));
        }
        reasons
    }
}

/// The totals of all months are those of the ledger check.
async fn check_ledger(store: &Store, totals: &Figures) -> Result<(), Refusal> {
    let ledger = store.ledger_totals().await?;
    let equal = ledger.is_balanced()
        && totals.counted == ledger.committed
        && totals.corrected == ledger.corrections;
    if equal {
        return Ok(());
    }
    Err(Refusal::BooksDiffer(format!(
        "the rows have {} counted and {} corrected, and the ledger check {} committed, {} in reports and {} corrected: usage was \
         counted meanwhile, or see the line `ledger check` of doctor",
        totals.counted,
        totals.corrected,
        ledger.committed,
        ledger.counted(),
        ledger.corrections
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn months_are_calendar_months_or_all() {
        let october = parse_months("2026-10").unwrap();
        let month = october.month.unwrap();
        assert_eq!(rfc3339(month.start), "2026-10-01T00:00:00Z");
        assert_eq!(rfc3339(month.end), "2026-11-01T00:00:00Z");
        assert_eq!(parse_months("all").unwrap().month, None);
        for wrong in [
            "",
            "2026",
            "2026-13",
            "2026-1",
            "2026- 1",
            "2026-+1",
            "10-2026",
            "2026-10-01",
            "ALL",
            "+026-10",
            " 026-10",
        ] {
            assert!(parse_months(wrong).is_err(), "{wrong}");
        }
    }
}
