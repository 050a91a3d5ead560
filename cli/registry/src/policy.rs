//! Which images are let in: the policy file of podman and skopeo, as containers-policy.json(5) describes it, and the key
//! that a caller names.
//!
//! The file is read strictly, because a word that is passed over could be the one that was to protect. What is known
//! and cannot be checked here, such as signatures made with GPG, refuses the image.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::{env, fs, io};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};
use vctx_storage::image::Reference;
use vctx_storage::image::remote::Job;

use crate::error::Error;
use crate::signature::Key;

/// For images in registries, whatever runtime pulls them.
const TRANSPORT: &str = "docker";

/// All that an image has to fulfil.
#[derive(Debug)]
pub(crate) struct Policy {
    /// Whose it is, for messages.
    pub(crate) path: PathBuf,
    pub(crate) demands: Vec<Demand>,
}

/// One thing that is asked of an image.
#[derive(Debug)]
pub(crate) enum Demand {
    /// Nothing will do.
    Reject,
    /// Something that cannot be checked here.
    Unknown(&'static str),
    /// A signature by one of these keys for this name.
    Signed { keys: Vec<Key>, identity: Identity },
}

/// Which name a signature has to be for.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(tag = "type", rename_all = "camelCase", rename_all_fields = "camelCase", deny_unknown_fields)]
pub(crate) enum Identity {
    MatchExact {},
    #[default]
    #[serde(skip_deserializing)]
    Usual,
    MatchRepoDigestOrExact {},
    MatchRepository {},
    ExactReference {
        docker_reference: String,
    },
    ExactRepository {
        docker_repository: String,
    },
    #[serde(rename = "remapIdentity")]
    Remap {
        prefix: String,
        signed_prefix: String,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    default: Vec<Requirement>,
    #[serde(default)]
    transports: Once<Once<Vec<Requirement>>>,
}

#[derive(Clone, Deserialize)]
#[serde(tag = "type", rename_all = "camelCase", deny_unknown_fields)]
enum Requirement {
    InsecureAcceptAnything {},
    Reject {},
    #[serde(rename_all = "camelCase")]
    SignedBy {
        #[serde(rename = "keyType")]
        _key_type: IgnoredAny,
        #[serde(default, rename = "keyPath")]
        _key_path: Option<IgnoredAny>,
        #[serde(default, rename = "keyPaths")]
        _key_paths: Option<IgnoredAny>,
        #[serde(default, rename = "keyData")]
        _key_data: Option<IgnoredAny>,
        #[serde(default, rename = "signedIdentity")]
        _identity: Option<IgnoredAny>,
    },
    SigstoreSigned(Box<Sigstore>),
}

#[derive(Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct Sigstore {
    key_path: Option<PathBuf>,
    key_paths: Vec<PathBuf>,
    key_data: Option<String>,
    key_datas: Vec<String>,
    fulcio: Option<IgnoredAny>,
    pki: Option<IgnoredAny>,
    rekor_public_key_path: Option<IgnoredAny>,
    rekor_public_key_paths: Option<IgnoredAny>,
    rekor_public_key_data: Option<IgnoredAny>,
    rekor_public_key_datas: Option<IgnoredAny>,
    signed_identity: Identity,
}

impl Policy {
    /// What is asked of the job's image: by its own policy file, or by that of the user or the machine where there is one.
    pub(crate) fn of(job: &Job, reference: &Reference) -> Result<Policy, Error> {
        let mut policy = match &job.policy {
            Some(path) => {
                let text = fs::read(path).map_err(|source| Error::Read { path: path.clone(), source })?;
                Policy::parse(path, &text, reference)?
            }
            None => Policy::usual(reference)?,
        };
        if let Some(path) = &job.key {
            let pem = fs::read(path).map_err(|source| Error::Read { path: path.clone(), source })?;
            let keys = vec![Key::of_pem(path.display().to_string(), &pem)?];
            // What cosign signs has no tag.
            policy.demands.push(Demand::Signed { keys, identity: Identity::MatchRepository {} });
        }
        Ok(policy)
    }

    fn usual(reference: &Reference) -> Result<Policy, Error> {
        let own = env::var_os("HOME").map(|home| Path::new(&home).join(".config/containers/policy.json"));
        for path in own.into_iter().chain([PathBuf::from("/etc/containers/policy.json")]) {
            match fs::read(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                text => {
                    let text = text.map_err(|source| Error::Read { path: path.clone(), source })?;
                    return Policy::parse(&path, &text, reference);
                }
            }
        }
        Ok(Policy { path: PathBuf::new(), demands: Vec::new() })
    }

    fn parse(path: &Path, text: &[u8], reference: &Reference) -> Result<Policy, Error> {
        let fail = |source| Error::Policy { path: path.into(), source };
        let file: File = serde_json::from_slice(text).map_err(fail)?;
        let scopes = file.transports.0.get(TRANSPORT);
        let found =
            scopes.and_then(|scopes| scopes_of(reference).iter().find_map(|scope| scopes.0.get(scope)));
        let wanted = found.unwrap_or(&file.default);
        if wanted.is_empty() {
            return Err(Error::EmptyPolicy { path: path.into() });
        }
        let mut demands = Vec::new();
        for requirement in wanted {
            demands.extend(requirement.demand(path)?);
        }
        Ok(Policy { path: path.into(), demands })
    }
}

impl Requirement {
    fn demand(&self, policy: &Path) -> Result<Option<Demand>, Error> {
        Ok(match self {
            Requirement::InsecureAcceptAnything {} => None,
            Requirement::Reject {} => Some(Demand::Reject),
            Requirement::SignedBy { .. } => Some(Demand::Unknown("signatures made with GPG (signedBy)")),
            Requirement::SigstoreSigned(signed) => Some(signed.demand(policy)?),
        })
    }
}

impl Sigstore {
    fn demand(&self, policy: &Path) -> Result<Demand, Error> {
        if self.fulcio.is_some() || self.pki.is_some() {
            return Ok(Demand::Unknown("certificates of signers (fulcio, pki)"));
        }
        let rekor = [&self.rekor_public_key_path, &self.rekor_public_key_paths];
        let rekor_data = [&self.rekor_public_key_data, &self.rekor_public_key_datas];
        if rekor.iter().chain(&rekor_data).any(|one| one.is_some()) {
            return Ok(Demand::Unknown("entries in a transparency log (rekorPublicKey)"));
        }
        let mut keys = Vec::new();
        for path in self.key_path.iter().chain(&self.key_paths) {
            let pem = fs::read(path).map_err(|source| Error::Read { path: path.clone(), source })?;
            keys.push(Key::of_pem(path.display().to_string(), &pem)?);
        }
        for data in self.key_data.iter().chain(&self.key_datas) {
            let name = format!("keyData in {}", policy.display());
            let pem = STANDARD.decode(data).map_err(|_| Error::Key { name: name.clone() })?;
            keys.push(Key::of_pem(name, &pem)?);
        }
        if keys.is_empty() {
            return Err(Error::NoKey { path: policy.into() });
        }
        Ok(Demand::Signed { keys, identity: self.signed_identity.clone() })
    }
}

impl Identity {
    /// A signature for `signed` will do for an image that is pulled as `wanted`.
    pub(crate) fn takes(&self, wanted: &Reference, signed: &str) -> bool {
        let Ok(claim) = signed.parse::<Reference>() else { return false };
        // Where nothing is written, the parser puts `latest`, which nobody has signed.
        let is_exact = claim.digest.is_some() || tag_of(signed).is_some();
        let same = |name: &str| claim.name() == name;
        let exactly = |wanted: &Reference| is_exact && claim.to_string() == wanted.to_string();
        let usual = |wanted: &Reference| match wanted.digest {
            Some(_) => same(&wanted.name()),
            None => exactly(wanted),
        };
        match self {
            Identity::MatchExact {} => exactly(wanted),
            Identity::Usual | Identity::MatchRepoDigestOrExact {} => usual(wanted),
            Identity::MatchRepository {} => same(&wanted.name()),
            Identity::ExactReference { docker_reference } => {
                docker_reference.parse().is_ok_and(|wanted: Reference| exactly(&wanted))
            }
            Identity::ExactRepository { docker_repository } => {
                docker_repository.parse().is_ok_and(|wanted: Reference| same(&wanted.name()))
            }
            Identity::Remap { prefix, signed_prefix } => {
                let name = wanted.name();
                let rest = name.strip_prefix(prefix.as_str());
                let rest = rest.filter(|rest| rest.is_empty() || rest.starts_with('/'));
                let mapped = rest.map_or(name.clone(), |rest| format!("{signed_prefix}{rest}"));
                let Some((registry, repository)) = mapped.split_once('/') else { return false };
                usual(&Reference {
                    registry: registry.into(),
                    repository: repository.into(),
                    ..wanted.clone()
                })
            }
        }
    }
}

fn tag_of(text: &str) -> Option<&str> {
    text.rsplit_once(':').map(|(_, tag)| tag).filter(|tag| !tag.contains('/'))
}

/// The scopes of a policy that an image falls under, the most exact first.
fn scopes_of(reference: &Reference) -> Vec<String> {
    let name = reference.name();
    let exact = match (&reference.digest, &reference.tag) {
        (Some(digest), _) => format!("{name}@{digest}"),
        (None, Some(tag)) => format!("{name}:{tag}"),
        (None, None) => name.clone(),
    };
    let mut scopes = vec![exact];
    let above =
        std::iter::successors(Some(name.as_str()), |name| name.rsplit_once('/').map(|(above, _)| above));
    scopes.extend(above.map(str::to_owned));
    let host = reference.registry.rsplit_once(':').map_or(&*reference.registry, |(host, _)| host);
    let domains = std::iter::successors(host.split_once('.'), |(_, domain)| domain.split_once('.'));
    scopes.extend(domains.map(|(_, domain)| format!("*.{domain}")));
    scopes.push(String::new());
    scopes
}

/// A map whose keys come once: which of two would count is nobody's to guess.
struct Once<T>(BTreeMap<String, T>);

impl<T> Default for Once<T> {
    fn default() -> Once<T> {
        Once(BTreeMap::new())
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Once<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Once<T>, D::Error> {
        struct Entries<T>(std::marker::PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Entries<T> {
            type Value = Once<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Once<T>, A::Error> {
                let mut entries = BTreeMap::new();
                while let Some((key, value)) = map.next_entry::<String, T>()? {
                    if entries.contains_key(&key) {
                        return Err(serde::de::Error::custom(format!("{key:?} comes twice")));
                    }
                    entries.insert(key, value);
                }
                Ok(Once(entries))
            }
        }
        deserializer.deserialize_map(Entries(std::marker::PhantomData))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Reference {
        text.parse().unwrap()
    }

    #[test]
    fn the_most_exact_scope_comes_first() {
        let scopes = scopes_of(&name("a.example.org:5000/team/app:1"));
        assert_eq!(
            scopes,
            [
                "a.example.org:5000/team/app:1",
                "a.example.org:5000/team/app",
                "a.example.org:5000/team",
                "a.example.org:5000",
                "*.example.org",
                "*.org",
                ""
            ]
        );
    }

    #[test]
    fn a_signature_is_for_the_name_that_it_names() {
        let exact: Identity = serde_json::from_str(r#"{"type":"matchExact"}"#).unwrap();
        let repository: Identity = serde_json::from_str(r#"{"type":"matchRepository"}"#).unwrap();
        let wanted = name("h.org/a:1");
        assert!(exact.takes(&wanted, "h.org/a:1") && !exact.takes(&wanted, "h.org/a:2"));
        assert!(repository.takes(&wanted, "h.org/a") && !repository.takes(&wanted, "h.org/b"));
        // No tag is not `latest`.
        assert!(!exact.takes(&name("h.org/a"), "h.org/a") && exact.takes(&name("h.org/a"), "h.org/a:latest"));
        let by_digest = name(&format!("h.org/a@sha256:{}", "0".repeat(64)));
        assert!(Identity::default().takes(&by_digest, "h.org/a:7"));
        let remap = r#"{"type":"remapIdentity","prefix":"mirror.org","signedPrefix":"h.org/x"}"#;
        let remap: Identity = serde_json::from_str(remap).unwrap();
        assert!(remap.takes(&name("mirror.org/a:1"), "h.org/x/a:1"));
        assert!(!remap.takes(&name("mirror.org.evil.org/a:1"), "h.org/x.evil.org/a:1"));
    }

    #[test]
    fn what_is_not_understood_refuses_the_file() {
        let read = |text: &str| serde_json::from_str::<File>(text).map(drop);
        read(r#"{"default":[{"type":"reject"}],"transports":{"docker":{"":[]}}}"#).unwrap();
        for wrong in [
            r#"{}"#,
            r#"{"default":[{"type":"accept"}]}"#,
            r#"{"default":[{"type":"reject","unless":"x"}]}"#,
            r#"{"default":[],"more":1}"#,
            r#"{"default":[],"transports":{"docker":{"a":[],"a":[]}}}"#,
            r#"{"default":[{"type":"sigstoreSigned","keypath":"x"}]}"#,
            r#"{"default":[{"type":"sigstoreSigned","signedIdentity":{"type":"usual"}}]}"#,
        ] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }
}
