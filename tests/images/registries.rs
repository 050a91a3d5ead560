//! Pulls and pushes against Debian's own registry on loopback: plain, with TLS, with a password, with tokens, and through
//! a proxy that breaks off, refuses and asks to wait.

use super::made::{Layer, Layout};
use crate::harness::{Case, Need, case, command, eventually, json, rootfs, which};
use crate::host_run::User;
use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

pub fn cases() -> Vec<Case> {
    let cases = vec![
        case!(what_is_pushed_is_pulled_and_runs),
        case!(skopeo_pulls_what_we_push_and_we_what_it_pushes).needs(Need::Program("skopeo")),
        case!(tls_needs_an_authority_that_is_trusted).needs(Need::Program("openssl")),
        case!(credentials_come_from_files_and_helpers),
        case!(a_token_is_fetched_where_one_is_asked_for),
        case!(a_download_goes_on_where_it_broke_off),
        case!(a_registry_that_is_busy_is_asked_again),
        case!(a_registry_that_lies_is_refused),
        case!(what_is_not_there_is_said_so),
        case!(a_killed_pull_goes_on),
    ];
    let needs = [Need::Program("docker-registry"), Need::Beside("vctx-registry")];
    cases.into_iter().map(|case| needs.into_iter().fold(case, Case::needs)).collect()
}

/// A registry of its own, which ends with the case.
pub(super) struct Registry {
    child: Child,
    pub(super) port: u16,
}

impl Registry {
    pub(super) fn new(user: &User) -> Registry {
        Registry::with(user, json!({}), json!(null))
    }

    fn with(user: &User, tls: serde_json::Value, auth: serde_json::Value) -> Registry {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let folder = rootfs::workspace().join(format!("{}-registry-{port}", user.marker));
        fs::create_dir(&folder).unwrap();
        let mut config = json!({
            "version": "0.1", "log": { "level": "error", "accesslog": { "disabled": true } },
            "storage": { "filesystem": { "rootdirectory": folder } },
            "http": { "addr": format!("127.0.0.1:{port}"), "tls": tls },
        });
        if !auth.is_null() {
            config["auth"] = auth;
        }
        // JSON is YAML.
        fs::write(folder.join("config.yml"), config.to_string()).unwrap();
        let mut serve = Command::new(which("docker-registry").unwrap());
        serve.arg("serve").arg(folder.join("config.yml")).stdout(Stdio::null()).stderr(Stdio::null());
        let registry = Registry { child: serve.spawn().unwrap(), port };
        eventually("the registry answers", 30, || TcpStream::connect(("127.0.0.1", port)).ok());
        registry
    }

    pub(super) fn name(&self, path: &str) -> String {
        format!("localhost:{}/{path}", self.port)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An image `app:1` in the user's store; its second layer is a large one.
pub(super) fn imported(user: &User) {
    let mut noise = 1u32;
    let mut next = || {
        noise = noise.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        char::from(b'a' + (noise >> 24) as u8 % 26)
    };
    let large: String = (0..3 << 20).map(|_| next()).collect();
    let layers = vec![Layer::new().busybox(&["sh", "echo", "cat"]), Layer::new().file("large", &large)];
    let layout = Layout::new(user.folder.join("layout"), layers);
    user.call(&["image", "import", layout.done().to_str().unwrap(), "app:1"]).ok();
}

/// Pushes `app:1` as `name`, and forgets it here.
pub(super) fn pushed(user: &User, name: &str) {
    imported(user);
    user.call(&["image", "push", "app:1", name]).ok();
    user.call(&["image", "rm", "app:1"]).ok();
}

#[track_caller]
pub(super) fn runs(user: &User, name: &str) {
    assert_eq!(user.call(&["run", "--rm", name, "echo", "runs"]).ok().line(), "runs");
}

fn what_is_pushed_is_pulled_and_runs() {
    for user in [User::me(), User::ordinary()] {
        let registry = Registry::new(&user);
        let name = registry.name("team/app:1");
        imported(&user);
        let id = user.call(&["image", "ls", "-q"]).ok().stdout;
        let printed = user.call(&["image", "push", "app:1", &name]).ok();
        user.call(&["image", "rm", "app:1"]).ok();
        assert_eq!(user.call(&["image", "pull", &name]).ok().line(), name);
        assert_eq!(user.call(&["image", "ls", "-q"]).ok().stdout, id);
        runs(&user, &name);
        user.call(&["image", "rm", &name]).ok();
        let (_, digest) = printed.line().split_once('@').unwrap();
        let exact = registry.name(&format!("team/app@{digest}"));
        user.call(&["image", "pull", &exact]).ok();
        runs(&user, &exact);
        user.call(&["image", "fsck"]).ok();
    }
}

fn skopeo_pulls_what_we_push_and_we_what_it_pushes() {
    let user = User::me();
    let registry = Registry::new(&user);
    let skopeo = |args: &[&str]| {
        let mut command = Command::new(which("skopeo").unwrap());
        command::run(
            command
                .arg("--insecure-policy")
                .args(args)
                .current_dir(&user.folder)
                .env("HOME", user.path("home")),
        )
        .ok()
    };
    pushed(&user, &registry.name("app:1"));
    let ours = format!("docker://{}", registry.name("app:1"));
    skopeo(&["copy", "--src-tls-verify=false", &ours, "oci:copied:app"]);
    // Docker's own media types, and layers compressed anew.
    let theirs = format!("docker://{}", registry.name("app:2"));
    let format =
        ["copy", "--dest-tls-verify=false", "--format", "v2s2", "--dest-compress", "oci:copied:app", &theirs];
    skopeo(&format);
    user.call(&["image", "pull", &registry.name("app:2")]).ok();
    runs(&user, &registry.name("app:2"));
}

fn tls_needs_an_authority_that_is_trusted() {
    let user = User::me();
    let script = "openssl req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.crt -days 2 -subj /CN=ca \
            -addext basicConstraints=critical,CA:TRUE 2>/dev/null && \
        openssl req -newkey rsa:2048 -nodes -keyout key.pem -out req.pem -subj /CN=localhost 2>/dev/null && \
        printf 'subjectAltName=DNS:localhost\\nbasicConstraints=CA:FALSE\\n' > ext && \
        openssl x509 -req -in req.pem -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 -extfile ext -out cert.pem 2>/dev/null && \
        mkdir certs && cp ca.crt certs";
    command::run(Command::new("sh").args(["-c", script]).current_dir(&user.folder)).ok();
    let tls = json!({ "certificate": user.path("cert.pem"), "key": user.path("key.pem") });
    let registry = Registry::with(&user, tls, json!(null));
    let name = registry.name("app:1");
    imported(&user);
    let refused = user.call(&["image", "push", "app:1", &name]).refused();
    assert!(refused.stderr.contains("cannot reach"), "{}", refused.stderr);
    user.call(&["image", "push", "--cert-dir", &user.path("certs"), "app:1", &name]).ok();
    user.call(&["image", "rm", "app:1"]).ok();
    user.call(&["image", "pull", &name]).refused();
    user.call(&["image", "pull", "--tls-verify=false", &name]).ok();
    runs(&user, &name);
}

/// `user` with the password `secret`, as htpasswd(1) writes it.
const PASSWORD: &str = "user:$2y$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a\n";

fn credentials_come_from_files_and_helpers() {
    let user = User::me();
    fs::write(user.folder.join("htpasswd"), PASSWORD).unwrap();
    let auth = json!({ "htpasswd": { "realm": "test", "path": user.path("htpasswd") } });
    let registry = Registry::with(&user, json!({}), auth);
    let name = registry.name("app:1");
    imported(&user);
    let denied = user.call(&["image", "push", "app:1", &name]).refused();
    assert!(denied.stderr.contains("docker login"), "{}", denied.stderr);
    let file =
        |encoded: &str| json!({ "auths": { registry.name("").trim_end_matches('/'): { "auth": encoded } } });
    fs::write(user.folder.join("auth.json"), file("dXNlcjpzZWNyZXQ=").to_string()).unwrap();
    fs::write(user.folder.join("wrong.json"), file("dXNlcjp3cm9uZw==").to_string()).unwrap();
    user.call(&["image", "push", "--authfile", &user.path("wrong.json"), "app:1", &name]).refused();
    user.call(&["image", "push", "--authfile", &user.path("auth.json"), "app:1", &name]).ok();
    user.call(&["image", "rm", "app:1"]).ok();
    let docker = user.folder.join("home/.docker");
    fs::create_dir(&docker).unwrap();
    let helpers = json!({ "credHelpers": { registry.name("").trim_end_matches('/'): "test" } });
    fs::write(docker.join("config.json"), helpers.to_string()).unwrap();
    let helper = user.folder.join("docker-credential-test");
    let script = "#!/bin/sh\nread server || true\n[ \"$1\" = get ] && echo '{\"ServerURL\":\"'$server'\",\"Username\":\"user\",\"Secret\":\"secret\"}'\n";
    fs::write(&helper, script).unwrap();
    fs::set_permissions(&helper, fs::Permissions::from_mode(0o755)).unwrap();
    user.call(&["image", "pull", &name]).refused();
    let path = format!("{}:{}", user.folder.display(), std::env::var("PATH").unwrap());
    command::run(user.command(&["image", "pull", &name]).env("PATH", path)).ok();
    runs(&user, &name);
}

/// What a proxy does with a request.
pub(super) enum Verdict {
    Forward,
    /// Forwards so many bytes of the answer, and hangs up.
    Cut(usize),
    Answer(String),
}

/// Stands before a registry, one request a connection; gives its port.
pub(super) fn proxy(to: u16, judge: impl Fn(&str) -> Verdict + Send + Sync + 'static) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let judge = Arc::new(judge);
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let judge = Arc::clone(&judge);
            std::thread::spawn(move || serve(client, to, &*judge));
        }
    });
    port
}

fn serve(mut client: TcpStream, to: u16, judge: &dyn Fn(&str) -> Verdict) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        match client.read(&mut byte) {
            Ok(1) => head.push(byte[0]),
            _ => return,
        }
    }
    let head = String::from_utf8(head).unwrap();
    let most = match judge(&head) {
        Verdict::Forward => usize::MAX,
        Verdict::Cut(most) => most,
        Verdict::Answer(answer) => return drop(client.write_all(answer.as_bytes())),
    };
    let lines =
        head.lines().filter(|line| !line.to_lowercase().starts_with("authorization:") && !line.is_empty());
    let head: String =
        lines.map(|line| format!("{line}\r\n")).chain(["connection: close\r\n\r\n".into()]).collect();
    let mut server = TcpStream::connect(("127.0.0.1", to)).unwrap();
    server.write_all(head.as_bytes()).unwrap();
    let mut buffer = [0; 4096];
    let mut passed = 0;
    while let Ok(count @ 1..) = server.read(&mut buffer) {
        let count = count.min(most - passed);
        passed += count;
        if client.write_all(&buffer[..count]).is_err() || passed == most {
            break;
        }
    }
}

pub(super) fn answer(status: &str, headers: &str, body: &str) -> Verdict {
    let length = body.len();
    Verdict::Answer(format!(
        "HTTP/1.1 {status}\r\n{headers}content-length: {length}\r\nconnection: close\r\n\r\n{body}"
    ))
}

fn a_token_is_fetched_where_one_is_asked_for() {
    let user = User::me();
    let registry = Registry::new(&user);
    pushed(&user, &registry.name("app:1"));
    let tokens = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&tokens);
    let port = proxy(registry.port, move |head| {
        let first = head.lines().next().unwrap();
        let host = head.lines().find(|line| line.to_lowercase().starts_with("host:")).unwrap()[5..].trim();
        if first.starts_with("GET /token?") {
            assert!(
                first.contains("scope=repository%3Aapp%3Apull") && first.contains("service=test"),
                "{first}"
            );
            count.fetch_add(1, Ordering::Relaxed);
            return answer("200 OK", "", r#"{"token":"the-token"}"#);
        }
        if head.to_lowercase().contains("authorization: bearer the-token") {
            return Verdict::Forward;
        }
        let challenge =
            format!("www-authenticate: Bearer realm=\"http://{host}/token\",service=\"test\"\r\n");
        answer("401 Unauthorized", &challenge, "")
    });
    let name = format!("localhost:{port}/app:1");
    user.call(&["image", "pull", &name]).ok();
    runs(&user, &name);
    assert_eq!(tokens.load(Ordering::Relaxed), 1, "one token serves all requests");
}

pub(super) fn is_blob(head: &str) -> bool {
    head.lines().next().unwrap().contains("/blobs/")
}

fn a_download_goes_on_where_it_broke_off() {
    let user = User::me();
    let registry = Registry::new(&user);
    pushed(&user, &registry.name("app:1"));
    let ranges = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&ranges);
    let port = proxy(registry.port, move |head| {
        if head.to_lowercase().contains("\r\nrange: bytes=") {
            seen.fetch_add(1, Ordering::Relaxed);
        }
        if is_blob(head) { Verdict::Cut(700_000) } else { Verdict::Forward }
    });
    let name = format!("localhost:{port}/app:1");
    user.call(&["image", "pull", &name]).ok();
    runs(&user, &name);
    // Five megabytes in pieces of less than one.
    assert!(ranges.load(Ordering::Relaxed) >= 5, "{}", ranges.load(Ordering::Relaxed));
}

fn a_registry_that_is_busy_is_asked_again() {
    let user = User::me();
    let registry = Registry::new(&user);
    pushed(&user, &registry.name("app:1"));
    let requests = AtomicUsize::new(0);
    let port = proxy(registry.port, move |head| match requests.fetch_add(1, Ordering::Relaxed) % 3 {
        1 if !head.contains("GET /v2/ ") => answer("429 Too Many Requests", "retry-after: 0\r\n", ""),
        2 if is_blob(head) => answer("500 Internal Server Error", "", "{}"),
        _ => Verdict::Forward,
    });
    let name = format!("localhost:{port}/app:1");
    user.call(&["image", "pull", &name]).ok();
    runs(&user, &name);
    let refusing = proxy(registry.port, |head| match is_blob(head) {
        true => answer("403 Forbidden", "", r#"{"errors":[{"code":"DENIED","message":"no\u001b[2Jmore"}]}"#),
        false => Verdict::Forward,
    });
    user.call(&["image", "rm", &name]).ok();
    let refused = user.call(&["image", "pull", &format!("localhost:{refusing}/app:1")]).refused();
    assert!(refused.stderr.contains("no [2Jmore"), "{:?}", refused.stderr);
    assert_eq!(user.call(&["image", "ls", "-q"]).ok().line(), "");
}

fn a_registry_that_lies_is_refused() {
    let user = User::me();
    let registry = Registry::new(&user);
    pushed(&user, &registry.name("app:1"));
    let endless = proxy(registry.port, |head| match is_blob(head) {
        true => answer("200 OK", "", &"x".repeat(8 << 20)),
        false => Verdict::Forward,
    });
    let refused = user.call(&["image", "pull", &format!("localhost:{endless}/app:1")]).refused();
    assert!(refused.stderr.contains("were announced"), "{}", refused.stderr);
    let manifest = proxy(registry.port, |head| match head.contains("/manifests/") {
        true => answer(
            "200 OK",
            "content-type: application/vnd.oci.image.manifest.v1+json\r\n",
            "{\"schemaVersion\":2}",
        ),
        false => Verdict::Forward,
    });
    let refused = user.call(&["image", "pull", &format!("localhost:{manifest}/app:1")]).refused();
    assert!(refused.stderr.contains("is no manifest"), "{}", refused.stderr);
    assert_eq!(user.call(&["image", "ls", "-q"]).ok().line(), "");
    user.call(&["image", "gc"]).ok();
    let partial = user.store().join(".store/partial");
    assert_eq!(fs::read_dir(partial).unwrap().count(), 0);
}

fn what_is_not_there_is_said_so() {
    let user = User::me();
    let registry = Registry::new(&user);
    let absent = user.call(&["image", "pull", &registry.name("absent:1")]).refused();
    assert!(absent.stderr.contains("is not in the registry"), "{}", absent.stderr);
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let nobody = user.call(&["image", "pull", &format!("localhost:{port}/a")]).refused();
    assert!(nobody.stderr.contains("cannot reach the registry"), "{}", nobody.stderr);
}

fn a_killed_pull_goes_on() {
    let user = User::me();
    let registry = Registry::new(&user);
    pushed(&user, &registry.name("app:1"));
    let name = registry.name("app:1");
    let begun = std::time::Instant::now();
    user.call(&["image", "pull", "-q", &name]).ok();
    let whole = begun.elapsed();
    user.call(&["image", "rm", &name]).ok();
    for round in 0..crate::harness::rounds(50) {
        let verb: &[&str] = match round % 5 {
            3 => &["image", "rm", &name],
            4 => &["image", "gc"],
            _ => &["image", "pull", "-q", &name],
        };
        let mut command = user.command(verb);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        // Moments spread over the whole time that a pull takes, in an order without pattern.
        let moment = whole.mul_f64(f64::from(round * 37 % 50) / 50.0);
        command::wait_for_exit(child.id(), moment);
        let _ = child.kill();
        child.wait().unwrap();
        let checked = user.call(&["image", "fsck"]);
        assert!(checked.code == 0, "round {round}, {verb:?}: {}{}", checked.stdout, checked.stderr);
    }
    user.call(&["image", "pull", &name]).ok();
    runs(&user, &name);
    user.call(&["image", "fsck"]).ok();
}
