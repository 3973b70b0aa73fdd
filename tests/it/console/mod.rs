//! The console: its pages as answers of HTTP, and in a real browser.

mod actions;
mod browser;
mod crawl;
mod form_fields;
mod gate;
mod hostile;
mod invoices;
mod pages;
mod shadow;
mod sign_in;
mod sign_off;
mod usage;
mod visitors;

use std::{cell::RefCell, collections::BTreeMap};

use reqwest::{Client, header::HeaderMap, redirect::Policy};
use usage_client::proto::KeyRole;

use crate::{
    operations::access::{access, create, first_admin, new_key},
    support::world::{World, within},
};

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

    /// The same browser at another replica.
    fn at(&self, url: &str) -> Self {
        Self {
            cookies: self.cookies.clone(),
            ..Self::new(url)
        }
    }

    async fn get(&self, path: &str) -> Answer {
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

    async fn sign_in(&self, key: &str) -> Answer {
        self.post("/sign-in", &[("key", key)]).await
    }

    async fn send(&self, mut request: reqwest::RequestBuilder, headers: &[(&str, &str)]) -> Answer {
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let cookies: Vec<_> = {
            let cookies = self.cookies.borrow();
            let pairs = cookies
                .iter()
                .map(|(name, value)| format!("{name}={value}"));
            pairs.collect()
        };
        if !cookies.is_empty() {
            request = request.header("cookie", cookies.join("; "));
        }
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
