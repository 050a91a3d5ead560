//! Idmapped mounts: ids as the mapping says, on either side, and a clear word where the file system has none.

use crate::harness::{Case, Context, Need, case, json};
use std::fs;
use std::os::unix::fs::{MetadataExt, chown};

pub fn cases() -> Vec<Case> {
    vec![
        case!(the_ids_of_a_mount_are_mapped_without_a_user_namespace)
            .differs("runc", "1.1 knows no idmapped mounts")
            .differs("crun", "1.8 wants a user namespace"),
        case!(a_mount_takes_the_mapping_of_the_user_namespace)
            .differs("runc", "1.1 knows no idmapped mounts")
            .differs("crun", "1.8 refuses it on this kernel"),
        case!(a_mount_in_a_user_namespace_has_a_mapping_of_its_own).needs(Need::Vctx),
        case!(the_flags_of_an_idmapped_mount_hold).needs(Need::Vctx),
        case!(a_recursive_mapping_reaches_the_mounts_below).needs(Need::Vctx),
        case!(later_mounts_inside_do_not_reach_the_host_through_an_idmapped_mount).needs(Need::Vctx),
        case!(a_file_system_without_id_mapping_is_named).needs(Need::Vctx),
        case!(an_incomplete_mapping_is_refused).needs(Need::Vctx),
    ]
}

/// A folder of the host with a file that belongs to the user `owner`.
fn owned(context: &Context, owner: u32) -> std::path::PathBuf {
    let folder = context.dir.join("owned");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("file"), "content").unwrap();
    for path in [folder.join("file"), folder.clone()] {
        chown(path, Some(owner), Some(owner)).unwrap();
    }
    folder
}

fn map(inside: u32, outside: u32) -> serde_json::Value {
    json!([{ "containerID": inside, "hostID": outside, "size": 1000 }])
}

fn mapped_mount(context: &mut Context, source: &std::path::Path, options: &[&str], to: u32) {
    context.push(
        "/mounts",
        json!({ "destination": "/mapped", "type": "bind", "source": source, "options": options,
            "uidMappings": map(0, to), "gidMappings": map(0, to) }),
    );
}

fn in_user_namespace(context: &mut Context) {
    context.push("/linux/namespaces", json!({ "type": "user" }));
    context.set("/linux/uidMappings", map(0, 200_000));
    context.set("/linux/gidMappings", map(0, 200_000));
    for path in ["", "tmp", "etc"] {
        chown(context.root(path), Some(200_000), Some(200_000)).unwrap();
    }
}

fn the_ids_of_a_mount_are_mapped_without_a_user_namespace() {
    let mut context = Context::sh("stat -c %u:%g /mapped/file; touch /mapped/new");
    let folder = owned(&context, 7);
    context.set("/process/user", json!({ "uid": 5007, "gid": 5007 }));
    mapped_mount(&mut context, &folder, &["bind", "idmap"], 5000);
    assert_eq!(context.prints(), "5007:5007");
    assert_eq!(fs::metadata(folder.join("new")).unwrap().uid(), 7);
}

fn a_mount_takes_the_mapping_of_the_user_namespace() {
    let mut context = Context::sh("stat -c %u:%g /mapped/file; touch /mapped/new; stat -c %u /mapped/new");
    let folder = owned(&context, 0);
    in_user_namespace(&mut context);
    context.bind("/mapped", &folder, &["bind", "idmap"]);
    assert_eq!(context.prints(), "0:0\n0");
    assert_eq!(fs::metadata(folder.join("new")).unwrap().uid(), 0);
}

fn a_mount_in_a_user_namespace_has_a_mapping_of_its_own() {
    let mut context = Context::sh("stat -c %u:%g /mapped/file");
    let folder = owned(&context, 0);
    in_user_namespace(&mut context);
    mapped_mount(&mut context, &folder, &["bind", "idmap"], 200_007);
    assert_eq!(context.prints(), "7:7");
}

fn the_flags_of_an_idmapped_mount_hold() {
    let mut context = Context::sh("touch /mapped/new || stat -c %u /mapped/file");
    let folder = owned(&context, 0);
    in_user_namespace(&mut context);
    mapped_mount(&mut context, &folder, &["bind", "idmap", "ro"], 200_000);
    assert_eq!(context.prints(), "0");
    assert!(!folder.join("new").exists());
}

fn a_recursive_mapping_reaches_the_mounts_below() {
    for (option, expected) in [("ridmap", "5000 5000"), ("idmap", "5000 0")] {
        let mut context = Context::sh("echo $(stat -c %u /mapped/file /mapped/below/file)");
        let folder = owned(&context, 0);
        let (below, other) = (folder.join("below"), context.dir.join("other"));
        fs::create_dir(&below).unwrap();
        fs::create_dir(&other).unwrap();
        fs::write(other.join("file"), "").unwrap();
        let flags = nix::mount::MsFlags::MS_BIND;
        nix::mount::mount(Some(&other), &below, None::<&str>, flags, None::<&str>).unwrap();
        mapped_mount(&mut context, &folder, &["rbind", option], 5000);
        let printed = context.run();
        nix::mount::umount2(&below, nix::mount::MntFlags::MNT_DETACH).unwrap();
        assert_eq!(printed.ok().line(), expected, "{option}");
    }
}

fn later_mounts_inside_do_not_reach_the_host_through_an_idmapped_mount() {
    let mut context = Context::sh("mount -t tmpfs none /mapped/below && touch /mapped/below/inside");
    let folder = owned(&context, 0);
    fs::create_dir(folder.join("below")).unwrap();
    for set in ["bounding", "effective", "permitted"] {
        context.push(&format!("/process/capabilities/{set}"), json!("CAP_SYS_ADMIN"));
    }
    // The host's mount is shared: a copy of it that is a peer would send every mount back.
    let (none, shared) = (None::<&str>, nix::mount::MsFlags::MS_SHARED);
    nix::mount::mount(Some(&folder), &folder, none, nix::mount::MsFlags::MS_BIND, none).unwrap();
    nix::mount::mount(none, &folder, none, shared, none).unwrap();
    mapped_mount(&mut context, &folder, &["bind", "idmap"], 0);
    let output = context.run();
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    nix::mount::umount2(&folder, nix::mount::MntFlags::MNT_DETACH).unwrap();
    output.ok();
    assert!(!mounts.contains(folder.join("below").to_str().unwrap()));
}

fn a_file_system_without_id_mapping_is_named() {
    let mut context = Context::new();
    mapped_mount(&mut context, std::path::Path::new("/proc/sys"), &["bind", "idmap"], 5000);
    context.create().refused_with(&["/proc/sys; its file system, proc, does not support"]);
    context.assert_nothing_left();
}

fn an_incomplete_mapping_is_refused() {
    let table = [
        (json!({ "options": ["bind", "idmap"] }), "mounts[6].options"),
        (json!({ "options": ["bind", "idmap"], "uidMappings": map(0, 1) }), "mounts[6].gidmappings"),
        (json!({ "options": ["bind"], "gidMappings": map(0, 1) }), "mounts[6].uidmappings"),
        (json!({ "options": ["bind"], "uidMappings": [], "gidMappings": [] }), "mounts[6].uidmappings"),
        (
            json!({ "options": ["idmap"], "uidMappings": map(0, 1), "gidMappings": map(0, 1) }),
            "mounts[6].options",
        ),
        (
            json!({ "options": ["bind"], "gidMappings": map(0, 1),
                "uidMappings": [{ "containerID": 0, "hostID": 4_294_967_295_u32, "size": 2 }] }),
            "mounts[6].uidmappings[0].size",
        ),
    ];
    for (mut mount, field) in table {
        let mut context = Context::new();
        mount["destination"] = json!("/mapped");
        mount["source"] = json!("/tmp");
        mount["type"] = json!("none");
        context.push("/mounts", mount);
        context.create().refused_with(&[field]);
        context.assert_nothing_left();
    }
}
