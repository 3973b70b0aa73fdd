//! The layer between SQLite and its files: each write and sync asks [`DISK`] first. Everything else is done by SQLite's
//! own layer.
#![allow(
    unsafe_code,
    reason = "SQLite's interface to files is one of C functions and pointers"
)]

use std::{
    ffi::{CStr, c_char, c_int, c_void},
    mem::size_of,
    ptr,
    sync::{Mutex, OnceLock, PoisonError},
};

use libsqlite3_sys as ffi;

use crate::{
    disk::{DISK, Operation, Verdict},
    random::Random,
};

const NAME: &CStr = c"simulated";
/// Files that survive: the database, its log and its journal. Temporary files need no syncs.
const WATCHED: c_int =
    ffi::SQLITE_OPEN_MAIN_DB | ffi::SQLITE_OPEN_WAL | ffi::SQLITE_OPEN_MAIN_JOURNAL;

/// An open file. SQLite allocates it, and behind it the file of its own layer.
#[repr(C)]
struct File {
    base: ffi::sqlite3_file,
    /// The path, where the file is watched. Owned.
    path: *mut String,
}

/// SQLite's own layer. It lives as long as the process.
struct Real(*mut ffi::sqlite3_vfs);

// SAFETY: SQLite's layers may be used by every thread, and the pointer never changes.
unsafe impl Send for Real {}
// SAFETY: as above.
unsafe impl Sync for Real {}

static REAL: OnceLock<Real> = OnceLock::new();
static RANDOM: Mutex<Option<Random>> = Mutex::new(None);

/// Registers the layer as the default one, before the first connection.
pub(crate) fn register(seed: u64) {
    *RANDOM.lock().unwrap_or_else(PoisonError::into_inner) = Some(Random::new(seed));
    // SAFETY: the default layer is a valid structure that is never freed, so its fields can be copied; the copy is leaked,
    // so it is valid as long as SQLite knows it.
    unsafe {
        let real = ffi::sqlite3_vfs_find(ptr::null());
        assert!(!real.is_null(), "SQLite has a default layer");
        let mut own = *real;
        own.pNext = ptr::null_mut();
        own.zName = NAME.as_ptr();
        own.szOsFile += c_int::try_from(size_of::<File>()).unwrap_or(c_int::MAX);
        own.xOpen = Some(open);
        own.xDelete = Some(delete);
        own.xSleep = Some(sleep);
        own.xRandomness = Some(randomness);
        assert!(REAL.set(Real(real)).is_ok(), "it is registered once");
        let code = ffi::sqlite3_vfs_register(Box::into_raw(Box::new(own)), 1);
        assert_eq!(code, ffi::SQLITE_OK, "the layer is registered");
    }
}

fn real() -> *mut ffi::sqlite3_vfs {
    REAL.get().map_or(ptr::null_mut(), |real| real.0)
}

/// The file of SQLite's own layer.
fn inner(file: *mut ffi::sqlite3_file) -> *mut ffi::sqlite3_file {
    // SAFETY: SQLite has allocated `szOsFile` bytes, which are those of `File` and of the file behind it.
    unsafe { file.cast::<File>().add(1).cast() }
}

/// The methods of the file of SQLite's own layer.
fn methods(file: *mut ffi::sqlite3_file) -> &'static ffi::sqlite3_io_methods {
    // SAFETY: only open files get here, and the methods of SQLite's own layer are static.
    unsafe { &*(*inner(file)).pMethods }
}

/// The path of a watched file.
fn path<'a>(file: *mut ffi::sqlite3_file) -> Option<&'a str> {
    // SAFETY: `open` has set the pointer, and only `close` frees it, after which SQLite does not use the file.
    unsafe { (*file.cast::<File>()).path.as_ref() }.map(String::as_str)
}

fn text<'a>(name: *const c_char) -> &'a str {
    // SAFETY: SQLite passes names that end with a zero byte and that live during the call.
    unsafe { CStr::from_ptr(name) }.to_str().unwrap_or_default()
}

/// Calls a method of SQLite's own layer with its own file.
macro_rules! pass {
    ($file:ident, $method:ident $(, $argument:ident)*) => {
        match methods($file).$method {
            // SAFETY: the arguments are SQLite's, and the file is the one that the layer has opened.
            Some(method) => unsafe { method(inner($file) $(, $argument)*) },
            None => ffi::SQLITE_IOERR,
        }
    };
}

unsafe extern "C" fn open(
    _vfs: *mut ffi::sqlite3_vfs,
    name: ffi::sqlite3_filename,
    file: *mut ffi::sqlite3_file,
    flags: c_int,
    out_flags: *mut c_int,
) -> c_int {
    // SAFETY: the arguments are SQLite's, and the file has the size that was asked for.
    unsafe {
        (*file).pMethods = ptr::null();
        (*file.cast::<File>()).path = ptr::null_mut();
        (*inner(file)).pMethods = ptr::null();
        let Some(real_open) = (*real()).xOpen else {
            return ffi::SQLITE_CANTOPEN;
        };
        let code = real_open(real(), name, inner(file), flags, out_flags);
        if !(*inner(file)).pMethods.is_null() {
            (*file).pMethods = &raw const METHODS;
        }
        if code == ffi::SQLITE_OK && !name.is_null() && flags & WATCHED != 0 {
            let name = text(name).to_owned();
            DISK.opened(&name);
            (*file.cast::<File>()).path = Box::into_raw(Box::new(name));
        }
        code
    }
}

unsafe extern "C" fn delete(
    _vfs: *mut ffi::sqlite3_vfs,
    name: *const c_char,
    sync_folder: c_int,
) -> c_int {
    if !DISK.deletes(text(name)) {
        return ffi::SQLITE_IOERR_DELETE;
    }
    // SAFETY: the arguments are SQLite's.
    unsafe { (*real()).xDelete }.map_or(ffi::SQLITE_IOERR_DELETE, |real_delete| {
        // SAFETY: as above.
        unsafe { real_delete(real(), name, sync_folder) }
    })
}

unsafe extern "C" fn sleep(_vfs: *mut ffi::sqlite3_vfs, micros: c_int) -> c_int {
    DISK.sleep(u64::try_from(micros).unwrap_or(0).div_ceil(1_000));
    micros
}

unsafe extern "C" fn randomness(
    _vfs: *mut ffi::sqlite3_vfs,
    bytes: c_int,
    out: *mut c_char,
) -> c_int {
    let mut random = RANDOM.lock().unwrap_or_else(PoisonError::into_inner);
    let random = random.get_or_insert_with(|| Random::new(0));
    for place in 0..usize::try_from(bytes).unwrap_or(0) {
        let [byte, ..] = random.next().to_le_bytes();
        // SAFETY: SQLite passes room for so many bytes.
        unsafe { out.add(place).cast::<u8>().write(byte) };
    }
    bytes
}

unsafe extern "C" fn close(file: *mut ffi::sqlite3_file) -> c_int {
    let code = pass!(file, xClose);
    // SAFETY: SQLite does not use the file after this, so nothing else has the path.
    unsafe {
        let path = (*file.cast::<File>()).path;
        if !path.is_null() {
            let path = Box::from_raw(path);
            DISK.closed(&path);
        }
        (*file).pMethods = ptr::null();
    }
    code
}

unsafe extern "C" fn write(
    file: *mut ffi::sqlite3_file,
    bytes: *const c_void,
    amount: c_int,
    at: i64,
) -> c_int {
    let Some(path) = path(file) else {
        return pass!(file, xWrite, bytes, amount, at);
    };
    let length = usize::try_from(amount).unwrap_or(0);
    let (amount, after) = match DISK.judge(Operation::Write, length) {
        Verdict::Do => (amount, ffi::SQLITE_OK),
        Verdict::Fail(code) => return code,
        Verdict::Short(bytes, code) => (c_int::try_from(bytes).unwrap_or(0), code),
        Verdict::DoThenFail(code) => (amount, code),
    };
    let code = pass!(file, xWrite, bytes, amount, at);
    if code != ffi::SQLITE_OK {
        return code;
    }
    // SAFETY: SQLite passes at least so many bytes.
    let written = unsafe {
        std::slice::from_raw_parts(bytes.cast::<u8>(), usize::try_from(amount).unwrap_or(0))
    };
    DISK.written(path, at, written);
    after
}

unsafe extern "C" fn truncate(file: *mut ffi::sqlite3_file, size: i64) -> c_int {
    if let Some(path) = path(file) {
        if DISK.is_off() {
            return ffi::SQLITE_IOERR_TRUNCATE;
        }
        DISK.truncated(path, size);
    }
    pass!(file, xTruncate, size)
}

unsafe extern "C" fn sync(file: *mut ffi::sqlite3_file, flags: c_int) -> c_int {
    // The files are in memory, so there is nothing else to sync.
    let _ = flags;
    let Some(path) = path(file) else {
        return ffi::SQLITE_OK;
    };
    match DISK.judge(Operation::Sync, 0) {
        Verdict::Do => {
            DISK.synced(path);
            ffi::SQLITE_OK
        }
        Verdict::Fail(code) | Verdict::Short(_, code) => code,
        Verdict::DoThenFail(code) => {
            DISK.synced(path);
            code
        }
    }
}

/// Methods that only pass on.
macro_rules! passed_on {
    ($($name:ident = $method:ident($($argument:ident: $kind:ty),*);)+) => {
        $(unsafe extern "C" fn $name(file: *mut ffi::sqlite3_file $(, $argument: $kind)*) -> c_int {
            pass!(file, $method $(, $argument)*)
        })+
    };
}

passed_on! {
    read = xRead(out: *mut c_void, amount: c_int, at: i64);
    file_size = xFileSize(out: *mut i64);
    lock = xLock(level: c_int);
    unlock = xUnlock(level: c_int);
    check_reserved_lock = xCheckReservedLock(out: *mut c_int);
    file_control = xFileControl(operation: c_int, argument: *mut c_void);
    sector_size = xSectorSize();
    device_characteristics = xDeviceCharacteristics();
    shm_map = xShmMap(page: c_int, size: c_int, extend: c_int, out: *mut *mut c_void);
    shm_lock = xShmLock(offset: c_int, number: c_int, flags: c_int);
    shm_unmap = xShmUnmap(delete_flag: c_int);
}

unsafe extern "C" fn shm_barrier(file: *mut ffi::sqlite3_file) {
    if let Some(barrier) = methods(file).xShmBarrier {
        // SAFETY: as in `pass`.
        unsafe { barrier(inner(file)) };
    }
}

/// Version 2: without memory maps, which would write past this layer.
static METHODS: ffi::sqlite3_io_methods = ffi::sqlite3_io_methods {
    iVersion: 2,
    xClose: Some(close),
    xRead: Some(read),
    xWrite: Some(write),
    xTruncate: Some(truncate),
    xSync: Some(sync),
    xFileSize: Some(file_size),
    xLock: Some(lock),
    xUnlock: Some(unlock),
    xCheckReservedLock: Some(check_reserved_lock),
    xFileControl: Some(file_control),
    xSectorSize: Some(sector_size),
    xDeviceCharacteristics: Some(device_characteristics),
    xShmMap: Some(shm_map),
    xShmLock: Some(shm_lock),
    xShmBarrier: Some(shm_barrier),
    xShmUnmap: Some(shm_unmap),
    xFetch: None,
    xUnfetch: None,
};
