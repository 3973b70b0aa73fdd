//! How long the pages of the console take among many accounts and reports, alone and beside increments at half of their
//! speed, and what reading them costs the increments.

use std::{
    num::NonZeroU32,
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;

use crate::{
    background::{self, Background},
    load::{ACCOUNTS, Work, histogram},
    servers::Running,
    stored::{LINKED, OBSERVED, history, linked_reports, vacuum},
    support::engines::{Database, Engine},
    table::latencies,
};

/// A page is read so often at least, however long it takes.
const MIN_READS: u64 = 5;
/// The slowest page may take so long.
const TIMEOUT: Duration = Duration::from_mins(2);

/// Gives admins their forms, without a key.
const FORMS: &str = "--console-writes-without-key";

/// What the rows are called.
pub(crate) fn name(engine: Engine) -> String {
    format!("{} pages", engine.name())
}

/// The pages, each with a filter as a viewer would set it.
fn pages() -> Vec<String> {
    let linked = format!("{LINKED}0000042");
    vec![
        "/".to_owned(),
        "/usage".to_owned(),
        "/usage?by=day".to_owned(),
        "/accounts".to_owned(),
        "/accounts?id=linked-00004".to_owned(),
        format!("/account?id={linked}"),
        format!("/account?id={OBSERVED}"),
        "/reports".to_owned(),
        format!("/reports?account={OBSERVED}"),
        "/runs".to_owned(),
        "/verification".to_owned(),
        "/find".to_owned(),
        "/sign-off".to_owned(),
        format!("/invoice?account={LINKED}0000042"),
        format!("/correct?account={LINKED}0000042"),
        "/force".to_owned(),
        "/set-up".to_owned(),
        "/keys".to_owned(),
        "/audit".to_owned(),
    ]
}

/// Measures and prints them.
pub(crate) fn measure(engine: Engine, database: Database, duration: Duration, accounts: u64) {
    let stored = history(&database, accounts) + linked_reports(&database, accounts);
    vacuum(&database);
    let (server, address) = Running::start_with_pages(database, &[FORMS.to_owned()]);
    let mut pages = pages();
    let counted = background::run(async {
        let viewer = Viewer::new(address);
        pages.extend(viewer.report().await);
        let work = Work::unary(128, ACCOUNTS);
        let counting = Background::start(server.endpoint(), work, None).await;
        let half = counting.rate(duration).await / 2.0;
        let mut counted = counting.stop().await;
        let limit = NonZeroU32::new(half as u32).unwrap_or(NonZeroU32::MIN);
        for page in &pages {
            viewer.read(page, duration / 4).await;
            let alone = viewer.read(page, duration).await;
            let counting = Background::start(server.endpoint(), work, Some(limit)).await;
            let (rate, beside) = counting.rate_during(viewer.read(page, duration)).await;
            counted += counting.stop().await;
            print(engine, page, accounts, (&alone, &beside), rate / half);
        }
        counted
    });
    server.stop_and_verify(stored + counted);
}

fn print(
    engine: Engine,
    page: &str,
    accounts: u64,
    (alone, beside): (&Histogram<u64>, &Histogram<u64>),
    kept: f64,
) {
    let name = name(engine);
    // An id is another in each run.
    let page = page.split("&id=").next().unwrap_or(page);
    println!(
        "{name}: {page} among {accounts} accounts, p50 / p99 alone {} ms, beside increments {} ms; {kept:.2} of the increments",
        latencies(alone),
        latencies(beside),
    );
    let at = |histogram: &Histogram<u64>, quantile| histogram.value_at_quantile(quantile);
    println!(
        "bench: {name} page={page} accounts={accounts} p50_alone={} p99_alone={} p50={} p99={} increments_kept={kept:.2}",
        at(alone, 0.5),
        at(alone, 0.99),
        at(beside, 0.5),
        at(beside, 0.99),
    );
}

/// A browser on this machine, which needs no key.
struct Viewer {
    client: reqwest::Client,
    address: String,
}

impl Viewer {
    fn new(address: String) -> Self {
        let client = reqwest::Client::builder().timeout(TIMEOUT).build();
        Self {
            client: client.expect("a client"),
            address,
        }
    }

    /// Reads a page again and again. Returns the latencies in microseconds.
    async fn read(&self, page: &str, duration: Duration) -> Histogram<u64> {
        let mut latencies = histogram();
        let end = Instant::now() + duration;
        while Instant::now() < end || latencies.len() < MIN_READS {
            let sent = Instant::now();
            self.get(page).await;
            let micros = u64::try_from(sent.elapsed().as_micros()).unwrap_or(u64::MAX);
            latencies.saturating_record(micros);
        }
        latencies
    }

    /// The page of the first listed report.
    async fn report(&self) -> Option<String> {
        let listed = self.get(&format!("/reports?account={OBSERVED}")).await;
        let (_, link) = listed.split_once("href=\"/report?")?;
        let (query, _) = link.split_once('"')?;
        Some(format!("/report?{}", query.replace("&amp;", "&")))
    }

    async fn get(&self, page: &str) -> String {
        let sent = self.client.get(format!("{}{page}", self.address)).send();
        let answer = sent.await.expect("an answer");
        let status = answer.status();
        let text = answer.text().await.expect("a page");
        assert!(status.is_success(), "{page}: {status}: {text}");
        text
    }
}
