/*
 * A directory laid over another as an NFS server exports it: root, or everybody, comes as somebody else.
 *
 * What is not a server's business stays as the kernel has it: locks and the page cache. Extended attributes and
 * O_TMPFILE are missing, as with NFS.
 *
 * The file that the environment variable FAULTS names says which requests fail or hang, a line for each: an operation
 * (getattr, readdir, open, read, statfs), the number of the error, 0 for a request that hangs for as long as the line
 * is there, and the path below the directory, `*` for every path.
 */
#define _GNU_SOURCE
#define FUSE_USE_VERSION 31
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <fuse.h>
#include <grp.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/fsuid.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

static char source[PATH_MAX];
static int squashes_all, squashes_root;
static uid_t anonymous_uid;
static gid_t anonymous_gid;

/* The error with which a request is answered, negative; 0 for a request that is carried out. */
static int fault(const char *operation, const char *path)
{
    const char *rules = getenv("FAULTS");

    for (;;) {
        FILE *file = rules != NULL ? fopen(rules, "r") : NULL;
        char named[32], below[PATH_MAX];
        int number, found = -1;

        while (found == -1 && file != NULL && fscanf(file, "%31s %d %4095s", named, &number, below) == 3)
            if (strcmp(named, operation) == 0 && (strcmp(below, "*") == 0 || (path && strcmp(below, path) == 0)))
                found = number;
        if (file != NULL)
            fclose(file);
        if (found != 0)
            return found == -1 ? 0 : -found;
        usleep(20000);
    }
}

#define FAULT(operation, path) do { int failed = fault(operation, path); if (failed) return failed; } while (0)

/* Takes on the caller's rights, for this thread, and says where the file is. */
static const char *as_caller(const char *path, char *buffer)
{
    const struct fuse_context *caller = fuse_get_context();

    if (squashes_all || (squashes_root && caller->uid == 0)) {
        setfsgid(anonymous_gid);
        setfsuid(anonymous_uid);
    } else {
        setfsgid(caller->gid);
        setfsuid(caller->uid);
    }
    /* None is given for an open file that was removed. */
    if (path != NULL)
        snprintf(buffer, PATH_MAX, "%s%s", source, path);
    return buffer;
}

#define AT(path) char buffer[PATH_MAX]; const char *at = as_caller(path, buffer)
#define ANSWER(call) return (call) == -1 ? -errno : 0

static int squash_getattr(const char *path, struct stat *found, struct fuse_file_info *file)
{
    FAULT("getattr", path);
    AT(path);
    if (file != NULL)
        ANSWER(fstat(file->fh, found));
    ANSWER(lstat(at, found));
}

static int squash_access(const char *path, int mode)
{
    AT(path);
    ANSWER(faccessat(AT_FDCWD, at, mode, AT_EACCESS));
}

static int squash_readdir(const char *path, void *into, fuse_fill_dir_t fill, off_t offset,
                          struct fuse_file_info *file, enum fuse_readdir_flags flags)
{
    FAULT("readdir", path);
    AT(path);
    DIR *folder = opendir(at);
    struct dirent *entry;

    (void)offset, (void)file, (void)flags;
    if (folder == NULL)
        return -errno;
    while ((entry = readdir(folder)) != NULL)
        fill(into, entry->d_name, NULL, 0, 0);
    closedir(folder);
    return 0;
}

static int squash_mkdir(const char *path, mode_t mode) { AT(path); ANSWER(mkdir(at, mode)); }
static int squash_unlink(const char *path) { AT(path); ANSWER(unlink(at)); }
static int squash_rmdir(const char *path) { AT(path); ANSWER(rmdir(at)); }

static int squash_rename(const char *from, const char *to, unsigned int flags)
{
    char target[PATH_MAX];
    AT(from);

    as_caller(to, target);
    ANSWER(renameat2(AT_FDCWD, at, AT_FDCWD, target, flags));
}

static int squash_chmod(const char *path, mode_t mode, struct fuse_file_info *file)
{
    AT(path);
    (void)file;
    ANSWER(chmod(at, mode));
}

static int squash_chown(const char *path, uid_t uid, gid_t gid, struct fuse_file_info *file)
{
    AT(path);
    (void)file;
    ANSWER(lchown(at, uid, gid));
}

static int squash_truncate(const char *path, off_t size, struct fuse_file_info *file)
{
    AT(path);
    if (file != NULL)
        ANSWER(ftruncate(file->fh, size));
    ANSWER(truncate(at, size));
}

static int squash_utimens(const char *path, const struct timespec times[2], struct fuse_file_info *file)
{
    AT(path);
    (void)file;
    ANSWER(utimensat(AT_FDCWD, at, times, AT_SYMLINK_NOFOLLOW));
}

static int opened(int descriptor, struct fuse_file_info *file)
{
    if (descriptor == -1)
        return -errno;
    file->fh = descriptor;
    return 0;
}

/* FUSE hands on buffers that O_DIRECT would refuse. */
static int squash_open(const char *path, struct fuse_file_info *file)
{
    FAULT("open", path);
    AT(path);
    return opened(open(at, file->flags & ~O_DIRECT), file);
}

static int squash_create(const char *path, mode_t mode, struct fuse_file_info *file)
{
    AT(path);
    return opened(open(at, (file->flags & ~O_DIRECT) | O_CREAT, mode), file);
}

static int squash_read(const char *path, char *into, size_t size, off_t offset, struct fuse_file_info *file)
{
    FAULT("read", path);
    ssize_t done = pread(file->fh, into, size, offset);

    (void)path;
    return done == -1 ? -errno : (int)done;
}

static int squash_write(const char *path, const char *from, size_t size, off_t offset, struct fuse_file_info *file)
{
    ssize_t done = pwrite(file->fh, from, size, offset);

    (void)path;
    return done == -1 ? -errno : (int)done;
}

static int squash_statfs(const char *path, struct statvfs *found)
{
    FAULT("statfs", path);
    AT(path);
    ANSWER(statvfs(at, found));
}

static int squash_release(const char *path, struct fuse_file_info *file) { (void)path; ANSWER(close(file->fh)); }

static int squash_fsync(const char *path, int only_data, struct fuse_file_info *file)
{
    (void)path;
    ANSWER(only_data ? fdatasync(file->fh) : fsync(file->fh));
}

static int squash_fallocate(const char *path, int mode, off_t offset, off_t length, struct fuse_file_info *file)
{
    (void)path;
    ANSWER(fallocate(file->fh, mode, offset, length));
}

static off_t squash_lseek(const char *path, off_t offset, int whence, struct fuse_file_info *file)
{
    off_t found = lseek(file->fh, offset, whence);

    (void)path;
    return found == -1 ? -errno : found;
}

/* What is removed while it is open goes at once: it would be renamed, and removed later by whoever closes it. */
static void *squash_init(struct fuse_conn_info *connection, struct fuse_config *config)
{
    (void)connection;
    config->hard_remove = 1;
    return NULL;
}

static const struct fuse_operations operations = {
    .init = squash_init, .getattr = squash_getattr, .access = squash_access, .readdir = squash_readdir, .mkdir = squash_mkdir,
    .unlink = squash_unlink, .rmdir = squash_rmdir, .rename = squash_rename, .chmod = squash_chmod,
    .chown = squash_chown, .truncate = squash_truncate, .utimens = squash_utimens, .open = squash_open,
    .create = squash_create, .read = squash_read, .write = squash_write, .statfs = squash_statfs,
    .release = squash_release, .fsync = squash_fsync, .fallocate = squash_fallocate, .lseek = squash_lseek,
};

int main(int count, char *arguments[])
{
    if (count < 6 || realpath(arguments[4], source) == NULL || setgroups(0, NULL) == -1) {
        fprintf(stderr, "usage: nfs_export no_root_squash|root_squash|all_squash ANONUID ANONGID SOURCE [OPTIONS] MOUNT\n");
        return 2;
    }
    squashes_all = strcmp(arguments[1], "all_squash") == 0;
    squashes_root = strcmp(arguments[1], "root_squash") == 0;
    anonymous_uid = atoi(arguments[2]);
    anonymous_gid = atoi(arguments[3]);
    umask(0);
    arguments[4] = arguments[0];
    return fuse_main(count - 4, arguments + 4, &operations, NULL);
}
