/* A library to be preloaded: it counts the calls that touch files below one folder, by kind, and makes one of them fail,
 * or all of them from one on, or kills the process just before or just after it.
 *
 * Which call was hit is written to a descriptor, as text. See campaign.py. */

#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum { OPEN, READ, WRITE, SYNC, RESERVE, RENAME, LINK, UNLINK, MKDIR, CLOSE, MODE, STAT, KINDS };
enum { COUNT, FAIL, FAIL_ON, KILL_BEFORE, KILL_AFTER, KILL_INSIDE };

static char root[PATH_MAX];
static size_t root_length;
static int armed, kind_hit, how, number, report;
static long at, counts[KINDS];
static unsigned char ours[1 << 16]; /* descriptors of files below the root */

/* The root, which kind, which call of it, what to do, with which errno, and where to write what was hit. */
void fault_arm(const char *folder, int kind, long n, int action, int error, int descriptor) {
    strncpy(root, folder, sizeof root - 1);
    root_length = strlen(root); /* ends in a slash */
    kind_hit = kind, at = n, how = action, number = error, report = descriptor;
    memset(counts, 0, sizeof counts);
    armed = 1;
}

long fault_count(int kind) { return counts[kind]; }

static int below(int folder, const char *path) {
    char here[PATH_MAX];
    if (!armed || path == NULL) return 0;
    if (path[0] == '/') return !strncmp(path, root, root_length);
    if (folder != AT_FDCWD) return folder >= 0 && folder < (int)sizeof ours && ours[folder];
    return getcwd(here, sizeof here) != NULL && !strncmp(here, root, root_length);
}

static int is_ours(int descriptor) {
    return armed && descriptor >= 0 && descriptor < (int)sizeof ours && ours[descriptor];
}

/* Whether this call is the one: 1 to fail, 2 to be killed after it. */
static int hit(int kind, const char *name, const char *path) {
    long now = __atomic_add_fetch(&counts[kind], 1, __ATOMIC_SEQ_CST);
    if (how == COUNT || kind != kind_hit || now < at || (now > at && how != FAIL_ON)) return 0;
    if (now == at) {
        char line[PATH_MAX + 64];
        int length = snprintf(line, sizeof line, "%s %s", name, path);
        syscall(SYS_write, report, line, length);
    }
    if (how == KILL_BEFORE) kill(getpid(), SIGKILL), pause();
    return how == KILL_AFTER ? 2 : how == KILL_INSIDE ? 3 : 1;
}

/* How much of `n` bytes at `offset` a kill in the middle leaves written: a kernel looks for signals between pages. */
static size_t half(size_t n, off64_t offset) {
    off64_t end = (offset + (off64_t)n / 2) / 4096 * 4096;
    return end > offset ? (size_t)(end - offset) : 0;
}

static void done(int state) {
    if (state == 2) kill(getpid(), SIGKILL), pause();
}

#define REAL(name) static __typeof__(&name) real; if (!real) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

/* A function of a path or a descriptor that returns -1 and sets errno. */
#define WRAP(kind, type, name, parameters, arguments, touches, text)         \
    type name parameters {                                                   \
        REAL(name);                                                          \
        int state = (touches) ? hit(kind, #name, text) : 0;                  \
        if (state == 1) return errno = number, (type)-1;                     \
        type result = real arguments;                                        \
        done(state);                                                         \
        return result;                                                       \
    }

static int opened(int descriptor, int touches) {
    if (descriptor >= 0 && descriptor < (int)sizeof ours) ours[descriptor] = touches;
    return descriptor;
}

#define OPENING(name, folder, parameters, arguments)                         \
    int name parameters {                                                    \
        REAL(name);                                                          \
        mode_t mode = 0;                                                     \
        if (flags & (O_CREAT | __O_TMPFILE)) {                               \
            va_list rest;                                                    \
            va_start(rest, flags);                                           \
            mode = va_arg(rest, mode_t);                                     \
            va_end(rest);                                                    \
        }                                                                    \
        int touches = below(folder, path);                                   \
        int state = touches ? hit(OPEN, #name, path) : 0;                    \
        if (state == 1) return errno = number, -1;                           \
        int result = opened(real arguments, touches);                        \
        done(state);                                                         \
        return result;                                                       \
    }

OPENING(open, AT_FDCWD, (const char *path, int flags, ...), (path, flags, mode))
OPENING(open64, AT_FDCWD, (const char *path, int flags, ...), (path, flags, mode))
OPENING(openat, at_folder, (int at_folder, const char *path, int flags, ...), (at_folder, path, flags, mode))
OPENING(openat64, at_folder, (int at_folder, const char *path, int flags, ...), (at_folder, path, flags, mode))

DIR *opendir(const char *path) {
    REAL(opendir);
    int state = below(AT_FDCWD, path) ? hit(OPEN, "opendir", path) : 0;
    if (state == 1) return errno = number, NULL;
    DIR *result = real(path);
    done(state);
    return result;
}

int close(int descriptor) { /* as Linux does it: closed, whatever it says */
    REAL(close);
    int state = is_ours(descriptor) ? hit(CLOSE, "close", "") : 0;
    opened(descriptor, 0);
    int result = real(descriptor);
    done(state);
    return state == 1 ? (errno = number, -1) : result;
}

WRAP(READ, ssize_t, read, (int d, void *b, size_t n), (d, b, n), is_ours(d), "")
WRAP(READ, ssize_t, pread, (int d, void *b, size_t n, off_t o), (d, b, n, o), is_ours(d), "")
WRAP(READ, ssize_t, pread64, (int d, void *b, size_t n, off64_t o), (d, b, n, o), is_ours(d), "")
WRAP(READ, ssize_t, preadv, (int d, const struct iovec *v, int n, off_t o), (d, v, n, o), is_ours(d), "")
WRAP(READ, ssize_t, preadv64, (int d, const struct iovec *v, int n, off64_t o), (d, v, n, o), is_ours(d), "")
WRAP(READ, ssize_t, preadv2, (int d, const struct iovec *v, int n, off_t o, int f), (d, v, n, o, f), is_ours(d), "")
WRAP(READ, ssize_t, preadv64v2, (int d, const struct iovec *v, int n, off64_t o, int f), (d, v, n, o, f), is_ours(d), "")
WRAP(WRITE, ssize_t, write, (int d, const void *b, size_t n), (d, b, n), is_ours(d), "")

#define WRITING(name, type)                                                  \
    ssize_t name(int d, const void *b, size_t n, type o) {                   \
        REAL(name);                                                          \
        int state = is_ours(d) ? hit(WRITE, #name, "") : 0;                  \
        if (state == 1) return errno = number, -1;                           \
        ssize_t result = real(d, b, state == 3 ? half(n, o) : n, o);         \
        done(state == 3 ? 2 : state);                                        \
        return result;                                                       \
    }

WRITING(pwrite, off_t)
WRITING(pwrite64, off64_t)
WRAP(SYNC, int, fsync, (int d), (d), is_ours(d), "")
WRAP(SYNC, int, fdatasync, (int d), (d), is_ours(d), "")
WRAP(RESERVE, int, fallocate, (int d, int m, off_t o, off_t n), (d, m, o, n), is_ours(d), "")
WRAP(RESERVE, int, ftruncate, (int d, off_t n), (d, n), is_ours(d), "")
WRAP(RESERVE, int, ftruncate64, (int d, off64_t n), (d, n), is_ours(d), "")
WRAP(RENAME, int, rename, (const char *a, const char *b), (a, b), below(AT_FDCWD, b), b)
WRAP(RENAME, int, renameat, (int c, const char *a, int d, const char *b), (c, a, d, b), below(d, b), b)
WRAP(RENAME, int, renameat2, (int c, const char *a, int d, const char *b, unsigned f), (c, a, d, b, f), below(d, b), b)
WRAP(LINK, int, link, (const char *a, const char *b), (a, b), below(AT_FDCWD, b), b)
WRAP(LINK, int, linkat, (int c, const char *a, int d, const char *b, int f), (c, a, d, b, f), below(d, b), b)
WRAP(UNLINK, int, unlink, (const char *p), (p), below(AT_FDCWD, p), p)
WRAP(UNLINK, int, unlinkat, (int d, const char *p, int f), (d, p, f), below(d, p), p)
WRAP(UNLINK, int, rmdir, (const char *p), (p), below(AT_FDCWD, p), p)
WRAP(UNLINK, int, remove, (const char *p), (p), below(AT_FDCWD, p), p)
WRAP(MKDIR, int, mkdir, (const char *p, mode_t m), (p, m), below(AT_FDCWD, p), p)
WRAP(MKDIR, int, mkdirat, (int d, const char *p, mode_t m), (d, p, m), below(d, p), p)
WRAP(MODE, int, chmod, (const char *p, mode_t m), (p, m), below(AT_FDCWD, p), p)
WRAP(MODE, int, fchmod, (int d, mode_t m), (d, m), is_ours(d), "")
WRAP(MODE, int, fchmodat, (int d, const char *p, mode_t m, int f), (d, p, m, f), below(d, p), p)
WRAP(MODE, int, chown, (const char *p, uid_t u, gid_t g), (p, u, g), below(AT_FDCWD, p), p)
WRAP(MODE, int, fchown, (int d, uid_t u, gid_t g), (d, u, g), is_ours(d), "")
WRAP(MODE, int, utimensat, (int d, const char *p, const struct timespec t[2], int f), (d, p, t, f), below(d, p), p)
WRAP(STAT, int, stat, (const char *p, struct stat *s), (p, s), below(AT_FDCWD, p), p)
WRAP(STAT, int, stat64, (const char *p, struct stat64 *s), (p, s), below(AT_FDCWD, p), p)
WRAP(STAT, int, lstat, (const char *p, struct stat *s), (p, s), below(AT_FDCWD, p), p)
WRAP(STAT, int, lstat64, (const char *p, struct stat64 *s), (p, s), below(AT_FDCWD, p), p)
WRAP(STAT, int, fstat, (int d, struct stat *s), (d, s), is_ours(d), "")
WRAP(STAT, int, fstat64, (int d, struct stat64 *s), (d, s), is_ours(d), "")
WRAP(STAT, int, fstatat, (int d, const char *p, struct stat *s, int f), (d, p, s, f), below(d, p), p)
WRAP(STAT, int, fstatat64, (int d, const char *p, struct stat64 *s, int f), (d, p, s, f), below(d, p), p)

int posix_fallocate(int descriptor, off_t start, off_t length) { /* returns its error */
    REAL(posix_fallocate);
    int state = is_ours(descriptor) ? hit(RESERVE, "posix_fallocate", "") : 0;
    if (state == 1) return number;
    int result = real(descriptor, start, length);
    done(state);
    return result;
}

int posix_fallocate64(int descriptor, off64_t start, off64_t length) {
    REAL(posix_fallocate64);
    int state = is_ours(descriptor) ? hit(RESERVE, "posix_fallocate64", "") : 0;
    if (state == 1) return number;
    int result = real(descriptor, start, length);
    done(state);
    return result;
}
