//! Page tokens of every list: random ones, cut and changed ones, and those of other lists and filters.

use prost::Message as _;
use prost_reflect::{DynamicMessage, MethodDescriptor, Value};
use serde_json::json;
use tonic::Code;
use tonic_types::StatusExt as _;

use super::{Budget, calls::Caller, messages::methods, texts};
use crate::support::world::{World, hours_ago, on_sqlite};

on_sqlite!(a_token_is_valid_only_whole_and_in_its_own_list);

/// Lists that have a second page here.
const WITH_MORE: [&str; 6] = [
    "ListAccounts",
    "ListAuditEntries",
    "ListKeys",
    "ListReports",
    "ListRuns",
    "ListUsage",
];

/// A list: its method, and a request of its first page.
struct List {
    path: String,
    method: MethodDescriptor,
    first: DynamicMessage,
}

/// The lists of the contract.
fn lists() -> Vec<List> {
    let methods = methods().into_iter();
    let of_pages =
        methods.filter(|(_, method)| method.input().get_field_by_name("page_token").is_some());
    of_pages
        .map(|(path, method)| {
            let first = DynamicMessage::deserialize(method.input(), first_page(&path)).unwrap();
            List {
                path,
                method,
                first,
            }
        })
        .collect()
}

/// A request that is valid but for a page token, with pages of one entry.
fn first_page(path: &str) -> serde_json::Value {
    let (start, end) = (hours_ago(48).to_rfc3339(), hours_ago(0).to_rfc3339());
    match path.rsplit('/').next().unwrap() {
        "ListUsage" => json!({
            "meter": "api_calls", "period": { "start": start, "end": end }, "pageSize": 1
        }),
        "ExplainInvoice" => json!({ "accountId": "acct-0", "pageSize": 1 }),
        _ => json!({ "pageSize": 1 }),
    }
}

/// The fields of another filter of a list; none if it has no filter.
fn other_filter(path: &str) -> Option<serde_json::Value> {
    match path.rsplit('/').next().unwrap() {
        "ListKeys" => None,
        "ListAccounts" => Some(json!({ "includeCounted": true })),
        "ListUsage" => Some(json!({ "accountPrefix": "acct" })),
        "ListRuns" | "CompareShadow" => Some(json!({ "from": hours_ago(48).to_rfc3339() })),
        "ExplainInvoice" => Some(json!({ "accountId": "acct-1" })),
        _ => Some(json!({ "accountId": "acct-2" })),
    }
}

impl List {
    /// The same list with another filter, if it has one.
    fn filtered(&self) -> Option<Self> {
        let mut first = first_page(&self.path);
        let fields = other_filter(&self.path)?;
        for (name, value) in fields.as_object().unwrap() {
            first[name] = value.clone();
        }
        Some(Self {
            path: self.path.clone(),
            method: self.method.clone(),
            first: DynamicMessage::deserialize(self.method.input(), first).unwrap(),
        })
    }

    async fn page(&self, caller: &Caller, token: &str) -> Result<String, tonic::Status> {
        let mut request = self.first.clone();
        request.set_field_by_name("page_token", Value::String(token.to_owned()));
        let answer = caller.call(&self.path, request.encode_to_vec()).await?;
        let answer = DynamicMessage::decode(self.method.output(), &*answer[0]).unwrap();
        let next = answer.get_field_by_name("next_page_token").unwrap();
        Ok(next.as_str().unwrap().to_owned())
    }

    /// Asserts that a token is refused as one that is not valid.
    async fn assert_refused(&self, caller: &Caller, token: &str, why: &str) {
        let path = &self.path;
        let Err(status) = self.page(caller, token).await else {
            panic!("{path} took a token that is {why}: {token:?}")
        };
        // Outside of shadow mode there is nothing to compare.
        if status.code() == Code::FailedPrecondition && path.ends_with("/CompareShadow") {
            return;
        }
        assert_eq!(
            status.code(),
            Code::InvalidArgument,
            "{path} {why}: {status:?}"
        );
        let details = status.get_error_details();
        let fields = &details.bad_request().unwrap().field_violations;
        assert_eq!(fields[0].field, "page_token", "{path} {why}: {status:?}");
    }
}

/// Creates a second key.
async fn create_key(caller: &Caller) {
    let methods = methods();
    let mut found = methods
        .iter()
        .filter(|(path, _)| path.ends_with("/CreateKey"));
    let (path, method) = found.next().unwrap();
    let fields = json!({ "name": "second", "role": "KEY_ROLE_READER" });
    let request = DynamicMessage::deserialize(method.input(), fields).unwrap();
    let created = caller.call(path, request.encode_to_vec()).await;
    created.expect("a key");
}

async fn a_token_is_valid_only_whole_and_in_its_own_list(mut world: World) {
    world.reconfigure(&["--requests-per-sec=0"]).await;
    for nth in 0..3 {
        let account = format!("acct-{nth}");
        world
            .link_to_new_customer(&account, &format!("cus_{nth}"))
            .await;
        for hour in 2..5 {
            world.count(&account, 1 + nth, hours_ago(hour)).await;
        }
        world.report_all().await;
    }
    let caller = Caller::admin(&world).await;
    let lists = lists();
    create_key(&caller).await;
    let mut tokens = Vec::new();
    for list in &lists {
        match list.page(&caller, "").await {
            Ok(next) => tokens.push((list, next)),
            Err(status) => {
                let is_shadow = status.code() == Code::FailedPrecondition
                    && list.path.ends_with("/CompareShadow");
                assert!(is_shadow, "{}: {status:?}", list.path);
            }
        }
    }
    tokens.retain(|(_, token)| !token.is_empty());
    for name in WITH_MORE {
        let has_more = tokens.iter().any(|(list, _)| list.path.ends_with(name));
        assert!(has_more, "{name} has no second page");
    }
    for (of, token) in &tokens {
        of.page(&caller, token).await.expect("the next page");
        if let Some(filtered) = of.filtered() {
            let why = "of another filter";
            filtered.assert_refused(&caller, token, why).await;
        }
        for list in lists.iter().filter(|list| list.path != of.path) {
            list.assert_refused(&caller, token, "of another list").await;
        }
        for cut in [1, 2, token.len() / 2, token.len() - 1] {
            of.assert_refused(&caller, &token[..token.len() - cut], "cut")
                .await;
        }
        let doubled = token.repeat(2);
        of.assert_refused(&caller, &doubled, "doubled").await;
    }
    let mut budget = Budget::new("page tokens", 5)
        .at_most(600)
        .at_least(lists.len());
    while let Some(mut random) = budget.next() {
        let nth = usize::try_from(budget.cases).unwrap();
        let list = &lists[nth % lists.len()];
        let (_, token) = &tokens[nth % tokens.len()];
        let damaged = texts::damaged(&mut random, token.clone().into_bytes());
        let other = match random.below(3) {
            0 => texts::text(&mut random),
            _ => String::from_utf8_lossy(&damaged).into_owned(),
        };
        if other.is_empty() || other == *token {
            continue;
        }
        list.assert_refused(&caller, &other, &budget.place()).await;
    }
    budget.end();
    world.finish().await;
}
