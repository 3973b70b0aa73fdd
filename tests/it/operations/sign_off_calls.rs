//! `GetSignOff` and `ExportSignOff`: the bytes of `usage-server export sign-off` over the wire, and what they refuse.

use chrono::TimeDelta;
use usage_client::{
    Error, ErrorKind, ExportSignOff, PutAccount, Reason, SignOffFile, UsageClient,
    proto::{KeyRole, SignOffFormat},
};

use super::{
    access::{access, client, create, first_admin, limited_key, new_key},
    sign_off::{EXPORTED, MARCH, NOW, use_hostile_accounts},
};
use crate::support::world::{Engine, World, at, on_both_engines, within};

on_both_engines!(
    a_closed_month_has_the_bytes_of_the_command_each_time,
    a_file_of_many_parts_is_that_of_the_command,
    an_open_month_is_refused_with_its_reasons_unless_it_is_asked_for,
    a_month_that_changes_while_it_is_sent_ends_with_an_error,
    callers_that_read_nothing_delay_no_other,
    a_lost_report_is_a_reason,
    wrong_months_and_formats_are_refused,
    only_keys_without_limits_may_read_a_month,
);

/// All bytes of a file, and its end.
async fn read(client: &UsageClient, wanted: ExportSignOff) -> Result<(String, SignOffFile), Error> {
    within("a file", async {
        let mut export = client.export_sign_off(wanted).await?;
        let mut all = Vec::new();
        while let Some(bytes) = export.next().await? {
            assert!(bytes.len() <= 64 * 1024, "a part of {}", bytes.len());
            all.extend(bytes);
        }
        let text = String::from_utf8(all).expect("text");
        Ok((text, export.file().expect("an end").clone()))
    })
    .await
}

/// What the command prints, in a format.
async fn of_command(world: &World, format: &str, flags: &[&str]) -> String {
    let format = format!("--format={format}");
    let args = MARCH.into_iter().chain([format.as_str()]);
    let args: Vec<&str> = args.chain(flags.iter().copied()).collect();
    world.export_at(world.now(), &args).await.unwrap().0
}

/// Serves what [`use_hostile_accounts`] left, without a key of Stripe: nothing becomes of the reports.
async fn serve_hostile_accounts(world: &mut World) {
    use_hostile_accounts(world).await;
    world.reconfigure(&["--stripe-secret-key"]).await;
}

async fn a_closed_month_has_the_bytes_of_the_command_each_time(mut world: World) {
    serve_hostile_accounts(&mut world).await;
    let client = world.client();
    let shown = client.sign_off("2027-03").await.unwrap();
    assert!(shown.closed && shown.reasons.is_empty(), "{shown:?}");
    let meters: Vec<&str> = shown.meters.iter().map(|one| one.meter.as_str()).collect();
    assert_eq!(meters, ["api_calls", "tokens"]);
    assert_eq!(shown.period.start, at("2027-03-01T00:00:00Z"));
    assert_eq!(shown.period.end, at("2027-04-01T00:00:00Z"));
    // The last row of the file.
    let total = &shown.total;
    assert_eq!((total.reports, total.decisions), (13, 1));
    assert_eq!(
        [total.counted, total.already_sent, total.corrected],
        [1_000_000_001_966, 64, 70]
    );
    assert_eq!(
        [total.not_billable, total.written_off, total.reported],
        [1_032, 32, 1_000_000_001_036]
    );
    assert_eq!(
        [total.confirmed, total.invoiced, total.acknowledged],
        [1_000_000_001_036, 1_000_000_000_778, 258]
    );
    let rest = [
        total.difference,
        total.open,
        total.to_send,
        total.no_customer,
        total.needs_decision,
    ];
    assert_eq!(rest, [0; 5]);
    for _ in 0..2 {
        let (csv, file) = read(&client, ExportSignOff::csv("2027-03")).await.unwrap();
        assert_eq!(csv, EXPORTED);
        assert_eq!(file, shown.csv);
        assert_eq!(csv, of_command(&world, "csv", &[]).await);
        let wanted = ExportSignOff::json_lines("2027-03");
        let (lines, file) = read(&client, wanted).await.unwrap();
        assert_eq!(lines, of_command(&world, "jsonl", &[]).await);
        assert_eq!(file, shown.json_lines);
        assert_eq!(file.rows, 11);
    }
    // As it is, it is the same.
    let open = ExportSignOff::csv("2027-03").open();
    assert_eq!(read(&client, open).await.unwrap().0, EXPORTED);
    world.finish().await;
}

/// Usage of free accounts in March, which is final once it is closed.
async fn use_free_accounts(world: &World, accounts: usize) {
    let client = world.client();
    let march = at(NOW) - TimeDelta::days(10);
    for number in 0..accounts {
        let name = format!("free-{number:03}-{}", "x".repeat(100));
        client.put_account(PutAccount::free(&name)).await.unwrap();
        world.count(&name, 5, march).await;
    }
    world.report_all().await;
}

async fn a_file_of_many_parts_is_that_of_the_command(mut world: World) {
    world.freeze(at(NOW)).await;
    // More than one page of accounts, and more than one part.
    use_free_accounts(&world, 230).await;
    let client = world.client();
    let wanted = ExportSignOff::json_lines("2027-03");
    let mut export = client.export_sign_off(wanted).await.unwrap();
    let (mut all, mut parts) = (Vec::new(), 0);
    while let Some(bytes) = within("a part", export.next()).await.unwrap() {
        all.extend(bytes);
        parts += 1;
    }
    assert!(parts > 1, "{parts}");
    let text = String::from_utf8(all).unwrap();
    assert_eq!(text, of_command(&world, "jsonl", &[]).await);
    assert_eq!(export.file().unwrap().rows, 232);
    // Whoever leaves after a part gives the turn back: two may run.
    for _ in 0..3 {
        let wanted = ExportSignOff::csv("2027-03");
        let mut left = client.export_sign_off(wanted).await.unwrap();
        within("a part", left.next()).await.unwrap().unwrap();
    }
    let (csv, _) = read(&client, ExportSignOff::csv("2027-03")).await.unwrap();
    assert_eq!(csv, of_command(&world, "csv", &[]).await);
    world.finish().await;
}

async fn an_open_month_is_refused_with_its_reasons_unless_it_is_asked_for(mut world: World) {
    world.freeze(at(NOW)).await;
    world.count("acct", 5, at(NOW) - TimeDelta::days(10)).await;
    world.count("acct", 7, at(NOW)).await;
    let client = world.client();
    for (month, reasons) in [
        ("2027-03", &["5 still open (first: account acct"][..]),
        (
            "2027-04",
            &["month 2027-04 is not over", "7 still open (first: account"],
        ),
        ("2027-05", &["month 2027-05 is not over"]),
    ] {
        let shown = client.sign_off(month).await.unwrap();
        assert!(!shown.closed);
        assert_eq!(shown.reasons.len(), reasons.len(), "{shown:?}");
        for (found, part) in shown.reasons.iter().zip(reasons) {
            assert!(found.contains(part), "{part}: {found}");
        }
        let refused = read(&client, ExportSignOff::csv(month)).await.unwrap_err();
        assert_eq!(refused.reason(), Some(&Reason::MonthNotClosed), "{refused}");
        assert_eq!(refused.kind(), ErrorKind::Precondition);
        let text = refused.to_string();
        assert!(text.contains(&shown.reasons[0]), "{text}");
        assert!(text.contains("set open to export it as it is"), "{text}");
    }
    let open = ExportSignOff::csv("2027-03").open();
    let (csv, _) = read(&client, open).await.unwrap();
    assert_eq!(csv, of_command(&world, "csv", &["--open"]).await);
    assert!(csv.contains(",false,"), "{csv}");
    world.finish().await;
}

/// Folded usage in March: a page of accounts whose rows have more bytes than a connection holds unread, and one account after it.
pub(super) async fn use_large_rows(world: &World) {
    const ACCOUNTS: i64 = 100;
    const METERS: i64 = 90;
    let id = match world.engine {
        Engine::Sqlite => "randomblob(16)",
        Engine::Postgres => "gen_random_uuid()",
    };
    let start = at("2027-03-20T05:00:00Z").timestamp_millis();
    let (end, name) = (start + 3_600_000, "x".repeat(100));
    let rows = format!(
        "INSERT INTO folded_reports (account_id, window_start, id, meter, window_end, state, quantity, reports, \
         first_at, last_at, archive) \
         WITH RECURSIVE accounts (one) AS (SELECT 1 UNION ALL SELECT one + 1 FROM accounts WHERE one < {ACCOUNTS}), \
         meters (other) AS (SELECT 1 UNION ALL SELECT other + 1 FROM meters WHERE other < {METERS}) \
         SELECT 'a' || CAST(one AS text) || '{name}', {start}, {id}, 'm' || CAST(other AS text), {end}, 'not_billable', \
         1, 1, {start}, {start}, 1 FROM accounts CROSS JOIN meters"
    );
    world.execute_sql(&rows).await;
    let sum = ACCOUNTS * METERS;
    let commit = format!("INSERT INTO commits VALUES ({id}, {sum}, {sum}, {start})");
    world.execute_sql(&commit).await;
    let march = at("2027-03-20T05:00:00Z");
    world.insert_folded("z", "api_calls", 77, march).await;
}

async fn a_month_that_changes_while_it_is_sent_ends_with_an_error(mut world: World) {
    world.freeze(at(NOW)).await;
    // The last account is read after the first part.
    use_large_rows(&world).await;
    let client = world.client();
    let wanted = ExportSignOff::json_lines("2027-03");
    let mut export = client.export_sign_off(wanted).await.unwrap();
    within("a part", export.next()).await.unwrap().unwrap();
    let changed = "UPDATE folded_reports SET quantity = quantity + 1 WHERE account_id = 'z'";
    world.execute_sql(changed).await;
    let commits = "UPDATE commits SET quantity = quantity + 1 WHERE quantity = 77";
    world.execute_sql(commits).await;
    let ended = within("the end", async {
        loop {
            match export.next().await {
                Ok(Some(_)) => {}
                other => return other,
            }
        }
    });
    let error = ended.await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert!(error.to_string().contains("not complete"), "{error}");
    assert!(export.file().is_none());
    world.finish().await;
}

async fn callers_that_read_nothing_delay_no_other(mut world: World) {
    world.freeze(at(NOW)).await;
    use_large_rows(&world).await;
    // What is unread on a connection holds up its other answers.
    let other = UsageClient::connect_lazy(world.endpoint()).unwrap();
    let mut unread = Vec::new();
    for _ in 0..3 {
        let wanted = ExportSignOff::json_lines("2027-03");
        unread.push(other.export_sign_off(wanted).await.unwrap());
    }
    let client = world.client();
    // A part may wait for its reader for longer than this does.
    let shown = within("a sign-off", client.sign_off("2027-03")).await;
    assert!(shown.unwrap().closed);
    let wanted = ExportSignOff::csv("2027-03");
    within("an export", read(&client, wanted)).await.unwrap();
    drop(unread);
    world.finish().await;
}

async fn a_lost_report_is_a_reason(mut world: World) {
    serve_hostile_accounts(&mut world).await;
    let lost = "DELETE FROM usage_reports WHERE quantity = 512";
    world.execute_sql(lost).await;
    let client = world.client();
    let shown = client.sign_off("2027-03").await.unwrap();
    assert!(!shown.closed);
    assert!(shown.reasons[0].contains("the ledger check"), "{shown:?}");
    let refused = read(&client, ExportSignOff::csv("2027-03"))
        .await
        .unwrap_err();
    assert_eq!(refused.reason(), Some(&Reason::MonthNotClosed), "{refused}");
    assert!(
        refused.to_string().contains("the ledger check"),
        "{refused}"
    );
    let forgotten = "UPDATE commits SET quantity = 0 WHERE quantity = 512";
    world.execute_sql(forgotten).await;
    assert!(client.sign_off("2027-03").await.unwrap().closed);
    world.finish().await;
}

async fn wrong_months_and_formats_are_refused(world: World) {
    let client = world.client();
    for month in [
        "",
        "all",
        "2027-3",
        "2027-13",
        "+027-03",
        "2027-03-01",
        "\u{202e}",
    ] {
        let refused = client.sign_off(month).await.unwrap_err();
        assert_eq!(refused.violations()[0].field, "month", "{refused}");
        assert!(refused.to_string().contains("such as 2026-10"), "{refused}");
        let refused = read(&client, ExportSignOff::csv(month)).await.unwrap_err();
        assert_eq!(refused.violations()[0].field, "month", "{refused}");
    }
    // A month of a thousand years ago is one.
    assert!(client.sign_off("1027-03").await.unwrap().closed);
    let mut raw = usage_client::proto::operations_service_client::OperationsServiceClient::new(
        world.grpc_channel().await,
    );
    for format in [SignOffFormat::Unspecified.into(), 9] {
        let request = usage_client::proto::ExportSignOffRequest {
            month: "2027-03".to_owned(),
            format,
            open: true,
        };
        let refused = raw.export_sign_off(request).await.unwrap_err();
        let expected = format!("format is {format}; it must be CSV or JSON_LINES");
        assert_eq!(refused.message(), expected);
    }
    world.finish().await;
}

async fn only_keys_without_limits_may_read_a_month(world: World) {
    let (_, admin) = first_admin(&world).await;
    let mut admins = access(&world, Some(&admin)).await;
    let mut keys = Vec::new();
    for (new, is_allowed) in [
        (new_key("reader", KeyRole::Reader), true),
        (new_key("writer", KeyRole::Writer), false),
        (limited_key("own", KeyRole::Reader, &["own"], &[]), false),
        (
            limited_key("tokens", KeyRole::Admin, &[], &["tokens"]),
            false,
        ),
    ] {
        keys.push((create(&mut admins, new).await.text, is_allowed));
    }
    for (key, is_allowed) in keys {
        let with_key = client(world.endpoint(), &key).await;
        let shown = with_key.sign_off("2020-01").await.map(drop);
        let read = read(&with_key, ExportSignOff::csv("2020-01"))
            .await
            .map(drop);
        for answer in [shown, read] {
            let kind = answer.as_ref().err().map(Error::kind);
            let expected = (!is_allowed).then_some(ErrorKind::PermissionDenied);
            assert_eq!(kind, expected, "{answer:?}");
        }
    }
    world.finish().await;
}
