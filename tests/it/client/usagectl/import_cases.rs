//! `usagectl import`: what each kind of input counts, and what is refused. The files are in `cases/`.

use std::{fmt::Write as _, fs, io::Write as _, path::Path};

use flate2::{Compression, write::GzEncoder};
use usage_client::{Granularity, Increment};

use crate::support::world::{World, hours_ago, on_both_engines};

use super::{
    Ran,
    import::{Usage, csv},
};

on_both_engines!(
    a_column_named_twice_refuses_the_file,
    overlapping_exports_with_ids_count_once,
    an_id_is_the_idempotency_key_of_its_line,
    times_are_understood_or_refused_by_name,
    columns_with_other_names_are_mapped,
    a_compressed_file_has_the_keys_of_the_plain_one,
    a_file_that_is_cut_off_is_counted_up_to_there,
);

/// A file of `cases/`, with days put into it.
pub(super) fn case(name: &str) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/client/usagectl/cases");
    let day = |hours: i64| hours_ago(hours).format("%Y-%m-%d").to_string();
    fs::read_to_string(folder.join(name))
        .unwrap()
        .replace("{day}", &day(3 * 24))
        .replace("{old}", &day(40 * 24))
        .replace("{ahead}", &day(-48))
}

pub(super) async fn counted(world: &World) -> i64 {
    let mut all = 0;
    for account in ["a", "b", "c", "d"] {
        all += world.usage(account).await.0;
    }
    all
}

pub(super) fn assert_ran(ran: &Ran, code: u8, out: &str, err: &[&str]) {
    let Ran {
        code: ended,
        out: printed,
        err: told,
    } = ran;
    assert_eq!(*ended, code, "{printed}{told}");
    assert!(printed.contains(out), "{printed}");
    for text in err {
        assert!(told.contains(text), "{told}");
    }
}

async fn a_column_named_twice_refuses_the_file(world: World) {
    let twice = case("column_twice.csv");
    let mapped = twice
        .replacen("quantity", "n", 1)
        .replacen("quantity", "n", 1);
    let ignored = twice
        .replacen(",quantity", ",note", 1)
        .replacen(",quantity", ",note", 1);
    for (text, name, args) in [
        (&twice, "'quantity'", &[][..]),
        (&twice, "'quantity'", &["--ignore-unknown"]),
        (&mapped, "'n'", &["--column", "quantity=n"]),
        (&ignored, "'note'", &["--ignore-unknown"]),
    ] {
        let file = Usage::new("usage.csv", text);
        let ran = file.import(world.endpoint(), args).await;
        let why = format!("the header has the column {name} twice, as columns 2 and 4");
        assert_ran(&ran, 1, "", &[&why]);
        assert_eq!(ran.out, "");
        assert_eq!(counted(&world).await, 0);
    }
    world.finish().await;
}

async fn overlapping_exports_with_ids_count_once(world: World) {
    let first = Usage::new("first.csv", &case("ids_first.csv"));
    let second = Usage::new("second.csv", &case("ids_second.csv"));
    let renamed = case("ids_second.csv").replacen("id,", "event,", 1);
    let third = Usage::new("third.csv", &renamed);
    // Another format: a name of a column, and its values in another order.
    let mut json = String::new();
    for line in case("ids_first.csv").lines().skip(1) {
        let fields: Vec<&str> = line.split(',').collect();
        let [id, account_id, quantity, timestamp] = fields[..] else {
            panic!("{line}");
        };
        let quantity: i64 = quantity.parse().unwrap();
        let usage = serde_json::json!({
            "timestamp": timestamp, "quantity": quantity, "account_id": account_id, "event": id
        });
        writeln!(json, "{usage}").unwrap();
    }
    let fourth = Usage::new("fourth.jsonl", &json);
    for (file, args, out) in [
        (&first, &[][..], "10 lines counted (10 units), 0 had"),
        (&second, &[], "5 lines counted (5 units), 5 had"),
        (
            &third,
            &["--key-column", "event"],
            "0 lines counted (0 units), 10 had",
        ),
        (
            &fourth,
            &["--key-column", "event"],
            "0 lines counted (0 units), 10 had",
        ),
        (
            &first,
            &["--name", "other"],
            "0 lines counted (0 units), 10 had",
        ),
    ] {
        let ran = file.import(world.endpoint(), args).await;
        assert_ran(&ran, 0, out, &[]);
    }
    assert_eq!(counted(&world).await, 15);
    // Only those who say so count by contents.
    let ran = first.import(world.endpoint(), &["--ignore-id"]).await;
    assert_ran(&ran, 0, "10 lines counted", &[]);
    assert_eq!(counted(&world).await, 25);
    world.finish().await;
}

async fn an_id_is_the_idempotency_key_of_its_line(world: World) {
    let at = hours_ago(5);
    let call = Increment::new("a").quantity(3).key("evt_1").timestamp(at);
    world.client().increment(call).await.unwrap();
    let at = at.to_rfc3339();
    let text = format!(
        "id,account_id,quantity,timestamp\n\
         evt_1,a,3,{at}\n\
         evt_1,b,20,{at}\n\
         evt_1,a,4,{at}\n\
         ,a,5,{at}\n\
         {},a,6,{at}\n\
         evt_2,a,100,{at}\n\
         evt_2,a,100,{at}\n",
        "k".repeat(256)
    );
    let file = Usage::new("usage.csv", &text);
    let ran = file.import(world.endpoint(), &[]).await;
    let err = [
        "line 4: idempotency_key \"evt_1\" was counted with quantity 3",
        "line 5: id is missing",
        "line 6: id 'kkk",
        "is longer than 255 bytes",
    ];
    assert_ran(
        &ran,
        4,
        "2 lines counted (120 units), 2 had been counted before, 3 bad",
        &err,
    );
    assert_eq!(counted(&world).await, 123);
    // A column that an option names must be there.
    for name in ["missing.csv", "missing.jsonl"] {
        let text = if name.contains("json") {
            format!("{{\"account_id\":\"a\",\"timestamp\":\"{at}\"}}\n")
        } else {
            format!("account_id,timestamp\na,{at}\n")
        };
        let file = Usage::new(name, &text);
        let ran = file
            .import(world.endpoint(), &["--key-column", "event"])
            .await;
        assert_ne!(ran.code, 0);
        assert!(ran.err.contains("'event'"), "{}", ran.err);
    }
    assert_eq!(counted(&world).await, 123);
    world.finish().await;
}

async fn times_are_understood_or_refused_by_name(world: World) {
    let file = Usage::new("times.jsonl", &case("time_forms.jsonl"));
    let ran = file.import(world.endpoint(), &[]).await;
    let err = [
        "line 1: timestamp 2023-11-14T22:13:20Z is more than 34 days old",
        "01:00:00' has no offset; set --time-zone",
    ];
    assert_ran(&ran, 4, "1 lines counted (2 units)", &err);
    let ran = file
        .import(world.endpoint(), &["--time-zone", "Asia/Kolkata"])
        .await;
    assert_ran(
        &ran,
        4,
        "1 lines counted (4 units), 1 had been counted",
        &["line 1: "],
    );
    let midnight = hours_ago(3 * 24)
        .date_naive()
        .and_time(chrono::NaiveTime::MIN)
        .and_utc();
    let hour = chrono::TimeDelta::hours;
    let usage = world
        .client()
        .get("a")
        .meter("api_calls")
        .period(midnight - hour(6), midnight + hour(3))
        .granularity(Granularity::Hour)
        .await
        .unwrap();
    let points = usage.meters[0].points.iter();
    let quantities: Vec<i64> = points.map(|point| point.quantities.total).collect();
    // 01:00 at +01:00 is midnight, and in Kolkata it is 19:30 on the day before.
    assert_eq!(quantities, [0, 4, 0, 0, 0, 0, 2, 0, 0]);

    let (seconds, millis) = (hours_ago(5).timestamp(), hours_ago(5).timestamp_millis());
    let text =
        format!("account_id,timestamp\nb,{seconds}\nb,{millis}\nb,{seconds}.5\nb,{millis}000\n");
    let file = Usage::new("epoch.csv", &text);
    let ran = file.import(world.endpoint(), &[]).await;
    let err = ["line 4: timestamp ", "line 5: timestamp ", "understood are"];
    assert_ran(&ran, 4, "2 timestamp not understood, first in line 4", &err);
    assert_eq!(world.usage("b").await.0, 2);
    world.finish().await;
}

async fn columns_with_other_names_are_mapped(world: World) {
    let at = hours_ago(5).to_rfc3339();
    let file = Usage::new(
        "usage.csv",
        &format!("used_at,customer,n,note\n{at},a,7,x\n"),
    );
    let mapped = [
        "--column",
        "account_id=customer",
        "--column",
        "timestamp=used_at",
    ];
    let ran = file.import(world.endpoint(), &mapped).await;
    assert_ran(&ran, 1, "", &["the column 'n' is unknown"]);
    let all = [&mapped[..], &["--column", "quantity=n", "--ignore-unknown"]].concat();
    let ran = file.import(world.endpoint(), &all).await;
    assert_ran(&ran, 0, "1 lines counted (7 units)", &[]);
    // A name that only looks different would make each line one unit.
    let file = Usage::new(
        "other.csv",
        &format!("account_id,Quantity,timestamp\na,7,{at}\n"),
    );
    let ran = file.import(world.endpoint(), &["--ignore-unknown"]).await;
    assert_ran(&ran, 1, "", &["add --column quantity=Quantity"]);
    let ran = file
        .import(world.endpoint(), &["--column", "meters=x"])
        .await;
    assert_ran(&ran, 2, "", &["expected FIELD=NAME"]);
    assert_eq!(counted(&world).await, 7);
    world.finish().await;
}

fn gzip(text: &str) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(text.as_bytes()).unwrap();
    encoder.finish().unwrap()
}

async fn a_compressed_file_has_the_keys_of_the_plain_one(world: World) {
    let text = csv(1_500);
    let plain = Usage::new("usage.csv", &text);
    let compressed = Usage::new("usage.csv.gz", "");
    compressed.write_bytes(&gzip(&text));
    // The contents decide, not the name.
    let misnamed = Usage::new("usage.csv", "");
    misnamed.write_bytes(&gzip(&text));
    for (file, out) in [
        (&compressed, "1,500 lines counted (1,500 units), 0 had"),
        (&plain, "0 lines counted (0 units), 1,500 had"),
        (&misnamed, "0 lines counted (0 units), 1,500 had"),
    ] {
        let ran = file.import(world.endpoint(), &[]).await;
        assert_ran(&ran, 0, out, &[]);
    }
    let other = Usage::new("usage.csv", "");
    other.write_bytes(b"\x28\xb5\x2f\xfd and more");
    let ran = other.import(world.endpoint(), &[]).await;
    assert_ran(&ran, 1, "", &["the input is compressed with zstd", "gzip"]);
    assert_eq!(counted(&world).await, 1_500);
    world.finish().await;
}

async fn a_file_that_is_cut_off_is_counted_up_to_there(world: World) {
    let text = csv(2_500);
    let whole = gzip(&text);
    let file = Usage::new("usage.csv.gz", "");
    file.write_bytes(&whole[..whole.len() - 8]);
    let ran = file.import(world.endpoint(), &[]).await;
    assert_ran(
        &ran,
        1,
        "lines counted",
        &["the gzip data ends too early", "Import the file again"],
    );
    assert!(!file.is_alone(), "there is progress");
    file.write_bytes(&whole);
    let ran = file.import(world.endpoint(), &[]).await;
    assert_ran(
        &ran,
        0,
        "2,500 lines counted (2,500 units), 0 had",
        &["going on after line "],
    );
    assert_eq!(counted(&world).await, 2_500);
    world.finish().await;
}
