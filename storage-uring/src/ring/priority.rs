//! Lowest priority for a thread whose work can wait.
//!
//! Role: a re-check of files gives way to transfers. Owner: the thread that calls [`go_idle`] for itself.
//! Called by the hash threads of the command line's `create` and `verify`. Invariant: only the calling thread
//! and those it starts later are touched.

/// `IOPRIO_CLASS_IDLE << IOPRIO_CLASS_SHIFT` of linux/ioprio.h.
const IO_CLASS_IDLE: libc::c_int = 3 << 13;
/// `IOPRIO_WHO_PROCESS` of linux/ioprio.h: one thread, in fact.
const IO_WHO_THREAD: libc::c_int = 1;

/// Lets the calling thread run only when nothing else wants the CPU (`SCHED_IDLE`) or, with an I/O scheduler
/// that knows priorities, the disk. Where the kernel refuses, the thread stays as it is; that is logged.
pub fn go_idle() {
    let parameter = libc::sched_param { sched_priority: 0 };
    // SAFETY: pid 0 is the calling thread, and `parameter` outlives the call.
    let scheduled = unsafe { libc::sched_setscheduler(0, libc::SCHED_IDLE, &parameter) };
    // SAFETY: three integers, no memory; id 0 is the calling thread.
    let io = unsafe { libc::syscall(libc::SYS_ioprio_set, IO_WHO_THREAD, 0, IO_CLASS_IDLE) };
    if scheduled != 0 || io != 0 {
        let error = std::io::Error::last_os_error();
        tracing::debug!(%error, scheduled, io, "the thread keeps its priority");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_thread_is_idle_and_others_are_not() {
        std::thread::spawn(|| {
            go_idle();
            let stat = std::fs::read_to_string("/proc/thread-self/stat").unwrap();
            // Field 41 of proc(5): the policy; counted after the parenthesised name.
            let policy = stat.rsplit_once(") ").unwrap().1.split(' ').nth(41 - 3).unwrap().to_owned();
            assert_eq!(policy, libc::SCHED_IDLE.to_string());
        })
        .join()
        .unwrap();
        // SAFETY: pid 0 is the calling thread.
        assert_eq!(unsafe { libc::sched_getscheduler(0) }, libc::SCHED_OTHER);
    }
}
