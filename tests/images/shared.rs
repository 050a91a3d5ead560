//! One store and many commands: at the same time, killed at any moment, and what is in use while garbage is collected.

use super::made::{Layer, Layout};
use crate::harness::{Case, case, command, json, rounds};
use crate::host_run::User;
use std::fs;
use std::process::Stdio;
use std::time::Duration;

pub fn cases() -> Vec<Case> {
    vec![
        case!(several_imports_at_once_make_each_layer_once),
        case!(a_killed_import_leaves_a_sound_store),
        case!(what_a_context_uses_is_not_collected),
        case!(removing_an_image_leaves_what_others_share),
        case!(collection_and_imports_do_not_disturb_each_other),
    ]
}

fn many_files(prefix: &str) -> Layer {
    let layer = Layer::new().busybox(&["sh", "cat", "sleep", "echo"]).folder("d");
    (0..200).fold(layer, |layer, number| layer.file(&format!("d/{prefix}-{number}"), &"x".repeat(3000)))
}

fn layout(user: &User, name: &str) -> String {
    let layout = Layout::new(user.folder.join(name), vec![many_files("base"), many_files(name)]);
    layout.done().to_str().unwrap().to_owned()
}

fn layers(user: &User) -> usize {
    fs::read_dir(user.store().join(".store/layers")).unwrap().count()
}

fn several_imports_at_once_make_each_layer_once() {
    let user = User::me();
    let source = layout(&user, "image");
    let import = |number: usize| {
        let mut command = user.command(&["image", "import", &source, &format!("image:{number}")]);
        command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    };
    let mut children: Vec<_> = (0..6).map(import).collect();
    for child in &mut children {
        assert_eq!(command::exit_code(child), 0);
    }
    assert_eq!((layers(&user), user.call(&["image", "ls", "-q"]).ok().stdout.lines().count()), (2, 1));
    assert_eq!(user.call(&["image", "ls"]).ok().stdout.lines().count(), 7);
    user.call(&["image", "fsck"]).ok();
    let gone = user.call(&["image", "gc"]).ok();
    assert_eq!(gone.line(), "0 blobs (0 B), 0 layers, 0 unfinished");
}

fn a_killed_import_leaves_a_sound_store() {
    let user = User::me();
    let sources = [layout(&user, "one"), layout(&user, "two")];
    let begun = std::time::Instant::now();
    user.call(&["image", "import", &sources[0], "whole"]).ok();
    let whole = begun.elapsed();
    user.call(&["image", "rm", "whole"]).ok();
    for round in 0..rounds(50) {
        let source = &sources[round as usize % 2];
        let verbs: [&[&str]; 3] =
            [&["image", "import", source, "image"], &["image", "gc"], &["image", "rm", "image"]];
        let verb = verbs[if round % 5 == 3 { 1 + round as usize % 2 } else { 0 }];
        let mut command = user.command(verb);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        // Moments spread over the whole time that it takes, in an order without pattern.
        let moment = whole.mul_f64(f64::from(round * 37 % 50) / 50.0);
        command::wait_for_exit(child.id(), moment.max(Duration::from_micros(100)));
        let _ = child.kill();
        child.wait().unwrap();
        let checked = user.call(&["image", "fsck"]);
        assert!(
            checked.code == 0,
            "round {round}, {verb:?} after {moment:?}: {}{}",
            checked.stdout,
            checked.stderr
        );
    }
    user.call(&["image", "import", &sources[1], "image"]).ok();
    user.call(&["run", "--rm", "image", "cat", "/d/two-199"]).ok();
    user.call(&["image", "rm", "image"]).ok();
    let store = user.store().join(".store");
    for folder in ["blobs/sha256", "layers", "partial", "pins"] {
        let left: Vec<_> =
            fs::read_dir(store.join(folder)).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert!(left.is_empty(), "{left:?}");
    }
}

fn what_a_context_uses_is_not_collected() {
    for user in [User::me(), User::ordinary()] {
        let source = layout(&user, "used");
        user.call(&["image", "import", &source, "used"]).ok();
        let name = user.marker.clone();
        user.call(&["run", "-d", "--name", &name, "used", "sleep", "1000"]).ok();
        user.call(&["image", "rm", "used"]).ok();
        assert_eq!(layers(&user), 2);
        assert_eq!(user.call(&["exec", &name, "cat", "/d/used-7"]).ok().line(), "x".repeat(3000));
        user.call(&["delete", "--force", &name]).ok();
        let seen = user.call(&["image", "gc", "--dry-run", "--json"]).ok();
        assert_eq!(serde_json::from_str::<serde_json::Value>(&seen.stdout).unwrap()["layers"], json!(2));
        assert_eq!(layers(&user), 2);
        user.call(&["image", "gc"]).ok();
        assert_eq!(layers(&user), 0);
    }
}

fn removing_an_image_leaves_what_others_share() {
    let user = User::me();
    user.call(&["image", "import", &layout(&user, "one"), "one"]).ok();
    user.call(&["image", "import", &layout(&user, "two"), "two"]).ok();
    assert_eq!(layers(&user), 3);
    user.call(&["image", "rm", "one"]).ok();
    assert_eq!(layers(&user), 2);
    user.call(&["run", "--rm", "two", "cat", "/d/base-1"]).ok();
    user.call(&["image", "fsck"]).ok();
}

fn collection_and_imports_do_not_disturb_each_other() {
    let user = User::me();
    let source = layout(&user, "image");
    let mut script = user.command(&["image", "gc"]);
    script.stdout(Stdio::null()).stderr(Stdio::null());
    for round in 0..rounds(20) {
        let mut import = user.command(&["image", "import", &source, "image"]);
        let mut import = import.stdout(Stdio::null()).spawn().unwrap();
        while !command::wait_for_exit(import.id(), Duration::from_micros(500)) {
            command::exit_code(&mut script.spawn().unwrap());
        }
        assert_eq!(command::exit_code(&mut import), 0, "round {round}");
        user.call(&["image", "fsck"]).ok();
        user.call(&["run", "--rm", "image", "echo"]).ok();
        user.call(&["image", "rm", "image"]).ok();
    }
}
