//! The guest gains rights that it was not given (CVE-2022-29162, CVE-2022-27650, CVE-2023-25173, CVE-2022-0492).

use super::guest;
use crate::harness::{Case, Context, Need, Output, case, command, json, runtime};
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::Command;

pub fn cases() -> Vec<Case> {
    vec![
        case!(exec_gives_no_inheritable_capability_whatever_is_added),
        case!(the_groups_are_those_that_were_asked_for).needs(Need::Program("setpriv")),
        case!(no_name_of_a_user_makes_it_root).needs(Need::Vctx),
        case!(a_passwd_file_that_leads_out_is_not_read).needs(Need::Vctx),
        case!(a_passwd_file_of_a_gibibyte_costs_neither_memory_nor_time)
            .needs(Need::Program("prlimit"))
            .needs(Need::Vctx),
        case!(a_hook_has_nothing_of_the_images_environment)
            .differs("runc", "1.1 hands on the caller's for an absent env")
            .differs("crun", "1.8 hands on the caller's for an absent env"),
        case!(a_release_agent_cannot_be_set),
        case!(a_setuid_program_gains_nothing_with_no_new_privileges),
    ]
}

fn exec_gives_no_inheritable_capability_whatever_is_added() {
    let context = Context::idle();
    let look = ["sh", "-c", "grep -E 'CapInh|CapAmb' /proc/self/status | cut -f2"];
    for options in [vec![], vec!["--cap", "CAP_NET_ADMIN"], vec!["--user", "1000", "--cap", "CAP_NET_ADMIN"]]
    {
        assert_eq!(context.exec(&options, &look).ok().stdout, "0000000000000000\n0000000000000000\n");
    }
}

/// The caller has groups of its own.
fn the_groups_are_those_that_were_asked_for() {
    let run = |context: &Context| {
        let run = context.bundle_command("run", &[]);
        let mut caller = Command::new("setpriv");
        caller.args(["--groups", "4,24,27"]).arg(run.get_program()).args(run.get_args());
        command::run(&mut caller).ok().line().to_owned()
    };
    let mut context = Context::sh("id -G");
    context.set("/process/user", json!({ "uid": 1000, "gid": 1000, "additionalGids": [5, 7] }));
    let mut groups: Vec<_> = run(&context).split(' ').map(str::to_owned).collect();
    groups.sort();
    groups.dedup();
    assert_eq!(groups, ["1000", "5", "7"]);
    let mut context = Context::sh("id -G");
    context.set("/process/user", json!({ "uid": 1000, "gid": 1000 }));
    assert_eq!(run(&context), "1000");
}

/// `vctx run OPTIONS FOLDER -- id -u` on a root of the test's.
fn of_folder(context: &Context, mut program: Command, options: &[&str]) -> Output {
    program.arg("--root").arg(&context.state_root).args(["run", "--rm"]).args(options);
    program.arg(context.dir.join("rootfs")).args(["--", "id", "-u"]);
    command::run(program.env("VCTX_TEST_ID", &context.id))
}

fn no_name_of_a_user_makes_it_root() {
    let context = Context::new();
    let names = ["1", "1000", "4294967296", "4294967295", "-1", "+1", "1:1", "1000:1000", "01"];
    let entries: String =
        names.iter().map(|name| format!("{}:x:0:0::/:/bin/sh\n", name.split(':').next().unwrap())).collect();
    fs::write(
        context.root("etc/passwd"),
        format!("root:x:0:0::/:/bin/sh\n{entries}bob:x:1001:1001::/:/bin/sh\n"),
    )
    .unwrap();
    for name in names {
        let output = of_folder(&context, Command::new(runtime()), &["--user", name]);
        assert_ne!(output.line(), "0", "the user {name} has become root");
        assert!(output.code != 0 || output.line().parse::<u32>().is_ok(), "{name}: {}", output.stdout);
    }
    assert_eq!(of_folder(&context, Command::new(runtime()), &["--user", "bob"]).ok().line(), "1001");
}

/// The image's file is a link to the host's, in which there is a user of another name.
fn a_passwd_file_that_leads_out_is_not_read() {
    let context = Context::new();
    let canary = context.file("passwd", "eve:x:1234:1234::/:/bin/sh\n");
    fs::remove_file(context.root("etc/passwd")).unwrap();
    symlink(canary, context.root("etc/passwd")).unwrap();
    let output = of_folder(&context, Command::new(runtime()), &["--user", "eve"]);
    assert_ne!(output.line(), "1234", "the host's file was read");
    output.refused_with(&["not in the context's /etc/passwd", "no such file"]);
}

/// Without a line's end in it, the file is a line of a gibibyte.
fn a_passwd_file_of_a_gibibyte_costs_neither_memory_nor_time() {
    let context = Context::new();
    for (file, user) in [("etc/passwd", "eve"), ("etc/group", "alice:wheel")] {
        fs::File::options().append(true).open(context.root(file)).unwrap().set_len(1 << 30).unwrap();
        let mut bounded = Command::new("prlimit");
        bounded.arg(format!("--as={}", 256 << 20)).arg(runtime());
        let begin = std::time::Instant::now();
        of_folder(&context, bounded, &["--user", user]).refused_with(&["too large"]);
        assert!(
            begin.elapsed().as_secs() < 10 * u64::from(crate::harness::slowness()),
            "{file} took too long"
        );
    }
}

/// CVE-2025-23266: the image says which library the loader takes, and where it looks for it.
fn a_hook_has_nothing_of_the_images_environment() {
    let mut context = Context::new();
    let seen = context.dir.join("seen");
    context.push("/process/env", json!("LD_PRELOAD=./evil.so"));
    context.push("/process/env", json!("OF_THE_IMAGE=1"));
    let script = format!("/usr/bin/env > {0}; /bin/pwd >> {0}", seen.display());
    for point in ["createRuntime", "createContainer", "poststop"] {
        let hook = json!([{ "path": "/bin/sh", "args": ["sh", "-c", script] }]);
        context.set(&format!("/hooks/{point}"), hook);
        command::run(context.bundle_command("run", &[]).env("OF_THE_CALLER", "1")).ok();
        let seen = fs::read_to_string(&seen).unwrap();
        let foreign = ["LD_PRELOAD", "OF_THE_IMAGE", "OF_THE_CALLER"].map(|name| seen.contains(name));
        assert_eq!(foreign, [false; 3], "{point} has a foreign variable: {seen}");
        assert!(
            !seen.lines().last().unwrap().contains("rootfs"),
            "{point} works in the guest's root: {seen}"
        );
        context.set("/hooks", json!({}));
    }
}

fn a_release_agent_cannot_be_set() {
    let mut context = Context::sh(
        "mkdir /tmp/c && mount -t cgroup -o memory none /tmp/c && echo mounted; \
         for f in $(find /sys/fs/cgroup -name release_agent 2>/dev/null); do (: 4>>$f) && echo writable; done; echo end",
    );
    context.mount("/sys/fs/cgroup", "cgroup", "cgroup", &["nosuid", "noexec", "nodev", "relatime", "ro"]);
    context.mount("/tmp", "tmpfs", "tmpfs", &["mode=1777"]);
    assert_eq!(context.run().stdout, "end\n");
}

fn a_setuid_program_gains_nothing_with_no_new_privileges() {
    let mut context = Context::new();
    // busybox would give up what it gains by itself.
    let program = context.root("attacker");
    fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o4755)).unwrap();
    context.args(&guest::args("be-root"));
    context.set("/process/noNewPrivileges", json!(true));
    context.set("/process/user", json!({ "uid": 1000, "gid": 1000 }));
    assert_eq!(context.prints(), "refused: still 1000");
}
