//! The client's crate page, step by step against a real server. Each snippet of the page is a function here; a test
//! compares the two.
#![allow(clippy::print_stdout, reason = "the page's snippets print")]

use std::{
    path::Path,
    time::{Duration, SystemTime},
};

use chrono::{TimeZone as _, Utc};
use fake_stripe::NewSubscription;
use tokio::signal::unix::{SignalKind, signal};
use usage_client::{
    Batch, Charge, Correct, Counted, Error, ExplainInvoice, FindIncrement, ForceReport, GetSummary,
    Granularity, Increment, ListReports, ListUsage, PutAccount, Reconcile, Recorder, RecorderStats,
    ReportEvent, ReportState, ResolveAction, ResolveReport, UsageClient, UsageLayer,
};

use crate::support::world::{
    TIMEOUT, World,
    billing::{BASIC, TOKENS},
    hours_ago, on_both_engines, within,
};

on_both_engines!(every_snippet_of_the_crate_page_works);

async fn every_snippet_of_the_crate_page_works(mut world: World) {
    // The recorder uses the machine's clock. The server's clock is ahead, so that the window of all its usage has
    // begun.
    world.with_prices_at(hours_ago(-2)).await;
    let subscription = NewSubscription {
        id: "sub_1MowQV".to_owned(),
        customer: "cus_NffrFeUfNV2Hib".to_owned(),
        prices: vec![BASIC.to_owned(), TOKENS.to_owned()],
        anchor: Some(hours_ago(240).timestamp()),
        ..NewSubscription::default()
    };
    let stripe = world.stripe();
    stripe
        .create_subscribed_customer("cus_NffrFeUfNV2Hib")
        .await
        .unwrap();
    stripe.create_subscription(&subscription).await.unwrap();

    let client = within("connecting", connect(&world)).await.unwrap();
    let client = client.with_timeout(TIMEOUT);
    count_one(client.clone(), "request-1").await.unwrap();
    record(client.clone()).await.unwrap();
    let spool = tempfile::tempdir().unwrap();
    record_durably(client.clone(), spool.path()).await.unwrap();
    let rows = vec![("acct_42".to_owned(), 5), ("acct_43".to_owned(), 6)];
    count_many(client.clone(), rows).await.unwrap();
    let one = Increment::new("acct_42").meter("tokens");
    assert!(!count(&client, one).await.unwrap().duplicate);
    world
        .wait_until("all of it", async || {
            world.usage_of("acct_42", "tokens").await.0 == 1_200 + 12 + 12 + 5 + 1
        })
        .await;
    let recorder = client.recorder(["api_calls"]).start().unwrap();
    let _app = billed_by_the_call(recorder);

    bill(client.clone()).await.unwrap();
    assert!(client.get_account("acct_staff").await.unwrap().is_free());
    show(client.clone()).await.unwrap();
    within("following", follow(client.clone())).await.unwrap();
    assert_eq!(
        world.stripe_total("cus_NffrFeUfNV2Hib", "llm_tokens").await,
        1_230
    );
    assert_eq!(
        world.stripe_total("cus_NffrFeUfNV2Hib", "api_calls").await,
        1
    );

    world.count("acct_42", 1_200, hours_ago(1)).await;
    correct(client.clone()).await.unwrap();
    explain(client.clone()).await.unwrap();
    assert_eq!(world.usage_of("acct_42", "api_calls").await.0, 1);
    world.finish().await;
}

#[test]
fn the_crate_page_has_no_untested_snippet() {
    let here = bare(include_str!("crate_page.rs"))
        .replace("world.endpoint()", "\"http://127.0.0.1:50051\"")
        .replace("spool(folder)", "spool(\"/var/lib/my-service/usage\")");
    let page = include_str!("../../../client/README.md");
    let snippets: Vec<&str> = page
        .split("```no_run\n")
        .skip(1)
        .map(|rest| rest.split_once("```").unwrap().0)
        .collect();
    assert!(snippets.len() >= 11, "{}", snippets.len());
    for snippet in snippets {
        let shown: Vec<&str> = snippet
            .lines()
            .filter(|line| !line.starts_with('#'))
            .collect();
        let shown = shown.join("\n");
        let mut code = shown.trim_start();
        // Its imports are at the top of this file.
        while let Some((_, rest)) = code.split_once(';').filter(|_| code.starts_with("use ")) {
            code = rest.trim_start();
        }
        assert!(here.contains(&bare(code)), "not run here:\n{code}");
    }
}

/// Code as it is whatever its format.
fn bare(code: &str) -> String {
    let code: String = code.split_whitespace().collect();
    code.replace(",)", ")").replace(",}", "}")
}

async fn connect(world: &World) -> Result<UsageClient, Error> {
    let client = UsageClient::connect(world.endpoint())
        .await?
        .with_timeout(Duration::from_secs(2));
    Ok(client)
}

async fn count_one(client: UsageClient, request_id: &str) -> Result<(), Error> {
    // One unit of the default meter.
    client.increment("acct_42").await?;

    // 1,200 tokens, counted once however often it is sent.
    let counted = client
        .increment("acct_42")
        .meter("tokens")
        .quantity(1_200)
        .key(request_id)
        .await?;
    assert_eq!(counted.key.as_deref(), Some(request_id));
    Ok(())
}

async fn record(client: UsageClient) -> Result<(), Error> {
    let recorder = client
        .recorder(["tokens"])
        .on_wrong_meters(|error| eprintln!("{error}"))
        .on_refused(|usage| eprintln!("not counted: {usage:?}"))
        .start()?;

    // In each request: returns at once, whatever the server does.
    recorder.record("acct_42", "tokens", 12);

    // At the end of the process.
    let stats = recorder.shutdown(Duration::from_secs(10)).await?;
    println!(
        "counted {}, dropped {}",
        stats.counted.units, stats.dropped.units
    );
    Ok(())
}

async fn record_durably(client: UsageClient, folder: &Path) -> Result<(), Error> {
    let recorder = client.recorder(["tokens"]).spool(folder).start()?;
    recorder.record("acct_42", "tokens", 12);
    // Where even the last second must not be lost: waits for the disk.
    recorder.persist().await?;
    Ok(())
}

/// Also run by a process of its own, which gets the signal.
pub(super) async fn run(
    recorder: Recorder,
    work: impl Future<Output = ()>,
) -> Result<RecorderStats, Box<dyn std::error::Error>> {
    let mut terminated = signal(SignalKind::terminate())?;
    tokio::select! {
        () = work => {}
        _ = terminated.recv() => {}
    }
    // Sends what the recorder still holds.
    Ok(recorder.shutdown(Duration::from_secs(10)).await?)
}

fn billed_by_the_call(recorder: Recorder) -> axum::Router {
    let per_call = UsageLayer::new(recorder, |request: &axum::extract::Request| {
        let account = request.headers().get("x-account")?.to_str().ok()?;
        Some(Charge::new(account).meter("api_calls"))
    });
    axum::Router::new()
        .route("/hello", axum::routing::get(async || "hello"))
        .layer(per_call)
}

async fn count_many(client: UsageClient, rows: Vec<(String, i64)>) -> Result<(), Error> {
    let batch: Batch = rows
        .into_iter()
        .map(|(account, tokens)| Increment::new(account).meter("tokens").quantity(tokens))
        .collect();
    let outcome = client
        .increment_batch(batch.key("tokens/2026-03-01/7"))
        .await?;
    for (place, refused) in outcome.refused() {
        eprintln!("row {place}: {refused:?}");
    }
    Ok(())
}

async fn count(client: &UsageClient, mut increment: Increment) -> Result<Counted, Error> {
    // Kept with the request, it makes another process's attempt safe too.
    let key = increment.ensure_key().map(str::to_owned);
    let counted = client.increment(increment).await;
    if let Err(error) = &counted
        && error.may_have_taken_effect()
    {
        eprintln!("may have been counted, see key {key:?}: {error}");
    }
    counted
}

async fn bill(client: UsageClient) -> Result<(), Error> {
    client
        .put_account(PutAccount::stripe("acct_42", "cus_NffrFeUfNV2Hib").subscription("sub_1MowQV"))
        .await?;
    client.put_account(PutAccount::free("acct_staff")).await?;
    Ok(())
}

async fn show(client: UsageClient) -> Result<(), Error> {
    // All meters, in the current billing period.
    let usage = client.get("acct_42").await?;
    if let Some(tokens) = usage.meter("tokens") {
        println!("{} {}", tokens.quantities.total, tokens.unit);
    }

    // One meter, a point a day, for a chart.
    let start = Utc.with_ymd_and_hms(2026, 2, 28, 23, 0, 0).unwrap();
    let end = Utc.with_ymd_and_hms(2026, 3, 7, 23, 0, 0).unwrap();
    let week = client
        .get("acct_42")
        .meter("tokens")
        .period(start, end)
        .granularity(Granularity::Day)
        .time_zone("Europe/Vienna")
        .await?;
    for point in week.meters.iter().flat_map(|meter| &meter.points) {
        println!("{} {}", point.period.start, point.quantities.total);
    }

    // The last 7 days: a start or end inside a slot is moved outward, and the answer has the period that was used.
    let (now, days) = (SystemTime::now(), Duration::from_hours(7 * 24));
    let last = client
        .get("acct_42")
        .period(now - days, now)
        .round_outward()
        .await?;
    println!("{} to {}", last.period.start, last.period.end);

    // All accounts: those with the most usage of a meter, and what all have together.
    let most = client
        .list_usage(ListUsage::of("tokens", start, end).page_size(10))
        .await?;
    for usage in most.usage {
        println!("{} {}", usage.account_id, usage.quantity);
    }
    let all = client.get_summary(GetSummary::of(start, end)).await?;
    println!("{} accounts", all.accounts);
    for meter in all.meters {
        println!(
            "{} {} of {} accounts",
            meter.meter, meter.quantities.total, meter.accounts
        );
    }
    Ok(())
}

async fn follow(client: UsageClient) -> Result<(), Error> {
    let preview = client.force_report(ForceReport::all().dry_run()).await?;
    println!("would send {:?}", preview.summary().await?.accepted);

    let mut run = client
        .force_report(ForceReport::accounts(["acct_42"]))
        .await?;
    while let Some(event) = run.next().await? {
        match event {
            ReportEvent::Progress(progress) => println!("{} of {}", progress.done, progress.closed),
            ReportEvent::Summary(summary) => println!("Stripe has {:?}", summary.accepted),
            _ => {}
        }
    }

    let stuck = ListReports::new().states([ReportState::Rejected, ReportState::CustomerDeleted]);
    for report in client.list_all_reports(stuck, 10_000).await?.reports {
        println!(
            "{} {} {:?}",
            report.account_id, report.quantity, report.last_error
        );
    }
    Ok(())
}

async fn correct(client: UsageClient) -> Result<(), Error> {
    let refund =
        Correct::new("acct_42", -1_200, "counted twice by a faulty worker").requested_by("ann");
    println!("entered {}", client.correct(refund).await?.report.id);

    let refused = ListReports::new().states([ReportState::Rejected]);
    for report in client.list_reports(refused).await?.reports {
        let again = ResolveReport::new(
            &report.account_id,
            &report.id,
            ResolveAction::Retry,
            "the meter is fixed",
        );
        client.resolve_report(again).await?;
    }

    for row in client
        .reconcile(Reconcile::new().account("acct_42"))
        .await?
        .rows
    {
        println!("{} {} {:?}", row.counted, row.reported, row.stripe_total);
        for invoiced in row.invoices {
            println!("{:?}: {:?} invoiced", invoiced.finding, invoiced.invoiced);
        }
    }
    Ok(())
}

async fn explain(client: UsageClient) -> Result<(), Error> {
    let call = FindIncrement::new("acct_42", "request-1");
    let found = client.find_increment(call).await?;
    if let Some(report) = &found.report {
        println!(
            "{} is in {}, {}",
            found.increment.quantity, report.identifier, report.state
        );
    }

    let current = ExplainInvoice::of_account("acct_42");
    for line in client.explain_whole_invoice(current, 10_000).await?.lines {
        println!("{} {} {:?}", line.meter, line.reported, line.invoiced);
        for part in line
            .reports
            .iter()
            .filter(|part| part.without_key != Some(0))
        {
            println!(
                "{} has {:?} without a key",
                part.report.id, part.without_key
            );
        }
    }
    Ok(())
}
