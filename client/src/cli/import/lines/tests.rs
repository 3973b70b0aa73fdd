//! Tests of reading lines.

use super::*;
use proptest::prelude::*;

const GOOD: &str = "account_id,quantity,timestamp,note\n\
    a,1,2026-03-01T00:00:00Z,\n\
    b,2,2026-03-01T00:00:01Z,\"two\nlines\"\n\
    d,x,2026-03-01T00:00:02Z,\n\
    e,3\n\
    f,4,2026-03-01T01:00:00+01:00,\n";

fn open(text: &[u8]) -> io::Result<Lines> {
    let rules = Rules {
        format: None,
        columns: Columns::new(&[], false, true).unwrap(),
        zone: None,
    };
    Lines::open(Box::new(io::Cursor::new(text.to_vec())), rules)
}

/// Each line's number, and its account or error.
fn all(text: impl AsRef<[u8]>) -> Vec<(u64, String)> {
    let text = text.as_ref();
    let (mut lines, mut found) = (open(text).unwrap(), Vec::new());
    let mut place = Place::default();
    while let Some(line) = lines.next().unwrap() {
        assert!(line.place.offset > place.offset, "lines are taken");
        place = line.place;
        let what = line.row.map_or_else(|bad| bad.why, |row| row.account);
        found.push((line.number, what));
    }
    let length = u64::try_from(text.trim_ascii_end().len()).unwrap();
    assert!(
        lines.physical.place().offset >= length,
        "the whole text is read"
    );
    assert_eq!(lines.physical.place().crc32, crc32fast::hash(text));
    found
}

fn numbered<const N: usize>(lines: [(u64, &str); N]) -> Vec<(u64, String)> {
    lines
        .map(|(number, what)| (number, what.to_owned()))
        .to_vec()
}

#[test]
fn csv_lines_have_the_number_of_their_first_line() {
    let expected = numbered([
        (2, "a"),
        (3, "b"),
        (5, "quantity \"x\" is not a whole number"),
        (6, "2 fields, and the header has 4"),
        (7, "f"),
    ]);
    let windows = GOOD.replace('\n', "\r\n");
    let marked = format!("\u{feff}{GOOD}");
    let quoted = GOOD.replacen("account_id", "\u{feff}\"account_id\"", 1);
    for text in [
        GOOD,
        GOOD.trim_end(),
        &windows,
        windows.trim_end(),
        &marked,
        &quoted,
    ] {
        assert_eq!(all(text), expected, "{text:?}");
    }
}

#[test]
fn empty_lines_are_skipped_and_numbered() {
    let spaced = format!("\n{}\n\n", GOOD.replacen("\na,", "\n\n \na,", 1));
    for text in [spaced.replace('\n', "\r\n"), spaced] {
        let numbers: Vec<u64> = all(&text).iter().map(|line| line.0).collect();
        assert_eq!(numbers, [5, 6, 8, 9, 10], "{text:?}");
    }
    let json = r#"{"account_id":"a","timestamp":1772366400}"#;
    for text in [
        format!("\u{feff}{json}\n\n{json}"),
        format!("{json}\r\n\r\n{json}\r\n"),
    ] {
        assert_eq!(all(&text), numbered([(1, "a"), (3, "a")]));
    }
}

#[test]
fn reading_goes_on_after_the_first_line_of_a_bad_record() {
    let row = |account: &str, note: &str| format!("{account},1,1772366400,{note}\n");
    let text = |notes: &[&str]| {
        let rows = notes.iter().zip(["a", "b", "c", "d"]);
        let rows: String = rows.map(|(note, account)| row(account, note)).collect();
        format!("account_id,quantity,timestamp,note\n{rows}")
    };
    for (notes, bad, why) in [
        (
            ["\"left open", "", "\"y\"", ""],
            &["a"][..],
            "it runs to line 4, where text follows",
        ),
        (
            ["\"closed\" then", "", "", ""],
            &["a"],
            "text follows the closing quote of field 4",
        ),
        (
            ["5\" pipe", "", "", ""],
            &["a"],
            "field 4 has a quote inside",
        ),
        (
            ["", "", "\"open", ""],
            &["c"],
            "unfinished: the input ends inside the quote of field 4",
        ),
        // Closed by chance, which would make one good record of it.
        (
            ["\"open", "", "\"", ""],
            &["a", "c"],
            "line 3 would be inside of it, and is a whole row",
        ),
        (
            ["\"open", "\"", "", ""],
            &["a", "b"],
            "line 3 would be inside of it, and is a whole row",
        ),
    ] {
        let found = all(text(&notes));
        assert_eq!(found.len(), 4, "{found:?}");
        for (number, account) in (2..).zip(["a", "b", "c", "d"]) {
            let line = found.iter().find(|line| line.0 == number).unwrap();
            assert_eq!(
                line.1 != account,
                bad.contains(&account),
                "{notes:?}: {found:?}"
            );
        }
        assert!(found.iter().any(|line| line.1.contains(why)), "{found:?}");
    }
    // A quoted text with line breaks is one field.
    let found = all(text(&["\"a list:\n1,2,3,4\n\n\"", "", "", ""]));
    assert_eq!(found, numbered([(2, "a"), (6, "b"), (7, "c"), (8, "d")]));
}

#[test]
fn a_row_that_begins_inside_an_open_quote_is_not_lost() {
    // The quotes of two rows close each other.
    let text = "account_id,note,quantity,timestamp\n\
        a,\"open,1,1772366400\nb,\"\nlines\",20,1772366400\nc,,1,1772366400\n";
    let found = all(text);
    assert_eq!(found[0].1, "2 fields, and the header has 4");
    assert_eq!(found[1..], numbered([(3, "b"), (5, "c")]));
}

#[test]
fn too_long_lines_and_records_are_bad_and_not_kept() {
    let head = "account_id,timestamp,note\n";
    let long = "x".repeat(3 * MAX_LINE_BYTES);
    let length = long.len() + "a,1,\n".len();
    let last = "b,1772366400,\n";
    let found = all(format!("{head}a,1,{long}\n{last}"));
    let why = format!("the line has {length} bytes, and may have at most 65536");
    assert_eq!(found, numbered([(2, &why), (3, "b")]));

    let lines = last.repeat(2 * MAX_LINE_BYTES / last.len());
    let found = all(format!("{head}a,1772366400,\"\n{lines}"));
    assert_eq!(
        found[0].1,
        "the quote of field 3 is not closed within 65536 bytes"
    );
    assert!(found[1..].iter().all(|line| line.1 == "b"));
    assert_eq!(found.len(), 1 + lines.lines().count());

    let found = all(format!("{{\"account_id\":\"{long}\"}}\n{{\n"));
    assert!(found[0].1.starts_with("the line has "), "{found:?}");
    assert!(found[1].1.starts_with("not valid JSON"), "{found:?}");
    let header = open(long.as_bytes()).err().unwrap();
    assert!(header.to_string().contains("at most 65536"), "{header}");
}

#[test]
fn bad_headers_refuse_the_file() {
    for (text, why) in [
        (&b""[..], "the input is empty"),
        (b"account_id,\"timestamp\n", "the header is bad: unfinished"),
        (b"account_id,\xff,timestamp\n", "the header is not UTF-8"),
        (b"account_id,quantity,timestamp,quantity\n", "twice"),
        (
            b"account_id,timestamp\ra,1772366400\r",
            "the header has no column",
        ),
    ] {
        let error = open(text).err().unwrap().to_string();
        assert!(error.contains(why), "{error}");
    }
}

#[test]
fn all_json_lines_have_an_id_or_none_has() {
    let line = |rest: &str| format!("{{\"account_id\":\"a\",\"timestamp\":1772366400{rest}}}\n");
    let (with, without) = (line(",\"id\":\"x\""), line(""));
    let why = |first: &str, second: &str| all(format!("{first}{second}"))[1].1.clone();
    assert_eq!(
        why(&with, &without),
        "id is missing, and the first line has one"
    );
    assert!(why(&without, &with).starts_with("id is there, but the first line has none"));
    assert_eq!(why(&with, &line(",\"id\":null")), "id is missing");
    assert_eq!(why(&with, &line(",\"id\":7")), "a");
}

/// Rows of one unit more each. Every third has a field of two lines.
fn numbered_rows() -> Vec<String> {
    let row = |nth: usize| {
        let note = if nth.is_multiple_of(3) {
            "\"two\nlines\""
        } else {
            "note"
        };
        format!("acct{nth},{},1772366400,{note}\n", nth + 1)
    };
    (0..9).map(row).collect()
}

/// The accounts and quantities of the rows in a text.
fn rows(text: &[u8]) -> Vec<(String, i64)> {
    let Ok(mut lines) = open(text) else {
        return Vec::new();
    };
    let (mut found, mut place) = (Vec::new(), Place::default());
    while let Some(line) = lines.next().unwrap() {
        assert!(line.place.offset > place.offset, "lines are taken");
        place = line.place;
        match line.row {
            Ok(row) => found.push((row.account, row.quantity)),
            Err(bad) => assert!(!bad.why.is_empty() && line.number > 0),
        }
    }
    found
}

proptest! {
    #[test]
    fn damage_in_a_line_loses_no_other(
        row in 0..9_usize,
        place in any::<prop::sample::Index>(),
        byte in prop_oneof![any::<u8>(), Just(b'"'), Just(b','), Just(b'\n'), Just(b'\r'), Just(0)],
        kind in 0..4,
    ) {
        let mut all: Vec<Vec<u8>> = numbered_rows().into_iter().map(String::into_bytes).collect();
        let changed = &mut all[row];
        // Its last byte ends the line.
        let place = place.index(changed.len() - 1);
        match kind {
            0 => changed[place] = byte,
            1 => changed.insert(place, byte),
            2 => drop(changed.remove(place)),
            _ => drop(changed.drain(place..changed.len() - 1)),
        }
        let header = b"account_id,quantity,timestamp,note\n".to_vec();
        let found = rows(&[vec![header], all].concat().concat());
        for (nth, other) in numbered_rows().iter().enumerate().filter(|(nth, _)| *nth != row) {
            let quantity = i64::try_from(nth).unwrap() + 1;
            let expected = (format!("acct{nth}"), quantity);
            prop_assert!(found.contains(&expected), "{other:?} is lost: {found:?}");
        }
        prop_assert!(found.len() <= 10, "{found:?}");
    }

    #[test]
    fn any_bytes_are_read_without_a_panic(
        bytes in proptest::collection::vec(prop_oneof![any::<u8>(), Just(b'"'), Just(b','), Just(b'\n')], 0..300),
        has_header in any::<bool>(),
    ) {
        let header: &[u8] = if has_header { b"account_id,timestamp\n" } else { b"" };
        rows(&[header, &bytes].concat());
        rows(&[&b"{\"account_id\":"[..], &bytes].concat());
    }
}
