//! Real children that load the filter and then make the calls.

use std::io;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, ExitStatus};

use super::profile;
use crate::seccomp::{DEFAULT_CAPABILITIES, Filter, compile, compile_default};

fn filter(text: &str) -> Filter {
    compile(&profile(text), None).unwrap().unwrap()
}

fn default_filter() -> Filter {
    compile_default(DEFAULT_CAPABILITIES, None).unwrap().unwrap()
}

/// What the child of the runtime does with a filter; the result is the listener, or 0.
fn load(filter: &Filter) -> io::Result<libc::c_long> {
    let program =
        libc::sock_fprog { len: filter.program.len() as u16, filter: filter.program.as_ptr().cast_mut() };
    // SAFETY: the program lives in `filter` during the call, and the kernel only reads it.
    let result = unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
        libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, filter.flags, &raw const program)
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Runs the closure in a child under the filter; its result is the exit code.
fn child(filter: &Filter, body: impl FnOnce() -> i32) -> ExitStatus {
    // SAFETY: the child makes only system calls, and leaves by _exit(2): no lock of another thread is waited for.
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0);
    if pid == 0 {
        let code = if load(filter).is_ok() { body() } else { 99 };
        // SAFETY: ends this process, without its exit handlers.
        unsafe { libc::_exit(code) }
    }
    wait(pid)
}

fn wait(pid: libc::pid_t) -> ExitStatus {
    let mut status = 0;
    // SAFETY: `status` is a place for the result, and `pid` a child that nobody else waits for.
    assert_eq!(unsafe { libc::waitpid(pid, &raw mut status, 0) }, pid);
    ExitStatus::from_raw(status)
}

/// The error number of a call, 0 without an error.
fn errno(number: libc::c_long, args: [u64; 3]) -> i32 {
    // SAFETY: the callers pass numbers and null pointers only.
    let result = unsafe { libc::syscall(number, args[0], args[1], args[2]) };
    if result == -1 { io::Error::last_os_error().raw_os_error().unwrap_or(0) } else { 0 }
}

/// The place (from 1) of the first call that ends otherwise than expected, as an exit code.
fn first_surprise(expected: &[(libc::c_long, [u64; 3], i32)]) -> i32 {
    let wrong = |&(number, args, error): &(libc::c_long, [u64; 3], i32)| errno(number, args) != error;
    expected.iter().position(wrong).map_or(0, |place| place as i32 + 1)
}

#[test]
fn the_default_profile_answers_as_software_expects() {
    let status = child(&default_filter(), || {
        first_surprise(&[
            (9999, [0; 3], libc::ENOSYS),
            (-1, [0; 3], libc::ENOSYS),
            (libc::SYS_clone3, [0; 3], libc::ENOSYS),
            (libc::SYS_mount, [0; 3], libc::EPERM),
            (libc::SYS_keyctl, [0; 3], libc::EPERM),
            (libc::SYS_bpf, [0; 3], libc::EPERM),
            (libc::SYS_io_uring_setup, [1, 0, 0], libc::EPERM),
            (libc::SYS_socket, [38, 5, 0], libc::EPERM),
            (libc::SYS_socket, [40, 1, 0], libc::EPERM),
            (libc::SYS_socket, [1, 1, 0], 0),
            (libc::SYS_ioctl, [0, 0x5412, 0], libc::EPERM),
            (libc::SYS_ioctl, [u64::MAX, 0x5401, 0], libc::EBADF),
            (libc::SYS_unshare, [0x1000_0000, 0, 0], libc::EPERM),
            (libc::SYS_unshare, [0x400, 0, 0], 0),
            (libc::SYS_getppid, [0; 3], 0),
        ])
    });
    assert_eq!(status.code(), Some(0), "the place of the first wrong answer: {status}");
}

#[test]
fn each_action_does_what_it_says() {
    for (action, code, signal) in [
        (r#""SCMP_ACT_KILL""#, None, Some(libc::SIGSYS)),
        (r#""SCMP_ACT_KILL_THREAD""#, None, Some(libc::SIGSYS)),
        (r#""SCMP_ACT_KILL_PROCESS""#, None, Some(libc::SIGSYS)),
        (r#""SCMP_ACT_TRAP""#, None, Some(libc::SIGSYS)),
        (r#""SCMP_ACT_ERRNO""#, Some(libc::EPERM), None),
        (r#""SCMP_ACT_ERRNO", "errnoRet": 111"#, Some(111), None),
        (r#""SCMP_ACT_TRACE", "errnoRet": 7"#, Some(libc::ENOSYS), None),
        (r#""SCMP_ACT_LOG""#, Some(0), None),
    ] {
        let text = format!(
            r#"{{"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64"], "syscalls": [
                {{"names": ["getppid"], "action": {action}}}]}}"#
        );
        let status = child(&filter(&text), || errno(libc::SYS_getppid, [0; 3]));
        assert_eq!((status.code(), status.signal()), (code, signal), "{action}");
    }
}

#[test]
fn a_default_action_that_kills_still_tells_new_calls_apart() {
    let text = r#"{"defaultAction": "SCMP_ACT_KILL_PROCESS", "syscalls": [
        {"names": ["exit_group", "exit", "getppid"], "action": "SCMP_ACT_ALLOW"}]}"#;
    let status = child(&filter(text), || errno(9999, [0; 3]));
    assert_eq!(status.code(), Some(libc::ENOSYS));
    let status = child(&filter(text), || errno(libc::SYS_getpid, [0; 3]));
    assert_eq!(status.signal(), Some(libc::SIGSYS));
}

#[test]
fn each_operator_compares_as_its_name_says() {
    const HIGH: u64 = 1 << 40;
    for (operator, value, two, hit, miss) in [
        ("SCMP_CMP_NE", 5, 0, 6, 5),
        ("SCMP_CMP_LT", HIGH, 0, 7, HIGH),
        ("SCMP_CMP_LE", HIGH, 0, HIGH, HIGH + 1),
        ("SCMP_CMP_EQ", HIGH, 0, HIGH, 0),
        ("SCMP_CMP_GE", HIGH, 0, HIGH, HIGH - 1),
        ("SCMP_CMP_GT", HIGH, 0, HIGH + 1, HIGH),
        ("SCMP_CMP_MASKED_EQ", HIGH | 0xf0, 0x50, 0x5f, HIGH | 0x5f),
    ] {
        let text = format!(
            r#"{{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{{"names": ["getppid"], "action": "SCMP_ACT_ERRNO",
                "args": [{{"index": 2, "value": {value}, "valueTwo": {two}, "op": "{operator}"}}]}}]}}"#
        );
        let call = |arg| child(&filter(&text), || errno(libc::SYS_getppid, [0, 0, arg])).code();
        assert_eq!((call(hit), call(miss)), (Some(libc::EPERM), Some(0)), "{operator}");
    }
}

#[test]
fn conditions_on_several_arguments_are_and_on_one_argument_are_or() {
    let text = |second: usize| {
        format!(
            r#"{{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{{"names": ["getppid"], "action": "SCMP_ACT_ERRNO",
                "args": [{{"index": 0, "value": 1, "op": "SCMP_CMP_EQ"}},
                         {{"index": {second}, "value": 2, "op": "SCMP_CMP_EQ"}}]}}]}}"#
        )
    };
    let call = |second, args| child(&filter(&text(second)), || errno(libc::SYS_getppid, args)).code();
    assert_eq!(call(1, [1, 2, 0]), Some(libc::EPERM));
    assert_eq!(call(1, [1, 3, 0]), Some(0));
    assert_eq!(call(0, [1, 0, 0]), Some(libc::EPERM));
    assert_eq!(call(0, [2, 0, 0]), Some(libc::EPERM));
    assert_eq!(call(0, [3, 0, 0]), Some(0));
}

#[test]
fn an_agent_answers_a_notification() {
    use std::io::Read;
    use std::os::fd::{AsRawFd, FromRawFd};
    let filter = filter(
        r#"{"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/run/agent", "listenerMetadata": "who",
            "flags": ["SECCOMP_FILTER_FLAG_TSYNC", "SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"],
            "syscalls": [{"names": ["getppid"], "action": "SCMP_ACT_NOTIFY"}]}"#,
    );
    let listener = filter.listener.as_ref().unwrap();
    assert_eq!((listener.path.to_str(), listener.metadata.as_str()), (Some("/run/agent"), "who"));

    let (mut reader, writer) = io::pipe().unwrap();
    // SAFETY: as in `child`.
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0);
    if pid == 0 {
        let fd = load(&filter).map_or(255, |fd| fd as u8);
        // SAFETY: writes one byte of this frame, asks for the parent's id, and ends this process.
        unsafe {
            libc::write(writer.as_raw_fd(), (&raw const fd).cast(), 1);
            libc::_exit(i32::from(libc::syscall(libc::SYS_getppid) != 77))
        }
    }
    drop(writer);
    let mut number = [0];
    reader.read_exact(&mut number).unwrap();
    assert_ne!(number[0], 255, "the kernel takes the filter and its flags");
    // SAFETY: plain numbers; the result is a descriptor that nobody else owns.
    let agent = unsafe {
        let process = std::os::fd::OwnedFd::from_raw_fd(libc::syscall(libc::SYS_pidfd_open, pid, 0) as i32);
        let fd = libc::syscall(libc::SYS_pidfd_getfd, process.as_raw_fd(), i32::from(number[0]), 0);
        assert!(fd >= 0, "{}", io::Error::last_os_error());
        std::os::fd::OwnedFd::from_raw_fd(fd as i32)
    };
    let request = libseccomp::ScmpNotifReq::receive(agent.as_raw_fd()).unwrap();
    assert_eq!(request.data.syscall.get_name().unwrap(), "getppid");
    let answer = libseccomp::ScmpNotifResp::new_val(request.id, 77, libseccomp::ScmpNotifRespFlags::empty());
    answer.respond(agent.as_raw_fd()).unwrap();
    assert_eq!(wait(pid).code(), Some(0), "the child sees the agent's answer");
}

/// Runs a shell script under the default profile.
fn script(folder: &std::path::Path, text: &str) -> std::process::Output {
    let filter = default_filter();
    let mut command = Command::new("/bin/sh");
    command.args(["-ec", text]).current_dir(folder).env("HOME", folder).env("LC_ALL", "C");
    // SAFETY: `load` makes two system calls and allocates nothing.
    unsafe { command.pre_exec(move || load(&filter).map(|_| ())) };
    command.output().unwrap()
}

#[test]
fn ordinary_software_works_under_the_default_profile() {
    let programs = [
        ("sh", "ls -l /proc/self/ | grep -q exe; echo a | sort | tee b >/dev/null; test \"$(cat b)\" = a"),
        ("gcc", "printf 'int main(void) { return 7; }' > a.c; gcc -O2 -o a a.c; ./a || test $? = 7"),
        ("make", "printf 'all: x y\\nx y:\\n\\techo $@ > $@\\n' > Makefile; make -j4; test -s x; test -s y"),
        ("git", "git init -q .; git -c user.name=a -c user.email=a commit -q --allow-empty -m m; git gc -q; git fsck"),
        ("perl", "perl -e 'my $pid = fork; exit 3 unless $pid; wait; exit($? >> 8 != 3)'"),
        ("strace", "strace -f -o log true; grep -q execve log"),
        (
            "python3",
            "python3 -c 'import threading, subprocess, multiprocessing, asyncio, socket, select, mmap, tempfile, os
t = threading.Thread(target=lambda: None); t.start(); t.join()
assert subprocess.run([\"true\"]).returncode == 0
with multiprocessing.Pool(2) as pool: assert pool.map(abs, [-1, -2]) == [1, 2]
async def main():
    server = await asyncio.start_server(lambda r, w: w.close(), \"127.0.0.1\", 0)
    await asyncio.open_connection(*server.sockets[0].getsockname())
asyncio.run(main())
os.memfd_create(\"m\"); os.getrandom(8); os.sched_getaffinity(0); os.posix_fallocate(os.open(\"f\", 66), 0, 9)'",
        ),
    ];
    for (program, text) in programs {
        let found = std::env::var_os("PATH").unwrap_or_default();
        if !std::env::split_paths(&found).any(|folder| folder.join(program).exists()) {
            eprintln!("SKIP: {program} is not installed");
            continue;
        }
        let folder = tempfile::tempdir().unwrap();
        let output = script(folder.path(), text);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{program}: {}: {errors}", output.status);
    }
}

/// The filter is really there: the same shell is refused what it could do as root without it.
#[test]
fn the_shell_under_the_default_profile_cannot_leave_its_namespaces() {
    let folder = tempfile::tempdir().unwrap();
    let output = script(folder.path(), "grep -q '^Seccomp:.2$' /proc/self/status; ! unshare -Ur true");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(errors.contains("Operation not permitted"), "{errors}");
}
