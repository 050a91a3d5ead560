//! `--order`: the functions that the verbs execute, in the order in which they do, as the linker is to lay them out.
//!
//! The kernel maps 64 KiB of a program at each page fault, and takes each of those pages away again at the end. What one
//! start executes is a tenth of the program: side by side it takes a quarter of the faults (docs/decisions). A debugger's
//! breakpoints, one at the beginning of each function, tell which those are (ptrace(2)). For x86-64 alone; the order serves
//! every machine.

use std::collections::HashSet;
use std::fs::{self, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::process::{Command, Stdio};

use nix::errno::Errno;
use nix::sys::ptrace::{self, Event, Options};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use super::bundle::{Ask, Bundle};
use super::peer::Peer;
use super::starts::{SLEEPER, pid_of, wait_until_gone};
use super::{Bench, Result, measure};

/// Executes the verbs and writes the linker's script.
pub fn write(bench: &Bench, script: &Path) -> Result<()> {
    let vctx = bench.peer("vctx").ok_or("there is no vctx")?;
    let mut order = Order { symbols: Symbols::of(&vctx.program)?, seen: HashSet::new(), names: vec![] };
    verbs(bench, &vctx, &mut order)?;
    let patterns: Vec<String> = order.names.iter().map(|name| pattern(name)).collect();
    let mut text = String::from(HEAD);
    let mut written = HashSet::new();
    for pattern in patterns.iter().filter(|pattern| written.insert(pattern.as_str())) {
        text += &format!("    *(.text.{pattern} .text.unlikely.{pattern})\n");
    }
    text += TAIL;
    fs::write(script, text)?;
    println!("{} functions are in {}", patterns.len(), script.display());
    Ok(())
}

const HEAD: &str = "\
/* The functions that run, exec and the verbs of OCI execute, in that order: side by side they take fewer page faults.
   Written by `make order`; a line that names no function any more does no harm. */
SECTIONS
{
  .text.order :
  {
";
const TAIL: &str = "  }\n}\nINSERT BEFORE .text;\n";

/// What most is started with comes first. Each bundle has run before, so that a compiled filter is found.
fn verbs(bench: &Bench, vctx: &Peer, order: &mut Order) -> Result<()> {
    let context = vctx.id(0);
    for ask in [Ask::Plain, Ask::Seccomp, Ask::User] {
        let bundle = Bundle::write(&bench.workspace, ask.name(), ask, &["true"])?;
        measure::time(&mut vctx.run(&bundle, &context)?)?;
        order.execute(&mut vctx.run(&bundle, &context)?)?;
        let sleeper = Bundle::write(&bench.workspace, "sleeper", ask, &SLEEPER)?;
        order.execute(&mut vctx.create(&sleeper, &context))?;
        order.execute(&mut vctx.verb(&["state", &context]))?;
        order.execute(&mut vctx.verb(&["start", &context]))?;
        let pid = pid_of(vctx, &context)?;
        order.execute(&mut vctx.exec(&context, pid, "true"))?;
        order.execute(&mut vctx.verb(&["list"]))?;
        order.execute(&mut vctx.verb(&["kill", &context, "KILL"]))?;
        wait_until_gone(pid)?;
        order.execute(&mut vctx.verb(&["delete", &context]))?;
    }
    Ok(())
}

struct Order {
    symbols: Symbols,
    seen: HashSet<usize>,
    names: Vec<String>,
}

impl Order {
    /// Runs one command to its end, and notes the functions that it enters, and those that its processes do until they
    /// execute another program.
    fn execute(&mut self, command: &mut Command) -> Result<()> {
        // It waits to be traced before it becomes the command.
        let mut traced = Command::new("sh");
        traced
            .args(["-c", "kill -STOP $$; exec \"$0\" \"$@\""])
            .arg(command.get_program())
            .args(command.get_args());
        traced.env_clear();
        for (name, value) in command.get_envs() {
            traced.env(name, value.unwrap_or_default());
        }
        traced.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let first = Pid::from_raw(traced.spawn()?.id().cast_signed());
        waitpid(first, Some(WaitPidFlag::WUNTRACED))?;
        let follow =
            Options::PTRACE_O_TRACEFORK | Options::PTRACE_O_TRACEVFORK | Options::PTRACE_O_TRACECLONE;
        ptrace::seize(first, follow | Options::PTRACE_O_TRACEEXEC)?;
        kill(first, Signal::SIGCONT)?;
        // What `create` has made waits, and stays traced: it goes on during `start`.
        loop {
            match waitpid(None, Some(WaitPidFlag::__WALL))? {
                WaitStatus::Exited(pid, 0) if pid == first => return Ok(()),
                WaitStatus::Exited(pid, _) | WaitStatus::Signaled(pid, ..) if pid == first => {
                    return Err(format!("{command:?} failed").into());
                }
                WaitStatus::PtraceEvent(pid, _, event) if event == Event::PTRACE_EVENT_EXEC as i32 => {
                    if self.symbols.are_of(&format!("/proc/{pid}/exe")) {
                        self.set(pid)?;
                        go_on(pid, None)?;
                    } else {
                        ptrace::detach(pid, None)?;
                    }
                }
                WaitStatus::PtraceEvent(pid, ..) => go_on(pid, None)?,
                WaitStatus::Stopped(pid, Signal::SIGTRAP) => self.note(pid)?,
                WaitStatus::Stopped(pid, signal) => go_on(pid, Some(signal))?,
                _ => {}
            }
        }
    }

    /// A process has met a breakpoint: it goes on without.
    fn note(&mut self, pid: Pid) -> Result<()> {
        let mut registers = ptrace::getregs(pid)?;
        let address = registers.rip - 1;
        let index = self.symbols.at(address).ok_or("a trap that is not ours")?;
        if self.seen.insert(index) {
            self.names.extend(self.symbols.names(address).map(str::to_owned));
        }
        let memory = OpenOptions::new().write(true).open(format!("/proc/{pid}/mem"))?;
        memory.write_all_at(&[self.symbols.byte(index)], address)?;
        registers.rip = address;
        ptrace::setregs(pid, registers)?;
        go_on(pid, None)
    }

    /// Puts a breakpoint where each function begins that has not been seen yet.
    fn set(&self, pid: Pid) -> Result<()> {
        let memory = OpenOptions::new().write(true).open(format!("/proc/{pid}/mem"))?;
        let mut unseen = self.symbols.functions.iter().filter(|(address, _)| !self.is_seen(*address));
        unseen.try_for_each(|(address, _)| Ok(memory.write_all_at(&[BREAKPOINT], *address)?))
    }

    fn is_seen(&self, address: u64) -> bool {
        self.symbols.at(address).is_some_and(|index| self.seen.contains(&index))
    }
}

/// `int3`, after which the process stops.
const BREAKPOINT: u8 = 0xcc;

/// Lets a process run, unless it has been killed meanwhile.
fn go_on(pid: Pid, signal: Option<Signal>) -> Result<()> {
    match ptrace::cont(pid, signal) {
        Ok(()) | Err(Errno::ESRCH) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// The functions of a program, by address, and its bytes.
struct Symbols {
    functions: Vec<(u64, String)>,
    bytes: Vec<u8>,
    file: (u64, u64),
}

/// Where the program begins in memory (.cargo/config.toml: it is linked at a fixed address).
const BASE: u64 = 0x40_0000;

impl Symbols {
    fn of(program: &Path) -> Result<Symbols> {
        let listed = Command::new("nm").arg("--numeric-sort").arg(program).output()?;
        let listed = String::from_utf8(listed.stdout)?;
        let functions: Vec<_> = listed
            .lines()
            .filter_map(|line| match line.split(' ').collect::<Vec<_>>()[..] {
                [address, "t" | "T" | "w" | "W", name] => {
                    Some((u64::from_str_radix(address, 16).ok()?, name.to_owned()))
                }
                _ => None,
            })
            .collect();
        if functions.is_empty() {
            return Err(
                format!("{} is stripped; `make order` builds one that is not", program.display()).into()
            );
        }
        let file = fs::metadata(program)?;
        Ok(Symbols { functions, bytes: fs::read(program)?, file: (file.dev(), file.ino()) })
    }

    fn at(&self, address: u64) -> Option<usize> {
        let index = self.functions.partition_point(|(start, _)| *start < address);
        self.functions.get(index).is_some_and(|(start, _)| *start == address).then_some(index)
    }

    /// Functions that are the same have one code and several names, of which one is that of the section.
    fn names(&self, address: u64) -> impl Iterator<Item = &str> {
        let these = self.functions.iter().filter(move |(start, _)| *start == address);
        these.map(|(_, name)| name.as_str())
    }

    /// The first byte of a function. The program's text lies in its file as in memory.
    fn byte(&self, index: usize) -> u8 {
        self.bytes[(self.functions[index].0 - BASE) as usize]
    }

    fn are_of(&self, file: &str) -> bool {
        fs::metadata(file).is_ok_and(|file| (file.dev(), file.ino()) == self.file)
    }
}

/// The name with what other versions of the same crates change left open: which crate is meant among those of one name
/// (`Cs..._`), and where in the name something has been before (`B..._`). The rest is copied (RFC 2603, "Symbol name
/// mangling v0").
fn pattern(name: &str) -> String {
    let alphanumeric = |byte: u8| byte.is_ascii_alphanumeric();
    if !name.starts_with("_R") {
        return name.to_owned();
    }
    let (mut text, mut rest) = (String::new(), name);
    while let Some(first) = rest.chars().next() {
        let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (taken, shown) = if let Ok(length) = rest[..digits].parse::<usize>() {
            // An identifier, behind `_` where it begins with a digit itself.
            let separator = usize::from(rest[digits..].starts_with('_'));
            let whole = (digits + separator + length).min(rest.len());
            (whole, rest[..whole].to_owned())
        } else if let Some(behind) = rest.strip_prefix("Cs").or_else(|| rest.strip_prefix('B')) {
            let prefix = if first == 'B' { "B" } else { "Cs" };
            let end = behind.find('_').unwrap_or(behind.len());
            (rest.len() - behind.len() + end, format!("{prefix}*"))
        } else if let Some(end) =
            rest.find('_').filter(|end| first == 's' && rest[..*end].bytes().all(alphanumeric))
        {
            // Which of several of one name.
            (end + 1, rest[..=end].to_owned())
        } else {
            (1, first.to_string())
        };
        text += &shown;
        rest = &rest[taken..];
    }
    text
}
