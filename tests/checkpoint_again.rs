//! What a restored context has again: its terminal, mounts, limits, namespaces and filter.

use crate::checkpoint::{COUNT, checkpoint, count, count_at, images, reached, restore};
use crate::harness::pty::ConsoleSocket;
use crate::harness::{Case, Context, Need, case, eventually, json, leaks, run};
use std::fs;
use std::os::unix::net::UnixListener;
use std::process::Command;

pub fn cases() -> Vec<Case> {
    vec![
        case!(a_terminal_is_handed_over_again),
        case!(mounts_of_the_host_are_there_again),
        case!(limits_are_in_force_again),
        case!(a_cgroup_namespace_and_its_mount_are_made_again).needs(Need::Vctx),
        case!(a_network_namespace_that_was_joined_is_joined_again),
        case!(a_user_namespace_is_made_again),
        case!(a_read_only_root_stays_so),
        case!(the_socket_of_lazy_pages_may_lie_beside_the_images).needs(Need::Vctx),
        case!(a_filter_is_in_force_again),
    ]
}

fn a_terminal_is_handed_over_again() {
    let mut context = Context::sh("exec sh -i");
    context.set("/process/terminal", json!(true));
    let socket = ConsoleSocket::new(&context.id);
    let path = socket.path.to_str().unwrap().to_owned();
    run(&mut context.bundle_command("create", &["--console-socket", &path])).ok();
    let mut terminal = socket.receive();
    context.start().ok();
    terminal.type_in("x=remembered; echo set-$((40+2))\n");
    terminal.expect("set-42");
    checkpoint(&context, &[]).ok();
    drop(terminal);
    restore(&context, &[]).refused_with(&["console-socket", "terminal"]);
    let socket = ConsoleSocket::new(&context.id);
    restore(&context, &["--console-socket", &path]).ok();
    let mut terminal = socket.receive();
    terminal.type_in("echo got-$x\n");
    terminal.expect("got-remembered");
}

fn mounts_of_the_host_are_there_again() {
    let mut context = Context::sh(COUNT);
    let (folder, file) = (context.dir.join("shared"), context.file("file", "content\n"));
    fs::create_dir(&folder).unwrap();
    context.bind("/mnt/folder", &folder, &["bind"]);
    context.bind("/mnt/read", &folder, &["rbind", "ro"]);
    context.bind("/etc/file", &file, &["bind", "ro"]);
    context.mount("/mnt/memory", "tmpfs", "tmpfs", &["size=1m", "nosuid"]);
    context.launch();
    reached(&context, 3);
    context.exec_sh("echo kept >/mnt/memory/kept").ok();
    checkpoint(&context, &[]).ok();
    // What is there now is seen, and not what was.
    fs::write(folder.join("new"), "new\n").unwrap();
    restore(&context, &[]).ok();
    let script = "cat /mnt/folder/new /mnt/read/new /etc/file /mnt/memory/kept; echo back >/mnt/folder/back; \
        touch /mnt/read/x /etc/file /proc/sys/kernel/domainname 2>/dev/null || echo refused; wc -c </proc/timer_list";
    assert_eq!(context.exec_sh(script).ok().line(), "new\nnew\ncontent\nkept\nrefused\n0");
    assert_eq!(fs::read_to_string(folder.join("back")).unwrap(), "back\n");
}

fn limits_are_in_force_again() {
    let mut context = Context::sh(COUNT);
    context.set("/linux/resources/memory", json!({ "limit": 64 << 20 }));
    context.set("/linux/resources/pids", json!({ "limit": 12 }));
    context.set("/process/oomScoreAdj", json!(500));
    context.launch();
    reached(&context, 3);
    checkpoint(&context, &[]).ok();
    restore(&context, &[]).ok();
    let group = leaks::control_groups(&context.id);
    let read = |names: &[&str]| {
        let files = group.iter().flat_map(|group| names.iter().map(|name| group.join(name)));
        files.filter_map(|file| fs::read_to_string(file).ok()).next().unwrap().trim().to_owned()
    };
    assert_eq!(read(&["memory.limit_in_bytes", "memory.max"]), (64 << 20).to_string());
    assert_eq!(read(&["pids.max"]), "12");
    let score = fs::read_to_string(format!("/proc/{}/oom_score_adj", context.pid())).unwrap();
    assert_eq!(score.trim(), "500");
    // Every process is in the groups.
    let groups = fs::read_to_string(format!("/proc/{}/cgroup", context.pid())).unwrap();
    assert!(groups.lines().all(|line| line.contains(&context.id) || line.ends_with(":/")), "{groups}");
    context.exec_sh("head -c 1 /dev/kmsg").refused();
    // Where it is the guest's first process that cannot fork, all that is in there ends with it.
    let many = context.exec_sh("for i in 1 2 3 4 5 6 7 8 9 10 11 12 13; do sleep 100 & done");
    assert!(many.code == 137 || many.stderr.contains("fork"), "{}: {}", many.code, many.stderr);
}

fn a_cgroup_namespace_and_its_mount_are_made_again() {
    let mut context = Context::sh(COUNT);
    context.push("/linux/namespaces", json!({ "type": "cgroup" }));
    context.mount("/sys/fs/cgroup", "cgroup", "cgroup", &["ro", "nosuid", "noexec", "nodev"]);
    context.launch();
    reached(&context, 3);
    let seen = |context: &Context| {
        context.exec_sh("cut -d: -f3 /proc/self/cgroup | sort -u; ls /sys/fs/cgroup").ok().stdout
    };
    let before = seen(&context);
    checkpoint(&context, &[]).ok();
    restore(&context, &[]).ok();
    assert_eq!(seen(&context), before);
    assert_eq!(before.lines().next(), Some("/"));
}

fn a_network_namespace_that_was_joined_is_joined_again() {
    let mut holder = Context::sh("exec sleep 1000");
    holder.launch();
    let path = format!("/proc/{}/ns/net", holder.pid());
    let mut context = Context::sh(COUNT);
    context.join_namespace("network", &path);
    context.launch();
    reached(&context, 3);
    checkpoint(&context, &[]).ok();
    restore(&context, &[]).ok();
    reached(&context, count(&context) + 3);
    let namespace = |pid: u32| fs::read_link(format!("/proc/{pid}/ns/net")).unwrap();
    assert_eq!(namespace(context.pid()), namespace(holder.pid()));
}

fn a_user_namespace_is_made_again() {
    let mut context = Context::sh(COUNT);
    let mapping = json!([{ "containerID": 0, "hostID": 100_000, "size": 65536 }]);
    context.push("/linux/namespaces", json!({ "type": "user" }));
    context.set("/linux/uidMappings", mapping.clone());
    context.set("/linux/gidMappings", mapping);
    run(Command::new("chown").args(["-R", "100000:100000"]).arg(context.root("/"))).ok();
    context.launch();
    reached(&context, 3);
    checkpoint(&context, &["--leave-running"]).ok();
    // More than once: criu reads the first image before the namespace is mapped, or after, as it happens.
    for _ in 0..6 {
        context.call(&["delete", "--force", &context.id]).ok();
        restore(&context, &[]).ok();
    }
    reached(&context, count(&context) + 3);
    assert_eq!(context.exec_sh("cat /proc/self/uid_map | tr -s ' '").ok().line(), "0 100000 65536");
}

/// `criu lazy-pages` makes it in the folder of the images, before the restore.
fn the_socket_of_lazy_pages_may_lie_beside_the_images() {
    let mut context = Context::sh(COUNT);
    context.launch();
    reached(&context, 3);
    checkpoint(&context, &[]).ok();
    let other = UnixListener::bind(images(&context).join("other.socket")).unwrap();
    restore(&context, &[]).refused_with(&["other.socket", "no plain file"]);
    drop(other);
    fs::remove_file(images(&context).join("other.socket")).unwrap();
    let _pages = UnixListener::bind(images(&context).join("lazy-pages.socket")).unwrap();
    restore(&context, &[]).ok();
    reached(&context, count(&context) + 3);
}

fn a_read_only_root_stays_so() {
    let mut context = Context::sh(&COUNT.replace("/count", "/mnt/count").replace("/starts", "/mnt/starts"));
    let folder = context.dir.join("shared");
    fs::create_dir(&folder).unwrap();
    context.bind("/mnt", &folder, &["bind"]);
    context.set("/root/readonly", json!(true));
    fs::create_dir_all(context.root("/mnt")).unwrap();
    context.launch();
    let count = || count_at(&folder.join("count"));
    eventually("the count", 20, || (count() > 3).then_some(()));
    checkpoint(&context, &[]).ok();
    let before = count();
    restore(&context, &[]).ok();
    eventually("the count", 20, || (count() > before).then_some(()));
    context.exec_sh("touch /x").refused();
}

/// A filter that forbids mkdir(2).
pub fn filter() -> serde_json::Value {
    json!({ "defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
        { "names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95 },
    ] })
}

fn a_filter_is_in_force_again() {
    let mut context = Context::sh(
        "exec </dev/null >/dev/null 2>&1; until test -e /try; do usleep 10000; done; mkdir /made || echo no >/tried; sleep 1000",
    );
    context.set("/linux/seccomp", filter());
    context.launch();
    checkpoint(&context, &[]).ok();
    restore(&context, &[]).ok();
    fs::write(context.root("/try"), "").unwrap();
    eventually("the try", 20, || context.root("/tried").exists().then_some(()));
    assert!(!context.root("/made").exists());
}
