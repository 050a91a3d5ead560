//! The bundles that are measured: one root of static busybox, and configurations that differ in one thing each.

use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::Result;
use super::workspace::Workspace;

/// What a bundle asks for beyond the namespaces, mounts and masks that every bundle has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ask {
    /// Nothing: no resources at all, and no view of the control groups.
    Bare,
    /// What `crun spec` writes: the device rule, and the control groups mounted.
    Plain,
    /// Plain, with limits of memory, processes and processor.
    Limits,
    /// Plain, with the profile that engines give to a container.
    Seccomp,
    /// Plain, with a user namespace.
    User,
}

impl Ask {
    pub const ALL: [Ask; 5] = [Ask::Bare, Ask::Plain, Ask::Limits, Ask::Seccomp, Ask::User];

    pub fn name(self) -> &'static str {
        match self {
            Ask::Bare => "bare",
            Ask::Plain => "plain",
            Ask::Limits => "limits",
            Ask::Seccomp => "seccomp",
            Ask::User => "userns",
        }
    }
}

/// The first host identity of the user namespace of `Ask::User`.
pub const FIRST_USER: u64 = 100_000;

/// The engines' profile as Debian's golang-github-containers-common brings it with Podman.
const PROFILE: &str = "/usr/share/containers/seccomp.json";

const CAPABILITIES: [&str; 3] = ["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"];

pub struct Bundle {
    pub dir: PathBuf,
    pub ask: Ask,
    pub config: Value,
}

impl Bundle {
    /// Writes a bundle that runs `args`; `name` tells those of one workspace apart.
    pub fn write(workspace: &Workspace, name: &str, ask: Ask, args: &[&str]) -> Result<Bundle> {
        let dir = workspace.dir.join(name);
        fs::create_dir_all(&dir)?;
        let mut config = config(&workspace.root(), args);
        apply(&mut config, ask)?;
        let bundle = Bundle { dir, ask, config };
        bundle.save()?;
        Ok(bundle)
    }

    pub fn save(&self) -> Result<()> {
        Ok(fs::write(self.dir.join("config.json"), self.config.to_string())?)
    }

    pub fn root(&self) -> &str {
        self.config["root"]["path"].as_str().unwrap_or_default()
    }

    pub fn args(&self) -> Vec<&str> {
        self.config["process"]["args"].as_array().into_iter().flatten().filter_map(Value::as_str).collect()
    }
}

fn apply(config: &mut Value, ask: Ask) -> Result<()> {
    match ask {
        Ask::Bare => {
            config["linux"].as_object_mut().ok_or("no linux")?.remove("resources");
            config["mounts"].as_array_mut().ok_or("no mounts")?.retain(|mount| mount["type"] != "cgroup");
        }
        Ask::Plain => {}
        Ask::Limits => {
            let resources = &mut config["linux"]["resources"];
            resources["memory"] = json!({ "limit": 268_435_456 });
            resources["pids"] = json!({ "limit": 256 });
            resources["cpu"] = json!({ "shares": 512, "quota": 50_000, "period": 100_000 });
        }
        Ask::Seccomp => config["linux"]["seccomp"] = engine_profile()?,
        Ask::User => {
            let map = json!([{ "containerID": 0, "hostID": FIRST_USER, "size": 65_536 }]);
            config["linux"]["uidMappings"] = map.clone();
            config["linux"]["gidMappings"] = map;
            config["linux"]["namespaces"].as_array_mut().ok_or("no list")?.push(json!({ "type": "user" }));
        }
    }
    Ok(())
}

/// What `crun spec` writes, but for the terminal, for ambient capabilities (which cannot be raised as it asks, and of
/// which runc warns), and with a host name and a PATH of ours.
fn config(root: &Path, args: &[&str]) -> Value {
    let mount = |target: &str, kind: &str, source: &str, options: &[&str]| json!({ "destination": target, "type": kind, "source": source, "options": options });
    json!({
        "ociVersion": "1.0.0",
        "process": {
            "terminal": false,
            "user": { "uid": 0, "gid": 0 },
            "args": args,
            "env": ["PATH=/bin", "TERM=xterm"],
            "cwd": "/",
            "capabilities": {
                "bounding": CAPABILITIES, "effective": CAPABILITIES, "inheritable": [],
                "permitted": CAPABILITIES, "ambient": [],
            },
            "rlimits": [{ "type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024 }],
            "noNewPrivileges": true,
        },
        "root": { "path": root, "readonly": true },
        "hostname": "context",
        "mounts": [
            mount("/proc", "proc", "proc", &[]),
            mount("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
            mount("/dev/pts", "devpts", "devpts",
                &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]),
            mount("/dev/shm", "tmpfs", "shm", &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]),
            mount("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
            mount("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
            mount("/sys/fs/cgroup", "cgroup", "cgroup", &["nosuid", "noexec", "nodev", "relatime", "ro"]),
        ],
        "linux": {
            "resources": { "devices": [{ "allow": false, "access": "rwm" }] },
            "namespaces": [
                { "type": "pid" }, { "type": "network" }, { "type": "ipc" }, { "type": "uts" }, { "type": "mount" },
            ],
            "maskedPaths": [
                "/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list",
                "/proc/timer_stats", "/proc/sched_debug", "/sys/firmware", "/proc/scsi",
            ],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
        },
    })
}

/// The engines' profile as an engine hands it to a runtime: for this architecture and for our capabilities.
pub fn engine_profile() -> Result<Value> {
    let text =
        fs::read_to_string(PROFILE).map_err(|error| format!("{PROFILE}: {error} (it comes with Podman)"))?;
    let profile: Value = serde_json::from_str(&text)?;
    let native = if cfg!(target_arch = "aarch64") { "SCMP_ARCH_AARCH64" } else { "SCMP_ARCH_X86_64" };
    let short = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let holds = |condition: &Value| {
        let capability = |name: &Value| CAPABILITIES.iter().any(|own| name == own);
        let arches = list(&condition["arches"]);
        list(&condition["caps"]).iter().all(capability)
            && (arches.is_empty() || arches.contains(&short.into()))
    };
    let empty = |condition: &Value| condition.as_object().is_none_or(serde_json::Map::is_empty);
    let fits =
        |rule: &&Value| holds(&rule["includes"]) && (empty(&rule["excludes"]) || !holds(&rule["excludes"]));
    let rules = list(&profile["syscalls"]).iter().filter(fits).map(rule).collect::<Vec<_>>();
    let map = list(&profile["archMap"]).into_iter().find(|entry| entry["architecture"] == native);
    let mut architectures = vec![json!(native)];
    architectures.extend(map.iter().flat_map(|entry| list(&entry["subArchitectures"])));
    Ok(
        json!({ "defaultAction": profile["defaultAction"], "architectures": architectures, "syscalls": rules }),
    )
}

/// One rule, with the fields that the runtime specification knows.
fn rule(rule: &Value) -> Value {
    let kept = ["names", "action", "errnoRet", "args"];
    let fields = kept.iter().filter(|key| !rule[**key].is_null() && rule[**key] != json!([]));
    fields.map(|key| (key.to_string(), rule[*key].clone())).collect::<serde_json::Map<_, _>>().into()
}

/// Lays down a root of static busybox.
pub fn populate(root: &Path) -> Result<()> {
    let busybox = ["/usr/bin/busybox", "/bin/busybox"].into_iter().find(|path| Path::new(path).exists());
    let busybox = busybox.ok_or("busybox is missing (package busybox-static)")?;
    for folder in ["bin", "dev", "etc", "proc", "root", "sys", "tmp", "usr", "var"] {
        fs::create_dir_all(root.join(folder))?;
        fs::set_permissions(root.join(folder), fs::Permissions::from_mode(0o755))?;
    }
    fs::copy(busybox, root.join("bin/busybox"))?;
    let list = Command::new(busybox).arg("--list").output()?.stdout;
    for applet in String::from_utf8_lossy(&list).lines().filter(|name| *name != "busybox") {
        symlink("busybox", root.join("bin").join(applet))?;
    }
    fs::write(root.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\n")?;
    Ok(fs::write(root.join("etc/group"), "root:x:0:\n")?)
}
