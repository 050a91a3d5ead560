//! System calls that rustix does not offer, one thin wrapper each. With the pointer work of `process`'s
//! environment this is the only module of the crate with `unsafe`.
#![allow(unsafe_code, reason = "raw system calls")]

use core::ffi::{CStr, c_char, c_int, c_long, c_void};
use core::mem::size_of;

use rustix::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use rustix::io::Errno;

use crate::plan::Capabilities;

/// `struct mount_attr` of mount_setattr(2).
#[repr(C)]
#[derive(Debug, Default, Clone, Copy)]
pub struct MountAttributes {
    /// MOUNT_ATTR_* to set.
    pub set: u64,
    /// MOUNT_ATTR_* to clear.
    pub clear: u64,
    /// MS_SHARED, MS_SLAVE, MS_PRIVATE, MS_UNBINDABLE or 0.
    pub propagation: u64,
    /// User namespace of an idmapped mount.
    pub userns_fd: u64,
}

/// `struct sched_attr` of sched_setattr(2).
#[repr(C)]
#[derive(Debug, Default, Clone, Copy)]
#[allow(missing_docs, reason = "named as in sched_setattr(2)")]
pub struct SchedulerAttributes {
    pub size: u32,
    pub policy: u32,
    pub flags: u64,
    pub nice: i32,
    pub priority: u32,
    pub runtime: u64,
    pub deadline: u64,
    pub period: u64,
}

fn check(result: c_long) -> Result<c_long, Errno> {
    if result < 0 {
        // SAFETY: the address is that of this thread's own errno, which lives as long as the thread and is read at once.
        return Err(Errno::from_raw_os_error(unsafe { *libc::__errno_location() }));
    }
    Ok(result)
}

/// mount_setattr(2) on `path` below `dir`, or on `dir` itself where `path` is empty.
pub fn mount_setattr(
    dir: impl AsFd,
    path: &CStr,
    recursive: bool,
    attributes: &MountAttributes,
) -> Result<(), Errno> {
    let mut flags = libc::AT_SYMLINK_NOFOLLOW;
    if path.is_empty() {
        flags |= libc::AT_EMPTY_PATH;
    }
    if recursive {
        flags |= libc::AT_RECURSIVE;
    }
    // SAFETY: the kernel reads `size_of` bytes of a live, fully initialised struct and a nul-terminated path.
    check(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            dir.as_fd().as_raw_fd(),
            path.as_ptr(),
            flags as libc::c_uint,
            core::ptr::from_ref(attributes),
            size_of::<MountAttributes>(),
        )
    })
    .map(drop)
}

/// close_range(2) from `first` to the end, as CLOSE_RANGE_CLOEXEC: the descriptors live until execve(2).
pub fn close_on_exec_from(first: u32) -> Result<(), Errno> {
    const CLOSE_RANGE_CLOEXEC: c_int = 4;
    // SAFETY: changes flags of descriptors only; none is closed, so no owner is betrayed.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, CLOSE_RANGE_CLOEXEC) }).map(drop)
}

/// Closes descriptors, neighbours in one call.
pub fn close_together(descriptors: impl IntoIterator<Item = OwnedFd>) {
    let close = |(first, last): (RawFd, RawFd)| {
        // SAFETY: these are the numbers of descriptors that were owned here, each the next one's neighbour, and are no longer.
        if check(unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) }).is_err() {
            // A filter around us that is older than this call.
            (first..=last).for_each(|number| {
                // SAFETY: this number, too, is one of those, owned by nobody any more.
                unsafe { libc::syscall(libc::SYS_close, number) };
            });
        }
    };
    let mut run: Option<(RawFd, RawFd)> = None;
    for descriptor in descriptors {
        let number = descriptor.into_raw_fd();
        run = match run {
            Some((first, last)) if number == last + 1 => Some((first, number)),
            before => {
                before.map(close);
                Some((number, number))
            }
        };
    }
    run.map(close);
}

/// The number is that of a descriptor which came from our caller: open, and without close-on-exec, as none of ours is.
#[must_use]
pub fn is_inherited(descriptor: RawFd) -> bool {
    // SAFETY: F_GETFD reads a flag and leaves the descriptor to its owner; a number that is none gives EBADF.
    let flags = check(unsafe { libc::syscall(libc::SYS_fcntl, descriptor, libc::F_GETFD) });
    flags.is_ok_and(|flags| flags & c_long::from(libc::FD_CLOEXEC) == 0)
}

/// close(2) of a copy that fork has made of the parent's descriptor.
pub(crate) fn close_copy(descriptor: BorrowedFd<'_>) {
    // SAFETY: the owner lives in the parent; the child never returns to drop its copy, nor uses the number again.
    unsafe { libc::syscall(libc::SYS_close, descriptor.as_raw_fd()) };
}

/// setns(2) with a namespace descriptor or a pidfd, and CLONE_NEW* flags.
pub fn setns(descriptor: BorrowedFd<'_>, flags: u32) -> Result<(), Errno> {
    // SAFETY: the process has one thread, so no other thread's view of its namespaces changes.
    check(unsafe { libc::syscall(libc::SYS_setns, descriptor.as_raw_fd(), flags as c_int) }).map(drop)
}

/// unshare(2).
pub fn unshare(flags: u32) -> Result<(), Errno> {
    // SAFETY: the process has one thread, and neither CLONE_FILES nor CLONE_VM is among the flags used: memory and
    // descriptors stay what they are.
    check(unsafe { libc::syscall(libc::SYS_unshare, flags as c_int) }).map(drop)
}

/// Makes the process undumpable, so that no process of a joined context can trace it or open its files
/// (CVE-2016-9962).
pub fn shield() -> Result<(), Errno> {
    // SAFETY: the kernel is given numbers, and who may look at this process changes nothing that Rust relies on.
    check(unsafe { libc::syscall(libc::SYS_prctl, libc::PR_SET_DUMPABLE, 0, 0, 0, 0) }).map(drop)
}

/// Undoes [`shield`], for the while in which an unprivileged process must open its own files in procfs.
pub(crate) fn unshield() -> Result<(), Errno> {
    prctl(libc::PR_SET_DUMPABLE, 1, 0)
}

/// Clears the signal mask that the parent set for itself before clone.
pub fn unblock_signals() {
    let none = 0u64;
    // SAFETY: the kernel reads 8 bytes of a live integer and writes nothing.
    unsafe {
        libc::syscall(
            libc::SYS_rt_sigprocmask,
            libc::SIG_SETMASK,
            &raw const none,
            core::ptr::null::<c_void>(),
            8usize,
        );
    }
}

/// keyctl(2) KEYCTL_JOIN_SESSION_KEYRING without a name: a new one. By a name another guest's could be met, which has
/// made one of that name for us to join.
pub fn new_session_keyring() -> Result<(), Errno> {
    const KEYCTL_JOIN_SESSION_KEYRING: c_int = 1;
    // SAFETY: the name is null, which the call takes for none; it reads no memory.
    check(unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, 0, 0, 0, 0) }).map(drop)
}

/// personality(2).
pub fn personality(domain: u64) -> Result<(), Errno> {
    // SAFETY: the kernel is given a number; the layout of memory that it chooses holds from the next execve(2) on.
    check(unsafe { libc::syscall(libc::SYS_personality, domain) }).map(drop)
}

/// sched_setattr(2) of this process.
pub fn sched_setattr(attributes: &SchedulerAttributes) -> Result<(), Errno> {
    // SAFETY: the kernel reads as many bytes as the struct says in its first field, which the parent has set to its size,
    // and the struct is borrowed for the call.
    check(unsafe { libc::syscall(libc::SYS_sched_setattr, 0, core::ptr::from_ref(attributes), 0) }).map(drop)
}

/// sched_setaffinity(2) of this process with a mask of words.
pub fn sched_setaffinity(mask: &[u64]) -> Result<(), Errno> {
    // SAFETY: pointer and length come from one live slice.
    check(unsafe { libc::syscall(libc::SYS_sched_setaffinity, 0, size_of_val(mask), mask.as_ptr()) })
        .map(drop)
}

/// ioprio_set(2) of this process.
pub fn ioprio_set(value: i32) -> Result<(), Errno> {
    const IOPRIO_WHO_PROCESS: c_int = 1;
    // SAFETY: the kernel is given numbers, and the order in which it serves this process is none of Rust's affairs.
    check(unsafe { libc::syscall(libc::SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, value) }).map(drop)
}

/// set_mempolicy(2).
pub fn set_mempolicy(mode: i32, nodes: &[u64]) -> Result<(), Errno> {
    let bits = if nodes.is_empty() { 0 } else { nodes.len() * 64 + 1 };
    let pointer = if nodes.is_empty() { core::ptr::null() } else { nodes.as_ptr() };
    // SAFETY: the kernel reads `bits - 1` bits (set_mempolicy(2), BUGS), which the slice holds.
    check(unsafe { libc::syscall(libc::SYS_set_mempolicy, mode, pointer, bits) }).map(drop)
}

/// capset(2) of this process.
pub fn capset(sets: &Capabilities) -> Result<(), Errno> {
    #[repr(C)]
    struct Header {
        version: u32,
        pid: c_int,
    }
    #[repr(C)]
    struct Data {
        effective: u32,
        permitted: u32,
        inheritable: u32,
    }
    const VERSION_3: u32 = 0x2008_0522;
    let half = |shift: u32| Data {
        effective: (sets.effective >> shift) as u32,
        permitted: (sets.permitted >> shift) as u32,
        inheritable: (sets.inheritable >> shift) as u32,
    };
    let (header, data) = (Header { version: VERSION_3, pid: 0 }, [half(0), half(32)]);
    // SAFETY: version 3 reads one header and two data structs, which are live here.
    check(unsafe { libc::syscall(libc::SYS_capset, &raw const header, data.as_ptr()) }).map(drop)
}

/// prctl(2) with numbers only.
pub(crate) fn prctl(option: c_int, two: u64, three: u64) -> Result<(), Errno> {
    // SAFETY: this is private to the crate, and of the options that it is called with none takes a pointer.
    check(unsafe { libc::syscall(libc::SYS_prctl, option, two, three, 0, 0) }).map(drop)
}

/// seccomp(2) SECCOMP_SET_MODE_FILTER. Gives the listener when `flags` ask for one.
pub fn seccomp(program: &[libc::sock_filter], flags: u32) -> Result<Option<OwnedFd>, Errno> {
    const SECCOMP_SET_MODE_FILTER: c_int = 1;
    const NEW_LISTENER: u32 = 1 << 3;
    #[repr(C)]
    struct Program {
        length: u16,
        filter: *const libc::sock_filter,
    }
    let length = u16::try_from(program.len()).map_err(|_| Errno::INVAL)?;
    let program = Program { length, filter: program.as_ptr() };
    // SAFETY: `length` instructions lie at `filter`; the kernel copies and verifies them.
    let result = check(unsafe {
        libc::syscall(libc::SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &raw const program)
    })?;
    if flags & NEW_LISTENER == 0 {
        return Ok(None);
    }
    // SAFETY: with NEW_LISTENER the result is a new descriptor that nobody else owns.
    Ok(Some(unsafe { OwnedFd::from_raw_fd(result as RawFd) }))
}

/// The version of Landlock that the kernel has (landlock_create_ruleset(2), LANDLOCK_CREATE_RULESET_VERSION).
pub fn landlock_version() -> Result<u32, Errno> {
    const CREATE_RULESET_VERSION: c_int = 1;
    // SAFETY: with this flag the kernel takes no attributes, and wants the pointer null and the size 0.
    let version = check(unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            core::ptr::null::<c_void>(),
            0usize,
            CREATE_RULESET_VERSION,
        )
    })?;
    Ok(version as u32)
}

/// landlock_create_ruleset(2): a set of rules, beside which these accesses to files are refused.
pub(crate) fn landlock_create(handled: u64) -> Result<OwnedFd, Errno> {
    // SAFETY: the kernel reads the one word whose size it is given: the first member of `struct landlock_ruleset_attr`.
    let ruleset = check(unsafe {
        libc::syscall(libc::SYS_landlock_create_ruleset, &raw const handled, size_of::<u64>(), 0)
    })?;
    // SAFETY: the result is a new descriptor that nobody else owns; the kernel makes it close-on-exec.
    Ok(unsafe { OwnedFd::from_raw_fd(ruleset as RawFd) })
}

/// A set that keeps whom it holds from abstract unix sockets that others have made (landlock(7),
/// `LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET`, Linux 6.12).
pub(crate) fn landlock_scope() -> Result<OwnedFd, Errno> {
    // struct landlock_ruleset_attr: rights over files, rights over ports, scopes.
    let attributes = [0_u64, 0, 1];
    let size = size_of_val(&attributes);
    // SAFETY: the kernel reads `size` bytes of a live array.
    let ruleset =
        check(unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, attributes.as_ptr(), size, 0) })?;
    // SAFETY: the result is a new descriptor that nobody else owns; the kernel makes it close-on-exec.
    Ok(unsafe { OwnedFd::from_raw_fd(ruleset as RawFd) })
}

/// landlock_add_rule(2): allows accesses to a file, or to all below a folder.
pub(crate) fn landlock_allow(
    ruleset: BorrowedFd<'_>,
    place: BorrowedFd<'_>,
    allowed: u64,
) -> Result<(), Errno> {
    const RULE_PATH_BENEATH: c_int = 1;
    #[repr(C, packed)]
    struct Beneath {
        allowed: u64,
        parent: i32,
    }
    let rule = Beneath { allowed, parent: place.as_raw_fd() };
    // SAFETY: for this kind of rule the kernel reads a `struct landlock_path_beneath_attr`, which is packed as ours is, and
    // live for the call.
    check(unsafe {
        libc::syscall(libc::SYS_landlock_add_rule, ruleset.as_raw_fd(), RULE_PATH_BENEATH, &raw const rule, 0)
    })
    .map(drop)
}

/// landlock_restrict_self(2): from here on the process, and what it executes, is held to the rules.
pub(crate) fn landlock_restrict(ruleset: BorrowedFd<'_>) -> Result<(), Errno> {
    // SAFETY: the kernel is given a descriptor and a number; what may be opened from now on is none of Rust's affairs.
    check(unsafe { libc::syscall(libc::SYS_landlock_restrict_self, ruleset.as_raw_fd(), 0) }).map(drop)
}

/// getcwd(2) into `buffer`; the text starts with `/` unless the folder lies outside the root.
pub fn getcwd(buffer: &mut [u8]) -> Result<&[u8], Errno> {
    // SAFETY: the kernel writes at most the slice's length.
    let length =
        check(unsafe { libc::syscall(libc::SYS_getcwd, buffer.as_mut_ptr(), buffer.len()) })? as usize;
    Ok(&buffer[..length.saturating_sub(1)])
}

/// dup3(2) onto a standard descriptor, which then survives execve(2).
pub fn dup_onto(from: BorrowedFd<'_>, to: RawFd) -> Result<(), Errno> {
    // SAFETY: only 0, 1 and 2 are replaced, and no value owns them.
    check(unsafe { libc::syscall(libc::SYS_dup3, from.as_raw_fd(), to, 0) }).map(drop)
}

/// Brings the interface `lo` up (netdevice(7), SIOCSIFFLAGS).
pub fn loopback_up(socket: BorrowedFd<'_>) -> Result<(), Errno> {
    #[repr(C)]
    struct Request {
        name: [u8; 16],
        flags: i16,
        rest: [u8; 22],
    }
    let mut request =
        Request { name: [0; 16], flags: (libc::IFF_UP | libc::IFF_RUNNING) as i16, rest: [0; 22] };
    request.name[..2].copy_from_slice(b"lo");
    // SAFETY: `request` has the size and layout of `struct ifreq`.
    check(unsafe {
        libc::syscall(libc::SYS_ioctl, socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request)
    })
    .map(drop)
}

/// execve(2). Returns only the error.
///
/// # Safety
///
/// Both arrays end in null, and each pointer in them is a live C string.
pub unsafe fn execve(path: &CStr, args: *const *const c_char, env: *const *const c_char) -> Errno {
    // SAFETY: the caller of this function vouches for both arrays and the strings in them.
    match check(unsafe { libc::syscall(libc::SYS_execve, path.as_ptr(), args, env) }) {
        Ok(_) => Errno::INVAL,
        Err(error) => error,
    }
}

/// exit_group(2): no destructor and no exit handler of the parent's runs in the child.
pub fn exit(code: i32) -> ! {
    loop {
        // SAFETY: the process ends here: whatever it has borrowed is used by nobody after this.
        unsafe { libc::syscall(libc::SYS_exit_group, code) };
    }
}

/// Runs the plan's program. Returns only the error.
pub(crate) fn execve_plan(
    path: &CStr,
    args: &[*const c_char],
    env: &[core::cell::Cell<*const c_char>],
) -> Errno {
    if args.last().is_none_or(|last| !last.is_null()) || env.last().is_none_or(|last| !last.get().is_null()) {
        return Errno::INVAL;
    }
    // SAFETY: both end in null, as just checked; the other pointers are C strings of the plan's arena, which
    // outlives the plan. `Cell<T>` has the layout of `T`.
    unsafe { execve(path, args.as_ptr(), env.as_ptr().cast()) }
}

/// The program's name, the first of the arguments.
pub(crate) fn first<'a>(args: &'a [*const c_char]) -> Option<&'a CStr> {
    let first = args.first().filter(|first| !first.is_null())?;
    // SAFETY: the plan's arguments are C strings of its arena, which outlives the plan.
    Some(unsafe { CStr::from_ptr::<'a>(*first) })
}

/// The numbers as rustix's type.
pub(crate) fn group_ids(groups: &[u32]) -> &[rustix::fs::Gid] {
    // SAFETY: `Gid` is a transparent wrapper of `u32`, so that the slice has the same layout, and it is borrowed as long.
    unsafe { core::slice::from_raw_parts(groups.as_ptr().cast(), groups.len()) }
}

/// faccessat2(2) with AT_EACCESS: may the process, as it is now, execute the file?
pub(crate) fn may_execute(path: &CStr) -> Result<(), Errno> {
    // SAFETY: a `CStr` ends in nul, which is as far as the kernel reads, and it is borrowed for the call.
    check(unsafe {
        libc::syscall(libc::SYS_faccessat2, libc::AT_FDCWD, path.as_ptr(), libc::X_OK, libc::AT_EACCESS)
    })
    .map(drop)
}

/// setrlimit(2), by prlimit64(2).
pub(crate) fn setrlimit(resource: u32, soft: u64, hard: u64) -> Result<(), Errno> {
    let limit = [soft, hard];
    // SAFETY: the kernel reads two words of a live array, and is given no place to write to.
    check(unsafe {
        libc::syscall(libc::SYS_prlimit64, 0, resource, limit.as_ptr(), core::ptr::null::<c_void>())
    })
    .map(drop)
}
