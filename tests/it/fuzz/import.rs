//! Import files whose bytes or lines are changed, cut, doubled, exchanged or random: what `usagectl import` says that it counted
//! is what the service counted, each other line has its number and a reason, and a second import adds nothing.
//!
//! The files of `corpus/import/` are imported as they are, with days put into them. Those that each have one right result
//! are in `client/usagectl/cases/`.

use std::{
    fmt::Write as _,
    fs, future,
    io::{self, Write as _},
    path::Path,
};

use flate2::{Compression, write::GzEncoder};
use sea_orm::{ConnectionTrait as _, DatabaseConnection, Statement};
use usage_client::cli::{self, Streams};
use uuid::Uuid;

use super::{Budget, texts};
use crate::support::{
    random::Random,
    world::{World, hours_ago, on_sqlite, within},
};

on_sqlite!(an_import_counts_what_it_says);

const ROWS: usize = 12;

async fn an_import_counts_what_it_says(world: World) {
    let folder = tempfile::tempdir().unwrap();
    let database = world.connect_to_database().await;
    for (name, text) in super::corpus("import") {
        let text = String::from_utf8_lossy(&text);
        let day = hours_ago(3 * 24).format("%Y-%m-%d").to_string();
        let text = text.replace("{day}", &day);
        let file = folder.path().join(&name);
        fs::write(&file, text).unwrap();
        check((&world, &database), &file, &name).await;
    }
    let mut budget = Budget::new("import files", 7).at_most(150);
    while let Some(mut random) = budget.next() {
        let (extension, bytes) = contents(&mut random);
        let file = folder
            .path()
            .join(format!("case-{}.{extension}", budget.cases));
        fs::write(&file, &bytes).unwrap();
        if random.one_in(4) {
            // What an earlier import left.
            let progress = format!("case-{}.{extension}.progress", budget.cases);
            fs::write(folder.path().join(progress), left(&mut random)).unwrap();
        }
        let place = format!("{}, {extension}: {bytes:?}", budget.place());
        check((&world, &database), &file, &place).await;
    }
    budget.end();
    database.close().await.unwrap();
    world.finish().await;
}

/// Imports a file, and compares what it says with what was counted.
async fn check((world, database): (&World, &DatabaseConnection), file: &Path, place: &str) {
    let before = counted(database).await;
    let (code, out, err) = import(world.endpoint(), file).await;
    let units = counted(database).await - before;
    assert!(
        [0, 1, 4].contains(&code),
        "{place}: exit {code}: {out}{err}"
    );
    let said = out.split_once(" lines counted (").map_or(0, |(_, rest)| {
        let number = rest.split(' ').next().unwrap().replace(',', "");
        number.parse::<i64>().unwrap()
    });
    assert_eq!(units, said, "{place}: {out}{err}");
    match code {
        0 => {}
        4 => assert!(err.contains("line "), "{place}: no line is named: {err}"),
        _ => assert!(!err.trim().is_empty(), "{place}: no reason"),
    }
    if code != 1 {
        let (again, out, err) = import(world.endpoint(), file).await;
        assert!([0, 4].contains(&again), "{place}: again: {out}{err}");
        let all = counted(database).await;
        assert_eq!(all, before + units, "{place}: again: {out}{err}");
    }
}

/// Everything that was counted, of whatever account.
async fn counted(database: &DatabaseConnection) -> i64 {
    let sql = "SELECT COALESCE(SUM(quantity), 0) AS number FROM commits";
    let statement = Statement::from_string(database.get_database_backend(), sql);
    let row = database.query_one_raw(statement).await.expect("rows");
    row.expect("a row").try_get("", "number").expect("a number")
}

async fn import(server: &str, file: &Path) -> (u8, String, String) {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let streams = Streams {
        input: Box::new(io::empty()),
        out: &mut out,
        err: &mut err,
        are_terminals: false,
        width: None,
        stop: Box::pin(future::pending()),
    };
    let file = file.to_str().unwrap();
    let args = [
        "usagectl",
        "--server",
        server,
        "--timeout",
        "20",
        "import",
        file,
    ];
    let args = args.into_iter().chain(["--retry-secs", "0"]);
    let code = within("an import", cli::run(args, streams)).await;
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (code, text(out), text(err))
}

/// The extension and the contents of a file.
fn contents(random: &mut Random) -> (&'static str, Vec<u8>) {
    let whole = match random.below(3) {
        0 => ("jsonl", json()),
        _ => ("csv", csv()),
    };
    let (extension, bytes) = whole;
    match random.below(10) {
        8 | 9 => (extension, rearranged(random, &bytes)),
        0 => (extension, texts::bytes(random, 2_000)),
        1 => (extension, [bytes.clone(), bytes].concat()),
        2 => {
            let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
            gzip.write_all(&bytes).unwrap();
            let gzip = texts::damaged(random, gzip.finish().unwrap());
            let name = if extension == "csv" {
                "csv.gz"
            } else {
                "jsonl.gz"
            };
            (name, gzip)
        }
        3 => (extension, bytes.into_iter().rev().collect()),
        _ => (extension, texts::damaged(random, bytes)),
    }
}

/// A file of the progress that is not one of this import.
fn left(random: &mut Random) -> Vec<u8> {
    let stored = serde_json::json!({
        "options": { "name": texts::text(random), "columns": [], "time_zone": null, "ignore_unknown": false },
        "offset": u64::MAX, "line": u64::MAX, "tally": {}, "crc32": 0,
    });
    match random.below(5) {
        0 => texts::bytes(random, 300),
        1 => texts::text(random).into_bytes(),
        2 => b"{}".to_vec(),
        3 => texts::damaged(random, stored.to_string().into_bytes()),
        _ => stored.to_string().into_bytes(),
    }
}

/// The same lines in another form or order, or with others between them.
fn rearranged(random: &mut Random, bytes: &[u8]) -> Vec<u8> {
    let mut lines: Vec<Vec<u8>> = bytes
        .split(|byte| *byte == b'\n')
        .map(<[u8]>::to_vec)
        .collect();
    let length = i64::try_from(lines.len()).unwrap();
    let place = |random: &mut Random| usize::try_from(random.below(length)).unwrap();
    let (one, other) = (place(random), place(random));
    match random.below(9) {
        0 => lines.swap(one, other),
        1 => lines.insert(one, lines[other].clone()),
        2 => drop(lines.remove(one)),
        3 => lines.iter_mut().for_each(|line| line.push(b'\r')),
        4 => drop(lines[0].splice(..0, *b"\xef\xbb\xbf")),
        5 => lines.insert(one, vec![b'x'; 70_000]),
        6 => lines.insert(one, vec![b' ']),
        7 => lines[one].extend_from_slice(b",extra"),
        _ => {
            let all = lines.iter_mut().flatten();
            all.filter(|byte| **byte == b',')
                .for_each(|byte| *byte = b';');
        }
    }
    lines.join(&b'\n')
}

fn csv() -> Vec<u8> {
    let at = hours_ago(5).to_rfc3339();
    let mut text = "account_id,meter,quantity,timestamp,id\n".to_owned();
    for row in 0..ROWS {
        let quote = if row.is_multiple_of(4) { "\"" } else { "" };
        let (quantity, id) = (row + 1, Uuid::new_v4());
        writeln!(
            text,
            "{quote}acct-{row}{quote},api_calls,{quantity},{at},{id}"
        )
        .unwrap();
    }
    text.into_bytes()
}

fn json() -> Vec<u8> {
    let at = hours_ago(5).to_rfc3339();
    let mut text = String::new();
    for row in 0..ROWS {
        let usage = serde_json::json!({
            "account_id": format!("acct-{row}"), "quantity": row + 1, "timestamp": at, "id": Uuid::new_v4().to_string()
        });
        writeln!(text, "{usage}").unwrap();
    }
    text.into_bytes()
}
