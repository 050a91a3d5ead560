//! System call filters: what they refuse, and how.

use crate::harness::agent::Agent;
use crate::harness::{Case, Context, Need, case, json};
use serde_json::Value;

pub fn cases() -> Vec<Case> {
    vec![
        case!(a_filter_is_in_force),
        case!(a_refused_call_gives_its_error_number),
        case!(a_killed_call_ends_the_process),
        case!(a_rule_on_an_argument_refuses_that_value_only),
        case!(the_default_action_holds_for_the_rest),
        case!(a_filter_holds_for_exec_too),
        case!(a_filter_without_no_new_privileges_works),
        case!(an_unknown_call_is_skipped_and_an_unknown_action_refused),
        case!(a_call_that_is_newer_than_the_profile_is_not_implemented)
            .needs(Need::Program("python3"))
            .needs(Need::Vctx),
        case!(an_agent_answers_for_the_first_process),
        case!(an_agent_gets_its_listener_from_create).differs("crun", "1.8 sends it at the start"),
        case!(a_filter_that_forbids_to_wait_is_loaded_at_the_start).needs(Need::Vctx),
        case!(an_agent_gets_the_listener_of_an_exec_too)
            .differs("crun", "1.8 names the joining process in the state"),
        case!(an_agent_may_have_to_answer_before_the_program_runs)
            .differs("runc", "1.1 refuses to notify of execve")
            .differs("crun", "1.8 hands the listener over too late"),
        case!(an_agent_that_does_not_listen_fails_the_start).needs(Need::Vctx),
        case!(filter_flags_are_accepted_and_unknown_ones_refused).differs("runc", "1.1 knows no TSYNC"),
    ]
}

fn filtered(script: &str, default: &str, rules: Value) -> Context {
    let mut context = Context::sh(script);
    context.set("/linux/seccomp", json!({ "defaultAction": default, "syscalls": rules }));
    context
}

fn a_filter_is_in_force() {
    let context = filtered(
        "grep Seccomp: /proc/self/status",
        "SCMP_ACT_ALLOW",
        json!([{ "names": ["swapon"], "action": "SCMP_ACT_ERRNO" }]),
    );
    assert_eq!(context.prints(), "Seccomp:\t2");
    assert_eq!(Context::sh("grep Seccomp: /proc/self/status").prints(), "Seccomp:\t0");
}

fn a_refused_call_gives_its_error_number() {
    let rule = |number: Option<u32>| {
        let mut rule = json!({ "names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO" });
        if let Some(number) = number {
            rule["errnoRet"] = json!(number);
        }
        json!([rule])
    };
    for (number, text) in [
        (None, "Operation not permitted"),
        (Some(38), "Function not implemented"),
        (Some(28), "No space left"),
    ] {
        let output = filtered("mkdir /tmp/x", "SCMP_ACT_ALLOW", rule(number)).run().exits(1);
        assert!(output.stderr.contains(text), "{}", output.stderr);
    }
}

fn a_killed_call_ends_the_process() {
    let rule = json!([{ "names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_KILL_PROCESS" }]);
    // The shell stays, and says how its child died: SIGSYS is 31.
    let context = filtered("mkdir /tmp/x; echo $?", "SCMP_ACT_ALLOW", rule);
    assert_eq!(context.prints(), "159");
}

fn a_rule_on_an_argument_refuses_that_value_only() {
    // kill(2) with signal 12, whatever the process.
    let rule = json!([{ "names": ["kill"], "action": "SCMP_ACT_ERRNO",
        "args": [{ "index": 1, "value": 12, "op": "SCMP_CMP_EQ" }] }]);
    let script = "sleep 1000 & kill -USR2 $! 2>&1 | grep -o 'not permitted'; kill -KILL $! && echo killed";
    assert_eq!(filtered(script, "SCMP_ACT_ALLOW", rule).prints(), "not permitted\nkilled");
}

fn the_default_action_holds_for_the_rest() {
    let allowed = json!([{ "names": [
        "execve", "exit", "exit_group", "brk", "mmap", "mprotect", "munmap", "arch_prctl", "set_tid_address", "futex",
        "set_robust_list", "rseq", "prlimit64", "readlink", "readlinkat", "getrandom", "newfstatat", "fstat", "stat",
        "write", "writev", "read", "open", "openat", "close", "fcntl", "ioctl", "getuid", "geteuid", "getgid",
        "getegid", "setuid", "setgid", "capset", "capget", "prctl", "rt_sigaction", "rt_sigprocmask", "rt_sigreturn",
        "lseek", "getpid", "gettid", "tgkill", "chdir", "fchdir", "getcwd", "setgroups", "getdents64", "dup3",
        "fstatfs", "statfs", "epoll_ctl", "epoll_pwait", "nanosleep", "clock_nanosleep", "sched_yield", "madvise",
        "sigaltstack", "umask", "faccessat", "faccessat2", "access", "statx", "uname", "close_range", "kill",
        "recvmsg", "sendmsg", "sendto", "recvfrom", "ppoll", "poll", "setresuid", "setresgid",
        "setsid", "keyctl", "seccomp", "pipe2", "execveat", "wait4", "getppid", "getsid", "setpgid", "getpgrp",
        "mkdir",
    ], "action": "SCMP_ACT_ALLOW" }]);
    let mut context = filtered("", "SCMP_ACT_ERRNO", allowed);
    context.args(&["echo", "works"]);
    assert_eq!(context.prints(), "works");
    context.args(&["mkdir", "/tmp/allowed"]);
    context.run().ok();
    context.args(&["rmdir", "/tmp/allowed"]);
    assert!(context.run().exits(1).stderr.contains("not permitted"));
}

fn a_filter_holds_for_exec_too() {
    let rule = json!([{ "names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO" }]);
    let mut context = filtered("sleep 1000", "SCMP_ACT_ALLOW", rule);
    context.launch();
    assert!(context.exec_sh("mkdir /tmp/x").exits(1).stderr.contains("not permitted"));
    assert_eq!(context.exec_sh("grep Seccomp: /proc/self/status").ok().line(), "Seccomp:\t2");
}

fn a_filter_without_no_new_privileges_works() {
    let rule = json!([{ "names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO" }]);
    let mut context = filtered("mkdir /tmp/x 2>/dev/null || id -u", "SCMP_ACT_ALLOW", rule);
    context.set("/process/noNewPrivileges", json!(false));
    context.set("/process/user", json!({ "uid": 1000, "gid": 1000 }));
    assert_eq!(context.prints(), "1000");
}

fn an_unknown_call_is_skipped_and_an_unknown_action_refused() {
    let rule = |action: &str| json!([{ "names": ["call_of_tomorrow", "mkdir"], "action": action }]);
    let script = "mkdir /tmp/x 2>/dev/null || echo refused";
    assert_eq!(filtered(script, "SCMP_ACT_ALLOW", rule("SCMP_ACT_ERRNO")).prints(), "refused");
    let mut context = filtered(script, "SCMP_ACT_ALLOW", rule("SCMP_ACT_NONSENSE"));
    context.create().refused();
    context.assert_nothing_left();
}

fn a_call_that_is_newer_than_the_profile_is_not_implemented() {
    // An allow list that ends long before the newest calls: a call that no library of the image has heard of must look
    // absent, not forbidden, so that the library falls back. 1000 is no call yet.
    let mut context = Context::sh(
        "/host/usr/bin/python3 -c 'import ctypes; l = ctypes.CDLL(None, use_errno=True); \
         l.syscall(1000); print(ctypes.get_errno())'",
    );
    context.bind("/host/usr", "/usr", &["rbind", "ro"]);
    context.bind("/usr", "/usr", &["rbind", "ro"]);
    context.bind("/lib64", "/lib64", &["rbind", "ro"]);
    context.bind("/lib", "/lib", &["rbind", "ro"]);
    context.set("/linux/seccomp", json!({ "defaultAction": "SCMP_ACT_ALLOW", "syscalls": [] }));
    assert_eq!(context.prints(), "38");
}

/// A context whose calls in `names` are told to `agent`.
fn notifying(script: &str, names: &[&str], agent: &Agent) -> Context {
    let rule = json!([{ "names": names, "action": "SCMP_ACT_NOTIFY" }]);
    let mut context = filtered(script, "SCMP_ACT_ALLOW", rule);
    context.set("/linux/seccomp/listenerPath", json!(agent.path));
    context.set("/linux/seccomp/listenerMetadata", json!("words for the agent"));
    context
}

fn an_agent_answers_for_the_first_process() {
    let agent = Agent::new("first");
    let mut context = notifying("mkdir /tmp/x 2>&1; sleep 1000", &["mkdir", "mkdirat"], &agent);
    context.launch();
    let state = agent.state();
    assert_eq!(state["fds"], json!(["seccompFd"]));
    assert_eq!(state["metadata"], "words for the agent");
    assert_eq!((&state["pid"], &state["state"]["pid"]), (&json!(context.pid()), &json!(context.pid())));
    assert_eq!(state["state"]["id"], json!(context.id));
    assert_eq!(state["state"]["bundle"], json!(context.dir));
    crate::harness::eventually("the answer", 10, || context.output().contains("No space left").then_some(()));

    let mut context = notifying("mkdir /tmp/x", &["mkdir", "mkdirat"], &agent);
    context.set("/process/noNewPrivileges", json!(false));
    assert!(context.run().exits(1).stderr.contains("No space left"));
}

fn an_agent_gets_its_listener_from_create() {
    for no_new_privileges in [true, false] {
        let agent = Agent::new("created");
        // Notified of what the process itself calls while it waits.
        let mut context =
            notifying("mkdir /tmp/x 2>&1", &["mkdir", "mkdirat", "accept4", "execve", "capset"], &agent);
        context.set("/process/noNewPrivileges", json!(no_new_privileges));
        context.create().ok();
        let state = agent.state();
        assert_eq!((&state["pid"], &state["state"]["status"]), (&json!(context.pid()), &json!("creating")));
        assert_eq!(context.status(), "created");
        context.start().ok();
        context.wait_stopped();
        assert!(context.output().contains("No space left"), "{}", context.output());
    }
}

fn a_filter_that_forbids_to_wait_is_loaded_at_the_start() {
    let agent = Agent::new("late");
    let mut context = notifying("mkdir /tmp/x 2>&1", &["mkdir", "mkdirat"], &agent);
    context
        .push("/linux/seccomp/syscalls", json!({ "names": ["accept4"], "action": "SCMP_ACT_KILL_PROCESS" }));
    context.create().ok();
    context.start().ok();
    assert_eq!(agent.state()["state"]["status"], "created");
    context.wait_stopped();
    assert!(context.output().contains("No space left"), "{}", context.output());
}

fn an_agent_gets_the_listener_of_an_exec_too() {
    let agent = Agent::new("exec");
    let mut context = notifying("sleep 1000", &["mkdir", "mkdirat"], &agent);
    context.launch();
    agent.state();
    assert!(context.exec_sh("mkdir /tmp/x").exits(1).stderr.contains("No space left"));
    let state = agent.state();
    assert_eq!(state["state"]["pid"], context.pid());
    assert_ne!(state["pid"], context.pid());
}

fn an_agent_may_have_to_answer_before_the_program_runs() {
    let agent = Agent::new("before");
    let mut context = notifying("echo ran", &["execve"], &agent);
    assert_eq!(context.prints(), "ran");
    context.set("/process/noNewPrivileges", json!(false));
    assert_eq!(context.prints(), "ran");
}

fn an_agent_that_does_not_listen_fails_the_start() {
    let agent = Agent::new("absent");
    let mut context = notifying("sleep 1000", &["mkdir"], &agent);
    context.set("/linux/seccomp/listenerPath", json!("/absent/agent"));
    context.run().refused_with(&["/absent/agent"]);
    context.assert_nothing_left();
    context.set("/linux/seccomp/listenerPath", json!(null));
    context.create().refused_with(&["listenerpath"]);
    context.assert_nothing_left();
}

fn filter_flags_are_accepted_and_unknown_ones_refused() {
    let rule = json!([{ "names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO" }]);
    let mut context = filtered("mkdir /tmp/x 2>/dev/null || echo refused", "SCMP_ACT_ALLOW", rule);
    for flags in
        [&["SECCOMP_FILTER_FLAG_LOG"][..], &["SECCOMP_FILTER_FLAG_TSYNC", "SECCOMP_FILTER_FLAG_SPEC_ALLOW"]]
    {
        context.set("/linux/seccomp/flags", json!(flags));
        assert_eq!(context.prints(), "refused");
    }
    context.set("/linux/seccomp/flags", json!(["SECCOMP_FILTER_FLAG_OF_TOMORROW"]));
    context.create().refused();
    context.assert_nothing_left();
}
