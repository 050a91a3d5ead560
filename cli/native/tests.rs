//! The configuration that the options of `run` make.

use clap::Parser;
use oci_spec::runtime::LinuxNamespaceType;

use super::*;
use crate::args::{Cli, Verb};

/// What a command line asks for, in a state folder of its own.
fn ask(line: &str) -> Result<(Request, bool), Error> {
    let state = tempfile::tempdir().unwrap();
    let root = state.path().to_str().unwrap();
    let words = ["vctx", "--root", root, "run"].into_iter().chain(line.split(' '));
    let cli = Cli::try_parse_from(words).unwrap();
    let Verb::Run(args) = cli.verb else { panic!("not run") };
    let asked = request(&cli.global, &args);
    assert_eq!(std::fs::read_dir(state.path()).unwrap().count(), 0, "nothing is made yet");
    asked.map(|native| (native.request, native.keep))
}

fn spec_of(line: &str) -> Spec {
    ask(line).unwrap().0.config.spec
}

fn refused(line: &str) -> String {
    ask(line).unwrap_err().to_string()
}

#[test]
fn a_plain_context_has_namespaces_of_its_own_and_few_rights() {
    let spec = spec_of("--name web host -- true");
    let linux = spec.linux().as_ref().unwrap();
    let kinds: Vec<_> = linux.namespaces().iter().flatten().map(|one| one.typ()).collect();
    for kind in [
        LinuxNamespaceType::Pid,
        LinuxNamespaceType::Network,
        LinuxNamespaceType::Ipc,
        LinuxNamespaceType::Uts,
        LinuxNamespaceType::Mount,
        LinuxNamespaceType::Cgroup,
    ] {
        assert!(kinds.contains(&kind), "{kind}");
    }
    assert_eq!(kinds.contains(&LinuxNamespaceType::User), !is_root());
    assert!(linux.seccomp().is_some());
    assert!(linux.masked_paths().as_ref().unwrap().contains(&"/proc/kcore".to_owned()));
    let process = spec.process().as_ref().unwrap();
    assert_eq!(process.no_new_privileges(), Some(true));
    assert_eq!(spec.hostname().as_deref(), Some("web"));
    assert_eq!(process.args().as_deref().unwrap(), ["true"]);
}

#[test]
fn changes_are_kept_unless_they_are_to_be_thrown_away() {
    for (line, kept) in [("host", true), ("--rm host", false), ("--ephemeral host", false)] {
        let (request, keep) = ask(line).unwrap();
        assert_eq!(keep, kept, "{line}");
        assert_eq!(request.own, std::slice::from_ref(&request.bundle));
        let all = format!("{:?} {:?}", request.root, request.config.spec);
        assert_eq!(all.contains("volatile"), !kept, "{line}");
    }
}

#[test]
fn what_is_hidden_is_covered_unless_it_is_shared() {
    let places = |line: &str| -> Vec<String> {
        let spec = spec_of(line);
        let each = spec.mounts().iter().flatten();
        each.map(|mount| mount.destination().display().to_string()).collect()
    };
    let usual = places("host");
    for hidden in ["/tmp", "/home", "/root", "/run", "/proc", "/dev", "/sys"] {
        assert!(usual.contains(&hidden.to_owned()), "{hidden}");
    }
    let shared = places("--share /tmp:ro host");
    assert_eq!(shared.iter().filter(|place| *place == "/tmp").count(), 1);
    // A share comes after what covers its parent.
    let inside = tempfile::tempdir().unwrap();
    let inside = inside.path().canonicalize().unwrap();
    let places = places(&format!("--share {} host", inside.display()));
    let at = |place: &str| places.iter().position(|one| one == place);
    assert!(at(inside.to_str().unwrap()) > at("/tmp"));
}

#[test]
fn later_variables_win() {
    let spec = spec_of("-e A=1 -e PATH=/bin -e A=2 host true");
    let env = spec.process().as_ref().unwrap().env().clone().unwrap();
    assert!(env.contains(&"A=2".to_owned()) && env.contains(&"PATH=/bin".to_owned()));
    assert!(env.contains(&"container=vctx".to_owned()));
    assert_eq!(env.iter().filter(|one| one.starts_with("A=") || one.starts_with("PATH=")).count(), 2);
}

#[test]
fn capabilities_are_added_and_dropped() {
    let names = |line: &str| {
        let spec = spec_of(line);
        let sets = spec.process().as_ref().unwrap().capabilities().clone().unwrap();
        let sizes = [sets.inheritable(), sets.ambient()].map(|set| set.iter().flatten().count());
        assert_eq!(sizes, [0, 0]);
        sets.effective().iter().flatten().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(names("--cap-drop ALL --cap-add CHOWN host").len(), 1);
    assert!(names("--cap-drop ALL host").is_empty());
    assert!(!names("--cap-drop KILL host").iter().any(|name| name.contains("KILL")));
    // Another user has none.
    if is_root() {
        assert!(names("--user 1000 host").is_empty());
    }
}

#[test]
fn limits_are_those_of_the_specification() {
    let spec = spec_of("--memory 64m --swap 1m --cpus 1.5 --pids 7 --rlimit nofile=1:2 host");
    let resources = spec.linux().as_ref().unwrap().resources().clone().unwrap();
    let memory = resources.memory().unwrap();
    assert_eq!((memory.limit(), memory.swap()), (Some(64 << 20), Some(65 << 20)));
    assert_eq!(resources.cpu().as_ref().unwrap().quota(), Some(150_000));
    assert_eq!(resources.pids().unwrap().limit(), 7);
    assert_eq!(spec.process().as_ref().unwrap().rlimits().as_ref().unwrap()[0].hard(), 2);
    assert!(refused("--swap 1m host").contains("--memory"));
}

#[test]
fn a_wrong_target_or_path_is_one_clear_line() {
    for (line, words) in [
        ("debian:13 true", "vctx image ls"),
        ("/nonexistent/x true", "/nonexistent/x"),
        ("/etc/passwd true", "no folder"),
        ("/ true", "use `host`"),
        ("--share /nonexistent host", "--share /nonexistent"),
        ("--share / host", "below it"),
        ("--user nobody-here host", "/etc/passwd"),
        ("--name ../x host", "../x"),
        ("--env-file /nonexistent host", "--env-file"),
        ("--device /etc/passwd host", "--device"),
    ] {
        // An ordinary user's device is bound, whatever it is.
        if line.contains("--device") && !is_root() {
            continue;
        }
        let message = refused(line);
        assert!(message.contains(words) && !message.contains('\n'), "{line}: {message}");
    }
}

#[test]
fn made_up_names_are_ids_and_differ() {
    let (one, other) = (made_up_name(), made_up_name());
    state::check_id(&one).unwrap();
    assert_ne!(one, other);
}
