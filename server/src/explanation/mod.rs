//! Follows an increment to its invoice line, and an invoice line back to its increments. It reads what is stored, and does
//! not query Stripe.
//!
//! An idempotency key names the report that its increment was added to, so the way from a key is exact. The way back is a
//! search through all keys, because an index of them by report would make counting slower: see `domain/key_search.rs`.

mod increments;
mod lines;
mod one_report;
mod place;

use std::collections::HashMap;

use uuid::Uuid;

use self::{
    increments::{Chunk, Entry},
    lines::{Lines, not_found, order_of, periods_of},
    one_report::periods_of_report,
    place::{LineKey, MAX_LINES, MAX_SEARCHED, Position, Search},
};
pub(crate) use self::{lines::Line, place::Place};
use crate::{
    domain::{
        Millis,
        account_id::AccountId,
        billed_usage::BilledUsage,
        billing_period::BillingPeriod,
        kept_increment::{KeptIncrement, divided_with},
        report::Report,
        stored_key::stored_key,
        violation::{Reason, Violation},
        window::Interval,
    },
    error::{Error, Result},
    store::{Store, cleanup::KEYS_KEPT_MS, explanations::FoldedRow, snapshot::Snapshot},
};

/// How often lines are read until each of their reports is found. On one database that is once.
const MAX_READS: usize = 3;

/// Which lines are explained, and how far.
#[derive(Clone, Debug)]
pub(crate) struct ExplainQuery {
    /// Absent only with an invoice.
    pub(crate) account_id: Option<AccountId>,
    /// Every billing period that overlaps it; absent means now.
    pub(crate) period: Option<Interval>,
    /// `in_...`
    pub(crate) invoice: Option<String>,
    /// Only this report.
    pub(crate) report_id: Option<Uuid>,
    /// Whether increments are searched for.
    pub(crate) with_increments: bool,
    /// Whether the caller may know what other accounts with the same Stripe customer used.
    pub(crate) with_others: bool,
}

/// A report of a line, or the row that several were folded into.
#[derive(Clone, Debug)]
pub(crate) enum Source {
    Report(Report),
    Folded(FoldedRow),
}

impl Source {
    fn quantity(&self) -> i64 {
        match self {
            Self::Report(report) => report.quantity,
            Self::Folded(folded) => folded.row.quantity,
        }
    }
}

/// A report, and those of its increments that are on a page.
#[derive(Clone, Debug)]
pub(crate) struct ExplainedReport {
    pub(crate) source: Source,
    pub(crate) increments: Vec<KeptIncrement>,
    /// The sum of its increments on this page and the pages before.
    pub(crate) with_key: i64,
    /// The rest of its quantity, once no increment follows.
    pub(crate) without_key: Option<i64>,
}

/// A page of an explanation.
#[derive(Clone, Debug)]
pub(crate) struct ExplanationPage {
    pub(crate) lines: Vec<Line>,
    pub(crate) next: Option<Place>,
}

/// An increment, and the way to its invoice.
#[derive(Clone, Debug)]
pub(crate) struct FoundIncrement {
    pub(crate) increment: KeptIncrement,
    pub(crate) report: Option<Report>,
    /// Other reports that may contain a part of it.
    pub(crate) divided_with: Vec<Uuid>,
    pub(crate) lines: Vec<Line>,
}

/// Finds the increment that a key counted.
pub(crate) async fn find_increment(
    store: &Store,
    account_id: &AccountId,
    key: &str,
    meter: Option<&str>,
    with_others: bool,
) -> Result<FoundIncrement> {
    let snapshot = store.snapshot().await?;
    let increment = snapshot
        .find_increment(account_id, stored_key(account_id, key))
        .await?
        .filter(|found| meter.is_none_or(|meter| meter == found.meter))
        .ok_or_else(|| Error::IncrementNotFound {
            account: account_id.to_string(),
            key: key.to_owned(),
            meter: meter.map(str::to_owned),
            kept_ms: KEYS_KEPT_MS,
        })?;
    let reports = snapshot
        .find_reports(account_id, &[increment.report_id])
        .await?;
    let report = reports.into_values().next();
    let (mut divided, mut lines) = (Vec::new(), Vec::new());
    if let Some(report) = &report {
        let of_window = snapshot
            .reports_of_window(account_id, &report.meter, report.window_start)
            .await?;
        let others = divided_with(&increment, report, &of_window);
        divided = others.into_iter().map(|other| other.id).collect();
        lines = lines_of_report(&snapshot, report, with_others).await?;
    }
    snapshot.end().await?;
    Ok(FoundIncrement {
        increment,
        report,
        divided_with: divided,
        lines,
    })
}

/// The lines that charge a report.
async fn lines_of_report(
    snapshot: &Snapshot,
    report: &Report,
    with_others: bool,
) -> Result<Vec<Line>> {
    let at = BilledUsage::of(report).billed_at_stripe();
    let time = Interval {
        start: at,
        end: at.saturating_add(1),
    };
    let mut periods = snapshot.metered_periods(&report.account_id, time).await?;
    periods.retain(|period| period.meter.as_ref() == Some(&report.meter));
    periods.sort_by_cached_key(LineKey::of);
    let mut reader = Lines::of(snapshot, with_others);
    let mut lines = Vec::new();
    for period in periods {
        let (line, figures) = reader.read(period).await?;
        if figures.iter().any(|figure| figure.id == report.id) {
            lines.push(line);
        }
    }
    Ok(lines)
}

/// A page of an explanation, with a limited number of increments.
pub(crate) async fn explain(
    store: &Store,
    query: &ExplainQuery,
    place: Option<Place>,
    limit: usize,
    now: Millis,
) -> Result<ExplanationPage> {
    let is_first = place.is_none();
    let place = place.unwrap_or_else(|| {
        Place::first(query.period.unwrap_or(Interval {
            start: now,
            end: now.saturating_add(1),
        }))
    });
    let mut chunk = read_chunk(store, query, (&place, is_first), limit, now).await?;
    if is_first
        && chunk.entries.is_empty()
        && let Some(id) = query.report_id
    {
        return Err(store.report_not_found(id).await?);
    }
    if query.with_increments {
        chunk.search(store, limit).await?;
    } else {
        chunk.goes_on = None;
    }
    let next = place.after(chunk.next.take(), chunk.unfinished());
    Ok(ExplanationPage {
        lines: chunk.into_lines(place.search.is_some(), query.with_increments),
        next,
    })
}

/// Lines and reports of a page, all of one moment.
async fn read_chunk(
    store: &Store,
    query: &ExplainQuery,
    (place, is_first): (&Place, bool),
    limit: usize,
    now: Millis,
) -> Result<Chunk> {
    for _ in 0..MAX_READS {
        let snapshot = store.snapshot().await?;
        let mut periods = periods_of(&snapshot, query, place.time()).await?;
        if is_first && periods.is_empty() {
            return Err(not_found(query));
        }
        if let Some(id) = query.report_id {
            periods = periods_of_report(&snapshot, periods, id).await?;
        }
        let chunk = match (&place.search, &place.next) {
            (Some(search), next) => go_on(&snapshot, query, periods, search, next.clone()).await?,
            (None, Some(from)) => choose(&snapshot, query, &periods, from, limit, now).await?,
            (None, None) => Chunk::default(),
        };
        snapshot.end().await?;
        if !chunk.lacks_reports {
            return Ok(chunk);
        }
    }
    Err(Error::ReportsMoving)
}

/// The next reports of the lines after a place.
async fn choose(
    snapshot: &Snapshot,
    query: &ExplainQuery,
    periods: &[BillingPeriod],
    from: &Position,
    limit: usize,
    now: Millis,
) -> Result<Chunk> {
    let limit = if query.with_increments {
        limit.min(MAX_SEARCHED)
    } else {
        limit
    };
    let mut reader = Lines::of(snapshot, query.with_others);
    let mut chunk = Chunk::default();
    let mut chosen = Vec::new();
    for period in periods {
        let key = LineKey::of(period);
        if key < from.line {
            continue;
        }
        let is_other_account = chunk
            .lines
            .first()
            .is_some_and(|(first, _)| first.0 != key.0);
        if chosen.len() >= limit || chunk.lines.len() >= MAX_LINES || is_other_account {
            chunk.next = Some(Position {
                line: key,
                after: None,
            });
            break;
        }
        let (line, mut figures) = reader.read(period.clone()).await?;
        if let Some(id) = query.report_id {
            figures.retain(|figure| figure.id == id);
        }
        let after = from.after.filter(|_| key == from.line);
        figures.retain(|figure| after.is_none_or(|after| order_of(figure) > after));
        if figures.is_empty() && (after.is_some() || query.report_id.is_some()) {
            continue;
        }
        let left = limit.saturating_sub(chosen.len());
        let has_more = figures.len() > left;
        figures.truncate(left);
        if let Some(last) = figures.last().filter(|_| has_more) {
            chunk.next = Some(Position {
                line: key.clone(),
                after: Some(order_of(last)),
            });
        }
        let number = chunk.lines.len();
        chosen.extend(figures.into_iter().map(|figure| (number, figure)));
        chunk.lines.push((key, line));
        if has_more {
            break;
        }
    }
    chunk.add(snapshot, &chosen, now).await?;
    Ok(chunk)
}

/// The reports of a search that goes on.
async fn go_on(
    snapshot: &Snapshot,
    query: &ExplainQuery,
    periods: Vec<BillingPeriod>,
    search: &Search,
    next: Option<Position>,
) -> Result<Chunk> {
    let mut reader = Lines::of(snapshot, query.with_others);
    let mut chunk = Chunk {
        next,
        goes_on: Some(search.clone()),
        ..Chunk::default()
    };
    let mut numbers = vec![None; search.lines.len()];
    for period in periods {
        let key = LineKey::of(&period);
        if let Some(at) = search.lines.iter().position(|own| *own == key)
            && let Some(number) = numbers.get_mut(at)
        {
            *number = Some(chunk.lines.len());
            chunk.lines.push((key, reader.read(period).await?.0));
        }
    }
    let ids: Vec<Uuid> = search.reports.iter().map(|(_, id, _)| *id).collect();
    let found = match chunk.account() {
        Some(account) => snapshot.find_reports(&account, &ids).await?,
        None => HashMap::new(),
    };
    for (line, id, with_key) in &search.reports {
        let number = numbers.get(*line).copied().flatten();
        // A report was folded or deleted since the page before, or its line is gone.
        let (Some(number), Some(report)) = (number, found.get(id)) else {
            return Err(outdated_token().into());
        };
        let source = Source::Report(report.clone());
        chunk.entries.push(Entry::new(number, source, *with_key));
    }
    Ok(chunk)
}

fn outdated_token() -> Violation {
    let why = "page_token leads to a report that is no longer there; start again without it";
    Violation::new(Reason::PageTokenInvalid, "page_token", why)
}
