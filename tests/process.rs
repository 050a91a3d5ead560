//! The first process: arguments, folder, environment, user, privileges, limits, descriptors, terminal.

use crate::harness::pty::{ConsoleSocket, Terminal};
use crate::harness::{Case, Context, Need, case, command, json};
use std::fs;
use std::os::unix::fs::PermissionsExt;

pub fn cases() -> Vec<Case> {
    vec![
        case!(arguments_arrive_as_they_are),
        case!(the_working_folder_is_entered),
        case!(an_absent_working_folder_is_made),
        case!(the_environment_is_the_configured_one),
        case!(home_is_looked_up_when_not_set).differs("crun", "leaves HOME out for an unknown user"),
        case!(the_user_and_groups_are_the_configured_ones),
        case!(without_additional_groups_there_are_none),
        case!(the_umask_is_set),
        case!(a_program_is_found_along_path),
        case!(an_absent_program_is_named_as_not_found),
        case!(an_absent_program_with_a_path_is_named_as_not_found),
        case!(an_absent_interpreter_is_named).needs(Need::Vctx),
        case!(a_program_without_the_execute_bit_is_permission_denied),
        case!(a_folder_is_no_program).differs("crun", "1.8 says operation not permitted"),
        case!(the_five_capability_sets_are_set),
        case!(a_capability_that_the_caller_lacks_is_left_out)
            .needs(Need::Program("setpriv"))
            .differs("runc", "1.1 fails"),
        case!(capabilities_that_are_unknown_or_unavailable_are_a_warning)
            .differs("runc", "1.1 fails where the inheritable set is not in the bounding one")
            .differs("crun", "1.8 says nothing"),
        case!(without_capabilities_there_are_none),
        case!(a_user_other_than_root_keeps_ambient_capabilities),
        case!(no_new_privileges_is_set_when_asked_for),
        case!(limits_are_lowered),
        case!(the_oom_score_is_raised),
        case!(the_scheduler_is_set)
            .differs("runc", "1.1 ignores it")
            .differs("crun", "1.8 ignores the nice value"),
        case!(the_io_priority_is_set).differs("runc", "1.1 ignores it").differs("crun", "1.8 ignores it"),
        case!(the_personality_is_set).differs("runc", "1.1 ignores it"),
        case!(the_memory_policy_is_set)
            .needs(Need::Path("/proc/self/numa_maps"))
            .differs("runc", "1.1 ignores it")
            .differs("crun", "1.8 ignores it"),
        case!(standard_input_is_passed_through),
        case!(a_closed_standard_input_does_no_harm).differs("crun", "1.8 refuses to run without one"),
        case!(no_descriptor_leaks_into_the_context),
        case!(preserved_descriptors_arrive)
            .differs("crun", "1.8 closes a descriptor of its own that has the number"),
        case!(a_terminal_is_sent_over_the_console_socket),
        case!(a_terminal_is_the_controlling_one_of_a_new_session),
        case!(a_terminal_can_be_resized),
        case!(the_configured_console_size_is_set),
        case!(run_with_a_terminal_uses_the_callers).differs("crun", "1.8 gives the terminal no size"),
        case!(the_first_process_is_number_one),
    ]
}

fn arguments_arrive_as_they_are() {
    let mut context = Context::new();
    context.args(&["printf", "[%s]", "a b", "", "$HOME", "*", "ü", "'\""]);
    assert_eq!(context.prints(), "[a b][][$HOME][*][ü]['\"]");
}

fn the_working_folder_is_entered() {
    let mut context = Context::sh("pwd");
    context.set("/process/cwd", json!("/etc"));
    assert_eq!(context.prints(), "/etc");
}

fn an_absent_working_folder_is_made() {
    let mut context = Context::sh("pwd");
    context.set("/process/cwd", json!("/srv/deep/folder"));
    assert_eq!(context.prints(), "/srv/deep/folder");
}

fn the_environment_is_the_configured_one() {
    let mut context = Context::new();
    context.args(&["env"]);
    context.push("/process/env", json!("ONE=1"));
    context.push("/process/env", json!("SPACES= a b "));
    context.push("/process/env", json!("HOME=/nowhere"));
    let output = command::run(context.bundle_command("run", &[]).env("OF_THE_HOST", "secret")).ok();
    let mut lines: Vec<_> = output.stdout.lines().collect();
    lines.sort_unstable();
    let id = format!("VCTX_TEST_ID={}", context.id);
    assert_eq!(lines, ["HOME=/nowhere", "ONE=1", "PATH=/usr/bin:/bin", "SPACES= a b ", id.as_str()]);
}

fn home_is_looked_up_when_not_set() {
    for (uid, home) in [(0, "/root"), (1000, "/home/alice"), (4711, "/")] {
        let mut context = Context::sh("echo $HOME");
        context.set("/process/user", json!({ "uid": uid, "gid": uid }));
        assert_eq!(context.prints(), home, "uid {uid}");
    }
}

fn the_user_and_groups_are_the_configured_ones() {
    let mut context = Context::sh("id -u; id -g; id -G; awk '/^[UG]id/' /proc/self/status");
    context.set("/process/user", json!({ "uid": 1000, "gid": 100, "additionalGids": [50, 4242] }));
    let ids = "1000\n100\n100 50 4242\nUid:\t1000\t1000\t1000\t1000\nGid:\t100\t100\t100\t100";
    assert_eq!(context.prints(), ids);
}

fn without_additional_groups_there_are_none() {
    let mut context = Context::sh("grep Groups /proc/self/status");
    context.set("/process/user", json!({ "uid": 1000, "gid": 1000 }));
    assert_eq!(context.prints(), "Groups:");
}

fn the_umask_is_set() {
    let mut context = Context::sh("umask");
    context.set("/process/user/umask", json!(0o27));
    assert_eq!(context.prints(), "0027");
}

fn a_program_is_found_along_path() {
    let mut context = Context::new();
    context.set("/process/env", json!(["PATH=/nowhere:/tmp:/bin"]));
    context.args(&["echo", "found"]);
    assert_eq!(context.prints(), "found");
}

fn an_absent_program_is_named_as_not_found() {
    let mut context = Context::new();
    context.args(&["nonsense-program"]);
    // Podman and Docker turn these words into exit code 127.
    context.run().refused_with(&[
        "executable file not found in $path",
        "executable file `nonsense-program` not found",
    ]);
    context.create().refused_with(&["executable file"]);
    context.assert_nothing_left();
}

fn an_absent_program_with_a_path_is_named_as_not_found() {
    let mut context = Context::new();
    context.args(&["/nonsense/program"]);
    context.run().refused_with(&["no such file or directory"]);
    context.assert_nothing_left();
}

fn an_absent_interpreter_is_named() {
    let context = Context::new();
    let script = context.root("script");
    fs::write(&script, "#!/opt/absent/interpreter -x\n").unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    let mut context = context;
    context.args(&["/script"]);
    context.run().refused_with(&["/opt/absent/interpreter"]);
    context.assert_nothing_left();

    // A dynamic program of the host: its interpreter, the loader, is not in the root filesystem.
    let mut context = Context::new();
    fs::copy("/bin/true", context.root("dynamic")).unwrap();
    context.args(&["/dynamic"]);
    context.run().refused_with(&["ld-linux"]);
    context.assert_nothing_left();
}

fn a_program_without_the_execute_bit_is_permission_denied() {
    let mut context = Context::new();
    fs::write(context.root("plain"), "#!/bin/sh\n").unwrap();
    context.args(&["/plain"]);
    context.run().refused_with(&["permission denied"]);
    context.assert_nothing_left();
}

fn a_folder_is_no_program() {
    let mut context = Context::new();
    context.args(&["/etc"]);
    context.run().refused_with(&["permission denied", "is a directory"]);
    context.assert_nothing_left();
}

fn the_five_capability_sets_are_set() {
    let mut context = Context::sh("grep ^Cap /proc/self/status");
    let sets = json!({
        "bounding": ["CAP_CHOWN", "CAP_KILL", "CAP_NET_RAW"],
        "effective": ["CAP_CHOWN", "CAP_KILL"],
        "permitted": ["CAP_CHOWN", "CAP_KILL", "CAP_NET_RAW"],
        "inheritable": ["CAP_KILL"],
        "ambient": ["CAP_KILL"],
    });
    context.set("/process/capabilities", sets);
    context.set("/process/user", json!({ "uid": 1000, "gid": 1000 }));
    // After execve of a plain file by a user who is not root, the ambient set is what is left.
    let only_kill = "0000000000000020";
    let bounding = "0000000000002021";
    let expected = [only_kill, only_kill, only_kill, bounding, only_kill];
    let printed = context.prints();
    let sets: Vec<_> = printed.lines().map(|line| line.split_whitespace().nth(1).unwrap()).collect();
    assert_eq!(sets, expected);
}

fn a_capability_that_the_caller_lacks_is_left_out() {
    let mut context = Context::sh("grep CapEff /proc/self/status");
    let sets = json!(["CAP_KILL", "CAP_SYS_TIME"]);
    context.set("/process/capabilities", json!({ "bounding": sets, "effective": sets, "permitted": sets }));
    let bundle = context.bundle_command("run", &[]);
    let mut restricted = std::process::Command::new("setpriv");
    restricted.args(["--bounding-set", "-sys_time"]).arg(bundle.get_program()).args(bundle.get_args());
    assert_eq!(command::run(&mut restricted).ok().line(), "CapEff:\t0000000000000020");
}

fn capabilities_that_are_unknown_or_unavailable_are_a_warning() {
    let mut context = Context::sh("grep -E 'Cap(Inh|Eff)' /proc/self/status | cut -f2");
    let sets = json!({
        "bounding": ["CAP_KILL", "CAP_OF_TOMORROW"],
        "permitted": ["CAP_KILL"],
        "effective": ["CAP_KILL", "CAP_CHOWN", "CAP_OF_TOMORROW"],
        "inheritable": ["CAP_KILL", "CAP_MKNOD"],
    });
    context.set("/process/capabilities", sets);
    let output = context.run().ok();
    assert_eq!(output.stdout, "0000000000000020\n0000000000000020\n");
    for word in [
        "warning",
        "ignoring unknown or unavailable capabilities: [CAP_OF_TOMORROW]",
        "ignoring capabilities that cannot be granted: [CAP_CHOWN CAP_MKNOD]",
    ] {
        assert!(output.stderr.contains(word), "{}", output.stderr);
    }
    context.args(&["sleep", "1000"]);
    let log = context.dir.join("log.json");
    context.options.extend(["--log".into(), log.display().to_string(), "--log-format".into(), "json".into()]);
    assert_eq!(context.create().ok().stderr, "");
    let records = fs::read_to_string(&log).unwrap();
    let record: serde_json::Value = serde_json::from_str(records.lines().next().unwrap()).unwrap();
    assert_eq!(record["level"], "warning");
    assert!(record["msg"].as_str().unwrap().contains("CAP_OF_TOMORROW"), "{record}");
    context.start().ok();
    let mut process = context.spec["process"].clone();
    process["args"] = json!(["true"]);
    let file = context.file("process.json", &process.to_string());
    fs::remove_file(&log).unwrap();
    context.exec(&["--process", file.to_str().unwrap()], &[]).ok();
    assert!(fs::read_to_string(&log).unwrap().contains("CAP_OF_TOMORROW"));
}

fn without_capabilities_there_are_none() {
    let mut context = Context::sh("grep ^Cap /proc/self/status | cut -f2 | sort -u");
    context.set("/process/capabilities", json!({}));
    assert_eq!(context.prints(), "0000000000000000");
    assert_ne!(Context::sh("grep CapEff /proc/self/status").prints(), "CapEff:\t0000000000000000");
}

fn a_user_other_than_root_keeps_ambient_capabilities() {
    let mut context = Context::sh("chown 7 /mine && stat -c %u /mine");
    fs::write(context.root("mine"), "").unwrap();
    context.set("/process/user", json!({ "uid": 1000, "gid": 1000 }));
    context.run().exits(1);
    for set in ["inheritable", "ambient"] {
        context.set(&format!("/process/capabilities/{set}"), json!(["CAP_CHOWN"]));
    }
    assert_eq!(context.prints(), "7");
}

fn no_new_privileges_is_set_when_asked_for() {
    for (wanted, printed) in [(true, "NoNewPrivs:\t1"), (false, "NoNewPrivs:\t0")] {
        let mut context = Context::sh("grep NoNewPrivs /proc/self/status");
        context.set("/process/noNewPrivileges", json!(wanted));
        assert_eq!(context.prints(), printed);
    }
}

fn limits_are_lowered() {
    let mut context = Context::sh("ulimit -Sn; ulimit -Hn; ulimit -Sc; ulimit -Hu");
    let limits = [("RLIMIT_NOFILE", 100, 200), ("RLIMIT_CORE", 0, 0), ("RLIMIT_NPROC", 50, 60)];
    let limits = limits.map(|(kind, soft, hard)| json!({ "type": kind, "soft": soft, "hard": hard }));
    context.set("/process/rlimits", json!(limits));
    assert_eq!(context.prints(), "100\n200\n0\n60");
}

fn the_oom_score_is_raised() {
    let mut context = Context::sh("cat /proc/self/oom_score_adj");
    context.set("/process/oomScoreAdj", json!(321));
    assert_eq!(context.prints(), "321");
}

fn the_scheduler_is_set() {
    // Fields 19 and 41 of proc_pid_stat(5): the nice value and the policy.
    let mut context = Context::sh("cut -d' ' -f19,41 /proc/self/stat");
    context.set("/process/scheduler", json!({ "policy": "SCHED_BATCH", "nice": 7 }));
    assert_eq!(context.prints(), "7 3");
    context.set("/process/scheduler", json!({ "policy": "SCHED_IDLE" }));
    assert_eq!(context.prints(), "0 5");
    context.set("/process/scheduler", json!({ "policy": "SCHED_SHRUBBERY" }));
    context.create().refused();
}

fn the_io_priority_is_set() {
    let mut context = Context::sh("ionice -p 1");
    context.set("/process/ioPriority", json!({ "class": "IOPRIO_CLASS_BE", "priority": 6 }));
    assert_eq!(context.prints(), "best-effort: prio 6");
    context.set("/process/ioPriority", json!({ "class": "IOPRIO_CLASS_IDLE", "priority": 0 }));
    assert!(context.prints().starts_with("idle"));
    context.set("/process/ioPriority", json!({ "class": "IOPRIO_CLASS_BE", "priority": 8 }));
    context.create().refused_with(&["iopriority"]);
    context.assert_nothing_left();
}

fn the_personality_is_set() {
    let mut context = Context::sh("uname -m");
    let usual = context.prints();
    context.set("/linux/personality", json!({ "domain": "LINUX32" }));
    assert_ne!(context.prints(), usual);
    context.set("/linux/personality", json!({ "domain": "LINUX" }));
    assert_eq!(context.prints(), usual);
}

fn the_memory_policy_is_set() {
    let mut context = Context::sh("awk '{print $2}' /proc/self/numa_maps | sort -u");
    context.set("/linux/memoryPolicy", json!({ "mode": "MPOL_BIND", "nodes": "0" }));
    assert!(context.prints().lines().any(|policy| policy == "bind:0"));
    context.set("/linux/memoryPolicy", json!({ "mode": "MPOL_BIND", "nodes": "0-x" }));
    context.create().refused_with(&["memorypolicy.nodes"]);
    context.assert_nothing_left();
}

fn standard_input_is_passed_through() {
    let context = Context::sh("tr a-z A-Z");
    let output = command::run_with(&mut context.bundle_command("run", &[]), b"hello\n", command::BOUND).ok();
    assert_eq!(output.stdout, "HELLO\n");
}

fn a_closed_standard_input_does_no_harm() {
    let context = Context::sh("echo fine; ls /proc/self/fd | wc -l");
    let mut run = context.bundle_command("run", &[]);
    let mut shell = std::process::Command::new("sh");
    shell.args(["-c", "exec \"$@\" <&-", "sh"]).arg(run.get_program()).args(run.get_args());
    let output = command::run(shell.env("VCTX_TEST_ID", &context.id)).ok();
    assert!(output.stdout.starts_with("fine\n"), "{}", output.stdout);
    command::run(&mut run).ok();
}

fn no_descriptor_leaks_into_the_context() {
    let mut context = Context::new();
    context.args(&["ls", "/proc/self/fd"]);
    // The shell opens further descriptors without close-on-exec, as a careless caller would.
    let run = context.bundle_command("run", &[]);
    let mut shell = std::process::Command::new("sh");
    shell
        .args(["-c", "exec 5</etc/hosts 9>/dev/null; exec \"$@\"", "sh"])
        .arg(run.get_program())
        .args(run.get_args());
    // 3 is the folder that ls reads.
    assert_eq!(command::run(&mut shell).ok().stdout, "0\n1\n2\n3\n");
}

fn preserved_descriptors_arrive() {
    let context = Context::sh("cat <&3; cat <&4");
    let (three, four) = (context.file("three", "three\n"), context.file("four", "four\n"));
    let run = context.bundle_command("run", &["--preserve-fds", "2"]);
    let mut shell = std::process::Command::new("sh");
    let script = format!("exec 3<{} 4<{}; exec \"$@\"", three.display(), four.display());
    shell.args(["-c", &script, "sh"]).arg(run.get_program()).args(run.get_args());
    assert_eq!(command::run(&mut shell).ok().stdout, "three\nfour\n");
}

fn a_terminal_is_sent_over_the_console_socket() {
    let (_context, mut terminal) =
        on_a_terminal("test -t 0 && test -t 1 && test -t 2 && echo all; tty; read x; echo got $x");
    terminal.expect("all");
    terminal.type_in("typed\n");
    terminal.expect("got typed");
    assert!(
        terminal.seen.contains("/dev/console") || terminal.seen.contains("/dev/pts/0"),
        "{}",
        terminal.seen
    );
}

fn a_terminal_is_the_controlling_one_of_a_new_session() {
    let (_context, mut terminal) =
        on_a_terminal("echo hello >/dev/tty; awk '{print \"session\", $6, $7}' /proc/self/stat; sleep 100");
    terminal.expect("hello");
    terminal.expect("session 1 ");
    assert!(!terminal.seen.contains("session 1 0\r"), "no controlling terminal: {}", terminal.seen);
}

fn a_terminal_can_be_resized() {
    let (_context, mut terminal) =
        on_a_terminal("trap 'stty size' WINCH; echo ready; while :; do sleep 0.01; done");
    terminal.expect("ready");
    terminal.resize(33, 111);
    terminal.expect("33 111");
}

fn the_configured_console_size_is_set() {
    let mut context = Context::sh("stty size; sleep 100");
    context.set("/process/consoleSize", json!({ "height": 21, "width": 77 }));
    terminal_of(&mut context).expect("21 77");
}

fn run_with_a_terminal_uses_the_callers() {
    let mut context = Context::sh(
        "until stty size 2>/dev/null | grep .; do :; done; test -t 0 && echo terminal; read x; exit $x",
    );
    context.set("/process/terminal", json!(true));
    let (mut child, mut terminal) = Terminal::spawn(&mut context.bundle_command("run", &[]));
    terminal.expect("24 80");
    terminal.expect("terminal");
    terminal.type_in("5\n");
    assert_eq!(command::exit_code(&mut child), 5);
}

fn the_first_process_is_number_one() {
    assert_eq!(Context::sh("echo $$").prints(), "1");
}

fn on_a_terminal(script: &str) -> (Context, Terminal) {
    let mut context = Context::sh(script);
    let terminal = terminal_of(&mut context);
    (context, terminal)
}

fn terminal_of(context: &mut Context) -> Terminal {
    context.set("/process/terminal", json!(true));
    let socket = ConsoleSocket::new(&context.id);
    let path = socket.path.to_str().unwrap().to_string();
    command::run(&mut context.bundle_command("create", &["--console-socket", &path])).ok();
    let terminal = socket.receive();
    context.start().ok();
    terminal
}
