//! Looks after the store: `vctx image fsck` reads every blob of every image, and finds what is missing or damaged.

use std::collections::HashMap;
use std::fs::File;
use std::io;

use super::digest::{Digest, Digesting};
use super::error::Error;
use super::joint;
use super::store::{Access, Store};

/// Something that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The image.
    pub image: String,
    /// What is wrong with it.
    pub problem: String,
}

impl Store {
    /// Checks all images. Nothing of them is changed.
    ///
    /// # Errors
    ///
    /// The list of images cannot be read.
    pub fn check(&self) -> Result<Vec<Finding>, Error> {
        self.make()?;
        self.recover()?;
        let _lock = self.lock(Access::Read)?;
        let mut findings = Vec::new();
        let mut known = HashMap::new();
        for image in self.images()? {
            let mut found = |problem| findings.push(Finding { image: image.name.clone(), problem });
            let details = match self.details(&image.manifest) {
                Ok(details) => details,
                Err(error) => {
                    found(error.to_string());
                    continue;
                }
            };
            for layer in &details.manifest.layers {
                let problem =
                    known.entry(layer.digest.clone()).or_insert_with(|| self.blob_problem(&layer.digest));
                problem.iter().for_each(|problem| found(problem.clone()));
            }
            let diff_ids = &details.config.rootfs.diff_ids;
            if self.needs_joint(diff_ids)? && !self.layer(&joint::digest(diff_ids)).is_dir() {
                found("the layer that joins its layers is missing".to_owned());
            }
            for diff in diff_ids {
                if !self.layer(diff).is_dir() {
                    found(format!("layer {diff} is not unpacked"));
                }
            }
        }
        Ok(findings)
    }

    fn blob_problem(&self, digest: &Digest) -> Option<String> {
        let read = || -> io::Result<Digest> {
            let mut input = Digesting::new(File::open(self.blob(digest))?);
            io::copy(&mut input, &mut io::sink())?;
            Ok(input.digest())
        };
        match read() {
            Ok(found) if found == *digest => None,
            Ok(_) => Some(format!("blob {digest} is damaged")),
            Err(error) => Some(format!("blob {digest} cannot be read: {error}")),
        }
    }
}
