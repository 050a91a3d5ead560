//! Images to files: `vctx image export`, as an OCI layout (a folder or an archive) or as an archive for `docker load`.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File};
use std::io::{self, Read, Write};
use std::path::Path;

use serde_json::json;

use super::compression::plain;
use super::digest::Digest;
use super::error::Error;
use super::index::{Details, Image};
use super::reference::Reference;
use super::spec::{self, Descriptor, Index};
use super::store::Store;

/// The form of an exported image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// A folder in the form of the specification.
    Folder,
    /// An archive of such a folder.
    Archive,
    /// An archive as `docker save` writes it.
    Docker,
}

impl Store {
    /// Writes an image to a new folder or file, or to an open one.
    ///
    /// # Errors
    ///
    /// Something of the image is missing, or it cannot be written.
    pub fn export(
        &self,
        image: &Image,
        form: Form,
        to: &Path,
        output: Option<&mut dyn Write>,
    ) -> Result<(), Error> {
        let details = self.details(&image.manifest)?;
        if form == Form::Folder {
            return self.export_folder(image, &details, to);
        }
        let mut file;
        let output = match output {
            Some(output) => output,
            None => {
                file = File::create_new(to).map_err(Error::file("write", to))?;
                &mut file
            }
        };
        let mut archive = Writer { archive: tar::Builder::new(io::BufWriter::new(output)), to };
        match form {
            Form::Docker => self.export_docker(image, &details, &mut archive)?,
            _ => self.export_archive(image, &details, &mut archive)?,
        }
        archive.archive.into_inner().and_then(|mut output| output.flush()).map_err(Error::file("write", to))
    }

    fn export_folder(&self, image: &Image, details: &Details, to: &Path) -> Result<(), Error> {
        let blobs = to.join("blobs/sha256");
        let fail = |source| Error::file("write", to)(source);
        if to.join("index.json").exists() {
            return Err(fail(io::ErrorKind::AlreadyExists.into()));
        }
        DirBuilder::new().recursive(true).create(&blobs).map_err(fail)?;
        for digest in blobs_of(image, details) {
            let path = blobs.join(digest.hex());
            let mut input = self.open(digest)?;
            let mut output = File::create(&path).map_err(Error::file("write", &path))?;
            io::copy(&mut input, &mut output).map_err(Error::file("write", &path))?;
        }
        for (name, bytes) in self.notes(image)? {
            fs::write(to.join(name), bytes).map_err(fail)?;
        }
        Ok(())
    }

    fn export_archive(
        &self,
        image: &Image,
        details: &Details,
        archive: &mut Writer<'_>,
    ) -> Result<(), Error> {
        for (name, bytes) in self.notes(image)? {
            archive.add(&name, bytes.len() as u64, &*bytes)?;
        }
        for digest in blobs_of(image, details) {
            let input = self.open(digest)?;
            let size = input.metadata().map_err(Error::file("read", &self.blob(digest)))?.len();
            archive.add(&format!("blobs/sha256/{}", digest.hex()), size, input)?;
        }
        Ok(())
    }

    fn export_docker(&self, image: &Image, details: &Details, archive: &mut Writer<'_>) -> Result<(), Error> {
        let config = self.small(&image.id)?;
        let file = format!("{}.json", image.id.hex());
        archive.add(&file, config.len() as u64, &*config)?;
        let mut names = Vec::new();
        for (layer, diff) in details.manifest.layers.iter().zip(&details.config.rootfs.diff_ids) {
            let name = format!("{}.tar", diff.hex());
            if names.contains(&name) {
                names.push(name);
                continue;
            }
            // A header comes first and has the size, so the layer is read twice.
            let path = self.blob(&layer.digest);
            let read = || Error::file("read", &path);
            let size = io::copy(&mut plain(self.open(&layer.digest)?).map_err(read())?, &mut io::sink());
            archive.add(&name, size.map_err(read())?, plain(self.open(&layer.digest)?).map_err(read())?)?;
            names.push(name);
        }
        let tag = image.name.parse::<Reference>().ok().filter(|name| name.digest.is_none());
        let tags: Vec<String> = tag.iter().map(Reference::familiar).collect();
        let bytes = json!([{ "Config": file, "RepoTags": tags, "Layers": names }]).to_string();
        archive.add("manifest.json", bytes.len() as u64, bytes.as_bytes())
    }

    fn open(&self, digest: &Digest) -> Result<File, Error> {
        let path = self.blob(digest);
        File::open(&path).map_err(Error::file("read", &path))
    }

    /// `oci-layout` and `index.json`.
    fn notes(&self, image: &Image) -> Result<Vec<(String, Vec<u8>)>, Error> {
        let bytes = self.small(&image.manifest)?;
        let parse =
            |source| Error::Parse { what: image.manifest.to_string(), kind: "manifest of an image", source };
        let kind = serde_json::from_slice::<super::spec::Manifest>(&bytes).map_err(parse)?.media_type;
        let kind = if kind.is_empty() { spec::MANIFEST.to_owned() } else { kind };
        let mut descriptor = Descriptor::new(&kind, image.manifest.clone(), bytes.len() as u64);
        let mut annotations = BTreeMap::from([("io.containerd.image.name".to_owned(), image.name.clone())]);
        if let Some(tag) = image.name.parse::<Reference>().ok().and_then(|name| name.tag) {
            annotations.insert("org.opencontainers.image.ref.name".to_owned(), tag);
        }
        descriptor.annotations = annotations;
        let index = Index { schema_version: 2, media_type: spec::INDEX.into(), manifests: vec![descriptor] };
        let index = serde_json::to_vec(&index).map_err(parse)?;
        let layout = json!({ "imageLayoutVersion": "1.0.0" }).to_string().into_bytes();
        Ok(vec![("oci-layout".into(), layout), ("index.json".into(), index)])
    }
}

fn blobs_of<'a>(image: &'a Image, details: &'a Details) -> Vec<&'a Digest> {
    let mut blobs = vec![&image.manifest, &image.id];
    for layer in &details.manifest.layers {
        if !blobs.contains(&&layer.digest) {
            blobs.push(&layer.digest);
        }
    }
    blobs
}

struct Writer<'a> {
    archive: tar::Builder<io::BufWriter<&'a mut dyn Write>>,
    to: &'a Path,
}

impl Writer<'_> {
    fn add(&mut self, name: &str, size: u64, input: impl Read) -> Result<(), Error> {
        let mut header = tar::Header::new_ustar();
        header.set_size(size);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_entry_type(tar::EntryType::Regular);
        let input = input.take(size);
        self.archive.append_data(&mut header, name, input).map_err(Error::file("write", self.to))
    }
}
