//! Credentials, where docker and podman keep them: files of both, and the helpers that the files name.

use std::collections::HashMap;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::{env, fs};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use vctx_storage::image::Reference;

use crate::error::Error;

/// What a registry is told of the user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Credentials {
    /// User and password.
    Basic(String, String),
    /// A refresh token of OAuth 2.
    Identity(String),
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct AuthFile {
    auths: HashMap<String, Auth>,
    cred_helpers: HashMap<String, String>,
    creds_store: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Auth {
    auth: String,
    username: String,
    password: String,
    identitytoken: String,
}

/// The credentials for a repository, if there are some.
pub(crate) fn find(reference: &Reference, authfile: Option<PathBuf>) -> Result<Option<Credentials>, Error> {
    let chosen = authfile.is_some();
    for path in authfile.map_or_else(usual_files, |path| vec![path]) {
        let text = match fs::read(&path) {
            Err(error)
                if !chosen
                    && matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied) =>
            {
                continue;
            }
            text => text.map_err(|source| Error::Read { path: path.clone(), source })?,
        };
        let file = serde_json::from_slice(&text).map_err(|source| Error::Credentials { path, source })?;
        if let Some(found) = in_file(&file, reference)? {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

/// In the order in which podman looks (containers-auth.json(5)).
fn usual_files() -> Vec<PathBuf> {
    let folder = |name: &str| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let home = folder("HOME");
    let below_home = |path: &str| home.as_ref().map(|home| home.join(path));
    let files = [
        folder("REGISTRY_AUTH_FILE"),
        folder("XDG_RUNTIME_DIR").map(|run| run.join("containers/auth.json")),
        below_home(".config/containers/auth.json"),
        folder("DOCKER_CONFIG")
            .map(|docker| docker.join("config.json"))
            .or_else(|| below_home(".docker/config.json")),
    ];
    files.into_iter().flatten().collect()
}

fn in_file(file: &AuthFile, reference: &Reference) -> Result<Option<Credentials>, Error> {
    let hub = reference.registry == "docker.io";
    // Docker names its own registry by an old address.
    let server = if hub { "https://index.docker.io/v1/" } else { &reference.registry };
    let helper = file.cred_helpers.get(server).or_else(|| file.cred_helpers.get(&reference.registry));
    if let Some(helper) = helper {
        return ask(helper, server);
    }
    // The most exact entry counts: HOST/REPOSITORY, and what is above it.
    let name = reference.name();
    let above =
        std::iter::successors(Some(name.as_str()), |name| name.rsplit_once('/').map(|(above, _)| above));
    let keys = above.map(str::to_owned).chain([server.to_owned()]);
    let spellings = keys.flat_map(|key| {
        [format!("https://{key}"), format!("https://{key}/v2/"), format!("https://{key}/v1/"), key]
    });
    for key in spellings {
        if let Some(auth) = file.auths.get(&key)
            && let Some(found) = auth.credentials()
        {
            return Ok(Some(found));
        }
    }
    if file.creds_store.is_empty() { Ok(None) } else { ask(&file.creds_store, server) }
}

impl Auth {
    fn credentials(&self) -> Option<Credentials> {
        if !self.identitytoken.is_empty() {
            return Some(Credentials::Identity(self.identitytoken.clone()));
        }
        if !self.username.is_empty() {
            return Some(Credentials::Basic(self.username.clone(), self.password.clone()));
        }
        let text = String::from_utf8(STANDARD.decode(self.auth.trim_end_matches('\0')).ok()?).ok()?;
        let (user, password) = text.split_once(':')?;
        Some(Credentials::Basic(user.to_owned(), password.trim_end_matches('\0').to_owned()))
    }
}

/// Asks a helper: the server on its standard input, JSON on its output.
fn ask(helper: &str, server: &str) -> Result<Option<Credentials>, Error> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Answer {
        username: String,
        secret: String,
    }
    let fail = |message: String| Error::Helper { helper: helper.to_owned(), message };
    // The name becomes that of a program: nothing of a path in it.
    if !helper.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.')) {
        return Err(fail("its name is none of a helper".into()));
    }
    let run = || -> io::Result<std::process::Output> {
        let mut child = Command::new(format!("docker-credential-{helper}"))
            .arg("get")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        if let Some(mut input) = child.stdin.take() {
            input.write_all(server.as_bytes())?;
        }
        child.wait_with_output()
    };
    let output = run().map_err(|error| fail(error.to_string()))?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        return if text.contains("credentials not found") { Ok(None) } else { Err(fail(text)) };
    }
    let answer: Answer = serde_json::from_slice(&output.stdout).map_err(|error| fail(error.to_string()))?;
    Ok(Some(match &*answer.username {
        "<token>" => Credentials::Identity(answer.secret),
        _ => Credentials::Basic(answer.username, answer.secret),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str, name: &str) -> Option<Credentials> {
        in_file(&serde_json::from_str(text).unwrap(), &name.parse().unwrap()).unwrap()
    }

    #[test]
    fn the_most_exact_entry_counts() {
        // user:of-host, user:of-repository, user:of-hub
        let text = r#"{"auths":{
            "h.example:5000": {"auth":"dXNlcjpvZi1ob3N0"},
            "h.example:5000/team/app": {"auth":"dXNlcjpvZi1yZXBvc2l0b3J5"},
            "https://index.docker.io/v1/": {"auth":"dXNlcjpvZi1odWI="},
            "t.example": {"identitytoken":"token"}}}"#;
        let basic = |password: &str| Some(Credentials::Basic("user".into(), password.into()));
        assert_eq!(found(text, "h.example:5000/other"), basic("of-host"));
        assert_eq!(found(text, "h.example:5000/team/app:1"), basic("of-repository"));
        assert_eq!(found(text, "debian"), basic("of-hub"));
        assert_eq!(found(text, "t.example/a"), Some(Credentials::Identity("token".into())));
        assert_eq!(found(text, "other.example/a"), None);
    }

    #[test]
    fn a_helper_is_no_path() {
        let file = serde_json::from_str(r#"{"credsStore":"../../bin/sh"}"#).unwrap();
        assert!(in_file(&file, &"a.example/b".parse().unwrap()).is_err());
    }
}
