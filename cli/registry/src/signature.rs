//! Signatures as cosign makes them with a key pair: beside the image `sha256:HEX` lies one with the tag `sha256-HEX.sig`,
//! whose layers are statements (containers-signature(5): which digest, under which name) with the signature as an
//! annotation. ECDSA on P-256 over the statement's SHA-256.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use serde::Deserialize;
use serde::de::IgnoredAny;
use vctx_storage::image::spec::{Descriptor, Manifest};
use vctx_storage::image::{Digest, Reference};

use crate::error::Error;
use crate::policy::{Demand, Identity, Policy};

const STATEMENT: &str = "application/vnd.dev.cosign.simplesigning.v1+json";
const SIGNATURE: &str = "dev.cosignproject.cosign/signature";
const KIND: &str = "cosign container image signature";
/// Signatures of one image that are looked at.
const MOST: usize = 64;
/// Of a statement, in bytes.
pub(crate) const LARGEST: u64 = 64 << 10;
/// What precedes the point in a public key on P-256 (RFC 5480, section 2): its algorithm and curve.
const PREFIX: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86,
    0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];
/// An uncompressed point.
const POINT: usize = 65;

/// A public key.
#[derive(Debug)]
pub(crate) struct Key {
    /// Where it comes from.
    name: String,
    point: Vec<u8>,
}

/// What is signed.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Statement {
    critical: Critical,
    #[serde(default, rename = "optional")]
    _optional: IgnoredAny,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Critical {
    #[serde(rename = "type")]
    kind: String,
    image: Image,
    identity: Name,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Image {
    #[serde(rename = "docker-manifest-digest")]
    digest: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Name {
    #[serde(rename = "docker-reference")]
    reference: String,
}

/// A statement with its signature, as it came.
pub(crate) struct Signed {
    bytes: Vec<u8>,
    signature: Vec<u8>,
}

impl Key {
    /// From the PEM that cosign and openssl write.
    pub(crate) fn of_pem(name: String, pem: &[u8]) -> Result<Key, Error> {
        let decode = || -> Option<Vec<u8>> {
            let text = std::str::from_utf8(pem).ok()?;
            let (_, rest) = text.split_once("-----BEGIN PUBLIC KEY-----")?;
            let (body, _) = rest.split_once("-----END PUBLIC KEY-----")?;
            let body: String = body.split_whitespace().collect();
            let bytes = STANDARD.decode(body).ok()?;
            Some(bytes.strip_prefix(&PREFIX)?.to_vec()).filter(|point| point.len() == POINT)
        };
        match decode() {
            Some(point) => Ok(Key { name, point }),
            None => Err(Error::Key { name }),
        }
    }

    fn has_signed(&self, signed: &Signed) -> bool {
        let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, &self.point);
        key.verify(&signed.bytes, &signed.signature).is_ok()
    }
}

/// The tag under which the signatures of an image lie.
pub(crate) fn tag(digest: &Digest) -> String {
    format!("sha256-{}.sig", digest.hex())
}

/// The statements that a list of signatures names, and their signatures.
pub(crate) fn statements(manifest: &Manifest) -> Vec<(&Descriptor, Vec<u8>)> {
    let signed = |layer: &&Descriptor| layer.media_type == STATEMENT && layer.size <= LARGEST;
    let layers = manifest.layers.iter().filter(signed).take(MOST);
    layers
        .filter_map(|layer| Some((layer, STANDARD.decode(layer.annotations.get(SIGNATURE)?.trim()).ok()?)))
        .collect()
}

impl Signed {
    pub(crate) fn new(bytes: Vec<u8>, signature: Vec<u8>) -> Signed {
        Signed { bytes, signature }
    }
}

/// Checks an image against what is asked of it. `digests` are those by which it is named: of its manifest, and of the list
/// that names this manifest.
pub(crate) fn check(
    policy: &Policy,
    reference: &Reference,
    digests: &[Digest],
    found: &[Signed],
) -> Result<(), Error> {
    for demand in &policy.demands {
        let reason = match demand {
            Demand::Reject => "it refuses all images of this name".to_owned(),
            Demand::Unknown(what) => format!("it asks for {what}, which vctx cannot check"),
            Demand::Signed { keys, identity } => match by_one_of(keys, identity, reference, digests, found) {
                None => continue,
                Some(reason) => reason,
            },
        };
        return Err(Error::Refused { name: reference.familiar(), policy: policy.path.clone(), reason });
    }
    Ok(())
}

/// Why no signature will do; nothing where one does.
fn by_one_of(
    keys: &[Key],
    identity: &Identity,
    reference: &Reference,
    digests: &[Digest],
    found: &[Signed],
) -> Option<String> {
    let names = keys.iter().map(|key| key.name.as_str()).collect::<Vec<_>>().join(", ");
    let mut reason = match found.is_empty() {
        true => "it is not signed".to_owned(),
        false => format!("no signature is by {names}"),
    };
    for signed in found {
        if !keys.iter().any(|key| key.has_signed(signed)) {
            continue;
        }
        // Only what is signed is read.
        let Ok(Statement { critical, .. }) = serde_json::from_slice(&signed.bytes) else {
            reason = "what is signed is no statement of an image".to_owned();
            continue;
        };
        let name = &critical.identity.reference;
        if critical.kind != KIND {
            reason = format!("what is signed is a {:?}, and no {KIND}", critical.kind);
        } else if !digests.iter().any(|digest| digest.to_string() == critical.image.digest) {
            reason = format!("the signature is for {:?}", critical.image.digest);
        } else if !identity.takes(reference, name) {
            reason = format!("the signature is for the name {name:?}");
        } else {
            return None;
        }
    }
    Some(reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_of_another_kind_is_refused() {
        let pem = |bytes: &[u8]| {
            format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", STANDARD.encode(bytes))
        };
        let whole = [&PREFIX[..], &[4; POINT]].concat();
        assert!(Key::of_pem("k".into(), pem(&whole).as_bytes()).is_ok());
        assert!(Key::of_pem("k".into(), pem(&whole[..90]).as_bytes()).is_err());
        assert!(Key::of_pem("k".into(), pem(&[0; 91]).as_bytes()).is_err());
        assert!(Key::of_pem("k".into(), b"-----BEGIN PUBLIC KEY-----").is_err());
    }
}
