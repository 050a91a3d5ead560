//! Images made by hand: archives with any entry, and layouts with any manifest.

use crate::harness::json;
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::fs;
use std::path::{Path, PathBuf};
use tar::{EntryType, Header};

/// An archive that is written entry by entry, with whatever names.
#[derive(Default)]
pub struct Layer(Vec<u8>);

impl Layer {
    pub fn new() -> Layer {
        Layer::default()
    }

    pub fn file(self, path: &str, content: &str) -> Layer {
        self.add(EntryType::Regular, path, "", 0o644, content.as_bytes())
    }

    pub fn folder(self, path: &str) -> Layer {
        self.add(EntryType::Directory, path, "", 0o755, b"")
    }

    pub fn symlink(self, path: &str, target: &str) -> Layer {
        self.add(EntryType::Symlink, path, target, 0o777, b"")
    }

    pub fn hard_link(self, path: &str, target: &str) -> Layer {
        self.add(EntryType::Link, path, target, 0o644, b"")
    }

    /// The static busybox, and its applets as links.
    pub fn busybox(mut self, applets: &[&str]) -> Layer {
        let program =
            crate::harness::which("busybox").expect("the tests need busybox (package busybox-static)");
        self =
            self.folder("bin").add(EntryType::Regular, "bin/busybox", "", 0o755, &fs::read(program).unwrap());
        applets.iter().fold(self, |layer, applet| layer.symlink(&format!("bin/{applet}"), "busybox"))
    }

    pub fn add(self, kind: EntryType, path: &str, link: &str, mode: u32, content: &[u8]) -> Layer {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_000_000_000);
        header.set_size(content.len() as u64);
        // Not the library's own setters, which refuse what an attacker writes.
        let fields = header.as_old_mut();
        fields.name[..path.len()].copy_from_slice(path.as_bytes());
        fields.linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_cksum();
        self.raw(header.as_bytes()).padded(content)
    }

    pub fn device(mut self, path: &str, number: (u32, u32)) -> Layer {
        let mut header = Header::new_gnu();
        header.set_entry_type(EntryType::Char);
        header.set_path(path).unwrap();
        header.set_mode(0o600);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(0);
        header.set_device_major(number.0).unwrap();
        header.set_device_minor(number.1).unwrap();
        header.set_cksum();
        self.0.extend_from_slice(header.as_bytes());
        self
    }

    /// Pax records for the next entry.
    pub fn pax(self, records: &[(&str, &str)]) -> Layer {
        let record = |(key, value): &(&str, &str)| {
            let rest = key.len() + value.len() + 3;
            let length = (1..).find(|digits| (rest + digits).to_string().len() == *digits).unwrap() + rest;
            format!("{length} {key}={value}\n")
        };
        let text: String = records.iter().map(record).collect();
        self.add(EntryType::XHeader, "pax", "", 0o644, text.as_bytes())
    }

    pub fn raw(mut self, bytes: &[u8]) -> Layer {
        self.0.extend_from_slice(bytes);
        self
    }

    pub fn so_far(&self) -> &[u8] {
        &self.0
    }

    fn padded(mut self, content: &[u8]) -> Layer {
        self.0.extend_from_slice(content);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    pub fn bytes(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 1024, 0);
        self.0
    }
}

pub fn digest(bytes: &[u8]) -> String {
    let hex: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

/// A layout in the form of the specification, in a folder.
pub struct Layout {
    pub folder: PathBuf,
    pub config: Value,
    pub layers: Vec<Value>,
}

impl Layout {
    pub fn new(folder: PathBuf, layers: Vec<Layer>) -> Layout {
        fs::create_dir_all(folder.join("blobs/sha256")).unwrap();
        let architecture = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
        let mut layout = Layout { config: json!({}), layers: vec![], folder };
        let mut diff_ids = vec![];
        for layer in layers {
            let blob = layout.blob("application/vnd.oci.image.layer.v1.tar", &layer.bytes());
            diff_ids.push(blob["digest"].clone());
            layout.layers.push(blob);
        }
        layout.config = json!({
            "architecture": architecture, "os": "linux", "config": {},
            "rootfs": { "type": "layers", "diff_ids": diff_ids },
        });
        layout
    }

    /// Writes a blob, and describes it.
    pub fn blob(&self, kind: &str, bytes: &[u8]) -> Value {
        let digest = digest(bytes);
        fs::write(self.path_of(&digest), bytes).unwrap();
        json!({ "mediaType": kind, "digest": digest, "size": bytes.len() })
    }

    pub fn path_of(&self, digest: &str) -> PathBuf {
        self.folder.join("blobs/sha256").join(digest.trim_start_matches("sha256:"))
    }

    pub fn layer_path(&self, index: usize) -> PathBuf {
        self.path_of(self.layers[index]["digest"].as_str().unwrap())
    }

    /// The manifest of what has been put together.
    pub fn manifest(&self) -> Value {
        let config =
            self.blob("application/vnd.oci.image.config.v1+json", self.config.to_string().as_bytes());
        let manifest = json!({ "schemaVersion": 2, "config": config, "layers": self.layers });
        self.blob("application/vnd.oci.image.manifest.v1+json", manifest.to_string().as_bytes())
    }

    /// Writes the rest, and gives the folder.
    pub fn done(&self) -> &Path {
        self.done_with(vec![self.manifest()])
    }

    pub fn done_with(&self, manifests: Vec<Value>) -> &Path {
        let index = json!({ "schemaVersion": 2, "manifests": manifests });
        fs::write(self.folder.join("index.json"), index.to_string()).unwrap();
        fs::write(self.folder.join("oci-layout"), json!({ "imageLayoutVersion": "1.0.0" }).to_string())
            .unwrap();
        &self.folder
    }
}
