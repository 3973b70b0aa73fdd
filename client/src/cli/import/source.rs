//! Opens the input: a file or a pipe, plain or compressed with gzip. Everything else is an error that names it.

use flate2::bufread::MultiGzDecoder;
use std::{
    fs::{self, File},
    io::{self, BufReader, Cursor, Read},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

/// Where the input comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Source {
    /// A file that can be read again.
    File(PathBuf),
    /// A pipe or a device, which can be read once.
    Pipe(PathBuf),
    /// The standard input, written as `-`.
    Input,
}

impl Source {
    /// # Errors
    /// There is no such file, or it is a folder.
    pub(super) fn of(path: &Path) -> io::Result<Self> {
        if path == Path::new("-") {
            return Ok(Self::Input);
        }
        let metadata = fs::metadata(path)?;
        if metadata.is_dir() {
            return Err(invalid("this is a folder; import its files one by one"));
        }
        // The name of an open file, such as /dev/stdin, says nothing about its contents.
        let is_device = ["/dev", "/proc"]
            .iter()
            .any(|folder| path.starts_with(folder));
        let path = path.to_owned();
        Ok(if metadata.is_file() && !is_device {
            Self::File(path)
        } else {
            Self::Pipe(path)
        })
    }

    /// The file, if the input can be read again.
    pub(super) fn file(&self) -> Option<&Path> {
        match self {
            Self::File(path) => Some(path),
            Self::Pipe(_) | Self::Input => None,
        }
    }
}

/// Opens a file or a named pipe. `read` counts the bytes before decompression.
pub(super) fn open_path(path: &Path, read: Arc<AtomicU64>) -> io::Result<Box<dyn Read + Send>> {
    open(Box::new(Counted {
        input: File::open(path)?,
        read,
    }))
}

/// Decompresses the input if it is compressed with gzip. Its contents decide, not its name.
pub(super) fn open(input: Box<dyn Read + Send>) -> io::Result<Box<dyn Read + Send>> {
    let (head, input) = with_head(input)?;
    if !head.starts_with(GZIP) {
        refuse_other_kinds(&head)?;
        return Ok(input);
    }
    let plain = Box::new(Gunzip(MultiGzDecoder::new(BufReader::new(input))));
    let (head, plain) = with_head(plain)?;
    if head.starts_with(GZIP) {
        return Err(invalid(
            "the input is compressed twice; decompress it once before",
        ));
    }
    refuse_other_kinds(&head)?;
    Ok(plain)
}

const GZIP: &[u8] = b"\x1f\x8b";
/// How other kinds of files start.
const OTHER_KINDS: [(&[u8], &str); 12] = [
    (b"\x28\xb5\x2f\xfd", "compressed with zstd"),
    (b"BZh", "compressed with bzip2"),
    (b"\xfd7zXZ", "compressed with xz"),
    (b"\x04\x22\x4d\x18", "compressed with lz4"),
    (b"PK\x03\x04", "a zip archive or a spreadsheet"),
    (b"7z\xbc\xaf", "a 7z archive"),
    (b"\xd0\xcf\x11\xe0", "an old spreadsheet"),
    (b"Obj\x01", "an Avro file"),
    (b"PAR1", "a Parquet file"),
    (b"ORC", "an ORC file"),
    (b"\xff\xfe", "UTF-16 text"),
    (b"\xfe\xff", "UTF-16 text"),
];
const MAX_HEAD_BYTES: u64 = 5;

fn refuse_other_kinds(head: &[u8]) -> io::Result<()> {
    match OTHER_KINDS
        .iter()
        .find(|(start, _)| head.starts_with(start))
    {
        None => Ok(()),
        Some((_, kind)) => Err(invalid(&format!(
            "the input is {kind}; it must be CSV or JSON lines in UTF-8, plain or compressed with gzip"
        ))),
    }
}

/// The first bytes of the input, and the whole input.
fn with_head(mut input: Box<dyn Read + Send>) -> io::Result<(Vec<u8>, Box<dyn Read + Send>)> {
    let mut head = Vec::new();
    input.by_ref().take(MAX_HEAD_BYTES).read_to_end(&mut head)?;
    let whole = Cursor::new(head.clone()).chain(input);
    Ok((head, Box::new(whole)))
}

fn invalid(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

struct Counted<R> {
    input: R,
    read: Arc<AtomicU64>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.input.read(buffer)?;
        let bytes = u64::try_from(count).unwrap_or(u64::MAX);
        self.read.fetch_add(bytes, Ordering::Relaxed);
        Ok(count)
    }
}

/// Decompresses, with errors that say so.
struct Gunzip<R>(MultiGzDecoder<R>);

impl<R: io::BufRead> Read for Gunzip<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => io::Error::new(
                error.kind(),
                "the gzip data ends too early; the file is cut off",
            ),
            io::ErrorKind::Interrupted => error,
            kind => io::Error::new(kind, format!("the gzip data is damaged: {error}")),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::{Compression, write::GzEncoder};
    use std::io::Write as _;

    fn gzip(text: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    }

    fn read(bytes: &[u8]) -> Result<Vec<u8>, String> {
        let mut all = Vec::new();
        let mut opened = open(Box::new(Cursor::new(bytes.to_vec()))).map_err(|e| e.to_string())?;
        opened.read_to_end(&mut all).map_err(|e| e.to_string())?;
        Ok(all)
    }

    #[test]
    fn gzip_is_decompressed_with_all_its_members() {
        let joined = [gzip(b"account_id\n"), gzip(b"a\n")].concat();
        for (bytes, text) in [
            (&b"account_id\na\n"[..], &b"account_id\na\n"[..]),
            (&joined, b"account_id\na\n"),
            (&gzip(b""), b""),
            (b"", b""),
            (b"a", b"a"),
        ] {
            assert_eq!(read(bytes).unwrap(), text);
        }
    }

    #[test]
    fn damaged_and_other_files_are_named() {
        let whole = gzip(&b"account_id,timestamp\n".repeat(100));
        let cut = &whole[..whole.len() - 9];
        let garbage = [&whole[..], b"and something after it"].concat();
        for (bytes, why) in [
            (cut, "the gzip data ends too early"),
            (&garbage, "the gzip data is damaged"),
            (&gzip(&whole), "the input is compressed twice"),
            (b"\x28\xb5\x2f\xfd....", "the input is compressed with zstd"),
            (&gzip(b"PAR1...."), "the input is a Parquet file"),
            (b"\xff\xfea\0", "the input is UTF-16 text"),
            (b"PK\x03\x04....", "the input is a zip archive or"),
        ] {
            let error = read(bytes).unwrap_err();
            assert!(error.starts_with(why), "{error}");
        }
    }
}
