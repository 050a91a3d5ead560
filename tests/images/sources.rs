//! Images from what is no image yet, a folder or a suite, and `create --from`.

use crate::harness::{Case, Need, case, command, json};
use crate::host_run::User;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

pub fn cases() -> Vec<Case> {
    vec![
        case!(a_folder_becomes_an_image),
        case!(the_image_of_a_folder_is_the_folder).needs(Need::Root),
        case!(a_folder_that_cannot_be_an_image_is_refused),
        case!(a_suite_needs_a_tool_that_is_there),
        case!(a_tool_that_fails_leaves_nothing).needs(Need::Program("mmdebstrap")).needs(Need::Root),
        case!(a_context_is_created_from_an_image_and_waits_for_its_start),
    ]
}

/// A root file system with a busybox.
fn root(user: &User) -> String {
    let root = user.folder.join("root");
    for folder in ["bin", "etc"] {
        fs::create_dir_all(root.join(folder)).unwrap();
    }
    let busybox = crate::harness::which("busybox").expect("the tests need busybox (package busybox-static)");
    fs::copy(busybox, root.join("bin/busybox")).unwrap();
    for applet in ["sh", "echo", "cat"] {
        symlink("busybox", root.join("bin").join(applet)).unwrap();
    }
    fs::write(root.join("etc/note"), "from a folder\n").unwrap();
    fs::set_permissions(&root, fs::Permissions::from_mode(0o755)).unwrap();
    root.to_str().unwrap().to_owned()
}

fn a_folder_becomes_an_image() {
    for user in [User::me(), User::ordinary()] {
        let root = root(&user);
        assert_eq!(user.call(&["image", "import", &root, "own:1"]).ok().line(), "own:1");
        assert_eq!(user.call(&["run", "--rm", "own:1", "cat", "/etc/note"]).ok().line(), "from a folder");
        // The same folder gives the same image.
        let id = user.call(&["image", "ls", "-q"]).ok().stdout;
        user.call(&["image", "import", &root, "own:2"]).ok();
        assert_eq!(user.call(&["image", "ls", "-q"]).ok().stdout, id);
        user.call(&["image", "fsck"]).ok();
    }
}

fn the_image_of_a_folder_is_the_folder() {
    let user = User::me();
    let root = root(&user);
    let script = "cd root && mkdir -m 1777 tmp && mkfifo etc/fifo && chmod 620 etc/fifo && mknod etc/null c 1 3 && \
        ln etc/note etc/linked && chown 1234:4321 etc/note && chmod 6751 etc/note && touch -h -d '2001-02-03 04:05:06.5' etc && \
        mkdir $(printf 'n%.0s' $(seq 120)) && chown 3000000000 tmp && mkdir proc && mount -t proc proc proc && \
        \"$0\" --root ../store image import . own:1";
    let vctx = crate::harness::runtime();
    let mut shell = Command::new("unshare");
    shell.args(["-m", "sh", "-c", script]).arg(vctx).current_dir(&user.folder);
    command::run(&mut shell).ok();
    let layers = user.store().join(".store/layers");
    let layer = fs::read_dir(layers).unwrap().next().unwrap().unwrap().path();
    let about = |root: &Path, name: &str| {
        let about = fs::symlink_metadata(root.join(name)).unwrap();
        let owner = (about.uid(), about.gid());
        (about.mode(), owner, about.nlink(), about.mtime(), about.mtime_nsec(), about.rdev())
    };
    let root = Path::new(&root);
    let long = "n".repeat(120);
    for name in [".", "tmp", "etc", "etc/fifo", "etc/null", "etc/note", "etc/linked", "bin/sh", &long] {
        assert_eq!(about(&layer, name), about(root, name), "{name}");
    }
    assert_eq!(fs::read_dir(layer.join("proc")).unwrap().count(), 0, "what is mounted does not come along");
}

fn a_folder_that_cannot_be_an_image_is_refused() {
    let user = User::me();
    let root = root(&user);
    let refused = |args: &[&str], word: &str| {
        let refused = user.call(&[&["image", "import"], args].concat()).refused();
        assert!(refused.stderr.contains(word), "{word:?} is not in {}", refused.stderr);
    };
    refused(&[&root], "give a name");
    refused(&[&user.path(""), "own:1"], "the store itself");
    refused(&["--include", "x", &root, "own:1"], "debootstrap:");
    fs::write(Path::new(&root).join("etc/.wh.note"), "").unwrap();
    refused(&[&root, "own:1"], ".wh.");
    super::hostile::nothing_is_left(&user);
}

fn a_suite_needs_a_tool_that_is_there() {
    let user = User::ordinary();
    let mut import = user.command(&["image", "import", "debootstrap:trixie"]);
    let none = command::run(import.env("PATH", "/nowhere")).refused();
    assert!(none.stderr.contains("package mmdebstrap"), "{}", none.stderr);
    for wrong in ["debootstrap:", "debootstrap:--help", "debootstrap:a b"] {
        let refused = user.call(&["image", "import", wrong]).refused();
        assert!(refused.stderr.contains("name of a suite"), "{}", refused.stderr);
    }
    let create = user.call(&["create", "--from", "debootstrap:-x", &user.marker]).refused();
    assert!(create.stderr.contains("name of a suite"), "{}", create.stderr);
}

fn a_tool_that_fails_leaves_nothing() {
    let user = User::me();
    // An empty mirror, without a network.
    let mirror = format!("file://{}", user.path("work"));
    let args = ["image", "import", "--mirror", &mirror, "debootstrap:no-such-suite"];
    let refused = user.call(&args).refused();
    assert!(refused.stderr.contains("has made no root"), "{}", refused.stderr);
    super::hostile::nothing_is_left(&user);
}

fn a_context_is_created_from_an_image_and_waits_for_its_start() {
    for user in [User::me(), User::ordinary()] {
        let root = root(&user);
        user.call(&["image", "import", &root, "own:1"]).ok();
        for source in ["own:1", &root, "host"] {
            let name = user.marker.clone();
            user.call(&["create", "--from", source, &name, "--", "/bin/sh", "-c", "exit 3"]).ok();
            let state = user.call(&["state", &name]).ok().stdout;
            let state: serde_json::Value = serde_json::from_str(&state).unwrap();
            assert_eq!(state["status"], json!("created"), "{source}");
            user.call(&["start", &name]).ok();
            crate::harness::eventually("it ends", 20, || {
                let state = user.call(&["state", &name]).ok().stdout;
                state.contains("stopped").then_some(())
            });
            user.call(&["delete", &name]).ok();
        }
        user.call(&["create", "--from", "own:1", "--bundle", &root, &user.marker]).refused();
        user.call(&["create", &user.marker, "--", "sh"]).refused();
        user.call(&["create", "--from", "absent:1", &user.marker]).refused();
    }
}
