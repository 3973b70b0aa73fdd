//! `usage-server export`: audit entries, runs, decisions and reports, as JSON lines and CSV.

use std::{collections::HashSet, future::Future, io::Write, os::unix::fs::PermissionsExt as _};

use serde_json::Value;
use usage_client::{
    DeleteAccount, ForceReport, Increment, PutAccount, ResolveAction, ResolveReport,
};
use usage_server::commands::export;

use crate::support::world::{World, hours_ago, on_both_engines, within};

on_both_engines!(
    every_kind_is_exported_whole,
    an_export_is_limited_to_an_account_and_a_time,
    an_existing_file_is_not_overwritten,
    a_report_that_is_closed_meanwhile_is_exported_once,
    an_export_during_a_deletion_fails,
    a_deletion_is_noticed_beside_one_of_a_clock_that_was_ahead,
);

/// More than are read at once.
const ACCOUNTS: usize = 1_100;

/// Takes what is printed, and does something once its first part is.
pub(super) struct Interrupted<F> {
    pub(super) printed: Vec<u8>,
    pub(super) meanwhile: Option<F>,
}

impl<F: Future + Send> Write for Interrupted<F> {
    fn write(&mut self, part: &[u8]) -> std::io::Result<usize> {
        if let Some(meanwhile) = self.meanwhile.take() {
            let runtime = tokio::runtime::Handle::current();
            tokio::task::block_in_place(|| runtime.block_on(meanwhile));
        }
        self.printed.write(part)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Exports reports while something else is done.
async fn export_reports_while<F: Future + Send>(
    world: &World,
    meanwhile: F,
) -> Result<Vec<Value>, String> {
    let command = world.export_command(&["reports"]).unwrap();
    let mut out = Interrupted {
        printed: Vec::new(),
        meanwhile: Some(meanwhile),
    };
    let exported = within(
        "an export",
        export::run(&command, 0, &mut out, &mut Vec::new()),
    )
    .await;
    assert!(out.meanwhile.is_none(), "nothing was done meanwhile");
    exported.map_err(|error| error.to_string())?;
    let text = String::from_utf8(out.printed).unwrap();
    let lines = text.lines();
    Ok(lines
        .map(|line| serde_json::from_str(line).unwrap())
        .collect())
}

/// Runs the command. Returns what it printed, or why it failed.
async fn try_export(world: &World, args: &[&str]) -> Result<String, String> {
    let (printed, notes) = world.export_at(hours_ago(0), args).await?;
    assert_eq!(notes, "");
    Ok(printed)
}

async fn exported(world: &World, args: &[&str]) -> Vec<Value> {
    let text = try_export(world, args).await.unwrap();
    let lines = text.lines();
    lines
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// Open reports of many accounts, and a closed one that an admin decided on.
async fn use_some(world: &World) {
    let client = world.client();
    client.put_account(PutAccount::free("acct")).await.unwrap();
    world.count("acct", 5, hours_ago(3)).await;
    world.report_all().await;
    let rejected = "UPDATE usage_reports SET state = 'rejected', customer = 'cus'";
    world.execute_sql(rejected).await;
    let report = world.reports("acct").await.remove(0);
    let decision = ResolveReport::new("acct", report.id, ResolveAction::WriteOff, "of, \"no\" use");
    client.resolve_report(decision).await.unwrap();
    let increments: Vec<Increment> = (0..ACCOUNTS)
        .map(|n| Increment::new(format!("acct-{n}")).timestamp(hours_ago(1)))
        .collect();
    for batch in increments.chunks(1_000) {
        client.increment_batch(batch.to_vec()).await.unwrap();
    }
}

async fn every_kind_is_exported_whole(world: World) {
    use_some(&world).await;
    for (kind, table) in [
        ("audit", "audit_entries"),
        ("runs", "report_runs"),
        ("decisions", "report_decisions"),
        ("reports", "all_reports"),
    ] {
        let rows = usize::try_from(world.count_rows(table).await).unwrap();
        let lines = exported(&world, &[kind]).await;
        assert_eq!(lines.len(), rows, "{kind}");
        let mut ids: Vec<&str> = lines
            .iter()
            .map(|line| line["id"].as_str().unwrap())
            .collect();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), rows, "{kind}");
        let csv = try_export(&world, &[kind, "--format=csv"]).await.unwrap();
        assert_eq!(csv.matches("\r\n").count(), rows + 1, "{kind}");
    }
    let counted: i64 = exported(&world, &["reports"])
        .await
        .iter()
        .map(|report| report["quantity"].as_i64().unwrap())
        .sum();
    assert_eq!(counted, 5 + i64::try_from(ACCOUNTS).unwrap());
    let decisions = try_export(&world, &["decisions", "--format=csv"])
        .await
        .unwrap();
    assert!(decisions.starts_with("account_id,id,report_id,decided_at,action,reason,"));
    assert!(
        decisions.contains(",write_off,\"of, \"\"no\"\" use\","),
        "{decisions}"
    );
    world.finish().await;
}

async fn an_export_is_limited_to_an_account_and_a_time(world: World) {
    use_some(&world).await;
    for (kind, table) in [
        ("audit", "audit_entries"),
        ("decisions", "report_decisions"),
        ("reports", "all_reports"),
    ] {
        let rows = format!("{table} WHERE account_id = 'acct'");
        let rows = usize::try_from(world.count_rows(&rows).await).unwrap();
        assert!(rows > 0, "{kind}");
        let lines = exported(&world, &[kind, "--account=acct"]).await;
        assert_eq!(lines.len(), rows, "{kind}: {lines:?}");
        let none = exported(&world, &[kind, "--account=other"]).await;
        assert_eq!(none.len(), 0, "{kind}");
    }
    let refused = try_export(&world, &["runs", "--account=acct"]).await;
    assert!(
        refused
            .unwrap_err()
            .contains("a run is of several accounts")
    );
    let hour = hours_ago(1).to_rfc3339();
    for kind in ["audit", "runs", "decisions", "reports"] {
        let all = exported(&world, &[kind]).await.len();
        let before = exported(&world, &[kind, &format!("--until={hour}")])
            .await
            .len();
        let since = exported(&world, &[kind, &format!("--from={hour}")])
            .await
            .len();
        assert_eq!(before + since, all, "{kind}");
        assert_eq!(before, usize::from(kind == "reports"), "{kind}");
    }
    world.finish().await;
}

async fn an_existing_file_is_not_overwritten(world: World) {
    use_some(&world).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("runs.jsonl");
    let out = format!("--out={}", file.display());
    let printed = try_export(&world, &["runs", &out]).await.unwrap();
    assert_eq!(printed, "");
    let contents = std::fs::read_to_string(&file).unwrap();
    assert_eq!(contents.lines().count(), 1);
    let mode = std::fs::metadata(&file).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let refused = try_export(&world, &["reports", &out]).await.unwrap_err();
    assert!(
        refused.contains("runs.jsonl") && refused.contains("exists"),
        "{refused}"
    );
    assert_eq!(std::fs::read_to_string(&file).unwrap(), contents);
    world.finish().await;
}

async fn a_report_that_is_closed_meanwhile_is_exported_once(world: World) {
    use_some(&world).await;
    let client = world.client();
    // Open ones are listed first. Now all are closed, the latest of which are listed next.
    let close = async move {
        let run = client.force_report(ForceReport::all()).await.unwrap();
        run.summary().await.unwrap();
    };
    let lines = export_reports_while(&world, close).await.unwrap();
    let ids: HashSet<&str> = lines
        .iter()
        .map(|line| line["id"].as_str().unwrap())
        .collect();
    assert_eq!((lines.len(), ids.len()), (ACCOUNTS + 1, ACCOUNTS + 1));
    assert_eq!(world.count_rows("open_reports").await, 0);
    world.finish().await;
}

async fn an_export_during_a_deletion_fails(world: World) {
    use_some(&world).await;
    let client = world.client();
    let delete = async move {
        let delete = DeleteAccount::new("acct");
        client.delete_account(delete).await.unwrap();
    };
    let failed = export_reports_while(&world, delete).await.unwrap_err();
    assert!(failed.contains("an account was deleted"), "{failed}");
    let again = exported(&world, &["reports"]).await;
    assert_eq!(again.len(), ACCOUNTS + 1);
    world.finish().await;
}

async fn a_deletion_is_noticed_beside_one_of_a_clock_that_was_ahead(world: World) {
    use_some(&world).await;
    let client = world.client();
    client.put_account(PutAccount::free("other")).await.unwrap();
    let delete = DeleteAccount::new("other");
    client.delete_account(delete).await.unwrap();
    let ahead = "UPDATE deleted_accounts SET deleted_at = deleted_at + 3600000, anonymised_at = anonymised_at + 3600000";
    world.execute_sql(ahead).await;
    let delete = async move {
        let delete = DeleteAccount::new("acct");
        client.delete_account(delete).await.unwrap();
    };
    let failed = export_reports_while(&world, delete).await.unwrap_err();
    assert!(failed.contains("an account was deleted"), "{failed}");
    // Nothing is deleted any more, so the clock does not matter.
    let again = exported(&world, &["reports"]).await;
    assert_eq!(again.len(), ACCOUNTS + 1);
    world.finish().await;
}
