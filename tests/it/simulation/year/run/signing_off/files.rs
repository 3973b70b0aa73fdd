//! The files of a closed month: the command's JSON lines are those of the model, its CSV has the same rows, and the server sends
//! the same bytes.

use serde_json::Value;
use sha2::{Digest as _, Sha256};
use usage_client::{ExportSignOff, PutAccount, SignOffFile, SignOffTotals, UsageClient};
use usage_server::domain::hex::hex;

use super::{FIGURES, Month, Year, compare_totals, figure, key};
use crate::{simulation::year::oracle::Fate, support::world::within};

impl Year<'_> {
    /// Whether a month can be closed: whatever is left of it is for an admin.
    pub(super) fn is_closable(&self, month: &Month, rows: &[Value]) -> bool {
        let now = self.now.timestamp_millis();
        let own = format!("y{}-", self.seed);
        // The usage of a seed before this one stays as it is.
        let mut others = rows
            .iter()
            .filter(|row| row["row"] == "usage" && !key(row).0.starts_with(&own));
        let mut usage = self.accounts.iter().flat_map(|account| {
            let time = month.start..month.end;
            let rows = account.model.rows_within(&time);
            let states = rows.map(|row| (row.fate, account.model.is_charged(row.fate, now)));
            states.collect::<Vec<_>>()
        });
        let is_left_to_admins = |(fate, is_charged): (Fate, bool)| match fate {
            Fate::Open | Fate::Closed => false,
            Fate::Sent(_) => is_charged,
            _ => true,
        };
        month.is_over && others.all(|row| row["final"] == true) && usage.all(is_left_to_admins)
    }

    /// Closes a month, as finance would before it signs it off, and compares its files.
    pub(super) async fn close_and_compare_files(&mut self, month: &Month) {
        let time = month.start..month.end;
        for account in 0..self.accounts.len() {
            let model = &self.accounts[account].model;
            let is_unlinked = model
                .rows_within(&time)
                .any(|row| row.fate == Fate::NoCustomer);
            if is_unlinked {
                self.free_unlinked(account).await;
            }
            self.write_off(account, &time).await;
        }
        self.world.wait_until_idle().await;
        let (lines, csv) = (
            self.printed(month, "jsonl").await,
            self.printed(month, "csv").await,
        );
        let rows = lines.lines().map(serde_json::from_str);
        let rows: Vec<Value> = rows.collect::<Result<_, _>>().expect("rows");
        assert!(rows.iter().all(|row| row["final"] == true), "{rows:#?}");
        self.compare_usage(month, &rows).await;
        compare_totals(month, &rows);
        compare_csv(&csv, &rows);
        let client = self.world.client();
        let shown = client.sign_off(&month.name).await.expect("a sign-off");
        assert!(shown.closed && shown.reasons.is_empty(), "{shown:?}");
        compare_shown(&shown.total, rows.last().expect("a total"));
        for (printed, wanted, file) in [
            (
                &lines,
                ExportSignOff::json_lines(&month.name),
                &shown.json_lines,
            ),
            (&csv, ExportSignOff::csv(&month.name), &shown.csv),
        ] {
            let (sent, end) = sent(&client, wanted).await;
            assert_eq!(sent, *printed, "{}, seed {}", month.name, self.seed);
            assert_eq!(end.sha256, hex(&Sha256::digest(printed.as_str())));
            assert_eq!(end.rows, i64::try_from(rows.len()).expect("few rows"));
            assert_eq!(end, *file, "{}, seed {}", month.name, self.seed);
        }
    }

    /// What the command prints for a closed month.
    async fn printed(&self, month: &Month, format: &str) -> String {
        let format = format!("--format={format}");
        let args = ["sign-off", "--month", month.name.as_str(), format.as_str()];
        let (text, notes) = self.world.export_at(self.now, &args).await.expect("a file");
        let digest = hex(&Sha256::digest(text.as_str()));
        assert!(notes.contains(&format!("SHA-256 {digest}")), "{notes}");
        text
    }

    /// What was counted before an account had a link is never billed.
    async fn free_unlinked(&mut self, account: usize) {
        let one = &mut self.accounts[account];
        let put = PutAccount::free(&one.name);
        let freed = self.world.client().put_account(put).await;
        let from = freed.expect("a link").account.valid_from;
        one.is_known = true;
        one.model.link(from.timestamp_millis(), false);
    }
}

/// All bytes that the server sends, and their end.
async fn sent(client: &UsageClient, wanted: ExportSignOff) -> (String, SignOffFile) {
    within("a file", async {
        let mut export = client.export_sign_off(wanted).await.expect("an export");
        let mut all = Vec::new();
        while let Some(bytes) = export.next().await.expect("bytes") {
            all.extend(bytes);
        }
        let text = String::from_utf8(all).expect("text");
        (text, export.file().expect("an end").clone())
    })
    .await
}

/// The totals that the server shows are those of the file.
fn compare_shown(shown: &SignOffTotals, total: &Value) {
    let figures = [
        ("reports", shown.reports),
        ("counted", shown.counted),
        ("already_sent", shown.already_sent),
        ("corrected", shown.corrected),
        ("not_billable", shown.not_billable),
        ("written_off", shown.written_off),
        ("reported", shown.reported),
        ("confirmed", shown.confirmed),
        ("invoiced", shown.invoiced),
        ("acknowledged", shown.acknowledged),
        ("difference", shown.difference),
        ("open", shown.open),
        ("to_send", shown.to_send),
        ("no_customer", shown.no_customer),
        ("needs_decision", shown.needs_decision),
        ("decisions", shown.decisions),
    ];
    assert_eq!(figures.map(|(name, _)| name), FIGURES);
    for (column, own) in figures {
        assert_eq!(own, figure(total, column), "{column}: {shown:?} {total}");
    }
}

/// The CSV has the names and values of the JSON lines, in the same order of rows.
fn compare_csv(csv: &str, rows: &[Value]) {
    let records = records(csv);
    let (names, records) = records.split_first().expect("names");
    assert_eq!(records.len(), rows.len(), "{csv}");
    for (record, row) in records.iter().zip(rows) {
        let columns = row.as_object().expect("an object").len();
        assert_eq!((names.len(), record.len()), (columns, columns), "{row}");
        for (name, found) in names.iter().zip(record) {
            let own = match &row[name.as_str()] {
                Value::Null => String::new(),
                Value::String(text) => text.clone(),
                other => other.to_string(),
            };
            assert_eq!(*found, own, "{name} of {row}");
        }
    }
}

/// The records of CSV, as RFC 4180 has it.
fn records(csv: &str) -> Vec<Vec<String>> {
    let (mut records, mut record, mut field) = (Vec::new(), Vec::new(), String::new());
    let mut is_quoted = false;
    let mut chars = csv.chars().peekable();
    while let Some(next) = chars.next() {
        match next {
            '"' if is_quoted && chars.peek() == Some(&'"') => {
                chars.next();
                field.push('"');
            }
            '"' => is_quoted = !is_quoted,
            ',' if !is_quoted => record.push(std::mem::take(&mut field)),
            '\r' if !is_quoted => {}
            '\n' if !is_quoted => {
                record.push(std::mem::take(&mut field));
                records.push(std::mem::take(&mut record));
            }
            other => field.push(other),
        }
    }
    assert!(field.is_empty() && record.is_empty(), "{csv}");
    records
}
