//! The floor that the bench measures runtimes against: what the kernel alone needs to start and end a context, with
//! nothing read, decided, checked or recorded.
//!
//! `floor run NAMESPACES USER ROOT (TYPE SOURCE TARGET FLAGS DATA)... -- PROGRAM ARG...` clones into the namespaces (the
//! bits of clone3(2), in decimal), makes the mounts, changes the root, executes, and waits. USER is the first identity
//! that root is mapped to, or 0. `floor exec PID NAMESPACES -- PROGRAM ARG...` joins the namespaces of a process instead.
//! `floor steps ...` is `run` that writes the nanoseconds of each step to standard error.
// The C library's own entry: Rust's runtime would add its signal set-up to each measured start.
#![no_main]
#![allow(missing_docs)]

use std::ffi::{CStr, c_char, c_int, c_long, c_void};
use std::ptr::{null, null_mut};

/// Ends with the line as status when a call fails: the bench shows it, and nobody else runs this.
macro_rules! must {
    ($call:expr) => {{
        // SAFETY: each pointer handed over is null, a C string of argv or a literal, or a live local of this function.
        let result = unsafe { $call };
        if result as i64 == -1 {
            fail(line!());
        }
        result
    }};
}

fn fail(line: u32) -> ! {
    let text = format!("floor: line {line}: {}\n", std::io::Error::last_os_error());
    // SAFETY: the text lives until _exit, which does not return.
    unsafe {
        libc::write(2, text.as_ptr().cast(), text.len());
        libc::_exit(125)
    }
}

/// The vector that main was given: null-terminated C strings that live as long as the process.
#[derive(Clone, Copy)]
struct Words(*const *const c_char);

impl Words {
    /// The next word, or null at the end.
    fn next(&mut self) -> *const c_char {
        // SAFETY: the position moves only past words that were not null, so that it stays inside the vector.
        unsafe {
            let word = *self.0;
            if !word.is_null() {
                self.0 = self.0.add(1);
            }
            word
        }
    }

    fn text(&mut self) -> &'static str {
        let word = self.next();
        if word.is_null() {
            return "";
        }
        // SAFETY: words of argv are C strings and are never changed.
        unsafe { CStr::from_ptr(word) }.to_str().unwrap_or_default()
    }

    fn number(&mut self) -> u64 {
        self.text().parse().unwrap_or_else(|_| fail(line!()))
    }
}

/// The times of the steps; only `floor steps` looks at the clock.
struct Clock {
    on: bool,
    steps: [(&'static str, u64); 16],
    count: usize,
}

impl Clock {
    fn new(on: bool) -> Clock {
        let mut clock = Clock { on, steps: [("", 0); 16], count: 0 };
        clock.mark("");
        clock
    }

    fn mark(&mut self, step: &'static str) {
        if self.on && self.count < self.steps.len() {
            // SAFETY: a timespec of zeros is a value.
            let mut now: libc::timespec = unsafe { std::mem::zeroed() };
            must!(libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut now));
            self.steps[self.count] = (step, now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64);
            self.count += 1;
        }
    }

    fn print(&self) {
        for pair in self.steps[..self.count].windows(2) {
            let text = format!("{} {}\n", pair[1].1 - pair[0].1, pair[1].0);
            must!(libc::write(2, text.as_ptr().cast(), text.len()));
        }
    }
}

// SAFETY: the C library calls the one `main` of this program with a null-terminated vector.
#[unsafe(no_mangle)]
pub extern "C" fn main(_count: c_int, words: *const *const c_char) -> c_int {
    let mut words = Words(words);
    words.next();
    match words.text() {
        "run" => run(words, Clock::new(false)),
        "steps" => run(words, Clock::new(true)),
        "exec" => exec(words),
        _ => fail(line!()),
    }
}

fn run(mut words: Words, mut clock: Clock) -> c_int {
    let namespaces = words.number();
    let user = words.number();
    let mut pipe = [0; 2];
    if user != 0 {
        must!(libc::pipe2(pipe.as_mut_ptr(), libc::O_CLOEXEC));
    }
    let child = clone(namespaces);
    if child == 0 {
        if user != 0 {
            become_root(pipe[0]);
        }
        clock.mark("clone3 with all namespaces");
        inside(words, clock);
    }
    if user != 0 {
        let map = format!("0 {user} 65536");
        for file in ["uid_map", "gid_map"] {
            write_file(&format!("/proc/{child}/{file}\0"), &map);
        }
        must!(libc::write(pipe[1], c"x".as_ptr().cast(), 1));
    }
    wait(child)
}

/// The child's part; it ends as PROGRAM.
fn inside(mut words: Words, mut clock: Clock) -> ! {
    let root = words.next();
    must!(libc::sethostname(c"context".as_ptr(), 7));
    must!(libc::mount(null(), c"/".as_ptr(), null(), libc::MS_REC | libc::MS_PRIVATE, null()));
    must!(libc::mount(root, root, null(), libc::MS_BIND | libc::MS_REC, null()));
    must!(libc::chdir(root));
    clock.mark("the root bound");
    loop {
        let kind = words.next();
        // SAFETY: the words are C strings; a null here is a wrong command line, and ends the program.
        if kind.is_null() || unsafe { CStr::from_ptr(kind) } == c"--" {
            break;
        }
        let (source, target) = (words.next(), words.next());
        let flags = words.number();
        let data: *const c_void = words.next().cast();
        // SAFETY: all are C strings of argv.
        if unsafe { libc::mount(source, target, kind, flags, data) } != 0 {
            must!(libc::mkdir(target, 0o755));
            must!(libc::mount(source, target, kind, flags, data));
        }
    }
    clock.mark("the mounts");
    let read_only = libc::MS_BIND | libc::MS_REMOUNT | libc::MS_RDONLY;
    must!(libc::mount(null(), c".".as_ptr(), null(), read_only, null()));
    must!(libc::syscall(libc::SYS_pivot_root, c".".as_ptr(), c".".as_ptr()));
    must!(libc::umount2(c".".as_ptr(), libc::MNT_DETACH));
    must!(libc::chdir(c"/".as_ptr()));
    clock.mark("the root changed");
    clock.print();
    execute(words)
}

fn exec(mut words: Words) -> c_int {
    let pid = words.number();
    let namespaces = words.number();
    words.next();
    let target = must!(libc::syscall(libc::SYS_pidfd_open, pid, 0));
    must!(libc::setns(target as c_int, namespaces as c_int));
    let child = clone(0);
    if child == 0 {
        execute(words);
    }
    wait(child)
}

fn clone(namespaces: u64) -> c_long {
    // SAFETY: clone_args of zeros is a value: no flags, no descriptors, the stack of the caller.
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.flags = namespaces;
    args.exit_signal = libc::SIGCHLD as u64;
    must!(libc::syscall(libc::SYS_clone3, &args, size_of::<libc::clone_args>()))
}

/// Waits until the identities are mapped, and takes those of root.
fn become_root(mapped: c_int) {
    let mut byte = 0u8;
    must!(libc::read(mapped, (&raw mut byte).cast(), 1));
    must!(libc::setresgid(0, 0, 0));
    must!(libc::setresuid(0, 0, 0));
}

/// `path` ends with a zero.
fn write_file(path: &str, text: &str) {
    let file = must!(libc::open(path.as_ptr().cast(), libc::O_WRONLY | libc::O_CLOEXEC));
    must!(libc::write(file, text.as_ptr().cast(), text.len()));
    must!(libc::close(file));
}

fn execute(words: Words) -> ! {
    let environment = [c"PATH=/bin".as_ptr(), null()];
    let mut program = words;
    must!(libc::execve(program.next(), words.0, environment.as_ptr()));
    fail(line!())
}

fn wait(child: c_long) -> c_int {
    let mut status = 0;
    must!(libc::wait4(child as c_int, &mut status, 0, null_mut()));
    if libc::WIFEXITED(status) { libc::WEXITSTATUS(status) } else { 128 }
}
