"""Starts a program under a restriction that machines in the wild have, for the Rust harness.

    confine.py no-io-uring ERRNO PROGRAM ARGS…    io_uring_setup fails with ERRNO, as under seccomp (EPERM) or old kernels
    confine.py memlock BYTES PROGRAM ARGS…        RLIMIT_MEMLOCK is BYTES, and no privilege overrides it
    confine.py open-files COUNT PROGRAM ARGS…     RLIMIT_NOFILE is COUNT
    confine.py file-size BYTES PROGRAM ARGS…      RLIMIT_FSIZE is BYTES (soft: it can be raised from outside)
    confine.py data BYTES PROGRAM ARGS…           RLIMIT_DATA is BYTES: private writable memory, stacks included
    confine.py user UID PROGRAM ARGS…             as this user and group, without privileges; memory stays lockable
    confine.py cgroup FILES PROGRAM ARGS…         in the control groups with these cgroup.procs, separated by colons
"""

import ctypes
import os
import resource
import struct
import sys

PR_SET_SECCOMP, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS = 22, 24, 38
SECCOMP_MODE_FILTER = 2
CAP_IPC_LOCK = 14
# One number on every architecture.
IO_URING_SETUP = 425

libc = ctypes.CDLL(None, use_errno=True)


def prctl(option, *values):
    words = [ctypes.c_ulong(value) for value in values] + [ctypes.c_ulong(0)] * (4 - len(values))
    if libc.prctl(option, *words) != 0:
        raise OSError(ctypes.get_errno(), f"prctl {option}")


def no_io_uring(errno):
    load, equal, give = 0x20, 0x15, 0x06
    program = b"".join(
        struct.pack("=HBBI", *instruction)
        for instruction in [
            (load, 0, 0, 0),
            (equal, 0, 1, IO_URING_SETUP),
            (give, 0, 0, 0x00050000 | errno),
            (give, 0, 0, 0x7FFF0000),
        ]
    )
    code = ctypes.create_string_buffer(program)
    prog = struct.pack("@HP", len(program) // 8, ctypes.addressof(code))
    head = ctypes.create_string_buffer(prog)
    prctl(PR_SET_NO_NEW_PRIVS, 1)
    prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.addressof(head))


def memlock(limit):
    resource.setrlimit(resource.RLIMIT_MEMLOCK, (limit, limit))
    if os.geteuid() == 0:
        # Takes effect at the exec: the new program's capabilities are cut to the bounding set.
        prctl(PR_CAPBSET_DROP, CAP_IPC_LOCK)


def open_files(count):
    resource.setrlimit(resource.RLIMIT_NOFILE, (count, count))


def file_size(limit):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))


def data(limit):
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


def user(uid):
    # Rings and buffers of an unprivileged process count against this limit; it is not what is tested.
    resource.setrlimit(resource.RLIMIT_MEMLOCK, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)


def cgroup(files):
    for path in files.split(":"):
        with open(path, "w") as file:
            file.write(str(os.getpid()))


restriction, value, *command = sys.argv[1:]
numbers = {
    "no-io-uring": no_io_uring,
    "memlock": memlock,
    "open-files": open_files,
    "file-size": file_size,
    "data": data,
    "user": user,
}
if restriction == "cgroup":
    cgroup(value)
else:
    numbers[restriction](int(value))
os.execv(command[0], command)
