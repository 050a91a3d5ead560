//! `vctx volume` and `run -v`: what outlives a context, what goes with it, and what a new volume begins with.

use super::{idle, image, stop};
use crate::harness::{Case, Need, case, command, json};
use crate::host_run::User;
use crate::images::made::{Layer, Layout};
use serde_json::Value;
use std::fs;
use std::process::{Command, Stdio};
use std::time::Duration;

pub fn cases() -> Vec<Case> {
    vec![
        case!(a_volume_outlives_its_contexts),
        case!(a_volume_that_is_used_stays),
        case!(an_empty_volume_begins_with_what_the_image_has),
        case!(a_volume_without_a_name_goes_with_its_context),
        case!(an_image_brings_its_volumes),
        case!(what_an_image_declares_stays_in_it),
        case!(names_and_options_that_make_no_sense_are_refused),
        case!(several_contexts_fill_a_volume_once),
        case!(a_killed_first_use_leaves_an_empty_volume).needs(Need::Root),
        case!(volumes_and_contexts_come_and_go_at_once),
        case!(a_volume_is_copied_into_while_its_context_is_stopped),
    ]
}

fn a_volume_outlives_its_contexts() {
    for user in [User::me(), User::ordinary()] {
        let image = image(&user);
        let sh = |options: &[&str], script: &str| {
            user.call(&[&["run", "--rm"], options, &[&image, "--", "sh", "-c", script]].concat())
        };
        assert_eq!(user.call(&["volume", "create", "data", "--label", "a=b"]).ok().line(), "data");
        sh(&["-v", "data:/srv"], "echo kept > /srv/file").ok();
        assert_eq!(sh(&["-v", "data:/other:ro"], "cat /other/file").ok().line(), "kept");
        assert_eq!(sh(&["-v", "data:/v:ro"], "echo x > /v/x || echo refused").ok().line(), "refused");
        // One that is not there yet is made.
        sh(&["--mount", "type=volume,source=made,target=/srv"], "touch /srv/x").ok();
        assert_eq!(user.call(&["volume", "ls", "-q"]).ok().stdout, "data\nmade\n");
        let about = user.call(&["volume", "inspect", "data"]).ok().stdout;
        let about: Value = serde_json::from_str(&about).unwrap();
        assert_eq!((&about[0]["labels"]["a"], &about[0]["contexts"]), (&json!("b"), &json!([])));
        user.call(&["volume", "rm", "data"]).ok();
        assert_eq!(user.call(&["volume", "prune", "--all"]).ok().line(), "made");
        assert_eq!(user.call(&["volume", "ls", "--json"]).ok().line(), "[]");
    }
}

fn a_volume_that_is_used_stays() {
    for user in [User::me(), User::ordinary()] {
        let name = idle(&user, &["-v", "data:/srv"]);
        user.call(&["volume", "rm", "data"]).refused_with(&[&name]);
        assert_eq!(user.call(&["volume", "prune", "-a"]).ok().stdout, "");
        stop(&user, &name);
        user.call(&["volume", "rm", "data"]).refused_with(&[&name]);
        user.call(&["delete", &name]).ok();
        user.call(&["volume", "rm", "data"]).ok();
        user.call(&["volume", "rm", "data"]).refused_with(&["no volume"]);
    }
}

fn an_empty_volume_begins_with_what_the_image_has() {
    for user in [User::me(), User::ordinary()] {
        let image = image(&user);
        let there = user.folder.join("image/srv/www");
        fs::create_dir_all(there.join("deep")).unwrap();
        fs::write(there.join("page"), "first").unwrap();
        fs::hard_link(there.join("page"), there.join("deep/same")).unwrap();
        let mut change = Command::new("chmod");
        command::run(change.arg("2770").arg(&there)).ok();
        let mut chown = Command::new("chown");
        command::run(
            chown.args(["-R", "--reference"]).arg(user.path("home")).arg(user.folder.join("image/srv")),
        )
        .ok();
        command::run(Command::new("chmod").arg("2770").arg(&there)).ok();
        let script = "cat /srv/www/page; stat -c %a:%u /srv/www; test /srv/www/page -ef /srv/www/deep/same && echo same; echo second > /srv/www/page";
        let run = |options: &[&str], script: &str| {
            user.call(&[&["run", "--rm"], options, &[&image, "--", "sh", "-c", script]].concat()).ok().stdout
        };
        assert_eq!(run(&["-v", "www:/srv/www"], script), "first2770:0\nsame\n");
        assert_eq!(run(&["-v", "www:/srv/www"], "cat /srv/www/page"), "second\n");
        assert_eq!(run(&["-v", "bare:/srv/www:nocopy"], "ls -A /srv/www"), "");
        // What the image has is untouched.
        assert_eq!(fs::read_to_string(there.join("page")).unwrap(), "first");
    }
}

fn a_volume_without_a_name_goes_with_its_context() {
    for user in [User::me(), User::ordinary()] {
        let name = idle(&user, &["-v", "/own", "-v", "/etc"]);
        user.call(&["exec", &name, "sh", "-c", "echo marked > /own/x; cat /etc/passwd"]).ok();
        let find = || command::run(Command::new("grep").args(["-rl", "marked"]).arg(user.store())).stdout;
        assert!(find().contains("/own/"), "{}", find());
        assert_eq!(user.call(&["volume", "ls", "-q"]).ok().stdout, "");
        user.call(&["delete", "--force", &name]).ok();
        assert_eq!(find(), "");
    }
}

fn imported(user: &User, layers: Vec<Layer>, volumes: Value) {
    let mut layout = Layout::new(user.folder.join("layout"), layers);
    layout.config["config"] = json!({ "Volumes": volumes });
    user.call(&["image", "import", layout.done().to_str().unwrap(), "test:1"]).ok();
}

fn base() -> Layer {
    Layer::new()
        .busybox(&["sh", "cat", "ls", "echo", "touch", "sleep", "mount", "grep"])
        .folder("var")
        .folder("var/data")
        .file("var/data/file", "of the image\n")
}

fn an_image_brings_its_volumes() {
    for user in [User::me(), User::ordinary()] {
        // Of two layers, whose tree no single folder has.
        let top = Layer::new().folder("var").folder("var/data").file("var/data/top", "top\n");
        imported(
            &user,
            vec![base().file("var/low", "low\n"), top],
            json!({ "/var/data": {}, "/var/empty/deep": {} }),
        );
        let script = "cat /var/data/file /var/data/top; grep -c ' /var/' /proc/self/mountinfo; touch /var/data/x /var/empty/deep/x";
        // Also where nothing else can be written.
        let printed = user.call(&["run", "--rm", "--read-only", "test:1", "sh", "-c", script]);
        if printed.code == 0 {
            assert_eq!(printed.stdout, "of the image\ntop\n2\n");
        }
        let printed = user.call(&["run", "--rm", "test:1", "sh", "-c", script]).ok();
        assert_eq!(printed.stdout, "of the image\ntop\n2\n");
        let printed = user.call(&["run", "--rm", "--tmpfs", "/var/data", "test:1", "ls", "-A", "/var/data"]);
        assert_eq!(printed.ok().stdout, "");
        // A stopped one and its copy stand on the same layers, from wherever they are looked at.
        user.call(&["run", "--name", &user.marker, "test:1", "sh", "-c", "echo more > /var/more"]).ok();
        let new = format!("{}-new", user.marker);
        user.call(&["copy", &user.marker, &new]).ok();
        user.call(&["delete", &user.marker]).ok();
        for (path, content) in [("/var/data/top", "top\n"), ("/var/more", "more\n"), ("/var/low", "low\n")] {
            user.call(&["cp", &format!("{new}:{path}"), "read"]).ok();
            assert_eq!(fs::read_to_string(super::work(&user, "read")).unwrap(), content);
        }
        user.call(&["delete", &new]).ok();
        user.call(&["image", "fsck"]).ok();
    }
}

/// CVE-2022-23648.
fn what_an_image_declares_stays_in_it() {
    let user = User::me();
    let secret = user.folder.join("secret");
    fs::create_dir(&secret).unwrap();
    fs::write(secret.join("file"), "secret").unwrap();
    let secret = secret.to_str().unwrap();
    let climbing = format!("/var/../../../../../../../../..{secret}");
    for path in [&*climbing, "../x", "relative", "/", "/..", "/a/../b", ""] {
        imported(&user, vec![base()], json!({ path: {} }));
        user.call(&["run", "--rm", "test:1", "true"]).exits(125).refused_with(&["volume"]);
    }
    for target in
        [secret.to_owned(), format!("../../../../../../../..{secret}"), "/etc".into(), "data".into()]
    {
        imported(&user, vec![base().symlink("var/link", &target)], json!({ "/var/link": {} }));
        let refused = user.call(&["run", "--rm", "test:1", "cat", "/var/link/file"]).exits(125);
        refused.refused_with(&["/var/link"]);
        // A link on the way leads on in the image.
        imported(&user, vec![base().symlink("link", &target)], json!({ "/link/inner": {} }));
        let printed = user.call(&["run", "--rm", "test:1", "ls", "-A", "/link/inner"]);
        assert!(!printed.stdout.contains("file"), "{}", printed.stdout);
        let printed = user.call(&["run", "--rm", "-v", "/link", "test:1", "ls", "-A", "/link"]);
        assert!(!printed.stdout.contains("file"), "{}", printed.stdout);
    }
}

fn names_and_options_that_make_no_sense_are_refused() {
    let user = User::me();
    let image = image(&user);
    for name in ["..", ".hidden", "a/b", "-x", "", "a b", &"x".repeat(200)] {
        user.call(&["volume", "create", "--", name]).refused();
    }
    for option in ["a/b:/v", "name:relative", "name:/v:", ":/v", "relative"] {
        user.call(&["run", "--rm", "-v", option, &image, "--", "true"]).exits(125);
    }
    user.call(&["volume", "create", "one"]).ok();
    user.call(&["volume", "create", "one"]).refused_with(&["already"]);
    user.call(&["volume", "inspect", "absent"]).refused_with(&["no volume"]);
    user.call(&["volume", "rm", "absent"]).refused_with(&["no volume"]);
    user.call(&["run", "--rm", "-v", "one:/v:nonsense", &image, "--", "true"]).exits(125);
    assert_eq!(user.call(&["volume", "ls", "-q"]).ok().stdout, "one\n");
}

fn several_contexts_fill_a_volume_once() {
    let user = User::me();
    let image = image(&user);
    fs::create_dir_all(user.folder.join("image/many")).unwrap();
    for number in 0..300 {
        fs::write(user.folder.join(format!("image/many/{number}")), "x").unwrap();
    }
    let run = |number: usize| {
        let mut run = user.command(&["run", "--rm", "-v", "many:/many", &image, "--", "sh", "-c"]);
        run.arg(format!("ls /many | grep -vc done; touch /many/done-{number}"))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap()
    };
    for child in (0..6).map(run).collect::<Vec<_>>() {
        let output = child.wait_with_output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout), "300\n");
    }
}

fn a_killed_first_use_leaves_an_empty_volume() {
    let user = User::me();
    let image = image(&user);
    fs::create_dir_all(user.folder.join("image/many")).unwrap();
    for number in 0..400 {
        fs::write(user.folder.join(format!("image/many/{number}")), vec![1; 9000]).unwrap();
    }
    let name = user.marker.clone();
    for round in 0..20 {
        let args = ["run", "-d", "--name", &name, "-v", "many:/many", &image, "--", "sleep", "1000"];
        let mut run = user.command(&args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        command::wait_for_exit(run.id(), Duration::from_millis(2 + 4 * round));
        let _ = run.kill();
        run.wait().unwrap();
        let data = user.store().join(".store/volumes/many/data");
        let count = fs::read_dir(&data).map_or(0, Iterator::count);
        assert!(count == 0 || count == 400, "round {round}: {count} files of 400");
        user.call(&["delete", "--force", &name]).ok();
        if count == 400 {
            user.call(&["volume", "rm", "many"]).ok();
        }
    }
    let args = ["run", "--rm", "-v", "many:/many", &image, "--", "sh", "-c", "ls /many | wc -l"];
    assert_eq!(user.call(&args).ok().line(), "400");
    user.call(&["volume", "rm", "many"]).ok();
    assert_eq!(
        command::run(Command::new("ls").arg("-A").arg(user.store().join(".store/volumes"))).stdout,
        ".lock\n"
    );
}

fn volumes_and_contexts_come_and_go_at_once() {
    let user = User::me();
    let image = image(&user);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..30 {
                user.call(&["volume", "prune", "--all"]).ok();
            }
        });
        for _ in 0..15 {
            let script = "echo x > /v/x && cat /v/x";
            let printed = user.call(&["run", "--rm", "-v", "data:/v", &image, "--", "sh", "-c", script]);
            assert_eq!(printed.ok().line(), "x");
        }
    });
}

fn a_volume_is_copied_into_while_its_context_is_stopped() {
    for user in [User::me(), User::ordinary()] {
        let name = idle(&user, &["-v", "data:/srv"]);
        stop(&user, &name);
        fs::write(user.folder.join("work/in"), "in").unwrap();
        user.call(&["cp", "in", &format!("{name}:/srv/in")]).ok();
        assert_eq!(fs::read_to_string(user.store().join(".store/volumes/data/data/in")).unwrap(), "in");
        user.call(&["delete", &name]).ok();
    }
}
