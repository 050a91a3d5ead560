//! The command line of the floor program: a bundle's namespaces and mounts as system call arguments.

use nix::mount::MsFlags;
use nix::sched::CloneFlags;
use serde_json::Value;
use std::fs;
use std::path::Path;

use super::Result;
use super::bundle::{Ask, Bundle, FIRST_USER};

const NAMESPACES: CloneFlags = CloneFlags::CLONE_NEWPID
    .union(CloneFlags::CLONE_NEWNET)
    .union(CloneFlags::CLONE_NEWIPC)
    .union(CloneFlags::CLONE_NEWUTS)
    .union(CloneFlags::CLONE_NEWNS);

pub fn run(bundle: &Bundle) -> Result<Vec<String>> {
    words("run", bundle)
}

pub fn exec(pid: u32, program: &str) -> Vec<String> {
    let program = format!("/bin/{program}");
    let words = ["exec", &pid.to_string(), &NAMESPACES.bits().to_string(), "--", &program, &program];
    words.map(String::from).to_vec()
}

fn words(verb: &str, bundle: &Bundle) -> Result<Vec<String>> {
    let (namespaces, user) = match bundle.ask {
        Ask::User => (NAMESPACES | CloneFlags::CLONE_NEWUSER, FIRST_USER),
        _ => (NAMESPACES, 0),
    };
    let mut words: Vec<String> =
        vec![verb.into(), namespaces.bits().to_string(), user.to_string(), bundle.root().into()];
    for mount in bundle.config["mounts"].as_array().into_iter().flatten() {
        if mount["type"] == "cgroup" {
            words.extend(control_groups(bundle.root())?);
        } else {
            words.extend(one(bundle.root(), mount));
        }
    }
    words.push("--".into());
    let args = bundle.args();
    words.push(format!("/bin/{}", args[0]));
    words.extend(args.iter().map(ToString::to_string));
    Ok(words)
}

/// TYPE SOURCE TARGET FLAGS DATA of one mount of the configuration.
fn one(root: &str, mount: &Value) -> [String; 5] {
    let text = |key: &str| mount[key].as_str().unwrap_or_default().to_string();
    let (mut flags, mut data) = (MsFlags::empty(), vec![]);
    for option in mount["options"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        match option {
            "nosuid" => flags |= MsFlags::MS_NOSUID,
            "noexec" => flags |= MsFlags::MS_NOEXEC,
            "nodev" => flags |= MsFlags::MS_NODEV,
            "ro" => flags |= MsFlags::MS_RDONLY,
            "strictatime" => flags |= MsFlags::MS_STRICTATIME,
            other => data.push(other),
        }
    }
    let target = format!("{root}{}", text("destination"));
    [text("type"), text("source"), target, flags.bits().to_string(), data.join(",")]
}

/// The control groups as runtimes show them: the one hierarchy of version 2, or a folder with those of version 1.
fn control_groups(root: &str) -> Result<Vec<String>> {
    let target = format!("{root}/sys/fs/cgroup");
    let bind = |from: &Path, to: &str| {
        [
            "none".into(),
            from.display().to_string(),
            to.to_string(),
            MsFlags::MS_BIND.bits().to_string(),
            "".into(),
        ]
    };
    let tree = Path::new("/sys/fs/cgroup");
    if tree.join("cgroup.controllers").exists() {
        return Ok(bind(tree, &target).to_vec());
    }
    let mut words: Vec<String> = ["tmpfs", "tmpfs", &target, "0", "mode=755"].map(String::from).to_vec();
    for entry in fs::read_dir(tree)? {
        let path = entry?.path();
        if path.is_dir() && !path.is_symlink() {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            words.extend(bind(&path, &format!("{target}/{name}")));
        }
    }
    Ok(words)
}
