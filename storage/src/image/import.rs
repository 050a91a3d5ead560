//! Images from files: `vctx image import`.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::Path;

use flate2::Compression as Level;
use flate2::write::GzEncoder;
use serde::Deserialize;

use super::acquire::{Found, Origin, resolve, take_in};
use super::bootstrap::Root;
use super::compression::{Compression, plain};
use super::digest::{Digest, Digesting};
use super::error::Error;
use super::index::{Image, parse_manifest};
use super::pack;
use super::reference::Reference;
use super::source::Files;
use super::spec::{self, Config, Descriptor, Index, Manifest, Platform, RootFs};
use super::store::{Store, unique};
use super::unpack::Unpack;

/// Annotations that name an image: that of containerd and Docker in full, that of the specification maybe a tag alone.
const FULL_NAME: &str = "io.containerd.image.name";
const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// How hard a folder is compressed: most of what can be gained, for a third of the time of gzip's own choice.
const PACKED: u32 = 3;

/// What is imported, and as what.
#[derive(Debug)]
pub struct Import<'a> {
    /// A folder or a file; nothing for standard input.
    pub path: Option<&'a Path>,
    /// Its name, where it does not say one itself.
    pub name: Option<&'a Reference>,
    /// Which of several platforms.
    pub platform: &'a Platform,
    /// How its layers are unpacked.
    pub unpack: Unpack,
}

impl Store {
    /// Imports an OCI layout, an archive of one, an archive of `docker save`, or a root file system: an archive or a folder.
    ///
    /// # Errors
    ///
    /// It cannot be read, is none of them, or its layers cannot be unpacked.
    pub fn import(&self, import: &Import<'_>) -> Result<Vec<Image>, Error> {
        self.make()?;
        let standard = Path::new("standard input");
        let path = import.path.unwrap_or(standard);
        if import.path.is_some() && path.is_dir() {
            let files = Files::Folder(path.into());
            return match files.has("index.json") {
                true => self.layout(import, &files),
                false => self.packed(import, path).map(|image| vec![image]),
            };
        }
        // An archive is read more than once, and one of images in no order.
        let spooled;
        let mut file = match import.path {
            Some(path) => File::open(path).map_err(Error::file("read", path))?,
            None => {
                spooled = self.spool(&mut io::stdin().lock(), path)?;
                spooled.file.try_clone().map_err(Error::file("read", &spooled.path))?
            }
        };
        let is_regular = file.metadata().is_ok_and(|about| about.is_file());
        let piped;
        if !is_regular {
            piped = self.spool(&mut file, path)?;
            file = piped.file.try_clone().map_err(Error::file("read", &piped.path))?;
        }
        self.archive(import, path, file)
    }

    /// Takes in a root that was made for it.
    ///
    /// # Errors
    ///
    /// As [`Store::import`].
    pub fn import_root(&self, import: &Import<'_>, root: &Root) -> Result<Image, Error> {
        match root.archive() {
            Some(file) => self.root(import, root.path(), file),
            None => self.packed(import, root.path()),
        }
    }

    /// A folder with a root file system becomes the only layer of an image.
    fn packed(&self, import: &Import<'_>, path: &Path) -> Result<Image, Error> {
        import.name.ok_or_else(|| Error::Nameless { path: path.into() })?;
        let folder = path.canonicalize().map_err(Error::file("read", path))?;
        if self.folder().canonicalize().is_ok_and(|own| own.starts_with(&folder)) {
            return Err(Error::nonsense(path.display(), "the store itself lies in it"));
        }
        let spooled = self.partial(&unique("pack"), false)?;
        spooled.empty()?;
        let mut output = GzEncoder::new(&spooled.file, Level::new(PACKED));
        pack::pack(&folder, &mut output).map_err(|source| Error::Pack { path: path.into(), source })?;
        output.finish().map_err(Error::file("write", &spooled.path))?;
        self.root(import, path, &spooled.file)
    }

    fn spool(&self, input: &mut dyn Read, path: &Path) -> Result<super::store::Partial, Error> {
        let partial = self.partial(&unique("spool"), false)?;
        partial.empty()?;
        io::copy(input, &mut &partial.file).map_err(Error::file("read", path))?;
        io::Seek::rewind(&mut &partial.file).map_err(Error::file("read", path))?;
        Ok(partial)
    }

    fn archive(&self, import: &Import<'_>, path: &Path, file: File) -> Result<Vec<Image>, Error> {
        let mut head = [0; 6];
        let count =
            std::os::unix::fs::FileExt::read_at(&file, &mut head, 0).map_err(Error::file("read", path))?;
        match Compression::of(&head[..count]) {
            Compression::None => match Files::of_archive(path, file)? {
                Ok(files) if files.has("index.json") => self.layout(import, &files),
                Ok(files) => self.docker(import, &files),
                Err(file) => self.root(import, path, &file).map(|image| vec![image]),
            },
            _ => {
                let mut plain = plain(&file).map_err(Error::file("read", path))?;
                let is_image = super::archive::Archive::new(&mut plain)
                    .next_entry()
                    .map_err(|source| Error::Archive { path: path.into(), source })?
                    .is_some_and(|entry| Files::is_of_images(&entry));
                drop(plain);
                io::Seek::rewind(&mut &file).map_err(Error::file("read", path))?;
                if !is_image {
                    return self.root(import, path, &file).map(|image| vec![image]);
                }
                let spooled = self
                    .spool(&mut super::compression::plain(&file).map_err(Error::file("read", path))?, path)?;
                self.archive(import, path, spooled.file.try_clone().map_err(Error::file("read", path))?)
            }
        }
    }

    fn layout(&self, import: &Import<'_>, files: &Files) -> Result<Vec<Image>, Error> {
        let parse = |source| Error::Parse {
            what: format!("index.json in {}", files.path().display()),
            kind: "index of an OCI layout",
            source,
        };
        let index: Index = serde_json::from_slice(&files.small("index.json")?).map_err(parse)?;
        let mut chosen: Vec<(String, &Descriptor)> = Vec::new();
        for descriptor in &index.manifests {
            let name = import.name.cloned().or_else(|| name_of(descriptor));
            // Signatures and notes of builders lie beside images and have no name of one.
            let is_elsewhere = descriptor.platform.as_ref().is_some_and(|one| !import.platform.takes(one));
            match name {
                Some(name) if !is_elsewhere => chosen.push((name.to_string(), descriptor)),
                _ => {}
            }
        }
        if chosen.is_empty() {
            return match index.manifests.is_empty() || import.name.is_some() {
                true => Err(Error::nonsense(
                    files.path().display(),
                    format!("it has no image for {}", import.platform),
                )),
                false => Err(Error::Nameless { path: files.path().into() }),
            };
        }
        if import.name.is_some() && chosen.len() > 1 {
            let known = index
                .manifests
                .iter()
                .map(|one| name_of(one).map_or_else(|| one.digest.to_string(), |n| n.familiar()));
            return Err(Error::Several { path: files.path().into(), names: known.collect() });
        }
        let origin = Layout(files);
        let take = |(name, descriptor): (String, &Descriptor)| {
            let pin = self.pin()?;
            let found = resolve(&origin, descriptor, import.platform)?;
            take_in(self, pin, &origin, &found, &name, &import.unpack)
        };
        chosen.into_iter().map(take).collect()
    }

    fn docker(&self, import: &Import<'_>, files: &Files) -> Result<Vec<Image>, Error> {
        let parse =
            |what: String| move |source| Error::Parse { what, kind: "archive of docker save", source };
        let what = format!("manifest.json in {}", files.path().display());
        let saved: Vec<Saved> =
            serde_json::from_slice(&files.small("manifest.json")?).map_err(parse(what))?;
        if import.name.is_some() && saved.len() > 1 {
            let names =
                saved.iter().map(|one| one.repo_tags.iter().flatten().cloned().collect::<Vec<_>>().join(" "));
            return Err(Error::Several { path: files.path().into(), names: names.collect() });
        }
        let mut images = Vec::new();
        for one in &saved {
            let names: Vec<Reference> = match import.name {
                Some(name) => vec![name.clone()],
                None => one.repo_tags.iter().flatten().map(|tag| tag.parse()).collect::<Result<_, _>>()?,
            };
            if names.is_empty() {
                return Err(Error::Nameless { path: files.path().into() });
            }
            let origin = one.described(files)?;
            for name in names {
                images.push(take_in(
                    self,
                    self.pin()?,
                    &origin,
                    &origin.found,
                    &name.to_string(),
                    &import.unpack,
                )?);
            }
        }
        Ok(images)
    }

    /// A plain archive of a root file system becomes the only layer of an image.
    fn root(&self, import: &Import<'_>, path: &Path, file: &File) -> Result<Image, Error> {
        let name = import.name.ok_or_else(|| Error::Nameless { path: path.into() })?;
        let mut pin = self.pin()?;
        let (blob, size, diff) = loop {
            io::Seek::rewind(&mut &*file).map_err(Error::file("read", path))?;
            let (blob, size) = self.put_blob(file, None, None)?;
            let diff = self.unpack(&blob, None, &import.unpack)?;
            pin.add([&blob, &diff])?;
            // Garbage collection may have come in between, when nothing said yet that they are wanted.
            if self.blob(&blob).exists() && self.layer(&diff).is_dir() {
                break (blob, size, diff);
            }
        };
        let mut head = [0; 6];
        let count =
            std::os::unix::fs::FileExt::read_at(file, &mut head, 0).map_err(Error::file("read", path))?;
        let kind = format!("{}{}", spec::LAYER, Compression::of(&head[..count]).suffix());
        let config = Config {
            created: None,
            platform: import.platform.clone(),
            config: None,
            rootfs: RootFs { kind: "layers".into(), diff_ids: vec![diff] },
        };
        let json = |source| Error::Parse { what: path.display().to_string(), kind: "image", source };
        let config = serde_json::to_vec(&config).map_err(json)?;
        let manifest = described(&config, vec![Descriptor::new(&kind, blob, size)]);
        let bytes = serde_json::to_vec(&manifest).map_err(json)?;
        let found = Found { digest: Digest::of(&bytes), bytes, manifest };
        take_in(self, pin, &Made(config), &found, &name.to_string(), &import.unpack)
    }
}

fn described(config: &[u8], layers: Vec<Descriptor>) -> Manifest {
    let config = Descriptor::new(spec::CONFIG, Digest::of(config), config.len() as u64);
    Manifest { schema_version: 2, media_type: spec::MANIFEST.into(), config, layers }
}

fn name_of(descriptor: &Descriptor) -> Option<Reference> {
    let note = |key| descriptor.annotations.get(key);
    // A word alone is a tag, and not a name.
    let short = note(REF_NAME).filter(|text| text.contains([':', '/']));
    note(FULL_NAME).or(short)?.parse().ok()
}

/// Blobs of an OCI layout.
struct Layout<'a>(&'a Files);

impl Layout<'_> {
    fn name(digest: &Digest) -> String {
        format!("blobs/sha256/{}", digest.hex())
    }
}

impl Origin for Layout<'_> {
    fn manifest(&self, of: &Descriptor) -> Result<Vec<u8>, Error> {
        self.0.small(&Layout::name(&of.digest))
    }

    fn fetch(&self, store: &Store, blob: &Descriptor) -> Result<(), Error> {
        let input = self.0.open(&Layout::name(&blob.digest))?;
        store.put_blob(input, Some(&blob.digest), Some(blob.size)).map(drop)
    }
}

/// An image of a plain archive, whose layer is in the store already.
struct Made(Vec<u8>);

impl Origin for Made {
    fn manifest(&self, of: &Descriptor) -> Result<Vec<u8>, Error> {
        Err(Error::nonsense(&of.digest, "it is not in the archive"))
    }

    fn fetch(&self, store: &Store, blob: &Descriptor) -> Result<(), Error> {
        store.put_blob(&*self.0, Some(&blob.digest), Some(blob.size)).map(drop)
    }
}

/// An image in `manifest.json` of `docker save`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Saved {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

/// An image of `docker save`, for which we write the manifest.
struct Docker<'a> {
    files: &'a Files,
    found: Found,
    /// Names of the blobs' files.
    names: HashMap<Digest, String>,
}

impl Saved {
    fn described<'a>(&self, files: &'a Files) -> Result<Docker<'a>, Error> {
        let config = files.small(&self.config)?;
        let what = || format!("{} in {}", self.config, files.path().display());
        let parse = |source| Error::Parse { what: what(), kind: "configuration of an image", source };
        let parsed: Config = serde_json::from_slice(&config).map_err(parse)?;
        let diff_ids = &parsed.rootfs.diff_ids;
        if diff_ids.len() != self.layers.len() {
            let (said, found) = (diff_ids.len(), self.layers.len());
            return Err(Error::nonsense(what(), format!("it has {said} layers, and manifest.json {found}")));
        }
        let mut names = HashMap::from([(Digest::of(&config), self.config.clone())]);
        let mut layers = Vec::new();
        for name in &self.layers {
            let input =
                |source| Error::Input { what: format!("{name} in {}", files.path().display()), source };
            let mut reader = BufReader::new(Digesting::new(files.open(name)?));
            let compression = Compression::of(io::BufRead::fill_buf(&mut reader).map_err(input)?);
            io::copy(&mut reader, &mut io::sink()).map_err(input)?;
            let read = reader.into_inner();
            let (size, digest) = (read.count, read.digest());
            layers.push(Descriptor::new(
                &format!("{}{}", spec::LAYER, compression.suffix()),
                digest.clone(),
                size,
            ));
            names.insert(digest, name.clone());
        }
        let bytes = serde_json::to_vec(&described(&config, layers)).map_err(parse)?;
        let digest = Digest::of(&bytes);
        let manifest = parse_manifest(&digest, &bytes)?;
        Ok(Docker { files, found: Found { digest, bytes, manifest }, names })
    }
}

impl Origin for Docker<'_> {
    fn manifest(&self, _: &Descriptor) -> Result<Vec<u8>, Error> {
        Ok(self.found.bytes.clone())
    }

    fn fetch(&self, store: &Store, blob: &Descriptor) -> Result<(), Error> {
        let name = self.names.get(&blob.digest);
        let name = name.ok_or_else(|| Error::nonsense(&blob.digest, "it is not in the archive"))?;
        store.put_blob(self.files.open(name)?, Some(&blob.digest), Some(blob.size)).map(drop)
    }
}
