//! Tests of `args.rs`: the definition is sound, and what engines call parses.

use clap::{CommandFactory, Parser};

use super::*;

fn parse(line: &str) -> Result<Cli, clap::Error> {
    Cli::try_parse_from(line.split_whitespace())
}

#[test]
fn the_definition_is_sound() {
    Cli::command().debug_assert();
}

#[test]
fn version_has_the_lines_that_docker_parses() {
    let text = parse("vctx --version").unwrap_err().to_string();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[0], concat!("vctx version ", env!("CARGO_PKG_VERSION")));
    assert_eq!(lines[1], format!("commit: {COMMIT}"));
    assert_eq!(lines[2], "spec: 1.3.0");
}

#[test]
fn checkpoint_helps_by_which_podman_knows_it() {
    let error = parse("vctx checkpoint --help").unwrap_err();
    assert_eq!(error.kind(), clap::error::ErrorKind::DisplayHelp);
}

#[test]
fn the_calls_of_engines_parse() {
    for line in [
        "vctx --root /r --log /l --log-format json create --bundle /b --pid-file /p --console-socket /s ID",
        "vctx --root /r --log /l --log-format json exec --process /f --detach --pid-file /p ID",
        "vctx --systemd-cgroup --log-format=json --log=/l create --bundle /b --pid-file /p --no-pivot ID",
        "vctx --cgroup-manager disabled --rootless auto start ID",
        "vctx checkpoint --image-path /i --work-path /w --file-locks --leave-running ID",
        "vctx checkpoint --image-path /i --parent-path ../p --pre-dump --tcp-established --ext-unix-sk --shell-job ID",
        "vctx checkpoint --page-server 127.0.0.1:27 --lazy-pages --status-fd 3 --manage-cgroups-mode strict ID",
        "vctx checkpoint --empty-ns network --auto-dedup --link-remap --tcp-skip-in-flight ID",
        "vctx restore --image-path /i --work-path /w --detach --pid-file /p --no-subreaper --bundle /b ID",
        "vctx restore --bundle /b --image-path /i --tcp-close --tcp-established --file-locks --no-pivot ID",
        "vctx restore --console-socket /s --lsm-profile apparmor:p --lsm-mount-context c --manage-cgroups-mode soft ID",
        "vctx kill ID 9",
        "vctx kill --all ID",
        "vctx delete ID --force",
        "vctx ps --format json ID",
        "vctx ps --format table ID -o pid,ppid",
        "vctx ps ID -ef",
        "vctx list --format=json",
        "vctx events --stats ID",
        "vctx events --interval=3s ID",
        "vctx update --resources=- ID",
        "vctx update --memory-swap -1 --cpu-quota -1 --pids-limit -1 ID",
        "vctx run -b /b --keep --no-subreaper ID",
    ] {
        assert!(parse(line).is_ok(), "{line}: {}", parse(line).unwrap_err());
    }
}

#[test]
fn a_page_server_has_an_address_and_a_port() {
    for server in ["127.0.0.1", ":27", "host:", "host:0", "host:65536", "host:x"] {
        let error = parse(&format!("vctx checkpoint --page-server {server} ID")).unwrap_err().to_string();
        assert!(error.contains("expected ADDRESS:PORT"), "{error}");
    }
    assert!(parse("vctx checkpoint --page-server ::1:27 ID").is_ok());
}

#[test]
fn options_count_as_ours_until_the_guests_command_begins() {
    let Verb::Exec(exec) = parse("vctx exec ID --cwd /x ls -all --cwd /y -- z").unwrap().verb else {
        panic!()
    };
    assert_eq!(exec.cwd.as_deref(), Some(std::path::Path::new("/x")));
    assert_eq!(exec.command, ["ls", "-all", "--cwd", "/y", "--", "z"]);
    let Verb::Run(run) = parse("vctx run host --rm -- -odd --rm").unwrap().verb else { panic!() };
    assert!(run.process.rm);
    assert_eq!(run.command, ["-odd", "--rm"]);
    let Verb::Exec(exec) = parse("vctx exec ID -- ls").unwrap().verb else { panic!() };
    assert_eq!(exec.command, ["ls"]);
    assert!(parse("vctx exec ID --no-such-option ls").is_err());
    assert!(parse("vctx exec ID").is_err());
    let Verb::Ps(ps) = parse("vctx ps ID -o pid --format json").unwrap().verb else { panic!() };
    assert_eq!(ps.ps_options, ["-o", "pid", "--format", "json"]);
}

#[test]
fn a_bundle_takes_no_native_options() {
    assert!(parse("vctx run -b /b ID").is_ok());
    for native in ["--rm", "--memory 1g", "--read-only", "--cap-add all", "--share /x"] {
        assert!(parse(&format!("vctx run -b /b {native} ID")).is_err(), "{native}");
    }
    assert!(parse("vctx run -b /b ID ls").is_err());
    assert!(parse("vctx run --rm --keep host").is_err());
}
