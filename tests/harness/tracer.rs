//! Follows a command of the runtime system call by system call (ptrace(2)), with all processes that it makes, each up to
//! its execve(2): the guest and the hooks are left alone. At one call it can kill the process, or make the call fail.
//!
//! Call numbers are counted for each process, so that the same number means the same call however the scheduler mixes
//! the processes.

use super::command::{Output, text};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::ptrace;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// The processor of the next command, modulo their number.
static TURN: AtomicUsize = AtomicUsize::new(0);

/// No command of the runtime takes that long, whatever fails.
const BOUND: Duration = Duration::from_secs(10);

/// One system call of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// 0 is the command itself, 1 the first process that it makes.
    pub process: usize,
    /// Its call, from 0.
    pub call: usize,
}

/// What is done at a place.
#[derive(Clone, Copy, Debug)]
pub enum Fault {
    /// SIGKILL when the call has returned.
    Kill,
    /// The `nth` call of this number (from 0) is not made, and returns this error; of the place only the process counts.
    Fail { number: i64, nth: usize, errno: i32 },
}

impl Fault {
    /// It is the turn of a call with this number, after the calls `before`. The order of calls differs a little from run to
    /// run, so that what is to fail is found by its number.
    fn is_at(self, call: usize, before: &[i64], number: i64) -> bool {
        match self {
            Fault::Kill => before.len() == call,
            Fault::Fail { number: wanted, nth, .. } => {
                number == wanted && before.iter().filter(|other| **other == wanted).count() == nth
            }
        }
    }
}

/// What came of a followed command.
pub struct Traced {
    pub output: Output,
    /// The numbers of the system calls that have returned, for each process.
    pub calls: Vec<Vec<i64>>,
    /// The place of the fault was reached.
    pub hit: bool,
    /// It had to be killed for its time.
    pub hung: bool,
}

struct Process {
    pid: Pid,
    calls: Vec<i64>,
    /// In a call, with its number.
    inside: Option<i64>,
    traced: bool,
}

struct Tracer {
    processes: Vec<Process>,
    fault: Option<(Place, Fault)>,
    hit: bool,
    /// Those that the watchdog would end.
    alive: Arc<Mutex<Vec<Pid>>>,
}

/// Runs `command` to its end. What it has made and left runs on untraced.
pub fn follow(command: &mut Command, fault: Option<(Place, Fault)>) -> Traced {
    let (out, err) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
    command.stdin(Stdio::null()).stdout(out.try_clone().unwrap()).stderr(err.try_clone().unwrap());
    // SAFETY: between fork and execve the closure makes one system call, and allocates nothing.
    unsafe { command.pre_exec(|| Ok(ptrace::traceme()?)) };
    // Tracer and traced take turns: on one processor they need not wake each other across two.
    let anywhere = sched_getaffinity(Pid::from_raw(0)).unwrap();
    let mut here = CpuSet::new();
    let own = (0..CpuSet::count()).filter(|cpu| anywhere.is_set(*cpu).unwrap()).collect::<Vec<_>>();
    here.set(own[TURN.fetch_add(1, Ordering::Relaxed) % own.len()]).unwrap();
    sched_setaffinity(Pid::from_raw(0), &here).unwrap();
    let root = Pid::from_raw(command.spawn().unwrap().id() as i32);
    let alive = Arc::new(Mutex::new(vec![root]));
    let (done, watched) = channel::<()>();
    let doomed = alive.clone();
    let watchdog = std::thread::spawn(move || {
        let late = watched.recv_timeout(BOUND * super::slowness()) == Err(RecvTimeoutError::Timeout);
        if late {
            for pid in doomed.lock().unwrap().iter() {
                let _ = kill(*pid, Signal::SIGKILL);
            }
        }
        late
    });
    let mut tracer = Tracer { processes: vec![], fault, hit: false, alive };
    seize(root);
    tracer.know(root);
    let code = tracer.serve(root);
    tracer.let_go();
    drop(done);
    let hung = watchdog.join().unwrap();
    sched_setaffinity(Pid::from_raw(0), &anywhere).unwrap();
    let output = Output { code, stdout: text(&out), stderr: text(&err), log: out };
    Traced {
        output,
        calls: tracer.processes.into_iter().map(|process| process.calls).collect(),
        hit: tracer.hit,
        hung,
    }
}

/// From the stop at execve(2) of PTRACE_TRACEME to PTRACE_SEIZE: only what was seized can be interrupted, and so let go
/// while it waits.
fn seize(pid: Pid) {
    waitpid(pid, Some(WaitPidFlag::__WALL)).unwrap();
    ptrace::detach(pid, Signal::SIGSTOP).unwrap();
    let options = ptrace::Options::PTRACE_O_TRACESYSGOOD
        | ptrace::Options::PTRACE_O_TRACEFORK
        | ptrace::Options::PTRACE_O_TRACEVFORK
        | ptrace::Options::PTRACE_O_TRACECLONE
        | ptrace::Options::PTRACE_O_TRACEEXEC;
    ptrace::seize(pid, options).unwrap();
    waitpid(pid, Some(WaitPidFlag::__WALL)).unwrap();
    kill(pid, Signal::SIGCONT).unwrap();
    let _ = ptrace::syscall(pid, None);
}

impl Tracer {
    fn know(&mut self, pid: Pid) -> usize {
        if let Some(index) = self.processes.iter().position(|process| process.pid == pid && process.traced) {
            return index;
        }
        self.alive.lock().unwrap().push(pid);
        self.processes.push(Process { pid, calls: vec![], inside: None, traced: true });
        self.processes.len() - 1
    }

    fn forget(&mut self, pid: Pid) {
        let index = self.know(pid);
        self.processes[index].traced = false;
        self.alive.lock().unwrap().retain(|other| *other != pid);
    }

    /// Serves all processes until the command itself has ended; gives its exit code.
    fn serve(&mut self, root: Pid) -> i32 {
        loop {
            match next() {
                Some(WaitStatus::Exited(pid, code)) => {
                    self.forget(pid);
                    if pid == root {
                        return code;
                    }
                }
                Some(WaitStatus::Signaled(pid, signal, _)) => {
                    self.forget(pid);
                    if pid == root {
                        return 128 + signal as i32;
                    }
                }
                Some(WaitStatus::PtraceSyscall(pid)) => self.at_call(pid),
                Some(WaitStatus::PtraceEvent(pid, _, libc::PTRACE_EVENT_EXEC)) if pid != root => {
                    self.forget(pid);
                    let _ = ptrace::detach(pid, None);
                }
                Some(WaitStatus::PtraceEvent(pid, _, event)) => {
                    const BIRTHS: [i32; 3] =
                        [libc::PTRACE_EVENT_FORK, libc::PTRACE_EVENT_VFORK, libc::PTRACE_EVENT_CLONE];
                    self.know(pid);
                    if let (true, Ok(child)) = (BIRTHS.contains(&event), ptrace::getevent(pid)) {
                        self.know(Pid::from_raw(child as i32));
                    }
                    self.resume(pid, None);
                }
                Some(WaitStatus::Stopped(pid, signal)) => self.resume(pid, Some(signal)),
                _ => {}
            }
        }
    }

    /// At the entry to a call or at the exit from it. A process that was killed meanwhile answers with errors.
    fn at_call(&mut self, pid: Pid) {
        let index = self.know(pid);
        let process = &mut self.processes[index];
        let Ok(mut registers) = ptrace::getregs(pid) else { return };
        let number = registers.orig_rax as i64;
        let fault = self.fault.filter(|(at, fault)| {
            at.process == index && fault.is_at(at.call, &process.calls, process.inside.unwrap_or(number))
        });
        match process.inside.take() {
            None => {
                process.inside = Some(number);
                // Whatever it answers, close(2) has closed.
                if let Some((_, Fault::Fail { .. })) = fault.filter(|_| number != libc::SYS_close) {
                    registers.orig_rax = u64::MAX;
                    let _ = ptrace::setregs(pid, registers);
                }
            }
            Some(number) => {
                if let Some((_, Fault::Fail { errno, .. })) = fault {
                    registers.rax = -i64::from(errno) as u64;
                    let _ = ptrace::setregs(pid, registers);
                }
                process.calls.push(number);
                if let Some((_, fault)) = fault {
                    self.hit = true;
                    if let Fault::Kill = fault {
                        let _ = kill(pid, Signal::SIGKILL);
                        return;
                    }
                }
            }
        }
        self.resume(pid, None);
    }

    /// Lets a process go on: to its next call, where that matters still.
    fn resume(&mut self, pid: Pid, signal: Option<Signal>) {
        let index = self.know(pid);
        let matters = self.fault.is_none_or(|(at, _)| at.process == index && !self.hit);
        let _ = if matters { ptrace::syscall(pid, signal) } else { ptrace::cont(pid, signal) };
    }

    /// Detaches from what still runs.
    fn let_go(&mut self) {
        let left: Vec<Pid> =
            self.processes.iter().filter(|process| process.traced).map(|process| process.pid).collect();
        for pid in left {
            if ptrace::interrupt(pid).is_err() {
                continue;
            }
            match waitpid(pid, Some(WaitPidFlag::__WALL)) {
                Ok(WaitStatus::Stopped(_, signal)) => drop(ptrace::detach(pid, signal)),
                Ok(WaitStatus::PtraceEvent(
                    _,
                    _,
                    libc::PTRACE_EVENT_FORK | libc::PTRACE_EVENT_VFORK | libc::PTRACE_EVENT_CLONE,
                )) => {
                    // Born in the last moment: it is stopped at its first instruction.
                    let child = ptrace::getevent(pid).map(|child| Pid::from_raw(child as i32));
                    let known = |child| self.processes.iter().any(|other| other.pid == child && other.traced);
                    if let Some(child) = child.ok().filter(|child| !known(*child)) {
                        let _ = waitpid(child, Some(WaitPidFlag::__WALL));
                        let _ = ptrace::detach(child, None);
                    }
                    let _ = ptrace::detach(pid, None);
                }
                Ok(WaitStatus::PtraceEvent(..) | WaitStatus::PtraceSyscall(_)) => {
                    let _ = ptrace::detach(pid, None);
                }
                _ => {}
            }
        }
    }
}

/// The next thing that happens to a process of this thread. Signals that nix has no name for are passed over.
fn next() -> Option<WaitStatus> {
    waitpid(None, Some(WaitPidFlag::__WALL | WaitPidFlag::__WNOTHREAD)).ok()
}
