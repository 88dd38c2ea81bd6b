/* A disk that fails: loaded by LD_PRELOAD, it answers calls on files below one directory with an error.
 *
 * Which ones says a file, FAILING_ORDER, that is read at each call and need not be there:
 * "CALL ERRNO NAME FROM", as in "read 5 paxon.db 4096": reads of files with that in their name, from
 * that offset on (where the call has one).
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static int fails(const char *call, int file, long offset)
{
    char order[200] = "", wanted[16], name[100], link[64], path[PATH_MAX];
    int kept = errno, error = 0;
    long from = 0, length = 0;
    int found = syscall(SYS_openat, AT_FDCWD, getenv("FAILING_ORDER"), O_RDONLY | O_CLOEXEC, 0);
    if (found >= 0) {
        syscall(SYS_read, found, order, sizeof order - 1);
        syscall(SYS_close, found);
    }
    if (sscanf(order, "%15s %d %99s %ld", wanted, &error, name, &from) >= 3
        && !strcmp(wanted, call) && offset >= from) {
        snprintf(link, sizeof link, "/proc/self/fd/%d", file);
        length = syscall(SYS_readlinkat, AT_FDCWD, link, path, sizeof path - 1);
    }
    if (length > 0) {
        path[length] = 0;
        if (!strncmp(path, getenv("FAILING_ROOT"), strlen(getenv("FAILING_ROOT"))) && strstr(path, name)) {
            errno = error;
            return 1;
        }
    }
    errno = kept;
    return 0;
}

#define FAILING(type, call, name, offset, parameters, ...)                      \
    type name parameters                                                        \
    {                                                                           \
        static type(*real) parameters;                                          \
        if (!real)                                                              \
            real = (type(*) parameters)dlsym(RTLD_NEXT, #name);                 \
        return fails(call, file, offset) ? -1 : real(__VA_ARGS__);              \
    }

FAILING(int, "sync", fdatasync, LONG_MAX, (int file), file)
FAILING(int, "sync", fsync, LONG_MAX, (int file), file)
FAILING(ssize_t, "write", write, LONG_MAX, (int file, const void *data, size_t size), file, data, size)
FAILING(ssize_t, "write", pwrite, at, (int file, const void *data, size_t size, off_t at), file, data, size, at)
FAILING(ssize_t, "write", pwrite64, at, (int file, const void *data, size_t size, off64_t at), file, data, size, at)
FAILING(ssize_t, "read", read, LONG_MAX, (int file, void *data, size_t size), file, data, size)
FAILING(ssize_t, "read", pread, at, (int file, void *data, size_t size, off_t at), file, data, size, at)
FAILING(ssize_t, "read", pread64, at, (int file, void *data, size_t size, off64_t at), file, data, size, at)
