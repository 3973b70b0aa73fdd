//! The library that makes calls to the disk fail: built here, and controlled through a file that it maps.

use std::{
    fs::{self, File},
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

// The same numbers as in disk_faults.c.
pub(crate) const DATABASE: i32 = 1;
pub(crate) const LOG: i32 = 2;
pub(crate) const JOURNAL: i32 = 4;
pub(crate) const INDEX: i32 = 8;
pub(crate) const WRITE: i32 = 1;
pub(crate) const SYNC: i32 = 2;
pub(crate) const TRUNCATE: i32 = 4;
pub(crate) const OPEN: i32 = 8;
const FAIL: i32 = 1;
const SHORTEN: i32 = 2;
const HANG: i32 = 3;

/// The errors of Linux for a disk that is broken, full, or full for this user or process.
pub(crate) const ENOSPC: i32 = 28;
pub(crate) const EIO: i32 = 5;
pub(crate) const EDQUOT: i32 = 122;
pub(crate) const EFBIG: i32 = 27;

/// The rules in the file, and the numbers of a rule: action, files, calls, error, skip, times, seen, hits.
const RULES: u64 = 4;
const RULE_BYTES: u64 = 8 * 4;
const HITS_AT: u64 = 7 * 4;

/// What happens at some calls for some files.
#[derive(Clone, Copy)]
pub(crate) struct Rule {
    action: i32,
    files: i32,
    calls: i32,
    error: i32,
    skip: i32,
    times: i32,
}

impl Rule {
    /// The calls fail.
    pub(crate) fn fail(files: i32, calls: i32, error: i32) -> Self {
        Self {
            action: FAIL,
            files,
            calls,
            error,
            skip: 0,
            times: -1,
        }
    }

    /// Writes accept only half of the bytes.
    pub(crate) fn shorten(files: i32) -> Self {
        Self {
            action: SHORTEN,
            ..Self::fail(files, WRITE, 0)
        }
    }

    /// The calls wait until the rule is cleared.
    pub(crate) fn hang(files: i32, calls: i32) -> Self {
        Self {
            action: HANG,
            ..Self::fail(files, calls, 0)
        }
    }

    /// Lets some calls pass first.
    pub(crate) fn after(self, skip: i32) -> Self {
        Self { skip, ..self }
    }

    /// Ends after some faults.
    pub(crate) fn times(self, times: i32) -> Self {
        Self { times, ..self }
    }
}

/// The rules of one server.
pub(crate) struct Faults {
    path: PathBuf,
    file: File,
}

impl Faults {
    /// Creates the file of the rules, without a rule.
    pub(crate) fn create(path: PathBuf) -> Self {
        let file = File::options()
            .create_new(true)
            .read(true)
            .write(true)
            .open(&path)
            .unwrap();
        file.set_len(RULES * RULE_BYTES).unwrap();
        Self { path, file }
    }

    /// The environment that loads the library.
    pub(crate) fn environment(&self) -> [(&'static str, PathBuf); 2] {
        [
            ("LD_PRELOAD", library().to_owned()),
            ("DISK_FAULTS", self.path.clone()),
        ]
    }

    /// Replaces the rules.
    pub(crate) fn set(&self, rules: &[Rule]) {
        self.clear();
        for (number, rule) in (0..RULES).zip(rules) {
            let at = number * RULE_BYTES;
            let parts = [
                rule.files, rule.calls, rule.error, rule.skip, rule.times, 0, 0,
            ];
            let bytes: Vec<u8> = parts.into_iter().flat_map(i32::to_ne_bytes).collect();
            self.file.write_all_at(&bytes, at + 4).unwrap();
            // Last, because it starts the rule.
            self.file
                .write_all_at(&rule.action.to_ne_bytes(), at)
                .unwrap();
        }
    }

    /// Ends all rules.
    pub(crate) fn clear(&self) {
        for number in 0..RULES {
            self.file
                .write_all_at(&[0; 4], number * RULE_BYTES)
                .unwrap();
        }
    }

    /// How often a rule has applied since it was set.
    pub(crate) fn hits(&self, number: u64) -> i32 {
        let mut bytes = [0; 4];
        let at = number * RULE_BYTES + HITS_AT;
        self.file.read_exact_at(&mut bytes, at).unwrap();
        i32::from_ne_bytes(bytes)
    }
}

/// The library, built once.
fn library() -> &'static Path {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
        fs::create_dir_all(folder).unwrap();
        let source = folder.join(format!("disk_faults-{}.c", std::process::id()));
        fs::write(&source, include_str!("disk_faults.c")).unwrap();
        let built = folder.join(format!("disk_faults-{}.so", std::process::id()));
        let compiled = Command::new("cc")
            .args(["-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o"])
            .args([&built, &source])
            .args(["-ldl", "-lpthread"])
            .output()
            .expect("a C compiler named `cc`, which Rust needs too: install gcc or clang");
        let errors = String::from_utf8_lossy(&compiled.stderr).into_owned();
        assert!(compiled.status.success(), "disk_faults.c: {errors}");
        fs::remove_file(source).unwrap();
        // The same name in each run, so that no files pile up.
        let library = folder.join("disk_faults.so");
        fs::rename(built, &library).unwrap();
        library
    })
}
