//! Pulls that meet what they should not: leftovers that are wrong, a full disk, and lists that lead back to themselves.

use super::registries::{Registry, Verdict, answer, is_blob, proxy, pushed, runs};
use crate::harness::{Case, Need, case, command};
use crate::host_run::User;
use std::fs;
use std::process::Command;

pub fn cases() -> Vec<Case> {
    let cases = vec![
        case!(what_an_earlier_pull_has_left_may_be_wrong),
        case!(a_full_disk_ends_a_pull).needs(Need::Root),
        case!(a_list_that_leads_back_to_itself_is_refused),
    ];
    let needs = [Need::Program("docker-registry"), Need::Beside("vctx-registry")];
    cases.into_iter().map(|case| needs.into_iter().fold(case, Case::needs)).collect()
}

/// As after a crash of the machine, which leaves the length of a file and not what is in it.
fn what_an_earlier_pull_has_left_may_be_wrong() {
    let user = User::me();
    let registry = Registry::new(&user);
    pushed(&user, &registry.name("app:1"));
    let cut = proxy(registry.port, |head| match head.contains("\r\nrange:") || head.contains("\r\nRange:") {
        true => answer("404 Not Found", "", ""),
        false if is_blob(head) => Verdict::Cut(700_000),
        false => Verdict::Forward,
    });
    user.call(&["image", "pull", &format!("localhost:{cut}/app:1")]).refused();
    let partial = user.store().join(".store/partial");
    let left = fs::read_dir(&partial).unwrap().map(|entry| entry.unwrap().path()).collect::<Vec<_>>();
    let broken = left.iter().filter(|path| path.to_str().unwrap().contains("/blob-")).inspect(|path| {
        let length = fs::metadata(path).unwrap().len();
        fs::write(path, vec![0; length as usize]).unwrap();
    });
    assert!(broken.count() > 0, "{left:?}");
    let name = registry.name("app:1");
    user.call(&["image", "pull", &name]).ok();
    runs(&user, &name);
    user.call(&["image", "fsck"]).ok();
}

fn a_full_disk_ends_a_pull() {
    let user = User::me();
    let registry = Registry::new(&user);
    let name = registry.name("app:1");
    pushed(&user, &name);
    fs::create_dir(user.folder.join("small")).unwrap();
    // The image has five megabytes, and is unpacked beside its blobs.
    for size in ["3m", "8m"] {
        let script = format!(
            "mount -t tmpfs -o size={size} tmpfs small && {} --root small image pull {name}; echo code $?; \
             find small/.store/layers small/.store/partial small/.store/pins small/.store/images.json -mindepth 1 2>/dev/null",
            crate::harness::runtime().display()
        );
        let mut shell = Command::new("unshare");
        shell.args(["-m", "sh", "-c", &script]).current_dir(&user.folder);
        let ended = command::run(&mut shell);
        let lines: Vec<&str> = ended.stdout.lines().collect();
        assert_eq!(lines[0], "code 1", "{} {}", ended.stdout, ended.stderr);
        let word = ["No space left", "more than"].iter().any(|word| ended.stderr.contains(word));
        assert!(word, "{}", ended.stderr);
        // A layer that was whole may stay.
        assert!(lines[1..].iter().all(|path| path.contains("/layers/")), "{}", ended.stdout);
    }
}

/// A digest cannot be part of what it is of, so such a list is a server's that answers everything with the same.
fn a_list_that_leads_back_to_itself_is_refused() {
    let user = User::me();
    let registry = Registry::new(&user);
    pushed(&user, &registry.name("app:1"));
    let platform = r#""platform":{"os":"linux","architecture":"amd64"}"#;
    let kind = "application/vnd.oci.image.index.v1+json";
    let digest = format!("sha256:{}", "5".repeat(64));
    let entry = format!(r#"{{"mediaType":"{kind}","digest":"{digest}","size":9,{platform}}}"#);
    let list = format!(r#"{{"schemaVersion":2,"mediaType":"{kind}","manifests":[{entry}]}}"#);
    let port = proxy(registry.port, move |head| match head.contains("/manifests/") {
        true => answer("200 OK", &format!("content-type: {kind}\r\n"), &list),
        false => Verdict::Forward,
    });
    let name = format!("localhost:{port}/app:1");
    let refused = user.call(&["image", "pull", "--platform", "linux/amd64", &name]).refused();
    assert!(refused.stderr.contains("digest of what came"), "{}", refused.stderr);
    user.call(&["image", "gc"]).ok();
    super::hostile::nothing_is_left_but_a_list(&user);
}
