//! The list of images: names, and the manifests they stand for.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::digest::Digest;
use super::error::Error;
use super::reference::Reference;
use super::spec::{Config, LARGEST, MOST_LAYERS, Manifest};
use super::store::{Access, Store, unique};

/// An image under one of its names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// Its complete name.
    pub name: String,
    /// Digest of its manifest for one platform.
    pub manifest: Digest,
    /// Digest of its configuration, which Docker calls the image's id.
    pub id: Digest,
    /// Bytes of its blobs.
    pub size: u64,
    /// When it came, in seconds since 1970.
    pub added: u64,
}

#[derive(Default, Serialize, Deserialize)]
struct List {
    version: u32,
    images: Vec<Image>,
}

/// An image with all that it says.
#[derive(Debug, Clone)]
pub struct Details {
    /// Its manifest.
    pub manifest: Manifest,
    /// Its configuration.
    pub config: Config,
}

impl Details {
    /// Everything that must stay as long as the image does: digests of blobs and of layers.
    pub fn digests(&self) -> impl Iterator<Item = &Digest> {
        let blobs = self.manifest.layers.iter().map(|layer| &layer.digest);
        std::iter::once(&self.manifest.config.digest).chain(blobs).chain(&self.config.rootfs.diff_ids)
    }
}

impl Store {
    /// All images, by name.
    ///
    /// # Errors
    ///
    /// The list cannot be read.
    pub fn images(&self) -> Result<Vec<Image>, Error> {
        let path = self.index_path();
        let bytes = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            bytes => bytes.map_err(Error::file("read", &path))?,
        };
        let parse =
            |source| Error::Parse { what: path.display().to_string(), kind: "list of images", source };
        Ok(serde_json::from_slice::<List>(&bytes).map_err(parse)?.images)
    }

    /// The image of a name, or of the beginning of an id.
    ///
    /// # Errors
    ///
    /// There is none, or there are several.
    pub fn find(&self, text: &str) -> Result<Image, Error> {
        let images = self.images()?;
        if let Ok(reference) = text.parse::<Reference>()
            && let Some(image) = named(&images, &reference)
        {
            return Ok(image.clone());
        }
        let hex = text.strip_prefix("sha256:").unwrap_or(text);
        let is_id = hex.len() >= 4 && hex.bytes().all(|byte| byte.is_ascii_hexdigit());
        let mut found = images.iter().filter(|image| is_id && image.id.hex().starts_with(hex));
        match (found.next(), found.find(|_| true)) {
            (None, _) => Err(Error::Absent(text.into())),
            (Some(one), Some(other)) if one.id != other.id => Err(Error::Ambiguous(text.into())),
            (Some(image), _) => Ok(image.clone()),
        }
    }

    /// Puts an image on the list, or gives its name to another.
    ///
    /// # Errors
    ///
    /// The list cannot be written.
    pub fn add(&self, image: Image) -> Result<(), Error> {
        let _lock = self.lock(Access::Change)?;
        let mut images = self.images()?;
        images.retain(|other| other.name != image.name);
        images.push(image);
        self.write(images)
    }

    /// Takes names off the list: this one, or of an id all.
    ///
    /// # Errors
    ///
    /// There is no such image, or the list cannot be written.
    pub fn remove(&self, text: &str) -> Result<Vec<Image>, Error> {
        let _lock = self.lock(Access::Change)?;
        let found = self.find(text)?;
        let by_name = text.parse::<Reference>().is_ok_and(|reference| is_of(&found, &reference));
        let goes = |image: &Image| if by_name { image.name == found.name } else { image.id == found.id };
        let (gone, stay) = self.images()?.into_iter().partition(goes);
        self.write(stay)?;
        Ok(gone)
    }

    fn write(&self, mut images: Vec<Image>) -> Result<(), Error> {
        images.sort_by(|one, other| one.name.cmp(&other.name));
        let path = self.index_path();
        let bytes = serde_json::to_vec_pretty(&List { version: 1, images }).map_err(|source| {
            Error::Parse { what: path.display().to_string(), kind: "list of images", source }
        })?;
        let temporary: PathBuf = self.partials().join(unique("images"));
        let write = || -> io::Result<()> {
            let mut file = File::create(&temporary)?;
            file.write_all(&bytes)?;
            file.sync_all()?;
            fs::rename(&temporary, &path)?;
            // What has been said to be on the list stays there.
            File::open(self.folder())?.sync_all()
        };
        write().map_err(Error::file("write", &path))
    }

    /// The manifest and the configuration of an image.
    ///
    /// # Errors
    ///
    /// One of them is missing or damaged.
    pub fn details(&self, manifest: &Digest) -> Result<Details, Error> {
        let bytes = self.small(manifest)?;
        let manifest = parse_manifest(manifest, &bytes)?;
        let config = parse_config(&manifest, &self.small(&manifest.config.digest)?)?;
        Ok(Details { manifest, config })
    }
}

fn is_of(image: &Image, reference: &Reference) -> bool {
    let without_digest = Reference { digest: None, ..reference.clone() };
    let is_digest = reference.digest.as_ref().is_none_or(|digest| *digest == image.manifest);
    match &reference.tag {
        Some(_) => image.name == without_digest.to_string() && is_digest,
        None => is_digest && image.name.parse::<Reference>().is_ok_and(|own| own.name() == reference.name()),
    }
}

fn named<'a>(images: &'a [Image], reference: &Reference) -> Option<&'a Image> {
    let full = reference.to_string();
    images
        .iter()
        .find(|image| image.name == full)
        .or_else(|| images.iter().find(|image| is_of(image, reference)))
}

/// A manifest from its bytes.
///
/// # Errors
///
/// It is none, or has more layers than an image may have.
pub fn parse_manifest(digest: &Digest, bytes: &[u8]) -> Result<Manifest, Error> {
    let parse = |source| Error::Parse { what: digest.to_string(), kind: "manifest of an image", source };
    let manifest: Manifest = serde_json::from_slice(bytes).map_err(parse)?;
    let count = manifest.layers.len();
    if count > MOST_LAYERS {
        return Err(Error::nonsense(
            digest,
            format!("it has {count} layers, and {MOST_LAYERS} are the most"),
        ));
    }
    if manifest.config.size > LARGEST {
        return Err(Error::nonsense(digest, "its configuration is larger than 8 MiB"));
    }
    Ok(manifest)
}

/// The configuration of an image from its bytes.
///
/// # Errors
///
/// It is none, or does not fit the manifest.
pub fn parse_config(manifest: &Manifest, bytes: &[u8]) -> Result<Config, Error> {
    let what = &manifest.config.digest;
    let parse = |source| Error::Parse { what: what.to_string(), kind: "configuration of an image", source };
    let config: Config = serde_json::from_slice(bytes).map_err(parse)?;
    let (layers, archives) = (config.rootfs.diff_ids.len(), manifest.layers.len());
    if layers != archives {
        return Err(Error::nonsense(what, format!("it has {layers} layers, and its manifest {archives}")));
    }
    Ok(config)
}
