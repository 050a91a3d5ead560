//! The root filesystem: mounts and their options, masked paths, devices, propagation, and what stays outside.

use crate::harness::{Case, Context, Need, case, json};
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::Command;

pub fn cases() -> Vec<Case> {
    vec![
        case!(the_usual_mounts_are_there),
        case!(the_hosts_mounts_and_files_are_not_visible),
        case!(mount_flags_are_applied),
        case!(every_option_that_features_lists_is_taken).needs(Need::Vctx),
        case!(a_tmpfs_has_its_size_and_mode),
        case!(a_tmpfs_takes_the_mode_of_the_folder_it_covers).differs("crun", "1.8 takes 1777"),
        case!(tmpcopyup_copies_the_covered_files),
        case!(a_bind_mounts_a_folder_or_a_file),
        case!(absent_mount_targets_are_made),
        case!(a_read_only_bind_refuses_writes),
        case!(a_recursive_bind_takes_the_mounts_below_along),
        case!(a_recursively_read_only_bind_is_read_only_below)
            .differs("runc", "1.1 has no rro on 6.x reading"),
        case!(an_absolute_symlink_as_mount_target_stays_inside)
            .differs("crun", "1.8 refuses a link that dangles inside"),
        case!(a_relative_symlink_as_mount_target_stays_inside),
        case!(a_symlinked_proc_is_refused),
        case!(a_read_only_root_refuses_writes),
        case!(masked_paths_are_empty),
        case!(read_only_paths_refuse_writes),
        case!(absent_masked_and_read_only_paths_are_skipped),
        case!(the_default_devices_are_there),
        case!(the_default_links_are_in_dev),
        case!(a_configured_device_is_made),
        case!(the_root_propagation_is_set)
            .differs("runc", "1.1 applies it before the root is entered, and the root is private after"),
        case!(a_shared_bind_receives_later_mounts),
        case!(a_private_bind_receives_none),
        case!(a_new_mount_inside_does_not_reach_the_host),
        case!(a_later_mount_covers_an_earlier_one),
        case!(writes_go_to_the_root_filesystem),
        case!(the_working_folder_may_be_on_a_mount),
        case!(without_a_mount_namespace_the_host_sees_no_mount).needs(Need::Vctx),
        case!(without_a_mount_namespace_the_guest_is_held_as_in_one).needs(Need::Vctx),
        case!(without_a_mount_namespace_an_unbindable_mount_is_refused).needs(Need::Vctx),
        case!(a_mount_namespace_is_joined_by_its_path).needs(Need::Vctx),
    ]
}

fn the_usual_mounts_are_there() {
    let printed = Context::sh("awk '{print $2, $3}' /proc/mounts").prints();
    let expected =
        ["/proc proc", "/dev tmpfs", "/dev/pts devpts", "/dev/shm tmpfs", "/dev/mqueue mqueue", "/sys sysfs"];
    for line in expected {
        assert!(printed.lines().any(|mount| mount == line), "{line} in {printed}");
    }
}

fn the_hosts_mounts_and_files_are_not_visible() {
    let context = Context::sh("cat /proc/self/mountinfo; ls -a /");
    let printed = context.prints();
    let points: Vec<_> = printed.lines().filter_map(|line| line.split(' ').nth(4)).collect();
    let inside =
        |point: &&str| ["/proc", "/dev", "/sys"].iter().any(|top| point.starts_with(top)) || *point == "/";
    assert!(points.iter().all(inside), "{points:?}");
    assert!(!printed.contains(".pivot") && !printed.contains("oldroot"), "{printed}");
}

fn mount_flags_are_applied() {
    let mut context =
        Context::sh("for m in one two; do awk -v m=/$m '$5 == m {print $6}' /proc/self/mountinfo; done");
    context.mount("/one", "tmpfs", "tmpfs", &["nosuid", "nodev", "noexec", "noatime"]);
    context.mount("/two", "tmpfs", "tmpfs", &["ro"]);
    let printed = context.prints();
    let (one, two) = printed.split_once('\n').unwrap();
    let mut flags: Vec<_> = one.split(',').collect();
    flags.sort_unstable();
    assert_eq!(flags, ["noatime", "nodev", "noexec", "nosuid", "rw"]);
    assert!(two.split(',').any(|flag| flag == "ro"), "{two}");
}

/// By a new file system and by a bind, each in a mount of its own.
fn every_option_that_features_lists_is_taken() {
    let features = Context::new().call(&["features"]).ok().stdout;
    let features: serde_json::Value = serde_json::from_str(&features).unwrap();
    let options: Vec<&str> =
        features["mountOptions"].as_array().unwrap().iter().map(|one| one.as_str().unwrap()).collect();
    assert!(options.len() > 60, "{options:?}");
    let mut context = Context::sh("grep -c ' /fs/' /proc/mounts; grep -c ' /bind/' /proc/mounts");
    let source = context.dir.join("source");
    fs::create_dir(&source).unwrap();
    let of_binds = ["bind", "rbind", "idmap", "ridmap"];
    for option in options.iter().filter(|option| !of_binds.contains(option)) {
        context.mount(&format!("/fs/{option}"), "tmpfs", "tmpfs", &[option]);
        context.bind(&format!("/bind/{option}"), &source, &["bind", option]);
    }
    let count = options.len() - of_binds.len();
    assert_eq!(context.prints(), format!("{count}\n{count}"));
}

fn a_tmpfs_has_its_size_and_mode() {
    let mut context = Context::sh("df -k /scratch | awk 'END {print $2}'; stat -c %a /scratch");
    context.mount("/scratch", "tmpfs", "tmpfs", &["size=2048k", "mode=0750"]);
    assert_eq!(context.prints(), "2048\n750");
}

fn a_tmpfs_takes_the_mode_of_the_folder_it_covers() {
    let mut context = Context::sh("stat -c %a /covered");
    fs::create_dir(context.root("covered")).unwrap();
    fs::set_permissions(context.root("covered"), fs::Permissions::from_mode(0o711)).unwrap();
    context.mount("/covered", "tmpfs", "tmpfs", &[]);
    assert_eq!(context.prints(), "711");
}

fn tmpcopyup_copies_the_covered_files() {
    let mut context = Context::sh("cat /data/file /data/deep/file; echo changed > /data/file");
    fs::create_dir_all(context.root("data/deep")).unwrap();
    fs::write(context.root("data/file"), "one\n").unwrap();
    fs::write(context.root("data/deep/file"), "two\n").unwrap();
    context.mount("/data", "tmpfs", "tmpfs", &["tmpcopyup"]);
    assert_eq!(context.prints(), "one\ntwo");
    assert_eq!(fs::read_to_string(context.root("data/file")).unwrap(), "one\n");
}

fn a_bind_mounts_a_folder_or_a_file() {
    let mut context = Context::sh("cat /folder/a /file; echo back > /folder/b");
    let folder = context.dir.join("shared");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("a"), "in the folder\n").unwrap();
    context.bind("/folder", &folder, &["bind"]);
    let file = context.file("single", "the file\n");
    context.bind("/file", file, &["bind"]);
    assert_eq!(context.prints(), "in the folder\nthe file");
    assert_eq!(fs::read_to_string(folder.join("b")).unwrap(), "back\n");
}

fn absent_mount_targets_are_made() {
    let mut context = Context::sh("cat /a/b/c/file; ls -d /x/y/z");
    let file = context.file("single", "made\n");
    context.bind("/a/b/c/file", file, &["bind"]);
    context.mount("/x/y/z", "tmpfs", "tmpfs", &[]);
    assert_eq!(context.prints(), "made\n/x/y/z");
}

fn a_read_only_bind_refuses_writes() {
    let mut context = Context::sh("touch /data/x 2>&1 | grep -o 'Read-only'; mount | grep -c ' /data '");
    let folder = context.dir.join("shared");
    fs::create_dir(&folder).unwrap();
    context.bind("/data", &folder, &["bind", "ro"]);
    assert_eq!(context.prints(), "Read-only\n1");
    assert!(fs::read_dir(folder).unwrap().next().is_none());
}

/// A folder with a tmpfs below it, mounted in the test's own mount table and taken away with the bundle.
fn folder_with_a_mount(context: &Context) -> std::path::PathBuf {
    let folder = context.dir.join("shared");
    fs::create_dir_all(folder.join("below")).unwrap();
    let flags = nix::mount::MsFlags::empty();
    nix::mount::mount(Some("tmpfs"), &folder.join("below"), Some("tmpfs"), flags, None::<&str>).unwrap();
    fs::write(folder.join("below/file"), "below\n").unwrap();
    folder
}

struct Unmount(std::path::PathBuf);

impl Drop for Unmount {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(&self.0, nix::mount::MntFlags::MNT_DETACH);
    }
}

fn a_recursive_bind_takes_the_mounts_below_along() {
    let context = &mut Context::sh("cat /rec/below/file; ls /flat/below | wc -l");
    let folder = folder_with_a_mount(context);
    let _unmount = Unmount(folder.join("below"));
    context.bind("/rec", &folder, &["rbind"]);
    context.bind("/flat", &folder, &["bind"]);
    assert_eq!(context.prints(), "below\n0");
}

fn a_recursively_read_only_bind_is_read_only_below() {
    let context = &mut Context::sh("touch /rro/x /rro/below/x 2>&1 | grep -c Read-only");
    let folder = folder_with_a_mount(context);
    let _unmount = Unmount(folder.join("below"));
    context.bind("/rro", &folder, &["rbind", "rro"]);
    assert_eq!(context.prints(), "2");
}

fn an_absolute_symlink_as_mount_target_stays_inside() {
    let mut context = Context::sh("cat /link/file; cat /inside/file");
    let outside = context.dir.join("outside");
    fs::create_dir(&outside).unwrap();
    let canary = outside.join("canary");
    fs::write(&canary, "untouched").unwrap();
    symlink(&outside, context.root("link")).unwrap();
    let data = context.dir.join("data");
    fs::create_dir(&data).unwrap();
    fs::write(data.join("file"), "inside\n").unwrap();
    symlink("/real", context.root("inside")).unwrap();
    context.bind("/link", &data, &["bind"]);
    context.bind("/inside", &data, &["bind"]);
    assert_eq!(context.prints(), "inside\ninside");
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
    assert_eq!(fs::read_to_string(canary).unwrap(), "untouched");
}

fn a_relative_symlink_as_mount_target_stays_inside() {
    let mut context = Context::sh("touch /up/made-inside");
    symlink("../../../../../../tmp", context.root("up")).unwrap();
    let name = format!("made-inside-{}", context.id);
    context.set("/process/args", json!(["touch", format!("/up/{name}")]));
    context.mount("/up", "tmpfs", "tmpfs", &[]);
    context.run().ok();
    assert!(!std::path::Path::new("/tmp").join(&name).exists());
    assert!(!context.root("tmp").join(&name).exists());
}

fn a_symlinked_proc_is_refused() {
    let mut context = Context::new();
    fs::remove_dir(context.root("proc")).unwrap();
    fs::create_dir(context.root("elsewhere")).unwrap();
    symlink("/elsewhere", context.root("proc")).unwrap();
    context.create().refused_with(&["proc"]);
    context.assert_nothing_left();
}

fn a_read_only_root_refuses_writes() {
    let mut context = Context::sh("touch /x 2>&1 | grep -o Read-only; touch /dev/shm/x && echo fine");
    context.set("/root/readonly", json!(true));
    assert_eq!(context.prints(), "Read-only\nfine");
}

fn masked_paths_are_empty() {
    let mut context =
        Context::sh("cat /secret/file 2>&1 | grep -o 'No such'; wc -c < /hidden; ls /secret | wc -l");
    fs::create_dir(context.root("secret")).unwrap();
    fs::write(context.root("secret/file"), "secret").unwrap();
    fs::write(context.root("hidden"), "secret").unwrap();
    context.set("/linux/maskedPaths", json!(["/secret", "/hidden"]));
    assert_eq!(context.prints(), "No such\n0\n0");
}

fn read_only_paths_refuse_writes() {
    let script = "touch /fixed/x 2>&1 | grep -o Read-only; echo 1 > /proc/sys/kernel/msgmax || echo refused";
    let mut context = Context::sh(&format!("({script}) 2>/dev/null"));
    fs::create_dir(context.root("fixed")).unwrap();
    context.push("/linux/readonlyPaths", json!("/fixed"));
    assert_eq!(context.prints(), "Read-only\nrefused");
}

fn absent_masked_and_read_only_paths_are_skipped() {
    let mut context = Context::sh("echo started");
    context.push("/linux/maskedPaths", json!("/absent/one"));
    context.push("/linux/readonlyPaths", json!("/absent/two"));
    assert_eq!(context.prints(), "started");
}

fn the_default_devices_are_there() {
    let script = "cd /dev; stat -c '%n %t:%T %a' null zero full random urandom tty; head -c 4 zero | wc -c; echo x > null";
    let expected =
        "null 1:3 666\nzero 1:5 666\nfull 1:7 666\nrandom 1:8 666\nurandom 1:9 666\ntty 5:0 666\n4";
    assert_eq!(Context::sh(script).prints(), expected);
}

fn the_default_links_are_in_dev() {
    let printed = Context::sh("cd /dev; for l in fd stdin stdout stderr ptmx; do readlink $l; done").prints();
    let links = ["/proc/self/fd", "/proc/self/fd/0", "/proc/self/fd/1", "/proc/self/fd/2"];
    let lines: Vec<_> = printed.lines().collect();
    assert_eq!(lines[..4], links);
    assert!(["pts/ptmx", "/dev/pts/ptmx"].contains(&lines[4]), "{printed}");
}

fn a_configured_device_is_made() {
    let mut context =
        Context::sh("stat -c '%F %t:%T %a %u:%g' /dev/mine; echo x > /dev/mine && echo written");
    let device = json!({ "path": "/dev/mine", "type": "c", "major": 1, "minor": 3, "fileMode": 0o640, "uid": 7, "gid": 8 });
    context.push("/linux/devices", device);
    context.push(
        "/linux/resources/devices",
        json!({ "allow": true, "type": "c", "major": 1, "minor": 3, "access": "rwm" }),
    );
    assert_eq!(context.prints(), "character special file 1:3 640 7:8\nwritten");
}

fn the_root_propagation_is_set() {
    for (propagation, tags) in [("private", ""), ("rprivate", ""), ("shared", "shared:")] {
        let mut context = Context::sh("awk '$5 == \"/\" {print $7}' /proc/self/mountinfo");
        context.set("/linux/rootfsPropagation", json!(propagation));
        let printed = context.prints();
        let expected = if tags.is_empty() { printed == "-" } else { printed.starts_with(tags) };
        assert!(expected, "{propagation}: {printed}");
    }
}

/// A shared tmpfs of the host, on which a mount is made after the context has started; whether the context sees it.
fn sees_a_later_mount(options: &[&str]) -> bool {
    use nix::mount::{MsFlags, mount};
    let context = &mut Context::new();
    context.args(&["sleep", "1000"]);
    let shared = context.dir.join("shared");
    fs::create_dir(&shared).unwrap();
    mount(Some("tmpfs"), &shared, Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
    let _unmount = Unmount(shared.clone());
    mount(None::<&str>, &shared, None::<&str>, MsFlags::MS_SHARED, None::<&str>).unwrap();
    context.bind("/shared", &shared, options);
    // As engines do; the default of some runtimes cuts the source off before it is bound.
    context.set("/linux/rootfsPropagation", json!("rslave"));
    context.launch();
    fs::create_dir(shared.join("later")).unwrap();
    mount(Some("tmpfs"), &shared.join("later"), Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
    let _unmount_later = Unmount(shared.join("later"));
    fs::write(shared.join("later/file"), "").unwrap();
    context.exec(&[], &["test", "-e", "/shared/later/file"]).code == 0
}

fn a_shared_bind_receives_later_mounts() {
    assert!(sees_a_later_mount(&["rbind", "rslave"]));
    assert!(sees_a_later_mount(&["rbind", "rshared"]));
}

fn a_private_bind_receives_none() {
    assert!(!sees_a_later_mount(&["rbind", "rprivate"]));
}

fn a_new_mount_inside_does_not_reach_the_host() {
    let mut context = Context::sh("mount -t tmpfs tmpfs /tmp && touch /tmp/inside; sleep 1000");
    for set in ["bounding", "effective", "permitted"] {
        context.push(&format!("/process/capabilities/{set}"), json!("CAP_SYS_ADMIN"));
    }
    context.launch();
    crate::harness::eventually("the mount inside", 20, || {
        (context.exec(&[], &["test", "-e", "/tmp/inside"]).code == 0).then_some(())
    });
    assert!(!context.root("tmp/inside").exists());
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!table.contains(context.root("tmp").to_str().unwrap()));
}

fn a_later_mount_covers_an_earlier_one() {
    let mut context = Context::sh("ls /data");
    for name in ["one", "two"] {
        let folder = context.dir.join(name);
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join(name), "").unwrap();
        context.bind("/data", folder, &["bind"]);
    }
    assert_eq!(context.prints(), "two");
}

fn writes_go_to_the_root_filesystem() {
    let context = Context::sh("echo text > /var/new");
    context.run().ok();
    assert_eq!(fs::read_to_string(context.root("var/new")).unwrap(), "text\n");
}

fn the_working_folder_may_be_on_a_mount() {
    let mut context = Context::sh("pwd; cat file");
    let folder = context.dir.join("shared");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("file"), "here\n").unwrap();
    context.bind("/work", folder, &["bind"]);
    context.set("/process/cwd", json!("/work"));
    assert_eq!(context.prints(), "/work\nhere");
}

fn without_a_mount_namespace_an_unbindable_mount_is_refused() {
    let mut context = Context::sh("cat /work/file");
    context.without_namespace("mount");
    let folder = context.dir.join("shared");
    fs::create_dir(&folder).unwrap();
    context.bind("/work", folder, &["bind", "unbindable"]);
    context.run().refused_with(&["has unbindable, which needs a new mount namespace"]);
    context.assert_nothing_left();
}

fn without_a_mount_namespace_the_guest_is_held_as_in_one() {
    let mut context = Context::sh(
        "wc -c </etc/secret; echo x >/proc/sys/kernel/panic || echo read-only; echo x >/new || echo root too; \
         mkdir /sys/fs/cgroup/new || echo groups too; ls /sys/fs/cgroup | grep -q . && echo groups are seen; \
         echo x >/dev/null && echo null; ls /..",
    );
    context.without_namespace("mount");
    fs::write(context.root("etc/secret"), "secret").unwrap();
    context.push(
        "/mounts",
        json!({ "destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["ro", "rslave"] }),
    );
    context.push("/linux/maskedPaths", json!("/etc/secret"));
    context.set("/root/readonly", json!(true));
    let inside = context.prints();
    let (held, root) = inside.split_once("null\n").unwrap();
    assert_eq!(held, "0\nread-only\nroot too\ngroups too\ngroups are seen\n");
    assert!(root.lines().any(|name| name == "etc") && !root.lines().any(|name| name == "boot"), "{root}");
}

fn a_mount_namespace_is_joined_by_its_path() {
    let mut other = Command::new("unshare").args(["--mount", "sleep", "1000"]).spawn().unwrap();
    let path = format!("/proc/{}/ns/mnt", other.id());
    let own = fs::read_link("/proc/self/ns/mnt").unwrap();
    // unshare(1) makes the namespace, then its mounts private, and then executes the command.
    let joined = crate::harness::eventually("the namespace is made", 10, || {
        let is_made =
            fs::read_to_string(format!("/proc/{}/comm", other.id())).is_ok_and(|name| name == "sleep\n");
        fs::read_link(&path).ok().filter(|link| is_made && *link != own)
    });
    let mounts = || fs::read_to_string(format!("/proc/{}/mountinfo", other.id())).unwrap();
    let before = mounts();
    let mut context = Context::sh("sleep 1000");
    context.join_namespace("mount", &path);
    context.launch();
    assert_eq!(fs::read_link(format!("/proc/{}/ns/mnt", context.pid())).unwrap(), joined);
    assert_eq!(context.exec_sh("cat /proc/1/comm").ok().stdout, "sleep\n");
    // What another test had mounted came along, and may have gone since with its folder.
    let after = mounts();
    assert!(after.lines().all(|line| before.contains(line)), "{after}");
    context.kill("KILL").ok();
    context.wait_stopped();
    context.delete().ok();
    other.kill().unwrap();
    other.wait().unwrap();
}

fn without_a_mount_namespace_the_host_sees_no_mount() {
    use nix::mount::{MsFlags, mount};
    let mut context = Context::new();
    context.without_namespace("mount");
    context.args(&["sleep", "1000"]);
    let folder = context.dir.join("shared");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("file"), "here\n").unwrap();
    context.bind("/work", folder, &["bind"]);
    // On most machines the mount that holds the root is shared: what is mounted in a peer of it appears here.
    let (none, root) = (None::<&str>, context.root(""));
    mount(Some(&root), &root, none, MsFlags::MS_BIND, none).unwrap();
    let _unmount = Unmount(root.clone());
    mount(none, &root, none, MsFlags::MS_SHARED, none).unwrap();
    context.launch();
    let namespace = |pid: u32| fs::read_link(format!("/proc/{pid}/ns/mnt")).unwrap();
    assert_eq!(namespace(context.pid()), namespace(std::process::id()));
    assert_eq!(context.exec_sh("cat /work/file; cat /proc/1/comm").ok().stdout, "here\nsleep\n");
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let below: Vec<&str> =
        mounts.lines().filter(|line| line.contains(&format!(" {}/", root.display()))).collect();
    assert!(below.is_empty(), "{below:?}");
    context.kill("KILL").ok();
    context.wait_stopped();
    context.delete().ok();
}
