//! One overlay: lower folders that stay as they are, and an upper one that takes the changes.

use std::path::{Path, PathBuf};

use crate::{Error, Layers};

/// What fsconfig(2) takes for one value, with its nul.
const LONGEST: usize = 256;

/// An overlay to be mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Overlay {
    /// Options of the file system.
    pub options: Vec<(String, Option<String>)>,
    /// The folder from which the options name the lower folders, where they do so by short names.
    pub within: Option<PathBuf>,
    /// Its own folder, on which it can be attached once it is made: each folder less is a tenth of a millisecond.
    pub at: PathBuf,
    /// Folders that it needs, in the order in which they are made.
    pub folders: Vec<NewFolder>,
}

/// The lower folders of an overlay, the topmost first.
#[derive(Debug, Clone, Copy)]
pub enum Lowers<'a> {
    /// By their paths.
    Folders(&'a [&'a Path]),
    /// By the names of links in a folder.
    Links {
        /// The folder.
        within: &'a Path,
        /// The names, which need no escape.
        names: &'a [String],
    },
}

/// A folder to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewFolder {
    /// Absolute path.
    pub path: PathBuf,
    /// Permission bits.
    pub mode: u32,
}

impl Layers {
    /// The folder of a context's layers, which nobody but its owner may enter.
    #[must_use]
    pub fn own(&self) -> NewFolder {
        NewFolder { path: self.folder.clone(), mode: 0o700 }
    }

    /// The folder on which a root is attached that is no overlay.
    #[must_use]
    pub fn root(&self) -> NewFolder {
        NewFolder { path: self.folder.join("root"), mode: 0o755 }
    }

    /// The overlay `name` of this context over `lowers`, the topmost of which gives it its permission bits.
    ///
    /// # Errors
    ///
    /// A path cannot be an option of a mount.
    pub fn overlay(&self, name: &str, lowers: Lowers<'_>, user_namespace: bool) -> Result<Overlay, Error> {
        use std::os::unix::fs::MetadataExt;
        let top = lowers.top().ok_or(Error::NoLower)?;
        let look = |source| Error::Look { path: top.clone(), source };
        let mode = std::fs::metadata(&top).map_err(look)?.mode() & 0o7777;
        let folder = self.folder.join(name);
        let (upper, work) = (folder.join("upper"), folder.join("work"));
        let (mut options, within) = lowers.options()?;
        for (key, path) in [("upperdir", &upper), ("workdir", &work)] {
            options.push((key.to_owned(), Some(option(false, path)?)));
        }
        if user_namespace {
            // Attributes named trusted.* are for root of the host.
            options.push(("userxattr".into(), None));
        }
        if self.volatile {
            // Nothing is waited for that is thrown away at the end (Linux 5.10).
            options.push(("volatile".into(), None));
        }
        let folders = [(folder.clone(), 0o700), (upper, mode), (work, 0o700)]
            .map(|(path, mode)| NewFolder { path, mode })
            .to_vec();
        Ok(Overlay { options, within, at: folder, folders })
    }
}

type Options = Vec<(String, Option<String>)>;

impl Lowers<'_> {
    fn top(&self) -> Option<PathBuf> {
        match self {
            Lowers::Folders(folders) => folders.first().map(PathBuf::from),
            Lowers::Links { within, names } => names.first().map(|name| within.join(name)),
        }
    }

    /// The options that name them, and the folder from which they do.
    fn options(&self) -> Result<(Options, Option<PathBuf>), Error> {
        match self {
            Lowers::Folders(folders) => Ok((by_paths(folders)?, None)),
            Lowers::Links { within, names } => {
                Ok((vec![("lowerdir".into(), Some(names.join(":")))], Some(within.into())))
            }
        }
    }
}

/// One list where it is short enough, which every kernel takes; else each folder by itself (Linux 6.7).
fn by_paths(lowers: &[&Path]) -> Result<Options, Error> {
    let list = lowers.iter().map(|lower| option(true, lower)).collect::<Result<Vec<_>, _>>()?.join(":");
    if list.len() < LONGEST {
        return Ok(vec![("lowerdir".into(), Some(list))]);
    }
    lowers.iter().map(|lower| Ok(("lowerdir+".into(), Some(option(false, lower)?)))).collect()
}

/// The first of the shortest names, of which one list names `count` folders; nothing where there are too many for one.
#[must_use]
pub fn short_names(count: usize) -> Option<Vec<String>> {
    let letters = || (b'a'..=b'z').chain(b'A'..=b'Z').chain(b'0'..=b'9').map(char::from);
    let pairs = letters().flat_map(|first| letters().map(move |second| format!("{first}{second}")));
    let names: Vec<String> = letters().map(String::from).chain(pairs).take(count).collect();
    let length: usize = names.iter().map(|name| name.len() + 1).sum();
    (names.len() == count && length <= LONGEST).then_some(names)
}

fn option(list: bool, path: &Path) -> Result<String, Error> {
    let text = path.to_str().ok_or_else(|| Error::TooLong { path: path.into() })?;
    if text.contains(',') {
        return Err(Error::Comma { path: path.into() });
    }
    // A colon separates several lower folders.
    let text = if list { text.replace('\\', "\\\\").replace(':', "\\:") } else { text.to_owned() };
    if text.len() < LONGEST { Ok(text) } else { Err(Error::TooLong { path: path.into() }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layers() -> Layers {
        Layers { folder: "/s/contexts/a".into(), volatile: true }
    }

    #[test]
    fn an_overlay_takes_over_the_mode_of_what_it_covers() {
        use std::os::unix::fs::PermissionsExt;
        let lower = tempfile::tempdir().unwrap();
        std::fs::set_permissions(lower.path(), std::fs::Permissions::from_mode(0o1777)).unwrap();
        let overlay = layers().overlay("0", Lowers::Folders(&[lower.path()]), true).unwrap();
        assert_eq!(overlay.folders[1], NewFolder { path: "/s/contexts/a/0/upper".into(), mode: 0o1777 });
        let flags: Vec<&str> =
            overlay.options.iter().filter(|(_, v)| v.is_none()).map(|(k, _)| &**k).collect();
        assert_eq!(flags, ["userxattr", "volatile"]);
    }

    #[test]
    fn many_layers_are_named_one_by_one() {
        let long = PathBuf::from(format!("/store/layers/{}", "x".repeat(64)));
        let keys = |count| -> Vec<String> {
            by_paths(&vec![&*long; count]).unwrap().into_iter().map(|(key, _)| key).collect()
        };
        assert_eq!(keys(3), ["lowerdir"]);
        assert_eq!(keys(200), vec!["lowerdir+"; 200]);
    }

    #[test]
    fn links_are_named_from_their_folder_as_long_as_one_list_holds_them() {
        let names = short_names(3).unwrap();
        let lowers = Lowers::Links { within: Path::new("/s/stacks/x"), names: &names };
        let (options, within) = lowers.options().unwrap();
        assert_eq!(options, [("lowerdir".to_owned(), Some("a:b:c".to_owned()))]);
        assert_eq!(within.unwrap(), Path::new("/s/stacks/x"));
        // 62 names of one letter, 44 of two, and a colon behind each but the last.
        let most = (1..).take_while(|&count| short_names(count).is_some()).last().unwrap();
        assert_eq!((most, short_names(most).unwrap().join(":").len()), (106, 255));
    }

    #[test]
    fn a_colon_is_escaped_and_a_comma_refused() {
        assert_eq!(option(true, Path::new("/a:b")).unwrap(), "/a\\:b");
        assert!(matches!(option(true, Path::new("/a,b")), Err(Error::Comma { .. })));
        let long = format!("/{}", "x".repeat(256));
        assert!(matches!(option(false, Path::new(&long)), Err(Error::TooLong { .. })));
    }
}
