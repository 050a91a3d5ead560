//! Mount options of the configuration (runtime-spec, "Mounts"; mount(8)), as flags.

use vctx_context::child::plan::Mount;

const RDONLY: u64 = 0x1;
const NOSUID: u64 = 0x2;
const NODEV: u64 = 0x4;
const NOEXEC: u64 = 0x8;
/// The field of the kind of atime (MOUNT_ATTR__ATIME).
pub(crate) const ATIME: u64 = 0x70;
const NOATIME: u64 = 0x10;
const STRICTATIME: u64 = 0x20;
const NODIRATIME: u64 = 0x80;
const NOSYMFOLLOW: u64 = 0x0020_0000;

/// MS_SHARED and its like, as mount_setattr(2) takes them.
pub(crate) const SHARED: u64 = 1 << 20;
pub(crate) const SLAVE: u64 = 1 << 19;
pub(crate) const PRIVATE: u64 = 1 << 18;
pub(crate) const UNBINDABLE: u64 = 1 << 17;

/// What the options of one mount say.
#[derive(Debug, Default)]
pub(crate) struct Options<'a> {
    pub(crate) set: u64,
    pub(crate) clear: u64,
    pub(crate) set_recursive: u64,
    pub(crate) clear_recursive: u64,
    pub(crate) propagation: Vec<(u64, bool)>,
    pub(crate) bind: bool,
    pub(crate) recursive: bool,
    pub(crate) copy_up: bool,
    /// An idmapped mount; true with the mounts below it.
    pub(crate) idmap: Option<bool>,
    /// Options for the file system itself.
    pub(crate) data: Vec<(&'a str, Option<&'a str>)>,
}

/// The MOUNT_ATTR_* flags of an option: (set, clear).
fn attribute(option: &str) -> Option<(u64, u64)> {
    Some(match option {
        "ro" => (RDONLY, 0),
        "rw" => (0, RDONLY),
        "nosuid" => (NOSUID, 0),
        "suid" => (0, NOSUID),
        "nodev" => (NODEV, 0),
        "dev" => (0, NODEV),
        "noexec" => (NOEXEC, 0),
        "exec" => (0, NOEXEC),
        "nodiratime" => (NODIRATIME, 0),
        "diratime" => (0, NODIRATIME),
        // The three kinds of atime are one field: it is cleared whole before a kind is set (mount_setattr(2)).
        "noatime" => (NOATIME, ATIME),
        "strictatime" => (STRICTATIME, ATIME),
        "relatime" | "atime" | "norelatime" | "nostrictatime" => (0, ATIME),
        "nosymfollow" => (NOSYMFOLLOW, 0),
        "symfollow" => (0, NOSYMFOLLOW),
        _ => return None,
    })
}

fn propagation(option: &str) -> Option<(u64, bool)> {
    let (recursive, name) = match option.strip_prefix('r') {
        Some(name @ ("shared" | "slave" | "private" | "unbindable")) => (true, name),
        _ => (false, option),
    };
    let flag = match name {
        "shared" => SHARED,
        "slave" => SLAVE,
        "private" => PRIVATE,
        "unbindable" => UNBINDABLE,
        _ => return None,
    };
    Some((flag, recursive))
}

/// The flag of `linux.rootfsPropagation`.
pub(crate) fn root_propagation(name: &str) -> Option<u64> {
    propagation(name).map(|(flag, _)| flag)
}

/// Reads the options of one mount.
pub(crate) fn options<'a>(texts: impl Iterator<Item = &'a str>) -> Options<'a> {
    let mut options = Options::default();
    for text in texts.flat_map(split) {
        if let Some((set, clear)) = attribute(text) {
            options.set = (options.set & !clear) | set;
            options.clear = (options.clear & !set) | clear;
        } else if let Some(change) = propagation(text) {
            options.propagation.push(change);
        } else if let Some((set, clear)) = text.strip_prefix('r').and_then(attribute) {
            options.set_recursive = (options.set_recursive & !clear) | set;
            options.clear_recursive = (options.clear_recursive & !set) | clear;
        } else {
            match text {
                "bind" => options.bind = true,
                "rbind" => (options.bind, options.recursive) = (true, true),
                "tmpcopyup" => options.copy_up = true,
                "idmap" => options.idmap = Some(false),
                "ridmap" => options.idmap = Some(true),
                // The counter of changes of a file is on wherever a file system of today has it, and fsconfig(2) has no word
                // for it.
                "iversion" | "noiversion" => {}
                "" | "defaults" | "remount" | "loud" | "silent" | "async" | "nomand" => {}
                _ => options.data.push(match text.split_once('=') {
                    Some((key, value)) => (key, Some(value)),
                    None => (text, None),
                }),
            }
        }
    }
    options
}

/// One option text can hold several, separated by commas; a quoted value keeps its commas (SELinux contexts).
fn split(text: &str) -> impl Iterator<Item = &str> {
    let mut quoted = false;
    text.split(move |character| {
        quoted ^= character == '"';
        character == ',' && !quoted
    })
}

impl Options<'_> {
    /// Puts the flags on a mount.
    pub(crate) fn apply(&self, mount: &mut Mount<'_>) {
        mount.set = self.set;
        mount.clear = self.clear;
        mount.set_recursive = self.set_recursive;
        mount.clear_recursive = self.clear_recursive;
        mount.copy_up = self.copy_up;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_of_two_opposite_options_wins() {
        let read = |list: &[&'static str]| {
            let options = options(list.iter().copied());
            (options.set, options.clear)
        };
        assert_eq!(read(&["ro", "rw"]), (0, RDONLY));
        assert_eq!(read(&["rw", "ro"]), (RDONLY, 0));
        assert_eq!(read(&["noatime", "strictatime"]), (STRICTATIME, ATIME));
        assert_eq!(read(&["nosuid,nodev", "noexec"]), (NOSUID | NODEV | NOEXEC, 0));
    }

    #[test]
    fn recursive_names_are_told_from_propagation_and_binds() {
        let options = options(["rro", "rslave", "rbind", "relatime", "size=1m", "newinstance"].into_iter());
        assert_eq!(options.set_recursive, RDONLY);
        assert_eq!(options.propagation, [(SLAVE, true)]);
        assert!(options.bind && options.recursive);
        assert_eq!(options.clear, ATIME);
        assert_eq!(options.data, [("size", Some("1m")), ("newinstance", None)]);
    }

    #[test]
    fn a_quoted_value_keeps_its_comma() {
        let options = options([r#"context="a:b:c1,c2",size=1"#].into_iter());
        assert_eq!(options.data, [("context", Some(r#""a:b:c1,c2""#)), ("size", Some("1"))]);
    }
}
