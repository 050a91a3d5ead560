//! Names of images, as users of Docker write them: `debian`, `debian:13`, `ghcr.io/a/b@sha256:...`, `localhost:5000/x`.
//!
//! The first part is a registry only if it looks like a host: it has a dot or a port, or is `localhost`. Everything else
//! is of Docker Hub, where a single word lies below `library/`.

use std::fmt;
use std::str::FromStr;

use super::digest::Digest;

const HUB: &str = "docker.io";
const DEFAULT_TAG: &str = "latest";
/// Of the name with its registry, in characters, as registries take it.
const LONGEST_NAME: usize = 255;
const LONGEST_TAG: usize = 128;

/// The name of an image, complete.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reference {
    /// Host and port of the registry.
    pub registry: String,
    /// Path of the repository.
    pub repository: String,
    /// Tag; `latest` where neither tag nor digest was written.
    pub tag: Option<String>,
    /// Digest of the manifest.
    pub digest: Option<Digest>,
}

/// What is wrong with a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no name of an image: {reason}")]
pub struct Malformed {
    /// What was written.
    pub text: String,
    /// What is wrong.
    pub reason: &'static str,
}

impl Reference {
    /// The name without tag and digest: `docker.io/library/debian`.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{}/{}", self.registry, self.repository)
    }

    /// As users write it: without what they may leave out, but for the tag.
    #[must_use]
    pub fn familiar(&self) -> String {
        let text = self.to_string();
        // Only where it is still understood: `docker.io/a.b/c` without its registry would have another.
        ["docker.io/library/", "docker.io/"]
            .iter()
            .filter_map(|left_out| text.strip_prefix(left_out))
            .find(|short| short.parse().as_ref() == Ok(self))
            .unwrap_or(&text)
            .to_owned()
    }

    /// What a registry is asked for: the digest, which is exact, or the tag.
    #[must_use]
    pub fn version(&self) -> String {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => digest.to_string(),
            (None, Some(tag)) => tag.clone(),
            (None, None) => DEFAULT_TAG.to_owned(),
        }
    }
}

impl FromStr for Reference {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Reference, Malformed> {
        let fail = |reason| Malformed { text: text.into(), reason };
        let (rest, digest) =
            match text.split_once('@') {
                Some((rest, digest)) => (
                    rest,
                    Some(digest.parse::<Digest>().map_err(|_| {
                        fail("after @ stands sha256: and 64 hexadecimal digits in lower case")
                    })?),
                ),
                None => (text, None),
            };
        // A colon behind the last slash begins a tag; before it, a port.
        let (name, tag) = match rest.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
            _ => (rest, None),
        };
        if tag.is_some_and(|tag| !is_tag(tag)) {
            return Err(fail("a tag has letters, digits, `_`, `.` and `-`, and at most 128 of them"));
        }
        let (registry, path) = match name.split_once('/') {
            Some((first, path)) if is_host(first) => (first, path),
            _ => (HUB, name),
        };
        let registry = if registry == "index.docker.io" { HUB } else { registry };
        if !is_registry(registry) {
            return Err(fail("before the first slash stands a host name, and a port if any"));
        }
        if name.len() == 64 && name.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(fail("64 hexadecimal digits are the id of an image"));
        }
        if path.is_empty() || !path.split('/').all(is_component) {
            return Err(fail(
                "a repository has parts of lower-case letters and digits, which `.`, `_`, `__` or `-` may join",
            ));
        }
        let single = registry == HUB && !path.contains('/');
        let repository = if single { format!("library/{path}") } else { path.to_owned() };
        if registry.len() + 1 + repository.len() > LONGEST_NAME {
            return Err(fail("it is longer than 255 characters"));
        }
        let tag = tag.map(str::to_owned).or_else(|| digest.is_none().then(|| DEFAULT_TAG.to_owned()));
        Ok(Reference { registry: registry.to_owned(), repository, tag, digest })
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

fn is_host(part: &str) -> bool {
    part.contains(['.', ':']) || part == "localhost" || part.bytes().any(|byte| byte.is_ascii_uppercase())
}

fn is_registry(text: &str) -> bool {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (text, None),
    };
    let label = |label: &str| {
        !label.is_empty()
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let address = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let is_host = match address {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => host.split('.').all(label),
    };
    is_host && port.is_none_or(|port| !port.starts_with('+') && port.parse::<u16>().is_ok())
}

fn is_tag(tag: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    tag.len() <= LONGEST_TAG
        && tag.bytes().next().is_some_and(word)
        && tag.bytes().all(|byte| word(byte) || byte == b'.' || byte == b'-')
}

/// Letters and digits, joined by one dot, one or two underscores, or any number of hyphens.
fn is_component(part: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let separators: Vec<&str> =
        part.split(|c: char| c.is_ascii() && plain(c as u8)).filter(|s| !s.is_empty()).collect();
    part.bytes().next().is_some_and(plain)
        && part.bytes().next_back().is_some_and(plain)
        && separators
            .iter()
            .all(|one| matches!(*one, "." | "_" | "__") || one.bytes().all(|byte| byte == b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    #[test]
    fn names_are_completed_as_docker_users_expect() {
        for (text, complete, familiar) in [
            ("debian", "docker.io/library/debian:latest", "debian:latest"),
            ("debian:13", "docker.io/library/debian:13", "debian:13"),
            ("grafana/loki", "docker.io/grafana/loki:latest", "grafana/loki:latest"),
            ("docker.io/debian", "docker.io/library/debian:latest", "debian:latest"),
            ("index.docker.io/library/debian:13", "docker.io/library/debian:13", "debian:13"),
            ("localhost/a", "localhost/a:latest", "localhost/a:latest"),
            ("localhost:5000/a/b:c", "localhost:5000/a/b:c", "localhost:5000/a/b:c"),
            ("ghcr.io/a/b", "ghcr.io/a/b:latest", "ghcr.io/a/b:latest"),
            ("[::1]:5000/a", "[::1]:5000/a:latest", "[::1]:5000/a:latest"),
            ("docker.io/a.b/c", "docker.io/a.b/c:latest", "docker.io/a.b/c:latest"),
            ("docker.io/library/a/b", "docker.io/library/a/b:latest", "library/a/b:latest"),
            ("a__b/c.d_e---f:V1.0-x", "docker.io/a__b/c.d_e---f:V1.0-x", "a__b/c.d_e---f:V1.0-x"),
        ] {
            let reference: Reference = text.parse().unwrap();
            assert_eq!(reference.to_string(), complete);
            assert_eq!(reference.familiar(), familiar);
            assert_eq!(reference.to_string().parse::<Reference>().unwrap(), reference);
        }
    }

    #[test]
    fn a_digest_is_exact_and_needs_no_tag() {
        let reference: Reference = format!("debian@sha256:{HEX}").parse().unwrap();
        assert_eq!((reference.tag.as_deref(), &*reference.version()), (None, &*format!("sha256:{HEX}")));
        let both: Reference = format!("a.b:1/x:t@sha256:{HEX}").parse().unwrap();
        assert_eq!((both.registry.as_str(), both.tag.as_deref()), ("a.b:1", Some("t")));
        assert_eq!(both.version(), format!("sha256:{HEX}"));
    }

    #[test]
    fn what_is_no_name_is_refused() {
        let long = "a".repeat(256);
        let tag = format!("a:{}", "t".repeat(129));
        for text in [
            "",
            ":",
            "a:",
            "/a",
            "a/",
            "a//b",
            "A",
            "a/B",
            "-a",
            "a-",
            "a..b",
            "a___b",
            "a:b/",
            "a b",
            "a\n",
            "../a",
            "a/../b",
            ".a",
            "a:.t",
            "a:-t",
            "a@",
            "a@sha256:12",
            "a@md5:1",
            "h.x:99999/a",
            "h.x:/a",
            "h..x/a",
            "é",
            "[::1/a",
            HEX,
            &long,
            &tag,
        ] {
            assert!(text.parse::<Reference>().is_err(), "{text:?} was taken");
        }
    }
}
