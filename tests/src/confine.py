"""Starts a program under a restriction that machines in the wild have, for the Rust harness.

    confine.py no-io-uring ERRNO PROGRAM ARGS…    io_uring_setup fails with ERRNO, as under seccomp (EPERM) or old kernels
    confine.py memlock BYTES PROGRAM ARGS…        RLIMIT_MEMLOCK is BYTES, and no privilege overrides it
    confine.py open-files COUNT PROGRAM ARGS…     RLIMIT_NOFILE is COUNT
    confine.py file-size BYTES PROGRAM ARGS…      RLIMIT_FSIZE is BYTES (soft: it can be raised from outside)
    confine.py data BYTES PROGRAM ARGS…           RLIMIT_DATA is BYTES: private writable memory, stacks included
    confine.py user UID PROGRAM ARGS…             as this user and group, without privileges; memory stays lockable
    confine.py no-landlock ERRNO PROGRAM ARGS…    landlock_create_ruleset fails with ERRNO, as on kernels without it
    confine.py cpu NUMBER PROGRAM ARGS…           on this CPU only
    confine.py nth ERRNO:N:CALLS:FILE PROGRAM…    the N-th of these system calls (names, separated by commas; from 0, all
                                                  threads together, counted from the first io_uring_setup on) fails with
                                                  ERRNO, and FILE is made then; io_uring's operations are no system calls
    confine.py cgroup FILES PROGRAM ARGS…         in the control groups with these cgroup.procs, separated by colons
"""

import ctypes
import fcntl
import os
import resource
import select
import socket
import struct
import sys

PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS = 24, 38
SECCOMP_SET_MODE_FILTER = 1
SECCOMP_FILTER_FLAG_NEW_LISTENER = 8
NOTIF_RECV, NOTIF_SEND = 0xC0502100, 0xC0182101
SECCOMP = {"x86_64": 317, "aarch64": 277}[os.uname().machine]
CAP_IPC_LOCK = 14
# One number on every architecture.
IO_URING_SETUP = 425
LANDLOCK_CREATE_RULESET = 444
CALLS = {
    "x86_64": {
        "open": 2,
        "socket": 41,
        "mkdir": 83,
        "openat": 257,
        "mkdirat": 258,
        "accept4": 288,
        "eventfd2": 290,
        "epoll_create1": 291,
        "pipe2": 293,
        "inotify_init1": 294,
        "io_uring_setup": 425,
        "io_uring_enter": 426,
        "io_uring_register": 427,
        "openat2": 437,
    },
    "aarch64": {
        "socket": 198,
        "openat": 56,
        "mkdirat": 34,
        "accept4": 242,
        "eventfd2": 19,
        "epoll_create1": 20,
        "pipe2": 59,
        "inotify_init1": 26,
        "io_uring_setup": 425,
        "io_uring_enter": 426,
        "io_uring_register": 427,
        "openat2": 437,
    },
}

libc = ctypes.CDLL(None, use_errno=True)


def prctl(option, *values):
    words = [ctypes.c_ulong(value) for value in values] + [ctypes.c_ulong(0)] * (4 - len(values))
    if libc.prctl(option, *words) != 0:
        raise OSError(ctypes.get_errno(), f"prctl {option}")


def give_for(numbers, action, flags):
    """A filter for these calls; what seccomp(2) returns."""
    load, equal, give = 0x20, 0x15, 0x06
    checks = [(equal, len(numbers) - at, 0, number) for at, number in enumerate(numbers)]
    instructions = [(load, 0, 0, 0), *checks, (give, 0, 0, 0x7FFF0000), (give, 0, 0, action)]
    program = b"".join(struct.pack("=HBBI", *instruction) for instruction in instructions)
    code = ctypes.create_string_buffer(program)
    head = ctypes.create_string_buffer(struct.pack("@HP", len(instructions), ctypes.addressof(code)))
    prctl(PR_SET_NO_NEW_PRIVS, 1)
    result = libc.syscall(SECCOMP, SECCOMP_SET_MODE_FILTER, flags, ctypes.byref(head))
    if result < 0:
        raise OSError(ctypes.get_errno(), "seccomp")
    return result


def no_io_uring(errno):
    give_for([IO_URING_SETUP], 0x00050000 | errno, 0)


def no_landlock(errno):
    give_for([LANDLOCK_CREATE_RULESET], 0x00050000 | errno, 0)


def cpu(number):
    os.sched_setaffinity(0, {number})


def nth(value):
    errno, count, names, path = value.split(":", 3)
    table = CALLS[os.uname().machine]
    counted = {table[name] for name in names.split(",") if name in table}
    ours, theirs = socket.socketpair()
    # The supervisor is the child: signals of the harness go to the program.
    if os.fork() == 0:
        ours.close()
        _, (listener, *_), _, _ = socket.recv_fds(theirs, 1, 1)
        theirs.close()
        for closed in range(3):
            os.close(closed)
        supervise(listener, counted, int(count), int(errno), path)
        os._exit(0)
    theirs.close()
    listener = give_for(sorted(counted | {IO_URING_SETUP}), 0x7FC00000, SECCOMP_FILTER_FLAG_NEW_LISTENER)
    socket.send_fds(ours, [b"x"], [listener])
    ours.close()
    os.close(listener)


def supervise(listener, counted, count, errno, path):
    seen, counts = 0, False
    while True:
        notification = bytearray(80)
        try:
            fcntl.ioctl(listener, NOTIF_RECV, notification)
        except InterruptedError:
            continue
        except OSError as error:
            if error.errno == 2:
                # The thread was killed in its call.
                continue
            return
        (number,) = struct.unpack_from("=i", notification, 16)
        counts = counts or number == IO_URING_SETUP
        hit = counts and number in counted and seen == count
        seen += counts and number in counted
        if hit:
            with open(path, "w"):
                pass
        verdict = (-errno, 0) if hit else (0, 1)
        answer = bytearray(notification[:8] + struct.pack("=qiI", 0, *verdict))
        try:
            fcntl.ioctl(listener, NOTIF_SEND, answer)
        except OSError:
            pass
        if is_over(listener):
            return


def is_over(listener):
    poll = select.poll()
    poll.register(listener, select.POLLIN)
    return any(events & select.POLLHUP for _, events in poll.poll())


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
    "no-landlock": no_landlock,
    "cpu": cpu,
}
if restriction == "cgroup":
    cgroup(value)
elif restriction == "nth":
    nth(value)
else:
    numbers[restriction](int(value))
os.execv(command[0], command)
