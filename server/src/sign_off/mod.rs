//! Sign-offs of a month for callers: whether it is closed, and its rows as a file in parts. `usage-server export sign-off` writes
//! the same bytes.
//!
//! Each reads all accounts, in short transactions. Few read at a time, a page in each turn, so a short one does not wait for a long
//! one. One whose caller is gone or does not read ends after the page that it reads. No transaction waits for a caller.

mod limits;
mod rows;

use std::{collections::BTreeMap, io, pin::pin, time::Duration};

use futures_util::future::{Either, select};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use self::limits::Limits;
pub use self::rows::Months;
pub(crate) use self::rows::{ACCOUNTS_PER_PAGE, Refusal, SignOff, Waiting, parse_months};
use crate::{
    clock::Clock,
    domain::{
        caller_id::CallerId,
        sign_off::Figures,
        violation::{Violation, quoted},
        window::Interval,
    },
    error::{Error, Result},
    read_turns::ReadTurns,
    record::{Exported, Format, Record, RecordWriter},
    request_context::carried,
    store::Store,
};

/// How long a caller may take to read a part.
const PART_TIMEOUT: Duration = Duration::from_mins(1);
/// The bytes of a part.
const PART_BYTES: usize = 64 * 1024;

/// Reads sign-offs. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct SignOffs {
    store: Store,
    clock: Clock,
    turns: ReadTurns,
    shutdown: CancellationToken,
}

/// A part of a file, or what all parts together are.
#[derive(Clone, Debug)]
pub(crate) enum Part {
    Data(Vec<u8>),
    End(Exported),
}

/// What a month consists of, and whether it is closed.
#[derive(Clone, Debug)]
pub(crate) struct Overview {
    pub(crate) month: Interval,
    /// Why it is not closed; empty if it is.
    pub(crate) reasons: Vec<String>,
    pub(crate) by_meter: BTreeMap<String, Figures>,
    pub(crate) totals: Figures,
    /// What is exported in each format.
    pub(crate) csv: Exported,
    pub(crate) jsonl: Exported,
}

impl SignOffs {
    pub(crate) fn new(store: Store, clock: Clock, shutdown: CancellationToken) -> Self {
        Self {
            store,
            clock,
            turns: ReadTurns::of("sign-offs of a month"),
            shutdown,
        }
    }

    /// What a month consists of, and whether it is closed.
    ///
    /// # Errors
    /// The text names no month, too many sign-offs wait, of all or of this caller, this one takes too long, its rows contradict the
    /// ledger check, or the database fails.
    pub(crate) async fn overview(
        &self,
        month: &str,
        caller: Option<&CallerId>,
    ) -> Result<Overview> {
        let (month, sign_off) = self.sign_off(month)?;
        let (limits, store) = (self.limits(caller)?, self.store.clone());
        let _gone = limits.gone().drop_guard();
        let reading = tokio::spawn(carried(async move {
            overview(&store, &sign_off, month, &limits).await
        }));
        reading
            .await
            .unwrap_or_else(|error| Err(Error::Internal(error.into())))
    }

    /// A month as a file, in parts: those of its bytes, and what was written. An error among them ends it, and what came before is
    /// not complete. A month that is not closed is refused before any part, unless it `is_open`.
    ///
    /// # Errors
    /// The text names no month, or too many sign-offs wait, of all or of this caller.
    pub(crate) fn export(
        &self,
        month: &str,
        format: Format,
        is_open: bool,
        caller: Option<&CallerId>,
    ) -> Result<mpsc::Receiver<Result<Part>>> {
        let (_, sign_off) = self.sign_off(month)?;
        let (limits, store) = (self.limits(caller)?, self.store.clone());
        // Only what a caller reads is kept.
        let (parts, receiver) = mpsc::channel(1);
        tokio::spawn(carried(async move {
            let out = Parts {
                parts: &parts,
                limits: &limits,
            };
            let writing = pin!(write(&store, &sign_off, format, is_open, &out));
            let leaving = pin!(parts.closed());
            // Once the caller is gone, a read goes on to the end of its page, and no other one begins or waits for a turn.
            let written = match select(writing, leaving).await {
                Either::Left((written, _)) => written,
                Either::Right(((), writing)) => {
                    limits.gone().cancel();
                    writing.await
                }
            };
            let last = written.map(Part::End);
            // A caller that is gone needs no end.
            let _sent = tokio::time::timeout(PART_TIMEOUT, parts.send(last)).await;
        }));
        Ok(receiver)
    }

    /// The limits of one of them, with a place among those that read and wait.
    fn limits(&self, caller: Option<&CallerId>) -> Result<Limits> {
        let place = self.turns.place_of(caller)?;
        Ok(Limits::new(place, self.shutdown.clone()))
    }

    fn sign_off(&self, name: &str) -> Result<(Interval, SignOff)> {
        let months = Months::of(name).ok_or_else(|| {
            let message = format!(
                "month is {}; it must be a calendar month in UTC, such as 2026-10",
                quoted(name)
            );
            Violation::invalid("month", message)
        })?;
        let (month, months) = months;
        let sign_off = SignOff {
            months,
            account: None,
            accounts_per_page: ACCOUNTS_PER_PAGE,
            now: self.clock.now(),
        };
        Ok((month, sign_off))
    }
}

async fn overview(
    store: &Store,
    sign_off: &SignOff,
    month: Interval,
    limits: &Limits,
) -> Result<Overview> {
    let mut csv = RecordWriter::new(io::sink(), Format::Csv);
    let mut jsonl = RecordWriter::new(io::sink(), Format::Jsonl);
    let mut put = |record: &Record| {
        csv.write(record)?;
        jsonl.write(record)
    };
    let (by_meter, waiting) = read(store, sign_off, limits, &mut put).await?;
    let mut reasons = sign_off.reasons(&waiting);
    if reasons.is_empty() {
        let _turn = limits.turn().await?;
        match sign_off.check_is_balanced(store).await {
            Ok(()) => {}
            Err(Refusal::BooksDiffer(why)) => reasons.push(why),
            Err(other) => return Err(other.into()),
        }
    }
    Ok(Overview {
        month,
        reasons,
        by_meter,
        totals: waiting.totals,
        csv: csv.finish(),
        jsonl: jsonl.finish(),
    })
}

/// Reads all of it once. Returns the totals by meter, and those of all.
async fn read(
    store: &Store,
    sign_off: &SignOff,
    limits: &Limits,
    put: &mut (impl FnMut(&Record) -> io::Result<()> + Send),
) -> Result<(BTreeMap<String, Figures>, Waiting)> {
    let deletions = store.deletions_seen().await?;
    let mut reading = sign_off.begin();
    while limits.write_page(store, &mut reading, put).await? {}
    // Rows of a deleted account have other places.
    if store.deletions_seen().await? != deletions {
        return Err(Error::MonthChanged);
    }
    Ok(reading.finish())
}

/// Where the parts of a file go.
struct Parts<'a> {
    parts: &'a mpsc::Sender<Result<Part>>,
    /// No turn is kept while the caller reads a part.
    limits: &'a Limits,
}

impl Parts<'_> {
    /// Sends bytes in parts, and waits until the caller has read them.
    async fn send(&self, bytes: &[u8]) -> Result<()> {
        for part in bytes.chunks(PART_BYTES) {
            self.limits.check()?;
            let part = Part::Data(part.to_vec());
            match tokio::time::timeout(PART_TIMEOUT, self.parts.send(Ok(part))).await {
                Ok(Ok(())) => {}
                // The caller is gone.
                Ok(Err(_)) => return Err(Error::ShuttingDown),
                Err(_elapsed) => return Err(Error::ExportTooSlow(PART_TIMEOUT)),
            }
        }
        Ok(())
    }
}

/// Reads a closed month twice, and sends it the second time: it must be the same.
async fn write(
    store: &Store,
    sign_off: &SignOff,
    format: Format,
    is_open: bool,
    out: &Parts<'_>,
) -> Result<Exported> {
    let known = if is_open {
        None
    } else {
        Some(check(store, sign_off, format, out.limits).await?)
    };
    let deletions = store.deletions_seen().await?;
    let mut writer = RecordWriter::new(Vec::new(), format);
    let mut reading = sign_off.begin();
    loop {
        let mut put = |record: &Record| writer.write(record);
        let has_more = out.limits.write_page(store, &mut reading, &mut put);
        let has_more = has_more.await?;
        if !has_more || writer.out().len() >= PART_BYTES {
            let bytes = std::mem::take(writer.out());
            out.send(&bytes).await?;
        }
        if !has_more {
            break;
        }
    }
    let written = writer.finish();
    let is_same = known.is_none_or(|known| known == written);
    if !is_same || store.deletions_seen().await? != deletions {
        return Err(Error::MonthChanged);
    }
    Ok(written)
}

/// What is to be written of a closed month.
async fn check(
    store: &Store,
    sign_off: &SignOff,
    format: Format,
    limits: &Limits,
) -> Result<Exported> {
    let mut writer = RecordWriter::new(io::sink(), format);
    let mut put = |record: &Record| writer.write(record);
    let mut reading = sign_off.begin();
    while limits.write_page(store, &mut reading, &mut put).await? {}
    let (_, waiting) = reading.finish();
    sign_off.check_is_closed(&waiting)?;
    let _turn = limits.turn().await?;
    sign_off.check_is_balanced(store).await?;
    Ok(writer.finish())
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::NotClosed(why) => Self::MonthNotClosed(why),
            Refusal::BooksDiffer(why) => Self::BooksDiffer(why),
            Refusal::Store(error) => error,
            Refusal::Print(error) => Self::Internal(error.into()),
        }
    }
}
