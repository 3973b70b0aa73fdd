//! The demo, as someone sees it who opens the address that it prints first.
//!
//! `README_PICTURE=true` writes the picture that README shows.

use std::{
    env, fs,
    io::{self, Write},
    pin::pin,
    sync::{Arc, Mutex},
};

use tokio_util::sync::CancellationToken;
use usage_server::commands::demo::{self, DemoConfig};

use super::{axe::Axe, looks};
use crate::support::{
    chromium::{Chromium, LIGHT, keep_picture},
    world::{poll, within},
};

/// Asks for README's picture.
const README_PICTURE: &str = "README_PICTURE";
/// Its largest size.
const MAX_PICTURE_BYTES: usize = 150 * 1024;
/// The account whose usage is shown, by day.
const ACCOUNT: &str = "/account?id=account-a";

/// What the demo prints.
#[derive(Clone, Debug, Default)]
struct Output(Arc<Mutex<Vec<u8>>>);

impl Output {
    fn lines(&self) -> Vec<String> {
        let text = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
        // The last one may not have ended.
        let ended = text.rfind('\n').map_or("", |end| &text[..end]);
        ended.lines().map(str::to_owned).collect()
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_demo_is_worth_looking_at() {
    let output = Output::default();
    let stop = CancellationToken::new();
    let mut out = output.clone();
    let mut running = pin!(demo::run(
        DemoConfig { once: false },
        &mut out,
        stop.clone()
    ));
    tokio::select! {
        ended = &mut running => panic!("{ended:?}: {:?}", output.lines()),
        () = look_at(&output) => {}
    }
    stop.cancel();
    assert!(within("the end of the demo", running).await.unwrap());
}

async fn look_at(output: &Output) {
    let last = poll("the last line", async || {
        output
            .lines()
            .pop()
            .filter(|line| line.starts_with("demo: "))
    })
    .await;
    let lines = output.lines();
    let console = lines[0].strip_prefix("console ");
    let console = console.expect("the console's address first");
    let console = console.split_whitespace().next().unwrap();
    let decision = &lines[lines.len() - 2];
    assert!(
        decision.contains("account-a with 1234 api_calls"),
        "{decision}"
    );
    let figures = last.split(['=', ' ']).filter_map(|word| word.parse().ok());
    let figures: Vec<i64> = figures.collect();
    assert_eq!(
        [figures[0]; 3],
        [figures[1], figures[2], figures[4]],
        "{last}"
    );
    if let Some(window) = Chromium::start(console.trim_end_matches('/')).await {
        look_around(window).await;
    }
    // Nothing was printed after it.
    assert_eq!(output.lines(), lines);
}

async fn look_around(window: Chromium) {
    let mut wrong = Vec::new();
    window.open("/").await;
    window
        .assert_shows("account-a api_calls 1,234 rejected")
        .await;
    // The page loads itself again until the checks have an answer.
    window.assert_shows("Checked").await;
    // Nothing but that report needs attention.
    let bad = "return document.querySelectorAll('.findings .bad').length";
    assert_eq!(window.evaluate(bad).await, 1, "{}", window.words().await);
    if let Some(axe) = Axe::load() {
        wrong.extend(looks::check(&window, &axe, "demo").await);
    }
    window.click_on("tbody a[href^='/report?']").await;
    window.assert_shows("no more than 1000 at a time").await;
    window.click("Accounts").await;
    for account in ["account-a", "account-b", "account-free"] {
        window.assert_shows(account).await;
    }
    window.click("account-a").await;
    window.open(&format!("{ACCOUNT}&compare=yes")).await;
    window.assert_shows("What invoices charge").await;
    window.assert_shows("equal").await;
    keep_picture("demo-invoices", &window.picture().await);
    window.open(ACCOUNT).await;
    let usage = format!("{ACCOUNT}&{}", last_days(&window).await);
    window.open(&usage).await;
    let bars = "return document.querySelectorAll('svg.chart rect').length";
    let bars = window.evaluate(bars).await.as_u64().unwrap();
    assert!(bars > 80, "{bars} bars of some months");
    keep_picture("demo-account", &window.picture().await);
    window
        .evaluate("document.querySelector('#usage').scrollIntoView()")
        .await;
    let picture = window.window_picture().await;
    keep_picture("readme", &picture);
    assert!(picture.len() < MAX_PICTURE_BYTES, "{} bytes", picture.len());
    if env::var(README_PICTURE).is_ok_and(|wanted| wanted == "true") {
        let path = format!("{}/.github/console.png", env!("CARGO_MANIFEST_DIR"));
        fs::write(path, &picture).unwrap();
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
    window.look(LIGHT).await;
    window.finish().await;
}

/// The query for the three months before the demo's clock, by day.
async fn last_days(window: &Chromium) -> String {
    let newest = "return document.querySelector('#usage ~ p time').getAttribute('datetime')";
    let month = window.evaluate(newest).await;
    let start = chrono::DateTime::parse_from_rfc3339(month.as_str().expect("a time")).unwrap();
    let day = |days| (start + chrono::TimeDelta::days(days)).format("%Y-%m-%d");
    format!("start={}&end={}", day(-92), day(2))
}
