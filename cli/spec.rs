//! `vctx spec`: a starting config.json, as runc writes it: a shell on a terminal, few capabilities, a read-only root.

use std::fs::OpenOptions;
use std::io::{self, Write};

use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};
use nix::unistd::{getegid, geteuid};
use serde_json::{Value, json};

use crate::args::{Global, SPEC_VERSION, SpecArgs};
use crate::error::Error;
use crate::exit::ExitCode;

/// Write config.json into the bundle's folder; an existing one is never touched.
pub(crate) fn run(_: &Global, args: SpecArgs) -> Result<ExitCode, Error> {
    let path = args.bundle.join("config.json");
    let mut spec = default();
    if args.rootless {
        make_rootless(&mut spec, geteuid().as_raw(), getegid().as_raw());
    }
    if statfs("/sys/fs/cgroup").is_ok_and(|found| found.filesystem_type() == CGROUP2_SUPER_MAGIC) {
        add_cgroup_namespace(&mut spec);
    }
    let text = format!("{}\n", serde_json::to_string_pretty(&spec).map_err(Error::Json)?);
    let written = OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(&path)
        .and_then(|mut file| file.write_all(text.as_bytes()));
    match written {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(Error::SpecExists(path)),
        Err(source) => Err(Error::WriteSpec { path, source }),
    }
}

fn default() -> Value {
    let capabilities = json!(["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"]);
    json!({
        "ociVersion": SPEC_VERSION,
        "process": {
            "terminal": true,
            "user": { "uid": 0, "gid": 0 },
            "args": ["sh"],
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"],
            "cwd": "/",
            "capabilities": {
                "bounding": capabilities, "effective": capabilities, "permitted": capabilities,
            },
            "rlimits": [{ "type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024 }],
            "noNewPrivileges": true,
        },
        "root": { "path": "rootfs", "readonly": true },
        "hostname": "vctx",
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
                { "type": "pid" }, { "type": "network" }, { "type": "ipc" }, { "type": "uts" },
                { "type": "mount" },
            ],
            "maskedPaths": [
                "/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
                "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/sys/firmware", "/proc/scsi",
            ],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
        },
    })
}

fn mount(destination: &str, kind: &str, source: &str, options: &[&str]) -> Value {
    let mut mount = json!({ "destination": destination, "type": kind, "source": source });
    if !options.is_empty() {
        mount["options"] = json!(options);
    }
    mount
}

/// What an ordinary user cannot have goes: the network namespace (sysfs then belongs to the host's, so it is bound),
/// the group of the terminals, and limits that need control groups.
fn make_rootless(spec: &mut Value, uid: u32, gid: u32) {
    let linux = &mut spec["linux"];
    linux["uidMappings"] = json!([{ "containerID": 0, "hostID": uid, "size": 1 }]);
    linux["gidMappings"] = json!([{ "containerID": 0, "hostID": gid, "size": 1 }]);
    linux["namespaces"] = json!([
        { "type": "pid" }, { "type": "ipc" }, { "type": "uts" }, { "type": "mount" }, { "type": "user" },
    ]);
    if let Some(linux) = linux.as_object_mut() {
        linux.remove("resources");
    }
    for entry in spec["mounts"].as_array_mut().into_iter().flatten() {
        match entry["destination"].as_str() {
            Some("/sys") => {
                *entry = mount("/sys", "none", "/sys", &["rbind", "nosuid", "noexec", "nodev", "ro"])
            }
            Some("/dev/pts") => {
                if let Some(options) = entry["options"].as_array_mut() {
                    options.retain(|option| option != "gid=5");
                }
            }
            _ => {}
        }
    }
}

/// On pure cgroup v2 alone, as runc's has it: who adds one to what is written elsewhere must not get it twice.
fn add_cgroup_namespace(spec: &mut Value) {
    if let Some(namespaces) = spec["linux"]["namespaces"].as_array_mut() {
        namespaces.push(json!({ "type": "cgroup" }));
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::{Cli, Verb};

    fn spec(line: &[&str]) -> Result<ExitCode, Error> {
        let cli = Cli::try_parse_from(line).unwrap();
        let Verb::Spec(args) = cli.verb else { panic!("not spec") };
        run(&cli.global, *args)
    }

    #[test]
    fn the_specification_parses_and_is_never_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let bundle = folder.path().to_str().unwrap();
        spec(&["vctx", "spec", "--bundle", bundle]).unwrap();
        let parsed = oci_spec::runtime::Spec::load(folder.path().join("config.json")).unwrap();
        assert_eq!(parsed.process().as_ref().unwrap().terminal(), Some(true));
        assert!(matches!(spec(&["vctx", "spec", "-b", bundle]), Err(Error::SpecExists(_))));
        assert!(matches!(spec(&["vctx", "spec", "-b", "/nonexistent"]), Err(Error::WriteSpec { .. })));
    }

    #[test]
    fn a_rootless_specification_maps_the_caller_and_asks_for_nothing_of_roots() {
        let mut spec = default();
        make_rootless(&mut spec, 1000, 100);
        assert_eq!(spec["linux"]["uidMappings"][0]["hostID"], 1000);
        assert_eq!(spec["linux"]["gidMappings"][0]["hostID"], 100);
        assert!(spec["linux"].get("resources").is_none());
        let text = spec.to_string();
        assert!(!text.contains("gid=5") && !text.contains("\"network\"") && text.contains("rbind"));
        let _: oci_spec::runtime::Spec = serde_json::from_value(spec).unwrap();
    }
}
