//! What a context reads in its resolv.conf(5) and hosts(5): the name servers of the host as far as it can reach them, or
//! what was asked for instead.

use std::fmt::Write;
use std::fs;
use std::net::IpAddr;
use std::str::FromStr;

/// The host's own files.
const HOST: &str = "/etc/resolv.conf";
const HOST_NAMES: &str = "/etc/hosts";

/// Where systemd-resolved keeps what it asks itself: the usual file then names only its own address on the loopback.
const RESOLVED: &str = "/run/systemd/resolve/resolv.conf";

/// What every hosts file begins with.
pub(crate) const LOOPBACK: &str = "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n";

/// What is asked for in place of the host's; what is empty is the host's.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Asked {
    /// Name servers.
    pub servers: Vec<IpAddr>,
    /// Domains that short names are tried in.
    pub search: Vec<Word>,
    /// Options of the resolver.
    pub options: Vec<Word>,
}

/// Whose network a context has, and so which name servers of the host answer it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// The host's, with its loopback.
    All,
    /// Another one: the host's loopback is out of reach.
    NoLoopback,
}

/// What can stand in a line of one of the files without ending it: a host name, a domain, an option.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Word(String);

/// A name of a host and its address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The name.
    pub name: Word,
    /// Its address.
    pub address: IpAddr,
}

/// The text is no word of these files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected a name of letters, digits and . - _ :, at most 253")]
pub struct NoWord;

/// The text is no entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected NAME:ADDRESS, such as db:192.0.2.7 or db:[2001:db8::7]")]
pub struct NoEntry;

impl Asked {
    /// Nothing is.
    #[must_use]
    pub fn is_none(&self) -> bool {
        *self == Asked::default()
    }

    /// The file for a context.
    #[must_use]
    pub fn file(&self, reach: Reach) -> String {
        let own = usual(reach);
        let of_host = |words: &[&str]| -> String {
            let is_kept = |line: &&str| words.contains(&line.split_whitespace().next().unwrap_or_default());
            own.lines().filter(is_kept).map(|line| format!("{line}\n")).collect()
        };
        let words = |list: &[Word]| list.iter().map(|word| word.0.as_str()).collect::<Vec<_>>().join(" ");
        let mut text = String::new();
        match self.servers.is_empty() {
            true => text.push_str(&of_host(&["nameserver"])),
            false => self.servers.iter().for_each(|server| {
                // Writing to a string cannot fail.
                let _ = writeln!(text, "nameserver {server}");
            }),
        }
        match self.search.is_empty() {
            true => text.push_str(&of_host(&["search", "domain"])),
            false => text.push_str(&format!("search {}\n", words(&self.search))),
        }
        match self.options.is_empty() {
            true => text.push_str(&of_host(&["options", "sortlist"])),
            false => text.push_str(&format!("options {}\n", words(&self.options))),
        }
        text
    }
}

/// The host's file, as far as it is of use: without the servers on the host's loopback where that is out of reach, and
/// with those that they ask themselves in their place, where systemd-resolved tells.
#[must_use]
pub fn usual(reach: Reach) -> String {
    let own = fs::read_to_string(HOST).unwrap_or_default();
    if reach == Reach::All {
        return own;
    }
    let kept = reachable(&own);
    if !kept.contains("nameserver")
        && own.contains("nameserver")
        && let Ok(resolved) = fs::read_to_string(RESOLVED)
    {
        return reachable(&resolved);
    }
    kept
}

/// The host has name servers, and none of them answers a context.
#[must_use]
pub fn is_lost() -> bool {
    !usual(Reach::NoLoopback).contains("nameserver") && usual(Reach::All).contains("nameserver")
}

/// A hosts file that is a context's own: for the network of the host with the host's names.
#[must_use]
pub fn hosts(reach: Reach, entries: &[Entry]) -> String {
    let mut text = match reach {
        Reach::All => fs::read_to_string(HOST_NAMES).unwrap_or_default(),
        Reach::NoLoopback => LOOPBACK.to_owned(),
    };
    if !text.ends_with('\n') && !text.is_empty() {
        text.push('\n');
    }
    text.push_str(&lines(entries));
    text
}

/// The lines of a hosts file.
pub(crate) fn lines(entries: &[Entry]) -> String {
    entries.iter().map(|entry| format!("{} {}\n", entry.address, entry.name.0)).collect()
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

impl Word {
    /// As it is written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Word {
    type Err = NoWord;

    fn from_str(text: &str) -> Result<Word, NoWord> {
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || b".-_:".contains(&byte);
        match (1..=253).contains(&text.len()) && text.bytes().all(fits) && !text.starts_with('-') {
            true => Ok(Word(text.into())),
            false => Err(NoWord),
        }
    }
}

impl FromStr for Entry {
    type Err = NoEntry;

    fn from_str(text: &str) -> Result<Entry, NoEntry> {
        let (name, address) = text.split_once(':').ok_or(NoEntry)?;
        let inner = address.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        let address = inner.unwrap_or(address).parse().map_err(|_| NoEntry)?;
        Ok(Entry { name: name.parse().map_err(|_| NoEntry)?, address })
    }
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
    fn an_entry_is_a_name_and_an_address() {
        let entry = |text: &str| text.parse::<Entry>().map(|entry| lines(&[entry]));
        assert_eq!(entry("db:192.0.2.7").unwrap(), "192.0.2.7 db\n");
        assert_eq!(entry("db:2001:db8::7").unwrap(), "2001:db8::7 db\n");
        assert_eq!(entry("db:[::1]").unwrap(), "::1 db\n");
        for text in
            ["", "db", "db:", ":192.0.2.7", "d b:192.0.2.7", "db\nx:192.0.2.7", "db:x", "#db:192.0.2.7"]
        {
            assert_eq!(entry(text), Err(NoEntry), "{text}");
        }
    }

    #[test]
    fn what_is_asked_for_stands_in_place_of_the_hosts() {
        let asked = Asked {
            servers: vec!["192.0.2.53".parse().unwrap(), "2001:db8::53".parse().unwrap()],
            search: vec!["a.example".parse().unwrap(), "b.example".parse().unwrap()],
            options: vec!["ndots:2".parse().unwrap()],
        };
        let text =
            "nameserver 192.0.2.53\nnameserver 2001:db8::53\nsearch a.example b.example\noptions ndots:2\n";
        assert_eq!(asked.file(Reach::NoLoopback), text);
        for word in ["", "a b", "a\nb", "-x", "a#b"] {
            assert_eq!(word.parse::<Word>(), Err(NoWord), "{word:?}");
        }
    }
}
