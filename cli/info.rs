//! `vctx info`: what this machine offers, found by looking, and which package brings what is missing.
//!
//! Each check is a small function that returns a typed fact; printing comes last.

use std::fs;
use std::path::{Path, PathBuf};

use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};
use nix::unistd::{AccessFlags, User, access, getuid};
use serde::Serialize;

use vctx_context::landlock;
use vctx_context::probe::{self, Unprivileged};

use crate::args::{COMMIT, Global, InfoArgs, SPEC_VERSION};
use crate::error::Error;
use crate::exit::ExitCode;
use crate::output;

/// The oldest kernel that has every call vctx needs; mount_setattr came last.
const OLDEST_KERNEL: (u32, u32) = (5, 12);

/// Look, then print a table or JSON.
pub(crate) fn run(_: &Global, args: InfoArgs) -> Result<ExitCode, Error> {
    let info = Info::gather()?;
    if args.json {
        output::json(&info)?
    } else {
        output::table(&info.rows())?
    }
    Ok(ExitCode::SUCCESS)
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Info {
    version: &'static str,
    commit: &'static str,
    spec_version: &'static str,
    kernel: Kernel,
    cgroups: Cgroups,
    unprivileged: Unprivileged,
    sub_ids: SubIds,
    /// `None` where the kernel's file cannot be read, as without securityfs.
    seccomp_actions: Option<Vec<String>>,
    /// `yes`, or why a guest cannot be held by it.
    landlock: String,
    security_modules: Option<Vec<String>>,
    file_systems: Vec<FileSystem>,
    kvm: Kvm,
    programs: Vec<Program>,
}

impl Info {
    fn gather() -> Result<Info, Error> {
        Ok(Info {
            version: env!("CARGO_PKG_VERSION"),
            commit: COMMIT,
            spec_version: SPEC_VERSION,
            kernel: Kernel::look()?,
            cgroups: Cgroups::look()?,
            unprivileged: probe::unprivileged().map_err(Error::Probe)?,
            sub_ids: SubIds::look(),
            seccomp_actions: words("/proc/sys/kernel/seccomp/actions_avail"),
            landlock: landlock::handled().map_or_else(|error| error.to_string(), |_| "yes".into()),
            security_modules: words("/sys/kernel/security/lsm"),
            file_systems: FILE_SYSTEMS.iter().map(|name| FileSystem::look(name)).collect(),
            kvm: Kvm::look(),
            programs: PROGRAMS.iter().map(Program::look).collect(),
        })
    }

    fn rows(&self) -> Vec<Vec<String>> {
        let row = |name: &str, fact: String| vec![name.to_owned(), fact];
        let loaded: Vec<&str> =
            self.file_systems.iter().filter(|found| found.registered).map(|found| found.name).collect();
        let mut rows = vec![
            row("vctx", format!("{} (commit {}, spec {})", self.version, self.commit, self.spec_version)),
            row("kernel", self.kernel.describe()),
            row("idmapped mounts", yes_no(self.kernel.mount_setattr)),
            row("control groups", self.cgroups.describe()),
            row("controllers", list(Some(&self.cgroups.controllers))),
            row(
                "delegated to you",
                self.cgroups.delegated.as_ref().map_or("no".to_owned(), |path| path.display().to_string()),
            ),
            row("without root", describe_unprivileged(self.unprivileged).to_owned()),
            row("subordinate ids", self.sub_ids.describe()),
            row("seccomp actions", list(self.seccomp_actions.as_deref())),
            row("Landlock", self.landlock.clone()),
            row("security modules", list(self.security_modules.as_deref())),
            row("file systems", loaded.join(" ")),
            row("kvm", self.kvm.describe().to_owned()),
        ];
        for program in &self.programs {
            let fact = match &program.path {
                Some(path) => path.display().to_string(),
                None => {
                    format!("missing; Debian's package {} brings it ({})", program.package, program.purpose)
                }
            };
            rows.push(row(program.name, fact));
        }
        rows
    }
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Kernel {
    release: String,
    new_enough: bool,
    clone3: bool,
    openat2: bool,
    mount_setattr: bool,
    pidfd: bool,
}

impl Kernel {
    fn look() -> Result<Kernel, Error> {
        let release = read("/proc/sys/kernel/osrelease")?.trim().to_owned();
        Ok(Kernel {
            new_enough: version_of(&release).is_some_and(|version| version >= OLDEST_KERNEL),
            release,
            clone3: probe::has_syscall(libc::SYS_clone3),
            openat2: probe::has_syscall(libc::SYS_openat2),
            mount_setattr: probe::has_syscall(libc::SYS_mount_setattr),
            pidfd: probe::has_syscall(libc::SYS_pidfd_open),
        })
    }

    fn describe(&self) -> String {
        let calls = [
            ("clone3", self.clone3),
            ("openat2", self.openat2),
            ("mount_setattr", self.mount_setattr),
            ("pidfd_open", self.pidfd),
        ];
        let missing: Vec<&str> = calls.iter().filter(|(_, there)| !there).map(|(name, _)| *name).collect();
        match (self.new_enough, missing.as_slice()) {
            (true, []) => format!("{}, new enough", self.release),
            (false, []) => format!("{}, older than {}.{}", self.release, OLDEST_KERNEL.0, OLDEST_KERNEL.1),
            (_, missing) => format!("{}, refuses {}", self.release, missing.join(", ")),
        }
    }
}

/// The first two numbers of a release such as `6.1.0-18-amd64`.
fn version_of(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum CgroupMode {
    V2,
    Hybrid,
    V1,
    None,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Cgroups {
    mode: CgroupMode,
    controllers: Vec<String>,
    /// The caller's own v2 group, if the caller may make groups below it.
    delegated: Option<PathBuf>,
}

impl Cgroups {
    fn look() -> Result<Cgroups, Error> {
        let root = Path::new("/sys/fs/cgroup");
        let is_v2 =
            |path: &Path| statfs(path).is_ok_and(|found| found.filesystem_type() == CGROUP2_SUPER_MAGIC);
        let own = read("/proc/self/cgroup")?;
        let (mode, v2_root) = if is_v2(root) {
            (CgroupMode::V2, Some(root.to_owned()))
        } else if is_v2(&root.join("unified")) {
            (CgroupMode::Hybrid, Some(root.join("unified")))
        } else if own.lines().any(|line| !line.starts_with("0::")) {
            (CgroupMode::V1, None)
        } else {
            (CgroupMode::None, None)
        };
        let mut controllers: Vec<String> = own.lines().flat_map(v1_controllers).map(str::to_owned).collect();
        let mut delegated = None;
        if let Some(v2_root) = v2_root {
            controllers.extend(words(v2_root.join("cgroup.controllers")).unwrap_or_default());
            let path = own.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or_default();
            let group: PathBuf = v2_root.join(path).components().collect();
            let writable = |file: &Path| access(file, AccessFlags::W_OK).is_ok();
            delegated = (writable(&group) && writable(&group.join("cgroup.procs"))).then_some(group);
        }
        controllers.sort();
        Ok(Cgroups { mode, controllers, delegated })
    }

    fn describe(&self) -> String {
        match self.mode {
            CgroupMode::V2 => "v2",
            CgroupMode::Hybrid => "hybrid (v1 controllers beside a v2 tree)",
            CgroupMode::V1 => "v1",
            CgroupMode::None => "none mounted at /sys/fs/cgroup",
        }
        .to_owned()
    }
}

/// The controllers of a line `4:cpu,cpuacct:/path`; named hierarchies (`name=systemd`) and v2 have none.
fn v1_controllers(line: &str) -> impl Iterator<Item = &str> {
    let names = line.split(':').nth(1).unwrap_or_default();
    names.split(',').filter(|name| !name.is_empty() && !name.starts_with("name="))
}

fn describe_unprivileged(reached: Unprivileged) -> &'static str {
    match reached {
        Unprivileged::Nothing => "no: a user namespace is refused (see user.max_user_namespaces, AppArmor)",
        Unprivileged::Namespace => "no: ids cannot be mapped in a user namespace",
        Unprivileged::Mapping => "no: nothing can be mounted in a user namespace",
        Unprivileged::Tmpfs => "partly: user namespace and tmpfs, but no overlay in it",
        Unprivileged::Overlay => "yes: user namespace, tmpfs and overlay were tried and work",
    }
}

/// Ranges of ids that the user may map besides the own one.
#[derive(Debug, Serialize)]
struct SubIds {
    user: String,
    uids: u64,
    gids: u64,
}

impl SubIds {
    fn look() -> SubIds {
        let uid = getuid();
        let name = User::from_uid(uid).ok().flatten().map_or_else(|| uid.to_string(), |user| user.name);
        let count =
            |file: &str| sub_id_count(&fs::read_to_string(file).unwrap_or_default(), &name, &uid.to_string());
        SubIds { uids: count("/etc/subuid"), gids: count("/etc/subgid"), user: name }
    }

    fn describe(&self) -> String {
        match (self.uids, self.gids) {
            (0, 0) => format!("none for {}", self.user),
            (uids, gids) => format!("{uids} user ids and {gids} group ids for {}", self.user),
        }
    }
}

/// How many ids the lines `USER:FIRST:COUNT` of subuid(5) give a user, named or numbered.
fn sub_id_count(file: &str, name: &str, uid: &str) -> u64 {
    file.lines()
        .filter_map(|line| {
            let mut fields = line.split(':');
            let owner = fields.next()?;
            (owner == name || owner == uid).then(|| fields.nth(1)?.trim().parse::<u64>().ok()).flatten()
        })
        .sum()
}

const FILE_SYSTEMS: [&str; 8] = ["overlay", "btrfs", "erofs", "squashfs", "ext4", "xfs", "fuse", "virtiofs"];

#[derive(Debug, Serialize)]
struct FileSystem {
    name: &'static str,
    /// In the kernel now; a module that is not loaded yet may bring it later.
    registered: bool,
}

impl FileSystem {
    fn look(name: &'static str) -> FileSystem {
        let registered = words("/proc/filesystems").unwrap_or_default().iter().any(|word| word == name);
        FileSystem { name, registered }
    }
}

#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "lowercase")]
enum Kvm {
    Absent,
    Refused,
    Opens,
}

impl Kvm {
    fn look() -> Kvm {
        let device = Path::new("/dev/kvm");
        if !device.exists() {
            Kvm::Absent
        } else if fs::OpenOptions::new().read(true).write(true).open(device).is_ok() {
            Kvm::Opens
        } else {
            Kvm::Refused
        }
    }

    fn describe(self) -> &'static str {
        match self {
            Kvm::Absent => "no /dev/kvm",
            Kvm::Refused => "/dev/kvm is there, but may not be opened",
            Kvm::Opens => "/dev/kvm opens, which does not yet prove that a guest runs",
        }
    }
}

/// A program that a part of vctx calls.
struct Wanted {
    name: &'static str,
    package: &'static str,
    purpose: &'static str,
}

#[cfg(target_arch = "aarch64")]
const QEMU: Wanted = Wanted { name: "qemu-system-aarch64", package: "qemu-system-arm", purpose: "domains" };
#[cfg(not(target_arch = "aarch64"))]
const QEMU: Wanted = Wanted { name: "qemu-system-x86_64", package: "qemu-system-x86", purpose: "domains" };

const PROGRAMS: [Wanted; 7] = [
    Wanted { name: "newuidmap", package: "uidmap", purpose: "ranges of user ids without root" },
    Wanted { name: "newgidmap", package: "uidmap", purpose: "ranges of group ids without root" },
    Wanted { name: "criu", package: "criu", purpose: "checkpoint and restore" },
    Wanted { name: "nft", package: "nftables", purpose: "networks with address translation" },
    Wanted { name: "pasta", package: "passt", purpose: "networks without root" },
    Wanted { name: "slirp4netns", package: "slirp4netns", purpose: "the same, where pasta is missing" },
    QEMU,
];

#[derive(Debug, Serialize)]
struct Program {
    name: &'static str,
    package: &'static str,
    purpose: &'static str,
    path: Option<PathBuf>,
}

impl Program {
    fn look(wanted: &Wanted) -> Program {
        // Administrators' programs are not on every user's PATH.
        let path = std::env::var_os("PATH").unwrap_or_default();
        let folders = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]);
        let found = folders
            .filter(|folder| folder.is_absolute())
            .map(|folder| folder.join(wanted.name))
            .find(|file| file.is_file() && access(file, AccessFlags::X_OK).is_ok());
        Program { name: wanted.name, package: wanted.package, purpose: wanted.purpose, path: found }
    }
}

fn read(path: impl AsRef<Path>) -> Result<String, Error> {
    let path = path.as_ref();
    fs::read_to_string(path).map_err(|source| Error::ReadFact { path: path.to_owned(), source })
}

/// The words of a file, split at spaces and commas; `None` if it cannot be read.
fn words(path: impl AsRef<Path>) -> Option<Vec<String>> {
    let text = fs::read_to_string(path).ok()?;
    let words = text.split(|c: char| c.is_whitespace() || c == ',').filter(|word| !word.is_empty());
    Some(words.map(str::to_owned).collect())
}

fn list(words: Option<&[String]>) -> String {
    match words {
        None => "unknown: the kernel's file cannot be read".to_owned(),
        Some([]) => "none".to_owned(),
        Some(words) => words.join(" "),
    }
}

fn yes_no(yes: bool) -> String {
    if yes { "yes" } else { "no" }.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_compare_as_numbers() {
        assert_eq!(version_of("6.1.0-18-amd64"), Some((6, 1)));
        assert!(version_of("5.9.1") < Some(OLDEST_KERNEL));
        assert_eq!(version_of("garbage"), None);
    }

    #[test]
    fn named_hierarchies_are_no_controllers() {
        assert_eq!(v1_controllers("4:cpu,cpuacct:/x").collect::<Vec<_>>(), ["cpu", "cpuacct"]);
        assert_eq!(v1_controllers("1:name=systemd:/x").count(), 0);
        assert_eq!(v1_controllers("0::/x").count(), 0);
    }

    #[test]
    fn subordinate_ids_are_summed_by_name_and_number() {
        let file = "web:100000:65536\n1000:300000:10\nother:1:5\nbroken\nweb:x:y\n";
        assert_eq!(sub_id_count(file, "web", "1000"), 65546);
        assert_eq!(sub_id_count(file, "none", "7"), 0);
    }

    #[test]
    fn a_call_that_no_kernel_has_is_reported_as_missing() {
        assert!(!probe::has_syscall(100_000));
        assert!(probe::has_syscall(libc::SYS_pidfd_open));
    }
}
