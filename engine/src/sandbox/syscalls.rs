//! System calls that a BitTorrent client never needs and an intruder does.
//!
//! A list of what is denied (EPERM), not of what is allowed: libraries and kernels change what they call, and a
//! call that is missing from a list of the other kind fails where nobody expects it. io_uring goes past seccomp,
//! but has no operation for any of these (but for other kinds of sockets); what it has for files is Landlock's to
//! restrict.
//!
//! Called by [`super`], before other threads run; those that do are restricted as well.

use std::collections::BTreeMap;
use std::env::consts::ARCH;

use libc::c_long;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch, apply_filter_all_threads,
};

type Failed = Box<dyn std::error::Error>;

/// Other programs, and other processes' memory.
const RUN: [c_long; 2] = [libc::SYS_execve, libc::SYS_execveat];
const DENIED: [c_long; 57] = [
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_pidfd_getfd,
    libc::SYS_kcmp,
    // Mounts and namespaces.
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_unshare,
    libc::SYS_setns,
    // Files by handle go past folders.
    libc::SYS_open_by_handle_at,
    libc::SYS_fanotify_init,
    // The kernel itself.
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_kexec_file_load,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_acct,
    libc::SYS_quotactl,
    libc::SYS_syslog,
    libc::SYS_lookup_dcookie,
    libc::SYS_nfsservctl,
    libc::SYS_personality,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    // The machine's clock and name.
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_adjtimex,
    libc::SYS_clock_adjtime,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_vhangup,
    // Being somebody else.
    libc::SYS_setuid,
    libc::SYS_setgid,
    libc::SYS_setreuid,
    libc::SYS_setregid,
    libc::SYS_setresuid,
    libc::SYS_setresgid,
    libc::SYS_setgroups,
    libc::SYS_setfsuid,
    libc::SYS_capset,
];
/// Kinds of sockets that are used; others are denied.
const FAMILIES: [i32; 4] = [libc::AF_INET, libc::AF_INET6, libc::AF_UNIX, libc::AF_NETLINK];
const NAMESPACES: [i32; 7] = [
    libc::CLONE_NEWUSER,
    libc::CLONE_NEWNS,
    libc::CLONE_NEWNET,
    libc::CLONE_NEWPID,
    libc::CLONE_NEWIPC,
    libc::CLONE_NEWUTS,
    libc::CLONE_NEWCGROUP,
];

/// Denies them to all threads for good. `runs_programs`: programs may be run.
pub(super) fn restrict(runs_programs: bool) -> Result<(), Failed> {
    let mut denied: BTreeMap<i64, Vec<SeccompRule>> = DENIED.iter().map(|call| (*call, Vec::new())).collect();
    if !runs_programs {
        denied.extend(RUN.iter().map(|call| (*call, Vec::new())));
    }
    let strange = FAMILIES.iter().map(|family| argument(0, SeccompCmpOp::Ne, *family as u64));
    denied.insert(libc::SYS_socket, vec![SeccompRule::new(strange.collect::<Result<_, _>>()?)?]);
    let new_ones = NAMESPACES.iter().map(|flag| {
        let flag = *flag as u32 as u64;
        Ok::<_, Failed>(SeccompRule::new(vec![argument(0, SeccompCmpOp::MaskedEq(flag), flag)?])?)
    });
    denied.insert(libc::SYS_clone, new_ones.collect::<Result<_, _>>()?);
    // Typing into the terminal that the program was started from.
    let types = argument(1, SeccompCmpOp::Eq, libc::TIOCSTI)?;
    denied.insert(libc::SYS_ioctl, vec![SeccompRule::new(vec![types])?]);
    deny(denied, libc::EPERM)?;
    // Its flags lie in memory, where a filter cannot look; the C library then uses `clone`.
    deny([(libc::SYS_clone3, Vec::new())].into(), libc::ENOSYS)
}

fn argument(index: u8, operator: SeccompCmpOp, value: u64) -> Result<SeccompCondition, Failed> {
    Ok(SeccompCondition::new(index, SeccompCmpArgLen::Dword, operator, value)?)
}

fn deny(calls: BTreeMap<i64, Vec<SeccompRule>>, errno: i32) -> Result<(), Failed> {
    let architecture = TargetArch::try_from(ARCH)?;
    let denial = SeccompAction::Errno(errno as u32);
    let filter = SeccompFilter::new(calls, SeccompAction::Allow, denial, architecture)?;
    let program = BpfProgram::try_from(filter)?;
    Ok(apply_filter_all_threads(&program)?)
}
