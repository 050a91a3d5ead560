//! Contexts of an ordinary user: the user `nobody`, with one id mapped, and with the ranges of /etc/subuid.

use crate::harness::{Case, Context, Need, case, command, json};
use std::fs;
use std::os::unix::fs::{MetadataExt, chown};
use std::process::Command;

pub fn cases() -> Vec<Case> {
    let cases = vec![
        case!(an_ordinary_user_runs_a_bundle),
        case!(an_ordinary_user_has_the_whole_life_cycle),
        case!(an_ordinary_user_maps_ranges_by_the_helpers).needs(Need::Program("newuidmap")),
        case!(exec_takes_a_user_of_the_mapped_range).needs(Need::Program("newuidmap")),
        case!(a_range_that_is_not_the_users_is_refused).needs(Need::Program("newuidmap")),
        case!(devices_are_those_of_the_host),
        case!(limits_without_a_delegated_group_are_refused_by_name),
        case!(limits_hold_in_a_delegated_group).needs(Need::Path("/sys/fs/cgroup/cgroup.controllers")),
        case!(what_needs_root_says_so),
    ];
    cases.into_iter().map(|case| case.needs(Need::Vctx).needs(Need::Program("setpriv"))).collect()
}

pub const USER: u32 = 65534;

pub fn context(script: &str, mapping: serde_json::Value) -> Context {
    context_of(USER, script, mapping)
}

/// A bundle of the user, as `spec --rootless` would have it: its ids are the mapping's `size` first ones.
pub fn context_of(user: u32, script: &str, mapping: serde_json::Value) -> Context {
    let mut context = Context::sh(script);
    context.push("/linux/namespaces", json!({ "type": "user" }));
    context.set("/linux/uidMappings", mapping.clone());
    context.set("/linux/gidMappings", mapping);
    context.spec["linux"].as_object_mut().unwrap().remove("cgroupsPath");
    context.spec["linux"].as_object_mut().unwrap().remove("resources");
    // A network namespace of its own allows a new sysfs; the terminals' group is not mapped.
    for path in ["", "tmp", "etc", "dev", "proc", "sys"] {
        chown(context.root(path), Some(user), Some(user)).unwrap();
    }
    chown(&context.dir, Some(user), Some(user)).unwrap();
    context
}

pub fn single() -> serde_json::Value {
    json!([{ "containerID": 0, "hostID": USER, "size": 1 }])
}

fn ranges() -> serde_json::Value {
    json!([{ "containerID": 0, "hostID": USER, "size": 1 }, { "containerID": 1, "hostID": 300_000, "size": 65_536 }])
}

/// The command as the user. /etc/subuid is its own, in a mount namespace that ends with it.
pub fn as_user(context: &Context, command: &Command) -> Command {
    let ids = context.dir.join("subids");
    fs::write(&ids, "nobody:300000:65536\n").unwrap();
    let script = format!(
        "for file in /etc/subuid /etc/subgid; do test -e $file || touch $file; done; mount --bind {0} /etc/subuid && mount --bind {0} /etc/subgid && \
         exec setpriv --reuid {USER} --regid {USER} --clear-groups \"$@\"",
        ids.display()
    );
    let mut user = Command::new("unshare");
    user.args(["--mount", "sh", "-c", &script, "sh"]).arg(command.get_program()).args(command.get_args());
    user.env("VCTX_TEST_ID", &context.id).env("XDG_RUNTIME_DIR", &context.dir).env_remove("HOME");
    user
}

#[track_caller]
pub fn bundle(context: &Context, verb: &str) -> command::Output {
    command::run(&mut as_user(context, &context.bundle_command(verb, &[])))
}

#[track_caller]
fn call(context: &Context, args: &[&str]) -> command::Output {
    command::run(&mut as_user(context, context.command().args(args)))
}

fn an_ordinary_user_runs_a_bundle() {
    let script =
        "id -u; awk '{print $1, $2, $3}' /proc/self/uid_map; touch /tmp/mine; cat /proc/self/setgroups";
    let context = context(script, single());
    assert_eq!(bundle(&context, "run").ok().line(), format!("0\n0 {USER} 1\ndeny"));
    assert_eq!(fs::metadata(context.root("tmp/mine")).unwrap().uid(), USER);
    context.assert_nothing_left();
}

fn an_ordinary_user_has_the_whole_life_cycle() {
    let context = context("sleep 1000", single());
    let id = context.id.as_str();
    bundle(&context, "create").ok();
    call(&context, &["start", id]).ok();
    assert!(call(&context, &["state", id]).ok().stdout.contains("running"));
    assert_eq!(call(&context, &["exec", id, "sh", "-c", "id -u; hostname"]).ok().line(), "0\ncontext");
    assert!(call(&context, &["list"]).ok().stdout.contains(id));
    call(&context, &["delete", id]).refused();
    call(&context, &["kill", id, "KILL"]).ok();
    crate::harness::eventually("the end", 10, || {
        call(&context, &["state", id]).ok().stdout.contains("stopped").then_some(())
    });
    call(&context, &["delete", id]).ok();
    context.assert_nothing_left();
}

fn an_ordinary_user_maps_ranges_by_the_helpers() {
    let script = "awk '{print $1, $2, $3}' /proc/self/uid_map; touch /tmp/mine; chown 7:8 /tmp/mine; id -G";
    let mut context = context(script, ranges());
    context.set("/process/user/additionalGids", json!([5]));
    assert_eq!(bundle(&context, "run").ok().line(), format!("0 {USER} 1\n1 300000 65536\n0 5"));
    let file = fs::metadata(context.root("tmp/mine")).unwrap();
    assert_eq!((file.uid(), file.gid()), (300_006, 300_007));
}

fn exec_takes_a_user_of_the_mapped_range() {
    let context = context("sleep 1000", ranges());
    let id = context.id.as_str();
    bundle(&context, "create").ok();
    call(&context, &["start", id]).ok();
    let output = call(&context, &["exec", "--user", "7:8", id, "sh", "-c", "id -u; id -g; id -G"]);
    assert_eq!(output.ok().line(), "7\n8\n8");
    call(&context, &["delete", "--force", id]).ok();
    context.assert_nothing_left();
}

fn a_range_that_is_not_the_users_is_refused() {
    let foreign = json!([
        { "containerID": 0, "hostID": USER, "size": 1 }, { "containerID": 1, "hostID": 900_000, "size": 10 }
    ]);
    let context = context("true", foreign);
    bundle(&context, "run").refused_with(&["/etc/subuid"]);
    context.assert_nothing_left();
    let not_mine = self::context("true", json!([{ "containerID": 0, "hostID": 0, "size": 1 }]));
    bundle(&not_mine, "run").refused_with(&["id mapping"]);
}

fn devices_are_those_of_the_host() {
    let script = "for d in null zero full random urandom tty; do stat -c '%t:%T' /dev/$d; done; \
                  head -c 3 /dev/zero | wc -c; echo x > /dev/null && echo written";
    let context = context(script, single());
    assert_eq!(bundle(&context, "run").ok().line(), "1:3\n1:5\n1:7\n1:8\n1:9\n5:0\n3\nwritten");
}

fn limits_without_a_delegated_group_are_refused_by_name() {
    let mut limited = context("true", single());
    limited.set("/linux/resources", json!({ "pids": { "limit": 7 } }));
    bundle(&limited, "run").refused_with(&["cgroup"]);
    limited.assert_nothing_left();
    let context = context("sleep 1000", single());
    let id = context.id.as_str();
    bundle(&context, "create").ok();
    for verb in [&["pause", id][..], &["update", "--pids-limit", "7", id]] {
        call(&context, verb).refused_with(&["delegated"]);
    }
    call(&context, &["delete", "--force", id]).ok();
}

/// A group of version 2 that is the user's, with one below it for who starts the contexts (cgroups(7), "Delegation").
struct Delegated(std::path::PathBuf);

impl Delegated {
    fn new(name: &str) -> Delegated {
        let top = std::path::Path::new("/sys/fs/cgroup");
        fs::write(top.join("cgroup.subtree_control"), "+memory +pids").unwrap();
        let folder = top.join(name);
        fs::create_dir(&folder).unwrap();
        fs::create_dir(folder.join("own")).unwrap();
        for path in
            ["", "cgroup.procs", "cgroup.threads", "cgroup.subtree_control", "own", "own/cgroup.procs"]
        {
            chown(folder.join(path), Some(USER), Some(USER)).unwrap();
        }
        Delegated(folder)
    }

    /// The command as the user, from inside.
    #[track_caller]
    fn run(&self, context: &Context, command: &Command) -> command::Output {
        let user = as_user(context, command);
        let script = format!("echo 0 > {}/own/cgroup.procs && exec \"$@\"", self.0.display());
        let mut inside = Command::new("sh");
        inside.args(["-c", &script, "sh"]).arg(user.get_program()).args(user.get_args());
        inside.envs(user.get_envs().filter_map(|(name, value)| Some((name, value?)))).env_remove("HOME");
        command::run(&mut inside)
    }
}

impl Drop for Delegated {
    fn drop(&mut self) {
        for folder in [self.0.join("own"), self.0.clone()] {
            crate::harness::eventually("an empty group", 10, || fs::remove_dir(&folder).ok());
        }
    }
}

fn limits_hold_in_a_delegated_group() {
    let delegated = Delegated::new(&format!("vt-delegated-{}", std::process::id()));
    let mut context = context("sleep 1000", single());
    let id = context.id.clone();
    let group = delegated.0.join(&id);
    context.set("/linux/cgroupsPath", json!(group.to_str().unwrap().strip_prefix("/sys/fs/cgroup")));
    context.set("/linux/resources", json!({ "pids": { "limit": 7 }, "memory": { "limit": 64 << 20 } }));
    let create = context.bundle_command("create", &[]);
    delegated.run(&context, &create).ok();
    let value = |file: &str| fs::read_to_string(group.join(file)).unwrap().trim().to_string();
    assert_eq!([value("pids.max"), value("memory.max")], ["7".to_string(), (64 << 20).to_string()]);
    let call = |args: &[&str]| delegated.run(&context, context.command().args(args));
    call(&["start", &id]).ok();
    assert!(call(&["exec", &id, "cat", "/proc/self/cgroup"]).ok().line().ends_with(&id));
    call(&["update", "--pids-limit", "9", &id]).ok();
    assert_eq!(value("pids.max"), "9");
    for (verb, frozen) in [("pause", "1"), ("resume", "0")] {
        call(&[verb, &id]).ok();
        assert_eq!(value("cgroup.freeze"), frozen);
    }
    call(&["delete", "--force", &id]).ok();
    assert!(!group.exists());
    context.assert_nothing_left();
}

fn what_needs_root_says_so() {
    let mut context = context("true", single());
    context.without_namespace("user");
    context.spec["linux"].as_object_mut().unwrap().retain(|key, _| !key.ends_with("Mappings"));
    bundle(&context, "run").refused_with(&["root"]);
    context.assert_nothing_left();
}
