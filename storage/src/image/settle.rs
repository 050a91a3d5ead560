//! What a crash of the machine leaves of the store.
//!
//! A file that has been written and renamed is whole for every process at once, and on the disk only later: after a loss
//! of power a layer could have its name and empty files. Waiting for the disk with every file would cost more than the
//! rest of a pull. So a blob or layer is noted as unsettled before it gets its name, under the identity of this boot; a
//! pull waits once for the whole file system (syncfs(2)) before the image gets on the list, and takes the notes back. What
//! another boot has noted is thrown away by the next pull, import or collection: the note is in the journal before the name.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;

use super::collect::{entries, remove};
use super::digest::Digest;
use super::error::Error;
use super::store::{Access, Store, unique};

const BOOT: &str = "/proc/sys/kernel/random/boot_id";

impl Store {
    pub(super) fn unsettled(&self) -> PathBuf {
        self.folder().join("unsettled")
    }

    /// The folder of this boot's notes.
    fn own_notes(&self) -> Result<PathBuf, Error> {
        let boot = fs::read_to_string(BOOT).map_err(Error::file("read", BOOT.as_ref()))?;
        Ok(self.unsettled().join(boot.trim()))
    }

    /// Notes that this may not be on the disk yet. Comes before it gets its name.
    pub(super) fn note_unsettled(&self, digest: &Digest) -> Result<(), Error> {
        let notes = self.own_notes()?;
        let path = notes.join(digest.hex());
        let write = || match File::create(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                DirBuilder::new().recursive(true).mode(0o700).create(&notes)?;
                File::create(&path)
            }
            result => result,
        };
        write().map(drop).map_err(Error::file("write", &path))
    }

    /// Waits until all that is in the store is on the disk.
    ///
    /// # Errors
    ///
    /// The disk is full or failing, which the file system may not have told before.
    pub(super) fn settle(&self) -> Result<(), Error> {
        let notes = self.own_notes()?;
        let noted = entries(&notes)?;
        if noted.is_empty() {
            return Ok(());
        }
        let folder = File::open(self.folder()).map_err(Error::file("open", self.folder()))?;
        rustix::fs::syncfs(&folder).map_err(|error| Error::file("write", self.folder())(error.into()))?;
        for path in &noted {
            // Another pull may have taken it back.
            remove(path)?;
        }
        // A note that came back after a crash would cost an image its layers.
        let sync = || File::open(&notes)?.sync_all();
        sync().map_err(Error::file("write", &notes))
    }

    /// Throws away what an earlier boot has left unsettled.
    pub(super) fn recover(&self) -> Result<(), Error> {
        let own = self.own_notes()?;
        for notes in entries(&self.unsettled())?.into_iter().filter(|notes| *notes != own) {
            let _lock = self.lock(Access::Change)?;
            for note in entries(&notes)? {
                let Some(name) = note.file_name().and_then(|name| name.to_str()) else { continue };
                let Some(digest) = Digest::from_hex(name) else { continue };
                remove(&self.blob(&digest))?;
                let layer = self.layer(&digest);
                if layer.is_dir() {
                    let away = self.partials().join(unique("gone"));
                    fs::rename(&layer, &away).map_err(Error::file("remove", &layer))?;
                    remove(&away)?;
                }
            }
            remove(&notes)?;
        }
        Ok(())
    }
}
