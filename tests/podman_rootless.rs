//! Podman as an ordinary user, whose /etc/subuid is its own, and as root with mapped users that Podman chooses.

use crate::harness::engine::{IMAGE, podman, wait_turn};
use crate::harness::{Case, Need, at_end, case, command, rootfs, runtime, which};
use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

pub fn cases() -> Vec<Case> {
    let cases = vec![
        case!(an_ordinary_user_runs_and_executes),
        case!(an_ordinary_user_keeps_its_id),
        case!(an_ordinary_user_has_volumes),
        case!(users_are_mapped_as_podman_chooses),
    ];
    let needs = [Need::Vctx, Need::Program("newuidmap"), Need::Program("setpriv"), Need::Program("unshare")];
    cases.into_iter().map(|case| needs.into_iter().fold(case, Case::needs)).collect()
}

const USER: u32 = 65534;

/// `program` with /etc/subuid and /etc/subgid of `line`, in a mount namespace that ends with it.
fn with_ids(folder: &Path, line: &str, program: &Command) -> Command {
    let ids = folder.join("subids");
    fs::write(&ids, line).unwrap();
    let script = format!(
        "for file in /etc/subuid /etc/subgid; do test -e $file || touch $file; done; mount --bind {0} /etc/subuid && mount --bind {0} /etc/subgid && exec \"$@\"",
        ids.display()
    );
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", &script, "sh"]).arg(program.get_program()).args(program.get_args());
    for (key, value) in program.get_envs() {
        command.env(key, value.unwrap_or_default());
    }
    command
}

/// Podman of the user `nobody`, with an image.
fn nobody(args: &[&str]) -> Command {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    fn call(folder: &Path, args: &[&str]) -> Command {
        let mut command = Command::new("setpriv");
        let ids =
            [format!("--reuid={USER}"), format!("--regid={USER}"), "--clear-groups".into(), "env".into()];
        // Where we are, another user may not be let in.
        command.args(ids).args(["-C", "/", "-i", "PATH=/usr/bin:/bin:/usr/sbin:/sbin"]);
        for (name, file) in [
            ("HOME", "home"),
            ("XDG_RUNTIME_DIR", "run"),
            ("CONTAINERS_CONF", "containers.conf"),
            ("CONTAINERS_STORAGE_CONF", "storage.conf"),
        ] {
            command.arg(format!("{name}={}", folder.join(file).display()));
        }
        command.arg(which("podman").unwrap()).arg("--root").arg(folder.join("root")).arg("--runroot");
        command.arg(folder.join("run/storage")).arg("--runtime").arg(folder.join("vctx")).args(args);
        with_ids(folder, "nobody:300000:65536\n", &command)
    }
    let folder = FOLDER.get_or_init(|| {
        let folder = rootfs::workspace().join("podman-rootless");
        for part in ["", "home", "run", "root"] {
            fs::create_dir(folder.join(part)).unwrap();
            chown(folder.join(part), Some(USER), Some(USER)).unwrap();
        }
        fs::set_permissions(folder.join("run"), fs::Permissions::from_mode(0o700)).unwrap();
        fs::copy(runtime(), folder.join("vctx")).unwrap();
        let containers = "[containers]\ndefault_ulimits = []\nnetns = \"none\"\n\
                          [engine]\ncgroup_manager = \"cgroupfs\"\nevents_logger = \"file\"\nlock_type = \"file\"\n";
        fs::write(folder.join("containers.conf"), containers).unwrap();
        fs::write(folder.join("storage.conf"), "[storage]\ndriver = \"vfs\"\n").unwrap();
        command::run(&mut call(&folder, &["import", rootfs::archive().to_str().unwrap(), IMAGE])).ok();
        at_end(|| {
            if let Some(folder) = FOLDER.get() {
                command::quietly(&mut call(folder, &["rm", "--force", "--all", "--time", "0"]));
                // Ends the process that holds the user namespace.
                command::quietly(&mut call(folder, &["system", "migrate"]));
            }
        });
        folder
    });
    call(folder, args)
}

#[track_caller]
fn says(args: &[&str]) -> String {
    command::run(&mut nobody(args)).ok().line().to_string()
}

fn an_ordinary_user_runs_and_executes() {
    let _turn = wait_turn();
    let map = "awk '{print $1, $2, $3}' /proc/self/uid_map";
    assert_eq!(says(&["run", "--rm", IMAGE, "sh", "-c", map]), format!("0 {USER} 1\n1 300000 65536"));
    command::run(&mut nobody(&["run", "--rm", IMAGE, "sh", "-c", "exit 7"])).exits(7);
    says(&["run", "-d", "--name", "one", IMAGE, "sleep", "1000"]);
    assert_eq!(says(&["exec", "one", "id", "-u"]), "0");
    assert_eq!(says(&["exec", "--user", "7:8", "one", "sh", "-c", "id -u; id -g"]), "7\n8");
    let shared = "grep -c '' /proc/1/cmdline; tr '\\0' ' ' < /proc/1/cmdline";
    assert!(
        says(&["run", "--rm", "--pid", "container:one", IMAGE, "sh", "-c", shared]).contains("sleep 1000")
    );
    says(&["rm", "--force", "--time", "0", "one"]);
}

fn an_ordinary_user_keeps_its_id() {
    let _turn = wait_turn();
    says(&["run", "-d", "--name", "keeps", "--userns", "keep-id", IMAGE, "sleep", "1000"]);
    assert_eq!(says(&["exec", "keeps", "id", "-u"]), USER.to_string());
    says(&["rm", "--force", "--time", "0", "keeps"]);
}

fn an_ordinary_user_has_volumes() {
    let _turn = wait_turn();
    let script = "echo kept > /data/file; stat -c %u /data/file";
    assert_eq!(says(&["run", "--rm", "-v", "named:/data", IMAGE, "sh", "-c", script]), "0");
    assert_eq!(says(&["run", "--rm", "-v", "named:/data:ro", IMAGE, "cat", "/data/file"]), "kept");
}

fn users_are_mapped_as_podman_chooses() {
    let podman = podman();
    let folder = rootfs::workspace().join("podman-auto");
    fs::create_dir_all(&folder).unwrap();
    let script =
        "id -u; awk '{print ($2 >= 400000)}' /proc/self/uid_map; touch /tmp/mine; stat -c %u /tmp/mine";
    let command = podman.command(&["run", "--rm", "--userns", "auto:size=1024", IMAGE, "sh", "-c", script]);
    let output = command::run(&mut with_ids(&folder, "containers:400000:65536\n", &command));
    assert_eq!(output.ok().line(), "0\n1\n0");
}
