//! `usagectl import`: bad lines are listed, summed up and copied, also by a dry run, and lose no other line.

use std::{fmt::Write as _, fs};

use usage_client::Increment;

use crate::support::world::{World, hours_ago, on_both_engines};

use super::{
    Ran,
    import::{Usage, csv},
    import_cases::{assert_ran, case, counted},
    usagectl,
};

on_both_engines!(
    a_malformed_record_is_one_bad_line_and_no_other_is_lost,
    a_dry_run_says_what_the_real_run_says,
    too_large_a_share_of_bad_lines_stops_the_import,
    bad_lines_are_summed_up_and_copied_to_a_file,
);

/// A number with commas.
fn grouped(number: i64) -> String {
    match (number / 1_000, number % 1_000) {
        (0, rest) => rest.to_string(),
        (thousands, rest) => format!("{thousands},{rest:03}"),
    }
}

async fn a_malformed_record_is_one_bad_line_and_no_other_is_lost(world: World) {
    let mut all = 0;
    for (name, units, line, reason) in [
        (
            "open_quote.csv",
            4_320,
            "line 2: a quote is left open: it runs to line 4, where text follows",
            "1 quote that is not closed, first in line 2",
        ),
        (
            "text_after_quote.csv",
            301,
            "line 3: text follows the closing quote of field 4",
            "1 text after a closing quote, first in line 3",
        ),
        (
            "end_inside_quote.csv",
            301,
            "line 3: unfinished: the input ends inside the quote of field 4",
            "1 unfinished: the input ends inside a quote, first in line 3",
        ),
        (
            "field_twice.jsonl",
            7,
            "line 1: the field 'quantity' is there twice",
            "1 field named twice, first in line 1",
        ),
    ] {
        let file = Usage::new(name, &case(name));
        let ran = file.import(world.endpoint(), &["--ignore-unknown"]).await;
        assert_ran(&ran, 4, reason, &[line]);
        assert!(
            ran.out.contains(&format!("({} units)", grouped(units))),
            "{}",
            ran.out
        );
        assert!(ran.out.contains(", 1 bad\n"), "{}", ran.out);
        all += units;
        assert_eq!(counted(&world).await, all, "{name}");
    }
    world.finish().await;
}

async fn a_dry_run_says_what_the_real_run_says(world: World) {
    let at = hours_ago(5);
    let call = Increment::new("d").quantity(3).key("old").timestamp(at);
    world.client().increment(call).await.unwrap();
    let at = at.to_rfc3339();
    let mut ids = format!(
        "id,account_id,meter,quantity,timestamp\n\
         old,d,api_calls,3,{at}\n\
         old,d,api_calls,4,{at}\n\
         x,d,nonsense,1,{at}\n\
         y,d,api_calls,-1,{at}\n"
    );
    for line in 0..1_200 {
        writeln!(ids, "id{line},d,api_calls,1,{at}").unwrap();
    }
    // In a later batch than the first lines with these ids.
    for last in ["id7,d,api_calls,1", "id8,d,api_calls,2", "x,d,api_calls,1"] {
        writeln!(ids, "{last},{at}").unwrap();
    }
    for (name, text, out, lines) in [
        (
            "aged.csv",
            case("too_old_and_ahead.csv"),
            "1 lines counted (9 units), 0 had been counted before, 2 bad\n  \
             1 timestamp too old, first in line 2\n  \
             1 timestamp in the future, first in line 3\n",
            &["line 2: ", "line 3: "][..],
        ),
        (
            "ids.csv",
            ids,
            "1,201 lines counted (1,201 units), 2 had been counted before, 4 bad\n  \
             1 quantity not valid, first in line 5\n  \
             1 unknown meter, first in line 4\n  \
             2 id used before with other content, first in line 3\n",
            &["line 3: ", "line 4: ", "line 5: ", "line 1207: "],
        ),
    ] {
        let file = Usage::new(name, &text);
        let before = counted(&world).await;
        let dry = file.import(world.endpoint(), &["--dry-run"]).await;
        assert_eq!(counted(&world).await, before, "a dry run counts nothing");
        let real = file.import(world.endpoint(), &[]).await;
        assert_eq!(real.out, out, "{}", real.err);
        assert_eq!(
            dry.out.replace("lines would be counted", "lines counted"),
            out
        );
        assert_eq!((dry.code, real.code), (4, 4));
        let listed = |ran: &Ran| {
            let lines = ran.err.lines().filter(|line| line.starts_with("line "));
            let starts = lines.map(|line| line.split_inclusive(": ").next().unwrap().to_owned());
            let mut starts: Vec<String> = starts.collect();
            starts.sort();
            starts
        };
        let mut lines = lines.to_vec();
        lines.sort_unstable();
        assert_eq!(listed(&dry), lines, "{}", dry.err);
        assert_eq!(listed(&real), lines, "{}", real.err);
    }
    assert_eq!(world.usage("d").await.0, 3 + 1_201);
    world.finish().await;
}

async fn too_large_a_share_of_bad_lines_stops_the_import(world: World) {
    let good = csv(3_000);
    let (head, rest) = good.split_at(good.match_indices('\n').nth(1_100).unwrap().0 + 1);
    let bad = |count: usize| "a,api_calls,none,today\n".repeat(count);
    let file = Usage::new("usage.csv", &format!("{head}{}{rest}", bad(200)));
    // 57 of 1,157 lines are less than 5%, and 58 of 1,158 are more.
    let ran = file.import(world.endpoint(), &["--max-bad", "5%"]).await;
    assert_ran(
        &ran,
        4,
        ", 58 bad\n",
        &["stopped because 58 of 1158 lines were bad"],
    );
    assert_eq!(counted(&world).await, 1_000);
    let ran = file.import(world.endpoint(), &["--max-bad", "15.5%"]).await;
    assert_ran(
        &ran,
        4,
        "3,000 lines counted (3,000 units), 0 had been counted before, 200 bad",
        &[],
    );
    // The share of a few lines is known at their end, before they are sent.
    let few = csv(40);
    let (head, rest) = few.split_at(few.find('\n').unwrap() + 1);
    let file = Usage::new("few.csv", &format!("{head}{}{rest}", bad(3)));
    let ran = file.import(world.endpoint(), &["--max-bad", "5%"]).await;
    assert_ran(
        &ran,
        4,
        "3 bad",
        &["3 of 43 lines were bad", "0 lines were"],
    );
    assert_eq!(counted(&world).await, 3_000);
    let ran = file.import(world.endpoint(), &["--max-bad", "7%"]).await;
    assert_ran(&ran, 4, "40 lines counted", &["3 lines were bad"]);
    for wrong in ["0", "0%", "101%", "many"] {
        let ran = file.import(world.endpoint(), &["--max-bad", wrong]).await;
        assert_ran(&ran, 2, "", &["a share such as 0.5% or 20%"]);
    }
    assert_eq!(counted(&world).await, 3_040);
    world.finish().await;
}

async fn bad_lines_are_summed_up_and_copied_to_a_file(world: World) {
    let at = hours_ago(5).to_rfc3339();
    let text = format!(
        "account_id,meter,quantity,timestamp,note\r\n\
         a,api_calls,1,{at},fine\r\n\
         a,nonsense,20,{at},\"two\r\nlines\"\r\n\
         b,api_calls,many,{at},\r\n\
         b,api_calls,300,{at},\"open\r\n\
         c,api_calls,x,{at},"
    );
    let file = Usage::new("usage.csv", &text);
    let copy = file.path().with_file_name("bad.csv");
    let args = ["--ignore-unknown", "--bad-file", copy.to_str().unwrap()];
    let ran = file.import(world.endpoint(), &args).await;
    let out = "1 lines counted (1 units), 0 had been counted before, 4 bad\n  \
        1 unfinished: the input ends inside a quote, first in line 6\n  \
        2 quantity not valid, first in line 5\n  \
        1 unknown meter, first in line 3\n";
    assert_ran(&ran, 4, out, &["the bad lines are in "]);
    let copied = fs::read_to_string(&copy).unwrap();
    let mut lines: Vec<&str> = copied.lines().collect();
    assert_eq!(lines.remove(0), "account_id,meter,quantity,timestamp,note");
    lines.sort_unstable();
    let mut expected: Vec<&str> = text.lines().skip(2).collect();
    expected.sort_unstable();
    assert_eq!(lines, expected);
    // Fixed, they are imported by themselves.
    let fixed = copied
        .replace("nonsense", "api_calls")
        .replace(",many,", ",4000,");
    let fixed = fixed.replace("\"open", "").replace(",x,", ",50000,");
    fs::write(&copy, fixed).unwrap();
    let path = copy.to_str().unwrap();
    let ran = usagectl(world.endpoint(), &["import", path, "--ignore-unknown"]).await;
    assert_ran(&ran, 0, "4 lines counted (54,320 units)", &[]);
    assert_eq!(counted(&world).await, 54_321);
    // The imported file is never replaced.
    let path = file.path();
    let ran = file
        .import(world.endpoint(), &["--bad-file", path.to_str().unwrap()])
        .await;
    assert_ran(&ran, 2, "", &["--bad-file is the imported file"]);
    assert_eq!(fs::read_to_string(path).unwrap(), text);
    world.finish().await;
}
