//! Unpacked layers: each is made once, whoever needs it, and lies below the overlays of all its images.

use std::fs::File;

use rustix::fs::statvfs;

use super::compression;
use super::digest::{Digest, Digesting};
use super::error::Error;
use super::store::{Access, Store};
use super::unpack::{self, Limits, Unpack};

impl Store {
    /// Unpacks the layer of a blob, unless it is there. `expected` is the digest of its plain archive, by which it is
    /// kept; several processes may ask for the same layer at once. Gives that digest.
    ///
    /// # Errors
    ///
    /// The blob is not what the digest says, or the archive is damaged, refused, or larger than it may be.
    pub fn unpack(&self, blob: &Digest, expected: Option<&Digest>, how: &Unpack) -> Result<Digest, Error> {
        let name = expected.map_or_else(|| super::store::unique("layer"), |digest| digest.hex().to_owned());
        if expected.is_some_and(|digest| self.layer(digest).is_dir()) {
            return Ok(expected.unwrap_or(blob).clone());
        }
        let partial = self.partial(&name, true)?;
        // Another process may have finished it while we waited for it.
        if expected.is_some_and(|digest| self.layer(digest).is_dir()) {
            return Ok(expected.unwrap_or(blob).clone());
        }
        partial.empty()?;
        let path = self.blob(blob);
        let file = File::open(&path).map_err(Error::file("read", &path))?;
        let plain = compression::plain(file).map_err(Error::file("read", &path))?;
        let mut plain = Digesting::new(plain);
        let root = partial.folder()?;
        rustix::fs::fchmod(&root, rustix::fs::Mode::from_raw_mode(0o755))
            .map_err(|error| Error::file("write", &partial.path)(error.into()))?;
        let how = Unpack { limits: self.limits(how.limits), ..*how };
        let layer = |source| Error::Layer { digest: blob.clone(), source };
        let unpacked = unpack::unpack(&mut plain, root, &how).map_err(layer)?;
        let found = plain.digest();
        if let Some(expected) = expected.filter(|expected| **expected != found) {
            return Err(Error::Digest { expected: expected.clone(), found });
        }
        // The layer and what it implies go together, too: no garbage collection comes between.
        let _lock = self.lock(Access::Read)?;
        self.note_implied(&found, &unpacked.implied)?;
        self.note_unsettled(&found)?;
        partial.keep_as(&self.layer(&found))?;
        Ok(found)
    }

    /// A layer never takes the last tenth of the disk.
    fn limits(&self, limits: Limits) -> Limits {
        let free =
            statvfs(self.folder()).map_or(u64::MAX, |about| about.f_bavail.saturating_mul(about.f_frsize));
        Limits { bytes: limits.bytes.min(free / 10 * 9), ..limits }
    }
}
