//! `exec`: a further process in a running context.

use crate::harness::pty::{ConsoleSocket, Terminal};
use crate::harness::{Case, Context, Need, case, cgroup, command, eventually, json};
use std::fs;

pub fn cases() -> Vec<Case> {
    vec![
        case!(exec_passes_output_and_exit_code_on),
        case!(exec_reports_a_signal_as_128_and_its_number),
        case!(exec_takes_the_folder_the_environment_and_the_user)
            .differs("crun", "1.8 looks for the program in the environment of --env alone"),
        case!(exec_inherits_the_contexts_environment_and_folder).differs("crun", "1.8 starts in /"),
        case!(exec_replaces_a_variable_of_the_context),
        case!(exec_takes_the_contexts_personality).differs("runc", "1.1 has no personality"),
        case!(exec_as_a_numeric_user_never_becomes_root)
            .differs("runc", "1.1 cuts an id to 32 bits, so 4294967296 is root")
            .differs("crun", "1.8 cuts an id to 32 bits, so 4294967296 is root"),
        case!(exec_takes_additional_groups).differs("crun", "1.8 has no --additional-gids"),
        case!(exec_adds_a_capability).differs("crun", "1.8 gives --cap alone"),
        case!(exec_gains_no_inheritable_capability),
        case!(exec_drops_what_the_context_may_not),
        case!(exec_with_no_new_privileges_sets_it),
        case!(exec_detached_writes_the_pid_file_and_returns),
        case!(exec_reads_a_process_file),
        case!(exec_enters_the_same_namespaces),
        case!(exec_enters_the_same_control_groups),
        case!(exec_names_a_control_group_from_the_contexts_own)
            .differs("crun", "1.8 takes the group from the root of the host"),
        case!(exec_sees_the_contexts_files_only),
        case!(exec_of_an_absent_program_is_named_as_not_found),
        case!(exec_into_a_paused_context_is_refused),
        case!(exec_passes_standard_input),
        case!(exec_on_a_terminal_of_the_caller),
        case!(exec_sends_its_terminal_over_a_console_socket),
        case!(exec_leaks_no_descriptor),
        case!(exec_of_an_interpreter_that_is_absent_names_it).needs(Need::Vctx),
        case!(exec_follows_processes_that_have_moved_to_another_group)
            .differs("runc", "1.1 does not on version 1"),
        case!(exec_goes_to_the_group_that_it_names).needs(Need::Vctx),
        case!(exec_goes_to_the_groups_of_the_controllers_that_it_names).needs(Need::Vctx),
        case!(exec_runs_on_the_cpus_of_its_affinity)
            .differs("runc", "1.1 ignores it")
            .differs("crun", "1.8 ignores it"),
        case!(twenty_execs_at_once_all_answer),
    ]
}

fn exec_passes_output_and_exit_code_on() {
    let context = Context::idle();
    for code in [0, 1, 7, 255] {
        let output = context.exec_sh(&format!("echo out; echo err >&2; exit {code}")).exits(code);
        assert_eq!((output.stdout.as_str(), output.stderr.as_str()), ("out\n", "err\n"));
    }
}

fn exec_reports_a_signal_as_128_and_its_number() {
    let context = Context::idle();
    context.exec_sh("kill -KILL $$").exits(137);
    context.exec_sh("kill -TERM $$").exits(143);
}

fn exec_takes_the_folder_the_environment_and_the_user() {
    let context = Context::idle();
    let options = ["--cwd", "/etc", "--env", "ONE=1", "--env", "TWO=a b", "--user", "1000:50"];
    let output = context.exec(&options, &["sh", "-c", "pwd; echo $ONE,$TWO; id -u; id -g"]).ok();
    assert_eq!(output.stdout, "/etc\n1,a b\n1000\n50\n");
    assert_eq!(
        context.exec(&["-u", "1000", "-e", "X=y"], &["sh", "-c", "echo $X $(id -u)"]).ok().line(),
        "y 1000"
    );
}

fn exec_inherits_the_contexts_environment_and_folder() {
    let mut context = Context::new();
    context.args(&["sleep", "1000"]);
    context.push("/process/env", json!("OF_THE_CONTEXT=yes"));
    context.set("/process/cwd", json!("/tmp"));
    context.launch();
    let mut exec = context.command();
    exec.env("OF_THE_HOST", "secret").args(["exec", &context.id, "sh", "-c", "pwd; env"]);
    let output = command::run(&mut exec).ok().stdout;
    assert!(output.starts_with("/tmp\n") && output.contains("OF_THE_CONTEXT=yes\n"), "{output}");
    assert!(!output.contains("OF_THE_HOST"), "{output}");
}

fn exec_replaces_a_variable_of_the_context() {
    let mut context = Context::new();
    context.args(&["sleep", "1000"]);
    context.push("/process/env", json!("WORD=of the context"));
    context.launch();
    let output = context.exec(&["--env", "WORD=first", "--env", "WORD=last"], &["env"]).ok().stdout;
    let words: Vec<&str> = output.lines().filter(|line| line.starts_with("WORD=")).collect();
    assert_eq!(words, ["WORD=last"]);
}

fn exec_takes_the_contexts_personality() {
    let mut context = Context::new();
    context.args(&["sleep", "1000"]);
    context.set("/linux/personality", json!({ "domain": "LINUX32" }));
    context.launch();
    assert_eq!(context.exec(&[], &["cat", "/proc/self/personality"]).ok().line(), "00000008");
}

fn exec_as_a_numeric_user_never_becomes_root() {
    let context = Context::idle();
    for (user, uid) in [("1", "1"), ("1:1", "1"), ("4242", "4242"), ("1000:0", "1000")] {
        assert_eq!(context.exec(&["--user", user], &["id", "-u"]).ok().line(), uid, "{user}");
    }
    for user in ["4294967296", "-1", "4294967295", "1:4294967296", "1x", "nobody-here", ":", ""] {
        let output = context.exec(&[&format!("--user={user}")], &["id", "-u"]);
        assert!(output.code != 0, "--user={user:?} became {}", output.stdout);
    }
}

fn exec_takes_additional_groups() {
    let context = Context::idle();
    let options = ["--user", "1000:1000", "--additional-gids", "50", "--additional-gids", "60"];
    assert_eq!(context.exec(&options, &["id", "-G"]).ok().line(), "1000 50 60");
}

fn exec_adds_a_capability() {
    let mut context = Context::new();
    context.args(&["sleep", "1000"]);
    context.set(
        "/process/capabilities",
        json!({ "bounding": ["CAP_KILL"], "effective": ["CAP_KILL"], "permitted": ["CAP_KILL"] }),
    );
    context.launch();
    let capabilities = ["sh", "-c", "grep CapEff /proc/self/status"];
    assert_eq!(context.exec(&[], &capabilities).ok().line(), "CapEff:\t0000000000000020");
    let added = context.exec(&["--cap", "CAP_NET_ADMIN"], &capabilities).ok();
    assert_eq!(added.line(), "CapEff:\t0000000000001020");
}

fn exec_gains_no_inheritable_capability() {
    let context = Context::idle();
    let script = ["sh", "-c", "grep -E 'CapInh|CapAmb' /proc/self/status | cut -f2 | sort -u"];
    assert_eq!(context.exec(&[], &script).ok().line(), "0000000000000000");
}

fn exec_drops_what_the_context_may_not() {
    let context = Context::idle();
    let first = context.exec_sh("grep ^Cap /proc/1/status").ok().stdout;
    assert_eq!(context.exec_sh("grep ^Cap /proc/self/status").ok().stdout, first);
}

fn exec_with_no_new_privileges_sets_it() {
    let mut context = Context::new();
    context.args(&["sleep", "1000"]);
    context.set("/process/noNewPrivileges", json!(false));
    context.launch();
    let script = ["sh", "-c", "grep NoNewPrivs /proc/self/status"];
    assert_eq!(context.exec(&[], &script).ok().line(), "NoNewPrivs:\t0");
    assert_eq!(context.exec(&["--no-new-privs"], &script).ok().line(), "NoNewPrivs:\t1");
}

fn exec_detached_writes_the_pid_file_and_returns() {
    let context = Context::idle();
    let file = context.dir.join("exec.pid");
    context.exec(&["--detach", "--pid-file", file.to_str().unwrap()], &["sleep", "999"]).ok();
    let pid = fs::read_to_string(&file).unwrap();
    let line = || fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap();
    eventually("the detached process runs", 10, || (line() == "sleep\0999\0").then_some(()));
}

fn exec_reads_a_process_file() {
    let context = Context::idle();
    let process = json!({
        "args": ["sh", "-c", "pwd; id -u; echo $KEY"], "cwd": "/bin", "env": ["PATH=/bin", "KEY=value"],
        "user": { "uid": 1000, "gid": 1000 },
    });
    let file = context.file("process.json", &process.to_string());
    let mut exec = context.command();
    exec.args(["exec", "--process"]).arg(file).arg(&context.id);
    assert_eq!(command::run(&mut exec).ok().stdout, "/bin\n1000\nvalue\n");
}

fn exec_enters_the_same_namespaces() {
    let context = Context::idle();
    let script = "for n in pid net ipc uts mnt cgroup user; do a=$(readlink /proc/self/ns/$n); \
                  b=$(readlink /proc/1/ns/$n); [ $a = $b ] || echo $n $a $b; done; hostname";
    let mut exec = context.command();
    exec.args(["exec", "--cap", "CAP_SYS_PTRACE", &context.id, "sh", "-c", script]);
    assert_eq!(command::run(&mut exec).ok().line(), "context");
    let host = fs::read_link("/proc/self/ns/net").unwrap();
    assert_ne!(context.exec(&[], &["readlink", "/proc/self/ns/net"]).ok().line(), host.to_str().unwrap());
}

fn exec_enters_the_same_control_groups() {
    let context = Context::idle();
    let file = context.dir.join("exec.pid");
    context.exec(&["--detach", "--pid-file", file.to_str().unwrap()], &["sleep", "999"]).ok();
    let pid: u32 = fs::read_to_string(file).unwrap().parse().unwrap();
    for controller in ["memory", "pids", "cpu"] {
        let members = cgroup::members(&context, controller);
        assert!(members.contains(&pid) && members.contains(&context.pid()), "{controller}: {members:?}");
    }
}

fn exec_names_a_control_group_from_the_contexts_own() {
    let context = Context::idle();
    let script = ["sh", "-c", "cat /proc/self/cgroup"];
    let own = context.exec(&[], &script).ok().stdout;
    assert_eq!(context.exec(&["--cgroup", "/"], &script).ok().stdout, own);
    let output = context.exec(&["--cgroup", "/absent"], &script);
    assert!(output.code != 0, "{}", output.stdout);
}

fn exec_sees_the_contexts_files_only() {
    let context = Context::idle();
    context.exec_sh("echo inside > /etc/marker").ok();
    assert_eq!(fs::read_to_string(context.root("etc/marker")).unwrap(), "inside\n");
    context.exec(&[], &["test", "-e", context.dir.to_str().unwrap()]).exits(1);
}

fn exec_of_an_absent_program_is_named_as_not_found() {
    let context = Context::idle();
    let words = ["executable file not found in $path", "executable file `nonsense` not found"];
    context.exec(&[], &["nonsense"]).refused_with(&words);
    context.exec(&[], &["/nonsense"]).refused_with(&["no such file or directory"]);
    context.exec(&[], &["/etc/passwd"]).refused_with(&["permission denied"]);
    assert_eq!(context.status(), "running");
}

fn exec_into_a_paused_context_is_refused() {
    let context = Context::idle();
    context.call(&["pause", &context.id]).ok();
    context.exec(&[], &["true"]).refused_with(&["paused"]);
    context.call(&["resume", &context.id]).ok();
    context.exec(&[], &["true"]).ok();
}

fn exec_passes_standard_input() {
    let context = Context::idle();
    let mut exec = context.command();
    exec.args(["exec", &context.id, "tr", "a-z", "A-Z"]);
    assert_eq!(command::run_with(&mut exec, b"hello\n", command::BOUND).ok().stdout, "HELLO\n");
}

fn exec_on_a_terminal_of_the_caller() {
    let context = Context::idle();
    let mut exec = context.command();
    exec.args([
        "exec",
        "--tty",
        &context.id,
        "sh",
        "-c",
        "until stty size 2>/dev/null | grep .; do :; done; test -t 1 && echo yes; read x; exit $x",
    ]);
    let (mut child, mut terminal) = Terminal::spawn(&mut exec);
    terminal.expect("24 80");
    terminal.expect("yes");
    terminal.type_in("6\n");
    assert_eq!(command::exit_code(&mut child), 6);
}

fn exec_sends_its_terminal_over_a_console_socket() {
    let context = Context::idle();
    let socket = ConsoleSocket::new(&context.id);
    let path = socket.path.to_str().unwrap();
    let options = ["--detach", "--tty", "--console-socket", path];
    context.exec(&options, &["sh", "-c", "test -t 0 && echo on a terminal; sleep 100"]).ok();
    socket.receive().expect("on a terminal");
}

fn exec_leaks_no_descriptor() {
    let context = Context::idle();
    let exec = {
        let mut exec = context.command();
        exec.args(["exec", &context.id, "ls", "/proc/self/fd"]);
        exec
    };
    let mut shell = std::process::Command::new("sh");
    shell
        .args(["-c", "exec 5</etc/hosts 9>/dev/null; exec \"$@\"", "sh"])
        .arg(exec.get_program())
        .args(exec.get_args());
    // 3 is the folder that ls reads.
    assert_eq!(command::run(&mut shell).ok().stdout, "0\n1\n2\n3\n");
}

fn exec_of_an_interpreter_that_is_absent_names_it() {
    let context = Context::idle();
    fs::copy("/bin/true", context.root("dynamic")).unwrap();
    context.exec(&[], &["/dynamic"]).refused_with(&["ld-linux"]);
}

fn twenty_execs_at_once_all_answer() {
    let context = &Context::idle();
    let ask = move |number: u32| context.exec(&[], &["echo", &number.to_string()]).ok().line().to_string();
    let answers: Vec<String> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..20).map(|number| scope.spawn(move || ask(number))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(answers, (0..20).map(|number| number.to_string()).collect::<Vec<_>>());
}

/// Makes the group `below` of the context's in every hierarchy.
fn below(context: &Context, below: &str) -> Vec<std::path::PathBuf> {
    let name = context.spec["linux"]["cgroupsPath"].as_str().unwrap().trim_start_matches('/');
    let hierarchies = fs::read_dir("/sys/fs/cgroup").unwrap().map(|entry| entry.unwrap().path());
    let mut folders: Vec<_> = hierarchies
        .chain(["/sys/fs/cgroup".into()])
        .filter(|folder| !folder.is_symlink())
        .map(|folder| folder.join(name))
        .filter(|folder| folder.is_dir())
        .map(|folder| folder.join(below))
        .collect();
    folders.sort();
    folders.iter().for_each(|folder| fs::create_dir(folder).unwrap());
    folders
}

fn exec_follows_processes_that_have_moved_to_another_group() {
    let mut context = Context::idle();
    let pid = context.pid().to_string();
    let first = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    // The host moves the process away, and the group that the runtime has made goes.
    let name = context.id.clone();
    let other = format!("/{name}-moved");
    context.set("/linux/cgroupsPath", json!(other));
    let mut folders = Vec::new();
    for entry in fs::read_dir("/sys/fs/cgroup").unwrap().chain(fs::read_dir("/sys/fs").unwrap()) {
        let old = entry.unwrap().path().join(&name);
        if old.is_dir() && !old.parent().unwrap().is_symlink() {
            let new = old.with_file_name(other.trim_start_matches('/'));
            fs::create_dir(&new).unwrap();
            for file in ["cpuset.cpus", "cpuset.mems"] {
                if let Ok(value) = fs::read_to_string(old.join(file)) {
                    let _ = fs::write(new.join(file), value.trim());
                }
            }
            fs::write(new.join("cgroup.procs"), &pid).unwrap();
            fs::remove_dir(&old).unwrap();
            folders.push((old, new));
        }
    }
    let output = context.exec_sh("cat /proc/self/cgroup");
    // Back, so that the clean-up finds the process where it was.
    for (old, new) in &folders {
        fs::create_dir(old).unwrap();
        for file in ["cpuset.cpus", "cpuset.mems"] {
            if let Ok(value) = fs::read_to_string(new.join(file)) {
                let _ = fs::write(old.join(file), value.trim());
            }
        }
        fs::write(old.join("cgroup.procs"), &pid).unwrap();
        eventually("an empty group", 10, || fs::remove_dir(new).ok());
    }
    context.set("/linux/cgroupsPath", json!(format!("/{name}")));
    let printed = output.ok();
    assert_eq!(printed.stdout, first.replace(&format!("/{name}"), &other));
}

fn exec_goes_to_the_group_that_it_names() {
    let context = Context::idle();
    let pid = context.pid();
    for folder in below(&context, "part") {
        for file in ["cpuset.cpus", "cpuset.mems"] {
            if let Ok(value) = fs::read_to_string(folder.with_file_name(file)) {
                let _ = fs::write(folder.join(file), value.trim());
            }
        }
    }
    let first = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let part = context.exec(&["--cgroup", "part"], &["cat", "/proc/self/cgroup"]).ok().stdout;
    assert_eq!(part, first.replace(&context.id, &format!("{}/part", context.id)));
    assert_eq!(context.exec(&["--cgroup", "/"], &["cat", "/proc/self/cgroup"]).ok().stdout, first);
    context.exec(&["--cgroup", "absent"], &["true"]).refused_with(&["absent"]);
    context.exec(&["--cgroup", "../up"], &["true"]).refused();
}

fn exec_goes_to_the_groups_of_the_controllers_that_it_names() {
    let context = Context::idle();
    let first = fs::read_to_string(format!("/proc/{}/cgroup", context.pid())).unwrap();
    let _folders = below(&context, "part");
    let lines = |options: &[&str]| context.exec(options, &["cat", "/proc/self/cgroup"]).ok().stdout;
    let moved = |controller: &str| -> String {
        let moves = |line: &&str| {
            let of = line.split(':').nth(1).unwrap();
            of.is_empty() && first.lines().count() == 1 || of.split(',').any(|name| name == controller)
        };
        first.lines().map(|line| format!("{line}{}\n", if moves(&line) { "/part" } else { "" })).collect()
    };
    assert_eq!(lines(&["--cgroup", "memory:part"]), moved("memory"));
    if first.lines().count() > 1 {
        assert_eq!(lines(&["--cgroup", "pids:/part", "--cgroup", "memory:/"]), moved("pids"));
    }
    for wrong in ["waaaaat:/", "waaaaat,memory:/part", ":part", "memory:absent", "memory:../up"] {
        context.exec(&["--cgroup", wrong], &["true"]).refused();
    }
    context.exec(&["--cgroup", "memory:/part", "--cgroup", "memory:/"], &["true"]).refused_with(&["second"]);
}

fn exec_runs_on_the_cpus_of_its_affinity() {
    let mut context = Context::new();
    context.args(&["sleep", "1000"]);
    context.launch();
    let allowed = "grep Cpus_allowed_list /proc/self/status | cut -f2";
    let usual = context.exec_sh(allowed).ok().line().to_string();
    let process = |affinity: serde_json::Value| {
        let mut process = context.spec["process"].clone();
        process["args"] = json!(["sh", "-c", allowed]);
        process["execCPUAffinity"] = affinity;
        context.file("process.json", &process.to_string())
    };
    // Of two processors if there are two.
    let last = usual.rsplit(['-', ',']).next().unwrap();
    for (affinity, expected) in [
        (json!({ "final": "0" }), "0"),
        (json!({ "initial": "0", "final": last }), last),
        (json!({}), usual.as_str()),
    ] {
        let file = process(affinity.clone());
        let output = context.exec(&["--process", file.to_str().unwrap()], &[]);
        assert_eq!(output.ok().line(), expected, "{affinity}");
    }
    for wrong in [json!({ "final": "0-" }), json!({ "initial": "x" }), json!({ "final": "4095" })] {
        let file = process(wrong);
        context.exec(&["--process", file.to_str().unwrap()], &[]).refused();
    }
}
