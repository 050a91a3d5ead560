//! The messages between parent and child, and their order.
//!
//! ```text
//! parent                      child
//! clone3(2)            ---->  joins control groups and namespaces
//! Mapped               ---->  (only with a new user namespace)
//!                             begins to mount the root
//! Groups               ---->  (only with groups that were made meanwhile; carries their descriptors)
//!                             mounts the rest
//!                      <----  Gate     (only with hooks)
//! Continue             ---->
//!                             changes the root, takes its identity
//!                      <----  Listener (of a notifying filter that is loaded before `start`; carries a descriptor)
//!                      <----  Ready
//! Proceed              ---->  from here the child lives without its parent
//!                             waits for `start`, when it was created and not run
//!                      <----  Listener (of one that is not)
//!                      <----  end of file: execve(2) has closed the socket
//! ```
//!
//! At any point the child can send `Failed` and exit. When the parent dies before `Proceed`, the child reads end of file
//! and exits: a killed `create` leaves no process.

use core::mem::MaybeUninit;

use rustix::fd::{AsFd, BorrowedFd};
use rustix::io::{Errno, IoSlice, IoSliceMut};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recv, recvmsg, send, sendmsg,
};

/// What the parent tells the child.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Order {
    /// The ids of the new user namespace are mapped.
    Mapped = 1,
    /// The hooks have run.
    Continue = 2,
    /// The state is written: go on alone. Also what `start` sends.
    Proceed = 3,
    /// The control groups of version 1 are made. A second byte says how many descriptors come along: of the `tasks` file
    /// of each, open for writing.
    Groups = 4,
}

/// The most descriptors that come with [`Order::Groups`]. Kernels know fifteen controllers.
pub const MOST_GROUPS: usize = 32;

/// What the child tells the parent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Report {
    /// The mounts are done and the hooks may run.
    Gate,
    /// Everything but the start is done.
    Ready,
    /// The descriptor that comes along is a seccomp listener.
    Listener,
    /// A step failed; the child exits.
    Failed(Failure),
}

/// A failed step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Failure {
    /// Which step.
    pub step: Step,
    /// Which item of the plan's list, where the step goes over one.
    pub index: u16,
    /// errno(3).
    pub errno: i32,
}

/// Length of a report on the wire, in bytes.
pub const REPORT_LENGTH: usize = 9;

/// The most that a failure can add in words, in bytes: a path of the guest's.
pub const DETAIL_LENGTH: usize = 255;

impl Report {
    /// The report as bytes.
    #[must_use]
    pub fn encode(self) -> [u8; REPORT_LENGTH] {
        let mut bytes = [0; REPORT_LENGTH];
        bytes[0] = match self {
            Report::Gate => 1,
            Report::Ready => 2,
            Report::Listener => 3,
            Report::Failed(failure) => {
                bytes[1..3].copy_from_slice(&(failure.step as u16).to_ne_bytes());
                bytes[3..5].copy_from_slice(&failure.index.to_ne_bytes());
                bytes[5..9].copy_from_slice(&failure.errno.to_ne_bytes());
                4
            }
        };
        bytes
    }

    /// Reads what [`Report::encode`] wrote; anything else is none.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Report> {
        let bytes: &[u8; REPORT_LENGTH] = bytes.try_into().ok()?;
        match bytes[0] {
            1 => Some(Report::Gate),
            2 => Some(Report::Ready),
            3 => Some(Report::Listener),
            4 => Some(Report::Failed(Failure {
                step: Step::from_number(u16::from_ne_bytes([bytes[1], bytes[2]]))?,
                index: u16::from_ne_bytes([bytes[3], bytes[4]]),
                errno: i32::from_ne_bytes([bytes[5], bytes[6], bytes[7], bytes[8]]),
            })),
            _ => None,
        }
    }
}

macro_rules! steps {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// A step of the child. The text completes the sentence "could not ...".
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[repr(u16)]
        #[allow(missing_docs, reason = "the text beside each variant is its documentation")]
        pub enum Step { $($name),* }

        impl Step {
            /// All steps, in the order of their numbers.
            pub const ALL: &'static [Step] = &[$(Step::$name),*];

            /// What was tried.
            #[must_use]
            pub fn text(self) -> &'static str {
                match self { $(Step::$name => $text),* }
            }

            fn from_number(number: u16) -> Option<Step> {
                Step::ALL.get(usize::from(number)).copied()
            }
        }
    };
}

steps! {
    Orders = "read the parent's orders",
    Report = "report to the parent",
    Shield = "make itself undumpable",
    JoinCgroup = "enter the control group",
    JoinNamespace = "join the namespace",
    BecomeRoot = "become root of the user namespace",
    TimeOffsets = "set the clock offsets of the time namespace",
    CgroupNamespace = "make the cgroup namespace",
    Loopback = "bring the loopback interface up",
    Hostname = "set the host name",
    Domainname = "set the domain name",
    Keyring = "make the session keyring",
    Scope = "keep it from the abstract unix sockets of others",
    Sysctl = "write the sysctl",
    Propagation = "set the propagation of the host's mounts",
    Stage = "make a mount namespace for the while",
    RootSource = "open the root file system",
    RootAttach = "attach the root file system",
    MountSource = "open the source of the mount",
    MountTarget = "open the target of the mount",
    MountFakeProc = "mount over procfs, which is refused, the mount",
    MountNotProc = "mount over /proc what is not a procfs, the mount",
    MountFlags = "set the flags of the mount",
    MountAttach = "attach the mount",
    MountCopyUp = "copy the root's files up into the mount",
    Device = "make the device",
    Link = "make the link",
    ConsoleMount = "mount the terminal on /dev/console",
    Mask = "mask the path",
    NullDevice = "verify that /dev/null is the null device",
    ReadonlyPath = "make read-only the path",
    ReadonlyRoot = "make the root read-only",
    Pivot = "change the root",
    Session = "begin a session",
    Terminal = "make the terminal",
    TerminalSend = "send the terminal to the console socket",
    Standard = "connect standard input, output and error",
    Rlimit = "set the resource limit",
    Scheduler = "set the scheduler",
    IoPriority = "set the I/O priority",
    Personality = "set the personality",
    MemoryPolicy = "set the memory policy",
    Affinity = "set the CPU affinity",
    Cwd = "enter the working folder",
    CwdOutside = "enter the working folder, which lies outside the root,",
    Groups = "set the groups",
    User = "set the user",
    Capabilities = "set the capabilities",
    NoNewPrivileges = "set no_new_privs",
    Label = "set the security label",
    Landlock = "hold the guest by Landlock",
    LandlockPath = "open for a rule of Landlock the path",
    Seccomp = "load the seccomp filter",
    Listener = "send the seccomp listener",
    Descriptors = "close the inherited descriptors",
    Find = "find the program",
    Start = "wait for the start",
    Exec = "execute the program",
    Interpreter = "execute the program for want of its interpreter",
}

/// Waits for one order. End of file means that the parent is gone: the child has nobody to tell, and exits.
pub(crate) fn wait(socket: BorrowedFd<'_>, expected: Order) -> Result<(), Errno> {
    let mut byte = [0u8; 1];
    loop {
        match recv(socket, &mut byte[..], RecvFlags::empty()) {
            Ok((_, 0)) => crate::sys::exit(1),
            Ok(_) if byte[0] == expected as u8 => return Ok(()),
            Ok(_) => return Err(Errno::PROTO),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
}

/// Waits for [`Order::Groups`], and calls `enter` with the number and the descriptor of each. One that is missing, because
/// this process may have no more open, is an error: the guest would escape its limits.
pub(crate) fn wait_groups<E>(
    socket: BorrowedFd<'_>,
    refuse: impl Fn(Errno) -> E,
    mut enter: impl FnMut(usize, BorrowedFd<'_>) -> Result<(), E>,
) -> Result<(), E> {
    let mut bytes = [0u8; 2];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_GROUPS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let length = rustix::io::retry_on_intr(|| {
        let mut vector = [IoSliceMut::new(&mut bytes)];
        recvmsg(socket, &mut vector, &mut control, RecvFlags::CMSG_CLOEXEC).map(|message| message.bytes)
    });
    match length.map_err(&refuse)? {
        0 => crate::sys::exit(1),
        2 if bytes[0] == Order::Groups as u8 => {}
        _ => return Err(refuse(Errno::PROTO)),
    }
    let mut entered = 0;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(descriptors) = message {
            let mut done = Ok(());
            crate::sys::close_together(descriptors.inspect(|descriptor| {
                if done.is_ok() {
                    done = enter(entered, descriptor.as_fd());
                    entered += 1;
                }
            }));
            done?;
        }
    }
    if entered == usize::from(bytes[1]) { Ok(()) } else { Err(refuse(Errno::MFILE)) }
}

/// Sends a report. A parent that is gone is noticed at the next [`wait`]; one that lives waits for this.
pub(crate) fn report(socket: BorrowedFd<'_>, report: Report) -> Result<(), Errno> {
    match rustix::io::retry_on_intr(|| send(socket, &report.encode(), SendFlags::NOSIGNAL)) {
        Ok(_) | Err(Errno::PIPE | Errno::CONNRESET) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Sends a failure and what it was about.
pub(crate) fn report_failure(socket: BorrowedFd<'_>, failure: Failure, detail: &[u8]) {
    let mut bytes = [0; REPORT_LENGTH + DETAIL_LENGTH];
    let detail = &detail[..detail.len().min(DETAIL_LENGTH)];
    bytes[..REPORT_LENGTH].copy_from_slice(&Report::Failed(failure).encode());
    bytes[REPORT_LENGTH..REPORT_LENGTH + detail.len()].copy_from_slice(detail);
    // The exit that follows says the rest.
    let bytes = &bytes[..REPORT_LENGTH + detail.len()];
    let _ = rustix::io::retry_on_intr(|| send(socket, bytes, SendFlags::NOSIGNAL));
}

/// Sends bytes with one descriptor.
pub(crate) fn send_descriptor(
    socket: BorrowedFd<'_>,
    bytes: &[u8],
    descriptor: impl AsFd,
) -> Result<(), Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let descriptors = [descriptor.as_fd()];
    if !control.push(SendAncillaryMessage::ScmRights(&descriptors)) {
        return Err(Errno::NOBUFS);
    }
    rustix::io::retry_on_intr(|| {
        sendmsg(socket, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL).map(drop)
    })
}
