//! Where networks are defined: one file each, in a folder that lasts; and the folder of each on memory, with its leases.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::cni::Attachments;
use crate::lease::Pool;
use crate::network::{DEFAULT, Definition, Wanted, is_name};
use crate::ports::Ports;
use crate::used::Used;
use crate::{Error, Result, bridge, file, link, shaping};

/// The networks of a machine.
#[derive(Debug, Clone)]
pub struct Networks {
    /// Definitions; they outlive a reboot.
    definitions: PathBuf,
    /// Leases and shared files; they do not.
    memory: PathBuf,
}

impl Networks {
    /// Definitions below the first folder, leases below the second.
    #[must_use]
    pub fn new(store: &Path, state: &Path) -> Networks {
        Networks { definitions: store.join("networks"), memory: Networks::memory(state) }
    }

    /// Where the leases lie below a state folder.
    #[must_use]
    pub fn memory(state: &Path) -> PathBuf {
        state.join(".networks")
    }

    /// The leases of a network.
    #[must_use]
    pub fn pool(&self, name: &str) -> Pool {
        Pool::new(&self.memory, name)
    }

    /// The published ports of the machine.
    #[must_use]
    pub fn ports(&self) -> Ports {
        Ports::new(&self.memory)
    }

    /// Finds a network. The default one is made when it is absent.
    ///
    /// # Errors
    ///
    /// There is no such network.
    pub fn open(&self, name: &str) -> Result<Definition> {
        let path = self.path(name)?;
        match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|source| Error::Damaged { path, source }),
            Err(error) if error.kind() == io::ErrorKind::NotFound && name == DEFAULT => {
                match self.create(&Wanted { name: name.into(), ..Wanted::default() }) {
                    // Somebody else was first.
                    Err(Error::Exists(_)) => self.open(name),
                    result => result,
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(Error::Absent(name.into())),
            Err(error) => Err(Error::file("read", path)(error)),
        }
    }

    /// All networks, by name.
    ///
    /// # Errors
    ///
    /// The folder or a definition cannot be read.
    pub fn list(&self) -> Result<Vec<Definition>> {
        let entries = match fs::read_dir(&self.definitions) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            result => result.map_err(Error::file("read", &self.definitions))?,
        };
        let mut names: Vec<String> = entries
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .filter_map(|file| file.strip_suffix(".json").map(str::to_owned))
            .collect();
        names.sort();
        names.iter().map(|name| self.open(name)).collect()
    }

    /// Defines a network. Its devices are made when the first context comes.
    ///
    /// # Errors
    ///
    /// The name is taken, or a subnet overlaps with a network or a route of the machine.
    pub fn create(&self, wanted: &Wanted) -> Result<Definition> {
        let path = self.path(&wanted.name)?;
        wanted.check()?;
        let _lock = file::lock(&self.definitions)?;
        let others = self.list()?;
        if others.iter().any(|other| other.name == wanted.name) {
            return Err(Error::Exists(wanted.name.clone()));
        }
        let definition = Used::look(&others)?.define(wanted, free_number(&others)?)?;
        let bytes = serde_json::to_vec_pretty(&definition)
            .map_err(|source| Error::Damaged { path: path.clone(), source })?;
        file::replace(&path, &bytes)?;
        Ok(definition)
    }

    /// Removes a network with its devices and rules. `alive` says whether a context still has a lease.
    ///
    /// # Errors
    ///
    /// It is in use, or something cannot be removed.
    pub fn remove(&self, name: &str, alive: impl Fn(&str, u32) -> bool) -> Result<()> {
        let path = self.path(name)?;
        let _lock = file::lock(&self.definitions)?;
        if !path.exists() {
            return Err(Error::Absent(name.into()));
        }
        let definition = self.open(name)?;
        let pool = self.pool(name);
        let lock = pool.lock()?;
        let leases = pool.leases(&lock)?;
        let users = leases.iter().filter(|(lease, id)| alive(id, *lease));
        let users: Vec<String> = users.map(|(_, id)| id.clone()).collect();
        if !users.is_empty() {
            return Err(Error::InUse { name: name.into(), users });
        }
        leases.iter().try_for_each(|(lease, _)| shaping::forget(&definition.port(*lease)))?;
        link::remove(&definition, leases.iter().map(|(lease, _)| *lease))?;
        file::remove(pool.folder())?;
        file::remove(&path)
    }

    /// What plugins of CNI have made for contexts.
    #[must_use]
    pub fn attachments(&self) -> Attachments {
        Attachments::at(self.definitions.join("cni"))
    }

    fn path(&self, name: &str) -> Result<PathBuf> {
        match is_name(name) {
            true => Ok(self.definitions.join(format!("{name}.json"))),
            false => Err(Error::Name(name.into())),
        }
    }
}

/// The lowest number that neither a network nor a device has.
fn free_number(others: &[Definition]) -> Result<u16> {
    let taken: HashSet<u16> = others.iter().map(|other| other.number).collect();
    for number in (0..=u16::MAX).filter(|number| !taken.contains(number)) {
        if bridge::index(&format!("vctx{number}"))?.is_none() {
            return Ok(number);
        }
    }
    Err(Error::NoSubnet)
}
