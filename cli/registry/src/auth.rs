//! The tokens that answer a registry's challenge (distribution, "Token Authentication Specification").

use std::sync::Mutex;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use ureq::Agent;

use crate::challenge::{self, Challenge};
use crate::credentials::Credentials;
use crate::error::Error;

/// An answer of a token server larger than this is none, in bytes.
const LARGEST: u64 = 1 << 20;

/// What is sent along with each request.
#[derive(Debug)]
pub(crate) struct Auth {
    credentials: Option<Credentials>,
    header: Mutex<Option<String>>,
}

impl Auth {
    pub(crate) fn new(credentials: Option<Credentials>) -> Auth {
        Auth { credentials, header: Mutex::new(None) }
    }

    pub(crate) fn header(&self) -> Option<String> {
        self.header.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }

    /// Answers a challenge; false where there is nothing to answer with.
    pub(crate) fn answer(
        &self,
        agent: &Agent,
        challenges: &[String],
        scope: &str,
        plain: bool,
    ) -> Result<bool, Error> {
        let all: Vec<Challenge> = challenges.iter().filter_map(|text| challenge::parse(text)).collect();
        let bearer = all.iter().find(|one| matches!(one, Challenge::Bearer { .. }));
        let header = match (bearer.or(all.first()), &self.credentials) {
            (Some(Challenge::Bearer { realm, service, scope: asked }), credentials) => {
                // A token server without TLS gets no password, unless the registry itself may be talked to so.
                if !realm.starts_with("https://") && !plain {
                    return Err(Error::PlainRealm(service.clone().unwrap_or_default(), realm.clone()));
                }
                let scope = asked.as_deref().unwrap_or(scope);
                Some(format!(
                    "Bearer {}",
                    token(agent, realm, service.as_deref(), scope, credentials.as_ref())?
                ))
            }
            (Some(Challenge::Basic), Some(Credentials::Basic(user, password))) => Some(basic(user, password)),
            _ => None,
        };
        let is_some = header.is_some();
        *self.header.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = header;
        Ok(is_some)
    }
}

fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))
}

fn token(
    agent: &Agent,
    realm: &str,
    service: Option<&str>,
    scope: &str,
    credentials: Option<&Credentials>,
) -> Result<String, Error> {
    #[derive(Deserialize)]
    struct Answer {
        token: Option<String>,
        access_token: Option<String>,
    }
    let reach = |source| Error::Reach { host: realm.to_owned(), source: Box::new(source) };
    let answer = match credentials {
        Some(Credentials::Identity(refresh)) => agent
            .post(realm)
            .send_form([
                ("grant_type", "refresh_token"),
                ("service", service.unwrap_or_default()),
                ("scope", scope),
                ("client_id", "vctx"),
                ("refresh_token", refresh),
            ])
            .map_err(reach)?,
        _ => {
            let mut request = agent.get(realm).query("scope", scope);
            if let Some(service) = service {
                request = request.query("service", service);
            }
            if let Some(Credentials::Basic(user, password)) = credentials {
                request = request.header("authorization", basic(user, password));
            }
            request.call().map_err(reach)?
        }
    };
    let status = answer.status().as_u16();
    let what = || format!("a token from {realm}");
    if status != 200 {
        return Err(Error::Status { what: what(), status, message: String::new() });
    }
    let reason = "it is no token";
    let text = answer.into_body().into_with_config().limit(LARGEST).read_to_vec().map_err(reach)?;
    let answer: Answer = serde_json::from_slice(&text).map_err(|_| Error::Answer { what: what(), reason })?;
    answer
        .token
        .or(answer.access_token)
        .filter(|token| !token.is_empty())
        .ok_or_else(|| Error::Answer { what: what(), reason })
}
