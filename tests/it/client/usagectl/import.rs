//! `usagectl import`: each line counts once, even if an import is interrupted and repeated.

use std::{fmt::Write as _, fs, path::PathBuf};

use tempfile::TempDir;

use crate::support::{
    flaky_server::{Behavior, FlakyServer},
    refused_address::RefusedAddress,
    world::{World, hours_ago, on_both_engines},
};

use super::{Ran, usagectl};

on_both_engines!(
    a_file_counts_once_however_often_it_is_imported,
    bad_lines_are_listed_and_can_be_fixed,
    an_interrupted_import_resumes_where_it_stopped,
    moved_lines_count_once_and_equal_lines_count_each,
    refused_lines_are_listed_again_when_an_import_resumes,
    bad_lines_are_read_again_when_an_import_resumes,
    a_batch_that_is_retried_has_the_results_of_its_first_attempt,
    a_dry_import_counts_nothing,
);

/// A file of usage, in a folder.
pub(super) struct Usage {
    folder: TempDir,
    name: &'static str,
}

impl Usage {
    pub(super) fn new(name: &'static str, text: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let usage = Self { folder, name };
        usage.write(text);
        usage
    }

    pub(super) fn path(&self) -> PathBuf {
        self.folder.path().join(self.name)
    }

    pub(super) fn write(&self, text: &str) {
        fs::write(self.path(), text).unwrap();
    }

    pub(super) fn write_bytes(&self, bytes: &[u8]) {
        fs::write(self.path(), bytes).unwrap();
    }

    pub(super) async fn import(&self, server: &str, args: &[&str]) -> Ran {
        let path = self.path();
        let fixed = ["import", path.to_str().unwrap(), "--retry-secs", "0"];
        let args: Vec<&str> = fixed.iter().chain(args).copied().collect();
        usagectl(server, &args).await
    }

    /// Whether the folder contains only this file: there is no stored progress.
    pub(super) fn is_alone(&self) -> bool {
        fs::read_dir(self.folder.path()).unwrap().count() == 1
    }
}

/// Lines of usage of three accounts, one unit each, all in one hour.
pub(super) fn csv(lines: usize) -> String {
    let mut text = "account_id,meter,quantity,timestamp\n".to_owned();
    for line in 0..lines {
        let account = ["a", "b", "c"][line % 3];
        writeln!(text, "{account},api_calls,1,{}", hours_ago(5).to_rfc3339()).unwrap();
    }
    text
}

pub(super) async fn counted(world: &World) -> i64 {
    let mut all = 0;
    for account in ["a", "b", "c"] {
        all += world.usage(account).await.0;
    }
    all
}

async fn a_file_counts_once_however_often_it_is_imported(world: World) {
    let mut json = String::new();
    for line in 0..2_500 {
        let account = ["a", "b", "c"][line % 3];
        let at = hours_ago(5).to_rfc3339();
        let usage = serde_json::json!({"account_id": account, "quantity": 2, "timestamp": at});
        writeln!(json, "{usage}").unwrap();
    }
    let files = [
        Usage::new("one.csv", &csv(2_500)),
        Usage::new("two.jsonl", &json),
    ];
    let told = [
        [
            "2,500 lines counted (2,500 units), 0 had been counted before, 0 bad\n",
            "(5,000 units)",
        ],
        [
            "0 lines counted (0 units), 2,500 had been counted before, 0 bad\n",
            "0 lines",
        ],
    ];
    for [first, second] in told {
        for (file, told) in files.iter().zip([first, second]) {
            let ran = file.import(world.endpoint(), &[]).await;
            assert_eq!(ran.code, 0, "{}", ran.err);
            assert!(ran.out.contains(told), "{}", ran.out);
            assert!(file.is_alone());
        }
        assert_eq!(counted(&world).await, 7_500);
    }
    world.finish().await;
}

async fn bad_lines_are_listed_and_can_be_fixed(world: World) {
    let good = csv(1_200);
    let broken = [
        (3, "a,api_calls,many,now"),
        (7, "b,nonsense,1,"),
        (1_150, "c,api_calls,1"),
    ];
    let mut lines: Vec<String> = good.lines().map(str::to_owned).collect();
    for (number, text) in broken {
        let line = &mut lines[number - 1];
        *line = match text.strip_suffix(',') {
            Some(start) => format!("{start},{}", hours_ago(5).to_rfc3339()),
            None => text.to_owned(),
        };
    }
    let file = Usage::new("usage.csv", &(lines.join("\n") + "\n"));
    let ran = file.import(world.endpoint(), &[]).await;
    assert_eq!(ran.code, 4, "{}", ran.err);
    let listed: Vec<&str> = ran.err.lines().collect();
    assert_eq!(listed[0], "line 3: quantity \"many\" is not a whole number");
    assert!(
        listed[1].starts_with("line 7: ") && listed[1].contains("nonsense"),
        "{listed:?}"
    );
    assert_eq!(listed[2], "line 1150: 3 fields, and the header has 4");
    assert!(ran.out.contains("1,197 lines counted"), "{}", ran.out);

    file.write(&good);
    let ran = file.import(world.endpoint(), &[]).await;
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert!(
        ran.out
            .contains("3 lines counted (3 units), 1,197 had been"),
        "{}",
        ran.out
    );
    assert_eq!(counted(&world).await, 1_200);
    world.finish().await;
}

async fn an_interrupted_import_resumes_where_it_stopped(world: World) {
    let file = Usage::new("usage.csv", &csv(2_500));
    let whole = fs::read_to_string(file.path()).unwrap();
    // A line that ends the import after the first thousand lines.
    let broken: Vec<&str> = whole.lines().collect();
    let mut broken = broken.join("\n");
    let place = broken.match_indices('\n').nth(1_500).unwrap().0;
    broken.insert(place, ',');
    file.write(&broken);
    let ran = file.import(world.endpoint(), &["--max-bad", "1"]).await;
    assert_eq!(ran.code, 4, "{}", ran.err);
    assert_eq!(counted(&world).await, 1_000);
    assert!(!file.is_alone());

    // The server cannot be reached. The lines before the invalid one are unchanged.
    file.write(&whole);
    let nowhere = RefusedAddress::new();
    let ran = file.import(&nowhere.endpoint(), &["--timeout", "1"]).await;
    assert_eq!(ran.code, 3, "{}", ran.err);
    assert!(ran.err.contains("Import the file again"), "{}", ran.err);
    let ran = file.import(world.endpoint(), &[]).await;
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert_eq!(ran.err, "going on after line 1001\n");
    assert!(
        ran.out.contains("2,500 lines counted (2,500 units), 0 had"),
        "{}",
        ran.out
    );
    assert_eq!(counted(&world).await, 2_500);
    assert!(file.is_alone());
    world.finish().await;
}

async fn moved_lines_count_once_and_equal_lines_count_each(world: World) {
    let head = "account_id,meter,quantity,timestamp";
    let at = hours_ago(5).to_rfc3339();
    let line = |account, quantity| format!("{account},api_calls,{quantity},{at}");
    let lines = [line("a", 1), line("b", 20), line("a", 1), line("c", 300)];
    let [first, second, third, fourth] = &lines;
    let bad = "b,api_calls,none,today";
    let text = |lines: &[&str], end: &str| {
        let all: Vec<&str> = [head].into_iter().chain(lines.iter().copied()).collect();
        all.join(end) + end
    };
    let file = Usage::new(
        "usage.csv",
        &text(&[first, bad, second, third, fourth], "\n"),
    );
    assert_eq!(file.import(world.endpoint(), &[]).await.code, 4);
    assert_eq!(counted(&world).await, 322);
    // The invalid line is removed, the others are sorted and saved with other line endings.
    for text in [
        text(&[first, second, third, fourth], "\n"),
        text(&[fourth, third, second, first], "\r\n"),
    ] {
        file.write(&text);
        let ran = file.import(world.endpoint(), &[]).await;
        assert_eq!(ran.code, 0, "{}", ran.err);
        assert!(ran.out.starts_with("0 lines counted"), "{}", ran.out);
        assert_eq!(counted(&world).await, 322);
    }
    // Another one of the equal lines is another unit. With another name, it is another file.
    file.write(&text(&[first, first, first, second, fourth], "\n"));
    let ran = file.import(world.endpoint(), &[]).await;
    assert!(
        ran.out.starts_with("1 lines counted (1 units), 4 had"),
        "{}",
        ran.out
    );
    let ran = file.import(world.endpoint(), &["--name", "other"]).await;
    assert!(
        ran.out.starts_with("5 lines counted (323 units), 0 had"),
        "{}",
        ran.out
    );
    assert_eq!(counted(&world).await, 646);
    world.finish().await;
}

async fn refused_lines_are_listed_again_when_an_import_resumes(world: World) {
    let text = csv(1_500).replacen("b,api_calls,1", "b,nonsense,1", 1);
    let lines: Vec<&str> = text.lines().collect();
    let mut broken = lines.clone();
    broken[1_200] = "a,api_calls,-,-";
    let file = Usage::new("usage.csv", &(broken.join("\n") + "\n"));
    let ran = file.import(world.endpoint(), &["--max-bad", "2"]).await;
    assert_eq!(ran.code, 4, "{}", ran.err);
    file.write(&text);
    let ran = file.import(world.endpoint(), &[]).await;
    assert_eq!(ran.code, 4, "{}", ran.err);
    assert!(
        ran.err.starts_with("going on after line 1001\nline 3: "),
        "{}",
        ran.err
    );
    assert!(
        ran.out
            .contains("1,499 lines counted (1,499 units), 0 had been counted before, 1 bad"),
        "{}",
        ran.out
    );
    assert_eq!(counted(&world).await, 1_499);
    world.finish().await;
}

async fn bad_lines_are_read_again_when_an_import_resumes(world: World) {
    // Lines of two kinds that mean the same, so that they differ by their number alone.
    let at = hours_ago(5);
    let local = at.format("%Y-%m-%d %H:%M:%S").to_string();
    let at = at.format("%Y-%m-%dT%H:%M:%SZ").to_string();
    let line = |at: &str| format!("{{\"account_id\":\"a\",\"timestamp\":\"{at}\"}}\n");
    let text = line(&local) + &line(&at).repeat(1_200) + "{\n" + &line(&local);
    let file = Usage::new("usage.jsonl", &text);
    let ran = file.import(world.endpoint(), &["--max-bad", "2"]).await;
    assert_eq!(ran.code, 4, "{}", ran.err);
    assert!(ran.err.contains("line 1: timestamp "), "{}", ran.err);
    assert_eq!(counted(&world).await, 1_000);
    // Line 1 is good now. It is not lost, although it is before the place where the import stopped.
    let utc = ["--time-zone", "UTC", "--max-bad", "1"];
    let ran = file.import(world.endpoint(), &utc).await;
    assert_eq!(ran.code, 4, "{}", ran.err);
    assert!(
        ran.err.contains("begun with other options; starting at"),
        "{}",
        ran.err
    );
    assert!(
        ran.out.contains("0 lines counted (0 units), 1,000 had"),
        "{}",
        ran.out
    );
    // Lines that were counted would have other keys.
    for other in [&["--time-zone", "Asia/Kolkata"], &["--name", "other"]] {
        let ran = file.import(world.endpoint(), other).await;
        assert_eq!((ran.code, &*ran.out), (1, ""), "{}", ran.err);
        assert!(
            ran.err.contains("other options was not finished"),
            "{}",
            ran.err
        );
        assert_eq!(counted(&world).await, 1_000);
    }
    let ran = file.import(world.endpoint(), &utc[..2]).await;
    assert!(
        ran.err.starts_with("going on after line 1000\n"),
        "{}",
        ran.err
    );
    assert!(
        ran.out.contains("202 lines counted (202 units), 1,000 had"),
        "{}",
        ran.out
    );
    assert_eq!(counted(&world).await, 1_202);
    world.finish().await;
}

async fn a_batch_that_is_retried_has_the_results_of_its_first_attempt(world: World) {
    // The batch is counted, and its response does not come before the deadline, which ends the client's own retries.
    let server = FlakyServer::start(world.endpoint(), [Behavior::RespondsTooLate]).await;
    let file = Usage::new("usage.csv", &csv(3));
    let path = file.path();
    let args = ["import", path.to_str().unwrap(), "--timeout", "2"];
    let ran = usagectl(server.endpoint(), &args).await;
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert!(server.calls() > 1);
    assert_eq!(
        ran.out,
        "3 lines counted (3 units), 0 had been counted before, 0 bad\n"
    );
    assert_eq!(counted(&world).await, 3);
    world.finish().await;
}

async fn a_dry_import_counts_nothing(world: World) {
    let file = Usage::new("usage.csv", &(csv(10) + "a,api_calls,-,x\n"));
    let ran = file.import(world.endpoint(), &["--dry-run"]).await;
    assert_eq!(ran.code, 4);
    assert_eq!(
        ran.out,
        "10 lines would be counted (10 units), 0 had been counted before, 1 bad\n  \
         1 quantity not valid, first in line 12\n"
    );
    assert_eq!(counted(&world).await, 0);
    assert!(file.is_alone());
    world.finish().await;
}
