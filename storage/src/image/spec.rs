//! What is read and written of the image specification: manifests, lists of them, and the configuration of an image.
//! Fields that nobody here needs are passed over; the bytes themselves are kept in the store as they came.

use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Serialize};

use super::digest::Digest;

/// Media types of what is written (image-spec, media-types.md).
pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// A list of manifests.
pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// The configuration of an image.
pub const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
/// A layer, without compression; `+gzip` and `+zstd` are appended.
pub const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
/// Docker's own manifest.
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
/// Docker's own list.
pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";

/// A manifest, a list or a configuration larger than this is refused, in bytes. Registries take 4 MiB.
pub const LARGEST: u64 = 8 << 20;
/// Layers of an image at most: overlayfs takes 500.
pub const MOST_LAYERS: usize = 500;

/// Names a blob.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// What it is.
    #[serde(default)]
    pub media_type: String,
    /// Its name in the store.
    pub digest: Digest,
    /// Its length in bytes.
    pub size: u64,
    /// Of a manifest in a list.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    /// Notes, such as the tag.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

impl Descriptor {
    /// Of a blob without notes.
    #[must_use]
    pub fn new(media_type: &str, digest: Digest, size: u64) -> Descriptor {
        Descriptor {
            media_type: media_type.into(),
            digest,
            size,
            platform: None,
            annotations: BTreeMap::new(),
        }
    }

    /// It names a list of manifests.
    #[must_use]
    pub fn is_list(&self) -> bool {
        matches!(&*self.media_type, INDEX | DOCKER_LIST)
    }
}

/// Which machines an image is for, in Go's words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Platform {
    /// Such as `amd64`.
    #[serde(default)]
    pub architecture: String,
    /// Such as `linux`.
    #[serde(default)]
    pub os: String,
    /// Such as `v8`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
}

impl Platform {
    /// This machine's.
    #[must_use]
    pub fn here() -> Platform {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            "x86" => "386",
            other => other,
        };
        Platform { architecture: architecture.into(), os: "linux".into(), variant: None }
    }

    /// An image for `other` runs here.
    #[must_use]
    pub fn takes(&self, other: &Platform) -> bool {
        let variant = self.variant.is_none() || other.variant.is_none() || self.variant == other.variant;
        self.os == other.os && self.architecture == other.architecture && variant
    }
}

impl std::fmt::Display for Platform {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        self.variant.iter().try_for_each(|variant| write!(f, "/{variant}"))
    }
}

impl std::str::FromStr for Platform {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Platform, Self::Err> {
        let mut parts = text.split('/').map(str::to_owned);
        let platform = Platform {
            os: parts.next().unwrap_or_default(),
            architecture: parts.next().unwrap_or_default(),
            variant: parts.next(),
        };
        let is_whole = !platform.os.is_empty() && !platform.architecture.is_empty() && parts.next().is_none();
        if is_whole {
            Ok(platform)
        } else {
            Err("a platform is OS/ARCHITECTURE[/VARIANT], such as linux/amd64")
        }
    }
}

/// The parts of an image for one platform.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// 2.
    pub schema_version: u32,
    /// What it is.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub media_type: String,
    /// The configuration.
    pub config: Descriptor,
    /// From the lowest to the topmost.
    pub layers: Vec<Descriptor>,
}

/// A list of manifests, and `index.json` of a layout.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Index {
    /// 2.
    pub schema_version: u32,
    /// What it is.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub media_type: String,
    /// For various platforms, or of various tags.
    pub manifests: Vec<Descriptor>,
}

/// The configuration of an image.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Config {
    /// When it was made, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// What it runs on.
    #[serde(flatten)]
    pub platform: Platform,
    /// How it is run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<Settings>,
    /// Its layers.
    pub rootfs: RootFs,
}

/// The layers of an image, uncompressed.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RootFs {
    /// `layers`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Digests of the uncompressed layers, from the lowest to the topmost.
    pub diff_ids: Vec<Digest>,
}

/// How an image wants to be run.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Settings {
    /// User and group, by name or number.
    #[serde(deserialize_with = "or_default")]
    pub user: String,
    /// Variables as NAME=VALUE.
    #[serde(deserialize_with = "or_default")]
    pub env: Vec<String>,
    /// What is executed before the arguments.
    #[serde(deserialize_with = "or_default")]
    pub entrypoint: Vec<String>,
    /// The arguments that a command of the caller's replaces.
    #[serde(deserialize_with = "or_default")]
    pub cmd: Vec<String>,
    /// Working directory.
    #[serde(deserialize_with = "or_default")]
    pub working_dir: String,
    /// The signal that asks it to stop.
    #[serde(deserialize_with = "or_default")]
    pub stop_signal: String,
    /// Notes.
    #[serde(deserialize_with = "or_default")]
    pub labels: HashMap<String, String>,
    /// Folders whose content outlives the context: the keys.
    #[serde(deserialize_with = "or_default")]
    pub volumes: HashMap<String, serde_json::Value>,
}

/// Writers in Go put `null` where a list is empty.
fn or_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_with_nulls_is_read() {
        let text = r#"{"architecture":"amd64","os":"linux","config":{"Env":null,"Cmd":["sh"],"Volumes":null},
            "rootfs":{"type":"layers","diff_ids":[]},"history":[{"created":"x"}]}"#;
        let config: Config = serde_json::from_str(text).unwrap();
        assert!(Platform::here().os == config.platform.os);
        assert_eq!(config.config.unwrap().cmd, ["sh"]);
    }

    #[test]
    fn a_platform_takes_its_own_and_variants_only_when_named() {
        let arm = |text: &str| text.parse::<Platform>().unwrap();
        assert!(arm("linux/arm64").takes(&arm("linux/arm64/v8")));
        assert!(!arm("linux/arm/v6").takes(&arm("linux/arm/v7")));
        assert!("linux".parse::<Platform>().is_err());
    }
}
