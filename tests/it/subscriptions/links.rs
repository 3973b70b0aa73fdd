//! Accounts: the customer that usage is billed to, from what time, and the effect of changes.

use chrono::{DateTime, TimeDelta, Utc};
use usage_client::{
    Error, ErrorKind, Increment, ListAccounts, ListReports, Period, PutAccount, Reason,
    ReportState,
    proto::{self, account_service_client::AccountServiceClient},
};

use crate::support::world::{World, at, hours_ago, on_both_engines};

on_both_engines!(
    an_account_has_the_values_of_the_last_put,
    an_identical_put_changes_nothing,
    an_unknown_account_is_not_found,
    an_account_changed_meanwhile_is_not_overwritten,
    a_customer_belongs_to_one_account_at_a_time,
    a_link_bills_from_its_stated_time,
    a_late_link_says_which_usage_it_does_not_bill,
    an_account_outside_its_limits_is_refused_with_its_field,
    accounts_are_listed_page_by_page_in_the_order_of_their_ids,
    a_damaged_page_token_is_refused,
    a_page_token_of_another_listing_is_refused,
);

pub(crate) async fn put(world: &World, account: PutAccount) -> usage_client::Account {
    world.client().put_account(account).await.unwrap().account
}

async fn an_account_has_the_values_of_the_last_put(mut world: World) {
    let clock = world.set_time("2026-06-20T12:00:00.123Z").await;
    let now = at("2026-06-20T12:00:00.123Z");
    let (start, end) = (now - TimeDelta::days(10), now + TimeDelta::days(20));
    let subscription = world.customer_with_ended_subscription("cus_a").await;
    let stripe = PutAccount::stripe("acct", "cus_a")
        .subscription(&subscription)
        .current_period(start, end);
    let linked = put(&world, stripe).await;
    assert_eq!(linked.account_id, "acct");
    assert_eq!((linked.valid_from, linked.updated_at), (start, now));
    let billing = linked.stripe().unwrap();
    assert_eq!(billing.customer, "cus_a");
    assert_eq!(billing.subscription, Some(subscription));
    assert_eq!(billing.current_period, Some(Period::new(start, end)));
    assert_eq!(billing.bill_from, Some(start));
    assert_eq!(world.client().get_account("acct").await.unwrap(), linked);

    clock.set(clock.now() + 1);
    let free = put(&world, PutAccount::free("acct")).await;
    assert!(free.is_free());
    assert_ne!(free.etag, linked.etag);
    let later = now + TimeDelta::milliseconds(1);
    assert_eq!((free.valid_from, free.updated_at), (later, later));
    world.restart().await;
    assert_eq!(world.client().get_account("acct").await.unwrap(), free);
    world.finish().await;
}

async fn an_identical_put_changes_nothing(mut world: World) {
    let clock = world.set_time("2026-06-20T12:00:00Z").await;
    let now = at("2026-06-20T12:00:00Z");
    let subscription = world.customer_with_ended_subscription("cus_a").await;
    world.create_customers(&["cus_b"]).await;
    let stripe = PutAccount::stripe("acct", "cus_a")
        .subscription(subscription)
        .current_period(now - TimeDelta::days(1), now + TimeDelta::days(29))
        .bill_from(now - TimeDelta::days(2));
    for account in [
        stripe,
        PutAccount::free("acct"),
        PutAccount::stripe("acct", "cus_b"),
    ] {
        clock.set(clock.now() + 1_000);
        let first = put(&world, account.clone()).await;
        clock.set(clock.now() + 1_000);
        assert_eq!(put(&world, account.clone()).await, first);
        let guarded = account.etag(&first.etag);
        assert_eq!(put(&world, guarded).await, first);
    }
    world.finish().await;
}

async fn an_unknown_account_is_not_found(world: World) {
    world.client().increment("acct").await.unwrap();
    let error = world.client().get_account("acct").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert_eq!(error.reason(), Some(&Reason::AccountNotFound));
    assert!(error.to_string().contains("\"acct\""));
    let page = world.client().list_accounts(ListAccounts::new()).await;
    assert_eq!(page.unwrap().accounts, []);
    world.finish().await;
}

async fn an_account_changed_meanwhile_is_not_overwritten(world: World) {
    world.create_customers(&["cus_a", "cus_b", "cus_c"]).await;
    let free = || PutAccount::free("acct");
    let mismatch = |error: Error| {
        assert_eq!(error.kind(), ErrorKind::EtagMismatch);
        assert_eq!(error.status().unwrap().code(), tonic::Code::Aborted);
    };
    let unknown = world.client().put_account(free().etag("1")).await;
    mismatch(unknown.unwrap_err());
    let first = put(&world, PutAccount::stripe("acct", "cus_a")).await;
    let second = put(
        &world,
        PutAccount::stripe("acct", "cus_b").etag(&first.etag),
    )
    .await;
    // Even if it would change nothing.
    for stale in [
        free().etag(&first.etag),
        PutAccount::stripe("acct", "cus_b").etag(&first.etag),
    ] {
        mismatch(world.client().put_account(stale).await.unwrap_err());
    }
    assert_eq!(world.client().get_account("acct").await.unwrap(), second);
    // A moved period is a change too.
    let moved = PutAccount::stripe("acct", "cus_b").current_period(hours_ago(9), hours_ago(-9));
    let third = put(&world, moved).await;
    assert_ne!(third.etag, second.etag);
    // Of two callers with the same etag, one succeeds.
    let (client, other) = (world.client(), world.client());
    let (left, right) = tokio::join!(
        client.put_account(free().etag(&third.etag)),
        other.put_account(PutAccount::stripe("acct", "cus_c").etag(&third.etag))
    );
    assert_ne!(left.is_ok(), right.is_ok());
    mismatch(left.and(right).unwrap_err());
    world.finish().await;
}

async fn a_customer_belongs_to_one_account_at_a_time(world: World) {
    let taken = |error: Error| {
        assert_eq!(error.kind(), ErrorKind::CustomerTaken);
        assert_eq!(error.reason(), Some(&Reason::CustomerTaken));
        assert!(error.to_string().contains("\"cus_a\""));
    };
    world.create_customers(&["cus_a", "cus_b"]).await;
    put(&world, PutAccount::stripe("acct", "cus_a")).await;
    let other = || PutAccount::stripe("other", "cus_a");
    taken(world.client().put_account(other()).await.unwrap_err());
    let missing = world.client().get_account("other").await.unwrap_err();
    assert_eq!(
        missing.kind(),
        ErrorKind::NotFound,
        "a refused put left a trace"
    );
    // Its account releases it by a link to another customer or by becoming free.
    put(&world, PutAccount::stripe("acct", "cus_b")).await;
    put(&world, other()).await;
    let again = PutAccount::stripe("acct", "cus_a");
    taken(world.client().put_account(again.clone()).await.unwrap_err());
    put(&world, PutAccount::free("other")).await;
    put(&world, again).await;
    // Of two concurrent requests, one succeeds.
    put(&world, PutAccount::free("acct")).await;
    let (client, same) = (world.client(), world.client());
    let (left, right) = tokio::join!(
        client.put_account(PutAccount::stripe("acct", "cus_a")),
        same.put_account(other())
    );
    assert_ne!(left.is_ok(), right.is_ok());
    taken(left.and(right).unwrap_err());
    world.finish().await;
}

async fn a_link_bills_from_its_stated_time(mut world: World) {
    let clock = world.set_time("2026-06-20T12:00:00Z").await;
    let now = at("2026-06-20T12:00:00Z");
    let day = TimeDelta::days(1);
    world
        .create_customers(&["cus_a", "cus_b", "cus_c", "cus_d"])
        .await;
    // From now, from the start of its period, and from `bill_from`.
    let bare = put(&world, PutAccount::stripe("a", "cus_a")).await;
    assert_eq!(bare.valid_from, now);
    let with_period = PutAccount::stripe("b", "cus_b").current_period(now - day, now + day);
    assert_eq!(put(&world, with_period.clone()).await.valid_from, now - day);
    let from = with_period.bill_from(now - day * 2);
    assert_eq!(put(&world, from).await.valid_from, now - day * 2);
    // Never from the future, nor from time that is billed to another customer.
    let refused = async |account: PutAccount, named: DateTime<Utc>| {
        let error = world.client().put_account(account).await.unwrap_err();
        assert_eq!(error.reason(), Some(&Reason::InvalidField));
        assert_eq!(error.violations()[0].field, "stripe.bill_from");
        let named = named.to_rfc3339_opts(chrono::SecondsFormat::AutoSi, true);
        assert!(error.to_string().contains(&named), "{error}");
    };
    let ahead = now + TimeDelta::milliseconds(1);
    refused(PutAccount::stripe("c", "cus_c").bill_from(ahead), ahead).await;
    clock.set((now + day).timestamp_millis());
    refused(PutAccount::stripe("b", "cus_d").bill_from(now), now).await;
    let other = PutAccount::stripe("b", "cus_d").current_period(now, now + day * 9);
    assert_eq!(put(&world, other).await.valid_from, now + day);
    world.finish().await;
}

async fn an_account_outside_its_limits_is_refused_with_its_field(world: World) {
    let longest = format!("cus_{}", "x".repeat(251));
    world.create_customers(&[&longest, "cus_b"]).await;
    put(&world, PutAccount::stripe("acct", &longest)).await;
    let stripe = |customer: &str| PutAccount::stripe("acct", customer);
    let (start, end) = (hours_ago(2), hours_ago(1));
    for (wrong, field) in [
        (PutAccount::free("a b"), "account_id"),
        (PutAccount::free(""), "account_id"),
        (stripe(""), "stripe.customer"),
        (stripe(&format!("{longest}x")), "stripe.customer"),
        (stripe("cus a"), "stripe.customer"),
        (stripe("cus_ä"), "stripe.customer"),
        (
            stripe("cus_b").subscription("s".repeat(256)),
            "stripe.subscription",
        ),
        (
            stripe("cus_b").current_period(end, start),
            "stripe.current_period",
        ),
        (
            stripe("cus_b").current_period(start, start),
            "stripe.current_period",
        ),
    ] {
        let error = world.client().put_account(wrong).await.unwrap_err();
        assert_eq!(error.reason(), Some(&Reason::InvalidField));
        assert_eq!(error.violations()[0].field, field, "{error}");
    }
    let mut accounts = AccountServiceClient::new(world.grpc_channel().await);
    let nothing = proto::PutAccountRequest {
        account_id: "acct".to_owned(),
        ..Default::default()
    };
    let error: Error = accounts.put_account(nothing).await.unwrap_err().into();
    assert_eq!(error.violations()[0].field, "billing");
    let negative = proto::ListAccountsRequest {
        page_size: -1,
        ..Default::default()
    };
    let error: Error = accounts.list_accounts(negative).await.unwrap_err().into();
    assert_eq!(error.violations()[0].field, "page_size");
    world.finish().await;
}

/// Five accounts, not put in the order of their ids.
async fn five_accounts(world: &World) -> Vec<String> {
    for account in ["b", "a.2", "c", "a", "a.1"] {
        put(world, PutAccount::free(account)).await;
    }
    world.create_customers(&["cus_b"]).await;
    put(world, PutAccount::stripe("b", "cus_b")).await;
    ["a", "a.1", "a.2", "b", "c"].map(str::to_owned).to_vec()
}

async fn accounts_are_listed_page_by_page_in_the_order_of_their_ids(world: World) {
    let all = five_accounts(&world).await;
    for page_size in [0, 1, 2, 5, 6, 1_000, u32::MAX] {
        let mut listed = Vec::new();
        let mut pages = ListAccounts::new().page_size(page_size);
        loop {
            let page = world.client().list_accounts(pages.clone()).await.unwrap();
            assert!(page_size == 0 || page.accounts.len() <= usize::try_from(page_size).unwrap());
            listed.extend(page.accounts);
            match page.next_page_token {
                Some(token) => pages = pages.page_token(token),
                None => break,
            }
        }
        let ids: Vec<&String> = listed.iter().map(|account| &account.account_id).collect();
        assert_eq!(ids, all.iter().collect::<Vec<_>>(), "{page_size} a page");
        let linked = &listed[3];
        assert_eq!(linked, &world.client().get_account("b").await.unwrap());
    }
    world.finish().await;
}

fn assert_token_refused(error: &Error) {
    assert_eq!(error.reason(), Some(&Reason::PageTokenInvalid), "{error}");
    assert_eq!(error.violations()[0].field, "page_token");
}

async fn a_damaged_page_token_is_refused(world: World) {
    five_accounts(&world).await;
    let one = ListAccounts::new().page_size(1);
    let page = world.client().list_accounts(one.clone()).await.unwrap();
    let accounts_token = page.next_page_token.unwrap();
    let timestamps = [hours_ago(1), hours_ago(2)];
    let usage = timestamps.map(|time| Increment::new("a").timestamp(time));
    world
        .client()
        .increment_batch(usage.to_vec())
        .await
        .unwrap();
    let one_report = ListReports::new().page_size(1);
    let page = world
        .client()
        .list_reports(one_report.clone())
        .await
        .unwrap();
    let reports_token = page.next_page_token.unwrap();

    for (token, is_of_accounts) in [(accounts_token, true), (reports_token, false)] {
        let other_digit = |digit: &str| if digit == "0" { "1" } else { "0" };
        let changed = (0..token.len()).map(|place| {
            let mut token = token.clone();
            let digit = other_digit(&token[place..=place]);
            token.replace_range(place..=place, digit);
            token
        });
        let cut = (1..token.len()).map(|len| token[..len].to_owned());
        let other = [
            format!("{token}61"),
            format!("{token} "),
            format!("ä{token}"),
            "next".to_owned(),
        ];
        for damaged in changed.chain(cut).chain(other) {
            let client = world.client();
            let error = if is_of_accounts {
                let page = one.clone().page_token(&damaged);
                client.list_accounts(page).await.map(|_| ()).unwrap_err()
            } else {
                let page = one_report.clone().page_token(&damaged);
                client.list_reports(page).await.map(|_| ()).unwrap_err()
            };
            assert_token_refused(&error);
        }
    }
    world.finish().await;
}

async fn a_page_token_of_another_listing_is_refused(world: World) {
    five_accounts(&world).await;
    let one = ListAccounts::new().page_size(1);
    let accounts = world.client().list_accounts(one.clone()).await.unwrap();
    let usage = [hours_ago(1), hours_ago(2), hours_ago(3)];
    let usage = usage.map(|time| Increment::new("a").timestamp(time));
    world
        .client()
        .increment_batch(usage.to_vec())
        .await
        .unwrap();
    let of_a = ListReports::new().account("a").page_size(1);
    let reports = world.client().list_reports(of_a.clone()).await.unwrap();
    let (accounts, reports) = (
        accounts.next_page_token.unwrap(),
        reports.next_page_token.unwrap(),
    );
    let open = [ReportState::Open];
    for other in [
        of_a.clone().page_token(&accounts),
        ListReports::new().page_token(&reports),
        ListReports::new().account("b").page_token(&reports),
        of_a.clone().states(open).page_token(&reports),
    ] {
        assert_token_refused(&world.client().list_reports(other).await.unwrap_err());
    }
    let foreign = one.clone().page_token(&reports);
    assert_token_refused(&world.client().list_accounts(foreign).await.unwrap_err());
    // The page size is not part of the filter.
    let rest = of_a.page_size(9).page_token(&reports);
    let rest = world.client().list_reports(rest).await.unwrap();
    assert_eq!(rest.reports.len(), 2);
    world.finish().await;
}

async fn a_late_link_says_which_usage_it_does_not_bill(world: World) {
    let client = world.client();
    let answer = async |put: PutAccount| {
        let done = client.put_account(put).await.unwrap();
        let usage = done.not_billed.into_iter();
        usage
            .map(|usage| (usage.meter, usage.quantity))
            .collect::<Vec<_>>()
    };
    let units = |units: &[(&str, i64)]| {
        let units = units.iter();
        units
            .map(|(meter, quantity)| ((*meter).to_owned(), *quantity))
            .collect::<Vec<_>>()
    };
    world.count("acct", 3, hours_ago(9)).await;
    world.count_of("acct", "tokens", 7, hours_ago(5)).await;
    world.report_all().await;
    world.count("acct", 5, hours_ago(3)).await;
    world.count("other", 11, hours_ago(3)).await;
    world
        .stripe()
        .create_subscribed_customer("cus_acct")
        .await
        .unwrap();
    // Without a time, the subscription's period would decide.
    let (hour_ago, earlier) = (hours_ago(1), hours_ago(6));
    let link = || PutAccount::stripe("acct", "cus_acct").bill_from(hour_ago);
    let all = units(&[("api_calls", 8), ("tokens", 7)]);

    // Asked first, it changes nothing.
    assert_eq!(answer(link().validate_only()).await, all);
    let missing = client.get_account("acct").await.unwrap_err();
    assert_eq!(missing.reason(), Some(&Reason::AccountNotFound));
    assert_eq!(world.usage("acct").await, (8, 0, 8, 0));
    let preview = client.put_account(link().bill_from(earlier).validate_only());
    let preview = preview.await.unwrap();
    assert_eq!(preview.account.valid_from, earlier);
    assert_eq!(preview.not_billed[0].quantity, 3);

    assert_eq!(answer(link()).await, all);
    assert_eq!(answer(link()).await, all, "the answer may have been lost");
    assert_eq!(world.usage("acct").await.1, 0);
    // An earlier time bills it after all.
    assert_eq!(
        answer(link().bill_from(earlier)).await,
        units(&[("api_calls", 3)])
    );
    world.report_all().await;
    assert_eq!(world.usage("acct").await, (8, 5, 0, 3));
    assert_eq!(answer(PutAccount::free("acct")).await, []);
    assert_eq!(
        answer(PutAccount::free("other")).await,
        units(&[("api_calls", 11)])
    );
    assert_eq!(answer(PutAccount::free("unused")).await, []);
    world.finish().await;
}
