//! Podman with `--runtime`: everything that its users do with a container from day to day.

use crate::harness::engine::{IMAGE, podman};
use crate::harness::pty::Terminal;
use crate::harness::{Case, Need, case, command, eventually, rootfs};
use serde_json::Value;
use std::fs;

pub fn cases() -> Vec<Case> {
    vec![
        case!(run_prints_and_passes_the_exit_code_on),
        case!(run_of_an_absent_program_ends_with_127_and_of_a_folder_with_126),
        case!(run_passes_standard_input),
        case!(run_on_a_terminal),
        case!(run_detached_then_logs_wait_and_rm),
        case!(exec_takes_a_user_a_folder_and_an_environment),
        case!(exec_on_a_terminal),
        case!(stop_ends_with_term_and_kill_with_its_signal),
        case!(pause_and_unpause),
        case!(stats_count_memory_and_processes),
        case!(top_lists_the_processes),
        case!(update_changes_a_limit),
        case!(restart_starts_it_anew),
        case!(a_pod_shares_its_namespaces),
        case!(init_reaps_as_process_one).needs(Need::Program("tini-static")),
        case!(limits_of_memory_cpus_and_processes_are_in_the_groups),
        case!(a_read_only_root_and_a_tmpfs),
        case!(capabilities_are_dropped_and_added),
        case!(a_privileged_container_has_all_capabilities),
        case!(a_device_is_passed),
        case!(a_sysctl_is_set),
        case!(users_are_mapped),
        case!(a_volume_is_mounted),
        case!(a_seccomp_profile_is_applied),
        case!(no_new_privileges_is_applied),
        case!(the_hosts_network_is_shared_when_asked_for),
        case!(inspect_names_the_runtime_and_the_exit_code),
        case!(twenty_runs_leave_nothing),
    ]
}

fn run_prints_and_passes_the_exit_code_on() {
    let podman = podman();
    let output = podman.call(&["run", "--rm", IMAGE, "sh", "-c", "echo out; echo err >&2; exit 7"]).exits(7);
    assert_eq!((output.line(), output.stderr.trim()), ("out", "err"));
}

fn run_of_an_absent_program_ends_with_127_and_of_a_folder_with_126() {
    let podman = podman();
    podman.call(&["run", "--rm", IMAGE, "nonsense"]).exits(127);
    podman.call(&["run", "--rm", IMAGE, "/etc"]).exits(126);
    podman.say(&["run", "-d", "--name", "c", IMAGE, "sleep", "1000"]);
    podman.call(&["exec", "c", "nonsense"]).exits(127);
}

fn run_passes_standard_input() {
    let podman = podman();
    let mut command = podman.command(&["run", "--rm", "-i", IMAGE, "tr", "a-z", "A-Z"]);
    assert_eq!(command::run_with(&mut command, b"hello\n", command::BOUND).ok().line(), "HELLO");
}

fn run_on_a_terminal() {
    let podman = podman();
    let script = "until stty size; do :; done; tty; read x; exit $x";
    let (mut child, mut terminal) =
        Terminal::spawn(&mut podman.command(&["run", "--rm", "-it", IMAGE, "sh", "-c", script]));
    terminal.expect("/dev/pts/0");
    terminal.type_in("9\n");
    assert_eq!(command::exit_code(&mut child), 9);
}

fn run_detached_then_logs_wait_and_rm() {
    let podman = podman();
    podman.say(&["run", "-d", "--name", "c", IMAGE, "sh", "-c", "echo one; echo two; exit 3"]);
    assert_eq!(podman.say(&["wait", "c"]), "3");
    assert_eq!(podman.say(&["logs", "c"]), "one\ntwo");
    podman.say(&["rm", "c"]);
    assert_eq!(podman.say(&["ps", "-aq"]), "");
}

fn exec_takes_a_user_a_folder_and_an_environment() {
    let podman = podman();
    podman.say(&["run", "-d", "--name", "c", IMAGE, "sleep", "1000"]);
    let printed = podman.say(&[
        "exec",
        "-u",
        "alice",
        "-w",
        "/etc",
        "-e",
        "X=y",
        "c",
        "sh",
        "-c",
        "id -u; pwd; echo $X",
    ]);
    assert_eq!(printed, "1000\n/etc\ny");
    podman.call(&["exec", "c", "sh", "-c", "exit 5"]).exits(5);
}

fn exec_on_a_terminal() {
    let podman = podman();
    podman.say(&["run", "-d", "--name", "c", IMAGE, "sleep", "1000"]);
    let (mut child, mut terminal) =
        Terminal::spawn(&mut podman.command(&["exec", "-it", "c", "sh", "-c", "tty; read x; exit $x"]));
    terminal.expect("/dev/pts/");
    terminal.type_in("4\n");
    assert_eq!(command::exit_code(&mut child), 4);
}

fn stop_ends_with_term_and_kill_with_its_signal() {
    let podman = podman();
    let script =
        "trap 'echo term; exit 11' TERM; trap 'echo usr1' USR1; echo ready; while :; do sleep 0.05; done";
    podman.say(&["run", "-d", "--name", "c", IMAGE, "sh", "-c", script]);
    let printed = |text: &'static str| {
        eventually(text, 20, || podman.say(&["logs", "c"]).contains(text).then_some(()));
    };
    printed("ready");
    podman.say(&["kill", "-s", "USR1", "c"]);
    printed("usr1");
    podman.say(&["stop", "c"]);
    assert_eq!(podman.say(&["wait", "c"]), "11");
    podman.say(&["start", "c"]);
    podman.say(&["kill", "c"]);
    assert_eq!(podman.say(&["wait", "c"]), "137");
}

fn pause_and_unpause() {
    let podman = podman();
    podman.say(&["run", "-d", "--name", "c", IMAGE, "sleep", "1000"]);
    let status = || podman.say(&["inspect", "--format", "{{.State.Status}}", "c"]);
    podman.say(&["pause", "c"]);
    assert_eq!(status(), "paused");
    podman.say(&["unpause", "c"]);
    assert_eq!(status(), "running");
}

fn stats_count_memory_and_processes() {
    let podman = podman();
    podman.say(&["run", "-d", "--name", "c", IMAGE, "sh", "-c", "sleep 1000 & sleep 1000 & wait"]);
    let stats = || -> Value {
        serde_json::from_str(&podman.say(&["stats", "--no-stream", "--format", "json", "c"])).unwrap()
    };
    eventually("three processes", 20, || (stats()[0]["pids"] == "3").then_some(()));
    assert!(!stats()[0]["mem_usage"].as_str().unwrap().starts_with("0B"));
}

fn top_lists_the_processes() {
    let podman = podman();
    podman.say(&["run", "-d", "--name", "c", IMAGE, "sleep", "1000"]);
    assert!(podman.say(&["top", "c", "pid", "args"]).contains("sleep 1000"));
}

fn update_changes_a_limit() {
    let podman = podman();
    podman.say(&["run", "-d", "--name", "c", "--memory", "64m", IMAGE, "sleep", "1000"]);
    podman.say(&["update", "--memory", "96m", "c"]);
    assert_eq!(podman.say(&["exec", "c", "sh", "-c", MEMORY_LIMIT]), (96 << 20).to_string());
}

fn restart_starts_it_anew() {
    let podman = podman();
    podman.say(&["run", "-d", "--name", "c", IMAGE, "sh", "-c", "echo started; exec sleep 1000"]);
    let pid = || podman.say(&["inspect", "--format", "{{.State.Pid}}", "c"]);
    let before = pid();
    podman.say(&["restart", "--time", "0", "c"]);
    assert_ne!(pid(), before);
    eventually("the second start prints", 20, || {
        (podman.say(&["logs", "c"]) == "started\nstarted").then_some(())
    });
}

fn a_pod_shares_its_namespaces() {
    let podman = podman();
    podman.say(&[
        "pod",
        "create",
        "--name",
        "p",
        "--infra-image",
        IMAGE,
        "--infra-command",
        "/bin/sleep 1000",
    ]);
    podman.say(&["run", "-d", "--pod", "p", "--name", "a", IMAGE, "sleep", "1000"]);
    podman.say(&["run", "-d", "--pod", "p", "--name", "b", IMAGE, "sleep", "1000"]);
    let link = |container: &str, kind: &str| {
        podman.say(&["exec", container, "readlink", &format!("/proc/self/ns/{kind}")])
    };
    for kind in ["net", "ipc", "uts"] {
        assert_eq!(link("a", kind), link("b", kind));
    }
    assert_ne!(link("a", "mnt"), link("b", "mnt"));
    podman.say(&["pod", "stop", "--time", "0", "p"]);
    podman.say(&["pod", "rm", "p"]);
    assert_eq!(podman.say(&["ps", "-aq"]), "");
}

fn init_reaps_as_process_one() {
    let podman = podman();
    let printed = podman.say(&["run", "--rm", "--init", IMAGE, "sh", "-c", "cat /proc/1/comm; echo $$"]);
    assert_ne!(printed.lines().next(), Some("sh"));
    assert_ne!(printed.lines().nth(1), Some("1"));
}

fn limits_of_memory_cpus_and_processes_are_in_the_groups() {
    let podman = podman();
    let script =
        format!("{MEMORY_LIMIT}; {PIDS_LIMIT}; {CPU_QUOTA}; grep Cpus_allowed_list /proc/self/status");
    let limits = ["--memory", "64m", "--cpus", "0.5", "--pids-limit", "50", "--cpuset-cpus", "0"];
    let args = [&["run", "--rm"][..], &limits, &[IMAGE, "sh", "-c", &script]].concat();
    assert_eq!(podman.say(&args), format!("{}\n50\n50000\nCpus_allowed_list:\t0", 64 << 20));
}

fn a_read_only_root_and_a_tmpfs() {
    let podman = podman();
    let script = "touch /x && echo bad; touch /scratch/x && df /scratch | tail -1 | awk '{print $1, $2}'";
    let tmpfs = "/scratch:rw,size=4m,mode=1777";
    let args = ["run", "--rm", "--read-only", "--tmpfs", tmpfs, IMAGE, "sh", "-c", script];
    assert_eq!(podman.say(&args), "tmpfs 4096");
}

fn capabilities_are_dropped_and_added() {
    let podman = podman();
    let effective = ["sh", "-c", "grep CapEff /proc/self/status | cut -f2"];
    let run = |options: &[&str]| podman.say(&[&["run", "--rm"], options, &[IMAGE], &effective[..]].concat());
    assert_eq!(run(&["--cap-drop", "all"]), "0000000000000000");
    assert_eq!(
        run(&["--cap-drop", "all", "--cap-add", "NET_ADMIN", "--cap-add", "KILL"]),
        "0000000000001020"
    );
}

fn a_privileged_container_has_all_capabilities() {
    let podman = podman();
    let script = "grep CapEff /proc/self/status | cut -f2; test -e /dev/full && touch /proc/sys/kernel/hostname && echo rw";
    let own = fs::read_to_string("/proc/self/status").unwrap();
    let own = own.lines().find_map(|line| line.strip_prefix("CapEff:\t")).unwrap().to_string();
    assert_eq!(podman.say(&["run", "--rm", "--privileged", IMAGE, "sh", "-c", script]), format!("{own}\nrw"));
}

fn a_device_is_passed() {
    let podman = podman();
    let script = "stat -c '%F %t:%T' /dev/mynull; echo x > /dev/mynull && echo written";
    let printed =
        podman.say(&["run", "--rm", "--device", "/dev/null:/dev/mynull:rw", IMAGE, "sh", "-c", script]);
    assert_eq!(printed, "character special file 1:3\nwritten");
}

fn a_sysctl_is_set() {
    let podman = podman();
    let args = ["run", "--rm", "--sysctl", "kernel.msgmax=9000", "--sysctl", "net.ipv4.ip_forward=1", IMAGE];
    let args = [&args[..], &["cat", "/proc/sys/kernel/msgmax", "/proc/sys/net/ipv4/ip_forward"]].concat();
    assert_eq!(podman.say(&args), "9000\n1");
}

fn users_are_mapped() {
    let podman = podman();
    let script = "awk '{print $1, $2, $3}' /proc/self/uid_map; stat -c %u /etc/passwd";
    let args = ["run", "--rm", "--uidmap", "0:200000:5000", IMAGE, "sh", "-c", script];
    assert_eq!(podman.say(&args), "0 200000 5000\n0");
}

fn a_volume_is_mounted() {
    let podman = podman();
    let volume = rootfs::workspace().join("volume");
    fs::create_dir_all(&volume).unwrap();
    fs::write(volume.join("in"), "from the host").unwrap();
    let (rw, ro) = (format!("{}:/data", volume.display()), format!("{}:/ro:ro", volume.display()));
    let script = "cat /data/in; echo from inside > /data/out; touch /ro/x 2>/dev/null || echo refused";
    let printed = podman.say(&["run", "--rm", "-v", &rw, "-v", &ro, IMAGE, "sh", "-c", script]);
    assert_eq!(printed, "from the hostrefused");
    assert_eq!(fs::read_to_string(volume.join("out")).unwrap(), "from inside\n");
}

fn a_seccomp_profile_is_applied() {
    let podman = podman();
    let profile = rootfs::workspace().join("seccomp.json");
    let rule = r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mkdir","mkdirat"],"action":"SCMP_ACT_ERRNO"}]}"#;
    fs::write(&profile, rule).unwrap();
    let option = format!("seccomp={}", profile.display());
    let run = |option: &str| podman.call(&["run", "--rm", "--security-opt", option, IMAGE, "mkdir", "/x"]);
    run(&option).refused_with(&["operation not permitted"]);
    run("seccomp=unconfined").ok();
}

fn no_new_privileges_is_applied() {
    let podman = podman();
    let args = [
        "run",
        "--rm",
        "--security-opt",
        "no-new-privileges",
        IMAGE,
        "grep",
        "NoNewPrivs",
        "/proc/self/status",
    ];
    assert_eq!(podman.say(&args), "NoNewPrivs:\t1");
}

fn the_hosts_network_is_shared_when_asked_for() {
    let podman = podman();
    let link = fs::read_link("/proc/self/ns/net").unwrap();
    let inside = |network: &str| {
        podman.say(&["run", "--rm", "--network", network, IMAGE, "readlink", "/proc/self/ns/net"])
    };
    assert_eq!(inside("host"), link.to_str().unwrap());
    assert_ne!(inside("none"), link.to_str().unwrap());
}

fn inspect_names_the_runtime_and_the_exit_code() {
    let podman = podman();
    podman.call(&["run", "--name", "c", IMAGE, "sh", "-c", "exit 42"]).exits(42);
    let format = "{{.OCIRuntime}} {{.State.ExitCode}} {{.State.Status}}";
    let path = crate::harness::runtime().display();
    assert_eq!(podman.say(&["inspect", "--format", format, "c"]), format!("{path} 42 exited"));
}

fn twenty_runs_leave_nothing() {
    let podman = podman();
    for number in 0..20 {
        assert_eq!(podman.say(&["run", "--rm", IMAGE, "echo", &number.to_string()]), number.to_string());
    }
    assert_eq!(podman.say(&["ps", "-aq"]), "");
    assert!(crate::harness::leaks::control_groups("libpod-").is_empty());
}

const MEMORY_LIMIT: &str =
    "cat /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null || cat /sys/fs/cgroup/memory.max";
const PIDS_LIMIT: &str = "cat /sys/fs/cgroup/pids/pids.max 2>/dev/null || cat /sys/fs/cgroup/pids.max";
const CPU_QUOTA: &str =
    "cat /sys/fs/cgroup/cpu/cpu.cfs_quota_us 2>/dev/null || cut -d' ' -f1 /sys/fs/cgroup/cpu.max";
