//! Landlock, which the specification has no field for: what no rule allows is refused, to the first process and to those that
//! come later, with and without root.

use crate::harness::{Case, Context, Need, case, command, json};
use crate::host_run::User;
use crate::rootless;
use std::fs;

pub fn cases() -> Vec<Case> {
    let cases = vec![
        case!(what_no_rule_allows_is_refused),
        case!(a_rule_allows_what_it_says_and_no_more),
        case!(a_rule_for_a_file_is_for_that_file),
        case!(exec_is_held_by_the_same_rules),
        case!(rules_hold_without_no_new_privileges_and_leave_no_capability),
        case!(a_path_that_is_missing_is_named_by_create),
        case!(a_program_that_no_rule_lets_run_is_told_why),
        case!(an_ordinary_user_is_held_as_well).needs(Need::Program("setpriv")),
        case!(run_host_takes_rules_as_options),
    ];
    // Of an older kernel's, which cannot refuse truncate(2), nothing is wanted.
    cases.into_iter().map(|case| case.needs(Need::Vctx).needs(Need::Linux(6, 2))).collect()
}

fn held(script: &str, rules: &str) -> Context {
    let mut context = Context::sh(script);
    context.set("/annotations", json!({ "io.github.vctx.landlock": rules }));
    context
}

/// Each line tries something, and says `no` in its place where it is refused.
const ATTEMPTS: &str = "
    echo in > /tmp/in && cat /tmp/in
    echo out > /etc/out || echo no write
    cat /etc/passwd || echo no read
    ls /etc || echo no list
    mkdir /etc/made || echo no folder
    rm /etc/passwd || echo no removal
    mv /tmp/in /etc/moved || echo no move
    ln -s /tmp /etc/linked || echo no link
    truncate -s 0 /etc/passwd || echo no truncation
    cp /bin/busybox /tmp/busybox && chmod 755 /tmp/busybox && /tmp/busybox true || echo no execution";

const REFUSALS: &str =
    "in\nno write\nno read\nno list\nno folder\nno removal\nno move\nno link\nno truncation\nno execution";

fn what_no_rule_allows_is_refused() {
    let context = held(ATTEMPTS, "rx /bin\nrw /tmp\nrw /dev");
    let before = fs::read(context.root("etc/passwd")).unwrap();
    assert_eq!(context.prints(), REFUSALS);
    assert_eq!(fs::read(context.root("etc/passwd")).unwrap(), before);
    for name in ["out", "made", "moved", "linked"] {
        assert!(!context.root("etc").join(name).exists(), "{name} was made");
    }
    // Without the rules all of it is allowed.
    let mut free = held(ATTEMPTS, "rx /bin");
    free.spec.as_object_mut().unwrap().remove("annotations");
    assert!(!free.prints().contains("no "), "something is refused without a rule");
}

fn a_rule_allows_what_it_says_and_no_more() {
    let script = "
        cat /read/a; cp /bin/busybox /read/b || echo no write; /read/busybox true || echo no execution
        echo new > /write/a && cat /write/a; /write/busybox true || echo no execution
        /run/busybox echo executed; echo new > /run/a || echo no write
        cp /bin/busybox /all/busybox && /all/busybox echo made and executed";
    let context = held(script, "rx /bin\nr /read\nrw /write\nrx /run\nrwx /all\nrw /dev");
    fs::create_dir(context.root("all")).unwrap();
    for folder in ["read", "write", "run"] {
        fs::create_dir_all(context.root(folder)).unwrap();
        fs::write(context.root(folder).join("a"), "old\n").unwrap();
        fs::copy(context.root("bin/busybox"), context.root(folder).join("busybox")).unwrap();
    }
    assert_eq!(
        context.prints(),
        "old\nno write\nno execution\nnew\nno execution\nexecuted\nno write\nmade and executed"
    );
}

fn a_rule_for_a_file_is_for_that_file() {
    let script = "cat /etc/one; echo new > /etc/one || echo no write; cat /etc/two || echo no read
        echo new > /etc/two && echo written; cat /dev/zero | head -c 1 | wc -c";
    let context = held(script, "rx /bin\nr /etc/one\nrw /dev/zero\nrw /etc/three\nrw /dev/null");
    for name in ["one", "two", "three"] {
        fs::write(context.root("etc").join(name), "old\n").unwrap();
    }
    assert_eq!(context.prints(), "old\nno write\nno read\n1");
}

fn exec_is_held_by_the_same_rules() {
    let mut context = held("sleep 1000", "rx /bin\nrw /tmp\nrw /dev");
    context.launch();
    assert_eq!(context.exec_sh(ATTEMPTS).ok().line(), REFUSALS);
}

fn rules_hold_without_no_new_privileges_and_leave_no_capability() {
    let mut context = held(
        "echo x > /etc/x || echo no write; grep -E 'CapEff|NoNewPrivs|Seccomp:' /proc/self/status",
        "rx /bin\nr /proc\nrw /dev",
    );
    context.set("/process/noNewPrivileges", json!(false));
    let plain = context.prints();
    assert!(plain.starts_with("no write\n") && plain.contains("NoNewPrivs:\t0"), "{plain}");
    context.set(
        "/linux/seccomp",
        json!({ "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{ "names": ["mkdirat"], "action": "SCMP_ACT_ERRNO" }] }),
    );
    let filtered = context.prints();
    assert_eq!(filtered, plain.replace("Seccomp:\t0", "Seccomp:\t2"));
    // CAP_SYS_ADMIN, which loads both, is gone.
    let capabilities = plain.lines().find_map(|line| line.strip_prefix("CapEff:\t")).unwrap();
    assert_eq!(u64::from_str_radix(capabilities, 16).unwrap() & (1 << 21), 0);
}

fn a_path_that_is_missing_is_named_by_create() {
    let mut context = held("true", "rx /bin\nrw /absent");
    context.create().refused_with(&["for a rule of landlock the path /absent"]);
    context.assert_nothing_left();
    let mut context = held("true", "rx /bin\nw /tmp");
    context.create().refused_with(&["annotations.io.github.vctx.landlock"]);
    assert!(!context.state_root.exists(), "something was begun");
}

fn a_program_that_no_rule_lets_run_is_told_why() {
    let context = held("true", "rw /tmp");
    context.run().exits(126).refused_with(&["landlock may need a rule rx"]);
    let mut context = held("true", "rw /tmp");
    context.create().ok();
    context.start().refused_with(&["landlock may need a rule rx"]);
}

fn an_ordinary_user_is_held_as_well() {
    let mut context = rootless::context(ATTEMPTS, rootless::single());
    context.set("/annotations", json!({ "io.github.vctx.landlock": "rx /bin\nrw /tmp\nrw /dev" }));
    assert_eq!(rootless::bundle(&context, "run").ok().line(), REFUSALS);
    context.assert_nothing_left();
}

fn run_host_takes_rules_as_options() {
    let script =
        "echo in > /tmp/in && cat /tmp/in; echo out > /etc/out || echo no write; head -c 4 /etc/passwd";
    for user in [User::me(), User::ordinary()] {
        let rules = ["--landlock", "/", "--landlock", "/tmp:rw", "--landlock", "/dev:rw"];
        let words = [&["run", "--rm"], &rules[..], &["host", "--", "sh", "-c", script]].concat();
        assert_eq!(command::run(&mut user.command(&words)).ok().line(), "in\nno write\nroot");
        let wrong = ["run", "--rm", "--landlock", "tmp:rw", "host", "--", "true"];
        command::run(&mut user.command(&wrong)).refused_with(&["path[:r|rx|rw|rwx]"]);
    }
}
