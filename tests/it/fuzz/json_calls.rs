//! Every request message as JSON over HTTP: random messages whose parts get other types, names and sizes.

use prost_reflect::SerializeOptions;
use serde_json::{Value, json};

use super::{
    Budget,
    calls::Caller,
    cases,
    messages::{Seen, message, methods},
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
    // Streams have another content type, and tests of their own.
    let mut methods = methods();
    methods.retain(|(_, method)| !method.is_server_streaming());
    let seen = Seen::default();
    let options = SerializeOptions::new().skip_default_fields(true);
    let mut budget = Budget::new("json calls", 12).at_most(2_000);
    while let Some(mut random) = budget.next() {
        let nth = usize::try_from(budget.cases).unwrap() % methods.len();
        let (path, method) = &methods[nth];
        let made = message(&mut random, &seen, &method.input(), 0);
        // A time that no calendar has cannot be written.
        let made = made.serialize_with_options(serde_json::value::Serializer, &options);
        let mut made = made.unwrap_or_else(|_| json!({"accountId": "acct"}));
        if !random.one_in(3) {
            damage(&mut random, &mut made);
        }
        let text = if random.one_in(8) {
            let bytes = texts::damaged(&mut random, made.to_string().into_bytes());
            String::from_utf8_lossy(&bytes).into_owned()
        } else {
            made.to_string()
        };
        let answer = post(&client, &world, &caller, path, text.clone()).await;
        if let Err(why) = check(&answer) {
            let start: String = text.chars().take(2_000).collect();
            panic!("{}: {path} {why}\n{start}", budget.place());
        }
    }
    budget.end();
    world.finish().await;
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
