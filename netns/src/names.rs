//! How the contexts of a network find each other and the outside: one `hosts` and one `resolv.conf` a network, which all
//! its contexts have mounted, read-only. No process has to answer, and a start changes one file and not one for each
//! neighbour (docs/decisions/networks.md).
//!
//! A context that has names of its own (`--add-host`) has a file of its own beside, in `own`, which is changed with the
//! network's.
//!
//! A mounted file is an inode, so both are changed in place: names are appended with one write, and go by a `#` on the
//! first byte of their line. When more than half of the lines are such, the file is written anew over itself.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::file::Lock;
use crate::lease::Pool;
use crate::network::{Definition, Driver, GATEWAY};
use crate::resolver::{self, Entry, LOOPBACK, Reach};
use crate::{Error, Result};

/// The name of the machine itself, which is the gateway.
const HOST: &str = "host.vctx.internal";

/// Below this size, in bytes, gone lines are left alone.
const SMALL: usize = 4096;

impl Pool {
    /// The file with the names of a network's contexts.
    #[must_use]
    pub fn hosts(&self) -> PathBuf {
        self.folder().join("hosts")
    }

    /// The file with the name servers.
    #[must_use]
    pub fn resolv_conf(&self) -> PathBuf {
        self.folder().join("resolv.conf")
    }

    /// The file with the names of a network's contexts and those that are one context's own.
    #[must_use]
    pub fn own_hosts(&self, id: &str) -> PathBuf {
        self.folder().join("own").join(id)
    }

    /// Adds the names of a context, its id first, and makes both files where they are absent. The name servers are the
    /// host's of now. `entries` are for the context alone.
    ///
    /// # Errors
    ///
    /// A file cannot be written.
    pub fn add_names(
        &self,
        _lock: &Lock,
        network: &Definition,
        lease: u32,
        names: &[String],
        entries: &[Entry],
    ) -> Result<()> {
        let servers = resolver::usual(Reach::NoLoopback);
        let path = self.resolv_conf();
        if fs::read_to_string(&path).ok().as_ref() != Some(&servers) {
            fs::write(&path, servers).map_err(Error::file("write", path))?;
        }
        let path = self.hosts();
        if !path.exists() {
            // Of a macvlan network it is a router, and the machine itself is out of reach.
            let gateways =
                if network.driver == Driver::Macvlan { Vec::new() } else { network.addresses(GATEWAY) };
            let host = gateways.into_iter().map(|address| format!("{address} {HOST}\n"));
            let text = host.fold(LOOPBACK.to_owned(), |text, line| text + &line);
            fs::write(&path, text).map_err(Error::file("write", &path))?;
        }
        if let Some(id) = names.first().filter(|_| !entries.is_empty()) {
            let all = fs::read_to_string(&path).map_err(Error::file("read", &path))?;
            self.make_own(id, &(resolver::lines(entries) + &all))?;
        }
        let names = names.join(" ");
        let lines: String =
            network.addresses(lease).iter().map(|address| format!("{address}\t{names}\n")).collect();
        self.each_hosts()?.iter().try_for_each(|path| {
            let append =
                || io::Write::write_all(&mut OpenOptions::new().append(true).open(path)?, lines.as_bytes());
            append().map_err(Error::file("write", path))
        })
    }

    /// Takes the names of a context away.
    ///
    /// # Errors
    ///
    /// A file cannot be written.
    pub fn remove_names(&self, _lock: &Lock, id: &str) -> Result<()> {
        match fs::remove_file(self.own_hosts(id)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(Error::file("remove", self.own_hosts(id))(error));
            }
            _ => {}
        }
        self.each_hosts()?.iter().try_for_each(|path| remove_lines(path, id))
    }

    fn make_own(&self, id: &str, text: &str) -> Result<()> {
        let path = self.own_hosts(id);
        match fs::create_dir(self.folder().join("own")) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(Error::file("make the folder of", path)(error));
            }
            _ => {}
        }
        fs::write(&path, text).map_err(Error::file("write", path))
    }

    /// The network's file, and those of single contexts.
    fn each_hosts(&self) -> Result<Vec<PathBuf>> {
        let mut all = vec![self.hosts()];
        let folder = self.folder().join("own");
        match fs::read_dir(&folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            entries => {
                let entries = entries.map_err(Error::file("read", &folder))?;
                all.extend(entries.flatten().map(|entry| entry.path()));
            }
        }
        Ok(all)
    }
}

/// Takes the lines of a context out of a file.
fn remove_lines(path: &Path, id: &str) -> Result<()> {
    let text = match fs::read_to_string(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        result => result.map_err(Error::file("read", path))?,
    };
    // Only the lines of contexts have a tab.
    let first =
        |line: &str| line.split_once('\t').map(|(_, names)| names.split_whitespace().next() == Some(id));
    let is_gone = |line: &str| line.starts_with('#') || first(line) == Some(true);
    let kept: String = text.split_inclusive('\n').filter(|line| !is_gone(line)).collect();
    let change = || -> io::Result<()> {
        let file = OpenOptions::new().write(true).open(path)?;
        if text.len() > SMALL && kept.len() < text.len() / 2 {
            return rewrite(&file, &kept);
        }
        let mut at = 0;
        for line in text.split_inclusive('\n') {
            if is_gone(line) && !line.starts_with('#') {
                file.write_all_at(b"#", at)?;
            }
            at += line.len() as u64;
        }
        Ok(())
    };
    change().map_err(Error::file("write", path))
}

/// A reader in between sees the new beginning, and then old lines once more.
fn rewrite(file: &File, text: &str) -> io::Result<()> {
    file.write_all_at(text.as_bytes(), 0)?;
    file.set_len(text.len() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_and_go_in_one_file() {
        let folder = tempfile::TempDir::new().unwrap();
        let pool = Pool::new(folder.path(), "blue");
        let network = Definition {
            name: "blue".into(),
            v4: Some("10.0.0.0/22".parse().unwrap()),
            ..Definition::default()
        };
        let lock = pool.lock().unwrap();
        let add =
            |lease: u32, name: &str| pool.add_names(&lock, &network, lease, &[name.into()], &[]).unwrap();
        add(2, "a");
        let inode = std::os::unix::fs::MetadataExt::ino(&fs::metadata(pool.hosts()).unwrap());
        add(20, "b");
        add(21, "localhost");
        pool.remove_names(&lock, "localhost").unwrap();
        pool.remove_names(&lock, "a").unwrap();
        let text = fs::read_to_string(pool.hosts()).unwrap();
        assert!(text.contains("\n10.0.0.20\tb\n") && text.contains("\n#0.0.0.2\ta\n"), "{text}");
        for lease in 30..400 {
            add(lease, "many");
            pool.remove_names(&lock, "many").unwrap();
        }
        let text = fs::read_to_string(pool.hosts()).unwrap();
        assert!(text.contains("\n10.0.0.20\tb\n") && text.contains("127.0.0.1 localhost\n"), "{text}");
        assert!(text.len() <= SMALL + 100, "{} bytes", text.len());
        assert_eq!(std::os::unix::fs::MetadataExt::ino(&fs::metadata(pool.hosts()).unwrap()), inode);
    }
}
