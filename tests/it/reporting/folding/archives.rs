//! The files: what is in them, and what `usage-server archives verify` and `doctor` find.

use chrono::TimeDelta;
use usage_client::{ResolveAction, ResolveReport};
use usage_server::commands::doctor::Severity;

use super::{AGE, COUNTED, begin, files, let_pass, lines, name_of, use_and_close, verified};
use crate::support::world::{World, at, on_both_engines};

on_both_engines!(
    an_archive_has_every_column_of_its_reports,
    a_changed_file_is_found,
    changed_sums_are_found,
    changed_decisions_are_found,
    doctor_checks_the_folder,
    a_folder_that_cannot_be_written_folds_nothing,
);

async fn an_archive_has_every_column_of_its_reports(mut world: World) {
    let folder = begin(&mut world).await;
    use_and_close(&world, 5, at(COUNTED)).await;
    use_and_close(&world, 6, at(COUNTED)).await;
    world
        .execute_sql(
            "UPDATE usage_reports SET state = 'too_late', last_error = 'why' WHERE quantity = 6",
        )
        .await;
    let reports = world.reports("free").await;
    let late = reports.iter().find(|report| report.quantity == 6).unwrap();
    let decision = ResolveReport::new("free", &late.id, ResolveAction::WriteOff, "a gift");
    world.client().resolve_report(decision).await.unwrap();
    let_pass(&mut world, AGE + TimeDelta::days(1)).await;
    let files = files(folder.path());
    let text = std::fs::read_to_string(&files[0]).unwrap();
    let header: serde_json::Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
    assert_eq!(header["format"], "usage-report-archive");
    assert_eq!(header["version"], 1);
    assert_eq!(
        (&header["reports"], &header["quantity"]),
        (&2.into(), &11.into())
    );
    let lines = lines(&files[0]);
    let line = lines.iter().find(|line| line["quantity"] == 6).unwrap();
    assert_eq!(line["id"], late.id.as_str());
    assert_eq!(line["account_id"], "free");
    assert_eq!(line["state"], "written_off");
    assert_eq!(line["last_error"], "why");
    assert_eq!(line["window_start"], at(COUNTED).timestamp_millis());
    assert_eq!(line["decisions"][0]["reason"], "a gift");
    assert_eq!(line["decisions"][0]["from_state"], "too_late");
    // A column that is added to the table is to be added to the file. The number is only the row's place in the table.
    let others = ["folded_into", "decisions"].len();
    let columns = line.as_object().unwrap().len() - others + ["number"].len();
    let named = match world.engine {
        crate::support::world::Engine::Sqlite => "pragma_table_info('usage_reports')",
        crate::support::world::Engine::Postgres => {
            "information_schema.columns WHERE table_name = 'usage_reports'"
        }
    };
    assert_eq!(
        world.count_rows(named).await,
        i64::try_from(columns).unwrap()
    );
    world.finish().await;
}

async fn a_changed_file_is_found(mut world: World) {
    let folder = begin(&mut world).await;
    use_and_close(&world, 5, at(COUNTED)).await;
    let_pass(&mut world, AGE + TimeDelta::days(1)).await;
    let file = files(folder.path()).remove(0);
    let text = std::fs::read_to_string(&file).unwrap();
    let another = text.replace("\"quantity\":5", "\"quantity\":6");
    let shorter = text.trim_end().to_owned();
    for (contents, words) in [(another, "its SHA-256 is"), (shorter, "bytes")] {
        std::fs::write(&file, contents).unwrap();
        let (is_well, printed) = verified(&world, folder.path()).await;
        assert!(!is_well, "{printed}");
        for word in [&name_of(&file), words, "1 with a difference"] {
            assert!(printed.contains(word), "{word} is not in {printed}");
        }
    }
    std::fs::remove_file(&file).unwrap();
    let (is_well, printed) = verified(&world, folder.path()).await;
    assert!(!is_well && printed.contains("cannot be read"), "{printed}");
    std::fs::write(&file, text).unwrap();
    let (is_well, printed) = verified(&world, folder.path()).await;
    assert!(is_well, "{printed}");
    world.finish().await;
}

async fn changed_sums_are_found(mut world: World) {
    let folder = begin(&mut world).await;
    for minutes in [0, 15] {
        use_and_close(&world, 5, at(COUNTED) + TimeDelta::minutes(minutes)).await;
    }
    let_pass(&mut world, AGE + TimeDelta::days(1)).await;
    let start = at(COUNTED).timestamp_millis();
    let of_first = format!("WHERE window_start = {start}");
    for (change, undo, words) in [
        (
            format!("UPDATE folded_reports SET quantity = 6 {of_first}"),
            format!("UPDATE folded_reports SET quantity = 5 {of_first}"),
            "6 units of 1 reports in the database; the file has 5 of 1",
        ),
        // The total is the same.
        (
            "UPDATE folded_reports SET last_at = last_at + 1".to_owned(),
            "UPDATE folded_reports SET last_at = last_at - 1".to_owned(),
            "units of 1 reports",
        ),
        (
            format!("UPDATE folded_reports SET archive = 7 {of_first}"),
            "UPDATE folded_reports SET archive = 1".to_owned(),
            "the database has 1 rows of 1 reports and 5 units; archived were 2 rows",
        ),
    ] {
        world.execute_sql(&change).await;
        let (is_well, printed) = verified(&world, folder.path()).await;
        assert!(!is_well && printed.contains(words), "{words}: {printed}");
        world.execute_sql(&undo).await;
    }
    let (is_well, printed) = verified(&world, folder.path()).await;
    assert!(is_well, "{printed}");
    world.finish().await;
}

async fn changed_decisions_are_found(mut world: World) {
    let folder = begin(&mut world).await;
    use_and_close(&world, 6, at(COUNTED)).await;
    let late = "UPDATE usage_reports SET state = 'too_late' WHERE quantity = 6";
    world.execute_sql(late).await;
    let report = world.reports("free").await.remove(0);
    let decision = ResolveReport::new("free", &report.id, ResolveAction::WriteOff, "a gift");
    world.client().resolve_report(decision).await.unwrap();
    let_pass(&mut world, AGE + TimeDelta::days(1)).await;
    let (is_well, printed) = verified(&world, folder.path()).await;
    assert!(is_well, "{printed}");
    for (change, words) in [
        (
            "REPLACE(decisions, 'write_off', 'retry')",
            [":retry in the database", ":write_off"],
        ),
        ("NULL", ["has no decision in the database", ":write_off"]),
    ] {
        let change = format!("UPDATE folded_reports SET decisions = {change}");
        world.execute_sql(&change).await;
        let (is_well, printed) = verified(&world, folder.path()).await;
        assert!(!is_well, "{printed}");
        for word in words {
            assert!(printed.contains(word), "{word} is not in {printed}");
        }
    }
    world.finish().await;
}

async fn doctor_checks_the_folder(mut world: World) {
    let folder = begin(&mut world).await;
    use_and_close(&world, 5, at(COUNTED)).await;
    let_pass(&mut world, AGE + TimeDelta::days(1)).await;
    let (severity, line) = world.doctor_says(None, "archives").await;
    assert_eq!(severity, Severity::Ok, "{line}");
    assert!(line.contains("1 files with 1 reports"), "{line}");
    let file = files(folder.path()).remove(0);
    let unfinished = file.with_extension("jsonl.unfinished");
    std::fs::write(&unfinished, "").unwrap();
    let (severity, line) = world.doctor_says(None, "archives").await;
    assert_eq!(severity, Severity::Warn, "{line}");
    assert!(line.contains(&name_of(&unfinished)), "{line}");
    std::fs::rename(&file, &unfinished).unwrap();
    let (severity, line) = world.doctor_says(None, "archives").await;
    assert_eq!(severity, Severity::Bad, "{line}");
    assert!(line.contains("is missing"), "{line}");
    drop(folder);
    let (severity, line) = world.doctor_says(None, "archives").await;
    assert_eq!(severity, Severity::Bad, "{line}");
    assert!(line.contains("cannot be written"), "{line}");
    world.reconfigure(&["--archive-dir"]).await;
    let (severity, line) = world.doctor_says(None, "archives").await;
    assert_eq!(severity, Severity::Warn, "{line}");
    assert!(line.contains("ARCHIVE_DIR is not set"), "{line}");
    world.finish().await;
}

async fn a_folder_that_cannot_be_written_folds_nothing(mut world: World) {
    let folder = begin(&mut world).await;
    use_and_close(&world, 5, at(COUNTED)).await;
    let elsewhere = folder.path().with_extension("moved");
    std::fs::rename(folder.path(), &elsewhere).unwrap();
    world.reconfigure(&["--stripe-secret-key"]).await;
    world.stop().await;
    world.move_clocks(world.now() + AGE).await;
    world.start_server().await;
    world.wait_until_job_ran("report folding").await;
    world.move_clocks(world.now() + TimeDelta::hours(1)).await;
    // The service counts meanwhile.
    world.count("free", 1, world.now()).await;
    assert_eq!(world.count_rows("usage_reports").await, 1);
    std::fs::rename(&elsewhere, folder.path()).unwrap();
    super::wait_until_folded(&world).await;
    assert_eq!(world.count_rows("usage_reports").await, 0);
    assert_eq!(files(folder.path()).len(), 1);
    world.finish().await;
}
