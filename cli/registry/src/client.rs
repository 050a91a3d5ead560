//! Requests to one repository of a registry (distribution-spec): who we are, whom we trust, and trying again.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use std::{fs, io, thread};

use serde::Deserialize;
use ureq::http::{HeaderMap, Request, Response};
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem};
use ureq::{Agent, AsSendBody, Body};
use vctx_storage::image::Reference;
use vctx_storage::image::remote::{Job, Transport};

use crate::auth::Auth;
use crate::credentials;
use crate::error::Error;

/// How often a request is tried that fails for reasons that may pass.
pub(crate) const ATTEMPTS: u32 = 5;
/// A connection on which nothing comes for so long is given up.
pub(crate) const SILENCE: Duration = Duration::from_secs(30);
const CONNECT: Duration = Duration::from_secs(15);
/// No registry's wish to wait is followed longer.
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// Of a message about an error, in bytes.
const LONGEST_MESSAGE: u64 = 16 << 10;
/// Where Debian keeps the certificates of authorities.
const AUTHORITIES: &str = "/etc/ssl/certs/ca-certificates.crt";

/// One repository.
pub(crate) struct Client {
    agent: Agent,
    auth: Auth,
    /// `https://HOST/v2/REPOSITORY`.
    base: String,
    /// What is asked of a token server.
    scope: String,
    pub(crate) reference: Reference,
    /// Plain HTTP is good enough here.
    plain: bool,
}

/// The method, and the way of the answer that is not wanted.
pub(crate) type Answer = Response<Body>;

impl Client {
    /// Finds out how the registry is reached.
    pub(crate) fn new(job: &Job, actions: &str) -> Result<Client, Error> {
        let reference = job.reference()?;
        let auth = Auth::new(credentials::find(&reference, job.authfile.clone())?);
        let agent = agent(job, &reference)?;
        let host = match &*reference.registry {
            "docker.io" => "registry-1.docker.io".to_owned(),
            host => host.to_owned(),
        };
        let may_be_plain = job.transport == Transport::Insecure || is_loopback(&host);
        let secure = agent.get(format!("https://{host}/v2/")).call();
        // A server that wants TLS answers too, but not so.
        let is_plain = || {
            let answer = agent.get(format!("http://{host}/v2/")).call();
            answer.is_ok_and(|answer| matches!(answer.status().as_u16(), 200 | 401))
        };
        let (scheme, plain) = match secure {
            Ok(_) => ("https", false),
            Err(_) if may_be_plain && is_plain() => ("http", true),
            Err(error) => return Err(Error::Reach { host, source: Box::new(error) }),
        };
        let base = format!("{scheme}://{host}/v2/{}", reference.repository);
        let scope = format!("repository:{}:{actions}", reference.repository);
        Ok(Client { agent, auth, base, scope, reference, plain })
    }

    /// The address of something in the repository.
    pub(crate) fn address(&self, path: &str) -> String {
        format!("{}/{path}", self.base)
    }

    /// An address that the registry has given, maybe relative.
    pub(crate) fn absolute(&self, location: &str) -> String {
        match location.starts_with('/') {
            true => format!("{}{location}", self.base.split("/v2/").next().unwrap_or_default()),
            false => location.to_owned(),
        }
    }

    pub(crate) fn get(&self, what: &str, url: &str, headers: &[(&str, &str)]) -> Result<Answer, Error> {
        self.send(what, "GET", url, headers, || Ok(()))
    }

    /// Sends a request, again where that may help; `body` makes its body anew each time.
    pub(crate) fn send<B: AsSendBody>(
        &self,
        what: &str,
        method: &str,
        url: &str,
        headers: &[(&str, &str)],
        body: impl Fn() -> Result<B, Error>,
    ) -> Result<Answer, Error> {
        let mut has_answered = false;
        let mut attempt = 1;
        loop {
            let request = self.request(method, url, headers, body()?)?;
            let result = self.agent.run(request);
            let wait = match result {
                Ok(answer) if answer.status().is_success() => return Ok(answer),
                Ok(answer) if answer.status() == 401 && !has_answered => {
                    has_answered = true;
                    let challenges = challenges(answer.headers());
                    if !self.auth.answer(&self.agent, &challenges, &self.scope, self.plain)? {
                        return Err(self.refused(what, answer));
                    }
                    continue;
                }
                Ok(answer) if attempt < ATTEMPTS && is_passing(answer.status().as_u16()) => {
                    asked_to_wait(answer.headers())
                }
                Ok(answer) => return Err(self.refused(what, answer)),
                Err(error) if attempt == ATTEMPTS || !is_transport(&error) => {
                    let host = self.reference.registry.clone();
                    return Err(Error::Reach { host, source: Box::new(error) });
                }
                Err(_) => None,
            };
            thread::sleep(wait.unwrap_or_else(|| backoff(attempt)));
            attempt += 1;
        }
    }

    fn request<B: AsSendBody>(
        &self,
        method: &str,
        url: &str,
        headers: &[(&str, &str)],
        body: B,
    ) -> Result<Request<B>, Error> {
        let mut request = Request::builder().method(method).uri(url);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        // The token is for the registry, and for no other host to which it sends us.
        if url.starts_with(self.base.split("/v2/").next().unwrap_or(&self.base))
            && let Some(header) = self.auth.header()
        {
            request = request.header("authorization", header);
        }
        request
            .body(body)
            .map_err(|_| Error::Answer { what: url.to_owned(), reason: "it gives an address that is none" })
    }

    fn refused(&self, what: &str, answer: Answer) -> Error {
        let status = answer.status().as_u16();
        let message = message(answer);
        match status {
            401 | 403 => Error::Denied { name: self.reference.familiar(), message },
            404 => Error::Absent(what.to_owned()),
            _ => Error::Status { what: what.to_owned(), status, message },
        }
    }
}

pub(crate) fn backoff(attempt: u32) -> Duration {
    Duration::from_millis(250) * 2u32.pow(attempt.min(8))
}

/// What fails like this may succeed a moment later.
fn is_passing(status: u16) -> bool {
    matches!(status, 408 | 429 | 500 | 502 | 503 | 504)
}

fn is_transport(error: &ureq::Error) -> bool {
    matches!(
        error,
        ureq::Error::Io(_)
            | ureq::Error::Timeout(_)
            | ureq::Error::ConnectionFailed
            | ureq::Error::Protocol(_)
    )
}

/// `Retry-After`, in seconds; a date is passed over.
fn asked_to_wait(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get("retry-after")?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds).min(LONGEST_WAIT))
}

fn challenges(headers: &HeaderMap) -> Vec<String> {
    headers
        .get_all("www-authenticate")
        .iter()
        .filter_map(|value| value.to_str().ok())
        .map(str::to_owned)
        .collect()
}

/// What the registry says of an error, in one line.
fn message(answer: Answer) -> String {
    #[derive(Deserialize)]
    struct Errors {
        errors: Vec<One>,
    }
    #[derive(Deserialize)]
    struct One {
        #[serde(default)]
        code: String,
        #[serde(default)]
        message: String,
    }
    let mut text = Vec::new();
    // Without one the status says enough.
    let _ = answer.into_body().into_reader().take(LONGEST_MESSAGE).read_to_end(&mut text);
    let errors = serde_json::from_slice::<Errors>(&text).map_or_else(|_| Vec::new(), |errors| errors.errors);
    let line = |one: &One| if one.message.is_empty() { one.code.clone() } else { one.message.clone() };
    errors.iter().map(line).collect::<Vec<_>>().join("; ")
}

fn is_loopback(host: &str) -> bool {
    let name = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, _)) => address,
        None => host.split(':').next().unwrap_or(host),
    };
    name == "localhost" || name.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

fn agent(job: &Job, reference: &Reference) -> Result<Agent, Error> {
    // The only provider that is linked in; a second call changes nothing.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let tls = TlsConfig::builder()
        .root_certs(RootCerts::Specific(Arc::new(authorities(job, reference)?)))
        .disable_verification(job.transport == Transport::Insecure)
        .build();
    let config = Agent::config_builder()
        .tls_config(tls)
        .http_status_as_error(false)
        .user_agent(concat!("vctx/", env!("CARGO_PKG_VERSION")))
        .timeout_connect(Some(CONNECT))
        .timeout_per_read(Some(SILENCE))
        .timeout_per_write(Some(SILENCE))
        .build();
    Ok(config.into())
}

/// Those of the machine, and those that are kept for this registry.
fn authorities(job: &Job, reference: &Reference) -> Result<Vec<Certificate<'static>>, Error> {
    let own = std::env::var_os("SSL_CERT_FILE").map_or_else(|| PathBuf::from(AUTHORITIES), PathBuf::from);
    let mut files = vec![own];
    let homes = ["/etc/docker/certs.d", "/etc/containers/certs.d"]
        .map(|home| Path::new(home).join(&reference.registry));
    for folder in homes.iter().chain(&job.cert_dir) {
        let Ok(entries) = fs::read_dir(folder) else { continue };
        files.extend(
            entries
                .flatten()
                .map(|entry| entry.path())
                .filter(|path| path.extension().is_some_and(|end| end == "crt")),
        );
    }
    let mut found = Vec::new();
    for path in files {
        let pem = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            pem => pem.map_err(|source| Error::Read { path: path.clone(), source })?,
        };
        for item in parse_pem(&pem) {
            let item =
                item.map_err(|source| Error::Certificate { path: path.clone(), source: Box::new(source) })?;
            if let PemItem::Certificate(certificate) = item {
                found.push(certificate);
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_machine_is_loopback() {
        for host in ["localhost", "localhost:5000", "127.0.0.1:5000", "127.9.9.9", "[::1]:5000"] {
            assert!(is_loopback(host), "{host}");
        }
        for host in ["localhost.example", "127.example", "10.0.0.1:5000", "[::2]:5000", "example.org"] {
            assert!(!is_loopback(host), "{host}");
        }
    }

    #[test]
    fn a_wish_to_wait_is_followed_within_bounds() {
        let mut headers = HeaderMap::new();
        assert_eq!(asked_to_wait(&headers), None);
        headers.insert("retry-after", "3".parse().unwrap());
        assert_eq!(asked_to_wait(&headers), Some(Duration::from_secs(3)));
        headers.insert("retry-after", "99999".parse().unwrap());
        assert_eq!(asked_to_wait(&headers), Some(LONGEST_WAIT));
    }
}
