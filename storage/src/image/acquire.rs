//! Takes an image in: its manifest for this platform, its configuration, and its layers, several at a time.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use super::digest::Digest;
use super::error::Error;
use super::index::{Image, parse_config, parse_manifest};
use super::joint;
use super::spec::{Descriptor, Index, LARGEST, Manifest, Platform};
use super::store::{Pin, Store};
use super::unpack::Unpack;

/// Layers that are fetched and unpacked at a time.
const AT_A_TIME: usize = 4;
/// Lists in lists. More, or a list that holds itself, is no image.
const DEEPEST: usize = 4;

/// Where an image comes from: an archive or a folder, or a registry.
pub trait Origin: Sync {
    /// A manifest, or a list of them. The caller checks its digest.
    ///
    /// # Errors
    ///
    /// It cannot be had.
    fn manifest(&self, of: &Descriptor) -> Result<Vec<u8>, Error>;

    /// Puts a blob into the store, checked.
    ///
    /// # Errors
    ///
    /// It cannot be had, or is not what it should be.
    fn fetch(&self, store: &Store, blob: &Descriptor) -> Result<(), Error>;

    /// What happens, for whoever shows it.
    fn tell(&self, _event: Event<'_>) {}
}

/// Of a layer that is being taken in.
#[derive(Debug, Clone, Copy)]
pub enum Event<'a> {
    /// It is there already.
    Present(&'a Descriptor),
    /// It is being unpacked.
    Unpacking(&'a Descriptor),
    /// It is ready.
    Unpacked(&'a Descriptor),
}

/// A manifest, and the bytes that its digest is of.
#[derive(Debug, Clone)]
pub struct Found {
    /// Of the bytes.
    pub digest: Digest,
    /// As they came.
    pub bytes: Vec<u8>,
    /// What they say.
    pub manifest: Manifest,
}

/// The manifest for a platform, through lists where there are some.
///
/// # Errors
///
/// There is none for it, or what there is makes no sense.
pub fn resolve(origin: &dyn Origin, descriptor: &Descriptor, wanted: &Platform) -> Result<Found, Error> {
    let mut descriptor = descriptor.clone();
    for _ in 0..DEEPEST {
        if descriptor.size > LARGEST {
            return Err(Error::nonsense(&descriptor.digest, "it is larger than any manifest (8 MiB)"));
        }
        let bytes = origin.manifest(&descriptor)?;
        let found = Digest::of(&bytes);
        if found != descriptor.digest {
            return Err(Error::Digest { expected: descriptor.digest, found });
        }
        if !is_list(&descriptor, &bytes) {
            let manifest = parse_manifest(&found, &bytes)?;
            return Ok(Found { digest: found, bytes, manifest });
        }
        let parse = |source| Error::Parse { what: found.to_string(), kind: "list of manifests", source };
        let list: Index = serde_json::from_slice(&bytes).map_err(parse)?;
        descriptor = choose(&found, &list, wanted)?;
    }
    Err(Error::nonsense(&descriptor.digest, "its lists of manifests go round in circles, or too deep"))
}

/// By what it says it is, or where it says nothing, by what it has.
fn is_list(descriptor: &Descriptor, bytes: &[u8]) -> bool {
    #[derive(serde::Deserialize)]
    struct Shape {
        #[serde(default)]
        manifests: Option<serde::de::IgnoredAny>,
        #[serde(default)]
        layers: Option<serde::de::IgnoredAny>,
    }
    match serde_json::from_slice::<Shape>(bytes) {
        // What has both could mean one thing to us and another to the next reader (CVE-2021-41190).
        Ok(Shape { manifests: Some(_), layers: None }) => true,
        Ok(Shape { manifests: None, .. }) => false,
        _ => descriptor.is_list(),
    }
}

fn choose(list: &Digest, index: &Index, wanted: &Platform) -> Result<Descriptor, Error> {
    let fits = |one: &&Descriptor| one.platform.as_ref().is_some_and(|platform| wanted.takes(platform));
    if let Some(found) = index.manifests.iter().find(fits) {
        return Ok(found.clone());
    }
    // A list of one that says nothing of platforms is an archive's.
    match index.manifests.as_slice() {
        [one] if one.platform.is_none() => Ok(one.clone()),
        all => {
            let found = all.iter().filter_map(|one| one.platform.as_ref()).map(ToString::to_string).collect();
            Err(Error::Platform { what: list.to_string(), wanted: wanted.to_string(), found })
        }
    }
}

/// Fetches and unpacks what is missing of the image, and puts it on the list.
///
/// # Errors
///
/// Something cannot be fetched or unpacked; then the list is as it was.
pub fn take_in(
    store: &Store,
    mut pin: Pin,
    origin: &dyn Origin,
    found: &Found,
    name: &str,
    how: &Unpack,
) -> Result<Image, Error> {
    let manifest = &found.manifest;
    let layers = &manifest.layers;
    let blobs = layers.iter().map(|layer| &layer.digest);
    pin.add(blobs.chain([&found.digest, &manifest.config.digest]))?;
    origin.fetch(store, &manifest.config)?;
    let config = parse_config(manifest, &store.small(&manifest.config.digest)?)?;
    pin.add(&config.rootfs.diff_ids)?;
    let one = |index: usize| -> Result<(), Error> {
        let (layer, plain) = (&layers[index], &config.rootfs.diff_ids[index]);
        if store.blob(&layer.digest).exists() && store.layer(plain).is_dir() {
            origin.tell(Event::Present(layer));
            return Ok(());
        }
        origin.fetch(store, layer)?;
        origin.tell(Event::Unpacking(layer));
        store.unpack(&layer.digest, Some(plain), how)?;
        origin.tell(Event::Unpacked(layer));
        Ok(())
    };
    all(layers.len(), one)?;
    pin.add([&joint::digest(&config.rootfs.diff_ids)])?;
    store.join(&config.rootfs.diff_ids, how)?;
    store.link(&found.digest, &config.rootfs.diff_ids, how.privileged)?;
    store.put_blob(&*found.bytes, Some(&found.digest), None)?;
    store.settle()?;
    let image = Image {
        name: name.to_owned(),
        manifest: found.digest.clone(),
        id: manifest.config.digest.clone(),
        size: layers.iter().fold(manifest.config.size, |sum, layer| sum.saturating_add(layer.size)),
        added: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs(),
    };
    store.add(image.clone())?;
    Ok(image)
}

/// Does the work of all numbers below `count`, several at a time; after a failure no more is begun.
fn all(count: usize, work: impl Fn(usize) -> Result<(), Error> + Sync) -> Result<(), Error> {
    let next = AtomicUsize::new(0);
    let failed = Mutex::new(None);
    std::thread::scope(|scope| {
        for _ in 0..count.min(AT_A_TIME) {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    if index >= count {
                        break;
                    }
                    if let Err(error) = work(index) {
                        next.store(count, Ordering::Relaxed);
                        let mut failed = failed.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                        failed.get_or_insert(error);
                    }
                }
            });
        }
    });
    failed.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner).map_or(Ok(()), Err)
}
