//! Every request message as JSON over HTTP, those of streams too: each of its fields with a hostile value, and random messages
//! whose parts get other types, names and sizes.

use std::collections::BTreeSet;

use prost_reflect::SerializeOptions;
use serde_json::{Value, json};

use super::{
    Budget,
    calls::Caller,
    cases,
    messages::{Seen, Target, methods, targets},
    texts,
};
use crate::support::{
    random::Random,
    world::{World, hours_ago, on_sqlite, within},
};

on_sqlite!(hostile_json_is_answered_or_refused_by_field);

async fn hostile_json_is_answered_or_refused_by_field(mut world: World) {
    world
        .reconfigure(&["--requests-per-sec=0", "--change-wait-secs=5"])
        .await;
    world.link_to_new_customer("acct", "cus_acct").await;
    world.count("acct", 5, hours_ago(3)).await;
    let caller = Caller::admin(&world).await;
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    for case in cases::requests() {
        let answer = post(&client, &world, &caller, &case.path, case.json.to_string()).await;
        check(&answer).unwrap_or_else(|why| panic!("corpus/requests/{}: {why}", case.name));
    }
    // The watch of the health service never ends, and is not among the services over HTTP.
    let mut methods = methods();
    methods.retain(|(path, method)| !method.is_server_streaming() || path.starts_with("/usage."));
    let (targets, mut done) = (targets(&methods), BTreeSet::new());
    let seen = Seen::default();
    let mut budget = Budget::new("json calls", 10)
        .at_most(2_000)
        .at_least(targets.len());
    while let Some(mut random) = budget.next() {
        let input = usize::try_from(budget.cases).unwrap() - 1;
        let target = &targets[input % targets.len()];
        let text = text(&mut random, &seen, target, input >= targets.len());
        done.insert(&target.path);
        let checked = if target.method.is_server_streaming() {
            stream(&client, &world, &caller, &target.path, text.clone()).await
        } else {
            check(&post(&client, &world, &caller, &target.path, text.clone()).await)
        };
        if let Err(why) = checked {
            let start: String = text.chars().take(2_000).collect();
            panic!("{}: {} {why}\n{start}", budget.place(), target.path);
        }
    }
    budget.end();
    assert_eq!(done.len(), methods.len(), "methods that were not called");
    world.finish().await;
}

/// A message as JSON, perhaps with parts that are no longer of their type.
fn text(random: &mut Random, seen: &Seen, target: &Target, may_be_damaged: bool) -> String {
    let options = SerializeOptions::new().skip_default_fields(true);
    let made = target.message(random, seen);
    // A time that no calendar has cannot be written.
    let made = made.serialize_with_options(serde_json::value::Serializer, &options);
    let mut made = made.unwrap_or_else(|_| json!({"accountId": "acct"}));
    if may_be_damaged && !random.one_in(3) {
        damage(random, &mut made);
    }
    if may_be_damaged && random.one_in(8) {
        let bytes = texts::damaged(random, made.to_string().into_bytes());
        return String::from_utf8_lossy(&bytes).into_owned();
    }
    made.to_string()
}

/// Calls a method that answers a stream, and checks the first message of its answer.
async fn stream(
    client: &reqwest::Client,
    world: &World,
    caller: &Caller,
    path: &str,
    text: String,
) -> Result<(), String> {
    const PREFIX: usize = 5;
    const LAST: u8 = 2;
    let mut body = vec![0];
    body.extend(u32::try_from(text.len()).unwrap().to_be_bytes());
    body.extend(text.into_bytes());
    let request = client
        .post(format!("{}{path}", world.http_url()))
        .header("content-type", "application/connect+json")
        .bearer_auth(caller.key())
        .body(body);
    within(path, async {
        let mut answer = request.send().await.expect("an answer");
        let status = answer.status().as_u16();
        if status != 200 {
            let text = answer.text().await.expect("a text");
            return check(&(status, text));
        }
        let mut bytes: Vec<u8> = Vec::new();
        loop {
            if let Some((prefix, rest)) = bytes.split_at_checked(PREFIX) {
                let length: [u8; 4] = prefix[1..].try_into().unwrap();
                let length = usize::try_from(u32::from_be_bytes(length)).unwrap();
                if let Some(message) = rest.get(..length) {
                    return check_message(prefix[0] == LAST, message);
                }
            }
            match answer.chunk().await.expect("a part") {
                Some(chunk) => bytes.extend(chunk),
                None => return Err(format!("the stream has no message: {bytes:?}")),
            }
        }
    })
    .await
}

/// A message of a stream is JSON. The last one may have an error, which is as that of any other call.
fn check_message(is_last: bool, message: &[u8]) -> Result<(), String> {
    let text = String::from_utf8_lossy(message);
    let message: Value =
        serde_json::from_slice(message).map_err(|error| format!("{error}: {text}"))?;
    match message.get("error") {
        Some(error) if is_last => check(&(400, error.to_string())),
        _ => Ok(()),
    }
}

/// Sends a text, and returns the status and the body of the answer.
async fn post(
    client: &reqwest::Client,
    world: &World,
    caller: &Caller,
    path: &str,
    text: String,
) -> (u16, String) {
    let request = client
        .post(format!("{}{path}", world.http_url()))
        .header("content-type", "application/json")
        .bearer_auth(caller.key())
        .body(text);
    within(path, async {
        let answer = request.send().await.expect("an answer");
        let status = answer.status().as_u16();
        (status, answer.text().await.expect("a text"))
    })
    .await
}

/// An answer is JSON, is no defect of the server, and says which field is wrong or that the text is.
fn check((status, text): &(u16, String)) -> Result<(), String> {
    let body: Value =
        serde_json::from_str(text).map_err(|error| format!("{status} {error}: {text}"))?;
    if *status == 200 {
        return Ok(());
    }
    let code = body["code"].as_str().unwrap_or_default();
    if ["", "internal", "unknown", "data_loss", "unauthenticated"].contains(&code) {
        return Err(format!("{status}: {text}"));
    }
    let details = body["details"].as_array().cloned().unwrap_or_default();
    let debug = |name: &str| {
        let mut found = details.iter().filter(|one| one["type"] == name);
        found.next().map(|one| one["debug"].clone())
    };
    let fields = debug("google.rpc.BadRequest").unwrap_or_default();
    let reason = debug("google.rpc.ErrorInfo").unwrap_or_default();
    let names_field = fields["fieldViolations"][0]["field"]
        .as_str()
        .is_some_and(|field| !field.is_empty());
    let is_malformed = reason["reason"] == "MALFORMED_MESSAGE";
    if code == "invalid_argument" && !names_field && !is_malformed {
        return Err(format!("no field is named: {text}"));
    }
    Ok(())
}

/// Changes some parts of a text in JSON.
fn damage(random: &mut Random, value: &mut Value) {
    if random.one_in(4) || !(value.is_object() || value.is_array()) {
        *value = other(random);
        return;
    }
    match value {
        Value::Object(fields) => {
            if random.one_in(6) {
                fields.insert(texts::text(random), other(random));
            }
            let names: Vec<String> = fields.keys().cloned().collect();
            if let Some(name) = pick(random, &names) {
                damage(random, &mut fields[name]);
            }
        }
        Value::Array(items) => {
            let places: Vec<usize> = (0..items.len()).collect();
            if let Some(place) = pick(random, &places) {
                damage(random, &mut items[*place]);
            }
        }
        _ => {}
    }
}

fn pick<'a, T>(random: &mut Random, from: &'a [T]) -> Option<&'a T> {
    let length = i64::try_from(from.len())
        .ok()
        .filter(|length| *length > 0)?;
    from.get(usize::try_from(random.below(length)).unwrap())
}

fn other(random: &mut Random) -> Value {
    match random.below(9) {
        0 => Value::Null,
        1 => json!(random.one_in(2)),
        2 => json!(texts::number(random)),
        3 => json!(0.5),
        4 => json!(1e300),
        5 => json!([]),
        6 => json!({}),
        7 => (0..100).fold(json!(1), |inner, _| json!([inner])),
        _ => json!(texts::text(random)),
    }
}
