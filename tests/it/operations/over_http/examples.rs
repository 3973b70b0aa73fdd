//! The examples of the documentation: each command of curl is sent, and answered as the page says.

use std::fs;

use super::send;
use crate::support::world::{World, on_sqlite};

on_sqlite!(each_example_is_answered_as_the_page_says);

/// The files with examples.
const FILES: [&str; 2] = ["server/docs/http.md", "README.md"];
const SERVER: &str = "http://127.0.0.1:8080";

/// A command of curl, and the line after it.
struct Example {
    url: String,
    headers: Vec<(String, String)>,
    data: Option<String>,
    answer: Option<String>,
}

fn examples() -> Vec<Example> {
    let mut examples = Vec::new();
    for file in FILES {
        let path = format!("{}/{file}", env!("CARGO_MANIFEST_DIR"));
        let text = fs::read_to_string(path).unwrap();
        let mut lines = text.lines().peekable();
        while let Some(line) = lines.next() {
            let Some(command) = line.strip_prefix("$ curl ") else {
                continue;
            };
            let answer = lines.peek().filter(|next| next.starts_with('{'));
            let answer = answer.map(|answer| (*answer).to_owned());
            examples.push(parsed(command, answer));
        }
    }
    examples
}

fn parsed(command: &str, answer: Option<String>) -> Example {
    let mut example = Example {
        url: String::new(),
        headers: Vec::new(),
        data: None,
        answer,
    };
    let mut words = shlex::split(command).unwrap().into_iter();
    while let Some(word) = words.next() {
        let mut value = || words.next().unwrap();
        match &*word {
            "-H" => {
                let header = value();
                let (name, value) = header.split_once(": ").unwrap();
                example.headers.push((name.to_owned(), value.to_owned()));
            }
            "-d" => example.data = Some(value()),
            "-o" => drop(value()),
            url => {
                assert!(url.starts_with(SERVER) && example.url.is_empty(), "{url}");
                url.clone_into(&mut example.url);
            }
        }
    }
    example
}

async fn each_example_is_answered_as_the_page_says(mut world: World) {
    // As the service starts without settings.
    world
        .reconfigure(&["--meters=api_calls:call", "--default-meter"])
        .await;
    let examples = examples();
    assert!(examples.len() >= 6, "{}", examples.len());
    for example in &examples {
        let url = example.url.replace(SERVER, world.http_url());
        let headers = example.headers.iter();
        let headers: Vec<(&str, &str)> = headers
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect();
        let method = if example.data.is_some() {
            "POST"
        } else {
            "GET"
        };
        let data = example.data.clone().unwrap_or_default();
        let answer = send(method, &url, &headers, data).await;
        let text = answer.text();
        let expected = example.answer.clone().unwrap_or_default();
        if expected.contains("\"code\"") {
            assert!(answer.status >= 400, "{url}: {text}");
        } else {
            assert_eq!(answer.status, 200, "{url}: {text}");
        }
        match expected.strip_suffix("...") {
            Some(beginning) => assert!(text.starts_with(beginning), "{url}: {text}"),
            None if expected.is_empty() => {}
            None => assert_eq!(text, expected, "{url}"),
        }
    }
    world.finish().await;
}
