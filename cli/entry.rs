//! What libc calls: the program's own `main`, in place of the one that Rust puts before it.
//!
//! Rust's start prepares a report of a stack overflow, for which it reads the memory map: fifteen calls at each
//! start. What else it does is done here: standard streams that are open, and no death by SIGPIPE.

use std::ffi::{CStr, OsStr, c_char, c_int};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{Mode, OFlags, open};

/// Bytes that the smallest verbs take of the heap, and a little more; a `run` takes some 170 KiB.
const MEMORY: usize = 128 << 10;

/// libc takes its address for the start.
// SAFETY: nothing else in the program is named so; `cli/main.rs` has no `main` of Rust's (`no_main`).
#[unsafe(no_mangle)]
extern "C" fn main(count: c_int, words: *const *const c_char) -> c_int {
    if let Err(error) = open_standard_streams() {
        crate::log::without_options(&format!("cannot open /dev/null for a closed standard stream: {error}"));
        return crate::exit::ExitCode::FAILURE.into();
    }
    // SAFETY: no handler is installed, so no code runs at a signal; there is one thread.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
    crate::HEAP.prepare(MEMORY);
    let word = |index| {
        // SAFETY: libc hands over `count` pointers to strings that last as long as the process (ISO C, 5.1.2.2.1).
        unsafe { CStr::from_ptr(*words.add(index)) }
    };
    let words =
        (0..count.try_into().unwrap_or(0)).map(|index| OsStr::from_bytes(word(index).to_bytes()).to_owned());
    let code = crate::run(words.collect());
    // A reader that is gone has been told of where that matters.
    let _ = io::stdout().flush();
    code.into()
}

/// Opens what a caller has closed: a file of ours that lands there would be the guest's.
fn open_standard_streams() -> io::Result<()> {
    for _ in 0..closed_streams() {
        // The lowest free number is the one that is missing.
        std::mem::forget(open("/dev/null", OFlags::RDWR, Mode::empty())?);
    }
    Ok(())
}

fn closed_streams() -> usize {
    let mut streams = [0, 1, 2].map(|fd| libc::pollfd { fd, events: 0, revents: 0 });
    // SAFETY: the array is live, and its length is the one given.
    let polled = unsafe { libc::poll(streams.as_mut_ptr(), streams.len() as libc::nfds_t, 0) };
    if polled >= 0 {
        return streams.iter().filter(|stream| stream.revents & libc::POLLNVAL != 0).count();
    }
    // It can lack memory. This takes three calls for one, and fails for none but a closed one.
    // SAFETY: the call takes numbers alone, and asks of a descriptor without owning it.
    (0..3).filter(|fd| unsafe { libc::fcntl(*fd, libc::F_GETFD) } < 0).count()
}
