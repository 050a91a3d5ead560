//! Which errors a system call can give, and which calls a verb can do without.

use libc::{EACCES, EBUSY, EINTR, EMFILE, ENOMEM, ENOSPC, ESRCH};

/// A system call: its number, its name, and those of the seven errors that its manual page names. EACCES is also there for
/// calls that a security module can refuse.
pub struct Possible(pub i64, pub &'static str, pub &'static [i32]);

macro_rules! possible {
    ($($number:ident $name:literal: $($error:ident)*;)*) => {
        &[$(Possible(libc::$number, $name, &[$($error),*])),*]
    };
}

pub const POSSIBLE: &[Possible] = possible! {
    SYS_accept4 "accept4": EMFILE ENOMEM EINTR;
    SYS_bind "bind": ENOMEM EACCES;
    SYS_bpf "bpf": ENOMEM EACCES;
    SYS_brk "brk": ENOMEM;
    SYS_capset "capset": ESRCH EACCES;
    SYS_chdir "chdir": ENOMEM EACCES;
    SYS_chroot "chroot": ENOMEM EACCES;
    SYS_clone "clone": ENOMEM;
    SYS_clone3 "clone3": ENOSPC ENOMEM EBUSY EACCES;
    SYS_close "close": EINTR;
    SYS_close_range "close_range": EMFILE ENOMEM;
    SYS_connect "connect": EACCES EINTR;
    SYS_dup3 "dup3": EBUSY EINTR EMFILE;
    SYS_execve "execve": ENOMEM EACCES;
    SYS_execveat "execveat": ENOMEM EACCES;
    SYS_faccessat2 "faccessat2": ENOMEM EACCES;
    SYS_fchdir "fchdir": EACCES;
    SYS_fchmod "fchmod": ENOMEM EACCES;
    SYS_fchmodat "fchmodat": ENOMEM EACCES;
    SYS_fchown "fchown": ENOMEM EACCES;
    SYS_fchownat "fchownat": ENOMEM EACCES;
    SYS_fcntl "fcntl": EMFILE EINTR EACCES;
    SYS_flock "flock": EINTR ENOMEM;
    SYS_fsconfig "fsconfig": ENOMEM EBUSY EACCES;
    SYS_fsmount "fsmount": EMFILE ENOMEM ENOSPC;
    SYS_fsopen "fsopen": EMFILE ENOMEM;
    SYS_fstat "fstat": ENOMEM EACCES;
    SYS_fstatfs "fstatfs": ENOMEM EINTR;
    SYS_getcwd "getcwd": ENOMEM EACCES;
    SYS_getdents64 "getdents64": ENOMEM EACCES;
    SYS_getrandom "getrandom": EINTR;
    SYS_ioctl "ioctl": ENOMEM EACCES;
    SYS_keyctl "keyctl": ENOMEM EACCES EINTR;
    SYS_kill "kill": ESRCH EACCES;
    SYS_listen "listen": EACCES;
    SYS_lseek "lseek": EACCES;
    SYS_memfd_create "memfd_create": EMFILE ENOMEM EACCES;
    SYS_mkdir "mkdir": ENOSPC ENOMEM EACCES;
    SYS_mkdirat "mkdirat": ENOSPC ENOMEM EACCES;
    SYS_mknodat "mknodat": ENOSPC ENOMEM EACCES;
    SYS_mmap "mmap": ENOMEM;
    SYS_mount_setattr "mount_setattr": EBUSY ENOMEM EACCES;
    SYS_move_mount "move_mount": ENOSPC EBUSY ENOMEM EACCES;
    SYS_newfstatat "newfstatat": ENOMEM EACCES;
    SYS_open "open": EMFILE ENOMEM EINTR EACCES;
    SYS_open_tree "open_tree": EMFILE ENOMEM ENOSPC EACCES;
    SYS_openat "openat": ENOSPC EMFILE ENOMEM EINTR EACCES;
    SYS_openat2 "openat2": ENOSPC EMFILE ENOMEM EINTR EACCES;
    SYS_pidfd_open "pidfd_open": EMFILE ENOMEM ESRCH;
    SYS_pidfd_send_signal "pidfd_send_signal": ESRCH EACCES;
    SYS_pipe2 "pipe2": EMFILE;
    SYS_pivot_root "pivot_root": EBUSY EACCES;
    SYS_poll "poll": EINTR ENOMEM;
    SYS_ppoll "ppoll": EINTR ENOMEM;
    SYS_prctl "prctl": EACCES;
    SYS_prlimit64 "prlimit64": ESRCH EACCES;
    SYS_read "read": EINTR ENOMEM ESRCH EACCES;
    SYS_readlink "readlink": ENOMEM EACCES;
    SYS_readlinkat "readlinkat": ENOMEM EACCES;
    SYS_recvfrom "recvfrom": EINTR;
    SYS_recvmsg "recvmsg": EINTR ENOMEM;
    SYS_rename "rename": ENOSPC EBUSY ENOMEM EACCES;
    SYS_rmdir "rmdir": EBUSY ENOMEM EACCES;
    SYS_sched_getaffinity "sched_getaffinity": ESRCH;
    SYS_seccomp "seccomp": EBUSY ENOMEM ESRCH EACCES;
    SYS_sendmsg "sendmsg": EINTR ENOMEM EACCES;
    SYS_sendto "sendto": EINTR ENOMEM EACCES;
    SYS_setdomainname "setdomainname": EACCES;
    SYS_setgroups "setgroups": ENOMEM EACCES;
    SYS_sethostname "sethostname": EACCES;
    SYS_setns "setns": ENOMEM ESRCH EACCES;
    SYS_setresgid "setresgid": EACCES;
    SYS_setresuid "setresuid": ENOMEM EACCES;
    SYS_setsid "setsid": EACCES;
    SYS_signalfd4 "signalfd4": EMFILE ENOMEM;
    SYS_socket "socket": EMFILE ENOMEM EACCES;
    SYS_socketpair "socketpair": EMFILE ENOMEM EACCES;
    SYS_statfs "statfs": ENOMEM EINTR EACCES;
    SYS_statx "statx": ENOMEM EACCES;
    SYS_symlinkat "symlinkat": ENOSPC ENOMEM EACCES;
    SYS_umount2 "umount2": EBUSY ENOMEM EACCES;
    SYS_unlink "unlink": EBUSY ENOMEM EACCES;
    SYS_unlinkat "unlinkat": EBUSY ENOMEM EACCES;
    SYS_unshare "unshare": ENOMEM ENOSPC EACCES;
    SYS_vfork "vfork": ENOMEM;
    SYS_wait4 "wait4": EINTR;
    SYS_waitid "waitid": EINTR;
    SYS_write "write": ENOSPC EINTR ENOMEM EBUSY ESRCH EACCES;
};

pub fn possible(number: i64) -> Option<&'static Possible> {
    POSSIBLE.iter().find(|one| one.0 == number)
}

/// The name of an error.
pub fn name(errno: i32) -> &'static str {
    match errno {
        EACCES => "EACCES",
        EBUSY => "EBUSY",
        EINTR => "EINTR",
        EMFILE => "EMFILE",
        ENOMEM => "ENOMEM",
        ENOSPC => "ENOSPC",
        ESRCH => "ESRCH",
        _ => "?",
    }
}
