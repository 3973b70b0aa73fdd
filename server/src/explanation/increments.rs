//! The reports of a page, and the search for their increments.

use uuid::Uuid;

use super::{
    ExplainedReport, Line, Source,
    place::{LineKey, Position, Search},
};
use crate::{
    domain::{
        Millis,
        account_id::AccountId,
        kept_increment::KeptIncrement,
        key_search::Part,
        report::{Kind, Report},
        report_figure::ReportFigure,
        window::Interval,
    },
    error::Result,
    store::{Store, cleanup::KEYS_KEPT_MS, key_search::KeySearch, snapshot::Snapshot},
};

/// How many steps through the stored keys one page makes.
const STEPS_PER_PAGE: usize = 20;

/// A report of a page.
#[derive(Debug)]
pub(super) struct Entry {
    /// The place of its line.
    line: usize,
    source: Source,
    increments: Vec<KeptIncrement>,
    with_key: i64,
    /// Whether all of its increments were found.
    is_whole: bool,
}

impl Entry {
    pub(super) fn new(line: usize, source: Source, with_key: i64) -> Self {
        Self {
            line,
            source,
            increments: Vec::new(),
            with_key,
            is_whole: false,
        }
    }

    fn report(&self) -> Option<&Report> {
        match &self.source {
            Source::Report(report) => Some(report),
            Source::Folded(_) => None,
        }
    }

    /// Whether keys of its increments can be stored.
    fn may_have_keys(&self, now: Millis) -> bool {
        self.report().is_some_and(|report| {
            let oldest = now.saturating_sub(KEYS_KEPT_MS);
            report.kind == Kind::Usage && report.closed_at.is_none_or(|closed| closed >= oldest)
        })
    }
}

/// Reports of one account that are explained together, by one search.
#[derive(Debug, Default)]
pub(super) struct Chunk {
    pub(super) lines: Vec<(LineKey, Line)>,
    pub(super) entries: Vec<Entry>,
    /// Where the reports after them begin.
    pub(super) next: Option<Position>,
    /// Whether a report is not where its figure says.
    pub(super) lacks_reports: bool,
    /// The search, while it has not ended.
    pub(super) goes_on: Option<Search>,
}

impl Chunk {
    pub(super) fn account(&self) -> Option<AccountId> {
        let (_, first) = self.lines.first()?;
        Some(first.period.account_id.clone())
    }

    /// Adds reports, each with the place of its line, and begins the search for their increments.
    pub(super) async fn add(
        &mut self,
        snapshot: &Snapshot,
        chosen: &[(usize, ReportFigure)],
        now: Millis,
    ) -> Result<()> {
        let Some(account) = self.account() else {
            return Ok(());
        };
        let (folded, single): (Vec<_>, Vec<_>) =
            chosen.iter().partition(|(_, figure)| figure.is_folded);
        let ids: Vec<Uuid> = single.iter().map(|(_, figure)| figure.id).collect();
        let keys: Vec<(Millis, Uuid)> = folded
            .iter()
            .map(|(_, figure)| (figure.usage.window_start, figure.id))
            .collect();
        let reports = snapshot.find_reports(&account, &ids).await?;
        let rows = snapshot.find_folded(&account, &keys).await?;
        for (line, figure) in chosen {
            let source = if figure.is_folded {
                rows.get(&figure.id).cloned().map(Source::Folded)
            } else {
                reports.get(&figure.id).cloned().map(Source::Report)
            };
            match source {
                Some(source) => self.entries.push(Entry::new(*line, source, 0)),
                None => self.lacks_reports = true,
            }
        }
        for entry in &mut self.entries {
            entry.is_whole = !entry.may_have_keys(now);
        }
        let searched = self.entries.iter().filter(|entry| !entry.is_whole);
        let times = searched
            .filter_map(Entry::report)
            .map(|report| (report.first_at, report.closed_at.unwrap_or(now)));
        let near = times.reduce(|one, other| (one.0.min(other.0), one.1.max(other.1)));
        self.goes_on = near.map(|near| Search {
            lines: Vec::new(),
            reports: Vec::new(),
            part: 0,
            after: None,
            near,
        });
        Ok(())
    }

    /// Searches for increments until a limit, or until each report is whole.
    pub(super) async fn search(&mut self, store: &Store, limit: usize) -> Result<()> {
        let (Some(account), Some(mut search)) = (self.account(), self.goes_on.take()) else {
            self.finish();
            return Ok(());
        };
        let mut found = 0_usize;
        let mut has_ended = false;
        for _ in 0..STEPS_PER_PAGE {
            let reports = self.searched();
            has_ended = reports.is_empty();
            if has_ended || found >= limit {
                break;
            }
            let left = limit.saturating_sub(found);
            let increments = step_through(store, &mut search, (&account, &reports), left).await?;
            found = found.saturating_add(increments.len());
            self.distribute(increments);
            has_ended = search.part().is_none();
            if has_ended {
                break;
            }
        }
        if has_ended || self.searched().is_empty() {
            self.read_open_again(store, &account).await?;
            self.finish();
        } else {
            self.goes_on = Some(search);
        }
        Ok(())
    }

    /// The reports of which increments may follow.
    fn searched(&self) -> Vec<Uuid> {
        let open = self.entries.iter().filter(|entry| !entry.is_whole);
        let mut ids: Vec<Uuid> = open
            .filter_map(Entry::report)
            .map(|report| report.id)
            .collect();
        ids.sort_unstable();
        ids.dedup();
        ids
    }

    fn distribute(&mut self, increments: Vec<KeptIncrement>) {
        for increment in increments {
            let of = self.entries.iter_mut().filter(|entry| {
                entry
                    .report()
                    .is_some_and(|report| report.id == increment.report_id)
            });
            for entry in of {
                entry.with_key = entry.with_key.saturating_add(increment.quantity);
                entry.increments.push(increment.clone());
            }
        }
        for entry in &mut self.entries {
            // An increment is at least one unit: nothing else was added.
            entry.is_whole |= entry.with_key == entry.source.quantity();
        }
    }

    /// Increments of open reports may have been counted since these were read. Only their sums are read again: the states are
    /// those of the moment at which the lines were read.
    async fn read_open_again(&mut self, store: &Store, account: &AccountId) -> Result<()> {
        let is_open = |entry: &&mut Entry| {
            let report = entry.report();
            !entry.is_whole && report.is_some_and(|report| report.closed_at.is_none())
        };
        let open: Vec<&mut Entry> = self.entries.iter_mut().filter(is_open).collect();
        let ids: Vec<Uuid> = open
            .iter()
            .filter_map(|entry| entry.report())
            .map(|report| report.id)
            .collect();
        if ids.is_empty() {
            return Ok(());
        }
        let snapshot = store.snapshot().await?;
        let found = snapshot.find_reports(account, &ids).await?;
        snapshot.end().await?;
        for (entry, id) in open.into_iter().zip(ids) {
            if let (Source::Report(report), Some(now)) = (&mut entry.source, found.get(&id)) {
                report.quantity = now.quantity;
                report.first_at = now.first_at;
                report.last_at = now.last_at;
            }
        }
        Ok(())
    }

    fn finish(&mut self) {
        for entry in &mut self.entries {
            entry.is_whole = true;
        }
    }

    /// The search of the next page, if it has not ended.
    pub(super) fn unfinished(&self) -> Option<Search> {
        let search = self.goes_on.as_ref()?;
        let open = self.entries.iter().filter(|entry| !entry.is_whole);
        let reports = open.filter_map(|entry| {
            let report = entry.report()?;
            Some((entry.line, report.id, entry.with_key))
        });
        let reports: Vec<_> = reports.collect();
        (!reports.is_empty()).then(|| Search {
            lines: self.lines.iter().map(|(key, _)| key.clone()).collect(),
            reports,
            ..search.clone()
        })
    }

    /// The lines of the page. When a search goes on, only those with something new.
    pub(super) fn into_lines(self, goes_on: bool, with_increments: bool) -> Vec<Line> {
        let mut lines: Vec<Line> = self.lines.into_iter().map(|(_, line)| line).collect();
        for entry in self.entries {
            if goes_on && entry.increments.is_empty() && !entry.is_whole {
                continue;
            }
            let rest = entry.source.quantity().saturating_sub(entry.with_key);
            if let Some(line) = lines.get_mut(entry.line) {
                line.reports.push(ExplainedReport {
                    source: entry.source,
                    increments: entry.increments,
                    with_key: entry.with_key,
                    without_key: (with_increments && entry.is_whole).then_some(rest),
                });
            }
        }
        lines.retain(|line| !goes_on || !line.reports.is_empty());
        lines
    }
}

/// One step of a search. It moves the search's place.
async fn step_through(
    store: &Store,
    search: &mut Search,
    (account_id, reports): (&AccountId, &[Uuid]),
    limit: usize,
) -> Result<Vec<KeptIncrement>> {
    let Some(part) = search.part() else {
        return Ok(Vec::new());
    };
    let near = Interval {
        start: search.near.0,
        end: search.near.1,
    };
    let (mut increments, mut next) = (Vec::new(), None);
    if let Some((first, last)) = part.keys(near) {
        let after = search.after.clone();
        let after = after.unwrap_or_else(|| (first, String::new()));
        let step = KeySearch {
            account_id,
            reports,
            after: &after,
            last,
            limit,
        };
        (increments, next) = store.search_keys(&step).await?;
    }
    if next.is_none() {
        let part = part.next();
        let place = part.and_then(|next| Part::ALL.iter().position(|part| *part == next));
        search.part = place.unwrap_or(Part::ALL.len());
    }
    search.after = next;
    Ok(increments)
}
