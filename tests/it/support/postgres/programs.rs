//! Finds the programs of `PostgreSQL` on this machine, and the user to run them as.

use super::{StartError, Unavailable};
use std::{
    env,
    ffi::OsStr,
    fs, io,
    os::unix::{fs::MetadataExt as _, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// A command in the server's folder, without the environment of the user who runs the tests.
pub(crate) fn command(program: &Path, folder: &Path, owner: Option<Owner>) -> Command {
    let mut command = Command::new(program);
    command.current_dir(folder).stdin(Stdio::null());
    for (name, _) in env::vars_os() {
        if name.to_string_lossy().starts_with("PG") {
            command.env_remove(name);
        }
    }
    if let Some(owner) = owner {
        command.uid(owner.uid).gid(owner.gid);
    }
    command
}

/// The user of the server, if it is not the current one.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Owner {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

impl Owner {
    /// `PostgreSQL` refuses to run as root. The owner of a new folder is the current user.
    pub(crate) fn of_servers(folder: &Path) -> Result<Option<Self>, StartError> {
        if fs::metadata(folder)?.uid() != 0 {
            return Ok(None);
        }
        let users = fs::read_to_string("/etc/passwd")?;
        let found = users.lines().find_map(|line| {
            let mut fields = line.split(':');
            (fields.next()? == "postgres").then_some(())?;
            let uid = fields.nth(1)?.parse().ok()?;
            let gid = fields.next()?.parse().ok()?;
            Some(Self { uid, gid })
        });
        let missing = || Unavailable("as root it needs the user `postgres` to run as".to_owned());
        Ok(Some(found.ok_or_else(missing)?))
    }
}

/// The programs of one installation.
#[derive(Debug)]
pub(super) struct Programs {
    pub(super) initdb: PathBuf,
    pub(super) postgres: PathBuf,
}

impl Programs {
    /// Another program of the same installation.
    pub(super) fn beside(&self, program: &str) -> PathBuf {
        self.postgres.with_file_name(program)
    }

    /// Those of the installation of a `pg_config`.
    pub(super) fn of_installation(pg_config: &OsStr) -> Result<Self, StartError> {
        let printed = Command::new(pg_config).arg("--bindir").output()?;
        let folder = String::from_utf8_lossy(&printed.stdout).trim().to_owned();
        let folder = PathBuf::from(folder);
        let programs = Self {
            initdb: folder.join("initdb"),
            postgres: folder.join("postgres"),
        };
        if programs.initdb.is_file() && programs.postgres.is_file() {
            return Ok(programs);
        }
        let why = format!(
            "{} has no PostgreSQL in {}",
            pg_config.display(),
            folder.display()
        );
        Err(io::Error::other(why).into())
    }

    pub(super) fn find() -> Result<Self, Unavailable> {
        let missing = |program: &str| {
            Unavailable(format!(
                "`{program}` is neither in PATH nor in /usr/lib/postgresql/*/bin"
            ))
        };
        let path = env::var_os("PATH").unwrap_or_default();
        let initdb = env::split_paths(&path)
            .chain(debian_folders())
            .map(|folder| folder.join("initdb"))
            .find_map(|program| program.canonicalize().ok())
            .ok_or_else(|| missing("initdb"))?;
        // Only a server of the same version can run a cluster that `initdb` created.
        let postgres = initdb.with_file_name("postgres");
        if !postgres.is_file() {
            return Err(missing("postgres"));
        }
        Ok(Self { initdb, postgres })
    }
}

/// `/usr/lib/postgresql/*/bin`, the newest version first.
fn debian_folders() -> Vec<PathBuf> {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten();
    let mut versions: Vec<u32> = versions
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect();
    versions.sort_unstable_by(|a, b| b.cmp(a));
    let folder = |version| PathBuf::from(format!("/usr/lib/postgresql/{version}/bin"));
    versions.into_iter().map(folder).collect()
}
