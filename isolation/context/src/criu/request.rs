//! What criu is asked, and what it answers (criu's `rpc.proto`; the numbers are its fields).

use std::os::fd::RawFd;

use super::wire::{Message, Value, fields};

/// What criu is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "named as criu's requests")]
pub enum Work {
    Dump = 1,
    Restore = 2,
    PreDump = 4,
    FeatureCheck = 9,
}

const NOTIFY: u64 = 6;

/// Which control groups criu dumps (its `--manage-cgroups`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "named as criu's modes")]
pub enum Groups {
    Ignore = 0,
    Soft = 3,
    Full = 4,
    Strict = 5,
}

/// How packets are held back while connections are dumped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "named as the programs")]
pub enum NetworkLock {
    Iptables = 1,
    Nftables = 2,
}

/// The options of one request. Descriptors are numbers that criu has inherited, or, for folders, ours.
#[derive(Debug, Default)]
pub struct Options {
    /// Folder of the images.
    pub images: RawFd,
    /// Folder of the log and of criu's own files.
    pub work: RawFd,
    /// Name of the log there.
    pub log: &'static str,
    /// First process of what is dumped.
    pub pid: Option<i32>,
    /// Root of the tree: where it is now, or where it is to be.
    pub root: Vec<u8>,
    /// Mounts that are not of the tree: key and host path.
    pub mounts: Vec<(Vec<u8>, Vec<u8>)>,
    /// Other things that are not of the tree, as criu's `--external` takes them.
    pub external: Vec<String>,
    /// Things of the tree that are given as a descriptor: key and number.
    pub inherit: Vec<(String, RawFd)>,
    /// Namespaces that are joined instead of made: criu's name and path.
    pub join: Vec<(&'static str, Vec<u8>)>,
    /// What is dumped of control groups.
    pub groups: Option<Groups>,
    /// Folder of the freezer that holds the tree still.
    pub freezer: Option<Vec<u8>>,
    /// How packets are held back.
    pub network_lock: Option<NetworkLock>,
    /// CLONE_NEW* flags of namespaces whose content is left out.
    pub empty: u32,
    /// Folder of an earlier dump, relative to the images.
    pub parent: Option<Vec<u8>>,
    /// Address and port of a page server.
    pub page_server: Option<(String, u16)>,
    /// Security label of the restored processes.
    pub lsm_profile: Option<String>,
    /// Security label of restored mounts.
    pub lsm_mount_context: Option<String>,
    /// The tree goes on running after the dump.
    pub leave_running: bool,
    /// See criu(8) for these.
    pub tcp_established: bool,
    /// Connections are closed on restore.
    pub tcp_close: bool,
    /// Connections that are only being made are left out.
    pub tcp_skip_in_flight: bool,
    /// Unix sockets may lead out of the tree.
    pub ext_unix_sk: bool,
    /// The tree has the session or the terminal of whoever asks.
    pub shell_job: bool,
    /// File locks are dumped.
    pub file_locks: bool,
    /// Pages that are in an earlier dump as well are taken out of that one.
    pub auto_dedup: bool,
    /// Files that have lost their name get one.
    pub link_remap: bool,
    /// Memory is copied when it is asked for.
    pub lazy_pages: bool,
}

impl Options {
    /// The bytes of a request.
    #[must_use]
    pub fn request(&self, work: Work) -> Vec<u8> {
        let mut options = Message::default();
        options.signed(1, self.images);
        if let Some(pid) = self.pid {
            options.signed(2, pid);
        }
        options
            .flag(3, self.leave_running)
            .flag(4, self.ext_unix_sk)
            .flag(5, self.tcp_established)
            // A restored path may stand for another device than it did.
            .flag(6, work == Work::Restore)
            .flag(7, self.shell_job)
            .flag(8, self.file_locks)
            .number(9, 4)
            .text(10, self.log)
            .flag(12, true)
            .text(13, &self.root)
            .flag(15, self.parent.is_some() || work == Work::PreDump)
            .flag(16, self.auto_dedup)
            .signed(17, self.work)
            .flag(18, self.link_remap)
            // The first process becomes a child of ours, and not of criu's.
            .flag(26, work == Work::Restore)
            .flag(46, self.tcp_skip_in_flight)
            .flag(48, self.lazy_pages)
            .flag(50, true)
            .flag(52, self.tcp_close);
        if self.empty != 0 {
            options.number(38, u64::from(self.empty));
        }
        for (field, value) in [(14, &self.parent), (44, &self.freezer)] {
            if let Some(value) = value {
                options.text(field, value);
            }
        }
        for (field, value) in [(53, &self.lsm_profile), (63, &self.lsm_mount_context)] {
            if let Some(value) = value {
                options.text(field, value);
            }
        }
        if let Some((address, port)) = &self.page_server {
            let mut server = Message::default();
            server.text(1, address).number(2, u64::from(*port));
            options.message(11, &server);
        }
        if let Some(groups) = self.groups {
            options.flag(24, true).number(34, groups as u64);
        }
        if let Some(lock) = self.network_lock {
            options.number(64, lock as u64);
        }
        self.things(&mut options);
        let mut request = Message::default();
        request.number(1, work as u64).message(2, &options);
        request.as_bytes().to_vec()
    }

    fn things(&self, options: &mut Message) {
        for (key, value) in &self.mounts {
            let mut mount = Message::default();
            mount.text(1, key).text(2, value);
            options.message(23, &mount);
        }
        for (key, descriptor) in &self.inherit {
            let mut inherit = Message::default();
            inherit.text(1, key).signed(2, *descriptor);
            options.message(27, &inherit);
        }
        for external in &self.external {
            options.text(37, external);
        }
        for (kind, path) in &self.join {
            let mut join = Message::default();
            join.text(1, kind).text(2, path);
            options.message(39, &join);
        }
    }
}

/// Asks which features this kernel gives.
pub(super) fn feature_request() -> Vec<u8> {
    let mut features = Message::default();
    features.flag(1, true).flag(2, true);
    let mut request = Message::default();
    request.number(1, Work::FeatureCheck as u64).message(5, &features);
    request.as_bytes().to_vec()
}

/// Says that what criu has told of was done, or was not.
pub(super) fn acknowledgement(done: bool) -> Vec<u8> {
    let mut request = Message::default();
    request.number(1, NOTIFY).number(3, u64::from(done));
    request.as_bytes().to_vec()
}

/// What criu says.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Response {
    kind: u64,
    pub(super) success: bool,
    /// The point that was reached, and the first process where it is known.
    pub(super) notice: Option<(String, i32)>,
    pub(super) errno: i32,
    pub(super) words: String,
    pub(super) features: Features,
}

/// What the kernel gives to criu.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Features {
    /// Pages that were changed are known.
    pub memory_tracking: bool,
    /// Pages can be brought when they are asked for.
    pub lazy_pages: bool,
}

impl Response {
    pub(super) fn is_notice(&self) -> bool {
        self.kind == NOTIFY
    }

    pub(super) fn read(bytes: &[u8]) -> Option<Response> {
        let mut response = Response::default();
        for field in fields(bytes)? {
            match field {
                (1, Value::Number(kind)) => response.kind = kind,
                (2, Value::Number(success)) => response.success = success != 0,
                (5, Value::Bytes(notify)) => response.notice = Some(notice(notify)?),
                (7, Value::Number(errno)) => response.errno = errno as i32,
                (8, Value::Bytes(known)) => {
                    for feature in fields(known)? {
                        match feature {
                            (1, Value::Number(has)) => response.features.memory_tracking = has != 0,
                            (2, Value::Number(has)) => response.features.lazy_pages = has != 0,
                            _ => {}
                        }
                    }
                }
                (9, Value::Bytes(words)) => response.words = String::from_utf8_lossy(words).into_owned(),
                _ => {}
            }
        }
        Some(response)
    }
}

fn notice(bytes: &[u8]) -> Option<(String, i32)> {
    let (mut point, mut pid) = (String::new(), 0);
    for field in fields(bytes)? {
        match field {
            (1, Value::Bytes(name)) => point = String::from_utf8_lossy(name).into_owned(),
            (2, Value::Number(number)) => pid = number as i32,
            _ => {}
        }
    }
    Some((point, pid))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_notice_is_told_from_an_answer() {
        let mut notify = Message::default();
        notify.text(1, "post-restore").signed(2, 42);
        let mut message = Message::default();
        message.number(1, NOTIFY).flag(2, true).message(5, &notify);
        let response = Response::read(message.as_bytes()).unwrap();
        assert!(response.is_notice() && response.success);
        assert_eq!(response.notice, Some(("post-restore".into(), 42)));

        let mut message = Message::default();
        message.number(1, Work::Dump as u64).number(2, 0).signed(7, 1).text(9, "words");
        let response = Response::read(message.as_bytes()).unwrap();
        assert!(!response.is_notice() && !response.success);
        assert_eq!((response.errno, response.words.as_str()), (1, "words"));
        assert_eq!(Response::read(b"\xff"), None);
    }
}
