//! Helper that runs `usage-server export`.

use chrono::{DateTime, Utc};
use clap::Parser;
use usage_server::commands::export::{self, ExportCommand};

use super::{World, within};

/// The command.
#[derive(Parser)]
pub(crate) struct ExportCli {
    #[command(flatten)]
    pub(crate) command: ExportCommand,
}

impl World {
    /// The command with some arguments, on this database.
    pub(crate) fn export_command(&self, args: &[&str]) -> Result<ExportCommand, String> {
        let url = format!("--database-url={}", self.database_url);
        let all = ["export", &url].into_iter().chain(args.iter().copied());
        let cli = ExportCli::try_parse_from(all).map_err(|error| error.to_string())?;
        Ok(cli.command)
    }

    /// Runs the command at a time. Returns what it printed and its notes, or why it failed.
    pub(crate) async fn export_at(
        &self,
        now: DateTime<Utc>,
        args: &[&str],
    ) -> Result<(String, String), String> {
        let command = self.export_command(args)?;
        let (mut out, mut notes) = (Vec::new(), Vec::new());
        let now = now.timestamp_millis();
        let exported = export::run(&command, now, &mut out, &mut notes);
        let exported = within("an export", exported).await;
        exported.map_err(|error| error.to_string())?;
        let text = |bytes| String::from_utf8(bytes).expect("text");
        Ok((text(out), text(notes)))
    }
}
