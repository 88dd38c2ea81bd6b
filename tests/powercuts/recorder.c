/* Records what a process does to files below one directory (docs/checks/power-cuts.md).
 *
 * Loaded by LD_PRELOAD. Each call that changes files, names or what is synced is written as one
 * record to a log that all recorded processes share; appending makes each record whole and gives
 * all of them one order. A change is written after it was done. A sync has two records: it covers
 * what was recorded before its beginning, and only from its end on.
 *
 * A call that this file does not know how to record becomes a record of its own, and the reader
 * refuses the log: nothing may change a disk unseen.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum { CREATE = 1, WRITE, TRUNCATE, SYNC_BEGIN, SYNC_END, RENAME, UNLINK, MKDIR, MARK, ALLOCATE,
       UNKNOWN };

struct head {                 /* little-endian, packed: the reader knows it as "<IBIQQQHH" */
    uint32_t length;          /* of the whole record */
    uint8_t kind;
    uint32_t thread;
    uint64_t inode;
    uint64_t offset;
    uint64_t size;
    uint16_t path, other;     /* lengths of the two names that follow, before the data */
} __attribute__((packed));

static int log_file = -1;
static char root[PATH_MAX];
static size_t root_length;

static void record(int kind, uint64_t inode, uint64_t offset, uint64_t size, const char *path,
                   const char *other, const void *data, size_t bytes)
{
    struct head head = {0, kind, (uint32_t)syscall(SYS_gettid), inode, offset, size,
                        path ? strlen(path) : 0, other ? strlen(other) : 0};
    struct iovec parts[4] = {{&head, sizeof head}, {(void *)path, head.path},
                             {(void *)other, head.other}, {(void *)data, bytes}};
    int kept = errno;
    head.length = sizeof head + head.path + head.other + bytes;
    if (syscall(SYS_writev, log_file, parts, 4) != (long)head.length)
        abort();              /* a record lost is a check that lies */
    errno = kept;
}

__attribute__((constructor)) static void begin(void)
{
    const char *log = getenv("POWERCUT_LOG"), *under = getenv("POWERCUT_ROOT");
    int opened;
    if (!log || !under || !*log || !*under)
        return;
    root_length = snprintf(root, sizeof root, "%s", under);
    opened = syscall(SYS_openat, AT_FDCWD, log, O_WRONLY | O_APPEND | O_CLOEXEC, 0);
    if (opened < 0)
        abort();
    log_file = fcntl(opened, F_DUPFD_CLOEXEC, 700);   /* out of the way of whoever counts on 0, 1, 2 */
    if (log_file < 0)
        log_file = opened;
    else
        syscall(SYS_close, opened);
}

static int below_root(const char *path)
{
    return log_file >= 0 && !strncmp(path, root, root_length)
        && (path[root_length] == '/' || !path[root_length]);
}

/* The absolute name of what a call was given; 0 if it is not below the root. */
static int name_of(int directory, const char *path, char *name)
{
    char link[64];
    ssize_t length;
    if (log_file < 0 || !path)
        return 0;
    if (*path == '/') {
        snprintf(name, PATH_MAX, "%s", path);
        return below_root(name);
    }
    if (directory == AT_FDCWD) {
        if (!getcwd(name, PATH_MAX))
            return 0;
    } else {
        snprintf(link, sizeof link, "/proc/self/fd/%d", directory);
        length = readlink(link, name, PATH_MAX - 1);
        if (length < 0)
            return 0;
        name[length] = 0;
    }
    length = strlen(name);
    snprintf(name + length, PATH_MAX - length, "/%s", path);
    return below_root(name);
}

/* Whether a descriptor is of a file (or directory) below the root: its inode and name. */
static int file_of(int descriptor, struct stat *found, char *name)
{
    char link[64];
    ssize_t length;
    int kept = errno, known = 0;
    if (log_file < 0)
        return 0;
    if (!fstat(descriptor, found) && (S_ISREG(found->st_mode) || S_ISDIR(found->st_mode))) {
        snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
        length = readlink(link, name, PATH_MAX - 1);
        if (length > 0) {
            name[length] = 0;
            known = below_root(name);
        }
    }
    errno = kept;
    return known;
}

static void unknown(const char *what, const char *path)
{
    record(UNKNOWN, 0, 0, 0, what, path, 0, 0);
}

#define REAL(name) \
    static __typeof__(name) *real; \
    if (!real) real = (__typeof__(name) *)dlsym(RTLD_NEXT, #name)

/* --- names ------------------------------------------------------------------------------------- */

static int opened(int result, int directory, const char *path, int flags, int existed)
{
    char name[PATH_MAX];
    struct stat found;
    int kept = errno;
    if (result >= 0 && name_of(directory, path, name) && !fstat(result, &found)
        && S_ISREG(found.st_mode)) {
        if (flags & O_CREAT && !existed)
            record(CREATE, found.st_ino, 0, 0, name, 0, 0, 0);
        else if (flags & O_TRUNC)
            record(TRUNCATE, found.st_ino, 0, 0, name, 0, 0, 0);
    }
    errno = kept;
    return result;
}

static int exists(int directory, const char *path, int flags)
{
    struct stat found;
    int kept = errno, result = 0;
    if (log_file >= 0 && flags & O_CREAT)
        result = !fstatat(directory, path, &found, 0);
    errno = kept;
    return result;
}

#define MODE(flags, last) \
    mode_t mode = 0; \
    if ((flags) & (O_CREAT | O_TMPFILE)) { \
        va_list more; va_start(more, last); mode = va_arg(more, mode_t); va_end(more); }

#define OPEN(name) \
int name(const char *path, int flags, ...) \
{ \
    int existed = exists(AT_FDCWD, path, flags); \
    REAL(name); \
    MODE(flags, flags) \
    return opened(real(path, flags, mode), AT_FDCWD, path, flags, existed); \
}
OPEN(open)
OPEN(open64)

#define OPENAT(name) \
int name(int directory, const char *path, int flags, ...) \
{ \
    int existed = exists(directory, path, flags); \
    REAL(name); \
    MODE(flags, flags) \
    return opened(real(directory, path, flags, mode), directory, path, flags, existed); \
}
OPENAT(openat)
OPENAT(openat64)

static int renamed(int result, int from, const char *old, int to, const char *new)
{
    char name[PATH_MAX], other[PATH_MAX];
    if (result == 0) {
        int inside = name_of(from, old, name);
        if (inside && name_of(to, new, other))
            record(RENAME, 0, 0, 0, name, other, 0, 0);
        else if (inside)
            unknown("rename out of the directory", name);
    }
    return result;
}

int rename(const char *old, const char *new)
{
    REAL(rename);
    return renamed(real(old, new), AT_FDCWD, old, AT_FDCWD, new);
}

int renameat(int from, const char *old, int to, const char *new)
{
    REAL(renameat);
    return renamed(real(from, old, to, new), from, old, to, new);
}

static int removed(int result, int directory, const char *path)
{
    char name[PATH_MAX];
    if (result == 0 && name_of(directory, path, name))
        record(UNLINK, 0, 0, 0, name, 0, 0, 0);
    return result;
}

int unlink(const char *path)
{
    REAL(unlink);
    return removed(real(path), AT_FDCWD, path);
}

int unlinkat(int directory, const char *path, int flags)
{
    REAL(unlinkat);
    return removed(real(directory, path, flags), directory, path);
}

int remove(const char *path)
{
    REAL(remove);
    return removed(real(path), AT_FDCWD, path);
}

int rmdir(const char *path)
{
    REAL(rmdir);
    return removed(real(path), AT_FDCWD, path);
}

static int made(int result, int directory, const char *path)
{
    char name[PATH_MAX];
    if (result == 0 && name_of(directory, path, name))
        record(MKDIR, 0, 0, 0, name, 0, 0, 0);
    return result;
}

int mkdir(const char *path, mode_t mode)
{
    REAL(mkdir);
    return made(real(path, mode), AT_FDCWD, path);
}

int mkdirat(int directory, const char *path, mode_t mode)
{
    REAL(mkdirat);
    return made(real(directory, path, mode), directory, path);
}

/* --- contents ---------------------------------------------------------------------------------- */

static void wrote(int descriptor, int64_t offset, const void *data, ssize_t bytes)
{
    struct stat found;
    char name[PATH_MAX];
    if (bytes > 0 && file_of(descriptor, &found, name)) {
        if (offset < 0)       /* where the descriptor stood before */
            offset = lseek(descriptor, 0, SEEK_CUR) - bytes;
        record(WRITE, found.st_ino, offset, bytes, name, 0, data, bytes);
    }
}

ssize_t write(int descriptor, const void *data, size_t bytes)
{
    ssize_t done;
    REAL(write);
    done = real(descriptor, data, bytes);
    wrote(descriptor, -1, data, done);
    return done;
}

#define PWRITE(name, off) \
ssize_t name(int descriptor, const void *data, size_t bytes, off offset) \
{ \
    ssize_t done; \
    REAL(name); \
    done = real(descriptor, data, bytes, offset); \
    wrote(descriptor, offset, data, done); \
    return done; \
}
PWRITE(pwrite, off_t)
PWRITE(pwrite64, off64_t)

static void wrote_parts(int descriptor, const struct iovec *parts, int count, int64_t offset,
                        ssize_t bytes)
{
    for (int part = 0; part < count && bytes > 0; part++) {
        ssize_t these = (size_t)bytes < parts[part].iov_len ? bytes : (ssize_t)parts[part].iov_len;
        wrote(descriptor, offset, parts[part].iov_base, these);
        offset += these;
        bytes -= these;
    }
}

ssize_t writev(int descriptor, const struct iovec *parts, int count)
{
    struct stat found;
    char name[PATH_MAX];
    ssize_t done;
    REAL(writev);
    done = real(descriptor, parts, count);
    if (done > 0 && file_of(descriptor, &found, name))
        wrote_parts(descriptor, parts, count, lseek(descriptor, 0, SEEK_CUR) - done, done);
    return done;
}

ssize_t pwritev(int descriptor, const struct iovec *parts, int count, off_t offset)
{
    ssize_t done;
    REAL(pwritev);
    done = real(descriptor, parts, count, offset);
    wrote_parts(descriptor, parts, count, offset, done);
    return done;
}

#define FTRUNCATE(name, off) \
int name(int descriptor, off size) \
{ \
    struct stat found; \
    char path[PATH_MAX]; \
    int result; \
    REAL(name); \
    result = real(descriptor, size); \
    if (result == 0 && file_of(descriptor, &found, path)) \
        record(TRUNCATE, found.st_ino, 0, size, path, 0, 0, 0); \
    return result; \
}
FTRUNCATE(ftruncate, off_t)
FTRUNCATE(ftruncate64, off64_t)

static int allocated(int result, int descriptor, int mode, uint64_t offset, uint64_t size)
{
    struct stat found;
    char name[PATH_MAX];
    if (result == 0 && file_of(descriptor, &found, name)) {
        if (mode & ~FALLOC_FL_KEEP_SIZE)
            unknown("fallocate that changes contents", name);
        else if (!mode)
            record(ALLOCATE, found.st_ino, offset, size, name, 0, 0, 0);
    }
    return result;
}

#define FALLOCATE(name, off) \
int name(int descriptor, int mode, off offset, off size) \
{ \
    REAL(name); \
    return allocated(real(descriptor, mode, offset, size), descriptor, mode, offset, size); \
}
FALLOCATE(fallocate, off_t)
FALLOCATE(fallocate64, off64_t)

#define POSIX_FALLOCATE(name, off) \
int name(int descriptor, off offset, off size) \
{ \
    REAL(name); \
    return allocated(real(descriptor, offset, size), descriptor, 0, offset, size); \
}
POSIX_FALLOCATE(posix_fallocate, off_t)
POSIX_FALLOCATE(posix_fallocate64, off64_t)

/* --- syncs ------------------------------------------------------------------------------------- */

#define SYNC(name) \
int name(int descriptor) \
{ \
    struct stat found; \
    char path[PATH_MAX]; \
    int known = file_of(descriptor, &found, path), result; \
    REAL(name); \
    if (known) \
        record(SYNC_BEGIN, S_ISDIR(found.st_mode) ? 0 : found.st_ino, 0, 0, path, 0, 0, 0); \
    result = real(descriptor); \
    if (known && result == 0) \
        record(SYNC_END, S_ISDIR(found.st_mode) ? 0 : found.st_ino, 0, 0, path, 0, 0, 0); \
    return result; \
}
SYNC(fsync)
SYNC(fdatasync)

/* --- what nobody has taught this file ---------------------------------------------------------- */

static void mapped(void *result, int protection, int flags, int descriptor)
{
    struct stat found;
    char name[PATH_MAX];
    size_t length;
    if (result == MAP_FAILED || !(protection & PROT_WRITE) || (flags & MAP_TYPE) == MAP_PRIVATE
        || flags & MAP_ANONYMOUS || !file_of(descriptor, &found, name))
        return;
    length = strlen(name);    /* SQLite's index of its log: made anew at every start */
    if (length < 4 || strcmp(name + length - 4, "-shm"))
        unknown("mmap for writing", name);
}

#define MMAP(name, off) \
void *name(void *at, size_t length, int protection, int flags, int descriptor, off offset) \
{ \
    void *result = (void *)syscall(SYS_mmap, at, length, protection, flags, descriptor, offset); \
    mapped(result, protection, flags, descriptor); \
    return result; \
}
MMAP(mmap, off_t)
MMAP(mmap64, off64_t)

int link(const char *old, const char *new)
{
    char name[PATH_MAX];
    REAL(link);
    if (name_of(AT_FDCWD, new, name))
        unknown("link", name);
    return real(old, new);
}

int symlink(const char *old, const char *new)
{
    char name[PATH_MAX];
    REAL(symlink);
    if (name_of(AT_FDCWD, new, name))
        unknown("symlink", name);
    return real(old, new);
}

int truncate(const char *path, off_t size)
{
    char name[PATH_MAX];
    REAL(truncate);
    if (name_of(AT_FDCWD, path, name))
        unknown("truncate", name);
    return real(path, size);
}

int renameat2(int from, const char *old, int to, const char *new, unsigned flags)
{
    char name[PATH_MAX];
    REAL(renameat2);
    if (name_of(from, old, name))
        unknown("renameat2", name);
    return real(from, old, to, new, flags);
}

ssize_t copy_file_range(int from, off64_t *start, int to, off64_t *where, size_t bytes,
                        unsigned flags)
{
    struct stat found;
    char name[PATH_MAX];
    REAL(copy_file_range);
    if (file_of(to, &found, name))
        unknown("copy_file_range", name);
    return real(from, start, to, where, bytes, flags);
}

static void sent(int to)
{
    struct stat found;
    char name[PATH_MAX];
    if (file_of(to, &found, name))
        unknown("sendfile", name);
}

ssize_t sendfile(int to, int from, off_t *offset, size_t bytes)
{
    static ssize_t (*real)(int, int, off_t *, size_t);
    if (!real)
        real = dlsym(RTLD_NEXT, "sendfile");
    sent(to);
    return real(to, from, offset, bytes);
}

ssize_t sendfile64(int to, int from, off64_t *offset, size_t bytes)
{
    static ssize_t (*real)(int, int, off64_t *, size_t);
    if (!real)
        real = dlsym(RTLD_NEXT, "sendfile64");
    sent(to);
    return real(to, from, offset, bytes);
}
