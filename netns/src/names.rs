//! How the contexts of a network find each other and the outside: one `hosts` and one `resolv.conf` a network, which all
//! its contexts have mounted, read-only. No process has to answer, and a start changes one file and not one for each
//! neighbour (docs/decisions/networks.md).
//!
//! A mounted file is an inode, so both are changed in place: names are appended with one write, and go by a `#` on the
//! first byte of their line. When more than half of the lines are such, the file is written anew over itself.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::file::Lock;
use crate::lease::Pool;
use crate::network::{Definition, Driver, GATEWAY};
use crate::{Error, Result};

/// The name of the machine itself, which is the gateway.
const HOST: &str = "host.vctx.internal";

/// Where systemd-resolved keeps what it asks itself: the usual file then names only its own address on the loopback.
const RESOLVED: &str = "/run/systemd/resolve/resolv.conf";

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

    /// Adds the names of a context, its id first, and makes both files where they are absent. The name servers are the
    /// host's of now.
    ///
    /// # Errors
    ///
    /// A file cannot be written.
    pub fn add_names(&self, _lock: &Lock, network: &Definition, lease: u32, names: &[String]) -> Result<()> {
        let servers = name_servers();
        let path = self.resolv_conf();
        if fs::read_to_string(&path).ok().as_ref() != Some(&servers) {
            fs::write(&path, servers).map_err(Error::file("write", path))?;
        }
        let path = self.hosts();
        let mut lines = String::new();
        if !path.exists() {
            lines.push_str("127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n");
            // Of a macvlan network it is a router, and the machine itself is out of reach.
            let gateways =
                if network.driver == Driver::Macvlan { Vec::new() } else { network.addresses(GATEWAY) };
            lines.extend(gateways.iter().map(|address| format!("{address} {HOST}\n")));
        }
        let names = names.join(" ");
        lines.extend(network.addresses(lease).iter().map(|address| format!("{address}\t{names}\n")));
        let append = || {
            let file = OpenOptions::new().append(true).create(true).open(&path)?;
            io::Write::write_all(&mut &file, lines.as_bytes())
        };
        append().map_err(Error::file("write", &path))
    }

    /// Takes the names of a context away.
    ///
    /// # Errors
    ///
    /// The file cannot be written.
    pub fn remove_names(&self, _lock: &Lock, id: &str) -> Result<()> {
        let path = self.hosts();
        let text = match fs::read_to_string(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            result => result.map_err(Error::file("read", &path))?,
        };
        // Only the lines of contexts have a tab.
        let first =
            |line: &str| line.split_once('\t').map(|(_, names)| names.split_whitespace().next() == Some(id));
        let is_gone = |line: &str| line.starts_with('#') || first(line) == Some(true);
        let kept: String = text.split_inclusive('\n').filter(|line| !is_gone(line)).collect();
        let change = || -> io::Result<()> {
            let file = OpenOptions::new().write(true).open(&path)?;
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
        change().map_err(Error::file("write", &path))
    }
}

/// A reader in between sees the new beginning, and then old lines once more.
fn rewrite(file: &File, text: &str) -> io::Result<()> {
    file.write_all_at(text.as_bytes(), 0)?;
    file.set_len(text.len() as u64)
}

/// The host's resolv.conf without what a context cannot reach: servers on the host's loopback.
#[must_use]
pub fn name_servers() -> String {
    let usual = Path::new("/etc/resolv.conf");
    let own = fs::read_to_string(usual).unwrap_or_default();
    let kept = reachable(&own);
    if !kept.contains("nameserver")
        && own.contains("nameserver")
        && let Ok(resolved) = fs::read_to_string(RESOLVED)
    {
        return reachable(&resolved);
    }
    kept
}

fn reachable(text: &str) -> String {
    let is_reachable = |line: &&str| {
        let mut words = line.split_whitespace();
        match (words.next(), words.next()) {
            // One with a scope (%eth0) is of a link of the host, and does not parse.
            (Some("nameserver"), Some(server)) => {
                server.parse().is_ok_and(|server: IpAddr| !server.is_loopback())
            }
            (Some(word), _) => !word.starts_with(['#', ';']),
            (None, _) => false,
        }
    };
    text.lines().filter(is_reachable).map(|line| format!("{line}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_on_the_loopback_are_left_out() {
        let text = "# made by\nnameserver 127.0.0.53\nnameserver 192.0.2.1\nnameserver ::1\n\
                    nameserver fe80::1%eth0\nsearch a.example\noptions edns0\n";
        assert_eq!(reachable(text), "nameserver 192.0.2.1\nsearch a.example\noptions edns0\n");
    }

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
        let add = |lease: u32, name: &str| pool.add_names(&lock, &network, lease, &[name.into()]).unwrap();
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
