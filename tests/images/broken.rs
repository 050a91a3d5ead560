//! Layouts that are not what they say: wrong digests and sizes, lists that lead nowhere, and a disk that is full.

use super::hostile::nothing_is_left;
use super::made::{Layer, Layout};
use crate::harness::{Case, Need, case, command, json, runtime};
use crate::host_run::User;
use std::fs;
use std::process::Command;

pub fn cases() -> Vec<Case> {
    vec![
        case!(a_blob_that_is_not_what_it_should_be_is_refused),
        case!(a_list_of_manifests_gives_the_one_for_the_platform),
        case!(lists_without_end_or_sense_are_refused),
        case!(a_name_is_asked_for_where_there_is_none),
        case!(a_full_disk_leaves_nothing_half_written).needs(Need::Root),
        case!(fsck_finds_what_has_been_damaged),
    ]
}

fn layout(user: &User) -> Layout {
    Layout::new(
        user.folder.join("layout"),
        vec![Layer::new().file("a", "one"), Layer::new().file("b", "two")],
    )
}

fn a_blob_that_is_not_what_it_should_be_is_refused() {
    type Damage = fn(&mut Layout);
    let table: Vec<(&str, Damage, &str)> = vec![
        (
            "another layer",
            |layout| fs::write(layout.layer_path(0), Layer::new().bytes()).unwrap(),
            "were announced",
        ),
        (
            "one bit of a layer",
            |layout| {
                let mut bytes = fs::read(layout.layer_path(1)).unwrap();
                bytes[600] ^= 1;
                fs::write(layout.layer_path(1), bytes).unwrap();
            },
            "digest of what came",
        ),
        (
            "a layer cut short",
            |layout| {
                let bytes = fs::read(layout.layer_path(1)).unwrap();
                fs::write(layout.layer_path(1), &bytes[..1000]).unwrap();
            },
            "were announced",
        ),
        (
            "a layer that goes on",
            |layout| {
                let bytes = fs::read(layout.layer_path(1)).unwrap();
                fs::write(layout.layer_path(1), bytes.repeat(2)).unwrap();
            },
            "at least",
        ),
        ("a wrong size", |layout| layout.layers[0]["size"] = json!(7), "7 were announced"),
        ("a missing layer", |layout| fs::remove_file(layout.layer_path(0)).unwrap(), "cannot read"),
        (
            "a wrong digest of the plain archive",
            |layout| {
                let other = layout.config["rootfs"]["diff_ids"][0].clone();
                layout.config["rootfs"]["diff_ids"][1] = other;
                layout.config["rootfs"]["diff_ids"][0] = json!(format!("sha256:{}", "1".repeat(64)));
            },
            "digest of what came",
        ),
        ("a layer too few", |layout| drop(layout.layers.pop()), "its manifest 1"),
        (
            "a digest that is none",
            |layout| layout.layers[0]["digest"] = json!("sha256:../../etc"),
            "is no manifest",
        ),
        ("another algorithm", |layout| layout.layers[0]["digest"] = json!("md5:00"), "is no manifest"),
        ("no configuration", |layout| layout.config = json!("x"), "is no configuration"),
    ];
    for (what, damage, word) in table {
        let user = User::me();
        let mut layout = layout(&user);
        damage(&mut layout);
        let folder = layout.done().to_str().unwrap().to_owned();
        let refused = user.call(&["image", "import", &folder, "broken"]).refused();
        assert!(refused.stderr.contains(word), "{what}: {word:?} is not in {}", refused.stderr);
        let list = user.call(&["image", "ls", "-q"]).ok();
        assert_eq!(list.line(), "", "{what}");
        user.call(&["image", "fsck"]).ok();
        // Layers that were whole may stay until they are collected.
        user.call(&["image", "gc"]).ok();
        nothing_is_left(&user);
    }
}

fn a_list_of_manifests_gives_the_one_for_the_platform() {
    let user = User::me();
    let folder = |name: &str| user.folder.join(name);
    let ours = Layout::new(folder("list"), vec![Layer::new().file("ours", "x")]);
    let theirs = Layout::new(folder("list"), vec![Layer::new().file("theirs", "x")]);
    let (mut one, mut other) = (theirs.manifest(), ours.manifest());
    one["platform"] = json!({ "os": "linux", "architecture": "s390x" });
    other["platform"] = json!({ "os": "linux", "architecture": ours.config["architecture"] });
    let list = json!({ "schemaVersion": 2, "manifests": [one, other] });
    let list = ours.blob("application/vnd.oci.image.index.v1+json", list.to_string().as_bytes());
    let source = ours.done_with(vec![list]).to_str().unwrap();
    user.call(&["image", "import", source, "here"]).ok();
    user.call(&["image", "import", "--platform", "linux/s390x", source, "there"]).ok();
    let layers = |name: &str| user.call(&["image", "inspect", name]).ok().stdout;
    assert!(layers("here").contains(ours.layers[0]["digest"].as_str().unwrap()));
    assert!(layers("there").contains(theirs.layers[0]["digest"].as_str().unwrap()));
    let refused = user.call(&["image", "import", "--platform", "linux/riscv64", source, "nowhere"]).refused();
    assert!(refused.stderr.contains("linux/s390x"), "the others are not named: {}", refused.stderr);
}

fn lists_without_end_or_sense_are_refused() {
    let kind = "application/vnd.oci.image.index.v1+json";
    let user = User::me();
    let layout = layout(&user);
    let mut inner = layout.manifest();
    for _ in 0..6 {
        let list = json!({ "schemaVersion": 2, "manifests": [inner] });
        inner = layout.blob(kind, list.to_string().as_bytes());
    }
    let source = layout.done_with(vec![inner]).to_str().unwrap();
    user.call(&["image", "import", source, "deep"]).refused_with(&["too deep"]);
    let large =
        json!({ "mediaType": kind, "digest": format!("sha256:{}", "0".repeat(64)), "size": 1u64 << 40 });
    let source = layout.done_with(vec![large]).to_str().unwrap();
    user.call(&["image", "import", source, "large"]).refused_with(&["larger than any manifest"]);
    let source = layout.done_with(vec![]).to_str().unwrap();
    user.call(&["image", "import", source, "empty"]).refused_with(&["no image"]);
    fs::write(layout.folder.join("index.json"), "{").unwrap();
    user.call(&["image", "import", source, "cut"]).refused_with(&["is no index"]);
    nothing_is_left(&user);
}

fn a_name_is_asked_for_where_there_is_none() {
    let user = User::me();
    let layout = layout(&user);
    let source = layout.done().to_str().unwrap();
    user.call(&["image", "import", source]).refused_with(&["give a name"]);
    let mut named = layout.manifest();
    named["annotations"] = json!({ "org.opencontainers.image.ref.name": "example.org/a/b:c" });
    let source = layout.done_with(vec![named]).to_str().unwrap();
    assert_eq!(user.call(&["image", "import", source]).ok().line(), "example.org/a/b:c");
    user.call(&["image", "import", source, "UPPER"]).refused_with(&["no name of an image"]);
    user.call(&["image", "rm", "absent"]).refused_with(&["there is no image absent"]);
}

fn a_full_disk_leaves_nothing_half_written() {
    let user = User::me();
    let layer = Layer::new().file("a", &"x".repeat(3 << 20)).file("b", &"y".repeat(3 << 20)).bytes();
    fs::write(user.folder.join("large.tar"), layer).unwrap();
    fs::create_dir(user.folder.join("small")).unwrap();
    let script = format!(
        "mount -t tmpfs -o size=9m tmpfs small && {} --root small image import large.tar large; \
        echo code $?; find small/.store/layers small/.store/partial small/.store/pins -mindepth 1; ls small/.store",
        runtime().display()
    );
    let mut shell = Command::new("unshare");
    shell.args(["-m", "sh", "-c", &script]).current_dir(&user.folder);
    let output = command::run(&mut shell).ok();
    assert!(output.stdout.starts_with("code 1\n"), "{} {}", output.stdout, output.stderr);
    assert!(
        output.stderr.contains("No space left") || output.stderr.contains("more than"),
        "{}",
        output.stderr
    );
    assert_eq!(output.stdout, "code 1\nblobs\nimplied\nlayers\nlock\npartial\npins\nstacks\nunsettled\n");
}

fn fsck_finds_what_has_been_damaged() {
    let user = User::me();
    let layout = layout(&user);
    let source = layout.done().to_str().unwrap();
    user.call(&["image", "import", source, "image"]).ok();
    user.call(&["image", "fsck"]).ok();
    let store = user.store().join(".store");
    let blob = store.join("blobs/sha256").join(layout.layer_path(0).file_name().unwrap());
    fs::write(&blob, "x").unwrap();
    let found = user.call(&["image", "fsck"]).exits(1);
    assert!(found.stdout.contains("is damaged"), "{}", found.stdout);
    fs::remove_file(&blob).unwrap();
    fs::remove_dir_all(store.join("layers").join(layout.layer_path(1).file_name().unwrap())).unwrap();
    let found = user.call(&["image", "fsck"]).exits(1);
    assert!(
        found.stdout.contains("cannot be read") && found.stdout.contains("not unpacked"),
        "{}",
        found.stdout
    );
    // Taking the image in once more repairs it.
    user.call(&["image", "import", source, "image"]).ok();
    user.call(&["image", "fsck"]).ok();
}
