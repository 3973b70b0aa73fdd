// Faults of a disk, for a server that runs with this library in LD_PRELOAD.
//
// It knows the files of a SQLite database by their names. The file named by DISK_FAULTS holds the rules and is shared
// with the test, which changes them while the server runs. The file named by DISK_RECORD receives what reached the
// files, so that the test can compute what would be left of them after a power cut.

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

// The same numbers as in faults.rs.
enum { DATABASE = 1, LOG = 2, JOURNAL = 4, INDEX = 8 };
enum { WRITE = 1, SYNC = 2, TRUNCATE = 4, OPEN = 8 };
enum { OFF = 0, FAIL = 1, SHORTEN = 2, HANG = 3 };

struct rule {
    _Atomic int32_t action;
    _Atomic int32_t files;
    _Atomic int32_t calls;
    _Atomic int32_t error;
    // The matching calls that pass before the first fault, and the number of faults; -1 is without end.
    _Atomic int32_t skip;
    _Atomic int32_t times;
    // Counted here: matching calls, and faults.
    _Atomic int32_t seen;
    _Atomic int32_t hits;
};

enum { RULES = 4, MAX_FILES = 65536 };

// Each record is followed by `length` bytes: those of a write.
struct record {
    // W(rite), S(ync), F(ailed sync), T(runcate to `offset`), D(elete).
    uint8_t kind;
    uint8_t file;
    uint16_t unused;
    uint32_t length;
    uint64_t offset;
};

static struct rule *rules;
static int recording = -1;
static _Atomic uint8_t files[MAX_FILES];
static pthread_once_t once = PTHREAD_ONCE_INIT;
// A write or sync and its record are one step.
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static int (*real_open)(const char *, int, ...);
static int (*real_openat)(int, const char *, int, ...);
static int (*real_close)(int);
static int (*real_unlink)(const char *);
static ssize_t (*real_write)(int, const void *, size_t);
static ssize_t (*real_pwrite)(int, const void *, size_t, off_t);
static int (*real_fsync)(int);
static int (*real_fdatasync)(int);
static int (*real_ftruncate)(int, off_t);

static void start(void) {
    real_open = dlsym(RTLD_NEXT, "open64");
    real_openat = dlsym(RTLD_NEXT, "openat64");
    real_close = dlsym(RTLD_NEXT, "close");
    real_unlink = dlsym(RTLD_NEXT, "unlink");
    real_write = dlsym(RTLD_NEXT, "write");
    real_pwrite = dlsym(RTLD_NEXT, "pwrite64");
    real_fsync = dlsym(RTLD_NEXT, "fsync");
    real_fdatasync = dlsym(RTLD_NEXT, "fdatasync");
    real_ftruncate = dlsym(RTLD_NEXT, "ftruncate64");
    const char *path = getenv("DISK_FAULTS");
    if (path) {
        int fd = real_open(path, O_RDWR | O_CLOEXEC);
        void *shared = mmap(NULL, RULES * sizeof(struct rule), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        if (fd < 0 || shared == MAP_FAILED) abort();
        rules = shared;
        real_close(fd);
    }
    path = getenv("DISK_RECORD");
    if (path) {
        recording = real_open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
        if (recording < 0) abort();
    }
}

static void started(void) { pthread_once(&once, start); }

static uint8_t file_of_path(const char *path) {
    static const struct { const char *end; uint8_t file; } ends[] = {
        {".db", DATABASE}, {".db-wal", LOG}, {".db-journal", JOURNAL}, {".db-shm", INDEX}};
    size_t length = strlen(path);
    for (size_t n = 0; n < sizeof ends / sizeof *ends; n++) {
        size_t end = strlen(ends[n].end);
        if (length > end && strcmp(path + length - end, ends[n].end) == 0) return ends[n].file;
    }
    return 0;
}

static uint8_t file_of(int fd) { return fd >= 0 && fd < MAX_FILES ? files[fd] : 0; }

static int opened(int fd, const char *path) {
    if (fd >= 0 && fd < MAX_FILES) files[fd] = file_of_path(path);
    return fd;
}

// The fault of a call: OFF, FAIL with errno set, or SHORTEN. A call that hangs waits here.
static int fault(uint8_t file, int call) {
    if (!rules || !file) return OFF;
    for (int n = 0; n < RULES; n++) {
        struct rule *rule = &rules[n];
        int action = rule->action;
        if (action == OFF || !(rule->files & file) || !(rule->calls & call)) continue;
        int seen = atomic_fetch_add(&rule->seen, 1);
        if (seen < rule->skip || (rule->times >= 0 && seen - rule->skip >= rule->times)) continue;
        atomic_fetch_add(&rule->hits, 1);
        while (action == HANG && rule->action == HANG) usleep(1000);
        if (action == FAIL) errno = rule->error;
        if (action != HANG) return action;
    }
    return OFF;
}

static void record(uint8_t kind, uint8_t file, uint64_t offset, const void *bytes, size_t length) {
    if (recording < 0 || !(file & (DATABASE | LOG | JOURNAL))) return;
    struct record head = {kind, file, 0, (uint32_t)length, offset};
    struct iovec parts[] = {{&head, sizeof head}, {(void *)bytes, length}};
    if (writev(recording, parts, 2) != (ssize_t)(sizeof head + length)) abort();
}

static mode_t mode_of(int flags, va_list rest) {
    return flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0;
}

static int open_file(const char *path, int flags, mode_t mode) {
    started();
    if (fault(file_of_path(path), OPEN) == FAIL) return -1;
    return opened(real_open(path, flags, mode), path);
}

int open(const char *path, int flags, ...) {
    va_list rest;
    va_start(rest, flags);
    mode_t mode = mode_of(flags, rest);
    va_end(rest);
    return open_file(path, flags, mode);
}

int open64(const char *path, int flags, ...) {
    va_list rest;
    va_start(rest, flags);
    mode_t mode = mode_of(flags, rest);
    va_end(rest);
    return open_file(path, flags, mode);
}

static int open_at(int folder, const char *path, int flags, mode_t mode) {
    started();
    if (fault(file_of_path(path), OPEN) == FAIL) return -1;
    return opened(real_openat(folder, path, flags, mode), path);
}

int openat(int folder, const char *path, int flags, ...) {
    va_list rest;
    va_start(rest, flags);
    mode_t mode = mode_of(flags, rest);
    va_end(rest);
    return open_at(folder, path, flags, mode);
}

int openat64(int folder, const char *path, int flags, ...) {
    va_list rest;
    va_start(rest, flags);
    mode_t mode = mode_of(flags, rest);
    va_end(rest);
    return open_at(folder, path, flags, mode);
}

int close(int fd) {
    started();
    if (fd >= 0 && fd < MAX_FILES) files[fd] = 0;
    return real_close(fd);
}

int unlink(const char *path) {
    started();
    pthread_mutex_lock(&lock);
    int done = real_unlink(path);
    if (done == 0) record('D', file_of_path(path), 0, NULL, 0);
    pthread_mutex_unlock(&lock);
    return done;
}

// A write at `offset`, or at the position of the file if that is negative.
static ssize_t write_file(int fd, const void *bytes, size_t length, off_t offset) {
    uint8_t file = file_of(fd);
    if (!file) return offset < 0 ? real_write(fd, bytes, length) : real_pwrite(fd, bytes, length, offset);
    int found = fault(file, WRITE);
    if (found == FAIL) return -1;
    if (found == SHORTEN && length > 1) length /= 2;
    pthread_mutex_lock(&lock);
    off_t at = offset < 0 ? lseek(fd, 0, SEEK_CUR) : offset;
    ssize_t written = offset < 0 ? real_write(fd, bytes, length) : real_pwrite(fd, bytes, length, offset);
    int error = errno;
    if (written > 0) record('W', file, (uint64_t)at, bytes, (size_t)written);
    pthread_mutex_unlock(&lock);
    errno = error;
    return written;
}

ssize_t write(int fd, const void *bytes, size_t length) {
    started();
    return write_file(fd, bytes, length, -1);
}

ssize_t pwrite(int fd, const void *bytes, size_t length, off_t offset) {
    started();
    return write_file(fd, bytes, length, offset);
}

ssize_t pwrite64(int fd, const void *bytes, size_t length, off_t offset) {
    started();
    return write_file(fd, bytes, length, offset);
}

// Positioned vectored writes, one part after the other; a short one ends the call, as it may.
ssize_t pwritev(int fd, const struct iovec *parts, int count, off_t offset) {
    started();
    ssize_t total = 0;
    for (int n = 0; n < count; n++) {
        ssize_t written = write_file(fd, parts[n].iov_base, parts[n].iov_len, offset + total);
        if (written < 0) return total ? total : -1;
        total += written;
        if ((size_t)written < parts[n].iov_len) break;
    }
    return total;
}

static int sync_file(int fd, int (*real)(int)) {
    started();
    uint8_t file = file_of(fd);
    if (!file) return real(fd);
    if (fault(file, SYNC) == FAIL) {
        int error = errno;
        pthread_mutex_lock(&lock);
        record('F', file, 0, NULL, 0);
        pthread_mutex_unlock(&lock);
        errno = error;
        return -1;
    }
    pthread_mutex_lock(&lock);
    int done = real(fd);
    int error = errno;
    record(done == 0 ? 'S' : 'F', file, 0, NULL, 0);
    pthread_mutex_unlock(&lock);
    errno = error;
    return done;
}

int fsync(int fd) {
    started();
    return sync_file(fd, real_fsync);
}

int fdatasync(int fd) {
    started();
    return sync_file(fd, real_fdatasync);
}

static int truncate_file(int fd, off_t length) {
    started();
    uint8_t file = file_of(fd);
    if (!file) return real_ftruncate(fd, length);
    if (fault(file, TRUNCATE) == FAIL) return -1;
    pthread_mutex_lock(&lock);
    int done = real_ftruncate(fd, length);
    int error = errno;
    if (done == 0) record('T', file, (uint64_t)length, NULL, 0);
    pthread_mutex_unlock(&lock);
    errno = error;
    return done;
}

int ftruncate(int fd, off_t length) { return truncate_file(fd, length); }

int ftruncate64(int fd, off_t length) { return truncate_file(fd, length); }
