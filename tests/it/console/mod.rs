//! The console: its pages as answers of HTTP, and in a real browser.

mod account;
mod actions;
mod browser;
mod crawl;
mod form_fields;
mod gate;
mod hostile;
mod invoice_files;
mod invoices;
mod lost_answers;
mod pages;
mod parameters;
mod shadow;
mod sign_in;
mod sign_off;
mod trusted_proxies;
mod usage;
mod visitors;
mod zone;

use std::{cell::RefCell, collections::BTreeMap};

use reqwest::{Client, header::HeaderMap, redirect::Policy};
use usage_client::proto::KeyRole;

use crate::{
    operations::access::{access, create, first_admin, new_key},
    support::world::{World, within},
};

/// What a page has while what it shows is not known yet.
const BEING_CHECKED: &str = "id=\"being-checked\"";

/// An answer.
#[derive(Debug)]
struct Answer {
    status: u16,
    headers: HeaderMap,
    text: String,
}

impl Answer {
    fn header(&self, name: &str) -> &str {
        let value = self.headers.get(name);
        value.map_or("", |value| value.to_str().unwrap())
    }

    /// The text between tags, with single spaces.
    fn words(&self) -> String {
        let mut text = String::new();
        let mut is_tag = false;
        for char in self.text.chars() {
            match char {
                '<' => is_tag = true,
                '>' => {
                    is_tag = false;
                    text.push(' ');
                }
                other if !is_tag => text.push(other),
                _ => {}
            }
        }
        text.split_whitespace().collect::<Vec<_>>().join(" ")
    }

    #[track_caller]
    fn assert_shows(&self, status: u16, words: &str) {
        assert_eq!(self.status, status, "{}", self.words());
        assert!(
            self.words().contains(words),
            "{words:?} is not in {}",
            self.words()
        );
    }
}

/// A browser: it keeps cookies, and follows no redirection by itself.
struct Browser {
    client: Client,
    url: String,
    cookies: RefCell<BTreeMap<String, String>>,
}

impl Browser {
    fn new(url: &str) -> Self {
        // A proxy from the environment must not be used for a server on loopback.
        let client = Client::builder().no_proxy().redirect(Policy::none());
        Self {
            client: client.build().unwrap(),
            url: url.to_owned(),
            cookies: RefCell::default(),
        }
    }

    /// The same session at another replica, as if both had the port that the browser asks.
    fn at(&self, url: &str) -> Self {
        let (own, other) = (self.cookie_name(), Self::new(url));
        let renamed = self
            .cookies
            .borrow()
            .clone()
            .into_iter()
            .map(|(name, value)| {
                let is_own = name == own;
                (if is_own { other.cookie_name() } else { name }, value)
            });
        other.cookies.borrow_mut().extend(renamed);
        other
    }

    /// The name of the cookie of a session without TLS.
    fn cookie_name(&self) -> String {
        let (_, port) = self.url.rsplit_once(':').unwrap();
        format!("usage_console_{port}")
    }

    /// A page, with what the checks find: it is loaded again while they run.
    async fn get(&self, path: &str) -> Answer {
        within("the checks", async {
            loop {
                let page = self.get_once(path).await;
                if !page.text.contains(BEING_CHECKED) {
                    return page;
                }
            }
        })
        .await
    }

    /// What a page shows at once.
    async fn get_once(&self, path: &str) -> Answer {
        self.get_with(path, &[]).await
    }

    async fn get_with(&self, path: &str, headers: &[(&str, &str)]) -> Answer {
        let request = self.client.get(format!("{}{path}", self.url));
        self.send(request, headers).await
    }

    /// Sends a form as a page of the console does.
    async fn post(&self, path: &str, fields: &[(&str, &str)]) -> Answer {
        let origin = self.url.clone();
        self.post_with(path, fields, &[("origin", &origin)]).await
    }

    async fn post_with(
        &self,
        path: &str,
        fields: &[(&str, &str)],
        headers: &[(&str, &str)],
    ) -> Answer {
        let request = self.client.post(format!("{}{path}", self.url));
        self.send(request.form(fields), headers).await
    }

    /// The beginning of an answer whose rest is read later.
    async fn begin(&self, path: &str) -> reqwest::Response {
        let request = self.client.get(format!("{}{path}", self.url));
        self.with_cookies(request).send().await.expect("an answer")
    }

    fn with_cookies(&self, request: reqwest::RequestBuilder) -> reqwest::RequestBuilder {
        let cookies = self.cookies.borrow();
        let pairs = cookies
            .iter()
            .map(|(name, value)| format!("{name}={value}"));
        let pairs: Vec<_> = pairs.collect();
        if pairs.is_empty() {
            return request;
        }
        request.header("cookie", pairs.join("; "))
    }

    async fn sign_in(&self, key: &str) -> Answer {
        self.post("/sign-in", &[("key", key)]).await
    }

    async fn send(&self, mut request: reqwest::RequestBuilder, headers: &[(&str, &str)]) -> Answer {
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = self.with_cookies(request);
        let answer = within("an answer", async {
            let answer = request.send().await.expect("an answer");
            Answer {
                status: answer.status().as_u16(),
                headers: answer.headers().clone(),
                text: answer.text().await.expect("a text"),
            }
        })
        .await;
        for cookie in answer.headers.get_all("set-cookie") {
            let pair = cookie.to_str().unwrap().split(';').next().unwrap();
            let (name, value) = pair.split_once('=').unwrap();
            let mut cookies = self.cookies.borrow_mut();
            if value.is_empty() {
                cookies.remove(name);
            } else {
                cookies.insert(name.to_owned(), value.to_owned());
            }
        }
        answer
    }
}

/// The texts of an admin's, a reader's and a writer's key.
async fn keys(world: &World) -> [String; 3] {
    let (_, admin) = first_admin(world).await;
    let mut keys = access(world, Some(&admin)).await;
    let reader = create(&mut keys, new_key("reader", KeyRole::Reader)).await;
    let writer = create(&mut keys, new_key("writer", KeyRole::Writer)).await;
    [admin, reader.text, writer.text]
}

/// The value of the hidden field of the form to sign out.
fn form_token(page: &Answer) -> String {
    let (_, rest) = page.text.split_once("name=\"token\" value=\"").unwrap();
    rest.split_once('"').unwrap().0.to_owned()
}

/// The addresses of a page's links that begin with a text.
fn links(page: &Answer, start: &str) -> Vec<String> {
    let links = page.text.split("href=\"").skip(1);
    let links = links.map(|rest| rest.split('"').next().unwrap().replace("&amp;", "&"));
    links.filter(|link| link.starts_with(start)).collect()
}
