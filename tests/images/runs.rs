//! `vctx run IMAGE`: layers stacked by overlayfs, and what the image says of how it wants to be run.

use super::made::{Layer, Layout};
use crate::harness::{Case, Need, case, json, rootfs};
use crate::host_run::User;
use serde_json::Value;
use std::fs;

pub fn cases() -> Vec<Case> {
    vec![
        case!(an_image_runs_and_stays_as_it_is),
        case!(upper_layers_replace_hide_and_cover_lower_ones),
        case!(a_hundred_layers_are_named_in_one_option),
        case!(hundreds_of_layers_are_stacked),
        case!(the_root_is_that_of_the_layer_that_brings_it),
        case!(program_arguments_environment_folder_and_user_are_the_images),
        case!(what_an_image_says_does_not_reach_the_host),
        case!(a_user_that_the_image_does_not_have_is_refused),
        case!(an_ordinary_user_without_subordinate_ids_owns_all_files).needs(Need::Root),
        case!(devices_are_made_for_root_alone).needs(Need::Root),
    ]
}

const APPLETS: [&str; 12] =
    ["sh", "cat", "id", "ls", "pwd", "env", "echo", "stat", "test", "find", "touch", "readlink"];

fn base() -> Layer {
    Layer::new()
        .busybox(&APPLETS)
        .folder("etc")
        .folder("usr")
        .folder("usr/share")
        .file("etc/passwd", "root:x:0:0:root:/root:/bin/sh\nalice:x:1000:1000:Alice:/home/alice:/bin/sh\n")
        .file("etc/group", "root:x:0:\nalice:x:1000:\n")
}

fn imported(user: &User, layers: Vec<Layer>, config: Value) {
    let mut layout = Layout::new(user.folder.join("layout"), layers);
    layout.config["config"] = config;
    user.call(&["image", "import", layout.done().to_str().unwrap(), "test:1"]).ok();
}

fn an_image_runs_and_stays_as_it_is() {
    for user in [User::me(), User::ordinary()] {
        imported(&user, vec![base()], json!({}));
        let script = "echo changed > /etc/passwd; cat /etc/passwd";
        assert_eq!(user.call(&["run", "--rm", "test:1", "sh", "-c", script]).ok().line(), "changed");
        let again = user.call(&["run", "--rm", "test:1", "cat", "/etc/passwd"]).ok();
        assert!(again.line().starts_with("root:"), "{}", again.line());
        user.call(&["image", "fsck"]).ok();
    }
}

fn upper_layers_replace_hide_and_cover_lower_ones() {
    let low = base()
        .file("usr/share/gone", "low")
        .file("usr/share/replaced", "low")
        .file("usr/share/kept", "low")
        .folder("usr/opaque")
        .file("usr/opaque/low", "low")
        .folder("usr/again")
        .file("usr/again/low", "low")
        .folder("usr/file")
        .file("usr/file/low", "low")
        .file("usr/folder", "low");
    let top = Layer::new()
        .folder("usr")
        .folder("usr/share")
        .file("usr/share/.wh.gone", "")
        .file("usr/share/replaced", "top")
        .folder("usr/opaque")
        .file("usr/opaque/top", "top")
        .file("usr/opaque/.wh..wh..opq", "")
        .file("usr/.wh.again", "")
        .folder("usr/again")
        .file("usr/again/top", "top")
        .file("usr/file", "top")
        .folder("usr/folder")
        .file("usr/folder/top", "top")
        // Notes of another file system, and a whiteout of what this layer itself brings.
        .file(".wh..wh.plnk", "")
        .file("usr/own", "own")
        .file("usr/.wh.own", "");
    for user in [User::me(), User::ordinary()] {
        imported(&user, vec![base().file("x", ""), Layer::new().file(".wh.x", "")], json!({}));
        assert_eq!(
            user.call(&["run", "--rm", "test:1", "sh", "-c", "test -e /x || echo gone"]).ok().line(),
            "gone"
        );
        imported(&user, vec![clone(&low), clone(&top)], json!({}));
        let files = user.call(&["run", "--rm", "test:1", "find", "/usr", "-type", "f"]).ok();
        let mut files: Vec<_> = files.line().lines().collect();
        files.sort_unstable();
        let wanted = "/usr/again/top /usr/file /usr/folder/top /usr/opaque/top /usr/own /usr/share/kept /usr/share/replaced";
        assert_eq!(files.join(" "), wanted);
        assert_eq!(user.call(&["run", "--rm", "test:1", "cat", "/usr/share/replaced"]).ok().line(), "top");
    }
}

fn clone(layer: &Layer) -> Layer {
    Layer::new().raw(layer.so_far())
}

/// As Linux before 6.7 needs it.
fn a_hundred_layers_are_named_in_one_option() {
    let mut layers = vec![base()];
    layers.extend((0..99).map(|number| Layer::new().file(&format!("layer-{number}"), "x")));
    for user in [User::me(), User::ordinary()] {
        imported(&user, layers.iter().map(clone).collect(), json!({}));
        let script = "ls -d /layer-* | wc -l; touch /layer-7; cat /proc/self/mountinfo";
        let printed = user.call(&["run", "--rm", "test:1", "sh", "-c", script]).ok();
        assert_eq!(printed.line().lines().next(), Some("99"));
        let root = printed.stdout.lines().find(|line| line.split(' ').nth(4) == Some("/")).unwrap();
        assert!(root.contains("lowerdir=a:b:c:") || root.contains("lowerdir+=a,"), "{root}");
        user.call(&["image", "rm", "test:1"]).ok();
        assert_eq!(fs::read_dir(user.store().join(".store/stacks")).unwrap().count(), 0);
    }
}

fn the_root_is_that_of_the_layer_that_brings_it() {
    let low = Layer::new().add(tar::EntryType::Directory, "./", "", 0o555, b"").raw(base().so_far());
    for user in [User::me(), User::ordinary()] {
        imported(&user, vec![clone(&low), Layer::new().file("top", "x")], json!({}));
        let printed = user.call(&["run", "--rm", "test:1", "stat", "-c", "%a", "/"]).ok();
        assert_eq!(printed.line(), "555");
        user.call(&["image", "fsck"]).ok();
    }
}

fn hundreds_of_layers_are_stacked() {
    let mut layers = vec![base()];
    layers.extend((0..200).map(|number| Layer::new().file(&format!("layer-{number}"), "x")));
    // The empty layer that builders write for every line, again and again.
    layers.extend((0..3).map(|_| Layer::new()));
    for user in [User::me(), User::ordinary()] {
        imported(&user, layers.iter().map(clone).collect(), json!({}));
        let printed =
            user.call(&["run", "--rm", "test:1", "sh", "-c", "ls -d /layer-* | wc -l; touch /layer-7"]);
        if printed.code == 0 {
            assert_eq!(printed.line(), "200");
        } else {
            // Before Linux 6.7 a layer cannot be named by itself.
            assert!(!has_appended_layers(), "{}", printed.stderr);
        }
    }
}

fn has_appended_layers() -> bool {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut parts = release.split(['.', '-']).map(|part| part.parse::<u32>().unwrap_or(0));
    (parts.next().unwrap(), parts.next().unwrap()) >= (6, 7)
}

fn program_arguments_environment_folder_and_user_are_the_images() {
    let config = json!({
        "Entrypoint": ["sh", "-c", "echo $0 $1; id -u; id -g; pwd; echo $COLOR $PATH $HOME"], "Cmd": ["one", "two"],
        "Env": ["COLOR=blue", "PATH=/bin:/own", "NOVALUE"], "WorkingDir": "/made/for/it", "User": "alice",
    });
    let user = User::me();
    imported(&user, vec![base()], config);
    let run = |args: &[&str]| user.call(&[&["run", "--rm"], args].concat()).ok().stdout;
    assert_eq!(run(&["test:1"]), "one two\n1000\n1000\n/made/for/it\nblue /bin:/own /home/alice\n");
    assert_eq!(
        run(&["test:1", "--", "three"]),
        "three\n1000\n1000\n/made/for/it\nblue /bin:/own /home/alice\n"
    );
    let options = ["-u", "0", "-w", "/etc", "-e", "COLOR=red", "test:1", "a", "b"];
    assert_eq!(run(&options), "a b\n0\n0\n/etc\nred /bin:/own /root\n");
    assert_eq!(run(&["--entrypoint", "echo", "test:1"]), "\n");
    assert_eq!(run(&["--entrypoint", "", "test:1", "echo", "x"]), "x\n");
    assert!(
        user.call(&["run", "--rm", "-u", "alice:nobody", "test:1"]).exits(125).stderr.contains("/etc/group")
    );
}

/// 2026-53488: what an image says of itself chose commands that the host ran.
fn what_an_image_says_does_not_reach_the_host() {
    let user = User::me();
    let canary = user.folder.join("canary");
    let command = format!("touch {}", canary.display());
    let config = json!({
        "Cmd": ["echo", "ran"], "StopSignal": command,
        "Labels": { "io.katacontainers.config.hypervisor.path": command, "run.oci.hooks.stdout": command, "vctx.hook": command },
        "Volumes": { "/etc": {} }, "Shell": ["sh", "-c", command],
        "Healthcheck": { "Test": ["CMD-SHELL", command] }, "OnBuild": [format!("RUN {command}")],
    });
    imported(&user, vec![base()], config);
    let name = user.marker.clone();
    assert_eq!(user.call(&["run", "--keep", "--name", &name, "test:1"]).ok().line(), "ran");
    assert!(!canary.exists());
    let annotations = fs::read_to_string(user.store().join(&name).join("config.json")).unwrap();
    let annotations: Value = serde_json::from_str(&annotations).unwrap();
    let keys: Vec<_> = annotations["annotations"].as_object().unwrap().keys().cloned().collect();
    assert_eq!(keys, ["vctx.target"]);
}

fn a_user_that_the_image_does_not_have_is_refused() {
    let user = User::me();
    for name in ["bob", "0x0", "4294967296", "-1", ":0", "alice:bob"] {
        imported(&user, vec![base()], json!({ "Cmd": ["id"], "User": name }));
        user.call(&["run", "--rm", "test:1"]).exits(125).refused();
    }
}

fn an_ordinary_user_without_subordinate_ids_owns_all_files() {
    let user = User::ordinary();
    let layer = base().pax(&[("uid", "1000"), ("gid", "70000")]).file("theirs", "x").device("null", (1, 3));
    imported(&user, vec![layer], json!({}));
    let printed = user.call(&[
        "run",
        "--rm",
        "test:1",
        "sh",
        "-c",
        "stat -c %u:%g /theirs; test -e /null || echo none",
    ]);
    assert_eq!(printed.ok().line(), "0:0\nnone");
}

fn devices_are_made_for_root_alone() {
    let user = User::me();
    imported(&user, vec![base().device("zero", (1, 5))], json!({}));
    let script = "stat -c %t:%T /zero; echo x > /zero && echo written";
    let printed = user.call(&["run", "--rm", "test:1", "sh", "-c", script]);
    assert_eq!(printed.stdout.lines().next(), Some("1:5"));
    assert!(rootfs::workspace().exists());
}
