//! The guest gains rights that it was not given (CVE-2022-29162, CVE-2022-27650, CVE-2023-25173, CVE-2022-0492).

use crate::harness::{Case, Context, case, json};

pub fn cases() -> Vec<Case> {
    vec![
        case!(exec_gives_no_inheritable_capability_whatever_is_added),
        case!(the_groups_are_those_that_were_asked_for),
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

fn the_groups_are_those_that_were_asked_for() {
    let mut context = Context::sh("id -G");
    context.set("/process/user", json!({ "uid": 1000, "gid": 1000, "additionalGids": [5, 7] }));
    let mut groups: Vec<_> = context.prints().split(' ').map(str::to_owned).collect();
    groups.sort();
    groups.dedup();
    assert_eq!(groups, ["1000", "5", "7"]);
    let mut context = Context::sh("id -G");
    context.set("/process/user", json!({ "uid": 1000, "gid": 1000 }));
    assert_eq!(context.prints(), "1000");
}

fn a_release_agent_cannot_be_set() {
    let mut context = Context::sh(
        "mkdir /tmp/c && mount -t cgroup -o memory none /tmp/c && echo mounted; \
         for f in $(find /sys/fs/cgroup -name release_agent 2>/dev/null); do echo /attack > $f && echo set; done; echo end",
    );
    context.mount("/sys/fs/cgroup", "cgroup", "cgroup", &["nosuid", "noexec", "nodev", "relatime", "ro"]);
    context.mount("/tmp", "tmpfs", "tmpfs", &["mode=1777"]);
    assert_eq!(context.run().stdout, "end\n");
}

fn a_setuid_program_gains_nothing_with_no_new_privileges() {
    use std::os::unix::fs::PermissionsExt;
    let mut context = Context::sh("/suid/id -u");
    std::fs::create_dir(context.root("suid")).unwrap();
    let program = context.root("suid/id");
    std::fs::copy(context.root("bin/busybox"), &program).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o4755)).unwrap();
    context.set("/process/noNewPrivileges", json!(true));
    context.set("/process/user", json!({ "uid": 1000, "gid": 1000 }));
    assert_eq!(context.prints(), "1000");
}
