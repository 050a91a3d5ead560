//! containerd and `ctr`, under the shim for runc.

use crate::harness::engine::{IMAGE, cgroup_parent, containerd};
use crate::harness::pty::Terminal;
use crate::harness::{Case, case, command, eventually, leaks, runtime};

pub fn cases() -> Vec<Case> {
    vec![
        case!(run_prints_and_passes_the_exit_code_on),
        case!(run_detached_is_running_until_it_is_killed_and_deleted),
        case!(run_on_a_terminal),
        case!(exec_passes_output_and_exit_code_on),
        case!(exec_on_a_terminal),
        case!(pause_and_resume),
        case!(metrics_count_memory_and_processes),
        case!(ps_lists_the_processes),
        case!(an_absent_program_is_refused),
        case!(a_read_only_root_and_a_memory_limit),
        case!(a_hundred_in_a_row_leave_nothing),
        case!(twenty_at_once_leave_nothing),
    ]
}

/// `run` under the shim for runc, with the runtime under test as its runc.
fn run<'a>(options: &[&'a str], id: &'a str, args: &[&'a str]) -> Vec<&'a str> {
    let runtime = runtime().to_str().unwrap();
    let fixed = ["run", "--runtime", "io.containerd.runc.v2", "--runc-binary", runtime];
    [&fixed, options, &[IMAGE, id], args].concat()
}

fn run_prints_and_passes_the_exit_code_on() {
    let ctr = containerd();
    let output = ctr.call(&run(&["--rm"], "c", &["sh", "-c", "echo out; echo err >&2; exit 7"])).exits(7);
    assert_eq!(output.line(), "out");
    assert!(output.stderr.contains("err"), "{}", output.stderr);
}

fn run_detached_is_running_until_it_is_killed_and_deleted() {
    let ctr = containerd();
    ctr.say(&run(&["-d"], "c", &["sleep", "1000"]));
    let status = |word: &'static str| {
        eventually(word, 20, || {
            let list = ctr.say(&["task", "list"]);
            let line = list.lines().find(|line| line.starts_with("c ")).map(String::from);
            line.is_some_and(|line| line.ends_with(word)).then_some(())
        });
    };
    status("RUNNING");
    ctr.say(&["task", "kill", "--signal", "SIGKILL", "c"]);
    status("STOPPED");
    assert!(ctr.call(&["task", "delete", "c"]).ok().stderr.contains("exit code 137"));
    ctr.say(&["container", "delete", "c"]);
    assert_nothing_left();
}

fn run_on_a_terminal() {
    let ctr = containerd();
    let script = "tty; read x; exit $x";
    let (mut child, mut terminal) =
        Terminal::spawn(&mut ctr.command(&run(&["--rm", "-t"], "c", &["sh", "-c", script])));
    terminal.expect("/dev/pts/0");
    terminal.type_in("9\n");
    assert_eq!(command::exit_code(&mut child), 9);
}

fn exec_passes_output_and_exit_code_on() {
    let ctr = containerd();
    ctr.say(&run(&["-d"], "c", &["sleep", "1000"]));
    let exec = |script: &str| ctr.call(&["task", "exec", "--exec-id", "e", "c", "sh", "-c", script]);
    assert_eq!(exec("echo out; exit 5").exits(5).line(), "out");
    let options =
        ["task", "exec", "--exec-id", "e", "--user", "1000", "--cwd", "/etc", "c", "sh", "-c", "id -u; pwd"];
    assert_eq!(ctr.say(&options), "1000\n/etc");
}

fn exec_on_a_terminal() {
    let ctr = containerd();
    ctr.say(&run(&["-d"], "c", &["sleep", "1000"]));
    let script = "tty; read x; exit $x";
    let exec = ["task", "exec", "--exec-id", "e", "--tty", "c", "sh", "-c", script];
    let (mut child, mut terminal) = Terminal::spawn(&mut ctr.command(&exec));
    terminal.expect("/dev/pts/");
    terminal.type_in("4\n");
    assert_eq!(command::exit_code(&mut child), 4);
}

fn pause_and_resume() {
    let ctr = containerd();
    ctr.say(&run(&["-d"], "c", &["sleep", "1000"]));
    ctr.say(&["task", "pause", "c"]);
    assert!(ctr.say(&["task", "list"]).contains("PAUSED"));
    ctr.say(&["task", "resume", "c"]);
    assert!(ctr.say(&["task", "list"]).contains("RUNNING"));
}

fn metrics_count_memory_and_processes() {
    let ctr = containerd();
    ctr.say(&run(&["-d"], "c", &["sleep", "1000"]));
    let metrics = ctr.say(&["task", "metrics", "c"]);
    let value = |name: &str| {
        let line = metrics.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("{metrics}"));
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap()
    };
    assert_eq!(value("pids.current"), 1);
    assert!(value("memory.usage") > 0);
}

fn ps_lists_the_processes() {
    let ctr = containerd();
    ctr.say(&run(&["-d"], "c", &["sleep", "1000"]));
    let list = ctr.say(&["task", "list"]);
    let pid = list
        .lines()
        .find(|line| line.starts_with("c "))
        .unwrap()
        .split_whitespace()
        .nth(1)
        .unwrap()
        .to_string();
    let processes = ctr.say(&["task", "ps", "c"]);
    assert!(processes.lines().any(|line| line.split_whitespace().next() == Some(&pid)), "{processes}");
}

fn an_absent_program_is_refused() {
    let ctr = containerd();
    ctr.call(&run(&["--rm"], "c", &["nonsense"])).refused_with(&["executable file"]);
    assert_nothing_left();
}

fn a_read_only_root_and_a_memory_limit() {
    let ctr = containerd();
    let options = ["--rm", "--read-only", "--memory-limit", "67108864"];
    let script = "touch /x 2>/dev/null || echo refused; cat /proc/self/cgroup | grep -c vt-";
    let printed = ctr.say(&run(&options, "c", &["sh", "-c", script]));
    assert!(printed.starts_with("refused"), "{printed}");
}

fn a_hundred_in_a_row_leave_nothing() {
    let ctr = containerd();
    for number in 0..100 {
        let id = format!("row-{number}");
        assert_eq!(ctr.say(&run(&["--rm"], &id, &["echo", &id])), id);
    }
    assert_nothing_left();
}

fn twenty_at_once_leave_nothing() {
    let ctr = &containerd();
    let printed: Vec<String> = std::thread::scope(|scope| {
        let one = |number: u32| {
            let id = format!("once-{number}");
            let output = ctr.call(&run(&["--rm"], &id, &["echo", &id]));
            format!("{}{}", output.stdout, output.stderr)
        };
        let threads: Vec<_> = (0..20).map(|number| scope.spawn(move || one(number))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(printed, (0..20).map(|number| format!("once-{number}\n")).collect::<Vec<_>>());
    assert_nothing_left();
}

/// Below the namespace's own group there is none left.
#[track_caller]
fn assert_nothing_left() {
    let parent = cgroup_parent("containerd");
    eventually("the groups are gone", 10, || {
        let groups = leaks::control_groups(&parent);
        groups.iter().all(|group| group.ends_with(&parent)).then_some(())
    });
}
