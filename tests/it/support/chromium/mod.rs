//! Chromium without a window, driven by Debian's `chromedriver`; what `WebDriver` lacks is asked of the developer tools.
//!
//! One driver serves all tests of this process. It is tied to a pipe that this process keeps open: when the process ends in any
//! way, the driver and its browsers end too. A test has a browser for itself while it runs. The browser of a test that passed
//! serves the next one, without its cookies, pages and logs.

mod driver;
mod look;

use std::time::Duration;

use fantoccini::{
    Client, Locator,
    actions::{InputSource as _, KeyAction, KeyActions},
    wd::WebDriverCompatibleCommand,
};
use http::Method;
use serde_json::{Value, json};
use url::{ParseError, Url};

use self::driver::Turn;
pub(crate) use self::look::{LIGHT, Look, NARROW, NARROW_DARK, PRINT, keep_picture};
use crate::support::world::within;

/// How long a page may take that was asked for by a click.
const SHOWN_TIMEOUT: Duration = Duration::from_secs(20);

/// A command of this driver that the standard of `WebDriver` does not have.
#[derive(Debug)]
struct Extension {
    path: &'static str,
    body: Value,
}

impl WebDriverCompatibleCommand for Extension {
    fn endpoint(&self, base: &Url, session: Option<&str>) -> Result<Url, ParseError> {
        base.join(&format!(
            "session/{}/{}",
            session.unwrap_or_default(),
            self.path
        ))
    }

    fn method_and_body(&self, _: &Url) -> (Method, Option<String>) {
        (Method::POST, Some(self.body.to_string()))
    }
}

/// A browser with one page.
#[derive(Debug)]
pub(crate) struct Chromium {
    client: Client,
    /// The server that it looks at, such as `http://127.0.0.1:8080`.
    origin: String,
    turn: Turn,
}

impl Chromium {
    /// A browser for the pages of a server. Without the programs, says that the test was skipped; in CI it fails.
    pub(crate) async fn start(origin: &str) -> Option<Self> {
        let (client, turn) = driver::browser().await?;
        let window = Self {
            client,
            origin: origin.to_owned(),
            turn,
        };
        window.look(LIGHT).await;
        Some(window)
    }

    async fn extension(&self, path: &'static str, body: Value) -> Value {
        let command = self.client.issue_cmd(Extension { path, body });
        within("the driver", command).await.expect("an answer")
    }

    /// Calls a method of the developer tools.
    async fn tools(&self, method: &str, params: Value) -> Value {
        let body = json!({ "cmd": method, "params": params });
        self.extension("goog/cdp/execute", body).await
    }

    /// Changes the size of the window and the colours that the reader prefers.
    pub(crate) async fn look(&self, look: Look) {
        let size = json!({
            "width": look.width, "height": look.height, "deviceScaleFactor": 1, "mobile": false,
        });
        self.tools("Emulation.setDeviceMetricsOverride", size).await;
        let scheme = json!({ "name": "prefers-color-scheme", "value": look.scheme });
        let media = json!({ "media": look.media, "features": [scheme] });
        self.tools("Emulation.setEmulatedMedia", media).await;
    }

    /// Opens a page of the server.
    pub(crate) async fn open(&self, path: &str) {
        let url = format!("{}{path}", self.origin);
        within("a page", self.client.goto(&url))
            .await
            .expect("a page");
    }

    /// Goes back to the page before.
    pub(crate) async fn back(&self) {
        within("the page before", self.client.back())
            .await
            .expect("a page");
    }

    /// The path and query of the page that is shown.
    pub(crate) async fn path(&self) -> String {
        let url = within("the address", self.client.current_url())
            .await
            .expect("an address");
        let query = url.query().map(|query| format!("?{query}"));
        format!("{}{}", url.path(), query.unwrap_or_default())
    }

    /// Runs a script in the page. The policy of the page does not hold for it.
    pub(crate) async fn evaluate(&self, script: &str) -> Value {
        let run = self.client.execute(script, Vec::new());
        within("a script", run).await.expect("a result")
    }

    /// The same for a script that calls its last argument with the result.
    pub(crate) async fn evaluate_later(&self, script: &str) -> Value {
        let run = self.client.execute_async(script, Vec::new());
        within("a script", run).await.expect("a result")
    }

    /// The text that is seen.
    pub(crate) async fn words(&self) -> String {
        let words = self.evaluate("return document.body.innerText").await;
        let words = words.as_str().expect("a text").split_whitespace();
        words.collect::<Vec<_>>().join(" ")
    }

    /// The same, or nothing while another page takes its place.
    async fn words_if_loaded(&self) -> Option<String> {
        let script = "return document.body?.innerText ?? null";
        let run = self.client.execute(script, Vec::new());
        let text = within("a script", run).await.ok()?;
        let words: Vec<&str> = text.as_str()?.split_whitespace().collect();
        Some(words.join(" "))
    }

    /// Waits until the page shows these words.
    pub(crate) async fn assert_shows(&self, words: &str) {
        let mut shown = String::new();
        let wait = async {
            while !shown.contains(words) {
                if let Some(found) = self.words_if_loaded().await {
                    shown = found;
                }
            }
        };
        let is_shown = tokio::time::timeout(SHOWN_TIMEOUT, wait).await.is_ok();
        assert!(is_shown, "{words:?} is not in {shown}");
    }

    /// Waits until the page with this path and query is shown.
    pub(crate) async fn assert_is_at(&self, path: &str) {
        let mut shown = String::new();
        let wait = async {
            while shown != path {
                shown = self.path().await;
            }
        };
        let is_there = tokio::time::timeout(SHOWN_TIMEOUT, wait).await.is_ok();
        assert!(is_there, "{path} is not shown, but {shown}");
    }

    /// Types into the field with a label.
    pub(crate) async fn fill(&self, label: &str, text: &str) {
        let field = format!(
            "//*[@id = //label[starts-with(normalize-space(), '{label}')]/@for] | \
             //label[starts-with(normalize-space(), '{label}')]//*[self::input or self::textarea]"
        );
        let field = self.client.find(Locator::XPath(&field)).await;
        let field = field.unwrap_or_else(|error| panic!("no field {label}: {error}"));
        field.clear().await.expect("a field that can be written");
        field
            .send_keys(text)
            .await
            .expect("a field that can be written");
    }

    /// Clicks on a link, button or choice with exactly these words.
    pub(crate) async fn click(&self, words: &str) {
        let named = "//*[self::a or self::button or self::label]";
        let wanted = format!("{named}[normalize-space() = '{words}']");
        self.click_found(Locator::XPath(&wanted)).await;
    }

    /// Clicks on the first part of the page that a selector of CSS finds.
    pub(crate) async fn click_on(&self, selector: &str) {
        self.click_found(Locator::Css(selector)).await;
    }

    async fn click_found(&self, wanted: Locator<'_>) {
        let found = within("a part of the page", self.client.find(wanted)).await;
        let found = found.unwrap_or_else(|error| panic!("nothing to click {wanted:?}: {error}"));
        within("a click", found.click()).await.expect("a click");
    }

    /// Presses a key some times.
    pub(crate) async fn press(&self, key: char, times: usize) {
        let presses =
            (0..times).flat_map(|_| [KeyAction::Down { value: key }, KeyAction::Up { value: key }]);
        let keys = presses.fold(KeyActions::new("keyboard".to_owned()), |keys, press| {
            keys.then(press)
        });
        within("the keys", self.client.perform_actions(keys))
            .await
            .expect("keys");
    }

    /// A PNG of the whole page.
    pub(crate) async fn picture(&self) -> Vec<u8> {
        let sizes = self.tools("Page.getLayoutMetrics", json!({})).await;
        let size = &sizes["cssContentSize"];
        let clip =
            json!({ "x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1 });
        self.shot(json!({ "captureBeyondViewport": true, "clip": clip }))
            .await
    }

    /// A PNG of what the window shows.
    pub(crate) async fn window_picture(&self) -> Vec<u8> {
        self.shot(json!({})).await
    }

    async fn shot(&self, params: Value) -> Vec<u8> {
        let shot = self.tools("Page.captureScreenshot", params).await;
        let data = shot["data"].as_str().expect("a picture");
        base64::Engine::decode(&base64::engine::general_purpose::STANDARD, data).expect("base64")
    }

    /// What is wrong with the pages that were shown since the last call: errors and refusals of the browser, and requests to other hosts.
    pub(crate) async fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        for entry in self.log("browser").await {
            let message = entry["message"].as_str().unwrap_or_default();
            let is_advice = entry["level"] != "SEVERE" && entry["level"] != "WARNING";
            // Pages that refuse have such a status, and tests say which they are.
            let is_refusal = message.contains("the server responded with a status of 4");
            if !is_advice && !is_refusal {
                problems.push(message.to_owned());
            }
        }
        for entry in self.log("performance").await {
            let message = entry["message"].as_str().unwrap_or_default();
            let message: Value = serde_json::from_str(message).unwrap_or_default();
            let event = &message["message"];
            if event["method"] != "Network.requestWillBeSent" {
                continue;
            }
            let url = event["params"]["request"]["url"]
                .as_str()
                .unwrap_or_default();
            let is_own = url
                .strip_prefix(&self.origin)
                .is_some_and(|rest| rest.starts_with('/'));
            if !is_own && !url.starts_with("data:") {
                problems.push(format!("a request to {url}"));
            }
        }
        problems
    }

    async fn log(&self, kind: &str) -> Vec<Value> {
        match self.extension("se/log", json!({ "type": kind })).await {
            Value::Array(entries) => entries,
            other => panic!("no log: {other}"),
        }
    }

    /// Leaves the browser to the next test. Nothing must have been wrong with its pages.
    pub(crate) async fn finish(self) {
        let problems = self.problems().await;
        assert!(problems.is_empty(), "{problems:#?}");
        within("an empty page", self.client.goto("about:blank"))
            .await
            .expect("an empty page");
        for method in [
            "Network.clearBrowserCookies",
            "Network.clearBrowserCache",
            "Page.resetNavigationHistory",
        ] {
            self.tools(method, json!({})).await;
        }
        // What the empty page logged is not of the next test.
        self.problems().await;
        self.turn.end(self.client);
    }
}
