//! `usage-server export sign-off`: what was counted in a month, and what became of it, in rows for finance. The sums are from
//! `store::sign_off`, and their meaning is in `domain::sign_off`.

use std::{collections::BTreeMap, io::Write};

use chrono::{NaiveDate, NaiveTime};

use super::{ExportError, Writer};
use crate::{
    domain::{
        Millis,
        account_id::AccountId,
        period::rfc3339,
        sign_off::{AccountRows, Figures, Row, RowKind, utc_month},
        window::Interval,
    },
    record::Record,
    store::{Store, sign_off::SignOffScope},
};

/// Every window.
const ALWAYS: Interval = Interval {
    start: Millis::MIN,
    end: Millis::MAX,
};

/// A calendar month in UTC, or all of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Months {
    /// As it was given.
    name: String,
    /// `None` for all.
    month: Option<Interval>,
}

/// Parses a month such as `2026-10`, or `all`.
pub(super) fn parse_months(text: &str) -> Result<Months, String> {
    let name = text.to_owned();
    if text == "all" {
        return Ok(Months { name, month: None });
    }
    let first = NaiveDate::parse_from_str(&format!("{text}-01"), "%Y-%m-%d");
    // `2026-1` is read as a month too, and would be another spelling in notes.
    let first = first.ok().filter(|_| text.len() == "2026-10".len());
    let first =
        first.ok_or_else(|| format!("{text:?} is neither a month such as 2026-10 nor all"))?;
    let start = first.and_time(NaiveTime::MIN).and_utc().timestamp_millis();
    let month = Some(utc_month(start));
    Ok(Months { name, month })
}

/// A sign-off.
pub(super) struct SignOff {
    pub(super) months: Months,
    /// Only that of this account.
    pub(super) account: Option<AccountId>,
    /// How many accounts are read in one transaction: memory is bounded by them.
    pub(super) accounts_per_page: u64,
    pub(super) now: Millis,
}

/// What is not final.
#[derive(Default)]
pub(super) struct Waiting {
    totals: Figures,
    /// The first row that is not final, in words.
    first: Option<String>,
    /// Whether a row is of a month that is not over.
    has_current_month: bool,
}

impl SignOff {
    /// Writes a row for each account, customer, meter and month, then the totals.
    pub(super) async fn write<W: Write>(
        &self,
        store: &Store,
        writer: &mut Writer<'_, W>,
    ) -> Result<Waiting, ExportError> {
        let scope = SignOffScope {
            account: self.account.clone(),
            windows: self.months.month.unwrap_or(ALWAYS),
        };
        let mut by_meter: BTreeMap<String, Figures> = BTreeMap::new();
        let mut waiting = Waiting::default();
        let mut after = None;
        loop {
            let page = store.sign_off_page(&scope, after.as_ref(), self.accounts_per_page);
            let page = page.await?;
            let mut of_page = Figures::default();
            for (account_id, rows) in &page.accounts {
                self.write_account(account_id, rows, &mut waiting, writer)?;
                for ((_, meter, _), figures) in rows {
                    of_page.add_row(figures);
                    by_meter.entry(meter.clone()).or_default().add_row(figures);
                }
            }
            let mut ledger = Figures::default();
            for sum in &page.ledger {
                ledger.add(sum);
            }
            if of_page.ledger_sums() != ledger.ledger_sums() {
                let last = page
                    .accounts
                    .last()
                    .map_or("", |(account, _)| account.as_str());
                return Err(ExportError::Failed(format!(
                    "the rows of the accounts up to {last:?} and the ledger check differ: {:?} and {:?}",
                    of_page.ledger_sums(),
                    ledger.ledger_sums()
                )));
            }
            waiting.totals.add_row(&of_page);
            match page.next {
                Some(next) => after = Some(next),
                None => break,
            }
        }
        if self.is_of_all() {
            check_ledger(store, &waiting.totals).await?;
        }
        self.write_totals(&by_meter, &waiting, writer)?;
        Ok(waiting)
    }

    fn write_account<W: Write>(
        &self,
        account_id: &AccountId,
        rows: &AccountRows,
        waiting: &mut Waiting,
        writer: &mut Writer<'_, W>,
    ) -> Result<(), ExportError> {
        for ((customer, meter, start), figures) in rows {
            let month = utc_month(*start);
            let row = Row {
                kind: RowKind::Usage,
                account_id: Some(account_id),
                customer: customer.as_deref(),
                meter: Some(meter),
                month: Some(month),
                figures,
                is_final: figures.is_final() && month.end <= self.now,
            };
            waiting.has_current_month |= month.end > self.now;
            if !row.is_final && waiting.first.is_none() {
                let customer = customer.as_deref().unwrap_or("none");
                waiting.first = Some(format!(
                    "account {account_id}, customer {customer}, meter {meter}"
                ));
            }
            writer.write(&Record::from(&row))?;
        }
        Ok(())
    }

    fn write_totals<W: Write>(
        &self,
        by_meter: &BTreeMap<String, Figures>,
        waiting: &Waiting,
        writer: &mut Writer<'_, W>,
    ) -> Result<(), ExportError> {
        let month = self.months.month;
        let is_over = month.map_or(!waiting.has_current_month, |month| month.end <= self.now);
        let total = |figures| Row {
            kind: RowKind::Total,
            account_id: None,
            customer: None,
            meter: None,
            month,
            figures,
            is_final: figures.is_final() && is_over,
        };
        for (meter, figures) in by_meter {
            let row = Row {
                kind: RowKind::MeterTotal,
                meter: Some(meter),
                ..total(figures)
            };
            writer.write(&Record::from(&row))?;
        }
        writer.write(&Record::from(&total(&waiting.totals)))?;
        Ok(())
    }

    /// Refuses if the ledger check finds a difference, in whichever month: a report that is missing is in no row, and in no sum
    /// of reports, so the rows of its month agree with each other. Totals of all months are compared when they are written.
    pub(super) async fn check_is_balanced(&self, store: &Store) -> Result<(), ExportError> {
        if self.is_of_all() {
            return Ok(());
        }
        let ledger = store.ledger_totals().await?;
        if ledger.is_balanced() {
            return Ok(());
        }
        Err(ExportError::Failed(format!(
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
    pub(super) fn compared(&self, is_open: bool) -> &'static str {
        match (self.is_of_all(), is_open) {
            (true, _) => "their totals equal the ledger check",
            (false, false) => {
                "their totals equal the sums of their reports, and the ledger check has no difference"
            }
            (false, true) => "their totals equal the sums of their reports",
        }
    }

    /// Refuses a month that is not over, or in which something is not final.
    pub(super) fn check_is_closed(&self, waiting: &Waiting) -> Result<(), ExportError> {
        let name = &self.months.name;
        if let Some(month) = self.months.month.filter(|month| month.end > self.now) {
            return Err(ExportError::NotClosed(format!(
                "month {name} is not over: it ends at {}",
                rfc3339(month.end)
            )));
        }
        match &waiting.first {
            None => Ok(()),
            Some(_) if waiting.totals.is_final() => Err(ExportError::NotClosed(
                "the current month is not over".to_owned(),
            )),
            Some(first) => Err(ExportError::NotClosed(format!(
                "month {name} is not closed: {} (first: {first})",
                waiting.totals.waiting()
            ))),
        }
    }
}

/// The totals of all months are those of the ledger check.
async fn check_ledger(store: &Store, totals: &Figures) -> Result<(), ExportError> {
    let ledger = store.ledger_totals().await?;
    let equal = ledger.is_balanced()
        && totals.counted == ledger.committed
        && totals.corrected == ledger.corrections;
    if equal {
        return Ok(());
    }
    Err(ExportError::Failed(format!(
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
            "10-2026",
            "2026-10-01",
            "ALL",
        ] {
            assert!(parse_months(wrong).is_err(), "{wrong}");
        }
    }
}
