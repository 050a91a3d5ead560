//! Docker, with the runtime added under a name, and as the default.

use crate::harness::engine::{Client, IMAGE, docker, set_docker_default};
use crate::harness::pty::Terminal;
use crate::harness::{Case, Need, case, command, eventually};
use serde_json::Value;

pub fn cases() -> Vec<Case> {
    vec![
        case!(run_prints_and_passes_the_exit_code_on),
        case!(run_of_an_absent_program_ends_with_127)
            .differs("crun", "1.8 says it in words that Docker does not know"),
        case!(run_on_a_terminal),
        case!(run_detached_then_logs_stop_and_rm),
        case!(exec_takes_a_user_a_folder_and_an_environment),
        case!(stats_count_memory_and_processes),
        case!(update_changes_a_limit),
        case!(restart_starts_it_anew),
        case!(pause_and_unpause),
        case!(init_is_process_one).needs(Need::Program("docker-init")),
        case!(the_usual_limits_and_switches_are_applied),
        case!(as_the_default_runtime_it_runs_everything),
    ]
}

fn run<'a>(options: &[&'a str], args: &[&'a str]) -> Vec<&'a str> {
    [&["run", "--runtime", "under-test", "--network", "none"], options, &[IMAGE], args].concat()
}

fn idle(docker: &Client) {
    docker.say(&run(&["-d", "--name", "box"], &["sleep", "1000"]));
}

fn run_prints_and_passes_the_exit_code_on() {
    let docker = docker();
    let output = docker.call(&run(&["--rm"], &["sh", "-c", "echo out; echo err >&2; exit 7"])).exits(7);
    assert_eq!((output.line(), output.stderr.trim()), ("out", "err"));
}

fn run_of_an_absent_program_ends_with_127() {
    let docker = docker();
    docker.call(&run(&["--rm"], &["nonsense"])).exits(127);
    docker.call(&run(&["--rm"], &["/etc"])).exits(126);
}

fn run_on_a_terminal() {
    let docker = docker();
    let (mut child, mut terminal) =
        Terminal::spawn(&mut docker.command(&run(&["--rm", "-it"], &["sh", "-c", "tty; read x; exit $x"])));
    terminal.expect("/dev/pts/0");
    terminal.type_in("9\n");
    assert_eq!(command::exit_code(&mut child), 9);
}

fn run_detached_then_logs_stop_and_rm() {
    let docker = docker();
    let script = "trap 'echo term; exit 3' TERM; echo ready; while :; do sleep 0.05; done";
    docker.say(&run(&["-d", "--name", "box"], &["sh", "-c", script]));
    eventually("the first line", 20, || (docker.say(&["logs", "box"]) == "ready").then_some(()));
    docker.say(&["stop", "box"]);
    assert_eq!(docker.say(&["wait", "box"]), "3");
    assert_eq!(docker.say(&["logs", "box"]), "ready\nterm");
    docker.say(&["rm", "box"]);
}

fn exec_takes_a_user_a_folder_and_an_environment() {
    let docker = docker();
    idle(&docker);
    let printed = docker.say(&[
        "exec",
        "-u",
        "alice",
        "-w",
        "/etc",
        "-e",
        "X=y",
        "box",
        "sh",
        "-c",
        "id -u; pwd; echo $X",
    ]);
    assert_eq!(printed, "1000\n/etc\ny");
    docker.call(&["exec", "box", "sh", "-c", "exit 5"]).exits(5);
    let (mut child, mut terminal) =
        Terminal::spawn(&mut docker.command(&["exec", "-it", "box", "sh", "-c", "tty; read x; exit $x"]));
    terminal.expect("/dev/pts/");
    terminal.type_in("4\n");
    assert_eq!(command::exit_code(&mut child), 4);
}

fn stats_count_memory_and_processes() {
    let docker = docker();
    idle(&docker);
    let stats = docker.say(&["stats", "--no-stream", "--format", "{{json .}}", "box"]);
    let stats: Value = serde_json::from_str(&stats).unwrap();
    assert_eq!(stats["PIDs"], "1");
    assert!(!stats["MemUsage"].as_str().unwrap().starts_with("0B"), "{stats}");
}

fn update_changes_a_limit() {
    let docker = docker();
    docker.say(&run(&["-d", "--name", "box", "--memory", "64m"], &["sleep", "1000"]));
    docker.say(&["update", "--memory", "96m", "--memory-swap", "192m", "--pids-limit", "77", "box"]);
    let script = format!("{MEMORY_LIMIT}; {PIDS_LIMIT}");
    assert_eq!(docker.say(&["exec", "box", "sh", "-c", &script]), format!("{}\n77", 96 << 20));
}

fn restart_starts_it_anew() {
    let docker = docker();
    idle(&docker);
    let pid = || docker.say(&["inspect", "--format", "{{.State.Pid}}", "box"]);
    let before = pid();
    docker.say(&["restart", "--time", "0", "box"]);
    assert_ne!(pid(), before);
    docker.say(&["exec", "box", "true"]);
}

fn pause_and_unpause() {
    let docker = docker();
    idle(&docker);
    let status = || docker.say(&["inspect", "--format", "{{.State.Status}}", "box"]);
    docker.say(&["pause", "box"]);
    assert_eq!(status(), "paused");
    docker.say(&["unpause", "box"]);
    assert_eq!(status(), "running");
}

fn init_is_process_one() {
    let docker = docker();
    let printed = docker.say(&run(&["--rm", "--init"], &["sh", "-c", "cat /proc/1/comm; echo $$"]));
    assert_eq!(printed.lines().next(), Some("docker-init"));
}

fn the_usual_limits_and_switches_are_applied() {
    let docker = docker();
    let script = format!(
        "{MEMORY_LIMIT}; {PIDS_LIMIT}; grep CapEff /proc/self/status | cut -f2; touch /x 2>/dev/null || echo refused; \
         stat -f -c %T /scratch; hostname; cat /proc/sys/kernel/msgmax"
    );
    let options = [
        "--rm",
        "--memory",
        "64m",
        "--pids-limit",
        "50",
        "--cap-drop",
        "all",
        "--read-only",
        "--tmpfs",
        "/scratch",
        "--hostname",
        "inside",
        "--sysctl",
        "kernel.msgmax=9000",
    ];
    let printed = docker.say(&run(&options, &["sh", "-c", &script]));
    assert_eq!(printed, format!("{}\n50\n0000000000000000\nrefused\ntmpfs\ninside\n9000", 64 << 20));
}

fn as_the_default_runtime_it_runs_everything() {
    let docker = docker();
    set_docker_default(&docker, "under-test");
    docker.say(&["run", "-d", "--name", "box", "--network", "none", IMAGE, "sleep", "1000"]);
    assert_eq!(docker.say(&["inspect", "--format", "{{.HostConfig.Runtime}}", "box"]), "under-test");
    assert_eq!(docker.say(&["exec", "box", "hostname"]).len(), 12);
    docker.say(&["restart", "--time", "0", "box"]);
    docker.say(&["rm", "--force", "box"]);
    set_docker_default(&docker, "runc");
}

const MEMORY_LIMIT: &str =
    "cat /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null || cat /sys/fs/cgroup/memory.max";
const PIDS_LIMIT: &str = "cat /sys/fs/cgroup/pids/pids.max 2>/dev/null || cat /sys/fs/cgroup/pids.max";
