//! What the child is told: C strings, descriptors, numbers and a compiled filter, all prepared by the parent.
//!
//! Everything here borrows from the parent's memory, which clone3(2) copied. The child decides nothing and allocates
//! nothing; where a type has a choice, the parent has made it.

use core::cell::Cell;
use core::ffi::{CStr, c_char};

use rustix::fd::BorrowedFd;

/// One child: where it finds itself, and what it becomes.
#[derive(Debug)]
pub struct Plan<'a> {
    /// The root of the host's procfs, verified by the parent. Labels and sysctls are written through it, never through a
    /// path in the context (CVE-2019-16884, CVE-2025-52881).
    pub proc: BorrowedFd<'a>,
    /// The `tasks` file of each cgroup v1 hierarchy, open for writing. The child writes "0" (itself) to each: the kernel
    /// then skips the global lock, and the RCU grace period, that a write of a pid to `cgroup.procs` waits for. Empty with
    /// [`Setting::groups_before`].
    pub tasks: &'a [BorrowedFd<'a>],
    /// Descriptors of the parent that must not live on in the child: a lock would stay taken.
    pub close: &'a [BorrowedFd<'a>],
    /// Whether the scene is new or another context's.
    pub scene: Scene<'a>,
    /// What runs in it.
    pub process: Process<'a>,
}

/// The surroundings of the process.
#[derive(Debug)]
pub enum Scene<'a> {
    /// A new context: `create` and `run`.
    New(&'a Setting<'a>),
    /// A further process of a context that runs: `exec`.
    Join(Join<'a>),
}

/// Joins the namespaces of a running process.
#[derive(Debug)]
pub struct Join<'a> {
    /// A pidfd of the context's first process.
    pub target: BorrowedFd<'a>,
    /// CLONE_NEW* flags of the namespaces to join, without CLONE_NEWPID: the parent has set that for its children.
    pub namespaces: u32,
    /// The process has left its parent's user namespace.
    pub user_namespace: bool,
    /// The root of the context, where its mount namespace does not tell (see [`Root::staged`]).
    pub root: Option<BorrowedFd<'a>>,
}

/// Everything that makes a new context, in the order in which the child does it.
#[derive(Debug)]
pub struct Setting<'a> {
    /// Namespaces to join by descriptor: (descriptor, CLONE_NEW* flag). The user and pid namespaces were joined before.
    pub join: &'a [(BorrowedFd<'a>, u32)],
    /// The parent maps the ids of a new user namespace: wait for [`crate::handshake::Order::Mapped`].
    pub new_user_namespace: bool,
    /// The process is not in the parent's user namespace.
    pub user_namespace: bool,
    /// Lines for `/proc/self/timens_offsets` of a new time namespace (time_namespaces(7)).
    pub time_offsets: Option<&'a [u8]>,
    /// The control groups of version 1 are made while the child mounts, and come with
    /// [`crate::handshake::Order::Groups`]. They are entered before this mount, by its index: the first that shows them, or
    /// whose content they have to account for.
    pub groups_before: Option<usize>,
    /// Make a cgroup namespace, after the control groups were joined, so that they are its root.
    pub new_cgroup_namespace: bool,
    /// Bring the loopback interface of a new network namespace up.
    pub loopback: bool,
    /// sethostname(2).
    pub hostname: Option<&'a [u8]>,
    /// setdomainname(2).
    pub domainname: Option<&'a [u8]>,
    /// The root file system and what is mounted in it.
    pub root: &'a Root<'a>,
    /// Files below `/proc/sys`, relative to procfs, and what is written to them.
    pub sysctl: &'a [(&'a CStr, &'a [u8])],
    /// Stop before the root is changed, so that the parent can run hooks.
    pub gate: bool,
    /// The listening socket on which `start` comes; without it the parent's `Proceed` starts the process.
    pub start: Option<BorrowedFd<'a>>,
}

/// The new root and its mounts.
#[derive(Debug)]
pub struct Root<'a> {
    /// Where the tree comes from.
    pub source: Source<'a>,
    /// The host folder from which the source's options name others by relative paths.
    pub within: Option<&'a CStr>,
    /// The host folder on which it is attached, in the context's own mount namespace.
    pub at: &'a CStr,
    /// The mount namespace is another's, in which none of the tree is to be seen: it is made in one for the while, and a
    /// detached copy of it is the root.
    pub staged: bool,
    /// Propagation (MS_SHARED, MS_SLAVE, MS_PRIVATE) given to every mount of the copied host tree first.
    pub propagation: u64,
    /// Propagation of `/` in the end, when the configuration asks for shared or unbindable.
    pub final_propagation: Option<u64>,
    /// Remount `/` read-only in the end.
    pub readonly: bool,
    /// Use MS_MOVE and chroot(2) in place of pivot_root(2), for a root on an initramfs.
    pub no_pivot: bool,
    /// Mounts, in order.
    pub mounts: &'a [Mount<'a>],
    /// Device nodes.
    pub devices: &'a [Device<'a>],
    /// Symbolic links: (target, path in the root). One that exists is left alone.
    pub links: &'a [(&'a CStr, &'a CStr)],
    /// Mount the terminal on `/dev/console`.
    pub console: bool,
    /// Paths hidden from the guest.
    pub masked: &'a [&'a CStr],
    /// Paths that the guest sees read-only.
    pub readonly_paths: &'a [&'a CStr],
}

/// One mount.
#[derive(Debug)]
pub struct Mount<'a> {
    /// What is mounted.
    pub source: Source<'a>,
    /// Path in the root.
    pub target: &'a CStr,
    /// MOUNT_ATTR_* flags set on the mount (mount_setattr(2)).
    pub set: u64,
    /// MOUNT_ATTR_* flags cleared.
    pub clear: u64,
    /// MOUNT_ATTR_* flags set on the mount and all below it.
    pub set_recursive: u64,
    /// MOUNT_ATTR_* flags cleared on the mount and all below it.
    pub clear_recursive: u64,
    /// Propagation changes: (MS_SHARED, MS_SLAVE, MS_PRIVATE or MS_UNBINDABLE; recursive).
    pub propagation: &'a [(u64, bool)],
    /// Copy what the root has at the target into a new tmpfs.
    pub copy_up: bool,
    /// The target may lie on a procfs. Else a target there is refused: it would be a fake /proc (CVE-2019-16884).
    pub over_proc: bool,
    /// Mode of a target folder that is made, and of a tmpfs without a mode of its own when it is mounted over a folder.
    pub inherit_mode: bool,
}

/// Where a mount's tree comes from.
#[derive(Debug)]
pub enum Source<'a> {
    /// A new file system (fsopen(2)).
    FileSystem {
        /// Type, as in `/proc/filesystems`.
        kind: &'a CStr,
        /// Source, as shown in mountinfo.
        source: &'a CStr,
        /// Options; one without a value is a flag.
        options: &'a [(&'a CStr, Option<&'a CStr>)],
    },
    /// A host path (open_tree(2)).
    Bind {
        /// Host path, resolved before the root changes.
        path: &'a CStr,
        /// With the mounts below it.
        recursive: bool,
        /// The path must be the root of a procfs: it is mounted over the guest's `/proc`.
        procfs: bool,
    },
    /// A tmpfs with host folders bound in it side by side: the control groups of version 1.
    Folders {
        /// The name of each and the host path.
        folders: &'a [(&'a CStr, &'a CStr)],
        /// Symbolic links beside them: (target, name).
        links: &'a [(&'a CStr, &'a CStr)],
    },
    /// A detached tree that the parent has made, because only it may: an idmapped mount.
    Tree {
        /// The tree (open_tree(2)).
        tree: BorrowedFd<'a>,
        /// The host path that it is a copy of, for messages.
        path: &'a CStr,
    },
}

/// A device node.
#[derive(Debug)]
pub struct Device<'a> {
    /// Path in the root.
    pub path: &'a CStr,
    /// S_IFCHR, S_IFBLK or S_IFIFO, and the permission bits.
    pub mode: u32,
    /// Major and minor number.
    pub number: (u32, u32),
    /// Owner and group, in the context's ids.
    pub owner: (u32, u32),
    /// The host's node of that number, bound where mknod(2) is not allowed.
    pub host: &'a CStr,
}

/// What the child becomes.
#[derive(Debug)]
pub struct Process<'a> {
    /// The program, where it is not the first argument.
    pub path: Option<&'a CStr>,
    /// Descriptors that become standard input, output or error: (descriptor, 0, 1 or 2).
    pub standard: &'a [(BorrowedFd<'a>, i32)],
    /// Arguments, ending in null.
    pub args: &'a [*const c_char],
    /// Environment; two slots at the end are null, the first of which takes HOME when it was not given.
    pub env: &'a [Cell<*const c_char>],
    /// HOME is missing in `env`: it is looked up in the context's passwd file, and put here.
    pub find_home: Option<&'a Cell<[u8; crate::home::SPACE]>>,
    /// Where the program may lie: one place where it has a slash, else one in each folder of the search path. None
    /// where there is no program.
    pub places: &'a [&'a CStr],
    /// The places are those of the search path.
    pub searched: bool,
    /// Working folder.
    pub cwd: &'a CStr,
    /// Make the working folder when it is missing.
    pub make_cwd: bool,
    /// User and group id.
    pub user: (u32, u32),
    /// Supplementary groups; absent where setgroups(2) is denied.
    pub groups: Option<&'a [u32]>,
    /// umask(2).
    pub umask: Option<u32>,
    /// Capability sets; absent leaves them as they are.
    pub capabilities: Option<Capabilities>,
    /// prctl(2) PR_SET_NO_NEW_PRIVS.
    pub no_new_privileges: bool,
    /// (RLIMIT_*, soft, hard).
    pub rlimits: &'a [(u32, u64, u64)],
    /// setpriority(2)-like attributes of sched_setattr(2).
    pub scheduler: Option<&'a crate::sys::SchedulerAttributes>,
    /// ioprio_set(2) value.
    pub io_priority: Option<i32>,
    /// personality(2).
    pub personality: Option<u64>,
    /// set_mempolicy(2): mode with flags, node mask words.
    pub memory_policy: Option<(i32, &'a [u64])>,
    /// CPU mask words for sched_setaffinity(2), set before the first instruction of the guest.
    pub affinity: Option<&'a [u64]>,
    /// Label for `attr/exec`, below `/proc/self` (AppArmor or SELinux): (file, text).
    pub label: Option<(&'a CStr, &'a [u8])>,
    /// A new session keyring (session-keyring(7)), in place of the caller's.
    pub keyring: bool,
    /// It shares a network namespace with others whose abstract unix sockets are not its own to reach.
    pub scoped: bool,
    /// What of its root the guest may reach; absent, all of it.
    pub landlock: Option<Landlock<'a>>,
    /// Compiled seccomp program.
    pub seccomp: Option<Filter<'a>>,
    /// A terminal is made, and its master goes to this socket.
    pub console: Option<Console<'a>>,
    /// Descriptors of the caller's from 3 to this number, exclusive, stay open in the guest.
    pub keep_below: u32,
}

/// A pseudo-terminal for the guest.
#[derive(Debug)]
pub struct Console<'a> {
    /// Unix socket that gets the master (SCM_RIGHTS).
    pub socket: BorrowedFd<'a>,
    /// Rows and columns, in characters.
    pub size: Option<(u16, u16)>,
}

/// Capability sets as bit masks (capabilities(7)).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Capabilities {
    /// Bounding set.
    pub bounding: u64,
    /// Effective set.
    pub effective: u64,
    /// Permitted set.
    pub permitted: u64,
    /// Inheritable set.
    pub inheritable: u64,
    /// Ambient set, within the permitted and the inheritable one.
    pub ambient: u64,
}

/// A compiled seccomp program.
#[derive(Debug, Clone, Copy)]
pub struct Filter<'a> {
    /// classic BPF.
    pub program: &'a [libc::sock_filter],
    /// SECCOMP_FILTER_FLAG_*.
    pub flags: u32,
    /// It is loaded before the context waits for its start, so that an agent has its listener when `create` returns.
    pub early: bool,
}

/// Rules of Landlock (landlock(7)), in LANDLOCK_ACCESS_FS_* bits.
#[derive(Debug, Clone, Copy)]
pub struct Landlock<'a> {
    /// What is refused where no rule allows it.
    pub handled: u64,
    /// Where it is allowed.
    pub rules: &'a [LandlockRule<'a>],
}

/// One path that may be reached.
#[derive(Debug)]
pub struct LandlockRule<'a> {
    /// Path in the root.
    pub path: &'a CStr,
    /// What is allowed below it, where it is a folder.
    pub folder: u64,
    /// What is allowed where it is none.
    pub file: u64,
}

impl Source<'_> {
    /// The host path of a bind, or the type of a file system.
    #[must_use]
    pub fn path(&self) -> Option<&CStr> {
        match self {
            Source::Bind { path, .. } | Source::Tree { path, .. } => Some(path),
            Source::FileSystem { kind, .. } => Some(kind),
            Source::Folders { folders, .. } => folders.first().map(|(_, path)| *path),
        }
    }
}

impl<'a> Process<'a> {
    /// The program.
    #[must_use]
    pub fn program(&self) -> Option<&'a CStr> {
        self.path.or_else(|| crate::sys::first(self.args))
    }
}
