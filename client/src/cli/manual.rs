//! `usagectl completions` and `usagectl man`

use super::{Cli, Streams, exit::Failure};
use clap::{Command, CommandFactory as _};
use clap_complete::Shell;
use std::io::Write as _;

const NAME: &str = "usagectl";

pub(super) fn complete(shell: Shell, streams: &mut Streams<'_>) -> Result<(), Failure> {
    // Written at once: the generator panics if it cannot write.
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), NAME, &mut script);
    Ok(streams.out.write_all(&script)?)
}

/// One page with all commands.
pub(super) fn print(streams: &mut Streams<'_>) -> Result<(), Failure> {
    let mut page = Vec::new();
    let mut command = Cli::command();
    command.build();
    let man = clap_mangen::Man::new(command.clone());
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_options_section(&mut page)?;
    man.render_extra_section(&mut page)?;
    print_commands(&command, &mut page)?;
    Ok(streams.out.write_all(&page)?)
}

/// A section for each command below a command.
fn print_commands(command: &Command, page: &mut Vec<u8>) -> Result<(), Failure> {
    for sub in command.get_subcommands() {
        let own = sub.get_arguments().filter(|arg| !arg.is_global_set());
        let hidden: Vec<_> = sub
            .get_arguments()
            .filter(|arg| arg.is_global_set())
            .map(|arg| arg.get_id().clone())
            .collect();
        // The flags of the connection are on the first page.
        let short = hidden
            .into_iter()
            .fold(sub.clone(), |sub, id| sub.mut_arg(id, |arg| arg.hide(true)));
        if own.count() > 0 {
            let name = sub.get_bin_name().unwrap_or_default().to_uppercase();
            writeln!(page, ".SH \"{name}\"")?;
            let man = clap_mangen::Man::new(short);
            man.render_description_section(page)?;
            man.render_synopsis_section(page)?;
            man.render_options_section(page)?;
        }
        print_commands(sub, page)?;
    }
    Ok(())
}
