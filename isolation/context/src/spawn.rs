//! The clone, and the parent's half of the handshake.

use std::io;
use std::mem::{MaybeUninit, size_of};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use rustix::io::{Errno, IoSlice, IoSliceMut};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, send, sendmsg, socketpair,
};
use rustix::process::{PidfdFlags, WaitOptions, pidfd_open, waitpid};
use vctx_child::handshake::{DETAIL_LENGTH, Failure, MOST_GROUPS, Order, REPORT_LENGTH, Report};
use vctx_child::plan::Plan;

use crate::namespace::{Joined, Kind};
use crate::procfs;

/// What can go wrong between clone and the end of the handshake.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Forking a process with several threads would copy their locks.
    #[error("a context can only be made by a process with one thread, and this one has {0}")]
    Threads(u64),
    /// A socket or pipe could not be made.
    #[error("cannot make the socket to the context's first process")]
    Channel(#[source] io::Error),
    /// The namespace could not be entered by the parent.
    #[error("cannot join the {} namespace", .0.file())]
    Join(Kind, #[source] io::Error),
    /// clone3(2) failed.
    #[error("cannot make the context's first process{}", hint(.0))]
    Clone(#[source] io::Error),
    /// The child reported a failed step.
    #[error("{}", failure.step.text())]
    Step {
        /// The step and its errno.
        failure: Failure,
        /// What the child could say of it, such as the missing interpreter's path.
        detail: String,
    },
    /// The child died without a word.
    #[error(
        "the context's first process died while it was set up; a memory limit that is too low for it ends it so"
    )]
    Died,
    /// A message came that does not belong here.
    #[error("the context's first process sent an unexpected message")]
    Unexpected,
}

fn hint(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::ENOSPC | libc::EUSERS) => "; the limits in /proc/sys/user are reached",
        Some(libc::EAGAIN) => "; a limit on processes is reached",
        Some(libc::EPERM) => {
            "; namespaces need root, or a user namespace that the kernel lets this user make"
        }
        Some(libc::ENOSYS) => "; the kernel lacks clone3, which came with 5.3",
        _ => "",
    }
}

/// The parent's end of the handshake.
#[derive(Debug)]
pub struct Handshake {
    socket: OwnedFd,
}

/// What can come along with a report.
struct More {
    descriptor: Option<OwnedFd>,
    detail: String,
}

/// A new process.
#[derive(Debug)]
pub struct Child {
    /// Its id in the caller's pid namespace.
    pub pid: i32,
    /// Its pidfd.
    pub pidfd: OwnedFd,
}

/// Where a child is born.
#[derive(Debug, Default)]
pub struct Birth<'a> {
    /// CLONE_NEW* flags of the namespaces that are made.
    pub new: u32,
    /// Namespaces that must be joined before the clone, in order.
    pub join: Vec<&'a Joined>,
    /// Enter all of a process's namespaces of these CLONE_NEW* flags before the clone: (pidfd, flags).
    pub enter: Option<(BorrowedFd<'a>, u32)>,
    /// Joining changes the process for good, so that an intermediate one has to do it. Needed with a user namespace.
    pub apart: bool,
    /// Folder of the cgroup v2 group in which the child begins (CLONE_INTO_CGROUP).
    pub cgroup: Option<BorrowedFd<'a>>,
}

/// Both ends of the handshake, until the child exists.
struct Channel {
    ours: OwnedFd,
    theirs: OwnedFd,
}

fn channel() -> Result<Channel, Error> {
    let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
        .map_err(|error| Error::Channel(error.into()))?;
    Ok(Channel { ours, theirs })
}

/// Makes the child, which carries out the plan.
///
/// # Errors
///
/// A namespace cannot be joined, or clone3(2) fails.
pub fn spawn(plan: &Plan<'_>, birth: &Birth<'_>) -> Result<(Child, Handshake), Error> {
    check_threads()?;
    let channel = channel()?;
    let child =
        if birth.apart { spawn_apart(plan, birth, &channel)? } else { spawn_here(plan, birth, &channel)? };
    // The child's end is the child's alone from here on: its death is then seen as the end of the file.
    Ok((child, Handshake { socket: channel.ours }))
}

fn check_threads() -> Result<(), Error> {
    match procfs::own_threads() {
        Ok(1) => Ok(()),
        Ok(threads) => Err(Error::Threads(threads)),
        Err(error) => Err(Error::Clone(error)),
    }
}

fn spawn_here(plan: &Plan<'_>, birth: &Birth<'_>, channel: &Channel) -> Result<Child, Error> {
    join(birth)?;
    let child = match clone3(birth.new, birth.cgroup, 0).map_err(Error::Clone)? {
        Some(child) => child,
        None => become_child(plan, channel),
    };
    return_home(birth)?;
    Ok(child)
}

/// The child must not hold the parent's end: it would never read the end of file that tells of the parent's death.
fn become_child(plan: &Plan<'_>, channel: &Channel) -> ! {
    // SAFETY: this is the child's copy of the table; the owner of the descriptor lives on in the parent only, for the
    // child never returns to drop it.
    unsafe { libc::close(channel.ours.as_raw_fd()) };
    vctx_child::enter(plan, channel.theirs.as_fd())
}

fn join(birth: &Birth<'_>) -> Result<(), Error> {
    // A child that is born into a pid namespace with guests in it is seen by them from its first moment: it must not be
    // traceable even then (CVE-2016-9962). It inherits this from us.
    if birth.enter.is_some() || birth.join.iter().any(|one| one.kind == Kind::Pid) {
        vctx_child::sys::shield().map_err(|error| Error::Join(Kind::Pid, error.into()))?;
    }
    if let Some((target, flags)) = birth.enter {
        vctx_child::sys::setns(target, flags).map_err(|error| Error::Join(Kind::Pid, error.into()))?;
    }
    for namespace in &birth.join {
        vctx_child::sys::setns(namespace.as_fd(), namespace.kind.flag())
            .map_err(|error| Error::Join(namespace.kind, error.into()))?;
    }
    Ok(())
}

/// Only the pid namespace is joined without an intermediate process, and it is for children only: hooks and helpers that
/// the parent starts later must not be born in the context.
fn return_home(birth: &Birth<'_>) -> Result<(), Error> {
    if birth.join.is_empty() && birth.enter.is_none() {
        return Ok(());
    }
    let own = Joined::open(Kind::Pid, "/proc/self/ns/pid".as_ref())
        .map_err(|error| Error::Join(Kind::Pid, io::Error::other(error)))?;
    vctx_child::sys::setns(own.as_fd(), Kind::Pid.flag())
        .map_err(|error| Error::Join(Kind::Pid, error.into()))
}

/// An intermediate process joins, and clones the child as its own sibling (CLONE_PARENT), so that the child is ours.
fn spawn_apart(plan: &Plan<'_>, birth: &Birth<'_>, channel: &Channel) -> Result<Child, Error> {
    let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
        .map_err(|error| Error::Channel(error.into()))?;
    let Some(intermediate) = clone3(0, None, 0).map_err(Error::Clone)? else {
        let born = join(birth)
            .and_then(|()| clone3(birth.new, birth.cgroup, libc::CLONE_PARENT as u64).map_err(Error::Clone));
        let answer = match born {
            Ok(None) => become_child(plan, channel),
            Ok(Some(child)) => [0, child.pid],
            Err(Error::Join(kind, error)) => [1 + kind as i32, error.raw_os_error().unwrap_or(0)],
            Err(Error::Clone(error)) => [-1, error.raw_os_error().unwrap_or(0)],
            Err(_) => [-1, 0],
        };
        let bytes = [answer[0].to_ne_bytes(), answer[1].to_ne_bytes()].concat();
        let _ = rustix::io::write(&writer, &bytes);
        vctx_child::sys::exit(0);
    };
    drop(writer);
    let mut answer = [0u8; 8];
    let read = rustix::io::retry_on_intr(|| rustix::io::read(&reader, &mut answer));
    reap(&intermediate);
    if read != Ok(8) {
        return Err(Error::Died);
    }
    let word = |at: usize| i32::from_ne_bytes([answer[at], answer[at + 1], answer[at + 2], answer[at + 3]]);
    let cause = || io::Error::from_raw_os_error(word(4));
    match word(0) {
        0 => {
            let pid = word(4);
            let raw = rustix::process::Pid::from_raw(pid).ok_or(Error::Died)?;
            let pidfd = pidfd_open(raw, PidfdFlags::empty()).map_err(|error| Error::Clone(error.into()))?;
            Ok(Child { pid, pidfd })
        }
        -1 => Err(Error::Clone(cause())),
        kind => {
            let kind = Kind::ALL.into_iter().find(|one| *one as i32 + 1 == kind).unwrap_or(Kind::User);
            Err(Error::Join(kind, cause()))
        }
    }
}

/// A process that does nothing, for the sake of whatever needs one to exist. It ends when this is dropped, or dies with
/// its maker.
#[derive(Debug)]
pub struct Placeholder {
    child: Child,
    _lifeline: OwnedFd,
}

impl Placeholder {
    /// Makes the process.
    ///
    /// # Errors
    ///
    /// This process has several threads, or no more may be made.
    pub fn new() -> Result<Placeholder, Error> {
        check_threads()?;
        let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
            .map_err(|error| Error::Channel(error.into()))?;
        let Some(child) = clone3(0, None, 0).map_err(Error::Clone)? else {
            drop(writer);
            let _ = rustix::io::retry_on_intr(|| rustix::io::read(&reader, &mut [0u8; 1]));
            vctx_child::sys::exit(0);
        };
        Ok(Placeholder { child, _lifeline: writer })
    }

    /// Its id.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.child.pid
    }
}

impl Drop for Placeholder {
    fn drop(&mut self) {
        let _ = send_signal(self.child.pidfd.as_fd(), libc::SIGKILL);
        reap(&self.child);
    }
}

/// Sends a signal that has no name of its own, such as a real-time one (pidfd_send_signal(2)).
///
/// # Errors
///
/// EINVAL for a number that is no signal, ESRCH when the process has ended.
pub fn send_signal(process: BorrowedFd<'_>, signal: i32) -> io::Result<()> {
    // SAFETY: the kernel is given a descriptor and numbers, and no memory.
    let sent = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            process.as_raw_fd(),
            signal,
            std::ptr::null::<libc::siginfo_t>(),
            0,
        )
    };
    if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Waits for a child that is about to exit, or was killed, and gives its status; none when it is not ours to wait for.
pub fn reap(child: &Child) -> Option<ExitStatus> {
    let pid = rustix::process::Pid::from_raw(child.pid)?;
    let ended = rustix::io::retry_on_intr(|| waitpid(Some(pid), WaitOptions::empty())).ok()??;
    Some(ExitStatus::from_raw(ended.1.as_raw()))
}

/// clone3(2); none in the child. All signal handlers are reset, for the guest must not inherit that SIGPIPE is ignored.
pub(crate) fn clone3(
    namespaces: u32,
    cgroup: Option<BorrowedFd<'_>>,
    more: u64,
) -> io::Result<Option<Child>> {
    const CLONE_CLEAR_SIGHAND: u64 = 1 << 32;
    const CLONE_INTO_CGROUP: u64 = 1 << 33;
    #[repr(C)]
    #[derive(Default)]
    struct Arguments {
        flags: u64,
        pidfd: u64,
        child_tid: u64,
        parent_tid: u64,
        exit_signal: u64,
        stack: u64,
        stack_size: u64,
        tls: u64,
        set_tid: u64,
        set_tid_size: u64,
        cgroup: u64,
    }
    let mut pidfd: i32 = -1;
    let mut arguments = Arguments {
        flags: u64::from(namespaces) | libc::CLONE_PIDFD as u64 | CLONE_CLEAR_SIGHAND | more,
        pidfd: (&raw mut pidfd) as u64,
        // With CLONE_PARENT the new process has the exit signal of its maker.
        exit_signal: if more & libc::CLONE_PARENT as u64 == 0 { libc::SIGCHLD as u64 } else { 0 },
        ..Default::default()
    };
    if let Some(cgroup) = cgroup {
        arguments.flags |= CLONE_INTO_CGROUP;
        arguments.cgroup = cgroup.as_raw_fd() as u64;
    }
    // SAFETY: without CLONE_VM the child has its own copy of this stack and heap, and the caller has verified that there
    // is one thread, so no lock is held. `arguments` is live and `pidfd` is a place for one integer.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw mut arguments, size_of::<Arguments>()) };
    match pid {
        ..0 => Err(io::Error::last_os_error()),
        0 => Ok(None),
        // SAFETY: with CLONE_PIDFD the kernel has put a new descriptor there, which nobody else owns.
        pid => Ok(Some(Child { pid: pid as i32, pidfd: unsafe { OwnedFd::from_raw_fd(pidfd) } })),
    }
}

impl Handshake {
    /// The parent's end over a connection that is not a socket pair: that of `start`.
    #[must_use]
    pub fn over(socket: OwnedFd) -> Handshake {
        Handshake { socket }
    }

    /// Gives the child an order.
    ///
    /// # Errors
    ///
    /// [`Error::Died`] when nobody listens any more.
    pub fn order(&self, order: Order) -> Result<(), Error> {
        self.sent(rustix::io::retry_on_intr(|| send(&self.socket, &[order as u8], SendFlags::NOSIGNAL)))
    }

    fn sent(&self, sent: Result<usize, Errno>) -> Result<(), Error> {
        match sent {
            Ok(_) => Ok(()),
            // Whatever the child had to say before it died is still to be read.
            Err(Errno::PIPE | Errno::CONNRESET) => self.expect(&[]).and(Err(Error::Died)),
            // It lives, and waits for the order: there is nothing to read.
            Err(error) => Err(Error::Channel(error.into())),
        }
    }

    /// Sends the `tasks` files of the groups that the child enters ([`Order::Groups`]).
    ///
    /// # Errors
    ///
    /// As [`Handshake::order`].
    pub fn groups(&self, tasks: Vec<OwnedFd>) -> Result<(), Error> {
        let refused = |error: Errno| Error::Channel(error.into());
        let count = u8::try_from(tasks.len()).ok().filter(|count| usize::from(*count) <= MOST_GROUPS);
        let bytes = [Order::Groups as u8, count.ok_or_else(|| refused(Errno::TOOBIG))?];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_GROUPS))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let descriptors: Vec<BorrowedFd<'_>> = tasks.iter().map(AsFd::as_fd).collect();
        if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(&descriptors)) {
            return Err(refused(Errno::NOBUFS));
        }
        let sent = rustix::io::retry_on_intr(|| {
            sendmsg(&self.socket, &[IoSlice::new(&bytes)], &mut control, SendFlags::NOSIGNAL)
        });
        vctx_child::sys::close_together(tasks);
        self.sent(sent)
    }

    /// Waits for one of these reports. A failure of the child is an error.
    ///
    /// # Errors
    ///
    /// The child failed, died or said something else.
    pub fn expect(&self, wanted: &[Report]) -> Result<Report, Error> {
        match self.next()? {
            Some((Report::Failed(failure), more)) => Err(Error::Step { failure, detail: more.detail }),
            Some((report, _)) if wanted.contains(&report) => Ok(report),
            Some(_) => Err(Error::Unexpected),
            None => Err(Error::Died),
        }
    }

    /// Waits until the child has done everything but the start: none. A seccomp listener that comes before is given at
    /// once, for the agent may have to answer before the child can go on; call it again then.
    ///
    /// # Errors
    ///
    /// The child failed.
    pub fn ready(&self) -> Result<Option<OwnedFd>, Error> {
        match self.next()? {
            Some((Report::Ready, _)) => Ok(None),
            None => Err(Error::Died),
            Some(report) => listener(report).map(Some),
        }
    }

    /// Waits until the child has executed its program: none. A listener comes before as in [`Handshake::ready`].
    ///
    /// # Errors
    ///
    /// The child failed.
    pub fn executed(&self) -> Result<Option<OwnedFd>, Error> {
        self.next()?.map(listener).transpose()
    }

    /// The next report, with what came along; none at the end of file.
    fn next(&self) -> Result<Option<(Report, More)>, Error> {
        let mut bytes = [0u8; REPORT_LENGTH + DETAIL_LENGTH];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::CMSG_CLOEXEC;
        let length = loop {
            let mut vector = [IoSliceMut::new(&mut bytes)];
            match recvmsg(self.socket.as_fd(), &mut vector, &mut control, flags) {
                // That the other end was closed with bytes unread is said once, before what it has sent.
                Err(Errno::INTR | Errno::CONNRESET) => {}
                Err(error) => return Err(Error::Channel(error.into())),
                Ok(message) => break message.bytes,
            }
        };
        if length == 0 {
            return Ok(None);
        }
        let descriptor = control.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
            _ => None,
        });
        let (report, detail) = bytes[..length].split_at_checked(REPORT_LENGTH).ok_or(Error::Unexpected)?;
        let report = Report::decode(report).ok_or(Error::Unexpected)?;
        Ok(Some((report, More { descriptor, detail: String::from_utf8_lossy(detail).into_owned() })))
    }
}

/// The seccomp listener that came with a report, which can be nothing else but a failure.
fn listener((report, more): (Report, More)) -> Result<OwnedFd, Error> {
    match (report, more.descriptor) {
        (Report::Listener, Some(listener)) => Ok(listener),
        (Report::Failed(failure), _) => Err(Error::Step { failure, detail: more.detail }),
        _ => Err(Error::Unexpected),
    }
}

#[cfg(test)]
mod tests {
    use vctx_child::handshake::Step;

    use super::*;

    #[test]
    fn what_a_child_said_before_it_died_is_heard_though_it_left_an_order_unread() {
        let kind = SocketType::SEQPACKET;
        let (parent, child) = socketpair(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None).unwrap();
        let parent = Handshake::over(parent);
        parent.order(Order::Proceed).unwrap();
        let failure = Failure { step: Step::MountSource, index: 1, errno: 2 };
        send(&child, &Report::Failed(failure).encode(), SendFlags::empty()).unwrap();
        drop(child);
        let error = parent.ready().unwrap_err();
        assert!(matches!(error, Error::Step { failure, .. } if failure.step == Step::MountSource), "{error}");
        assert!(matches!(parent.ready(), Err(Error::Died)));
    }
}
