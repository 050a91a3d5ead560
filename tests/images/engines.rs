//! Images between vctx and the engines, through a registry: what one pushes runs under the other.

use super::made::{Layer, Layout};
use super::registries::Registry;
use crate::harness::engine::{Client, IMAGE, docker, podman};
use crate::harness::{Case, Need, case};
use crate::host_run::User;

pub fn cases() -> Vec<Case> {
    let cases = vec![
        case!(podman_runs_what_vctx_pushes_and_vctx_what_podman_pushes).needs(Need::Program("podman")),
        case!(docker_runs_what_vctx_pushes_and_vctx_what_docker_pushes).needs(Need::Program("dockerd")),
    ];
    let needs = [Need::Root, Need::Program("docker-registry"), Need::Beside("vctx-registry")];
    cases.into_iter().map(|case| needs.into_iter().fold(case, Case::needs)).collect()
}

/// Three layers: one goes through a folder that it does not bring, one hides, one covers.
fn pushed(user: &User, name: &str) {
    let low = Layer::new()
        .busybox(&["sh", "cat", "ls", "echo", "stat"])
        .add(tar::EntryType::Directory, "data", "", 0o750, b"")
        .file("data/a", "low")
        .file("data/gone", "low")
        .folder("opt")
        .file("opt/low", "x");
    let middle = Layer::new().file("data/a", "middle").file("data/.wh.gone", "");
    let top = Layer::new().folder("opt").file("opt/.wh..wh..opq", "").file("opt/top", "x");
    let layout = Layout::new(user.folder.join("layout"), vec![low, middle, top]);
    user.call(&["image", "import", layout.done().to_str().unwrap(), "app:1"]).ok();
    user.call(&["image", "push", "app:1", name]).ok();
}

// The mode of a folder that a layer goes through is not compared: the engines make it 755, vctx leaves it as it was.
const LOOK: &str = "cat /data/a; echo; ls /data /opt";
const SEEN: &str = "middle\n/data:\na\n\n/opt:\ntop\n";

fn both_ways(engine: &Client, pull: &[&str], push: &[&str]) {
    let user = User::me();
    let registry = Registry::new(&user);
    let ours = registry.name("ours:1");
    pushed(&user, &ours);
    assert_eq!(user.call(&["run", "--rm", "app:1", "sh", "-c", LOOK]).ok().stdout, SEEN);
    assert_eq!(user.call(&["run", "--rm", "app:1", "stat", "-c", "%a", "/data"]).ok().line(), "750");
    engine.say(&[pull, &[&*ours]].concat());
    let theirs = engine.call(&["run", "--rm", "--net", "none", &ours, "sh", "-c", LOOK]).ok();
    assert_eq!(theirs.stdout, SEEN);
    let name = registry.name("theirs:1");
    engine.say(&["tag", IMAGE, &name]);
    engine.say(&[push, &[&*name]].concat());
    user.call(&["image", "pull", &name]).ok();
    assert_eq!(user.call(&["run", "--rm", &name, "echo", "runs"]).ok().line(), "runs");
    // What the engine commits on top of our layers comes back, too.
    let container =
        engine.say(&["run", "-d", "--net", "none", &ours, "sh", "-c", "echo new > /data/a; ls /opt/top"]);
    engine.say(&["wait", &container]);
    let again = registry.name("again:1");
    engine.say(&["commit", &container, &again]);
    engine.say(&[push, &[&*again]].concat());
    user.call(&["image", "pull", &again]).ok();
    let seen = user.call(&["run", "--rm", &again, "sh", "-c", LOOK]).ok();
    assert_eq!(seen.stdout, SEEN.replace("middle\n", "new\n\n"));
    user.call(&["image", "fsck"]).ok();
    for name in [&again, &name, &ours] {
        engine.call(&["rm", "--force", &container]);
        engine.say(&["rmi", name]);
    }
}

fn podman_runs_what_vctx_pushes_and_vctx_what_podman_pushes() {
    both_ways(&podman(), &["pull", "--tls-verify=false"], &["push", "--tls-verify=false"]);
}

fn docker_runs_what_vctx_pushes_and_vctx_what_docker_pushes() {
    both_ways(&docker(), &["pull"], &["push"]);
}
