//! Our own profile for contexts that bring none: what ordinary software calls, and what a capability unlocks.
//!
//! Everything else is EPERM: it either changes the machine, or it is a part of the kernel that ordinary software leaves
//! alone and that keeps having bugs. The kernel checks most of it again; the filter is there for the day when it fails to.

use caps::Capability;
use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompArgBuilder, LinuxSeccompOperator,
    LinuxSyscall,
};

/// The capabilities of a context where nothing else is asked for, as a bit mask: those that engines give.
pub const DEFAULT_CAPABILITIES: u64 = mask(&[
    Capability::CAP_AUDIT_WRITE,
    Capability::CAP_CHOWN,
    Capability::CAP_DAC_OVERRIDE,
    Capability::CAP_FOWNER,
    Capability::CAP_FSETID,
    Capability::CAP_KILL,
    Capability::CAP_MKNOD,
    Capability::CAP_NET_BIND_SERVICE,
    Capability::CAP_NET_RAW,
    Capability::CAP_SETFCAP,
    Capability::CAP_SETGID,
    Capability::CAP_SETPCAP,
    Capability::CAP_SETUID,
    Capability::CAP_SYS_CHROOT,
]);

/// Files: names, contents, attributes, asynchronous and zero-copy reading and writing. vmsplice is not among them: it
/// lends the caller's pages to the kernel, hardly anyone uses it, and attacks on the page cache do.
const FILES: &str = "
    _llseek access cachestat chdir chmod chown chown32 close close_range copy_file_range creat dup dup2 dup3
    faccessat faccessat2 fadvise64 fadvise64_64 fallocate fanotify_mark fchdir fchmod fchmodat fchmodat2 fchown
    fchown32 fchownat fcntl fcntl64 fdatasync fgetxattr flistxattr flock fremovexattr fsetxattr fstat fstat64
    fstatat64 fstatfs fstatfs64 fsync ftruncate ftruncate64 futimesat getcwd getdents getdents64 getxattr getxattrat
    inotify_add_watch inotify_init inotify_init1 inotify_rm_watch io_cancel io_destroy io_getevents io_pgetevents
    io_pgetevents_time64 io_setup io_submit lchown lchown32 lgetxattr link linkat listxattr listxattrat llistxattr
    lremovexattr lseek lsetxattr lstat lstat64 mkdir mkdirat mknod mknodat name_to_handle_at newfstatat open openat
    openat2 pipe pipe2 pread64 preadv preadv2 pwrite64 pwritev pwritev2 read readahead readdir readlink readlinkat
    readv removexattr removexattrat rename renameat renameat2 rmdir sendfile sendfile64 setxattr setxattrat splice
    stat stat64 statfs statfs64 statx symlink symlinkat sync sync_file_range sync_file_range2 syncfs tee truncate
    truncate64 umask unlink unlinkat utime utimensat utimensat_time64 utimes write writev
    arm_fadvise64_64 arm_sync_file_range";

/// Memory, with the calls of modern allocators and of hardened software.
const MEMORY: &str = "
    brk madvise map_shadow_stack membarrier memfd_create memfd_secret mincore mlock mlock2 mlockall mmap mmap2
    mprotect mremap mseal msync munlock munlockall munmap pkey_alloc pkey_free pkey_mprotect remap_file_pages
    cacheflush riscv_flush_icache";

/// Processes and threads. ptrace is here for debuggers, strace and nested sandboxes: since Linux 4.8 a tracer can no
/// longer lead its child around this filter. Whom it may trace is the kernel's check, inside one process namespace.
/// seccomp and Landlock only ever take rights away.
const PROCESSES: &str = "
    arch_prctl breakpoint capget capset execve execveat exit exit_group fork futex futex_requeue futex_time64
    futex_wait futex_waitv futex_wake get_robust_list get_thread_area getcpu getpgid getpgrp getpid getppid
    getrlimit getrusage getsid gettid landlock_add_rule landlock_create_ruleset landlock_restrict_self
    pidfd_open pidfd_send_signal prctl prlimit64 process_mrelease ptrace restart_syscall riscv_hwprobe rseq seccomp
    set_robust_list set_thread_area set_tid_address set_tls setpgid setrlimit setsid sysinfo times ugetrlimit uname
    vfork wait4 waitid waitpid";

/// Who the process is. Changing it is bounded by capabilities and by the user namespace.
const IDENTITY: &str = "
    getegid getegid32 geteuid geteuid32 getgid getgid32 getgroups getgroups32 getresgid getresgid32 getresuid
    getresuid32 getuid getuid32 setfsgid setfsgid32 setfsuid setfsuid32 setgid setgid32 setgroups setgroups32
    setregid setregid32 setresgid setresgid32 setresuid setresuid32 setreuid setreuid32 setuid setuid32";

/// Signals, timers and waiting. adjtimex only reads without CAP_SYS_TIME, and time daemons start with it.
const EVENTS: &str = "
    _newselect adjtimex alarm clock_adjtime clock_adjtime64 clock_getres clock_getres_time64 clock_gettime
    clock_gettime64 clock_nanosleep clock_nanosleep_time64 epoll_create epoll_create1 epoll_ctl epoll_ctl_old
    epoll_pwait epoll_pwait2 epoll_wait epoll_wait_old eventfd eventfd2 getitimer gettimeofday kill nanosleep pause
    poll ppoll ppoll_time64 pselect6 pselect6_time64 rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo
    rt_sigreturn rt_sigsuspend rt_sigtimedwait rt_sigtimedwait_time64 rt_tgsigqueueinfo select setitimer sigaction
    sigaltstack signal signalfd signalfd4 sigpending sigprocmask sigreturn sigsuspend tgkill time timer_create
    timer_delete timer_getoverrun timer_gettime timer_gettime64 timer_settime timer_settime64 timerfd_create
    timerfd_gettime timerfd_gettime64 timerfd_settime timerfd_settime64 tkill";

/// Scheduling: the kernel asks for CAP_SYS_NICE where it matters.
const SCHEDULING: &str = "
    getpriority ioprio_get ioprio_set nice sched_get_priority_max sched_get_priority_min sched_getaffinity
    sched_getattr sched_getparam sched_getscheduler sched_rr_get_interval sched_rr_get_interval_time64
    sched_setaffinity sched_setattr sched_setparam sched_setscheduler sched_yield setpriority";

/// System V and POSIX communication, inside one IPC namespace.
const COMMUNICATION: &str = "
    ipc mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedreceive_time64 mq_timedsend mq_timedsend_time64
    mq_unlink msgctl msgget msgrcv msgsnd semctl semget semop semtimedop semtimedop_time64 shmat shmctl shmdt shmget";

/// Sockets that exist. Which ones can be made is in [`SOCKET_FAMILIES`].
const SOCKETS: &str = "
    accept accept4 bind connect getpeername getrandom getsockname getsockopt listen recv recvfrom recvmmsg
    recvmmsg_time64 recvmsg send sendmmsg sendmsg sendto setsockopt shutdown";

/// UNIX, INET, INET6, NETLINK, PACKET. The others are either not of this namespace (VSOCK reaches the hypervisor), or
/// rarely used kernel code that any user can reach (ALG, TIPC, RDS, and so on).
const SOCKET_FAMILIES: [u64; 5] = [1, 2, 10, 16, 17];

/// PER_LINUX, ADDR_NO_RANDOMIZE (debuggers), PER_LINUX32, UNAME26, UNAME26 | PER_LINUX32, and the question (-1). The
/// other bits weaken a process's memory (READ_IMPLIES_EXEC, MMAP_PAGE_ZERO) or select code that nobody tests.
const PERSONALITIES: [u64; 6] = [0, 0x4_0000, 8, 0x2_0000, 0x2_0008, 0xffff_ffff];

/// TIOCSTI types into the terminal, TIOCLINUX pastes into it: out of the context when the terminal is the caller's
/// (CVE-2017-5226). No capability unlocks them.
const REFUSED_IOCTLS: [u32; 2] = [0x5412, 0x541c];

/// CLONE_NEWTIME, NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET. A nested user namespace would give every
/// process all capabilities over new namespaces, and so the kernel's whole administrative surface (CVE-2022-0185,
/// CVE-2024-1086).
const NAMESPACES: u64 = 0x7e02_0080;
/// clone(2) has the termination signal where unshare(2) has CLONE_NEWTIME.
const CLONE_NAMESPACES: u64 = NAMESPACES & !0xff;

/// What the low half of an argument is compared with. The kernel reads these arguments as 32 bits and drops the rest;
/// a comparison of all 64 would be evaded by a bit up there.
const LOW_HALF: u64 = 0xffff_ffff;

/// What each capability unlocks, any one of the listed ones. Never unlocked: userfaultfd and io_uring (they make kernel
/// bugs exploitable, or are their home), keyrings (not divided into namespaces: add_key, request_key, keyctl), modify_ldt,
/// vm86, and dead calls (uselib, ustat, sysfs, nfsservctl, _sysctl).
const UNLOCKED: &[(&[Capability], &str)] = &[
    // Namespaces and mounts; the names and quotas of the machine; watching all files.
    (
        &[Capability::CAP_SYS_ADMIN],
        "clone clone3 fanotify_init fsconfig fsmount fsopen fspick listmount lookup_dcookie mount mount_setattr
         move_mount open_tree open_tree_attr pivot_root quotactl quotactl_fd setdomainname sethostname setns statmount
         swapoff swapon umount umount2 unshare",
    ),
    // Programs inside the kernel, and its counters: a history of bugs, and they see other contexts.
    (&[Capability::CAP_SYS_ADMIN, Capability::CAP_BPF], "bpf"),
    (&[Capability::CAP_SYS_ADMIN, Capability::CAP_PERFMON], "perf_event_open"),
    // The kernel's log is the machine's, not the context's.
    (&[Capability::CAP_SYS_ADMIN, Capability::CAP_SYSLOG], "syslog"),
    // A handle names any file of a file system, also outside the root (Shocker).
    (&[Capability::CAP_DAC_READ_SEARCH], "open_by_handle_at"),
    (&[Capability::CAP_SYS_BOOT], "kexec_file_load kexec_load reboot"),
    (&[Capability::CAP_SYS_CHROOT], "chroot"),
    (&[Capability::CAP_SYS_MODULE], "delete_module finit_module init_module"),
    // Placing pages on memory nodes is the machine's business; numactl asks for the capability.
    (
        &[Capability::CAP_SYS_NICE],
        "get_mempolicy mbind migrate_pages move_pages set_mempolicy set_mempolicy_home_node",
    ),
    (&[Capability::CAP_SYS_PACCT], "acct"),
    // Other processes' memory and descriptors without stopping them; ptrace itself is free, see PROCESSES.
    (
        &[Capability::CAP_SYS_PTRACE],
        "kcmp pidfd_getfd process_madvise process_vm_readv process_vm_writev",
    ),
    (&[Capability::CAP_SYS_RAWIO], "ioperm iopl"),
    // The clock is the machine's.
    (&[Capability::CAP_SYS_TIME], "clock_settime clock_settime64 settimeofday stime"),
    (&[Capability::CAP_SYS_TTY_CONFIG], "vhangup"),
];

/// The profile for a context whose processes can come to hold these capabilities (bit N is capability N).
pub fn default_profile(capabilities: u64) -> LinuxSeccomp {
    let mut syscalls = vec![allow(
        &[FILES, MEMORY, PROCESSES, IDENTITY, EVENTS, SCHEDULING, COMMUNICATION, SOCKETS].join(" "),
        vec![],
    )];
    for (any, names) in UNLOCKED {
        if capabilities & mask(any) != 0 {
            syscalls.push(allow(names, vec![]));
        }
    }
    if capabilities & mask(&[Capability::CAP_SYS_ADMIN]) == 0 {
        syscalls.extend(without_new_namespaces());
    }
    for family in SOCKET_FAMILIES {
        syscalls.push(allow("socket socketpair", vec![masked(0, LOW_HALF, family)]));
    }
    for personality in PERSONALITIES {
        syscalls.push(allow("personality", vec![masked(0, LOW_HALF, personality)]));
    }
    for (mask, value) in all_but(&REFUSED_IOCTLS) {
        syscalls.push(allow("ioctl", vec![masked(1, mask.into(), value.into())]));
    }
    let mut profile = LinuxSeccomp::default();
    profile.set_default_action(LinuxSeccompAction::ScmpActErrno);
    profile.set_default_errno_ret(Some(libc::EPERM as u32));
    profile.set_architectures(Some(architectures()));
    profile.set_syscalls(Some(syscalls));
    profile
}

/// Whether the profile for these capabilities is the one for [`DEFAULT_CAPABILITIES`]: most capabilities unlock no call.
pub(super) fn is_usual(capabilities: u64) -> bool {
    let unlocking = UNLOCKED.iter().fold(0, |all, (any, _)| all | mask(any));
    (capabilities ^ DEFAULT_CAPABILITIES) & unlocking == 0
}

/// clone3 hides its flags behind a pointer; told that it does not exist, C libraries call clone.
fn without_new_namespaces() -> [LinuxSyscall; 3] {
    let mut clone3 = allow("clone3", vec![]);
    clone3.set_action(LinuxSeccompAction::ScmpActErrno);
    clone3.set_errno_ret(Some(libc::ENOSYS as u32));
    [
        clone3,
        allow("clone", vec![masked(0, CLONE_NAMESPACES, 0)]),
        allow("unshare", vec![masked(0, NAMESPACES, 0)]),
    ]
}

/// The 32-bit brother of the machine too. Not x32, which kernels have switched off.
fn architectures() -> Vec<Arch> {
    match super::architecture::NATIVE {
        Arch::ScmpArchX86_64 => vec![Arch::ScmpArchX86_64, Arch::ScmpArchX86],
        Arch::ScmpArchAarch64 => vec![Arch::ScmpArchAarch64, Arch::ScmpArchArm],
        other => vec![other],
    }
}

/// All 32-bit values but these, as (mask, value) pairs of which any may hold: libseccomp knows "masked equal", and no
/// "masked not equal". A value is different when one bit is; bits in which the refused values differ are told apart
/// one after the other.
fn all_but(refused: &[u32]) -> Vec<(u32, u32)> {
    fn split(refused: &[u32], fixed: u32, value: u32, done: u32, pairs: &mut Vec<(u32, u32)>) {
        let (mut open, mut agreed) = (None, done);
        for bit in (0..32).map(|place| 1_u32 << place).filter(|bit| (fixed | done) & bit == 0) {
            if refused.iter().all(|one| one & bit == refused[0] & bit) {
                pairs.push((fixed | bit, value | (!refused[0] & bit)));
                agreed |= bit;
            } else {
                open = Some(bit);
            }
        }
        let Some(bit) = open else { return };
        for side in [0, bit] {
            let there: Vec<u32> = refused.iter().copied().filter(|one| one & bit == side).collect();
            split(&there, fixed | bit, value | side, agreed, pairs);
        }
    }
    let mut pairs = Vec::new();
    split(refused, 0, 0, 0, &mut pairs);
    pairs
}

fn allow(names: &str, args: Vec<LinuxSeccompArg>) -> LinuxSyscall {
    let mut rule = LinuxSyscall::default();
    rule.set_names(names.split_ascii_whitespace().map(str::to_owned).collect());
    rule.set_action(LinuxSeccompAction::ScmpActAllow);
    rule.set_args((!args.is_empty()).then_some(args));
    rule
}

fn masked(index: usize, mask: u64, value: u64) -> LinuxSeccompArg {
    let arg = LinuxSeccompArgBuilder::default().index(index).op(LinuxSeccompOperator::ScmpCmpMaskedEq);
    arg.value(mask).value_two(value).build().expect("every field of an argument has a default")
}

const fn mask(capabilities: &[Capability]) -> u64 {
    let mut mask = 0;
    let mut index = 0;
    while index < capabilities.len() {
        mask |= 1 << capabilities[index] as u8;
        index += 1;
    }
    mask
}
