//! Signatures: made with openssl over statements as cosign writes them, beside the image in the registry, and policies that
//! ask for them. What is refused leaves nothing.

use super::made::digest;
use super::registries::{Registry, pushed, runs};
use crate::harness::{Case, Need, case, command, json};
use crate::host_run::User;
use serde_json::Value;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;

pub fn cases() -> Vec<Case> {
    let cases = vec![
        case!(an_image_is_let_in_by_the_signature_that_the_policy_asks_for),
        case!(a_signature_of_something_else_lets_nothing_in),
        case!(a_policy_is_read_strictly_and_before_anything_is_asked),
        case!(the_policy_of_the_user_counts_where_none_is_named),
    ];
    let needs = [Need::Program("docker-registry"), Need::Program("openssl"), Need::Beside("vctx-registry")];
    cases.into_iter().map(|case| needs.into_iter().fold(case, Case::needs)).collect()
}

/// A pair of keys in the user's folder.
fn keys(user: &User, name: &str) -> String {
    let script = format!(
        "openssl ecparam -name prime256v1 -genkey -noout -out {name}.key && \
         openssl ec -in {name}.key -pubout -out {name}.pub 2>/dev/null"
    );
    command::run(Command::new("sh").args(["-c", &script]).current_dir(&user.folder)).ok();
    user.path(&format!("{name}.pub"))
}

/// One request, and what was answered: headers and body.
fn request(registry: &Registry, method: &str, target: &str, kind: &str, body: &[u8]) -> String {
    let path = target.split_once("/v2/").map_or(target.to_owned(), |(_, path)| format!("/v2/{path}"));
    let mut stream = TcpStream::connect(("127.0.0.1", registry.port)).unwrap();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: localhost:{}\r\naccept: application/vnd.oci.image.manifest.v1+json\r\ncontent-type: {kind}\r\n\
         content-length: {}\r\nconnection: close\r\n\r\n",
        registry.port,
        body.len()
    );
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(body).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let status = answer.split(' ').nth(1).unwrap_or_default();
    assert!(status.starts_with('2'), "{method} {path}: {answer}");
    answer
}

fn header(answer: &str, name: &str) -> String {
    let line = answer.lines().find(|line| line.to_lowercase().starts_with(&format!("{name}: ")));
    line.unwrap_or_else(|| panic!("no {name} in {answer}"))[name.len() + 2..].trim().to_owned()
}

fn push_blob(registry: &Registry, repository: &str, bytes: &[u8]) -> String {
    let begun = request(registry, "POST", &format!("/v2/{repository}/blobs/uploads/"), "", b"");
    let digest = digest(bytes);
    let place = format!("{}&digest={digest}", header(&begun, "location"));
    request(registry, "PUT", &place, "application/octet-stream", bytes);
    digest
}

/// The digest of an image in the registry.
fn digest_of(registry: &Registry, repository: &str, tag: &str) -> String {
    let answer = request(registry, "HEAD", &format!("/v2/{repository}/manifests/{tag}"), "", b"");
    header(&answer, "docker-content-digest")
}

fn statement(image: &str, reference: &str) -> Value {
    json!({
        "critical": {
            "identity": { "docker-reference": reference },
            "image": { "docker-manifest-digest": image },
            "type": "cosign container image signature",
        },
        "optional": { "creator": "the tests" },
    })
}

/// Signs the statement, and puts it beside the image.
fn sign(user: &User, registry: &Registry, repository: &str, key: &str, image: &str, statement: &Value) {
    fs::write(user.folder.join("statement"), statement.to_string()).unwrap();
    let script = format!("openssl dgst -sha256 -sign {key}.key statement | openssl base64 -A");
    let signed = command::run(Command::new("sh").args(["-c", &script]).current_dir(&user.folder)).ok();
    attach(registry, repository, image, statement.to_string().as_bytes(), signed.stdout.trim());
}

fn attach(registry: &Registry, repository: &str, image: &str, statement: &[u8], signature: &str) {
    let config = br#"{"architecture":"","os":"","config":{},"rootfs":{"type":"layers","diff_ids":[]}}"#;
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": push_blob(registry, repository, config), "size": config.len(),
        },
        "layers": [{
            "mediaType": "application/vnd.dev.cosign.simplesigning.v1+json",
            "digest": push_blob(registry, repository, statement), "size": statement.len(),
            "annotations": { "dev.cosignproject.cosign/signature": signature },
        }],
    });
    let tag = format!("{}.sig", image.replace(':', "-"));
    let path = format!("/v2/{repository}/manifests/{tag}");
    let kind = "application/vnd.oci.image.manifest.v1+json";
    request(registry, "PUT", &path, kind, manifest.to_string().as_bytes());
}

/// A policy that asks for a signature by the key for whatever lies in the registry, and refuses all else.
fn policy(user: &User, registry: &Registry, key: &str, identity: &str) -> String {
    let wanted =
        json!([{ "type": "sigstoreSigned", "keyPath": key, "signedIdentity": { "type": identity } }]);
    let scope = registry.name("");
    let policy = json!({
        "default": [{ "type": "reject" }],
        "transports": { "docker": { scope.trim_end_matches('/'): wanted } },
    });
    fs::write(user.folder.join("policy.json"), policy.to_string()).unwrap();
    user.path("policy.json")
}

#[track_caller]
fn refused(user: &User, args: &[&str], word: &str) {
    let refused = user.call(&[&["image", "pull"], args].concat()).refused();
    assert!(refused.stderr.contains(word), "{word:?} is not in {}", refused.stderr);
    assert_eq!(user.call(&["image", "ls", "-q"]).ok().line(), "");
    // All that the push had here is gone, and nothing has come.
    user.call(&["image", "gc"]).ok();
    super::hostile::nothing_is_left_but_a_list(user);
}

fn an_image_is_let_in_by_the_signature_that_the_policy_asks_for() {
    let user = User::me();
    let registry = Registry::new(&user);
    let name = registry.name("app:1");
    pushed(&user, &name);
    let (own, other) = (keys(&user, "own"), keys(&user, "other"));
    let policy = policy(&user, &registry, &own, "matchRepository");
    let pull = ["--signature-policy", &policy, &name];
    refused(&user, &pull, "is not signed");
    let image = digest_of(&registry, "app", "1");
    sign(&user, &registry, "app", "own", &image, &statement(&image, &registry.name("app")));
    refused(&user, &["--key", &other, &name], "no signature is by");
    let verified = user.call(&["image", "verify", "--key", &own, &name]).ok();
    assert_eq!(verified.line(), format!("{name}@{image}"));
    user.call(&[&["image", "pull"][..], &pull].concat()).ok();
    runs(&user, &name);
    // A tag that is not signed is not let in where the policy asks for one that is.
    user.call(&["image", "rm", &name]).ok();
    let exact = self::policy(&user, &registry, &own, "matchExact");
    refused(&user, &["--signature-policy", &exact, &name], "the name");
    sign(&user, &registry, "app", "own", &image, &statement(&image, &name));
    user.call(&["image", "pull", "--signature-policy", &exact, &name]).ok();
}

fn a_signature_of_something_else_lets_nothing_in() {
    let user = User::me();
    let registry = Registry::new(&user);
    let name = registry.name("app:1");
    pushed(&user, &name);
    let own = keys(&user, "own");
    let image = digest_of(&registry, "app", "1");
    let repository = registry.name("app");
    let pull = ["--key", &own, &name];
    let other = format!("sha256:{}", "7".repeat(64));
    sign(&user, &registry, "app", "own", &image, &statement(&other, &repository));
    refused(&user, &pull, "the signature is for");
    sign(&user, &registry, "app", "own", &image, &statement(&image, &registry.name("other")));
    refused(&user, &pull, "the name");
    let mut kind = statement(&image, &repository);
    kind["critical"]["type"] = json!("atomic container signature");
    sign(&user, &registry, "app", "own", &image, &kind);
    refused(&user, &pull, "atomic container signature");
    sign(&user, &registry, "app", "own", &image, &json!({ "critical": 1 }));
    refused(&user, &pull, "no statement");
    // The signature of one statement beside another.
    fs::write(user.folder.join("statement"), "{}").unwrap();
    let script = "openssl dgst -sha256 -sign own.key statement | openssl base64 -A";
    let signed = command::run(Command::new("sh").args(["-c", script]).current_dir(&user.folder)).ok();
    let good = statement(&image, &repository).to_string();
    attach(&registry, "app", &image, good.as_bytes(), signed.stdout.trim());
    refused(&user, &pull, "no signature is by");
    attach(&registry, "app", &image, good.as_bytes(), "no base64!");
    refused(&user, &pull, "is not signed");
}

fn a_policy_is_read_strictly_and_before_anything_is_asked() {
    let user = User::me();
    // Nobody listens there.
    let name = "localhost:1/app:1";
    let path = user.path("policy.json");
    let accept = json!([{ "type": "insecureAcceptAnything" }]);
    for (policy, word) in [
        (json!({}), "is no signature policy"),
        (json!({ "default": [] }), "is empty"),
        (json!({ "default": [{ "type": "maybe" }] }), "is no signature policy"),
        (json!({ "default": accept, "transport": {} }), "is no signature policy"),
        (json!({ "default": [{ "type": "sigstoreSigned" }] }), "has no key"),
        (json!({ "default": [{ "type": "sigstoreSigned", "keyPath": "/absent" }] }), "/absent"),
        (json!({ "default": [{ "type": "sigstoreSigned", "keyData": "AAAA" }] }), "is no public key"),
    ] {
        fs::write(&path, policy.to_string()).unwrap();
        let refused = user.call(&["image", "pull", "--signature-policy", &path, name]).refused();
        assert!(refused.stderr.contains(word), "{policy}: {word:?} is not in {}", refused.stderr);
    }
    let absent = user.path("absent.json");
    let refused = user.call(&["image", "pull", "--signature-policy", &absent, name]).refused();
    assert!(refused.stderr.contains("absent.json"), "{}", refused.stderr);
    fs::write(&path, json!({ "default": accept }).to_string()).unwrap();
    let reached = user.call(&["image", "pull", "--signature-policy", &path, name]).refused();
    assert!(reached.stderr.contains("cannot reach"), "{}", reached.stderr);
    let nothing = user.call(&["image", "verify", "--signature-policy", &path, name]).refused();
    assert!(nothing.stderr.contains("--key"), "{}", nothing.stderr);
}

fn the_policy_of_the_user_counts_where_none_is_named() {
    for user in [User::me(), User::ordinary()] {
        let registry = Registry::new(&user);
        let name = registry.name("app:1");
        pushed(&user, &name);
        let folder = user.folder.join("home/.config/containers");
        fs::create_dir_all(&folder).unwrap();
        let scope = registry.name("app");
        let gpg = json!([{ "type": "signedBy", "keyType": "GPGKeys", "keyPath": "/absent" }]);
        for (requirements, word) in [
            (json!([{ "type": "reject" }]), "refuses all images"),
            (gpg, "GPG"),
            (json!([{ "type": "sigstoreSigned", "fulcio": {} }]), "fulcio"),
        ] {
            let docker = json!({ scope.as_str(): requirements });
            let policy = json!({
                "default": [{ "type": "insecureAcceptAnything" }], "transports": { "docker": docker },
            });
            fs::write(folder.join("policy.json"), policy.to_string()).unwrap();
            refused(&user, &[&name], word);
        }
        fs::remove_file(folder.join("policy.json")).unwrap();
    }
}
