//! Stacks: the layers of an image in the order in which overlayfs puts them on one another, as links with short names.
//!
//! fsconfig(2) takes 255 bytes for the list of lower folders, which is room for two layers by their paths. Before Linux
//! 6.7 there is no way to name one by one; by links of one or two letters, one list names 106. They are made when the image
//! is taken in, so that a start costs one option, however many layers there are.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use super::digest::Digest;
use super::error::Error;
use super::index::Image;
use super::joint;
use super::store::{Store, unique};
use super::tree::opaque_attribute;
use crate::Lowers;
use crate::overlay::short_names;

/// The layers of an image, the topmost first.
#[derive(Debug)]
pub struct Stack {
    /// Their folders.
    pub layers: Vec<PathBuf>,
    /// The folder with links to them, and the links' names.
    links: Option<(PathBuf, Vec<String>)>,
}

impl Stack {
    /// As lower folders of an overlay. `paths` are those of the layers.
    #[must_use]
    pub fn lowers<'a>(&'a self, paths: &'a [&'a Path]) -> Lowers<'a> {
        match &self.links {
            Some((within, names)) => Lowers::Links { within, names },
            None => Lowers::Folders(paths),
        }
    }
}

impl Store {
    pub(super) fn stacks(&self) -> PathBuf {
        self.folder().join("stacks")
    }

    fn links(&self, manifest: &Digest) -> PathBuf {
        self.stacks().join(manifest.hex())
    }

    /// The layers of an image.
    ///
    /// # Errors
    ///
    /// One is not there.
    pub fn stack(&self, image: &Image, diff_ids: &[Digest], privileged: bool) -> Result<Stack, Error> {
        let order = self.order(diff_ids, privileged);
        let layers: Vec<PathBuf> = order.iter().map(|digest| self.layer(digest)).collect();
        if let Some(index) = layers.iter().position(|path| !path.is_dir()) {
            return Err(Error::LayerGone { image: image.name.clone(), digest: order[index].clone() });
        }
        let within = self.links(&image.manifest);
        // Stores of before there were links have none, until the image is pulled or imported again.
        let links = short_names(layers.len()).filter(|_| within.is_dir()).map(|names| (within, names));
        Ok(Stack { layers, links })
    }

    /// Makes the links, unless they are there or the layers are too many. The layers are.
    pub(super) fn link(&self, manifest: &Digest, diff_ids: &[Digest], privileged: bool) -> Result<(), Error> {
        let order = self.order(diff_ids, privileged);
        let place = self.links(manifest);
        let Some(names) = short_names(order.len()).filter(|_| !place.is_dir()) else { return Ok(()) };
        let partial = self.partial(&unique("stack"), true)?;
        for (name, digest) in names.iter().zip(&order) {
            let path = partial.path.join(name);
            let target = Path::new("../../layers").join(digest.hex());
            symlink(target, &path).map_err(Error::file("write", &path))?;
        }
        partial.keep_as(&place)
    }

    /// Which layers an image is stacked of, the topmost first, down to one that hides all below it.
    fn order(&self, diff_ids: &[Digest], privileged: bool) -> Vec<Digest> {
        let joint = joint::digest(diff_ids);
        let mut order = Vec::new();
        if self.layer(&joint).is_dir() {
            order.push(joint);
        }
        for digest in diff_ids.iter().rev() {
            // One that comes twice hides its lower self, and overlayfs refuses to stack it twice.
            if !order.contains(digest) {
                order.push(digest.clone());
            }
            // overlayfs asks no root of a layer whether it is opaque.
            let attribute = opaque_attribute(privileged);
            if rustix::fs::getxattr(self.layer(digest), attribute, &mut [0u8; 1][..]).is_ok() {
                break;
            }
        }
        order
    }
}
